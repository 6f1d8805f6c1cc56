"""The thread that writes to the store: it takes all that waits, and writes it in one transaction (DESIGN §9.2, PROTOCOL §4 column DF).

Theory of operation: what is to be written goes through one queue, so it is written in the order in which it was given. A batch costs both threads much, and one more in it little: so
the thread is woken for those who wait when the event loop has nothing else to do, and so nobody can join them; or, on a busy loop, when the first of them has waited for 8 ms. The tasks that
wait are woken with one call into trio a batch. What is `put` does not wake the thread, unless it sleeps for long: it goes in with the next commit, or 50 ms later, since each wake-up costs
both threads their turn. Where nothing comes, the thread does the store's upkeep.

When a batch cannot be written, those who wait for it hear so, and what they gave is never written; what was `put` stays, in order, and is tried again each half
second, and whenever somebody wants to commit; where there is no space left, upkeep is to make room before, and bodies that do
not fit even so need not be written (weights.py), so that they keep no record behind them out. Where a single write is at fault (a bug, a number that no column takes), the others are written without it.

Invariants: `put` never waits, and what it was given is written once and whole (but for a body for want of space), in order, as long as the process lives, unless it was counted as dropped:
beyond `max_waiting` octets, and for what can never be written. `commit` returns only when all is in the store. Nothing is written after `commit` has said
that it was not. A task that is cancelled is woken at once, and what it gave is not written, unless that has begun: then it is in front of all that is given from then on.
A write that does not return is trouble too, once it has taken `patience` and somebody waits, or did: the thread cannot say so, but `look` does.
What is written, and when, does not belong here (record/recorder.py), nor how (backend.py), nor what waits (waiting.py).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import trio

from relayproxy.record.store.interface import STUCK, RecordError
from relayproxy.record.store.waiting import Commit, Put, remove, wake
from relayproxy.record.store.weights import lighter, octets_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.store.interface import Backend, Write
    from relayproxy.record.store.waiting import Item

#: Octets that may wait behind, in memory, for a store that cannot be written.
MAX_WAITING: Final = 64 << 20
#: Writes, and octets, of one batch: so many go in together also when the store was away for long, and behind a slow line.
_BATCH: Final = 256
_BATCH_OCTETS: Final = 1 << 20
#: Seconds that those who wait are waited for by others, on a loop that always has something else to do.
_GATHER: Final = 0.008
#: Seconds between tries to write what could not be written.
_RETRY: Final = 0.5
#: Seconds that room is made for, at each such try.
_MAKE_ROOM: Final = 0.25
#: Seconds that what was put may wait for a commit to go in with.
_LAG: Final = 0.05
#: Seconds without a write until upkeep begins, and between pieces of it where writes come all the time.
_IDLE: Final = 0.25
_SELDOM: Final = 0.1
#: Seconds between looks whether there is anything for upkeep, and after one that failed.
_LOOK: Final = 10.0


#: "writing": nothing can be written now; "upkeep": index or retention fails; "one": a write that was put is at fault itself, and never will be in the store.
Fails = Literal["writing", "upkeep", "one"]
#: Hears what fails and why; None: it goes on.
Alarm = Callable[[Fails, "RecordError | None"], None]


class _Idling(trio.abc.Instrument):
    """Calls each time that the event loop has run all that could run: with whether there is nothing left."""

    def __init__(self, turn: Callable[[bool], None]) -> None:
        self._turn = turn

    def before_io_wait(self, timeout: float) -> None:
        self._turn(timeout > 0)


class Writer:
    """A thread that writes to a store. `put` and `commit` are for the event loop's thread, `close` for when it has nothing more to write."""

    def __init__(
        self,
        backend: Backend,
        *,
        alarm: Alarm | None = None,
        max_waiting: int = MAX_WAITING,
        trouble: RecordError | None = None,
        patience: float = STUCK,
    ) -> None:
        """`alarm` hears what fails, once, and when it goes on; from any thread. `trouble`: why nothing can be written to begin with."""
        self._backend = backend
        self._alarm = alarm or (lambda _what, _error: None)
        self._max_waiting = max_waiting
        self._arrived: deque[Item] = deque()
        self._bell = threading.Lock()  # held, until the loop's thread rings it
        self._bell.acquire()
        self._dozing = False  # it sleeps for long
        # Written by the loop's thread.
        self._put_octets = 0
        self._refused = 0
        self._loop: trio.lowlevel.TrioToken | None = None  # the one that is looked at
        self._ring_by = math.inf  # for those who wait and whom the thread was not woken for
        self._closing_by: float | None = None
        self._patient = patience
        self._awaited = 0  # commits
        self._left: float | None = None  # when the thread began that for which somebody did not wait any more
        self._stuck: RecordError | None = None
        # Written by the writer's thread.
        self._since = math.inf  # when it began what it does
        self._waiting: deque[Item] = deque()
        self._written_octets = 0
        self._spoilt = 0
        self._is_whole = True  # no body was left out that might have waited for space
        self._trouble = trouble
        self._neglect: RecordError | None = None
        self._next_try = 0.0
        self._next_upkeep = 0.0
        self._last_upkeep = 0.0
        self._last_write = 0.0
        self._more = True  # for upkeep to do
        if trouble is not None:
            self._tell("writing", trouble)
        self._thread = threading.Thread(target=self._run, name="relayproxy-store", daemon=True)
        self._thread.start()

    # The event loop's side.

    @property
    def trouble(self) -> RecordError | None:
        """What the last try to write said, or that one does not return; None: it was written."""
        if self._stuck is not None:
            self.look()
        return self._stuck or self._trouble

    def look(self) -> None:
        """Called now and then: a disk that hangs fails nothing, and is trouble all the same."""
        since = self._since
        stuck = time.monotonic() - since > self._patient
        stuck = stuck and (self._awaited > 0 or self._left == since or self._stuck is not None)
        if stuck is (self._stuck is None):
            self._stuck = RecordError(f"the store has not answered for {self._patient:g} s") if stuck else None
            if self._trouble is None:  # from a thread: whoever hears it may have to wait for the same disk
                threading.Thread(target=self._tell, args=("writing", self._stuck), daemon=True).start()

    @property
    def dropped(self) -> int:
        """How many writes that were put will never be in the store."""
        return self._refused + self._spoilt

    def put(self, write: Write) -> None:
        """Have it written, behind what was given before. The files of its bodies are the writer's from here on."""
        item = Put(write)
        if self._closing_by is not None or self._put_octets - self._written_octets + item.octets > self._max_waiting:
            if not self._refused:
                self._tell("one", RecordError(f"more than {self._max_waiting} octets wait for the store"))
            self._refused += 1
            item.writes, item.octets = (), 0
            if not item.files:
                return
        self._put_octets += item.octets
        self._arrived.append(item)
        if self._dozing:
            self._ring()

    async def commit(self, writes: Sequence[Write], *, durable: bool = False) -> None:
        """Return when they are in the store, all in one transaction; `durable`: they survive power loss. Raises RecordError.

        It waits for as long as a write takes: how long that may be is the caller's to say. The files of their bodies stay the caller's: the store has links of its own to them.
        """
        if self._closing_by is not None:
            raise RecordError("the store is closed")
        item = Commit(writes, durable=durable)
        self._arrived.append(item)
        if item.token is not self._loop:
            self._loop, self._ring_by = item.token, math.inf
            trio.lowlevel.add_instrument(_Idling(self._turn))
        if self._ring_by == math.inf:
            self._ring_by = time.monotonic() + _GATHER

        def abort(_: object) -> trio.lowlevel.Abort:
            item.take_back()
            self._left = self._since
            return trio.lowlevel.Abort.SUCCEEDED

        self._awaited += 1
        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._awaited -= 1

    def _turn(self, idle: bool) -> None:
        if self._ring_by < math.inf and (idle or time.monotonic() >= self._ring_by):
            self._ring_by = math.inf
            self._ring()

    def _ring(self) -> None:
        self._dozing = False
        if self._bell.locked():  # it may still ring from the time before
            self._bell.release()

    def close(self, timeout: float) -> bool:
        """Write what waits, and end; False where it could not all be written within so many seconds. Blocks.

        Where the store cannot be written, it is tried once more.
        """
        self._closing_by = time.monotonic() + timeout
        self._ring()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self._put_octets == self._written_octets and self._is_whole

    # The thread's side.

    def _run(self) -> None:
        try:
            while self._going():
                pass
        finally:
            self._refuse(RecordError("the store is closed"))
            self._backend.close()

    def _going(self) -> bool:
        try:
            return self._step()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave tasks waiting for ever
            self._fail(_fault(error))
            return self._closing_by is None

    def _step(self) -> bool:
        """Wait for something to do, and do it; False when it is time to end."""
        self._since = math.inf
        self._take(self._patience())
        closing_by = self._closing_by
        now = self._since = time.monotonic()
        again = self._trouble is not None and now >= self._next_try
        if again:
            self._next_try = now + _RETRY
            if self._trouble is not None and self._trouble.full and closing_by is None:
                self._make_room()
        if self._waiting and (closing_by is not None or self._trouble is None or again or self._is_awaited()):
            self._write()
            self._keep_up()
        elif again:
            self._probe()
        elif self._trouble is None and closing_by is None and now >= self._next_upkeep:
            self._upkeep(busy=False)
        if closing_by is None:
            return True
        return bool(self._waiting) and self._trouble is None and time.monotonic() < closing_by

    def _make_room(self) -> None:
        """For a while, as much as upkeep can: nothing else can be done, but those who wait hear so in time."""
        until = time.monotonic() + _MAKE_ROOM
        self._upkeep(busy=True)
        while self._more and time.monotonic() < until:
            self._upkeep(busy=True)

    def _patience(self) -> float:
        """Seconds to wait for something to come before there is something else to do."""
        if self._trouble is not None:
            due = self._next_try
        elif self._waiting:
            return 0
        else:
            due = self._next_upkeep
        patience = max(0.0, due - time.monotonic())
        return min(patience, _LAG) if due - self._last_write <= _IDLE else patience

    def _take(self, timeout: float) -> None:
        """Take all that has come, after that time, or when the bell rings."""
        if timeout and self._closing_by is None:
            self._dozing = timeout > _LAG
            # Asked again: it may have come before it could be seen that we doze.
            self._bell.acquire(timeout=min(timeout, _LAG) if self._arrived else timeout)
            self._dozing = False
        while self._arrived:
            self._waiting.append(self._arrived.popleft())

    def _is_awaited(self) -> bool:
        return any(isinstance(item, Commit) for item in self._waiting)

    def _write(self) -> None:
        """Write a batch; those who wait hear how it went."""
        batch = self._batch()
        writes = [write for item in batch for write in item.writes]
        try:
            if writes:
                self._backend.write(writes, durable=any(item.durable for item in batch))
        except RecordError as error:
            if error.full and self._lighten(batch):
                self._write()
            else:
                self._fail(error)
            return
        except Exception:  # noqa: BLE001 - one of them is at fault; which, and why, is seen when they are written one by one
            if not self._one_by_one(batch):
                return
        else:
            self._done(batch)
        self._recover()
        self._last_write = time.monotonic()

    def _lighten(self, batch: list[Item]) -> bool:
        """Let bodies go that do not fit, where room was made in vain, or there is no other try; whether there were any."""
        at_last = self._closing_by is not None
        if self._trouble is None and not at_last:
            return False
        lightened = False
        for item in batch:
            if (
                isinstance(item, Put)
                and item.writes
                and (light := lighter(item.writes[0], at_last=at_last)) is not None
            ):
                self._written_octets += item.octets - octets_of(light)
                item.writes, item.octets = (light,), octets_of(light)
                remove(item.files)
                lightened = True
        self._is_whole = self._is_whole and not (lightened and at_last)
        return lightened

    def _keep_up(self) -> None:
        """What was written may be upkeep's to look at; where things are written all the time, it has to be in between."""
        if self._trouble is None and self._neglect is None:
            if self._more and self._last_write - self._last_upkeep >= _SELDOM:
                self._upkeep(busy=True)
            self._more, self._next_upkeep = True, self._last_write + _IDLE

    def _batch(self) -> list[Item]:
        batch: list[Item] = []
        count = octets = 0
        for item in self._waiting:
            batch.append(item)
            count += len(item.writes)
            octets += item.octets if isinstance(item, Put) else sum([octets_of(write) for write in item.writes])
            if count >= _BATCH or octets >= _BATCH_OCTETS:
                break
        return batch

    def _one_by_one(self, batch: list[Item]) -> bool:
        """Write what can be written; False where the store fails on the way."""
        for item in batch:
            try:
                self._backend.write(item.writes, durable=item.durable)
            except RecordError as error:
                self._fail(error)
                return False
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must not suffer from it
                if isinstance(item, Commit):
                    item.error = _fault(error)
                else:
                    self._spoilt += 1
                    self._tell("one", _fault(error))
            self._done([item])
        return True

    def _done(self, items: list[Item]) -> None:
        """The first that wait are in the store, or never will be."""
        commits: list[Commit] = []
        for item in items:
            self._waiting.popleft()
            if isinstance(item, Commit):
                commits.append(item)
                continue
            self._written_octets += item.octets
            remove(item.files)
        wake(commits)

    def _fail(self, error: RecordError) -> None:
        """Nothing can be written now: what was put stays, who waits hears it."""
        before, self._trouble = self._trouble, error
        self._refuse(error)
        if before is None:
            self._next_try = time.monotonic() + _RETRY
            self._tell("writing", error)

    def _refuse(self, error: RecordError) -> None:
        commits = [item for item in self._waiting if isinstance(item, Commit)]
        if commits:
            self._waiting = deque([item for item in self._waiting if isinstance(item, Put)])
        for commit in commits:
            commit.error = RecordError(
                error.what, full=error.full
            )  # each its own: a traceback is added where it is raised
        wake(commits)

    def _recover(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._tell("writing", None)

    def _probe(self) -> None:
        try:
            self._backend.probe()
        except RecordError as error:
            self._fail(error)
        else:
            self._recover()

    def _upkeep(self, *, busy: bool) -> None:
        now = self._last_upkeep = time.monotonic()
        try:
            self._more = self._backend.upkeep(busy=busy)
        except Exception as error:  # noqa: BLE001 - mail is recorded all the same
            self._more = False
            if self._neglect is None:
                self._neglect = error if isinstance(error, RecordError) else _fault(error)
                self._tell("upkeep", self._neglect)
        else:
            if self._neglect is not None:
                self._neglect = None
                self._tell("upkeep", None)
        self._next_upkeep = now if self._more else now + _LOOK

    def _tell(self, what: Fails, error: RecordError | None) -> None:
        with suppress(Exception):  # whoever hears it must not stop what is written
            self._alarm(what, error)


def _fault(error: Exception) -> RecordError:
    """Its message is left out: it may hold what a client sent."""
    return RecordError(f"a fault of relayproxy's own: {type(error).__name__}")
