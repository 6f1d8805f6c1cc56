"""The thread that writes: who commits is told the truth, what is put gets there in order, one bad write harms no other (PROTOCOL §4, column DF)."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from stored_things import SOON, Alarm, record, session, transaction

from relayproxy.record.store.interface import Body, Message, RecordError, TransactionWrite
from relayproxy.record.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from relayproxy.record.store.interface import Write


class Ledger:
    """A store in memory. `hold()` stalls it; while `fails` is set it cannot be written; a transaction called "bad" can never be."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.durable: list[bool] = []
        self.fails: RecordError | None = None
        self.is_tight = False  # there is no space for bodies
        self.bodies: list[str] = []
        self.neglects: RecordError | None = None
        self.makes_room = False  # upkeep removes what is in the way
        self.tried = threading.Semaphore(0)
        self.kept_up = threading.Semaphore(0)
        self.closed = False
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def write(self, writes: Sequence[Write], *, durable: bool) -> None:
        self.tried.release()
        self._free.wait()
        if self.fails is not None:
            raise self.fails
        bodies = [
            write.record.transaction
            for write in writes
            if isinstance(write, TransactionWrite) and write.message is not None and write.message.body is not None
        ]
        if self.is_tight and bodies:
            raise RecordError("no space left", full=True)
        self.bodies += bodies
        names = [write.record.transaction if isinstance(write, TransactionWrite) else write.id for write in writes]
        if "bad" in names:
            raise OverflowError(names)
        self.batches.append(names)
        self.durable.append(durable)

    def probe(self) -> None:
        self.tried.release()
        if self.fails is not None:
            raise self.fails

    def upkeep(self, *, busy: bool = False) -> bool:
        del busy
        self.kept_up.release()
        if self.neglects is not None:
            raise self.neglects
        if self.makes_room:
            self.fails = None
        return False

    def close(self) -> None:
        self.closed = True

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


async def until(semaphore: threading.Semaphore) -> None:
    assert await trio.to_thread.run_sync(lambda: semaphore.acquire(timeout=SOON))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def start(ledger: Ledger) -> AsyncIterator[Callable[..., Writer]]:
    writers: list[Writer] = []

    def start(**settings: Any) -> Writer:
        writers.append(Writer(ledger, **settings))
        return writers[-1]

    yield start
    ledger.release()
    for writer in writers:
        await trio.to_thread.run_sync(writer.close, SOON)


Start = Any


async def test_commit_returns_when_it_is_in_the_store(ledger: Ledger, start: Start) -> None:
    await start().commit([transaction("T1"), session("S1")])
    assert ledger.names == ["T1", "S1"]
    assert ledger.durable == [False]


async def test_what_comes_meanwhile_goes_in_together_in_order(ledger: Ledger, start: Start) -> None:
    writer = start()
    ledger.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.commit, [transaction("T0")])
        await until(ledger.tried)
        writer.put(transaction("T1"))
        nursery.start_soon(lambda: writer.commit([transaction("T2"), transaction("T3")], durable=True))
        await trio.testing.wait_all_tasks_blocked()
        writer.put(transaction("T4"))
        ledger.release()
    assert writer.close(SOON)
    assert ledger.batches[0] == ["T0"]
    assert ledger.names == ["T0", "T1", "T2", "T3", "T4"]
    assert len(ledger.batches) < 5
    assert ledger.durable[0] is False
    assert ledger.durable[1] is True


async def test_a_crowd_is_woken(ledger: Ledger, start: Start) -> None:
    writer = start()
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(writer.commit, [transaction(f"T{number}", None)])
    assert sorted(ledger.names) == sorted(f"T{number}" for number in range(1000))
    assert len(ledger.batches) < 100


async def test_who_commits_hears_that_it_could_not_be_and_then_it_never_is(ledger: Ledger, start: Start) -> None:
    alarm = Alarm()
    writer = start(alarm=alarm)
    ledger.fails = RecordError("no space left", full=True)
    for _ in range(2):
        with pytest.raises(RecordError, match="no space left") as raised:
            await writer.commit([transaction("T1")])
        assert raised.value.full
    assert writer.trouble is not None
    assert writer.trouble.full
    ledger.fails = None
    await alarm.wait()
    await alarm.wait()
    assert writer.trouble is None
    await writer.commit([transaction("T2")])
    assert ledger.names == ["T2"]
    assert [error is None for error in alarm.told] == [False, True]


async def test_where_it_is_full_what_is_old_goes_however_many_try_meanwhile(ledger: Ledger, start: Start) -> None:
    alarm = Alarm()
    writer = start(alarm=alarm)
    await until(ledger.kept_up)
    ledger.fails, ledger.makes_room = RecordError("no space left", full=True), True
    written = False
    with trio.fail_after(SOON):
        while not written:
            with suppress(RecordError):
                await writer.commit([transaction("T1")])
                written = True
    for _ in range(2):
        await alarm.wait()
    assert alarm.fails == ["writing", "writing"]
    assert [error is None for error in alarm.told] == [False, True]


async def test_a_body_that_does_not_fit_keeps_no_other_record_out(ledger: Ledger, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"")
    alarm = Alarm()
    writer = start(alarm=alarm)
    ledger.is_tight = True
    aborted = record("T1", outcome="aborted")
    writer.put(TransactionWrite(aborted, Message(b"", b"\r\n", Body(bytes(32), 9, None, file))))
    for name in ("T2", "T3"):
        writer.put(TransactionWrite(record(name)))
    for _ in range(2):
        await alarm.wait()
    assert ledger.names == ["T1", "T2", "T3"]
    assert ledger.bodies == []
    assert not file.exists()
    assert [error is None for error in alarm.told] == [False, True]
    assert await trio.to_thread.run_sync(writer.close, SOON)


async def test_a_body_that_somebody_relies_on_waits_for_space_and_its_record_for_no_longer_than_the_end(
    ledger: Ledger, start: Start
) -> None:
    message = Message(b"", b"\r\n", Body(bytes(32), 1, b"x"))
    writer = start()
    ledger.is_tight = True
    writer.put(TransactionWrite(record("T1"), message))
    for _ in range(3):
        await until(ledger.tried)
    assert ledger.names == []
    ledger.is_tight = False
    await writer.commit([transaction("T2")])
    assert ledger.bodies == ["T1", "T2"]
    ledger.is_tight = True
    writer.put(TransactionWrite(record("T3"), message))
    assert not await trio.to_thread.run_sync(writer.close, SOON)
    assert ledger.names == ["T1", "T2", "T3"]
    assert ledger.bodies == ["T1", "T2"]


async def test_what_was_put_waits_for_the_store_in_order(ledger: Ledger, start: Start) -> None:
    alarm = Alarm()
    writer = start(alarm=alarm)
    ledger.fails = RecordError("locked")
    for number in range(5):
        writer.put(transaction(f"T{number}"))
    await alarm.wait()
    with pytest.raises(RecordError):
        await writer.commit([transaction("T9")])
    ledger.fails = None
    await writer.commit([transaction("T5")])  # whoever commits makes it try at once
    assert ledger.names == ["T0", "T1", "T2", "T3", "T4", "T5"]
    assert writer.dropped == 0


async def test_it_recovers_by_itself(ledger: Ledger, start: Start) -> None:
    alarm = Alarm()
    writer = start(alarm=alarm)
    ledger.fails = RecordError("locked")
    writer.put(transaction("T1"))
    await alarm.wait()
    ledger.fails = None
    await alarm.wait()
    assert writer.trouble is None
    assert ledger.names == ["T1"]


async def test_what_waits_is_bounded(ledger: Ledger, start: Start, tmp_path: Path) -> None:
    writer = start(max_waiting=20_000)
    ledger.hold()
    writer.put(transaction("T1"))
    await until(ledger.tried)
    large = tmp_path / "body"
    large.write_bytes(b"x")
    writer.put(transaction("T2", b"x" * 30_000))
    writer.put(TransactionWrite(record("T3"), Message(b"x" * 30_000, b"", Body(b"", 1, None, large))))
    writer.put(transaction("T4"))
    assert writer.dropped == 2
    ledger.release()
    await writer.commit([transaction("T5")])
    assert ledger.names == ["T1", "T4", "T5"]
    assert not large.exists()
    writer.put(transaction("T6", b"x" * 10_000))
    assert writer.dropped == 2


async def test_a_bad_write_harms_no_other(ledger: Ledger, start: Start) -> None:
    writer = start()
    ledger.hold()
    heard: dict[str, Exception | None] = {}

    async def commit(*names: str) -> None:
        try:
            await writer.commit([transaction(name) for name in names])
        except RecordError as error:
            heard[names[0]] = error
        else:
            heard[names[0]] = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit, "T0")
        await until(ledger.tried)
        writer.put(transaction("T1"))
        writer.put(transaction("bad"))
        for names in (("T2",), ("T3", "bad"), ("T4", "T5")):
            nursery.start_soon(commit, *names)
        await trio.testing.wait_all_tasks_blocked()
        ledger.release()
    assert writer.close(SOON)
    assert sorted(ledger.names) == ["T0", "T1", "T2", "T4", "T5"]
    assert [name for name, error in heard.items() if error] == ["T3"]
    assert "OverflowError" in str(heard["T3"])
    assert writer.dropped == 1
    assert writer.trouble is None


async def test_who_is_cancelled_does_not_wait(ledger: Ledger, start: Start) -> None:
    writer = start()
    ledger.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.commit, [transaction("T1")])
        await until(ledger.tried)
        nursery.cancel_scope.cancel()
    with trio.move_on_after(0) as scope:
        await writer.commit([transaction("T2")])
    assert scope.cancelled_caught
    writer.put(transaction("T1"))
    ledger.release()
    await writer.commit([transaction("T3")])
    assert ledger.names == ["T1", "T1", "T3"], "what had begun, and behind it the outcome; what had not is taken back"


async def test_so_it_is_for_who_gave_up_waiting_for_it(ledger: Ledger, start: Start) -> None:
    writer = start(patience=0.1)
    ledger.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.commit, [transaction("T1")])
        await until(ledger.tried)
        nursery.cancel_scope.cancel()
    with trio.fail_after(SOON):
        while writer.trouble is None:
            await trio.sleep(0.01)
            writer.look()


async def test_a_write_that_does_not_return_is_trouble_and_told_once(ledger: Ledger, start: Start) -> None:
    alarm = Alarm()
    writer = start(alarm=alarm, patience=0.02)
    ledger.hold()
    writer.put(transaction("T0"))
    await until(ledger.tried)
    await trio.sleep(0.03)
    writer.look()
    assert writer.trouble is None, "nobody waits for it"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.commit, [transaction("T1")])
        with trio.fail_after(SOON):
            while writer.trouble is None:
                await trio.sleep(0.01)
                writer.look()
        writer.look()
        await alarm.wait()
        assert [error is not None and error.what for error in alarm.told] == ["the store has not answered for 0.02 s"]
        ledger.release()
    with trio.fail_after(SOON):
        while writer.trouble is not None:
            await trio.lowlevel.checkpoint()
    assert ledger.names == ["T0", "T1"]
    await alarm.wait()
    assert alarm.told[1:] == [None]


async def test_the_file_of_what_was_put_goes_when_it_is_in_and_of_a_commit_it_stays(
    ledger: Ledger, start: Start, tmp_path: Path
) -> None:
    files = [tmp_path / "put", tmp_path / "committed"]
    for file in files:
        file.write_bytes(b"x")
    writes = [TransactionWrite(record(), Message(b"", b"", Body(b"", 1, None, file))) for file in files]
    writer = start()
    writer.put(writes[0])
    await writer.commit(writes[1:])
    assert ledger.names == ["T1", "T1"]
    assert [file.exists() for file in files] == [False, True]


async def test_it_ends_when_all_is_written(ledger: Ledger, start: Start) -> None:
    writer = start()
    for number in range(1000):
        writer.put(transaction(f"T{number}", None))
    assert writer.close(SOON)
    assert ledger.names == [f"T{number}" for number in range(1000)]
    assert ledger.closed
    with pytest.raises(RecordError, match="closed"):
        await writer.commit([transaction("T1")])
    writer.put(transaction("T1"))
    assert writer.dropped == 1


async def test_it_ends_without_what_cannot_be_written(ledger: Ledger, start: Start) -> None:
    writer = start()
    ledger.fails = RecordError("read-only")
    writer.put(transaction("T1"))
    assert not writer.close(SOON)
    assert ledger.closed


async def test_it_does_not_wait_longer_than_it_is_told(ledger: Ledger, start: Start) -> None:
    writer = start()
    ledger.hold()
    async with trio.open_nursery() as nursery:

        async def commit() -> None:
            with suppress(RecordError):
                await writer.commit([transaction("T1")])

        nursery.start_soon(commit)
        await until(ledger.tried)
        assert not await trio.to_thread.run_sync(writer.close, 0.01)
        ledger.release()


async def test_upkeep_is_done_when_nothing_comes_and_its_failure_is_told_once(ledger: Ledger, start: Start) -> None:
    alarm = Alarm()
    ledger.neglects = RecordError("the index is damaged")
    writer = start(alarm=alarm)
    await alarm.wait()
    assert writer.trouble is None
    await writer.commit([transaction("T1")])
    assert alarm.told == [ledger.neglects]


async def test_upkeep_comes_after_writes(ledger: Ledger, start: Start) -> None:
    writer = start()
    await until(ledger.kept_up)
    began = trio.current_time()
    await writer.commit([transaction("T1")])
    await until(ledger.kept_up)
    assert trio.current_time() - began < 5, "because of the write, and not when it is looked at again anyway"


async def test_behind_a_write_it_dozes_shortly_and_what_is_put_does_not_wake_it(ledger: Ledger, start: Start) -> None:
    """So that several go in together: each time that it is woken costs both threads their turn."""
    writer = start()
    await until(ledger.kept_up)
    for number in range(3):
        began = trio.current_time()
        await writer.commit([transaction(f"T{number}")])
        await until(ledger.tried)
        writer.put(transaction(f"P{number}"))
        await until(ledger.tried)
        assert 0.04 < trio.current_time() - began < 5, "which is 50 ms behind the commit"


async def test_of_what_is_written_nothing_is_kept(ledger: Ledger, start: Start) -> None:
    class Writes(list[TransactionWrite]):
        """A list that can be seen to go."""

    writer, gone = start(), trio.Event()
    await until(ledger.kept_up)
    token = trio.lowlevel.current_trio_token()
    writes = Writes([transaction("T1")])
    weakref.finalize(writes, token.run_sync_soon, gone.set)
    await writer.commit(writes)
    del writes
    with trio.fail_after(SOON):
        await gone.wait()  # and not for the next write
