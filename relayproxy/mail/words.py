"""What a field's value says to people: unfolded (RFC 5322 §2.2.3), encoded-words decoded (RFC 2047, RFC 2231 §5).

For records and conditions: made of a copy, and never written back into mail. Invariants: no input raises, none takes long (attack 19): a
value is read up to a limit, and character sets are those of a list, for what Python knows as codecs is more than character sets
(compression, escapes, quadratic IDNA), and looks up unknown names on disk and remembers them for ever.
The result may hold control characters: who shows it escapes them.
"""

from __future__ import annotations

import binascii
import re
from encodings.aliases import aliases
from typing import Final

#: Octets of a value that are read; no subject that anybody reads has a tenth of it.
MAX_DECODED: Final = 16 * 1024

_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")

# RFC 2047 §2
#   encoded-word = "=?" charset "?" encoding "?" encoded-text "?="
#   encoded-text = 1*<Any printable ASCII character other than "?" or SPACE>
# RFC 2231 §5:  "*" and a language may follow the charset. Spaces in the text are wrong and common.
_ENCODED_WORD: Final = re.compile(rb"=\?([A-Za-z0-9_.:-]{1,40})(?:\*[A-Za-z0-9-]{0,40})?\?([BbQq])\?([^?\r\n]*+)\?=")

#: Not character sets (base64, rot13, zlib, ...), or UTF-7, which writes what it likes in letters that look innocent.
_NOT_CHARSETS: Final = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "mbcs", "quopri_codec", "rot_13", "utf_7", "uu_codec", "zlib_codec"}
)
_CHARSETS: Final = (frozenset(aliases.values()) - _NOT_CHARSETS) | {"cp874", "koi8_u", "utf_8_sig"}


def unfold(value: bytes) -> bytes:
    """The value on one line: each CRLF before white space is gone, the white space is not."""
    return _FOLD.sub(b"", value) if b"\r\n" in value else value


def decode(value: bytes) -> str:
    r"""What the value says, without the space around it. What is no text in its character set becomes `\xNN`; past 16 KiB it ends in "…"."""
    cut = len(value) > MAX_DECODED
    if cut:
        value = value[:MAX_DECODED]
    value = unfold(value).strip(b" \t\r\n")
    text = _words(value) if b"=?" in value else value.decode("utf-8", "backslashreplace")
    return text + "…" if cut else text


def _words(value: bytes) -> str:
    text: list[str] = []
    charset, octets, at = "", b"", 0
    for match in _ENCODED_WORD.finditer(value):
        word = _octets(match[2], match[3])
        name = known_charset(match[1])
        if word is None or name is None:
            continue  # stays as it is (RFC 2047 §6.2)
        between = value[at : match.start()]
        if not charset or between.strip(b" \t"):
            text += [octets.decode(charset or "ascii", "backslashreplace"), between.decode("utf-8", "backslashreplace")]
            octets = b""
        elif name != charset:
            text.append(octets.decode(charset, "backslashreplace"))
            octets = b""
        # White space between two words is none (§6.2). Many writers cut in the middle of a character, so octets are joined first.
        charset, octets, at = name, octets + word, match.end()
    text += [octets.decode(charset or "ascii", "backslashreplace"), value[at:].decode("utf-8", "backslashreplace")]
    return "".join(text)


def known_charset(name: bytes) -> str | None:
    """Python's codec for a character set that is one of the list."""
    normal = name.decode("ascii").lower().replace("-", "_")
    known = aliases.get(normal, normal)
    return known if known in _CHARSETS else None


def _octets(encoding: bytes, text: bytes) -> bytes | None:
    if encoding in b"qQ":
        return binascii.a2b_qp(text, header=True)
    try:
        return binascii.a2b_base64(text + b"===")  # padding is often missing
    except binascii.Error:
        return None
