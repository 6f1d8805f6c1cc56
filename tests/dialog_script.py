"""What a test dialog says beyond the format: short forms, configuration, patterns in what is expected (dialog_runner.py has the manual).

Pure: text and octets in, entries and matches out. Playing does not belong here.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from dialog_relay import CONFIG

from relayproxy.record.dialog import HEADING, DialogError, Line, Note, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from relayproxy.record import dialog

NOTES: Final = (
    "abrupt", "certificate", "client", "config", "data", "envelope", "hello", "kept", "log", "loose", "python", "quiet", "quit", "record", "resume", "rule", "sigterm", "sni", "stall", "store",
    "strict", "upstream", "whole",
)  # fmt: skip
_FOLDS: Final = (b" ", b"\t")


def is_to_us(line: Line) -> bool:
    return (line.leg == "C") == (line.arrow == ">")


def lines_of(
    leg: dialog.Leg, arrow: dialog.Arrow, octets: bytes, *, data: bool = False, time: int | None = None
) -> Iterator[Line]:
    """What one read or write brought, as the lines that a dialog shows; their octets joined are `octets`."""
    start = 0
    while start < len(octets):
        end = octets.find(b"\r\n", start) + 2
        if end == 1:
            end = len(octets)
        joined = start > 0
        yield Line(leg, arrow, octets[start:end], data=data, joined=joined, time=None if joined else time)
        start = end


def is_whole(text: str) -> bool:
    """Whether a dialog is to be played only as written."""
    return re.search(r"^[ \t]*@[ \t]*whole[ \t]*\r?$", text, re.MULTILINE) is not None


def script(lines: Sequence[str], number: int) -> list[dialog.Entry]:
    """The entries of a short form, all at the line of their note."""
    (session,) = parse("\n".join([HEADING, *lines, ""]))
    return [dataclasses.replace(entry, number=number) for entry in session.entries]


def expand(note: Note) -> list[dialog.Entry]:
    """What a short form stands for."""
    words = note.text.split()
    match note.key, words:
        case "upstream", ["offers", *keywords]:
            reply = ["upstream.test", *keywords]
            last = len(reply) - 1
            lines = [f"{'&' if at else ''} U< 250{' ' if at == last else '-'}{text}" for at, text in enumerate(reply)]
            return script(["U open", "U< 220 upstream.test ESMTP", "U> EHLO *", *lines, "C< 220 *"], note.number)
        case "client", ["says", ("EHLO" | "HELO") as verb, *name] if len(name) <= 1:
            return script([f"C> {verb} {name[0] if name else 'client.test'}", "C< 250**"], note.number)
        case "envelope", [sender, *recipients] if recipients:
            commands = [f"MAIL FROM:<{'' if sender == '<>' else sender}>", *(f"RCPT TO:<{to}>" for to in recipients)]
            lines = []
            for command in commands:
                ok = "250 2.1.0 ok" if command.startswith("MAIL") else "250 2.1.5 ok"
                lines += [f"C> {command}", f"U> {command}", f"U< {ok}", f"C< {ok}"]
            return script(lines, note.number)
        case "data", []:
            return script(["C> DATA", "U> DATA", "U< 354 go on", "C< 354 *"], note.number)
    usage = {
        "upstream": "@ upstream offers KEYWORD ...",
        "client": "@ client says EHLO [NAME]",
        "envelope": "@ envelope SENDER RECIPIENT ...",
    }.get(note.key, f"@ {note.key}")
    raise DialogError(note.number, usage, f'"@ {note.key} {note.text}"')


def configuration(notes: Sequence[Note]) -> dict[str, Any]:
    """The usual configuration and what `@ config` lines lay over it."""
    result: dict[str, Any] = {}
    _lay(CONFIG, result)
    (usual,) = result["listener"]
    result["listener"] = dict(usual)
    result["rule"] = [note.text for note in notes if note.key == "rule"]
    result["python"] = [note.text.removeprefix("|") for note in notes if note.key == "python"]
    for note in notes:
        if note.key != "config":
            continue
        try:
            over = tomllib.loads(note.text)
        except tomllib.TOMLDecodeError as error:
            raise DialogError(note.number, "@ config KEY = TOML", f'"{note.text}" ({error})') from None
        _lay(over, result)
    listeners = result["listener"]
    result["listener"] = [{**usual, **one} for one in (listeners if isinstance(listeners, list) else [listeners])]
    return result


def _lay(over: Mapping[str, Any], under: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict):
            _lay(value, under.setdefault(key, {}))
        else:
            under[key] = value


# What is expected.


def pattern(line: Line) -> tuple[re.Pattern[bytes], bool]:
    """What matches an expected line (its CRLF left out), and whether lines that belong to it match too."""
    text = line.text
    belonging = text.endswith("**")
    if line.redacted:
        raise DialogError(line.number, "an expected line without <redacted N> (write * for it)", f'"{text}"')
    ended = line.octets.endswith(b"\r\n")
    if not ended and "*" in text:
        raise DialogError(line.number, "no * in a line without an end of line", f'"{text}"')
    # The octets of each part between wildcards, read as a line of its own.
    parts = [_octets_of(part) for part in re.split(r"\*+", text if ended else text[:-1])]
    return re.compile(rb"[^\n]*?".join(map(re.escape, parts)), re.DOTALL), belonging


def _octets_of(text: str) -> bytes:
    (session,) = parse(f"{HEADING}\nC> .{text}\\\n")
    (line,) = session.entries
    assert isinstance(line, Line)
    return line.octets[1:]


def find(line: Line, unread: bytes | bytearray) -> int | None:
    """How many octets of what came an expected line takes: None while there are too few of them, 0 where they are others."""
    regex, belonging = pattern(line)
    if not line.octets.endswith(b"\r\n"):
        count = len(line.octets)
        if unread[:count] == line.octets:
            return count
        return None if line.octets.startswith(unread) else 0
    end = unread.find(b"\r\n")
    if end < 0:
        return None
    if not regex.fullmatch(unread, 0, end):
        return 0
    begin, end = 0, end + 2
    while belonging and (unread[end : end + 1] in _FOLDS if line.data else unread[begin + 3 : begin + 4] == b"-"):
        begin, end = end, unread.find(b"\r\n", end) + 2
        if end == 1:
            return None
    return end


def sent(line: Line) -> bytes:
    """The octets to send; SASL that was taken out is made up."""
    octets = line.octets
    for gap in reversed(line.redacted):
        octets = octets[: gap.offset] + b"x" * gap.length + octets[gap.offset :]
    return octets


def peer_address(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if text.startswith("unix:") or not colon or not port.isdecimal():
        return text, None
    return host.strip("[]"), int(port)


def is_url(url: str, wanted: str) -> bool:
    regex = ".*".join(map(re.escape, wanted.split("*")))
    return any(
        re.fullmatch(regex, form) for form in (url, url.rpartition("//")[2], url.rpartition("//")[2].rpartition(":")[0])
    )


def host_of(url: str) -> str:
    return url.rpartition("//")[2].rpartition(":")[0].strip("[]")
