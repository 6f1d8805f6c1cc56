r"""From a stored session to its dialog (dialog.py): every octet that was on the wire, as it was.

    for line in dialog_lines(session, reader.of_session(session.id), reader):
        print(line)

One `Line` each CRLF line; what was one read or write is joined by `&`; what SASL was, and was blanked, is `<redacted N>`. Mail data comes from the
messages, which are kept once (mail_data.py). What is not there is told, never made up:

- `@ unkept C> 1234`: so many octets of mail data stood here and were not kept.
- `@ redacted C> 1234`: of a message that had so many octets on the wire, what was kept of it follows in one piece, where it began.

Invariants: the octets of a leg and arrow, one behind the other, are those of its wire; what is made here can be printed and parsed to the same.
Nothing here holds a message: a session is a stream of entries. Pure. How a session looks to people does not belong here (view.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.record.dialog import Event, Gap, Line, Note, Session, print_entries, print_session
from relayproxy.record.mail_data import MailData, Redacted, Unkept
from relayproxy.record.report import timestamp
from relayproxy.record.wire import WireData, WireEvent, WireOctets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from relayproxy.record.dialog import Arrow, Entry, Leg
    from relayproxy.record.mail_data import Piece
    from relayproxy.record.store.interface import Reader, Stored, StoredSession
    from relayproxy.record.wire import WireEntry

#: Octets of a line that are held; a longer one is cut there, and goes on in a line that is joined to it.
LONGEST: Final = 1 << 20


def dialog_lines(session: StoredSession, transactions: Iterable[Stored], reader: Reader) -> Iterator[str]:
    """The session's lines of a dialog, without newlines; not the heading. `transactions`: the session's own."""
    yield print_session(session.id, attributes(session))
    yield from print_entries(entries(session, transactions, reader))


def dialog_of(session: StoredSession, transactions: Iterable[Stored], reader: Reader) -> Session:
    """The session in memory, with all its mail."""
    return Session(session.id, attributes(session), tuple(entries(session, transactions, reader)))


def attributes(session: StoredSession) -> tuple[tuple[str, str], ...]:
    """Those that stand on the session's line: times in it are since `began`."""
    return (("listener", session.listener), ("began", timestamp(session.began)))


def entries(session: StoredSession, transactions: Iterable[Stored], reader: Reader) -> Iterator[Entry]:
    """The session's entries, one at a time. `transactions`: the session's own."""
    mail = MailData(session, transactions, reader)
    before: WireEntry | None = None
    last: Entry | None = None
    # Commands and mail data each by themselves: BDAT has them in turn.
    half_ended: dict[tuple[Leg, Arrow, bool], bool] = {}
    for entry in session.wire:
        if isinstance(entry, WireOctets) and not entry.octets and not entry.gaps:
            continue
        joined = _is_same_read(before, entry) and isinstance(last, Line) and last.leg == entry.leg
        way = None if isinstance(entry, WireEvent) else (entry.leg, arrow_of(entry), isinstance(entry, WireData))
        after_cr = way is not None and half_ended.get(way, False)
        for made in _made(entry, mail, joined=joined, after_cr=after_cr):
            last = made
            yield made
        if way is not None:
            half_ended[way] = isinstance(last, Line) and last.octets.endswith(b"\r")
        before = entry


def arrow_of(entry: WireOctets | WireData) -> Arrow:
    """Mail data goes to where mail goes."""
    return entry.arrow if isinstance(entry, WireOctets) else ">"


def _is_same_read(before: WireEntry | None, entry: WireEntry) -> bool:
    """Whether they are of one read or write, which commands and mail data may share (pipelining, BDAT)."""
    if before is None or type(before) is type(entry) or isinstance(before, WireEvent) or isinstance(entry, WireEvent):
        return False
    return (before.time, before.leg, arrow_of(before)) == (entry.time, entry.leg, arrow_of(entry))


def _made(entry: WireEntry, mail: MailData, *, joined: bool, after_cr: bool) -> Iterator[Entry]:
    if isinstance(entry, WireEvent):
        yield Event(entry.leg, entry.name, entry.arguments, entry.by_us, entry.time)
        return
    arrow = arrow_of(entry)
    is_data = isinstance(entry, WireData)
    cuts: Iterator[_Cut | Unkept | Redacted]
    if isinstance(entry, WireOctets) and entry.gaps:
        cuts = _lines_with_gaps(entry.octets, entry.gaps, after_cr=after_cr)
    else:
        cuts = _lines(mail.pieces(entry) if isinstance(entry, WireData) else [entry.octets], after_cr=after_cr)
    for cut in cuts:
        if isinstance(cut, Unkept | Redacted):
            key = "unkept" if isinstance(cut, Unkept) else "redacted"
            yield Note(key, f"{entry.leg}{arrow} {cut.octets}", entry.time)
            joined = False
        else:
            octets, gaps = cut
            time = None if joined else entry.time
            yield Line(entry.leg, arrow, octets, data=is_data, joined=joined, time=time, redacted=gaps)
            joined = True


_Cut = tuple[bytes, tuple[Gap, ...]]


def _lines(pieces: Iterable[Piece], *, after_cr: bool) -> Iterator[_Cut | Unkept | Redacted]:
    """The pieces cut behind each CRLF, and before what is no octets. `after_cr`: what was before them may be half of one."""
    rest = bytearray()
    for piece in pieces:
        if isinstance(piece, Unkept | Redacted):
            if rest:
                yield bytes(rest), ()
                rest.clear()
            yield piece
            continue
        if piece.startswith(b"\n") and (rest.endswith(b"\r") or (after_cr and not rest)):
            yield bytes(rest) + b"\n", ()
            rest.clear()
            piece = piece[1:]  # noqa: PLW2901 - what is left of it
        first, *more = piece.split(b"\r\n")
        rest += first
        for line in more:
            yield bytes(rest) + b"\r\n", ()
            rest = bytearray(line)
        while len(rest) > LONGEST:
            yield bytes(rest[:LONGEST]), ()
            del rest[:LONGEST]
        after_cr = after_cr and not piece
    if rest:
        yield bytes(rest), ()


def _lines_with_gaps(octets: bytes, gaps: Sequence[tuple[int, int]], *, after_cr: bool) -> Iterator[_Cut]:
    """The octets cut behind each CRLF. A gap belongs to the octets behind it; CR and LF with one in between end no line."""
    places = {offset for offset, _ in gaps}
    left = [Gap(offset, length) for offset, length in gaps]
    start = 0
    if after_cr and octets.startswith(b"\n") and 0 not in places:
        yield b"\n", ()
        start = 1
    while start < len(octets) or left:
        found = octets.find(b"\r\n", start)
        end = len(octets) if found < 0 else found + 1 if found + 1 in places else found + 2
        here = [gap for gap in left if gap.offset < end or found < 0]
        yield octets[start:end], tuple(Gap(gap.offset - start, gap.length) for gap in here)
        left = left[len(here) :]
        start = end
