r"""The header section: fields as ranges of the octets that came (RFC 5322 §2.2, §3.6; RFC 2047; PROTOCOL §1.11, attack 13).

Theory of operation: the section is one piece of octets. A field is a line and the lines behind it that begin with white space; where fields
begin and end is found once, when they are first asked for. An edit cuts octets out and puts others in, and touches nothing else: order,
spelling, folding and faults of all other fields stay, signatures over them hold.

Invariants: `bytes(section)` is what came, for any octets, until something is edited. Lines end with CRLF only. What is put in is one field:
a name and a value that cannot become another field or the end of the section. There is one reading of a section, this one; what others may
read differently is `malformed`, passes as it came, and is never repaired.
What fields mean (addresses, dates, MIME) does not belong here, nor limits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.mail.words import decode, unfold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Field", "HeaderSection", "decode", "find_body", "unfold"]

#: RFC 5322 §2.1.1: octets of a line without its CRLF, in what we write.
MAX_LINE: Final = 998

# RFC 5322 §2.2, §3.6.8
#   field-name = 1*ftext
#   ftext      = %d33-57 / %d59-126
_NAME: Final = re.compile(rb"[!-9;-~]+")
# RFC 5322 §2.2.3: lines after the first begin with white space and have something else in them (a line of white space alone is obsolete,
# §4.2, and the end of the section to some readers).
_VALUE: Final = re.compile(rb"[^\r\n\0]*+(?:\r\n[ \t]++[^\r\n\0 \t][^\r\n\0]*+)*")
# A field that all readers read alike but for NUL and bare LF, which are looked for in the whole section (to scan for one octet is twice as fast
# as for a set); or else all that is left: a search that went on behind what does not match would take quadratic time.
_PLAIN_FIELD: Final = re.compile(rb"(?s:([!-9;-~]++):([^\r]*+(?>(?:\r\n[ \t]++[^\r\n\0 \t][^\r]*+)*))\r\n|(.+))")
# Any octets up to a CRLF without white space behind it: name, what is between it and the colon (§4.5.8), value. A line without a colon is all value.
_FIELD: Final = re.compile(rb"(?:([!-9;-~]++)([ \t]*+):)?([^\r]*+(?:\r(?!\n(?![ \t]))[^\r]*+)*)(?:\r\n|\Z)")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_BLANK_LINE: Final = re.compile(rb"\r\n[ \t]++(?=\r\n|\Z)")

#: RFC 5322 §3.6: once at most; RFC 2045 §3 has the others once by its grammar. Two of them, and two readers choose differently.
SINGLE: Final = frozenset({
    b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"date", b"subject", b"message-id", b"in-reply-to", b"references",
    b"mime-version", b"content-type", b"content-transfer-encoding",
})  # fmt: skip


def find_body(content: bytes, start: int = 0) -> tuple[int, int] | None:
    """Where the header section ends and where the body begins (the empty line is between them); None where no empty line has come.

    Content that begins with the empty line has an empty section. Octets before `start` have been searched before.
    """
    if content.startswith(b"\r\n"):
        return 0, 2
    end = content.find(b"\r\n\r\n", start - 3 if start > 3 else 0)
    return None if end < 0 else (end + 2, end + 4)


class Field(msgspec.Struct, frozen=True, gc=False):
    """A field as it came: `value` is all between the colon and the last CRLF, space and folding included.

    `start` and `end` are its range in the section, CRLF included. A line without a colon has an empty name and is all value.
    """

    name: bytes
    value: bytes
    start: int
    end: int


class HeaderSection:
    """The octets up to the empty line, without it. Names are matched without case; the n-th field of a name counts from 1."""

    __slots__ = ("_by_name", "_fields", "_found", "_names", "_plain", "_raw", "_texts")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        # What the first reading finds: names in lower case, None for a line that is no field; and of each its name and value as they came.
        self._names: list[bytes | None] | None = None
        self._found: list[tuple[bytes, bytes, bytes]] = []
        self._plain = True  # but for NUL and bare LF, which are not looked for yet
        # What is made of that when it is asked for. Most messages pass with a few questions, which need none of it.
        self._fields: list[Field] | None = None
        self._by_name: dict[bytes, list[Field]] | None = None
        self._texts: dict[bytes, tuple[str, ...]] = {}

    def __bytes__(self) -> bytes:
        return self._raw

    # Reading.

    def _read(self) -> list[bytes | None]:
        """The names of all fields, of each line one."""
        if self._names is None:
            found = self._found = _PLAIN_FIELD.findall(self._raw)
            self._plain = not found or not found[-1][2]
            if self._plain:
                self._names = [name.lower() for name, _, _ in found]
            else:
                self._fields = _all_fields(self._raw)
                self._found = [(field.name, field.value, b"") for field in self._fields]
                self._names = [field.name.lower() or None for field in self._fields]
        return self._names

    @property
    def fields(self) -> list[Field]:
        """All fields in order, and the lines that are none. Not to be changed."""
        self._read()
        if self._fields is None:
            fields, end = [], 0
            for name, value, _ in self._found:
                start, end = end, end + len(name) + len(value) + 3  # a colon and CRLF
                fields.append(Field(name, value, start, end))
            self._fields = fields
        return self._fields

    @property
    def field_count(self) -> int:
        """How many `fields` there are."""
        return len(self._read())

    def _index(self) -> dict[bytes, list[Field]]:
        if self._by_name is None:
            index: dict[bytes, list[Field]] = {}
            for key, field in zip(self._read(), self.fields, strict=True):
                if key is None:
                    continue
                if key in index:
                    index[key].append(field)
                else:
                    index[key] = [field]
            self._by_name = index
        return self._by_name

    def _named(self, name: bytes) -> Sequence[Field]:
        return self._index().get(name.lower(), ())

    def get_all(self, name: bytes) -> list[Field]:
        return list(self._named(name))

    def first_text(self, name: bytes) -> str | None:
        """What the first field of that name says (`decode`)."""
        names, key = self._read(), name.lower()
        return decode(self._found[names.index(key)][1]) if key in names else None

    @property
    def names(self) -> Iterable[bytes]:
        """Each once, in lower case."""
        return self._index().keys()

    def texts(self, name: bytes) -> tuple[str, ...]:
        """What the fields of that name say (`decode`); many rules ask for the same few."""
        found = self._texts.get(name)
        if found is None:
            found = self._texts[name] = tuple([decode(field.value) for field in self._named(name)])
        return found

    def count(self, name: bytes) -> int:
        return self._read().count(name.lower())

    @property
    def starts_with_space(self) -> bool:
        """The first line would become part of any field that is put on top of it (attack 13)."""
        return self._raw.startswith((b" ", b"\t"))

    @property
    def malformed(self) -> str | None:
        """What in the section others may read differently, the first of it, in words; None where there is nothing."""
        names, raw = self._read(), self._raw
        if not self._plain or 0 in raw or raw.count(b"\n") != raw.count(b"\r"):
            for number, field in enumerate(self.fields, 1):
                if (what := self._fault(field)) is not None:
                    return f"{what} in field {number}"
        if len(set(names)) < len(names):
            for key, (name, _, _) in zip(names, self._found, strict=True):
                if key in SINGLE and names.count(key) > 1:
                    return f"more than one {name.decode('ascii')} field"
        return None

    def _fault(self, field: Field) -> str | None:
        raw = self._raw[field.start : field.end]
        if not field.name:
            return _why_no_field(raw)
        if not raw.startswith(b":", len(field.name)):
            return "white space before the colon"
        if b"\0" in raw:
            return "a NUL"
        if _BARE.search(raw):
            return "a bare CR or LF"
        if _BLANK_LINE.search(raw):
            return "a line of white space alone"
        return None if raw.endswith(b"\r\n") else "no CRLF at the end"

    # Editing. Each raises ValueError where what is put in is not one field, and then nothing is changed. A value gets a space before it
    # where it brings no white space.

    def add(self, name: bytes, value: bytes) -> None:
        """A field behind all others."""
        self.insert(len(self.fields), name, value)

    def insert(self, index: int, name: bytes, value: bytes) -> None:
        """A field before the one that has this index now: 0 is the top, the number of fields or more the end."""
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"expected a field name of printable ASCII without colon and space, got {name[:80]!r}")
        if index < 0:
            raise ValueError(f"expected an index from 0, got {index}")
        field = b"%b:%b\r\n" % (name, _sound_value(name, value))
        fields = self.fields
        if index == 0 and self.starts_with_space:
            raise ValueError("the section begins with white space: its first line would become part of the new field")
        at = fields[index].start if index < len(fields) else len(self._raw)
        if at and not self._raw.endswith(b"\r\n", 0, at):
            field = b"\r\n" + field  # the last line has no end
        self._splice(at, at, field)

    def change(self, name: bytes, n: int, value: bytes) -> bool:
        """Another value for the n-th field of this name, which keeps its place and spelling; False where there is none."""
        found = self._named(name)
        if not 1 <= n <= len(found):
            return False
        field = found[n - 1]
        end = field.end - (2 if self._raw.endswith(b"\r\n", field.start, field.end) else 0)
        self._splice(end - len(field.value), end, _sound_value(field.name, value))
        return True

    def delete(self, name: bytes, n: int | None = None) -> int:
        """The n-th field of this name goes, or all; how many went."""
        found = self._named(name)
        gone = found if n is None else found[n - 1 : n] if n >= 1 else ()
        for field in reversed(gone):
            self._splice(field.start, field.end, b"")
        return len(gone)

    def _splice(self, start: int, end: int, octets: bytes) -> None:
        self._raw = self._raw[:start] + octets + self._raw[end:]
        self._names = self._fields = self._by_name = None
        self._texts = {}


def _all_fields(raw: bytes) -> list[Field]:
    fields: list[Field] = []
    end = 0
    for name, space, value in _FIELD.findall(raw):
        if end == len(raw):
            break  # \Z matches once more
        start, end = end, min(end + len(name) + len(space) + bool(name) + len(value) + 2, len(raw))
        fields.append(Field(name, value, start, end))
    return fields


def _why_no_field(line: bytes) -> str:
    if line.startswith((b" ", b"\t")):
        return "white space at the beginning"
    if line.startswith((b"From ", b">From ")):
        return "an mbox separator"  # mbox readers end the message here
    if line == b"\r\n":
        return "an empty line"
    name, colon, _ = line.partition(b"\r\n")[0].partition(b":")
    if colon and b"\0" in name:
        return "a NUL in the name"
    return "a name that is none" if colon else "no colon"


def _sound_value(name: bytes, value: bytes) -> bytes:
    """The value as it is written behind the colon. Raises ValueError."""
    if _VALUE.fullmatch(value) is None:
        raise ValueError(
            f"expected a value of {name.decode('ascii')} without NUL, with CR and LF only where a line is folded before "
            f"white space and text, got {value[:80]!r}"
        )
    if not value.startswith((b" ", b"\t", b"\r\n")):
        value = b" " + value
    for number, line in enumerate((name + b":" + value).split(b"\r\n"), 1):
        if len(line) > MAX_LINE:
            raise ValueError(
                f"expected lines of at most {MAX_LINE} octets, got {len(line)} in line {number} of {name.decode('ascii')}"
            )
    return value
