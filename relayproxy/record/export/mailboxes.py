r"""A message as mail programs keep it: lines that end in LF, and mbox around it.

mbox is mboxrd: `>` before each line that is `From ` behind any number of `>`, so that it can be undone; a `From ` line with the envelope's sender
(white space in it is `-`, as qmail has it; MAILER-DAEMON for the null sender) and the date in UTC as asctime has it; an empty line behind each message.
That is what Python's `mailbox` and mutt read. Both expect LF, so each CRLF is one here; all other octets stay.

Invariants: pure; memory is a piece of the message. The message byte for byte (eml) is the reader's own `message`; files do not belong here (maildir.py, cli/).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from relayproxy.record.report import HeldRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.report import TransactionRecord

_FROM: Final = re.compile(rb"(?m)^(?=>*From )")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def mbox(record: TransactionRecord, message: Iterable[bytes], *, sent: bool = False) -> Iterator[bytes]:
    """One message of an mbox, in pieces."""
    leaving = record.held.envelope if isinstance(record.held, HeldRecord) else record.envelope.sent
    envelope = leaving if sent else record.envelope.received
    sender = "-".join(envelope.sender.split()) if envelope is not None else ""
    yield f"From {sender or 'MAILER-DAEMON'} {_asctime(record.time)}\n".encode()
    ended = True
    for piece in _quoted(unix_lines(message)):
        yield piece
        ended = piece.endswith(b"\n")
    yield b"\n" if ended else b"\n\n"


def unix_lines(message: Iterable[bytes]) -> Iterator[bytes]:
    """The message with LF for each CRLF, in pieces."""
    held = b""
    for piece in message:
        octets = held + piece
        held = b"\r" if octets.endswith(b"\r") else b""
        yield (octets[:-1] if held else octets).replace(b"\r\n", b"\n")
    if held:
        yield held


def _asctime(time: str) -> str:
    """C's asctime, whatever the locale."""
    at = datetime.fromisoformat(time)
    return f"{_DAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day:2} {at:%H:%M:%S} {at.year}"


def _quoted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same with `>` before each line that could be taken for a From line, or for one that was quoted."""
    held = b""  # a line's beginning that may become From
    at_start = True
    for piece in pieces:
        octets = held + piece
        last = octets.rfind(b"\n") + 1
        held = octets[last:] if _may_be_from(octets[last:]) else b""
        octets = octets[: len(octets) - len(held)]
        if octets:
            within = 0 if at_start else octets.find(b"\n") + 1 or len(octets)
            yield octets[:within] + _FROM.sub(b">", octets[within:])
            at_start = octets.endswith(b"\n")
    if held:
        yield held


def _may_be_from(beginning: bytes) -> bool:
    word = beginning.lstrip(b">")
    return len(word) < 5 and b"From ".startswith(word)
