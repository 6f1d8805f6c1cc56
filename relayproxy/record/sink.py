"""Where log lines go: a queue, one thread that writes it, and the file or stream behind it.

Theory of operation: `put` appends to a deque and wakes the thread only where it sleeps without a deadline, so that a busy relay pays
less than a microsecond a line and a hundred wake-ups a second at most. The thread joins what waits and writes it; what the
system did not take stays, to the octet, and is tried again. Two threads share the deque and plain counters, each
counter written by one of them only. The only lock is that of the event that wakes, and nobody writes or waits with it held.

Invariants: `put` never waits. A line that must be kept is written once and whole, in order, as long as the process lives, unless `max_kept` octets wait; any other
is dropped while `max_waiting` wait. What is dropped is counted. `healthy` tells when the queue cannot be written (DESIGN §7); it recovers by itself.
What lines say does not belong here (log.py): the sink's own are made by `tell`.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Seconds that a line may wait before the log counts as stuck (DESIGN §7).
PATIENCE: Final = 10.0
#: Octets of diagnostics that may wait; more are dropped.
MAX_WAITING: Final = 1 << 20
#: Octets of all lines that may wait where they are not all there is of the mail: a store has it, too.
MAX_KEPT: Final = 16 << 20
#: Octets that are written at once.
_BATCH: Final = 1 << 18
#: Seconds that lines gather behind a batch.
_GATHER: Final = 0.01
#: Seconds between tries to write what could not be written.
_RETRY: Final = 0.1


class Target(Protocol):
    """What is written to. All of it is called by the sink's thread alone."""

    def write(self, data: bytes, /) -> int | None:
        """Write some of it; how many octets. None or 0: none now, try again. Raises OSError."""

    def reopen(self) -> bool:
        """Open it anew, and only then close the old one; False where there is nothing to open. Raises OSError."""

    def close(self) -> None: ...


class StreamTarget:
    """A descriptor that is somebody else's: standard output. It stays open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes, /) -> int:
        return _write(self._descriptor, data)

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass


class FileTarget:
    """A file, appended to; readable by its owner alone, since it says who wrote to whom."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = self._open()

    def _open(self) -> int:
        # O_NONBLOCK: opening a FIFO that nobody reads fails instead of waiting for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(self._path, flags, 0o600)

    def write(self, data: bytes, /) -> int:
        return _write(self._descriptor, data)

    def reopen(self) -> bool:
        new = self._open()
        old, self._descriptor = self._descriptor, new
        os.close(old)
        return True

    def close(self) -> None:
        os.close(self._descriptor)


def _write(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        # Whoever shares our standard output may have made it non-blocking. To wait is this thread's business.
        waiting = select.poll()
        waiting.register(descriptor, select.POLLOUT)
        waiting.poll(_RETRY * 1000)
        return 0


class LogSink:
    """A queue of lines and the thread that writes them. `put`, `reopen` and `close` are for one thread: the event loop's."""

    def __init__(
        self,
        target: Target,
        *,
        tell_dropped: Callable[[int], bytes],
        tell_reopened: Callable[[str | None], bytes],
        alarm: Callable[[str | None], None] = lambda _: None,
        max_waiting: int = MAX_WAITING,
        max_kept: float = math.inf,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell_dropped` makes the line that says how many were dropped, `tell_reopened` the one that says so, or why not.

        `alarm` hears once, from another thread, why nothing is written, and None when all is written again.
        """
        self._target = target
        self._tell_dropped = tell_dropped
        self._tell_reopened = tell_reopened
        self._alarm = alarm
        self._max_waiting = max_waiting
        self._max_kept = max_kept
        self._patience = patience
        self._clock = clock
        # Written by put's thread; the other only reads, but for taking from the deque's left end, which is atomic.
        self._lines: deque[tuple[float, bytes]] = deque()
        self._put = 0
        self._dropped = 0
        self._reopen = 0
        self._stuck = False
        self._closing_by: float | None = None
        # Written by the sink's thread.
        self._taken = 0
        self._told = 0
        self._reopened = 0
        self._since: float | None = None
        self._failing = False
        self._asleep = False
        self._batch = b""  # being written: from `_offset` on it is not yet
        self._offset = 0
        self._taking = 0  # octets of it that came through put
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relayproxy-log", daemon=True)
        self._thread.start()

    # The event loop's side.

    def put(self, line: bytes) -> None:
        """Have a line written, its newline included; it may be dropped."""
        if self._put - self._taken + len(line) > self._max_waiting:
            self._dropped += 1
        else:
            self.keep(line)

    def keep(self, line: bytes) -> None:
        """`put`, of a line that is not dropped before `max_kept` octets wait."""
        if self._put != self._taken and self._put - self._taken + len(line) > self._max_kept:
            self._dropped += 1
            return
        self._put += len(line)
        self._lines.append((self._clock(), line))
        if self._asleep:
            self._asleep = False
            self._wake.set()

    @property
    def healthy(self) -> bool:
        """Whether lines get where they belong."""
        if self._failing:
            return False
        since = self._since
        if since is None and self._lines:
            try:  # not `suppress`: this is asked before each command of a busy relay, whose lines nearly always wait
                since = self._lines[0][0]
            except IndexError:  # the thread took it just now
                return True
        return since is None or self._clock() - since <= self._patience

    def look(self) -> None:
        """Called now and then: that a write does not return is told from here, since the sink's thread waits with it."""
        stuck = not self._failing and not self.healthy
        if stuck is not self._stuck:
            self._stuck = stuck
            if not self._failing:
                why = f"lines have waited for more than {self._patience:g} s" if stuck else None
                # Standard error may be as stuck as the log is.
                threading.Thread(target=self._alarm, args=(why,), name="relayproxy-alarm", daemon=True).start()

    def reopen(self) -> None:
        """Open the file anew (logrotate, SIGHUP); what waits goes to the new one."""
        self._reopen += 1
        self._wake.set()

    def close(self, timeout: float) -> bool:
        """Write what waits, and end; False where it could not all be written within so many seconds, or fails.

        A target that is slow is waited for, one that fails is tried once more. Blocks: call it when the loop has ended.
        """
        self._closing_by = self._clock() + timeout
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self._put == self._taken and not self._failing

    # The thread's side.

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException:
            self._failing = True  # a fault of ours: nothing is written any more, so nothing may pass
            raise
        finally:
            self._target.close()

    def _step(self) -> bool:
        """Sleep, gather, write; False when it is time to end."""
        if self._idle():
            if self._closing_by is not None:
                return False
            self._asleep = True
            if self._idle():  # asked again: `put` may have come before it could see that we sleep
                self._wake.wait()
            self._wake.clear()
            self._asleep = False
        if self._reopened != self._reopen:
            self._open_anew()
        if not self._batch:
            self._fill()
        closing_by = self._closing_by  # as of before the try: one that fails while `close` is called is not the last
        if not self._write_batch():
            return closing_by is None or (not self._failing and self._clock() < closing_by)
        if self._closing_by is None:
            time.sleep(_GATHER)
        return True

    def _idle(self) -> bool:
        return not (self._lines or self._batch or self._dropped != self._told or self._reopened != self._reopen)

    def _fill(self) -> None:
        taken: list[bytes] = []
        if self._lines:
            self._since = self._lines[0][0]  # before any is taken: `healthy` must not look into a gap
        size = 0
        while self._lines and size < _BATCH:
            _, line = self._lines.popleft()
            taken.append(line)
            size += len(line)
        self._taking = size
        dropped = self._dropped
        if dropped != self._told:
            taken.append(self._tell_dropped(dropped - self._told))
            self._told = dropped
        self._batch = b"".join(taken)
        self._offset = 0

    def _write_batch(self) -> bool:
        """Write what can be written now; whether that was all."""
        while self._offset < len(self._batch):
            try:
                written = self._target.write(self._batch[self._offset :] if self._offset else self._batch)
            except (OSError, ValueError) as error:  # ValueError: a file object that was closed
                if not self._failing:
                    self._failing = True
                    self._alarm(getattr(error, "strerror", None) or str(error))
                self._pause(_RETRY)
                return False
            if not written:
                self._pause(_GATHER)
                return False
            self._offset += written
        self._batch = b""
        self._taken += self._taking
        self._taking = 0
        if self._failing:
            self._failing = False
            self._alarm(None)
        self._since = self._lines[0][0] if self._lines else None
        return True

    def _pause(self, seconds: float) -> None:
        """Wait to try again; `reopen` and `close` cut it short."""
        self._wake.wait(seconds)
        self._wake.clear()

    def _open_anew(self) -> None:
        self._reopened = self._reopen
        try:
            opened = self._target.reopen()
        except OSError as error:
            line = self._tell_reopened(error.strerror or type(error).__name__)
            self._batch = self._batch[self._offset :] + line
        else:
            if not opened:
                return
            # A line that the old file holds half of stands whole in the new one.
            start = self._batch.rfind(b"\n", 0, self._offset) + 1
            self._batch = self._tell_reopened(None) + self._batch[start:]
        self._offset = 0
