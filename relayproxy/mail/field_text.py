r"""Text as the value of a field on the wire (RFC 5322 §2.1.1, §2.2.3, RFC 2047, RFC 6532): `field_value`, and `wire_address`.

    field_value("Subject", "Grüße")                    # b"=?utf-8?q?Gr=C3=BC=C3=9Fe?="
    field_value("To", "Jürgen <j@münchen.test>")       # b"=?utf-8?q?J=C3=BCrgen?= <j@xn--mnchen-3ya.test>"

Invariants: what `words.decode` reads from a value is the text that it was made of, but for space around it and names in To and their like; no line is longer than 998 octets, nor than 78 where
white space lets it be folded, nor than 76 where it has an encoded word (RFC 2047 §2). Whatever cannot be written so raises ValueError: what was expected.
What may stand in which field does not belong here, nor where the field goes (edits.py).
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from relayproxy.mail.canonical import canonical_domain, dequoted, quoted
from relayproxy.mail.header import MAX_LINE
from relayproxy.smtp import grammar

#: RFC 5322 §2.1.1: octets of a line that is to be read.
GOOD_LINE: Final = 78
#: RFC 2047 §2: an encoded word, and a line that has one.
MAX_WORD: Final = 75
#: Where a field's name leaves less room for an encoded word, the word goes to the next line.
LEAST_WORD: Final = 40

#: Fields that are address lists: in their phrases and comments alone may encoded words stand (RFC 2047 §5).
ADDRESS_FIELDS: Final = frozenset({
    "from", "sender", "reply-to", "to", "cc", "bcc", "return-path", "delivered-to", "errors-to", "disposition-notification-to",
    "resent-from", "resent-sender", "resent-reply-to", "resent-to", "resent-cc", "resent-bcc", "mail-followup-to", "mail-reply-to",
})  # fmt: skip

# C0, DEL and C1; lone surrogates are no text.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SPACED_OCTETS: Final = re.compile(rb"[ \t]*+[^ \t]++|[ \t]++")
_SPACED_WORD: Final = re.compile(r" *+[^ ]++")

# RFC 2047 §5 (3): in a phrase, only these octets stand for themselves; they may everywhere else.
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q: Final = [chr(octet) if octet in _PLAIN else "_" if octet == 0x20 else f"={octet:02X}" for octet in range(256)]

# Of text, pieces of an address list as RFC 5322 §3.4 has them (mail/address_list.py): addr-spec, phrase, comment.
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\u0080-\U0010ffff]++"
_QUOTED: Final = r'"(?:[^"\\]++|\\.)*"'
_PIECE: Final = re.compile(
    rf"(?P<address>(?:{_ATOM}|{_QUOTED})@(?:{_ATOM}|\[[^\[\]]*+\]))"
    rf"|(?P<phrase>(?:{_ATOM}|{_QUOTED})(?: ++(?:{_ATOM}|{_QUOTED})(?!@))*)"
    r"|\((?P<comment>(?:[^()\\]++|\\.)*)\)"
    r"|\\.|[^\u0080-\U0010ffff]"
)
_WORD: Final = re.compile(rf"{_ATOM}|{_QUOTED}")
_QUOTED_PAIR: Final = re.compile(r"\\(.)")


def field_value(name: str, text: str, *, utf8: bool = False) -> bytes:
    """`text` on one line, as octets behind `name: `, folded. `utf8`: it may be UTF-8 as it is (RFC 6532). Raises ValueError."""
    if found := _CONTROL.search(text):
        raise ValueError(f"expected a value of {name} on one line without control characters, got {found[0]!r}")
    text = text.strip(" ")
    room = max(min(MAX_WORD, GOOD_LINE - 2 - len(name) - 2), LEAST_WORD)
    if name.lower() in ADDRESS_FIELDS:
        line = "".join([_piece(match, room, utf8=utf8) for match in _PIECE.finditer(text)])
    else:
        line = _unstructured(text, room, utf8=utf8)
    octets = wrapped(line.encode("utf-8"), len(name) + 2, GOOD_LINE - 2 if "=?" in line else GOOD_LINE)
    first, *others = octets.split(b"\r\n")
    if len(name) + 2 + len(first) > MAX_LINE:
        octets, first = b"\r\n " + octets, b" " + first
    if any(len(one) > MAX_LINE for one in (first, *others)):
        raise ValueError(f"expected a value of {name} with white space every {MAX_LINE} octets, got {text[:80]!r}")
    return octets


def wire_address(address: str, *, utf8: bool = False) -> bytes:
    """An address as it stands in a field: its local part quoted where it is no dot-atom, its domain canonical. Raises ValueError."""
    try:
        came = address.encode("utf-8")
        local, domain, _ = grammar.path(b"<%b>" % came)
    except ValueError:
        local, domain, came = b"", b"", b"@"
    if not local or local + b"@" * bool(domain) + domain != came:  # a source route was cut
        raise ValueError(f"expected an address such as user@example.com, got {address[:80]!r}")
    octets = quoted(dequoted(local.decode("utf-8"))).encode("utf-8")
    if domain:
        octets += b"@" + canonical_domain(domain.decode("utf-8")).encode("utf-8")
    if not (utf8 or octets.isascii()):
        raise ValueError(f"expected an ASCII address, for the message came without SMTPUTF8, got {address[:80]!r}")
    return octets


def _unstructured(text: str, room: int, *, utf8: bool) -> str:
    """From the first word that cannot stand as it is to the last one there are encoded words: white space between two of them is none."""
    words = _SPACED_WORD.findall(text)
    wrong = [index for index, word in enumerate(words) if _is_wrong(word, utf8=utf8) or len(word.encode()) >= MAX_LINE]
    if not wrong:
        return text
    before, after = "".join(words[: wrong[0]]), "".join(words[wrong[-1] + 1 :])
    between = "".join(words[wrong[0] : wrong[-1] + 1])
    if before:
        before, between = before + " ", between.removeprefix(" ")
    return before + _encoded(between, room) + after


def _piece(match: re.Match[str], room: int, *, utf8: bool) -> str:
    """Of an address list."""
    piece = match[0]
    if match["address"]:
        return piece if piece.isascii() else wire_address(piece, utf8=utf8).decode("utf-8")
    if not _is_wrong(piece, utf8=utf8):
        return piece
    if match["comment"]:
        return "(" + _encoded(_QUOTED_PAIR.sub(r"\1", match["comment"]), room) + ")"
    return _encoded(" ".join([dequoted(word) for word in _WORD.findall(piece)]), room)


def _is_wrong(text: str, *, utf8: bool) -> bool:
    """Whether readers could not take it as it is: it looks like an encoded word to them, or it is not ASCII."""
    return "=?" in text or not (utf8 or text.isascii())


def _encoded(text: str, room: int) -> str:
    """As encoded words of at most `room` octets, each of whole characters (RFC 2047 §5)."""
    q = 2 * sum(map(str.isascii, text)) >= len(text)  # then people can read it, more or less
    words, word = [], ""
    for character in text:
        more = word + character
        if word and len(_one(more, q=q)) > room:
            words.append(_one(word, q=q))
            more = character
        word = more
    return " ".join([*words, _one(word, q=q)])


def _one(text: str, *, q: bool) -> str:
    octets = text.encode("utf-8")
    if q:
        return f"=?utf-8?q?{''.join([_Q[octet] for octet in octets])}?="
    return f"=?utf-8?b?{binascii.b2a_base64(octets, newline=False).decode('ascii')}?="


def wrapped(line: bytes, start: int, limit: int = GOOD_LINE) -> bytes:
    """The same with a fold before white space wherever a line would be longer than `limit` octets; `start` octets stand before it. One that has none stays too long."""
    lines, length = [b""], start
    for index, word in enumerate(_SPACED_OCTETS.findall(line)):
        # Neither the first word, which may have no space before it, nor white space at the end.
        if index and length + len(word) > limit and not word.isspace():
            lines.append(word)
            length = len(word)
        else:
            lines[-1] += word
            length += len(word)
    return b"\r\n".join(lines)
