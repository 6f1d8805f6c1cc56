"""A store in memory for those who record: what was written, in order. No thread, so that it keeps pace with any clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from relayproxy.record.report import encode
from relayproxy.record.store.interface import (
    STUCK,
    Kept,
    RecordError,
    SessionWrite,
    Stored,
    StoredSession,
    TransactionWrite,
)
from relayproxy.record.wire import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relayproxy.record.store.interface import Message, Write


class MemoryWriter:
    """A `Writing`. `trouble` is set by whoever wants some: then nothing is committed. What is committed while it `hangs` waits for `well`."""

    def __init__(self) -> None:
        self.trouble: RecordError | None = None
        self.writes: list[Write] = []
        self._well: trio.Event | None = None
        self._hung: float | None = None  # since when somebody waits

    def hangs(self) -> None:
        self._well = trio.Event()

    def well(self) -> None:
        self.trouble = self._hung = None
        if self._well is not None:
            self._well.set()

    def look(self) -> None:
        if self._hung is not None and trio.current_time() - self._hung > STUCK:
            self.trouble = RecordError("the store hangs")

    def put(self, write: Write) -> None:
        self.writes.append(write)

    async def commit(self, writes: Sequence[Write], *, durable: bool = False) -> None:
        del durable
        if self.trouble is not None:
            raise self.trouble
        if self._well is not None and not self._well.is_set():
            self._hung = self._hung or trio.current_time()
            await self._well.wait()
        self.writes += writes

    def wire(self, session: str) -> list[bytes]:
        """The parts of a session's wire, in order."""
        parts = {
            write.part: write.wire
            for write in self.writes
            if isinstance(write, SessionWrite) and write.id == session and write.wire is not None
        }
        return [parts[number] for number in sorted(parts)]

    def sessions(self) -> list[str]:
        return list(dict.fromkeys(write.id for write in self.writes if isinstance(write, SessionWrite)))

    def transactions(self) -> dict[str, TransactionWrite]:
        """The last write of each, with the message of whichever had one."""
        found: dict[str, TransactionWrite] = {}
        for write in self.writes:
            if isinstance(write, TransactionWrite):
                before = found.get(write.record.transaction)
                message = write.message or (None if before is None else before.message)
                found[write.record.transaction] = write._replace(message=message)
        return found


class MemoryReader:
    """What was written, for who plays a session back: no more of a `Reader` than that takes."""

    def __init__(self, writer: MemoryWriter) -> None:
        self._writer = writer
        self._bodies: dict[bytes, bytes] = {}

    def session(self, id_: str) -> StoredSession | None:
        writes = [write for write in self._writer.writes if isinstance(write, SessionWrite) and write.id == id_]
        if not writes:
            return None
        last = writes[-1]
        wire = list(in_order(self._writer.wire(id_)))
        return StoredSession(id_, last.listener, last.client, last.began, last.ended, last.why, wire)

    def of_session(self, id_: str) -> list[Stored]:
        return [
            Stored(number, write.record, encode(write.record), write.final, self._kept(write.message))
            for number, write in enumerate(self._writer.transactions().values(), 1)
            if write.record.session == id_
        ]

    def _kept(self, message: Message | None) -> Kept | None:
        if message is None:
            return None
        for body in (message.body, message.body_sent):
            if body is not None and body.octets is not None:
                self._bodies[body.digest] = body.octets
        return Kept(
            message.header,
            message.separator,
            None if message.body is None else message.body.digest,
            0 if message.body is None else message.body.size,
            message.header_sent,
            None if message.body_sent is None else message.body_sent.digest,
            message.whole,
            message.exact,
        )

    def body(self, digest: bytes) -> Iterator[bytes]:
        yield self._bodies[digest]
