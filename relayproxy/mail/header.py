"""The header section as byte ranges: found, read and edited without touching an octet that an edit does not name.

RFC 5322 §2.2, §3.6.8; PROTOCOL §1.11. Parsing and emitting is the identity on any octets: what breaks the grammar stays where and as it
is, noted as `malformed`. The `email` package is never asked to write, and to read only a copy of one value (`decode`).

Invariants: a section is the octets up to the empty line, without it; a line ends with CRLF (mail data has no other line ends), the last line
of a message without an empty line may lack it. Names match whatever their case.
Which fields mean what does not belong here (trace.py, rules), nor dot-stuffing (smtp/data.py).
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final, NamedTuple

#: RFC 5322 §2.1.1: a line without its CRLF.
MAX_LINE: Final = 998
#: Of a value that is decoded for the record or a condition; longer ones are cut (attack 19).
MAX_DECODED: Final = 64 * 1024

# RFC 5322 §2.2: field = field-name ":" field-body CRLF; field-name = 1*<%d33-57 / %d59-126>. A field goes on with every line that begins
# with white space. What is no field (no colon, white space before it) is one line by itself, and keeps its place.
_FIELD: Final = re.compile(rb"([!-9;-~]++):([^\r]*+(?:\r(?!\n(?![ \t]))[^\r]*+)*+)(?:\r\n|\Z)")
_NAME: Final = re.compile(rb"[!-9;-~]+")
_BAD_VALUE: Final = re.compile(rb"\x00|\r(?!\n)|(?<!\r)\n|\r\n(?![ \t])")
_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")
#: RFC 5322 §3.6: these stand at most once; two of them are two answers to one question.
_ONCE: Final = frozenset({b"from", b"sender", b"to", b"cc", b"bcc", b"subject", b"date", b"reply-to", b"message-id"})


def find_body(content: bytes) -> tuple[int, int] | None:
    """Where the header section ends and where the body begins, or None while there is no empty line."""
    if content.startswith(b"\r\n"):
        return 0, 2
    end = content.find(b"\r\n\r\n")
    return None if end < 0 else (end + 2, end + 4)


class Field(NamedTuple):
    """A field: its name as written, its value as it came (folded, with the white space behind the colon), its octets' range."""

    name: bytes
    value: bytes
    start: int
    end: int


class HeaderSection:
    """A header section; `bytes(section)` is what it was made of, with the edits that were made."""

    __slots__ = ("_fields", "_names", "_raw", "_stray")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._fields: tuple[Field, ...] | None = None
        self._names: list[bytes] = []  # the fields' names in lower case
        self._stray = False

    def __bytes__(self) -> bytes:
        return self._raw

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields in order. Lines that are none are not listed."""
        if self._fields is None:
            self._fields = tuple(self._parse())
            self._names = [field.name.lower() for field in self._fields]
        return self._fields

    @property
    def names(self) -> list[bytes]:
        """The names of `fields` in lower case."""
        return self._names if self._fields is not None else [field.name.lower() for field in self.fields]

    def _parse(self) -> list[Field]:
        raw, at, match_at = self._raw, 0, _FIELD.match
        fields: list[Field] = []
        while at < len(raw):
            if (match := match_at(raw, at)) is not None:
                end = match.end()
                fields.append(Field(match[1], match[2], at, end))
                at = end
            else:
                self._stray = True
                end = raw.find(b"\r\n", at)
                at = len(raw) if end < 0 else end + 2
        return fields

    @property
    def starts_with_space(self) -> bool:
        """The first line would become part of whatever stands above it."""
        return self._raw[:1] in (b" ", b"\t")

    @property
    def malformed(self) -> str | None:
        """What breaks the grammar, in words: somebody else may read this section in another way (attack 13)."""
        names = self.names
        if self._stray:
            return "a line that is no field"
        if len(names) != len(set(names)):
            for name in _ONCE:
                if names.count(name) > 1:
                    return f"{name.decode('ascii')} more than once"
        if names and not self._raw.endswith(b"\r\n"):
            return "a last line without an end"
        return None

    # Find.

    def get_all(self, name: bytes) -> list[Field]:
        wanted = name.lower()
        return [field for field, known in zip(self.fields, self.names, strict=True) if known == wanted]

    def first(self, name: bytes) -> Field | None:
        wanted = name.lower()
        names = self.names
        return self.fields[names.index(wanted)] if wanted in names else None

    def count(self, name: bytes) -> int:
        return self.names.count(name.lower())

    # Edit. Each raises ValueError for a name or a value that cannot stand in a field.

    def _splice(self, start: int, end: int, octets: bytes) -> None:
        self._raw = self._raw[:start] + octets + self._raw[end:]
        self._fields = None
        self._stray = False

    def add(self, name: bytes, value: bytes) -> None:
        """Put a field at the end."""
        line = field_line(name, value)
        whole = not self._raw or self._raw.endswith(b"\r\n")
        self._splice(len(self._raw), len(self._raw), line if whole else b"\r\n" + line)

    def insert(self, index: int, name: bytes, value: bytes) -> None:
        """Put a field before the index-th (0: on top); past the last it goes to the end."""
        fields = self.fields
        if index < 0:
            raise ValueError(f"expected an index from 0, got {index}")
        if index >= len(fields):
            self.add(name, value)
            return
        at = fields[index].start if index else 0
        self._splice(at, at, field_line(name, value))

    def change(self, name: bytes, n: int, value: bytes) -> bool:
        """Give the n-th field of that name (from 1) another value; False where there is none. Its name stays as written."""
        line = field_line(name, value)
        found = self.get_all(name)
        if not 1 <= n <= len(found):
            return False
        field = found[n - 1]
        end = b"\r\n" if self._raw[field.end - 2 : field.end] == b"\r\n" else b""
        self._splice(field.start, field.end, field.name + line[len(name) : -2] + end)
        return True

    def delete(self, name: bytes, n: int | None = None) -> int:
        """Take away the n-th field of that name (from 1), or all of them; how many went."""
        found = self.get_all(name)
        if n is not None:
            found = found[n - 1 : n] if n >= 1 else []
        for field in reversed(found):
            self._splice(field.start, field.end, b"")
        return len(found)


def field_line(name: bytes, value: bytes) -> bytes:
    """A field as it stands in a section. Raises ValueError: nothing can smuggle a second field, or the end of the section, in a value."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"expected a field name of printable ASCII without a colon, got {name!r}")
    if _BAD_VALUE.search(value) is not None:
        raise ValueError("expected a value without NUL and with line ends only where a line is folded")
    line = name + b": " + value
    for part in line.split(b"\r\n"):
        if len(part) > MAX_LINE:
            raise ValueError(f"expected lines of at most {MAX_LINE} octets, got {len(part)}")
        if not part.strip(b" \t"):
            raise ValueError("expected no line of white space alone inside of a field")
    return line + b"\r\n"


def unfold(value: bytes) -> bytes:
    """A value on one line, without white space around it (RFC 5322 §2.2.3)."""
    return (_FOLD.sub(b"", value) if b"\r" in value else value).strip(b" \t")


def decode(value: bytes) -> str:
    """A value as people read it: unfolded, encoded words decoded (RFC 2047). Never raises; octets that are no text become U+FFFD."""
    unfolded = unfold(value[:MAX_DECODED])
    text = unfolded.decode("utf-8", "replace")
    if "=?" not in text:
        return text
    try:
        return "".join([_word(part, charset) for part, charset in decode_header(text)])
    except (HeaderParseError, ValueError):  # base64 that is none
        return text


def _word(part: bytes | str, charset: str | None) -> str:
    if isinstance(part, str):
        return part
    if charset is None:
        return part.decode(
            "raw-unicode-escape", "replace"
        )  # how decode_header gives back what stood between encoded words
    try:
        return part.decode(charset, "replace")
    except (LookupError, ValueError):  # a charset nobody knows
        return part.decode("utf-8", "replace")
