"""A transaction's part of its session's wire: from its MAIL to the reply that ended it, on both legs.

Its commands are those from its MAIL to the next transaction's, and its mail data says whose it is. What was answered, and what passed upstream, is found by time: where a
client pipelines several transactions, replies that left in one write stand in the parts of all of them. Pure. Showing it does not belong here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import structs

from relayproxy.record.text import text
from relayproxy.record.times import microseconds
from relayproxy.record.wire import WireData, WireOctets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.store.interface import Stored, StoredSession
    from relayproxy.record.wire import WireEntry

_MAIL: Final = re.compile(rb"(?i)(?:^|(?<=\n))[ \t]*MAIL[ \t]+FROM[ \t]*:[ \t]*<([^>\r\n]*)")
#: Microseconds by which a record's clock and the wire's may differ.
_SLACK: Final = 1000

#: The entry in which a MAIL stands, and where in it.
Place = tuple[int, int]


def part(session: StoredSession, stored: Stored, transactions: Sequence[Stored]) -> StoredSession:
    """The session with that much of its wire. `transactions`: all of the session's, in order."""
    starts = _starts(session.wire, transactions)
    ids = [one.record.transaction for one in transactions]
    number = ids.index(stored.record.transaction)
    index, offset = starts[number]
    end = starts[number + 1] if number + 1 < len(starts) else None
    began = session.wire[index].time if index < len(session.wire) else 0
    ended = max(began, _when(session, stored)) + round(stored.record.seconds.total * 1_000_000) + _SLACK
    wire: list[WireEntry] = []
    for at, entry in enumerate(session.wire):
        if isinstance(entry, WireData):
            if entry.transaction == stored.record.transaction:
                wire.append(entry)
        elif isinstance(entry, WireOctets) and (entry.leg, entry.arrow) == ("C", ">"):
            if index <= at and entry.time <= ended and (end is None or at <= end[0]):
                cut = _cut(entry, offset if at == index else 0, end[1] if end is not None and at == end[0] else None)
                wire += [cut] if cut.octets or cut.gaps else []
        elif began <= entry.time <= ended:
            wire.append(entry)
    return session._replace(wire=wire)


def _cut(entry: WireOctets, start: int, end: int | None) -> WireOctets:
    if not start and end is None:
        return entry
    end = len(entry.octets) if end is None else end
    gaps = tuple(
        [(at - start, length) for at, length in entry.gaps if start <= at < end or at == end == len(entry.octets)]
    )
    return structs.replace(entry, octets=entry.octets[start:end], gaps=gaps)


def _when(session: StoredSession, stored: Stored) -> int:
    """Microseconds from the session's beginning to the transaction's MAIL."""
    return max(microseconds(stored.record.time) - session.began // 1000, 0)


def _starts(wire: Sequence[WireEntry], transactions: Sequence[Stored]) -> list[Place]:
    """Where the MAIL of each stands: the next one with its sender; or, where senders are not told, the next one."""
    mails = [
        (index, match.start(), text(match[1]))
        for index, entry in enumerate(wire)
        if isinstance(entry, WireOctets) and (entry.leg, entry.arrow) == ("C", ">")
        for match in _MAIL.finditer(entry.octets)
    ]
    starts: list[Place] = []
    for one in transactions:
        sender = one.record.envelope.received.sender
        # In front of it may stand a source route, which is no part of the sender.
        fits = (at for at, (_, _, told) in enumerate(mails) if told == sender or told.endswith(f":{sender}"))
        found = next(fits, 0)
        starts.append(mails[found][:2] if mails else (len(wire), 0))
        del mails[: found + 1]
    return starts
