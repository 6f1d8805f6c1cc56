r"""Parameters of Content-Type and Content-Disposition in all readings that mail programs have of them (RFC 2045 §5.1, RFC 2183, RFC 2231, RFC 2047).

Theory of operation: programs differ in what they make of odd quoting, of a parameter that is there twice, of space, comments, and words where none may be. A rule
that is to keep a file out must know every name that anybody may show; so a parameter is looked for wherever its name and a "=" stand behind what can part
parameters, also within quotes, and each gives all readings, the usual first. That one reading too many is given does little harm.

    file_names(b'attachment; filename="a.txt".exe').names         # ("a.txt", "a.txt.exe")
    values(b"multipart/mixed; boundary=a b", b"boundary")         # [b"a b", b"a"]

Invariants: no input raises, none takes long: LONGEST octets and PLACES parameters are read; whether that was all is told.
Which fields are looked at does not belong here (mime.py), nor what a name is matched with.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from relayproxy.mail.words import readings, readings_in

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Octets of a field's value that are read.
LONGEST: Final = 64 * 1024
#: Parameters of one field of which a name is read; RFC 2231 makes some forty of the longest name that a file can have.
PLACES: Final = 64
#: Octets of one value that are read; no system has names as long.
_LONGEST_VALUE: Final = 4 * 1024

# RFC 2045 §5.1, RFC 2231 §7
#   parameter := attribute ["*" section] ["*"] "=" value
_PLACE: Final = rb"(?<![^\s;,\"'()])(%b)[ \t]*(?:\*[ \t]*([0-9]{1,9}))?[ \t]*(\*)?[ \t]*="
_FILE_NAME: Final = re.compile(_PLACE % rb"filename|name", re.IGNORECASE)
_QUOTED: Final = re.compile(rb'"((?:[^"\\]++|\\.)*)"([^;]*+)', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
# An encoded-word may have a ";" in it.
_UNQUOTED: Final = re.compile(rb"(?:=\?[^?;]*+\?[^?;]*+\?[^?]*+\?=|[^;])*")
_TOKEN: Final = re.compile(rb"[^\s;\"(),]*+")
# RFC 2231 §7:  extended-initial-value := [charset] "'" [language] "'" extended-other-values
_EXTENDED: Final = re.compile(rb"([A-Za-z0-9_.:+-]{0,40})'[A-Za-z0-9-]{0,40}'(.*)", re.DOTALL)
#: What Python takes for character sets, in words and in RFC 2231, and words.py does not, for they may take long.
_ODD_CHARSET: Final = re.compile(
    rb"(?:=\?|\*[ \t]*=[\s\"]*)[^?'\r\n]{0,20}?(?:idna|punycode|unicode[^?'\r\n]{0,3}escape)", re.IGNORECASE
)
_COMMENT: Final = re.compile(rb'("(?:[^"\\]++|\\.)*")|\((?:[^()\\]++|\\.)*\)', re.DOTALL)
# Where a scan from an opener finds no end, none does from one that is escaped in it, and each would cost a scan again.
_ESCAPED_QUOTES: Final = re.compile(rb'(")([^"\\]*+(?:\\.[^"\\]*+)+)(?=("?))', re.DOTALL)
_ESCAPED_PARENTHESES: Final = re.compile(rb"(\()([^()\\]*+(?:\\.[^()\\]*+)+)(?=(\)?))", re.DOTALL)
_DEEPEST_COMMENT: Final = 5
_COMMENTS: Final = 1000
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")


class FileNames(NamedTuple):
    """`complete`: all of the value was read. `cost`: how many parameters were."""

    names: tuple[str, ...]
    complete: bool
    cost: int


class _Part(NamedTuple):
    """One parameter, or one section of one."""

    name: bytes
    section: int | None
    extended: bool
    readings: list[bytes]


def file_names(value: bytes) -> FileNames:
    """What may be a file's name in a value that is unfolded, decoded, each once."""
    complete = len(value) <= LONGEST and value.count(b"(") <= _COMMENTS and _ODD_CHARSET.search(value) is None
    names: dict[str, None] = {}
    cost = 0
    for form in _forms(value[:LONGEST]):
        parts = list(_parts(form, _FILE_NAME))
        cost += len(parts)
        complete &= len(parts) < PLACES and all(len(part.readings[0]) < _LONGEST_VALUE - 1 for part in parts)
        found = dict.fromkeys(
            (reading, part.extended) for part in parts if part.section is None for reading in part.readings
        )
        texts = dict.fromkeys(
            text
            for reading, extended in found
            for text in (_said(*_percent_decoded(reading)) if extended else readings(reading))
        )
        for text in texts | dict.fromkeys(_joined(parts)):
            names.update(dict.fromkeys(_shown(text)))
    names.pop("", None)
    return FileNames(tuple(names), complete, cost)


def names_of(value: bytes) -> list[str]:
    """What may be the name of a file that is called so, each once."""
    names = dict.fromkeys(name for text in readings(value.strip(b'"')) for name in _shown(text))
    names.pop("", None)
    return list(names)


def values(value: bytes, name: bytes) -> list[bytes]:
    """All readings of a parameter, each once, in a value that is unfolded; what is extended (RFC 2231) without its character set."""
    found: dict[bytes, None] = {}
    place = re.compile(_PLACE % re.escape(name), re.IGNORECASE)
    for form in _forms(value[:LONGEST]):
        parts = list(_parts(form, place))
        for part in parts:
            if part.section is None:
                for reading in part.readings:
                    found[_percent_decoded(reading)[1] if part.extended else reading] = None
        for joined in _joined(parts):
            found[joined.encode("utf-8", "replace")] = None
    found.pop(b"", None)
    return list(found)


def without_comments(value: bytes) -> bytes:
    """RFC 5322 §3.2.2: what stands in parentheses is not there, but within quotes."""
    for _ in range(_DEEPEST_COMMENT):
        kept, start = [], 0
        for match in islice(_COMMENT.finditer(_without_vain_openers(value)), _COMMENTS):
            if match[1] is None:
                kept.append(value[start : match.start()])
                start = match.end()
        if not kept:
            break
        value = b"".join(kept) + value[start:]
    return value


def _without_vain_openers(value: bytes) -> bytes:
    """As long, and with the same comments."""
    if b"\\" not in value:
        return value
    return _ESCAPED_PARENTHESES.sub(_harmless, _ESCAPED_QUOTES.sub(_harmless, value))


def _harmless(match: re.Match[bytes]) -> bytes:
    return match[0] if match[3] else match[1] + match[2].replace(match[1], b";")


def _forms(value: bytes) -> Iterator[bytes]:
    """The value as different programs begin with it."""
    yield value
    if b"(" in value and (less := without_comments(value)) != value:
        yield less
    if b"=?" in value:
        for text in readings(value):
            if (said := text.encode("utf-8", "replace")) != value:
                yield said  # some encode the field as a whole


def _parts(value: bytes, place: re.Pattern[bytes]) -> Iterator[_Part]:
    for match in islice(place.finditer(value), PLACES):
        section = None if match[2] is None else int(match[2])
        rest = value[match.end() : match.end() + _LONGEST_VALUE].lstrip()
        yield _Part(match[1].lower(), section, match[3] is not None, _readings(rest))


def _readings(rest: bytes) -> list[bytes]:
    """Of what stands behind a "=", up to the end of the field."""
    if not rest.startswith(b'"'):
        whole = _matched(_UNQUOTED, rest).strip()
        return [whole, whole.replace(b'"', b""), whole.strip(b"'"), _matched(_TOKEN, rest)]
    match = _QUOTED.match(rest)
    if match is None:  # not closed
        return [rest[1:].strip(), rest[1:].partition(b";")[0].strip()]
    inner, behind = match[1], match[2].strip()
    found = [inner]
    if b"\\" in inner:  # paths are often written as they are, also ones that end in a backslash
        found = [_QUOTED_PAIR.sub(rb"\1", inner), inner, inner.partition(b'"')[0]]
    if behind:
        found.append((inner + match[2]).replace(b'"', b"").strip())
    return found


def _matched(pattern: re.Pattern[bytes], octets: bytes) -> bytes:
    match = pattern.match(octets)
    return b"" if match is None else match[0]


def _joined(parts: list[_Part]) -> Iterator[str]:
    """What is continued, put together (RFC 2231 §3): of a section that is there twice the first or the last, up to one that is missing or all."""
    for name in {part.name for part in parts if part.section is not None}:
        sections = [part for part in parts if part.name == name and part.section is not None]
        for given in (sections, sections[::-1]):
            by_number = {part.section or 0: part for part in reversed(given)}
            numbers = sorted(by_number)
            unbroken = sum(1 for at, number in enumerate(numbers) if number == at)
            for count in {unbroken, len(numbers)} - {0}:
                run = [by_number[number] for number in numbers[:count]]
                yield from _texts(run, all_extended=False)
                yield from _texts(run, all_extended=True)


def _texts(run: list[_Part], *, all_extended: bool) -> Iterator[str]:
    charset, octets = b"", b""
    for at, part in enumerate(run):
        piece = part.readings[0]
        if part.extended or all_extended:
            if at == 0:
                charset, piece = _percent_decoded(piece)
            else:
                piece = unquote_to_bytes(piece)
        octets += piece
    return _said(charset, octets)


def _percent_decoded(value: bytes) -> tuple[bytes, bytes]:
    """Character set, "" where none is named, and octets."""
    match = _EXTENDED.match(value)
    return (match[1], unquote_to_bytes(match[2])) if match else (b"", unquote_to_bytes(value))


def _said(charset: bytes, octets: bytes) -> Iterator[str]:
    """Some writers put encoded-words into it."""
    texts = [text.encode("utf-8") for text in readings_in(charset, octets)] if charset else [octets]
    for text in texts:
        yield from readings(text)


def _shown(text: str) -> Iterator[str]:
    """A name, and what becomes of it where a NUL ends it, control characters are left out, or (Windows) dots and spaces at its end are."""
    text = text.replace("\t", " ")
    forms = [text]
    if _CONTROL.search(text):
        forms += [text.partition("\0")[0], _CONTROL.sub("", text)]
    for form in forms:
        yield form.strip()
        yield form.strip().rstrip(". ")
