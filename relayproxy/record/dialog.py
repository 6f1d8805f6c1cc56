r"""Dialogs: the one text form of an SMTP session, for people, replay and tests alike (DESIGN §7).

    relayproxy dialog 1
    @ session 01J0 listener=submission
    +0.000 C open 10.0.0.5:53122
    +0.020 C> MAIL FROM:<a@example.com>
         & C> RCPT TO:<jane@customer.example>
    +0.050 C> |Subject: hi
    +0.062 C close

- `C>` client to us, `C<` us to client, `U>` us to upstream, `U<` upstream to us; one line each CRLF line.
- `+SECONDS` since the session began, or `&`: in the same write or read as the line before; in tests, neither.
- `|` marks mail data. `\xNN` and `\\` escape; `\` at the end of a line: no CRLF there. `<redacted N>`: N octets of SASL.
- Events: `open [ADDRESS]`, `tls VERSION CIPHER`, `eof` (half-close), `close`, `reset` (the peer's doing, or ours with
  ` by us` behind it), and for a dial that failed `refused`, `timeout`, `unresolved`, `unreachable`.
- `@ KEY ...` notes, `# ...` comments and empty lines are kept where they stand.

Invariants: `parse(print_dialog(x)) == x` for every session with any octets, and what is printed is harmless on a
terminal (attack 22: no control, bidirectional or zero-width character leaves unescaped, the octets stay exact) and
survives an editor that cuts trailing white space. No I/O, no clock. Finding out which octets are mail data, and
redacting, do not belong here: whoever makes a `Line` has done both. Nor does what a note means: its reader knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Leg = Literal["C", "U"]
Arrow = Literal[">", "<"]
EventName = Literal["open", "tls", "eof", "close", "reset", "refused", "timeout", "unresolved", "unreachable"]

HEADING: Final = "relayproxy dialog 1"

_SAFE = re.compile(rb"[ -\[\]-~]*")  # printable US-ASCII but for the backslash: nothing to escape
_REDACTED = re.compile(r"<redacted (0|[1-9][0-9]{0,8})>")
_REDACTED_OCTETS = re.compile(rb"<(?=redacted (?:0|[1-9][0-9]{0,8})>)")
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|\\)")
_TIME = re.compile(r"\+([0-9]{1,12})(?:\.([0-9]{1,6}))?")
_STEM = re.compile(r"[ \t]*(?:(?P<time>\+[^ \t]*)|(?P<joined>&))?[ \t]*(?P<rest>.*)", re.DOTALL)
_OCTETS = re.compile(r"(?P<leg>[CU])(?P<arrow>[<>])(?: (?P<data>\|?)(?P<text>.*))?", re.DOTALL)
_EVENT = re.compile(r"(?P<leg>[CU])[ \t]+(?P<words>.*)", re.DOTALL)
_NOTE = re.compile(r"@[ \t]*(?P<key>[A-Za-z][A-Za-z0-9_.-]*)(?:[ \t]+(?P<text>.*))?", re.DOTALL)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

# name: how many words may follow it
_ARGUMENTS: Final[Mapping[str, tuple[int, int]]] = {
    "open": (0, 1),
    "tls": (1, 2),
    "eof": (0, 0),
    "close": (0, 0),
    "reset": (0, 0),
    "refused": (0, 1),
    "timeout": (0, 1),
    "unresolved": (0, 1),
    "unreachable": (0, 1),
}
_ENDINGS: Final = frozenset({"eof", "close", "reset"})
_OF_A_DIAL: Final = frozenset({"refused", "timeout", "unresolved", "unreachable"})


class DialogError(ValueError):
    """A text is no dialog: `expected` stood to come in line `line` (from 1), `found` did."""

    def __init__(self, line: int, expected: str, found: str) -> None:
        super().__init__(f"line {line}: expected {expected}, found {found}")
        self.line = line
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class Gap:
    """Where `length` octets of SASL were taken out: before `octets[offset]` of their line."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Line:
    r"""Octets on the wire, at most one line of them; its CRLF is part of `octets` where it was sent.

    `time` is in microseconds since the session began. `joined`: in the same write or read as the line before, which is of
    the same leg and arrow. `text` is how a dialog that was read has it (`*` is a pattern there, `\x2a` an asterisk).
    """

    leg: Leg
    arrow: Arrow
    octets: bytes
    data: bool = False
    joined: bool = False
    time: int | None = None
    redacted: tuple[Gap, ...] = ()
    number: int = field(default=0, compare=False)
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to a connection but for octets."""

    leg: Leg
    name: EventName
    arguments: tuple[str, ...] = ()
    by_us: bool = False
    time: int | None = None
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Note:
    """`@ key text`: what a reader or a test should know; `text` is one line and bears no outer white space."""

    key: str
    text: str = ""
    time: int | None = None
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Comment:
    """A line for people: empty, or begins with `#`."""

    text: str
    number: int = field(default=0, compare=False)


Entry = Line | Event | Note | Comment


@dataclass(frozen=True, slots=True)
class Session:
    """One client connection and what we did for it. Only the first session of a dialog may be without id."""

    id: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    entries: tuple[Entry, ...] = ()


# Printing


def print_dialog(sessions: Iterable[Session]) -> str:
    """The text of some sessions. ValueError where a session cannot be said in it (see Session, Line.joined)."""
    lines = [HEADING]
    for index, session in enumerate(sessions):
        if session.id is not None:
            lines.append(print_session(session.id, session.attributes))
        elif index or session.attributes or not session.entries:
            raise ValueError("only the first session may be without id, and then has entries and no attributes")
        lines += print_entries(session.entries)
    return "\n".join(lines) + "\n"


def print_session(id_: str, attributes: Iterable[tuple[str, str]]) -> str:
    """The line that a session begins with, without its newline. ValueError as print_dialog."""
    pairs = list(attributes)
    words = [_word(id_).replace("=", r"\x3d"), *(f"{key}={_word(value)}" for key, value in pairs)]
    if not id_ or not all(_KEY.fullmatch(key) for key, _ in pairs):
        raise ValueError(f"a session's id is not empty, its keys are plain names: {words}")
    return " ".join(["@ session", *words])


def print_entries(entries: Iterable[Entry]) -> Iterator[str]:
    """A line each, without its newline, one at a time: a session may be larger than memory. ValueError as print_dialog."""
    before: Entry | None = None
    timed = False
    for entry in entries:
        if isinstance(entry, Line) and entry.joined:
            _check_joined(entry, before)
            yield f"{'     &' if timed else '&'} {_print(entry)}"
        else:
            stem = "" if isinstance(entry, Comment) or entry.time is None else _print_time(entry.time) + " "
            timed = bool(stem)
            yield stem + _print(entry)
        before = before if isinstance(entry, Comment) else entry


def _check_joined(line: Line, before: Entry | None) -> None:
    if not isinstance(before, Line) or (before.leg, before.arrow) != (line.leg, line.arrow) or line.time is not None:
        raise ValueError(f"a joined line has no time and stands behind one of its leg and arrow: {line}")


def _print(entry: Entry) -> str:
    match entry:
        case Line():
            text = ("|" if entry.data else "") + _print_octets(entry)
            return f"{entry.leg}{entry.arrow} {text}" if text else f"{entry.leg}{entry.arrow}"
        case Event():
            if (wrong := _wrong_event(entry)) is not None:
                raise ValueError(f"{entry}: expected {wrong}")
            words = [entry.leg, entry.name, *map(_word, entry.arguments), *(["by us"] if entry.by_us else [])]
            return " ".join(words)
        case Note():
            text = f"@ {entry.key} {entry.text}" if entry.text else f"@ {entry.key}"
            match = _NOTE.fullmatch(text) if _is_plain(text) else None
            if match is None or match["key"] != entry.key or entry.key == "session" or entry.text != entry.text.strip():
                raise ValueError(f"a note is one plain line, its key a name other than session: {entry}")
            return text
        case Comment():
            if not _is_plain(entry.text) or entry.text != entry.text.strip() or (entry.text and entry.text[0] != "#"):
                raise ValueError(f"a comment is one plain line that is empty or begins with #: {entry}")
            return entry.text


def _is_plain(text: str) -> bool:
    return text.replace("\t", "").isprintable()


def _print_time(microseconds: int) -> str:
    if not 0 <= microseconds < 10**18:
        raise ValueError(f"a time is so many microseconds since the session began, not {microseconds}")
    text = f"+{microseconds // 1_000_000}.{microseconds % 1_000_000:06}"
    return text.removesuffix("000")


def _print_octets(line: Line) -> str:
    ended = line.octets.endswith(b"\r\n")
    octets = line.octets[:-2] if ended else line.octets
    parts: list[str] = []
    start = 0
    for gap in line.redacted:
        if not (start <= gap.offset <= len(octets) and 0 <= gap.length < 1_000_000_000):
            raise ValueError(f"gaps lie in order inside their line: {line}")
        parts += escape(octets[start : gap.offset]), f"<redacted {gap.length}>"
        start = gap.offset
    parts.append(escape(octets[start:]))
    text = "".join(parts)
    if text[:1] == "|" and not line.data:
        text = r"\x7c" + text[1:]
    if not ended:
        return text + "\\"
    return text[:-1] + r"\x20" if text[-1:] == " " else text


def escape(octets: bytes) -> str:
    r"""Octets as text: printable characters of valid UTF-8 stay, all else is \xNN, a backslash doubled."""
    if _SAFE.fullmatch(octets) and b"<redacted " not in octets:
        return octets.decode("ascii")
    return r"\x3c".join(map(_escape_piece, _REDACTED_OCTETS.split(octets)))


def _escape_piece(octets: bytes) -> str:
    return "".join(map(_escape_character, octets.decode("utf-8", "surrogateescape")))


def _escape_character(character: str) -> str:
    if character == "\\":
        return r"\\"
    if character.isprintable():
        return character
    return "".join(f"\\x{octet:02x}" for octet in character.encode("utf-8", "surrogateescape"))


def _word(text: str) -> str:
    return escape(text.encode()).replace(" ", r"\x20")


# Reading


def parse(text: str) -> list[Session]:
    """The sessions of a dialog. DialogError says where it is none."""
    numbered = enumerate((line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")), 1)
    number, heading = next(numbered)
    if heading.strip() != HEADING:
        raise DialogError(number, HEADING, _quote(heading))
    sessions: list[Session] = []
    id_: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    entries: list[Entry] = []
    before: Entry | None = None
    for number, line in numbered:
        _check_characters(line, number)
        entry = _parse_line(line, number, before)
        if isinstance(entry, Note) and entry.key == "session":
            if id_ is not None or entries:
                sessions.append(Session(id_, attributes, tuple(entries)))
            id_, attributes = _parse_session(entry)
            entries, before = [], None
        else:
            entries.append(entry)
            before = before if isinstance(entry, Comment) else entry
    if id_ is not None or entries:
        sessions.append(Session(id_, attributes, tuple(entries)))
    return sessions


def _check_characters(line: str, number: int) -> None:
    if _is_plain(line):
        return
    for column, character in enumerate(line, 1):
        if not _is_plain(character):
            expected = f"a printable character in column {column}, or {_escape_character(character)} for this one"
            raise DialogError(number, expected, f"U+{ord(character):04X}")


def _parse_line(line: str, number: int, before: Entry | None) -> Entry:
    stem = _STEM.fullmatch(line)
    assert stem is not None  # noqa: S101 - it matches every line
    rest: str = stem["rest"]
    bare = stem["time"] is None and stem["joined"] is None
    if bare and (not rest or rest[0] == "#"):
        return Comment(rest.strip(), number)
    time = None if stem["time"] is None else _parse_time(stem["time"], number)
    if match := _OCTETS.fullmatch(rest):
        joined = stem["joined"] is not None
        if joined and not (isinstance(before, Line) and rest.startswith(before.leg + before.arrow)):
            raise DialogError(number, "& only behind a line of the same leg and arrow", _quote(line))
        octets, gaps = _parse_octets(match["text"] or "", number)
        arrow: Arrow = ">" if match["arrow"] == ">" else "<"
        return Line(_leg(match), arrow, octets, bool(match["data"]), joined, time, gaps, number, match["text"] or "")
    if stem["joined"] is None and (match := _EVENT.fullmatch(rest)):
        return _parse_event(_leg(match), match["words"].split(), time, number)
    if stem["joined"] is None and (match := _NOTE.fullmatch(rest)):
        return Note(match["key"], (match["text"] or "").strip(), time, number)
    expected = "C>, C<, U> or U<" if stem["joined"] else "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #"
    raise DialogError(number, expected, _quote(rest))


def _leg(match: re.Match[str]) -> Leg:
    return "C" if match["leg"] == "C" else "U"


def _parse_time(text: str, number: int) -> int:
    if (match := _TIME.fullmatch(text)) is None:
        raise DialogError(number, "a time such as +0.020 (seconds since the session began)", _quote(text))
    return int(match[1]) * 1_000_000 + int((match[2] or "").ljust(6, "0"))


def _parse_octets(text: str, number: int) -> tuple[bytes, tuple[Gap, ...]]:
    if text[-1:] in {" ", "\t"}:
        raise DialogError(
            number, r"no white space at the end (write \x20 for one that belongs to the line)", _quote(text)
        )
    pieces = _REDACTED.split(text)  # text, length, text, length, ..., text
    octets = b""
    gaps: list[Gap] = []
    for piece, length in zip(pieces[0::2], pieces[1::2], strict=False):
        octets += _unescape(piece, number)
        gaps.append(Gap(len(octets), int(length)))
    last, ended = _cut_continued(pieces[-1])
    return octets + _unescape(last, number) + (b"\r\n" if ended else b""), tuple(gaps)


def _cut_continued(text: str) -> tuple[str, bool]:
    """Without the backslash that stands at the end alone (of an odd number of them); False where there was one."""
    odd = (len(text) - len(text.rstrip("\\"))) % 2
    return (text[:-1], False) if odd else (text, True)


def _unescape(text: str, number: int) -> bytes:
    if "\\" not in text:
        return text.encode()
    octets = bytearray()
    start = 0
    while (at := text.find("\\", start)) >= 0:
        octets += text[start:at].encode()
        if (match := _ESCAPE.match(text, at)) is None:
            raise DialogError(number, r"\xNN, \\, or \ at the end of the line", _quote(text[at : at + 4]))
        octets += bytes.fromhex(match[1][1:]) if match[1] != "\\" else b"\\"
        start = match.end()
    return bytes(octets + text[start:].encode())


def _parse_event(leg: Leg, words: list[str], time: int | None, number: int) -> Event:
    name, *arguments = words or [""]
    by_us = arguments[-2:] == ["by", "us"] and name in _ENDINGS
    plain = tuple(_parse_word(word, number) for word in (arguments[:-2] if by_us else arguments))
    event = Event(leg, cast("EventName", name), plain, by_us, time, number)
    if (wrong := _wrong_event(event)) is not None:
        raise DialogError(number, wrong, _quote(" ".join([leg, *words])))
    return event


def _wrong_event(event: Event) -> str | None:
    """What was expected instead of an event that there cannot be."""
    if event.name not in _ARGUMENTS:
        return f"{event.leg}>, {event.leg}<, or an event ({', '.join(_ARGUMENTS)})"
    least, most = _ARGUMENTS[event.name]
    if not least <= len(event.arguments) <= most or "" in event.arguments:
        behind = {0: 'nothing (or "by us")', 1: "one address", 2: "a version and a cipher"}[most]
        return f"{behind} behind {event.name}"
    if event.name in _OF_A_DIAL and event.leg == "C":
        return f"U {event.name}, since it is we that dial"
    if event.by_us and event.name not in _ENDINGS:
        return '"by us" only behind eof, close, reset'
    return None


def _parse_session(note: Note) -> tuple[str, tuple[tuple[str, str], ...]]:
    first, *rest = note.text.split() or [""]
    if not first or "=" in first or note.time is not None:
        raise DialogError(note.number, "@ session ID KEY=VALUE ...", _quote(f"@ session {note.text}"))
    attributes: list[tuple[str, str]] = []
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise DialogError(note.number, "KEY=VALUE behind the session's id", _quote(word))
        attributes.append((key, _parse_word(value, note.number)))
    return _parse_word(first, note.number), tuple(attributes)


def _parse_word(word: str, number: int) -> str:
    if word.endswith("\\") and not _cut_continued(word)[1]:
        raise DialogError(number, r"\xNN or \\", _quote(word))
    try:
        return _unescape(word, number).decode()
    except UnicodeDecodeError:
        raise DialogError(number, "valid UTF-8 in a word", _quote(word)) from None


def _quote(text: str) -> str:
    return f'"{text}"' if text else "nothing"
