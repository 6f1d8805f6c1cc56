"""Edits of a body: attachments taken out of it as it passes, and another body in its place (DESIGN §6 "Actions"; PROTOCOL §1.11).

    stripper = Stripper(header, Pattern.parse("*.exe"))
    stripper.edits                                          # of the message's header section
    for piece in body:
        out(stripper.feed(piece))
    out(stripper.finish())

    edits, octets = plain_body(header, "No longer here.")

Invariants: what is no removed part leaves octet for octet, signed or not. A removed part's place is taken by a part of plain ASCII in short lines that says so. What ended
with CRLF does so still; no bare CR or LF is made. Memory is bounded. Octets here are without dot-stuffing.
What an edit is noted as does not belong here (rules/facts.py), nor how header edits are made (edits.py).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from relayproxy.mail.edits import AddField, DeleteField
from relayproxy.mail.header import MAX_LINE
from relayproxy.mail.parts import Begin, End, Structure, message_part

if TYPE_CHECKING:
    from relayproxy.mail.edits import HeaderEdit
    from relayproxy.mail.header import HeaderSection
    from relayproxy.mail.parts import Event, Part
    from relayproxy.mail.pattern import Pattern

#: Characters of a name that are shown.
_LONGEST_NAME: Final = 200
_TYPE_OF_NOTICE: Final = "text/plain; charset=us-ascii"
_LINE_END: Final = re.compile(r"\r\n|\r|\n")


class Stripper:
    """One body from which all attachments go whose file name matches, in any reading of it (parts.py)."""

    def __init__(self, header: HeaderSection, pattern: Pattern) -> None:
        """`header`: the message's, as it is read with this body."""
        self._pattern = pattern
        self._structure = Structure(header)
        #: How many parts are open of one that is removed, itself included.
        self._removed = 0
        #: What came out last is a notice: it has no line end yet.
        self._line_is_open = False
        self._ended_with = b"\r\n"  # what came in
        #: The message is one attachment that goes.
        whole = self._matching(message_part(header)) is not None
        self.edits: tuple[HeaderEdit, ...] = _content_fields(header, _TYPE_OF_NOTICE, "7bit") if whole else ()
        self._is_first = True

    def feed(self, octets: bytes) -> bytes:
        """What some more octets give."""
        self._ended_with = (self._ended_with + octets[-2:])[-2:]
        return self._out(self._structure.feed(octets))

    def finish(self) -> bytes:
        """The rest."""
        out = self._out(self._structure.finish())
        if self._line_is_open and self._ended_with == b"\r\n":
            out += b"\r\n"
        return out

    def _out(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case Begin(part, section):
                    self._begin(part, section, out)
                case End():
                    self._removed -= self._removed > 0
                case _:
                    self._pass(event.octets, out)
        return b"".join(out)

    def _begin(self, part: Part, section: bytes, out: list[bytes]) -> None:
        is_message, self._is_first = self._is_first, False
        if self._removed:
            self._removed += 1
        elif (name := self._matching(part)) is None:
            self._pass(section, out)
        else:
            self._removed = 1
            self._line_is_open = True
            fields = "" if is_message else f"Content-Type: {_TYPE_OF_NOTICE}\r\n\r\n"
            out.append(f"{fields}The attachment {_shown(name)} was removed.".encode("ascii"))

    def _pass(self, octets: bytes, out: list[bytes]) -> None:
        if self._removed or not octets:
            return
        if self._line_is_open and not octets.startswith((b"\r\n", b"\n")):
            out.append(b"\r\n")  # the empty line of the part that went was the line end before the delimiter
        self._line_is_open = False
        out.append(octets)

    def _matching(self, part: Part) -> str | None:
        return next(filter(self._pattern.matches, part.names), None)


def plain_body(header: HeaderSection, text: str) -> tuple[tuple[HeaderEdit, ...], bytes]:
    """Header edits and the body that make plain text of a message, ASCII on the wire whatever the text. `text`: any line ends."""
    lines = _LINE_END.split(text)
    if lines[-1]:
        lines.append("")
    octets = "\r\n".join(lines).encode("utf-8", "replace")
    encoding = "7bit"
    if not octets.isascii() or b"\0" in octets or max(map(len, lines)) > MAX_LINE:
        # The shorter one; in text of Latin letters most of quoted-printable can be read as it is.
        quoted = binascii.b2a_qp(octets)
        coded = base64.encodebytes(octets).replace(b"\n", b"\r\n")
        octets, encoding = min((quoted, "quoted-printable"), (coded, "base64"), key=lambda form: len(form[0]))
    return _content_fields(header, "text/plain; charset=utf-8", encoding), octets


def _content_fields(header: HeaderSection, kind: str, encoding: str) -> tuple[HeaderEdit, ...]:
    """Nothing is left of what the fields said of another body."""
    names = dict.fromkeys(field.name.lower() for field in header.fields if field.name.lower().startswith(b"content-"))
    edits: list[HeaderEdit] = [DeleteField(name.decode("ascii")) for name in names]
    if not header.count(b"MIME-Version"):
        edits.append(AddField("MIME-Version", "1.0"))
    return (*edits, AddField("Content-Type", kind), AddField("Content-Transfer-Encoding", encoding))


def _shown(name: str) -> str:
    """Printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in name[:_LONGEST_NAME])
