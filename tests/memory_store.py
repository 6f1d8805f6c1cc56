"""A store in memory for those who record: what was written, in order. No thread, so that it keeps pace with any clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.record.store.interface import SessionWrite, TransactionWrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.store.interface import RecordError, Write


class MemoryWriter:
    """A `Writing`. `trouble` is set by whoever wants some: then nothing is committed."""

    def __init__(self) -> None:
        self.trouble: RecordError | None = None
        self.writes: list[Write] = []

    def put(self, write: Write) -> None:
        self.writes.append(write)

    async def commit(self, writes: Sequence[Write], *, durable: bool = False) -> None:
        del durable
        if self.trouble is not None:
            raise self.trouble
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
