"""What rules ask of a body: file names of attachments, and its text (DESIGN §6 "Conditions"; PROTOCOL attack 19).

    scanner = Scanner(header)
    for piece in body:
        scanner.feed(piece)
    scanner.finish()
    scanner.attachments, scanner.uuencoded, scanner.text    # rules/facts.py, Content

Invariants: memory is bounded whatever comes. A name that any program may show is one of `attachments`; where something could hide one from us (more parts
than are looked at, a message in base64, a multipart without a boundary), `complete` is False.
How parts are found does not belong here (parts.py), nor names (parameters.py, uuencode.py) and text (body_text.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.body_text import TextParts
from relayproxy.mail.parameters import names_of
from relayproxy.mail.parts import Begin, Structure, read_part
from relayproxy.mail.uuencode import Uuencoded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.mail.header import HeaderSection
    from relayproxy.mail.parts import Event

#: Characters of all file names.
NAMES: Final = 256 * 1024
#: Uuencoded files whose names are kept.
UUENCODED: Final = 200


class Scanner:
    """One body, looked at as it passes."""

    def __init__(self, header: HeaderSection) -> None:
        """`header`: the message's."""
        self._header = header
        self._parts = 0
        self._structure = Structure(header)
        self._text = TextParts()
        self._uuencoded = Uuencoded()
        self._files: dict[bytes, None] = {}
        self._names: dict[str, None] = {}
        #: Of those, the ones that stand in a text: no part is theirs, and nothing takes them out.
        self._in_text: set[str] = set()
        self._room = NAMES

    def feed(self, octets: bytes) -> None:
        """Some more of it."""
        self._take(self._structure.feed(octets))
        self._found(self._uuencoded.feed(octets))

    def finish(self) -> None:
        """That was all."""
        self._take(self._structure.finish())
        if self._parts == 1:  # a multipart without parts is a file to some
            self._name(read_part(bytes(self._header)).names)
        self._found(self._uuencoded.finish())
        decoded = Uuencoded()  # what was in base64 and quoted-printable
        self._found(decoded.feed(self._text.text.encode("utf-8", "replace")))
        self._found(decoded.finish())
        for name in [*self._files][:UUENCODED]:
            names = names_of(name)
            self._name(names)
            self._in_text.update(names)

    @property
    def attachments(self) -> tuple[str, ...]:
        """File names in all readings, decoded, each once, in order."""
        return tuple(self._names)

    @property
    def uuencoded(self) -> frozenset[str]:
        """Those that a text has, whether or not a part has such a name too."""
        return frozenset(self._in_text)

    @property
    def text(self) -> str:
        """Of the text parts that have ended."""
        return self._text.text

    @property
    def complete(self) -> bool:
        """Whether all was seen that there may be."""
        return self._structure.complete and self._room >= 0 and len(self._files) <= UUENCODED

    def _take(self, events: list[Event]) -> None:
        self._text.take(events)
        for event in events:
            if isinstance(event, Begin):
                self._parts += 1
                self._name(event.part.names)

    def _found(self, names: list[bytes]) -> None:
        """Kept to the end, so that their order does not depend on how octets come."""
        for name in names:
            if len(self._files) <= UUENCODED:
                self._files[name] = None

    def _name(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._names and self._room >= 0:
                self._room -= len(name)
                if self._room >= 0:
                    self._names[name] = None


def scanned(header: HeaderSection, body: Iterable[bytes]) -> Scanner:
    """What has looked at a body that is there as a whole, in pieces."""
    scanner = Scanner(header)
    for piece in body:
        scanner.feed(piece)
    scanner.finish()
    return scanner
