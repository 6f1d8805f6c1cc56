"""What a field's value says to people: unfolded (RFC 5322 §2.2.3), encoded-words decoded (RFC 2047, RFC 2231 §5).

For records and conditions (`decode`), and for what may hide in it (`readings`): made of a copy, and never written back into mail. Invariants: no input raises, none takes long (attack 19): a
value is read up to a limit, and character sets are those of a list, for what Python knows as codecs is more than character sets
(compression, escapes, quadratic IDNA), and looks up unknown names on disk and remembers them for ever.
The result may hold control characters: who shows it escapes them.
"""

from __future__ import annotations

import binascii
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Octets of a value that are read; no subject that anybody reads has a tenth of it.
MAX_DECODED: Final = 16 * 1024

# What must be there for a fold and for a word, as numbers: `10 in value` takes a tenth of the time that `b"\n" in value` does.
_LF: Final = 10
_EQUALS: Final = 61

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
_CHARSETS: Final = (frozenset(aliases.values()) - _NOT_CHARSETS) | {
    "cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "mac_arabic", "mac_croatian", "mac_farsi", "mac_romanian", "utf_8_sig",
}  # fmt: skip

# As the most lenient read them: any character set, and "?" in the text. What is not closed is matched too, up to the end of its line:
# no word begins in it, and looking for one from each "=?" would be quadratic.
_ANY_WORD: Final = re.compile(rb"=\?([^?\r\n]{0,100})\?([BbQq])\?((?:[^?\r\n]++|\?(?!=))*)(\?=)?")
#: What programs make of octets whose character set they do not know, and UTF-7, which some know.
_OTHERWISE: Final = ("utf-8", "latin-1", "utf-7")

_NO_LETTERS: Final = re.compile(rb"[^A-Za-z0-9+/]")


def unfold(value: bytes) -> bytes:
    """The value on one line: each CRLF before white space is gone, the white space is not."""
    return _FOLD.sub(b"", value) if b"\r\n" in value else value


def decode(value: bytes) -> str:
    r"""What the value says, without the space around it. What is no text in its character set becomes `\xNN`; past 16 KiB it ends in "…"."""
    cut = len(value) > MAX_DECODED
    if cut:
        value = value[:MAX_DECODED]
    if _LF in value:
        value = unfold(value)
    value = value.strip(b" \t\r\n")
    text = _words(value) if _EQUALS in value else value.decode("utf-8", "backslashreplace")
    return text + "…" if cut else text


def readings(value: bytes) -> list[str]:
    """All that a program may make of it, `decode`'s first: where a name must not hide. Words in an unknown character set are words too."""
    found = {decode(value): None}
    if b"=?" in value:
        line = unfold(value[:MAX_DECODED]).strip(b" \t\r\n")
        for otherwise in _OTHERWISE:
            text = _words(line, otherwise).encode("utf-8", "replace").decode()  # UTF-7 has halves of characters
            if text in found and otherwise == "utf-8":
                break  # all are known
            found[text] = None
    return list(found)


def readings_in(charset: bytes, octets: bytes) -> list[str]:
    """All that octets may say in this character set (RFC 2231 §4), which may be unknown."""
    known = known_charset(charset)
    codecs = ((known,) if known else ()) + (() if _is_plain(known) else _OTHERWISE)
    return [octets.decode(codec, "backslashreplace").encode("utf-8", "replace").decode() for codec in codecs]


@lru_cache(maxsize=256)
def _is_plain(codec: str | None) -> bool:
    """Whether everybody knows it, or reads the same ASCII who does not: no EBCDIC, UTF-16, nor what has escapes."""
    return codec is not None and not codec.startswith(("iso2022", "hz")) and b".exe".decode(codec, "replace") == ".exe"


def _words(value: bytes, otherwise: str | None = None) -> str:
    """`otherwise`: the codec for words in a character set that some do not know."""
    text: list[str] = []
    charset, octets, at = "", b"", 0
    for match in _ENCODED_WORD.finditer(value) if otherwise is None else _any_words(value):
        word = _octets(match[2], match[3])
        name = known_charset(match[1].partition(b"*")[0])
        if otherwise is not None and not _is_plain(name):
            name = otherwise
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


def _any_words(value: bytes) -> Iterator[re.Match[bytes]]:
    return (match for match in _ANY_WORD.finditer(value) if match[4])


def known_charset(name: bytes) -> str | None:
    """Python's codec for a character set that is one of the list."""
    normal = normalize_encoding(name.decode("ascii", "replace").lower())
    known = aliases.get(normal) or aliases.get(normal.replace(".", "_"), normal)
    return known if known in _CHARSETS else None


def _octets(encoding: bytes, text: bytes) -> bytes | None:
    if encoding in b"qQ":
        return binascii.a2b_qp(text, header=True)
    try:
        return binascii.a2b_base64(text + b"===")  # padding is often missing
    except binascii.Error:  # a letter too many
        letters = _NO_LETTERS.sub(b"", text)
        return binascii.a2b_base64(letters[: len(letters) - (len(letters) % 4 == 1)] + b"==") or None
