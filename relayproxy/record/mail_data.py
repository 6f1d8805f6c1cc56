r"""Mail data as it stood on the wire, made again of a session's wire and of the messages that were kept once (DESIGN §7, "wire").

The wire says how many octets came or left, and when (`WireData`); the store has the content. What followed DATA is the content with its dots
stuffed, then the final dot's line; dots that a client need not have stuffed stand where the wire says; what came in BDAT is the content itself.

Invariants: nothing is invented. Where the content ends before the wire does (the body was not kept, the message was cut off) the rest is
`Unkept`. A message of which something was redacted has other lengths than its wire: it comes once, in one piece, behind a `Redacted`.
Memory: a piece of a body for each message under way, whatever its size. Pure: what is read is read by the `Reader`.
How it is shown does not belong here (playback.py, export/).
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from relayproxy.record.wire import WireData
from relayproxy.smtp.data import END_OF_DATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.dialog import Leg
    from relayproxy.record.store.interface import Reader, Stored, StoredSession


class Unkept(NamedTuple):
    """So many octets stood here and were not kept. `ends`: with them mail data that followed DATA came to its end."""

    octets: int
    ends: bool


class Redacted(NamedTuple):
    """What follows, of a message that had so many octets on the wire, is what was kept of it."""

    octets: int


Piece = bytes | Unkept | Redacted


class MailData:
    """The mail data of one session, both legs."""

    def __init__(self, session: StoredSession, transactions: Iterable[Stored], reader: Reader) -> None:
        self._kept = {stored.record.transaction: stored.message for stored in transactions}
        self._reader = reader
        self._left: defaultdict[tuple[str, Leg], int] = defaultdict(int)
        for entry in session.wire:
            if isinstance(entry, WireData):
                self._left[entry.transaction, entry.leg] += entry.octets
        self._messages: dict[tuple[str, Leg], _Message] = {}

    def pieces(self, entry: WireData) -> Iterator[Piece]:
        """The octets of an entry. To be asked of each, in the order of the wire, and read to the end."""
        key = entry.transaction, entry.leg
        if (message := self._messages.get(key)) is None:
            message = self._messages[key] = self._open(entry)
        yield from message.take(entry)
        self._left[key] -= entry.octets
        if not self._left[key]:
            del self._messages[key]  # with a body that may be open

    def _open(self, entry: WireData) -> _Message:
        kept = self._kept.get(entry.transaction)
        octets = self._left[entry.transaction, entry.leg]
        if kept is None or kept.header is None:
            return _Message(octets, (), whole=kept is not None and kept.whole, exact=True)
        shown = kept.as_left() if entry.leg == "U" else kept
        body = shown.body
        content = chain((shown.header or b"", shown.separator), () if body is None else self._reader.body(body))
        wire: Iterable[bytes] = content if entry.chunk else stuffed(content)
        if kept.whole and body is not None and not entry.chunk:
            wire = chain(wire, (END_OF_DATA,))
        return _Message(octets, wire, whole=kept.whole, exact=kept.exact)


def stuffed(content: Iterable[bytes]) -> Iterator[bytes]:
    """Content in pieces as it stands on the wire, but for its end (RFC 5321 §4.5.2; smtp/data.py's `stuff`)."""
    before = b"\r\n"  # a line begins
    for piece in content:
        joined = before + piece
        yield joined.replace(b"\r\n.", b"\r\n..")[len(before) :]
        before = joined[-2:]


class _Message:
    """One message on one leg; `octets` of it are on the wire."""

    def __init__(self, octets: int, wire: Iterable[bytes], *, whole: bool, exact: bool) -> None:
        self._octets = octets
        self._whole = whole
        self._exact = exact
        self._wire = iter(wire)
        self._rest = b""
        self._at = 0
        self._dots: deque[int] = deque()  # offsets that `_at` has yet to reach

    def take(self, entry: WireData) -> Iterator[Piece]:
        self._dots.extend(entry.dots)
        start = self._at
        end = start + entry.octets
        if self._exact:
            yield from self._until(end)
        elif not start:
            yield Redacted(self._octets)
            yield from self._wire
            self._at = end
        else:
            self._at = end
        if self._at < end:
            yield Unkept(end - self._at, ends=self._whole and not entry.chunk and end == self._octets)
            self._at = end

    def _until(self, end: int) -> Iterator[bytes]:
        """What there is, up to that offset."""
        while self._at < end:
            while self._dots and self._dots[0] < self._at:
                self._dots.popleft()  # it stood among what was not kept
            if self._dots and self._dots[0] == self._at:
                self._at += 1
                yield b"."
                continue
            stop = min(end, self._dots[0]) if self._dots else end
            piece = self._rest or next(self._wire, None)
            if piece is None:
                return
            self._rest = piece[stop - self._at :]
            piece = piece[: stop - self._at]
            self._at += len(piece)
            yield piece
