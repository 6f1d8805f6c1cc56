"""What a message's body says to people: its text parts, decoded (RFC 2045, RFC 2046), HTML without its tags.

For searches and conditions, made of a copy. Invariants: no input raises, none takes long: the first OCTETS are looked at, PARTS parts at most, DEPTH
deep, and at most TEXT characters come of them; octets are looked for and sliced, never read line by line.
It is lenient where readers are: what names no type is plain text, what names no character set that is known is UTF-8, a part without
an end ends with its parent. Attachments that are text count; names of files do not belong here.
"""

from __future__ import annotations

import binascii
import html
import re
from typing import TYPE_CHECKING, Final

from relayproxy.mail.header import HeaderSection, find_body, unfold
from relayproxy.mail.words import known_charset

if TYPE_CHECKING:
    from collections.abc import Iterator

OCTETS: Final = 16 << 20
TEXT: Final = 1 << 20
PARTS: Final = 100
DEPTH: Final = 10
#: Octets that are read of a part's header section, and of a Content-Type.
_LONGEST_SECTION: Final = 64 * 1024
_LONGEST_TYPE: Final = 4096
#: Octets of a text part that are decoded: base64 in short lines takes more than its third.
_LONGEST_PART: Final = 2 * TEXT
#: Lines that begin like a boundary and are none; then the part has no more parts.
_FALSE_BOUNDARIES: Final = 1000

# RFC 2045 §5.1
#   content := "Content-Type" ":" type "/" subtype *(";" parameter)
#   value := token / quoted-string
_TYPE: Final = re.compile(rb"[ \t]*+([!-.0-:<-~]++)/([!-.0-:<-~]++)")
_PARAMETER: Final = re.compile(rb';[ \t]*+([!-:<>-~]++)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^;" \t]++))', re.DOTALL)
# RFC 2046 §5.1.1:  delimiter = CRLF "--" boundary,  close-delimiter = delimiter "--",  transport-padding = *LWSP-char
_REST_OF_DELIMITER: Final = re.compile(rb"(--)?+[ \t]*+(?:\r?\n|\Z)")
# Up to the next tag at most, so that many that are not closed cost no more than one.
_TAG: Final = re.compile(r"<[^<>]*+>")


def body_text(header: bytes, body: bytes) -> str:
    """The text of a body whose header section this is, parts separated by newlines."""
    texts: list[str] = []
    left = TEXT
    for section, content in _leaves(HeaderSection(header), body[:OCTETS]):
        text = _text(section, content)
        if text and left > 0:
            texts.append(text[:left])
            left -= len(text) + 1
    return "\n".join(texts)[:TEXT]


def _leaves(section: HeaderSection, body: bytes) -> Iterator[tuple[HeaderSection, bytes]]:
    """Parts that have no parts, in order."""
    waiting, parts = [(section, body, 0)], 0
    while waiting and parts < PARTS:
        section, body, depth = waiting.pop()
        parts += 1
        kind, parameters = _type(section)
        boundary = parameters.get(b"boundary")
        if depth >= DEPTH or not (kind == b"message/rfc822" or (kind.startswith(b"multipart/") and boundary)):
            yield section, body
        elif boundary and kind.startswith(b"multipart/"):
            waiting += [(*_halves(part), depth + 1) for part in reversed(_parts(body, boundary))]
        else:
            waiting.append((*_halves(body), depth + 1))


def _halves(part: bytes) -> tuple[HeaderSection, bytes]:
    end, start = find_body(part) or (len(part), len(part))
    return HeaderSection(part[: min(end, _LONGEST_SECTION)]), part[start:]


def _type(section: HeaderSection) -> tuple[bytes, dict[bytes, bytes]]:
    """Type and subtype in lower case, and the parameters by their names, the first of each."""
    field = section.first(b"Content-Type")
    value = b"" if field is None else unfold(field.value[:_LONGEST_TYPE])
    match = _TYPE.match(value)
    if match is None:
        return b"text/plain", {}
    parameters: dict[bytes, bytes] = {}
    for name, quoted, token in _PARAMETER.findall(value, match.end()):
        parameters.setdefault(name.lower(), re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL) or token)
    return b"%b/%b" % (match[1].lower(), match[2].lower()), parameters


def _parts(body: bytes, boundary: bytes) -> list[bytes]:
    delimiter = b"--" + boundary
    parts: list[bytes] = []
    start: int | None = None
    at = 0 if body.startswith(delimiter) else _next(body, delimiter, 0)
    tried = 0
    while at >= 0 and len(parts) < PARTS and tried < _FALSE_BOUNDARIES:
        tried += 1
        if rest := _REST_OF_DELIMITER.match(body, at + len(delimiter)):
            if start is not None:
                parts.append(body[start:at].removesuffix(b"\n").removesuffix(b"\r"))
            start = None if rest[1] else rest.end()
            if start is None:
                break
        at = _next(body, delimiter, at)
    if start is not None:
        parts.append(body[start:])
    return parts


def _next(body: bytes, delimiter: bytes, at: int) -> int:
    found = body.find(b"\n" + delimiter, at)
    return found + 1 if found >= 0 else -1


def _text(section: HeaderSection, content: bytes) -> str:
    kind, parameters = _type(section)
    if not kind.startswith(b"text/"):
        return ""
    name = parameters.get(b"charset", b"")
    charset = known_charset(name) if name.isascii() else None
    text = _octets(section, content[:_LONGEST_PART]).decode(charset or "utf-8", "replace")
    if kind in (b"text/html", b"text/xhtml"):
        return html.unescape(_TAG.sub(" ", text))
    return text


def _octets(section: HeaderSection, content: bytes) -> bytes:
    """Out of the transfer encoding (RFC 2045 §6); one that is unknown or broken is none."""
    field = section.first(b"Content-Transfer-Encoding")
    match b"" if field is None else field.value.strip().lower():
        case b"quoted-printable":
            return binascii.a2b_qp(content)
        case b"base64":
            letters = re.sub(rb"[^A-Za-z0-9+/]", b"", content.partition(b"=")[0])  # behind a "=" is nothing (§6.8)
            if len(letters) % 4 == 1:
                letters = letters[:-1]  # cut off
            return binascii.a2b_base64(letters + b"==")
        case _:
            return content
