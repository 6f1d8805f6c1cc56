"""What rules ask of a body: file names of attachments, and its text (DESIGN §6 "Conditions"; PROTOCOL attack 19).

    scanner = Scanner(header)
    for piece in body:
        scanner.feed(piece)
    scanner.finish()
    scanner.attachments, scanner.text              # rules/facts.py, Content

Invariants: memory is bounded whatever comes. A name that any program may show is one of `attachments`; where something could hide one from us (more parts
than are looked at, a message in base64, a multipart without a boundary), `complete` is False.
How parts are found does not belong here (parts.py), nor names (parameters.py) and text (body_text.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.body_text import TextParts
from relayproxy.mail.parts import Begin, Structure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.mail.header import HeaderSection
    from relayproxy.mail.parts import Event

#: Characters of all file names.
NAMES: Final = 256 * 1024


class Scanner:
    """One body, looked at as it passes."""

    def __init__(self, header: HeaderSection) -> None:
        """`header`: the message's."""
        self._structure = Structure(header)
        self._text = TextParts()
        self._names: dict[str, None] = {}
        self._room = NAMES

    def feed(self, octets: bytes) -> None:
        """Some more of it."""
        self._take(self._structure.feed(octets))

    def finish(self) -> None:
        """That was all."""
        self._take(self._structure.finish())

    @property
    def attachments(self) -> tuple[str, ...]:
        """File names in all readings, decoded, each once, in order."""
        return tuple(self._names)

    @property
    def text(self) -> str:
        """Of the text parts that have ended."""
        return self._text.text

    @property
    def complete(self) -> bool:
        """Whether all was seen that there may be."""
        return self._structure.complete and self._room >= 0

    def _take(self, events: list[Event]) -> None:
        self._text.take(events)
        for event in events:
            if isinstance(event, Begin):
                for name in event.part.names:
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
