"""The tape of a running session: what its protocols tell of both legs (smtp/tape.py), made entries of its wire (wire.py).

Octets become entries only once it is known what they are: so a secret is blanked before it is an entry (attack 21), and mail data is never kept here at all.

Invariants: nothing that came in a SASL exchange, or out of step behind one, is an entry, but as a gap; what came and was never read as anything is blanked whole.
Memory is bounded: what gathers is `take`n now and then, pieces of mail data that are close in time become one, and of one message there are at most PIECES. Pure: the clock is the
caller's. What becomes of it does not belong here (recorder.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.record.redact import looks_like_auth, redact, redact_sasl
from relayproxy.record.wire import WireData, WireEvent, WireOctets, encode
from relayproxy.smtp.data import MOST_DOTS, odd_dots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.record.dialog import Arrow, EventName, Leg
    from relayproxy.record.wire import WireEntry
    from relayproxy.smtp.tape import Kind

#: Entries that the mail data of one message may make on one leg; what comes then becomes one.
PIECES: Final = 512
#: Microseconds within which pieces of mail data become one.
CLOSE: Final = 1000

_REDACTED: Final = re.compile(rb"<redacted ([0-9]+)>")
#: What a reply to a SASL exchange may be shown of: its code, and its enhanced status code.
_CODES: Final = re.compile(rb"[0-9]{3}[ -](?:[245]\.[0-9]{1,3}\.[0-9]{1,3}(?: |\Z))?")

#: Octets of a line that are blanked: offset and length.
Span = tuple[int, int]


class SessionTape:
    """Both legs of one session: what has gathered since `take`."""

    __slots__ = ("_has_empty", "_taken", "client", "entries", "hidden", "octets", "upstream")

    def __init__(self, now: Callable[[], float], hidden: Callable[[bytes], list[Span]] | None = None) -> None:
        """The session begins. `now`: a clock, in seconds; `hidden`: which octets of lines are blanked besides secrets (privacy.py)."""
        #: What has gathered; always the same list.
        self.entries: list[WireEntry] = []
        self._has_empty = False
        self._taken = 0  # entries before the first of these
        #: Octets that have come meanwhile, mail data included: what is held is about that, and what was said in answer.
        self.octets = 0
        self.hidden = hidden
        began = now()
        self.client = LegTape(self, "C", now, began)
        self.upstream = LegTape(self, "U", now, began)

    def place(self) -> int:
        """Where the entry is that was added last; until `take` another may take its place."""
        return self._taken + len(self.entries) - 1

    def at(self, place: int) -> WireEntry | None:
        """What is there; None where it was taken."""
        index = place - self._taken
        return self.entries[index] if 0 <= index < len(self.entries) else None

    def replace(self, place: int, entry: WireEntry) -> None:
        self.entries[place - self._taken] = entry

    def cut_off(self, tape: LegTape, octets: int) -> None:
        """Take so many octets from the end of what we said on this leg."""
        entries = self.entries
        at = len(entries)
        while octets and at:
            at -= 1
            entry = entries[at]
            if isinstance(entry, WireEvent) or not (said := tape.said_in(entry)):
                continue
            kept = said - octets
            octets = max(0, -kept)
            entries[at] = _shortened(entry, max(0, kept))  # in its place, for who knows it by that
            self._has_empty = True

    def take(self, *, last: bool = False) -> bytes | None:
        """What has gathered, encoded, up to what is on its way and may be unsaid yet (all of it, where it is the last); None where that is nothing."""
        entries = self.entries[: None if last else self._first_on_its_way()]
        if not entries:
            return None
        del self.entries[: len(entries)]
        self._taken += len(entries)
        if self._has_empty:
            entries = [entry for entry in entries if isinstance(entry, WireEvent) or _size(entry)]
            self._has_empty = bool(self.entries)
        blob = encode(entries)
        self.octets = 0
        return blob

    def _first_on_its_way(self) -> int:
        first = len(self.entries)
        for tape in (self.client, self.upstream):
            at, octets = len(self.entries), tape.on_its_way
            while octets > 0 and at:
                at -= 1
                octets -= tape.said_in(self.entries[at])
            first = min(first, at)
        return first


class LegTape:
    """One leg's: what its protocol tells (smtp/tape.py), and what happens to its connection."""

    __slots__ = (
        "_at_line_start",
        "_began",
        "_data",
        "_data_said",
        "_dots_said",
        "_entries",
        "_from_us",
        "_leg",
        "_now",
        "_out_of_step",
        "_over",
        "_pending",
        "_pieces",
        "_session",
        "_to_us",
        "_waiting",
        "on_its_way",
        "transaction",
    )

    def __init__(self, session: SessionTape, leg: Leg, now: Callable[[], float], began: float) -> None:
        self._session = session
        self._entries = session.entries
        self._leg: Leg = leg
        self._to_us: Arrow = ">" if leg == "C" else "<"
        self._from_us: Arrow = "<" if leg == "C" else ">"
        self._now = now
        self._began = began
        #: Whose message the mail data is; "": nobody's, it was refused.
        self.transaction = ""
        #: Octets at the end of what was said that wait to be taken by the connection, at most.
        self.on_its_way = 0
        # Reads, or what is left of them, that were not told to be anything.
        self._pending: list[tuple[float, bytes]] | None = None
        self._waiting = 0  # octets in them
        self._out_of_step = False  # there was an AUTH, and no MAIL since: what is no command may be a line meant for it
        self._pieces = 0
        self._data: int | None = None  # where the piece is that a further one may be part of
        self._over = False  # the peer's end was told
        self._data_said = self._dots_said = 0  # octets of the message that is being sent, and odd dots in them
        self._at_line_start = True  # so far they end a line

    def event(self, name: EventName, *arguments: str, by_us: bool = False) -> None:
        """Something happened to the connection."""
        if name in _NEW:
            self._out_of_step = self._over = False
        elif name in _OVER:
            if self._over:
                return
            self._over = True
        elif name == "close":
            self.forget()
        self._entries.append(WireEvent(_microseconds(self._now() - self._began), self._leg, name, arguments, by_us))

    def forget(self) -> None:
        """Nothing of what came and was not read will be."""
        self.read(0, "unread")

    def begin_message(self, transaction: str) -> None:
        """What mail data comes or leaves from here on is this transaction's."""
        self.transaction = transaction
        self._pieces = self._data_said = self._dots_said = 0
        self._at_line_start = True

    # smtp.tape.Tape

    def came(self, octets: bytes) -> None:
        if self._pending is None:
            self._pending = [(self._now() - self._began, octets)]
        else:
            self._pending.append((self._now() - self._began, octets))
        self._waiting += len(octets)
        self._session.octets += len(octets)

    def read(self, unread: int, kind: Kind = "plain") -> None:
        if self._waiting <= unread:
            return
        pieces = self._take(unread)
        if (
            kind == "mail"
            and not self._out_of_step
            and b"AUTH" not in b"".join([octets for _, octets in pieces]).upper()
        ):
            kind = "plain"
        if kind == "plain" and self._session.hidden is None:
            self._data = None
            for time, octets in pieces:
                self._entries.append(WireOctets(int(time * 1e6), self._leg, self._to_us, octets))
            return
        self._add(pieces, self._to_us, self._spans(b"".join([octets for _, octets in pieces]), kind))

    def read_data(self, unread: int, *, chunk: bool = False, dots: Sequence[int] = ()) -> None:
        if self._waiting > unread:
            for time, octets in self._take(unread):
                self._add_data(time, len(octets), chunk=chunk, dots=tuple(dots))
                dots = ()

    def said(self, octets: bytes, kind: Kind = "plain") -> None:
        if kind == "mail" and not self._out_of_step and b"AUTH" not in octets.upper():
            kind = "plain"
        if kind == "plain" and self._session.hidden is None:
            if self._leg == "U":
                self._data = None
            self._entries.append(WireOctets(int((self._now() - self._began) * 1e6), self._leg, self._from_us, octets))
            return
        self._add([(self._now() - self._began, octets)], self._from_us, self._spans(octets, kind))

    def said_data(self, octets: bytes, *, end: bool = False) -> None:
        # What the client's own stuffing put there passes as it came (PROTOCOL §1.5).
        found = [] if end else odd_dots(octets, at_line_start=self._at_line_start, most=MOST_DOTS - self._dots_said)
        dots = tuple([self._data_said + at for at in found])
        self._dots_said += len(found)
        self._data_said += len(octets)
        self._at_line_start = octets.endswith(b"\r\n")
        self._add_data(self._now() - self._began, len(octets), dots=dots)

    def said_in(self, entry: WireEntry) -> int:
        """How many octets of an entry we said on this leg."""
        if isinstance(entry, WireEvent) or entry.leg != self._leg or _arrow(entry) != self._from_us:
            return 0
        return _size(entry)

    def unsay(self, octets: int) -> None:
        """So many octets, at the end of what was said, have not left after all."""
        self.on_its_way = 0
        self._session.cut_off(self, octets)

    # Entries.

    def _take(self, unread: int) -> list[tuple[float, bytes]]:
        """The octets that wait, but for the last so many, in their reads."""
        if not unread:
            taken = self._pending or []
            self._pending = None
            self._waiting = 0
            return taken
        pending = self._pending or []
        count, self._waiting = self._waiting - unread, unread
        taken = []
        while count and count >= len(pending[0][1]):
            count -= len(pending[0][1])
            taken.append(pending.pop(0))
        if count:
            time, octets = pending[0]
            taken.append((time, octets[:count]))
            pending[0] = time, octets[count:]
        return taken

    def _add(self, pieces: list[tuple[float, bytes]], arrow: Arrow, spans: list[Span]) -> None:
        """Pieces of lines, with these spans of their octets, joined, blanked."""
        if arrow == ">":
            self._data = None  # what follows is mail data again, and behind them
        start = 0
        for time, octets in pieces:
            end = start + len(octets)
            inside = [
                (max(at, start), min(at + length, end)) for at, length in spans if at < end and at + length > start
            ]
            kept, gaps = _cut(octets, [(first - start, last - first) for first, last in inside])
            self._entries.append(WireOctets(_microseconds(time), self._leg, arrow, kept, gaps))
            start = end

    def _add_data(self, seconds: float, octets: int, *, chunk: bool = False, dots: tuple[int, ...] = ()) -> None:
        session, time = self._session, _microseconds(seconds)
        if self._data is not None:
            last = session.at(self._data)
            if (
                isinstance(last, WireData)
                and (last.leg, last.transaction, last.chunk) == (self._leg, self.transaction, chunk)
                and (time - last.time < CLOSE or self._pieces >= PIECES)
            ):
                merged = WireData(last.time, self._leg, last.octets + octets, self.transaction, chunk, last.dots + dots)
                session.replace(self._data, merged)
                return
        self._pieces += 1
        self._entries.append(WireData(time, self._leg, octets, self.transaction, chunk, dots))
        self._data = session.place()

    # What is blanked.

    def _spans(self, octets: bytes, kind: Kind) -> list[Span]:
        """Which octets of whole lines of that kind are blanked."""
        secrets = [] if kind == "plain" else self._secrets(octets, kind)
        return secrets if self._session.hidden is None else _union([*secrets, *self._session.hidden(octets)])

    def _secrets(self, octets: bytes, kind: Kind) -> list[Span]:
        spans: list[Span] = []
        start = 0
        for line in octets.split(b"\r\n") if kind != "unread" else [octets]:
            spans += [(start + at, length) for at, length in self._blank(line, kind)]
            start += len(line) + 2
        return spans

    def _blank(self, content: bytes, kind: Kind) -> list[Span]:  # noqa: PLR0911  one a kind
        match kind:
            case "mail":
                self._out_of_step = False
                return _found(content, redact(content)) if b"auth" in content.lower() else []
            case "free":
                argued = self._out_of_step and b" " in content.strip()
                return _found(content, redact_sasl(content) if argued else redact(content))
            case "auth":
                self._out_of_step = True
                return _found(content, redact(content))
            case "sasl":
                start = 4 if content.startswith(b"334 ") else 0
                return [(start, len(content) - start)] if len(content) > start and content != b"*" else []
            case "sasl-end":
                match = _CODES.match(content)
                start = 0 if match is None else match.end()
                return [(start, len(content) - start)] if len(content) > start else []
            case "refused":
                spans = _found(content, redact_sasl(content) if self._out_of_step else redact(content))
                self._out_of_step = self._out_of_step or looks_like_auth(content)
                return spans
            case _:
                return [(0, len(content))] if self._leg == "C" or self._out_of_step else []


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)


def _arrow(entry: WireOctets | WireData) -> Arrow:
    """Mail data goes one way only."""
    return ">" if isinstance(entry, WireData) else entry.arrow


def _size(entry: WireOctets | WireData) -> int:
    """Octets on the wire."""
    return entry.octets if isinstance(entry, WireData) else len(entry.octets) + sum(length for _, length in entry.gaps)


def _shortened(entry: WireOctets | WireData, octets: int) -> WireOctets | WireData:
    """The first so many octets of it."""
    if isinstance(entry, WireData):
        return msgspec.structs.replace(entry, octets=octets)
    kept, gaps, at = b"", [], 0
    for offset, length in [*entry.gaps, (len(entry.octets), 0)]:
        kept += entry.octets[at:offset][:octets]
        octets -= min(octets, offset - at)
        if length and octets:
            gaps.append((len(kept), min(length, octets)))
            octets -= min(octets, length)
        at = offset
    return msgspec.structs.replace(entry, octets=kept, gaps=tuple(gaps))


#: With these a connection begins, or one under TLS.
_NEW: Final = frozenset({"open", "tls"})
#: With one of these it ends, as far as the peer is concerned.
_OVER: Final = frozenset({"eof", "reset"})


def _union(spans: list[Span]) -> list[Span]:
    """Spans in order that cover the same octets and do not overlap."""
    union: list[Span] = []
    for at, length in sorted(spans):
        if union and at <= sum(union[-1]):
            union[-1] = union[-1][0], max(sum(union[-1]), at + length) - union[-1][0]
        else:
            union.append((at, length))
    return union


def _found(line: bytes, redacted: bytes) -> list[Span]:
    """Which octets of the line `redacted` has not; all of it where the two do not fit."""
    spans: list[Span] = []
    at = shown = 0
    for match in _REDACTED.finditer(redacted):
        between = redacted[shown : match.start()]
        at += len(between)
        length = int(match[1])
        spans.append((at, length))
        at += length
        shown = match.end()
    rebuilt, _ = _cut(line, spans)
    if at + len(redacted) - shown == len(line) and rebuilt == _REDACTED.sub(b"", redacted):
        return spans
    return [(0, len(line))]


def _cut(octets: bytes, spans: list[Span]) -> tuple[bytes, tuple[Span, ...]]:
    """The octets without those spans, and gaps as WireOctets has them."""
    if not spans:
        return octets, ()
    kept = b""
    gaps: list[Span] = []
    start = 0
    for at, length in spans:
        kept += octets[start:at]
        gaps.append((len(kept), length))
        start = at + length
    return kept + octets[start:], tuple(gaps)
