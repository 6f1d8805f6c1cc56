r"""A message as people read it: its fields decoded, its parts as a list, their text out of its transfer encoding (DESIGN §4, `show --text`).

    From: Rechnung <app@example.test>
    Subject: Grüße aus Köln

    [multipart/mixed]
    [1 text/plain, utf-8, base64, 180 B]
    Grüße!

    [2 application/pdf "Rechnung März.pdf", base64, 2.0 KiB]

Parts are numbered as IMAP numbers them (RFC 3501 §6.4.5). HTML is shown as it is written: links and pixels are what somebody looks for.
Invariants: no input raises; nothing that it holds is obeyed by a terminal (attack 22); memory holds TEXT characters of a part at most. Pure.
What a part is does not belong here (mail/parts.py), nor octets as they came (`show --message`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.body_text import LONGEST_PART, decoded
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.parts import Begin, Content, End, Structure
from relayproxy.mail.words import decode
from relayproxy.record.console import DIM, MAGENTA, size_text, styled
from relayproxy.record.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.mail.parts import Event, Part

#: What mail programs show of a header section.
_FIELDS: Final = frozenset({b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"date", b"subject"})
#: Fields that are shown of a section; more nobody reads.
_MOST_FIELDS: Final = 100


def mail_view(header: bytes, body: Iterable[bytes], *, colour: bool = False) -> Iterator[str]:
    """Its lines, without newlines. `header`: its header section; `body`: in pieces."""
    section = HeaderSection(header)
    structure, parts = Structure(section), _Parts(colour=colour)
    yield from _fields(section, colour=colour)
    yield ""
    for piece in body:
        yield from parts.take(structure.feed(piece))
    yield from parts.take(structure.finish())
    if not structure.complete:
        yield _styled("[not all of it could be told apart: some programs may see more in it]", MAGENTA, colour=colour)


class _Parts:
    """What is told of the parts of one body."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        #: Of each open part, its number, and how many have begun in it.
        self._open: list[tuple[str, int]] = []
        self._within: list[Part] = []
        self._octets = bytearray()  # of a text part, as far as they are shown
        self._size = 0

    def take(self, events: Iterable[Event]) -> Iterator[str]:
        for event in events:
            match event:
                case Begin(part, section):
                    yield from self._begin(part, section)
                case Content(octets):
                    self._size += len(octets)
                    if self._within[-1].kind.startswith(b"text/"):
                        self._octets += octets[: LONGEST_PART - len(self._octets)]
                case End(part):
                    yield from self._end(part)
                case _:
                    pass

    def _begin(self, part: Part, section: bytes) -> Iterator[str]:
        if self._within and self._within[-1].form == "message":
            yield from _fields(HeaderSection(section), colour=self._colour)
        self._open.append((self._number(part), 0))
        self._within.append(part)
        self._octets.clear()
        self._size = 0
        if part.form != "leaf":
            yield self._heading(part)

    def _number(self, part: Part) -> str:
        """Of a part that begins: a multipart that is all of a message has none of its own."""
        if not self._open:
            return "" if part.form == "multipart" else "1"
        outer, count = self._open[-1]
        if self._within[-1].form == "message" and part.form == "multipart":
            return outer
        self._open[-1] = outer, count + 1
        return f"{outer}.{count + 1}" if outer else str(count + 1)

    def _end(self, part: Part) -> Iterator[str]:
        if part.form == "leaf":
            yield self._heading(part, self._size)
            if part.kind.startswith(b"text/"):
                yield from map(_line, decoded(part, bytes(self._octets)).splitlines())
                if len(self._octets) < self._size:
                    yield _styled(f"[cut here: {size_text(self._size)} in all]", MAGENTA, colour=self._colour)
                yield ""
        self._open.pop()
        self._within.pop()

    def _heading(self, part: Part, size: int | None = None) -> str:
        names = "".join(f' "{name}"' for name in part.names[:1])
        kind = part.kind.decode("ascii", "replace")
        told = [
            f"{self._open[-1][0]} {kind}{names}".lstrip(),
            *[charset.decode("ascii", "replace") for charset in part.charsets[:1]],
        ]
        if part.encoding not in (b"", b"7bit", b"8bit", b"binary"):
            told.append(part.encoding[:40].decode("ascii", "replace"))
        if size is not None:
            told.append(size_text(size))
        return _styled(printable(f"[{', '.join(told)}]"), DIM, colour=self._colour)


def _fields(section: HeaderSection, *, colour: bool) -> Iterator[str]:
    """Those that people see, in order."""
    shown = [field for field in section.fields if field.name.strip().lower() in _FIELDS]
    for field in shown[:_MOST_FIELDS]:
        name = field.name.strip().decode()
        yield f"{_styled(f'{name}:', DIM, colour=colour)} {printable(decode(field.value))}"


def _line(text: str) -> str:
    return printable(text.expandtabs())


def _styled(text: str, style: str, *, colour: bool) -> str:
    return styled(text, style) if colour else text
