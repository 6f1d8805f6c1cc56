"""What a message's body says to people: its text parts, decoded (RFC 2045, RFC 2046), HTML without its tags.

For searches and conditions, made of a copy. Invariants: no input raises, none takes long; at most TEXT characters come of it, and memory holds twice that of octets.
It is lenient where readers are: what names no type is plain text, what names no character set that is known is UTF-8, a part without
an end ends with its parent. Attachments that are text count; names of files do not belong here (mime.py), nor what a part is (parts.py).
"""

from __future__ import annotations

import binascii
import html
import re
from typing import TYPE_CHECKING, Final

from relayproxy.mail.header import HeaderSection
from relayproxy.mail.parts import Begin, Content, End, Structure
from relayproxy.mail.words import known_charset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.mail.parts import Event, Part

#: Octets of a body that are looked at for an index.
OCTETS: Final = 16 << 20
TEXT: Final = 1 << 20
#: Octets of a text part that are decoded: base64 in short lines takes more than its third.
LONGEST_PART: Final = 2 * TEXT
#: Octets that are looked at between two looks at whether there is enough.
_PIECE: Final = 256 * 1024

# Up to the next tag at most, so that many that are not closed cost no more than one.
_TAG: Final = re.compile(r"<[^<>]*+>")


def body_text(header: bytes, body: bytes) -> str:
    """The text of a body whose header section this is, parts separated by newlines."""
    structure, parts = Structure(HeaderSection(header)), TextParts()
    for at in range(0, min(len(body), OCTETS), _PIECE):
        parts.take(structure.feed(body[at : min(at + _PIECE, OCTETS)]))
        if parts.enough:
            break
    parts.take(structure.finish())
    return parts.text


class TextParts:
    """The text of what a Structure tells."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._left = TEXT
        self._octets: bytearray | None = None  # of a text part

    @property
    def enough(self) -> bool:
        """No more text would be taken."""
        return self._left <= 0

    @property
    def text(self) -> str:
        """Of the parts that have ended, separated by newlines."""
        return "\n".join(self._texts)[:TEXT]

    def take(self, events: Iterable[Event]) -> None:
        """What came next of the body."""
        for event in events:
            match event:
                case Begin(part):
                    is_text = part.form == "leaf" and part.kind.startswith(b"text/") and not self.enough
                    self._octets = bytearray() if is_text else None
                case Content(octets) if self._octets is not None:
                    self._octets += octets[: LONGEST_PART - len(self._octets)]
                case End(part) if self._octets is not None:
                    text = _text(part, bytes(self._octets))
                    self._octets = None
                    if text:
                        self._texts.append(text[: self._left])
                        self._left -= len(text) + 1
                case _:
                    pass


def decoded(part: Part, octets: bytes) -> str:
    """A text part's text, markup as it is written."""
    charset = next(filter(None, map(known_charset, filter(bytes.isascii, part.charsets))), "utf-8")
    return _decoded(part.encoding, octets).decode(charset, "replace")


def _text(part: Part, octets: bytes) -> str:
    text = decoded(part, octets)
    if part.kind in {b"text/html", b"text/xhtml"}:
        return html.unescape(_TAG.sub(" ", text))
    return text


def _decoded(encoding: bytes, octets: bytes) -> bytes:
    """Out of the transfer encoding (RFC 2045 §6); one that is unknown or broken is none."""
    match encoding:
        case b"quoted-printable":
            return binascii.a2b_qp(octets)
        case b"base64":
            letters = re.sub(rb"[^A-Za-z0-9+/]", b"", octets.partition(b"=")[0])  # behind a "=" is nothing (§6.8)
            if len(letters) % 4 == 1:
                letters = letters[:-1]  # cut off
            return binascii.a2b_base64(letters + b"==")
        case _:
            return octets
