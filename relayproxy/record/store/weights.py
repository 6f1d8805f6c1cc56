"""What a write that waits weighs, and how it is made lighter where there is no space for all of it (PROTOCOL §4, column DF).

When that is does not belong here (writer.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from relayproxy.record.store.interface import TransactionWrite

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.interface import Body, Write

#: Octets of a write besides its message and wire, roughly.
_RECORD: Final = 2048
#: What became of a message that its sender still has.
_NOT_TAKEN: Final = frozenset({"aborted", "rejected", "tempfailed"})


def octets_of(write: Write) -> int:
    """What it takes in memory, roughly."""
    if not isinstance(write, TransactionWrite):
        return _RECORD + len(write.wire or b"")
    message = write.message
    if message is None:
        return _RECORD
    octets = _RECORD + len(message.header) + len(message.header_sent or b"")
    return octets + sum([len(body.octets) for body in _bodies(write) if body.octets is not None])


def files_of(write: Write) -> list[Path]:
    """Those of its bodies."""
    return [body.file for body in _bodies(write) if body.file is not None]


def lighter(write: Write, *, at_last: bool) -> Write | None:
    """The same without its bodies; None where it has none, or where they are to wait for space, unless there is nothing to wait for (`at_last`).

    They need not wait where its record says already that the message is not whole, nor where its sender still has it.
    """
    if not isinstance(write, TransactionWrite) or write.message is None or not _bodies(write):
        return None
    record, told = write.record, write.record.message
    if not (at_last or record.outcome in _NOT_TAKEN or (told is not None and told.truncated is True)):
        return None
    if told is not None:
        record = replace(record, message=replace(told, truncated=True))
    return write._replace(record=record, message=write.message._replace(body=None, body_sent=None, whole=False))


def _bodies(write: Write) -> list[Body]:
    if not isinstance(write, TransactionWrite) or write.message is None:
        return []
    return [body for body in (write.message.body, write.message.body_sent) if body is not None]
