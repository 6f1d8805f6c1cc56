r"""Octets and text in records: made lossless, kept on one line, harmless to look at (DESIGN §7, attack 22).

`text` is the one way from octets to text, `octets` the way back. `json_line` and `printable` are the two ways out: for programs (JSON, every character
recoverable) and for people (a terminal, every character visible).

Invariants: neither lets through what ends a line, drives a terminal, changes the direction of writing or cannot be seen; neither
ever fails, whatever text it is given. Pure. What a record holds does not belong here (report.py).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

# What JSON lets pass and a terminal or a reader of lines may obey: DEL and C1; soft hyphen; Arabic letter mark, zero-width characters and
# the marks, embeddings, overrides and isolates that change direction (UAX #9); line and paragraph separator; invisible operators, byte
# order mark; interlinear annotations; tags. C0, the quotation mark and the backslash JSON escapes itself.
_HIDDEN: Final = (
    "\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_hidden_from_json: Final = re.compile(f"[{_HIDDEN}]")
_hidden_from_people: Final = re.compile(f"[\x00-\x1f{_HIDDEN}\ud800-\udfff]")
_ESCAPE: Final = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
_encode: Final = msgspec.json.Encoder().encode


def text(octets: bytes) -> str:
    r"""Octets as text, lossless: valid UTF-8 stays, a backslash is doubled, any other octet becomes `\xNN`."""
    try:
        told = octets.decode()  # strict is three times as fast as an error handler that has nothing to do
    except UnicodeDecodeError:
        return octets.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
    return told.replace("\\", r"\\") if "\\" in told else told


def octets(told: str) -> bytes:
    """What `text` was given."""
    escaped = told.encode("utf-8", "surrogatepass")
    return _ESCAPE.sub(lambda match: b"\\" if match[1] is None else bytes.fromhex(match[1].decode()), escaped)


def printable(value: str) -> str:
    r"""Text for a terminal: what would not be seen, or be obeyed, as `\xNN`, `\uNNNN` or `\UNNNNNNNN`."""
    if value.isascii() and value.isprintable():
        return value
    return _hidden_from_people.sub(_visible, value)


def _visible(match: re.Match[str]) -> str:
    number = ord(match[0])
    if 0xDC80 <= number <= 0xDCFF:  # an octet of a file name that is not UTF-8 (PEP 383)
        number -= 0xDC00
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def json_line(value: Any) -> bytes:
    """JSON on one line, without a newline."""
    try:
        line = _encode(value)
    except UnicodeEncodeError:  # a lone surrogate: what Python decodes may hold one
        line = _encode(_without_surrogates(msgspec.to_builtins(value)))
    if line.isascii() and 0x7F not in line:  # a number is looked for at once; b"\x7f" is first tried as one
        return line
    return _hidden_from_json.sub(_json_escape, line.decode()).encode()


def _json_escape(match: re.Match[str]) -> str:
    r"""RFC 8259 §7: `\uXXXX`, beyond the basic plane as a surrogate pair."""
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _without_surrogates(value: Any) -> Any:
    r"""The same with each lone surrogate as the octets that it would have been, `\xNN`: a line is never dropped."""
    match value:
        case str():
            return value.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
        case dict():
            return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_surrogates(inner) for inner in value]
        case _:
            return value
