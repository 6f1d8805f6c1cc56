"""The parts of a body, cut out of a stream of octets (RFC 2046 §5.1, §5.2.1; PROTOCOL attack 19).

    structure = Structure(header)
    for piece in body:
        for event in structure.feed(piece): ...
    for event in structure.finish(): ...

Theory of operation: a stack of open parts, the message itself below. A line that begins with "--" and goes on with the boundary of an open multipart, the outermost
first, ends all parts in it, and begins its next part or what is between parts. After that line comes the part's header section, and its octets; of a message in a
message the next header section. Octets that cannot be judged yet are held: the beginning of a line that may be a delimiter, with the line end before it, which is its own.

Invariants: what the events hold, one behind the other, is the body, octet for octet; they do not depend on how it was cut into pieces (but for where `Content` and
`Between` are cut). Memory holds a part's header section and a line at most. PARTS parts, DEPTH deep; what is beyond is not cut up: the last part of all, opaque.
Where programs differ in what is a part, each that one of them sees is one: a multipart goes on behind its last delimiter, a boundary that can be read in two ways is
two, of two Content-Types both are followed. `complete` is False where something was left that a program might look into.
What is in a part does not belong here (body_text.py), nor what is done with it (mime.py, body_edit.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from relayproxy.mail.header import HeaderSection, unfold
from relayproxy.mail.parameters import LONGEST, file_names, values, without_comments
from relayproxy.mail.words import readings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.mail.header import Field

PARTS: Final = 1000
DEPTH: Final = 50
#: Parameters that are read for names, of all parts: what nobody writes would take most of the time.
PARAMETERS: Final = 8 * PARTS
#: Octets of a part's header section; what comes after them is taken for its body.
LONGEST_SECTION: Final = 256 * 1024
#: Octets of a line that may be a delimiter: any white space may follow the boundary.
_LONGEST_LINE: Final = 8 * 1024
_LONGEST_BOUNDARY: Final = 1024
#: Octets of a Content-Type before its parameters.
_LONGEST_TYPE: Final = 512
#: Of one part: fields and readings that are followed.
_FIELDS: Final = 4
_BOUNDARIES: Final = 8

# RFC 2045 §5.1:  content := "Content-Type" ":" type "/" subtype *(";" parameter)
_TYPE: Final = re.compile(rb"[ \t]*+([!-.0-:<-~]++)[ \t]*+/[ \t]*+([!-.0-:<-~]++)")
_MULTIPART: Final = re.compile(rb"[\s\"']*+multipart\b", re.IGNORECASE)
_MESSAGE: Final = re.compile(rb"[\s\"']*+message\s*+/\s*+(?:rfc822|global|news)\b", re.IGNORECASE)
_ENCODED: Final = re.compile(rb"base64|quoted-printable|uu", re.IGNORECASE)
# Only these are read, so that a section of nothing but fields costs little (the order of fields with one name stays).
_CONTENT_FIELD: Final = re.compile(
    rb"^content-(?:type|disposition|transfer-encoding)[ \t]*:[^\n]*+(?:\n[ \t][^\n]*+)*\n?",
    re.IGNORECASE | re.MULTILINE,
)
# RFC 2046 §5.1.1:  delimiter := CRLF "--" boundary,  close-delimiter := delimiter "--",  transport-padding := *LWSP-char
_DASHES: Final = re.compile(rb"\n--([^\n]*+)(?=\n)")
_PADDING: Final = b" \t\r"


class Part(NamedTuple):
    """What its header section says. `kind`: type and subtype in lower case. `encoding`: in lower case. `names`: what may be its file's name, decoded."""

    kind: bytes
    encoding: bytes
    charsets: tuple[bytes, ...]
    names: tuple[str, ...]
    #: "multipart" has boundaries, "message" has a message in it, "leaf" has no parts.
    form: Literal["multipart", "message", "leaf"]
    boundaries: tuple[bytes, ...]
    #: All of it could be read.
    complete: bool
    #: How many parameters were read for names.
    cost: int


class Begin(NamedTuple):
    """A part. `section`: its header section, with the empty line where there is one; of the message itself nothing."""

    part: Part
    section: bytes


class Content(NamedTuple):
    """Octets of the part that began last."""

    octets: bytes


class Between(NamedTuple):
    """Octets of no part that has none in it: delimiters, with the line end before them, and what is before the first and behind the last."""

    octets: bytes


class End(NamedTuple):
    """Of the part that is innermost now."""

    part: Part


Event = Begin | Content | Between | End


def read_part(section: bytes, *, otherwise: bytes = b"text/plain", with_names: bool = True) -> Part:
    """`otherwise`: what it is where it does not say (RFC 2046 §5.1.5)."""
    header = HeaderSection(b"".join(_CONTENT_FIELD.findall(section)))
    types, complete = _values(header.get_all(b"Content-Type"))
    places, all_places = _values(header.get_all(b"Content-Disposition"))
    complete &= all_places
    complete &= with_names
    names: dict[str, None] = {}
    cost = 0
    for value in (*places, *types) if with_names else ():
        found = file_names(value)
        names.update(dict.fromkeys(found.names))
        complete &= found.complete
        cost += found.cost
    encodings = header.get_all(b"Content-Transfer-Encoding")
    encoding_name = encodings[0].value.strip().lower() if encodings else b""
    form, boundaries = _form(types or [otherwise])
    if form != "leaf":
        # Wrong (RFC 2045 §6.4), and undone by some.
        complete &= not any(_ENCODED.search(field.value[:LONGEST]) for field in encodings)
    if form == "multipart":
        complete &= 0 < len(boundaries) <= _BOUNDARIES
        form = form if boundaries else "leaf"
    elif form == "leaf":
        complete &= all(_form(_in_words(value))[0] == "leaf" for value in types)
    kind = _kind(types[0]) if types else otherwise
    charsets = tuple(values(types[0], b"charset")) if types and kind.startswith(b"text/") else ()
    return Part(kind, encoding_name, charsets, tuple(names), form, boundaries[:_BOUNDARIES], complete, cost)


def message_part(header: HeaderSection) -> Part:
    """The message itself; where it has parts to all who read it, its file's name is nobody's."""
    part = read_part(bytes(header))
    has_parts = part.form == "multipart" and header.count(b"Content-Type") == len(part.boundaries) == 1
    return part._replace(names=()) if has_parts else part


def _values(fields: list[Field]) -> tuple[list[bytes], bool]:
    return [unfold(field.value[:LONGEST]) for field in fields[:_FIELDS]], len(fields) <= _FIELDS


def _kind(value: bytes) -> bytes:
    match = _TYPE.match(without_comments(value[:_LONGEST_TYPE]))
    return b"text/plain" if match is None else b"%b/%b" % (match[1].lower(), match[2].lower())


def _in_words(value: bytes) -> list[bytes]:
    """What a type is to who decodes encoded-words before he reads it."""
    return [text.encode("utf-8") for text in readings(value)] if b"=?" in value[:_LONGEST_TYPE] else []


def _form(types: list[bytes]) -> tuple[Literal["multipart", "message", "leaf"], tuple[bytes, ...]]:
    plain = [without_comments(value[:_LONGEST_TYPE]) for value in types]
    if any(_MULTIPART.match(value) for value in plain):
        found: dict[bytes, None] = {}
        for value in types:
            found.update(dict.fromkeys([reading.rstrip() for reading in values(value, b"boundary")]))
        return "multipart", tuple(boundary for boundary in found if 0 < len(boundary) <= _LONGEST_BOUNDARY)
    return ("message" if any(_MESSAGE.match(value) for value in plain) else "leaf"), ()


class Structure:
    """One body. `complete` is of what has come so far."""

    def __init__(self, header: HeaderSection) -> None:
        """`header`: the message's."""
        self.complete = True
        self._events: list[Event] = []
        #: Undecided: it begins with a line end, or, `_at_line_start`, behind one, or else with a CR.
        self._held = b""
        self._at_line_start = True
        self._open: list[Part] = []
        #: What may stand behind "--": which open part it is a boundary of, and whether another part begins.
        self._delimiters: dict[bytes, tuple[int, bool]] = {}
        self._count = 0
        self._cost = 0
        self._section: bytearray | None = None  # of a part that has not begun
        self._otherwise = b"text/plain"
        self._opaque = False
        self._begin(message_part(header), b"")

    def feed(self, octets: bytes) -> list[Event]:
        """What some more octets give."""
        lead = b"\n" if self._at_line_start else b""
        data = lead + self._held + octets
        at = self._cut(data, len(lead))
        if self._opaque:
            self._held, self._at_line_start = b"", False
            self._release(data, at, len(data))
        else:
            self._hold(data, at)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What there is at the end of the body: all parts end."""
        lead = b"\n" if self._at_line_start else b""
        data = lead + self._held
        newline = data.rfind(b"\n")
        line = data[newline + 1 :]
        found = self._found(line[2:]) if newline >= 0 and line.startswith(b"--") else None
        if found is not None:
            self._delimiter(data, len(lead), newline, len(data), found)
        else:
            self._release(data, len(lead), len(data))
        while self._section is not None:
            self._section_ended()
        self._end(0)
        self._held, self._at_line_start = b"", False
        events, self._events = self._events, []
        return events

    def _cut(self, data: bytes, at: int) -> int:
        """Whole lines that mean something; up to where that was."""
        lines = _DASHES.finditer(data)
        line = self._next_line(lines)
        while not self._opaque:
            newline = len(data) if line is None else line.start()
            if self._section is not None:
                empty = data.find(b"\n\r\n", max(at - 1, 0), newline + 1)
                if empty >= 0:
                    at = self._release(data, at, empty + 3)
                    if self._section is not None:
                        self._section_ended()
                    continue
                if line is not None:  # a section may be full: then this line is seen by what comes behind it
                    at = self._release(data, at, _before_line_end(data, at, newline))
            if line is None:
                break
            if (found := self._found(line[1])) is not None:
                at = self._delimiter(data, at, newline, line.end() + 1, found)
            elif self._section is not None:
                at = self._release(data, at, newline + 1)
            line = self._next_line(lines)
        return at

    def _next_line(self, lines: Iterator[re.Match[bytes]]) -> re.Match[bytes] | None:
        """That may be a delimiter: outside of a section it is known now, and many may be none."""
        delimiters = self._delimiters
        for line in lines:
            if self._section is not None or line[1].rstrip(_PADDING) in delimiters or len(line[1]) > _LONGEST_LINE:
                return line
        return None

    def _hold(self, data: bytes, at: int) -> None:
        """Let go of what can be judged: all but a line that has only begun, and may be a delimiter or an empty line."""
        newline = data.rfind(b"\n", max(at - 1, 0))
        if newline >= 0:
            at = self._release(data, at, _before_line_end(data, at, newline))
            line = data[newline + 1 :]
            if line in {b"", b"-", b"\r"} or (line.startswith(b"--") and self._may_be_delimiter(line[2:])):
                self._held, self._at_line_start = data[at:], at > newline
                return
        end = len(data) - 1 if data.endswith(b"\r") else len(data)
        self._release(data, at, end)
        self._held, self._at_line_start = data[end:], False

    def _release(self, data: bytes, at: int, end: int) -> int:
        """Octets that mean nothing by themselves."""
        while at < end and self._section is not None:
            taken = data[at : min(end, at + LONGEST_SECTION - len(self._section))]
            self._section += taken
            at += len(taken)
            if at < end:
                self.complete = False
                self._section_ended()
        if at < end:
            is_content = self._open[-1].form == "leaf" and not self._opaque
            octets = data[at:end]
            self._events.append(Content(octets) if is_content else Between(octets))
        return max(at, end)

    def _found(self, line: bytes) -> tuple[int, bool] | None:
        """What a line is that has this behind its "--"."""
        if len(line) > _LONGEST_LINE:
            if line[:_LONGEST_LINE].rstrip(_PADDING) in self._delimiters:
                self.complete = False
            return None
        return self._delimiters.get(line.rstrip(_PADDING))

    def _may_be_delimiter(self, beginning: bytes) -> bool:
        if len(beginning) > _LONGEST_LINE:
            self._found(beginning)
            return False
        text = beginning.rstrip(_PADDING)
        return any(delimiter.startswith(text) for delimiter in self._delimiters)

    def _delimiter(self, data: bytes, at: int, newline: int, end: int, found: tuple[int, bool]) -> int:
        """A line that is one: `newline` is the line end before it, `end` is behind its own."""
        level, opens = found
        start = _before_line_end(data, at, newline)
        self._release(data, at, start)
        while self._section is not None:
            self._section_ended()
        self._opaque = opens and self._count == PARTS
        self._end(1 if self._opaque else level + 1)
        self._events.append(Between(data[start:end]))
        if self._opaque:
            self.complete = False
        elif opens:
            self._next_part(b"message/rfc822" if self._open[-1].kind == b"multipart/digest" else b"text/plain")
        return end

    def _next_part(self, otherwise: bytes) -> None:
        self._section = bytearray()
        self._otherwise = otherwise

    def _section_ended(self) -> None:
        section = bytes(self._section or b"")
        self._section = None
        with_names = self._cost < PARAMETERS
        self._begin(read_part(section, otherwise=self._otherwise, with_names=with_names), section)

    def _begin(self, part: Part, section: bytes) -> None:
        self._count += 1
        self._cost += part.cost
        self.complete &= part.complete
        if part.form != "leaf" and (len(self._open) >= DEPTH or (part.form == "message" and self._count == PARTS)):
            part = part._replace(form="leaf", boundaries=())
            self.complete = False
        self._open.append(part)
        self._events.append(Begin(part, section))
        if part.form == "multipart":
            self._know_delimiters()
        elif part.form == "message":
            self._next_part(b"text/plain")

    def _end(self, level: int) -> None:
        """All open parts from this level up."""
        multipart = False
        while len(self._open) > level:
            part = self._open.pop()
            multipart |= part.form == "multipart"
            self._events.append(End(part))
        if multipart:
            self._know_delimiters()

    def _know_delimiters(self) -> None:
        boundaries = [(boundary, level) for level, part in enumerate(self._open) for boundary in part.boundaries]
        self._delimiters = {}
        for boundary, level in boundaries:
            self._delimiters.setdefault(boundary, (level, True))
        for boundary, level in boundaries:
            self._delimiters.setdefault(boundary + b"--", (level, False))


def _before_line_end(data: bytes, at: int, newline: int) -> int:
    """Where the CRLF of this LF begins, but not before `at`."""
    return max(at, newline - 1 if newline and data[newline - 1] == 13 else newline)
