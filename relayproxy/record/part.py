"""A transaction's part of its session's wire: from its MAIL to the reply that ended it, on both legs.

It is found by its MAIL and by its time: transactions of one session follow each other, and each record says when its MAIL came and how long it took. Where
a client pipelines, the last read of one transaction may hold the first commands of the next; those stand in the parts of both.
Pure. Showing it does not belong here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import structs

from relayproxy.record.wire import WireOctets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.store.interface import Stored, StoredSession

_MAIL: Final = re.compile(rb"(?i)(?:^|(?<=\n))[ \t]*MAIL[ \t]+FROM[ \t]*:")
_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Microseconds by which a record's clock and the wire's may differ.
_SLACK: Final = 1000


def part(session: StoredSession, stored: Stored, transactions: Sequence[Stored]) -> StoredSession:
    """The session with that much of its wire. `transactions`: all of the session's, in order."""
    began = _when(session, stored)
    ended = began + round(stored.record.seconds.total * 1_000_000) + _SLACK
    index, offset = _start(session, stored, transactions)
    wire = [entry for entry in session.wire[index:] if entry.time <= ended]
    if wire and offset and isinstance(first := wire[0], WireOctets):
        gaps = tuple([(at - offset, length) for at, length in first.gaps if at >= offset])
        wire[0] = structs.replace(first, octets=first.octets[offset:], gaps=gaps)
    return session._replace(wire=wire)


def _when(session: StoredSession, stored: Stored) -> int:
    """Microseconds from the session's beginning to the transaction's MAIL."""
    since = (datetime.fromisoformat(stored.record.time) - _1970) // timedelta(microseconds=1)
    return max(since - session.began // 1000, 0)


def _start(session: StoredSession, stored: Stored, transactions: Sequence[Stored]) -> tuple[int, int]:
    """The entry in which its MAIL stands, and where in it."""
    mails = [
        (index, match.start())
        for index, entry in enumerate(session.wire)
        if isinstance(entry, WireOctets) and (entry.leg, entry.arrow) == ("C", ">")
        for match in _MAIL.finditer(entry.octets)
    ]
    found = (0, 0)
    for one in transactions:
        until = _when(session, one) + _SLACK
        came = [place for place in mails if session.wire[place[0]].time <= until]
        # Several in the last read: each transaction has the next of them.
        last = [place for place in came if place[0] == came[-1][0]]
        if last:
            found = last[0]
            mails = [place for place in mails if place > found]
        if one.record.transaction == stored.record.transaction:
            break
    return found
