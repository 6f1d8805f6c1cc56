r"""Whom a guard allows, judged once more and otherwise: by what anybody could make of a RCPT line (DESIGN §6 "Guard", §9.3).

It shares nothing with the product. An entry is what a configuration says and, beside it, what that means; a line is read octet by octet. An address passes where an entry
without wildcard is that very address, or where one with a wildcard fits and no mail program could take it for another one.
"""

from __future__ import annotations

import unicodedata
from fnmatch import fnmatchcase
from typing import NamedTuple

#: U-labels that stand in entries, and their A-labels.
KNOWN_LABELS = {"m\u00fcnchen": "xn--mnchen-3ya"}


class Entry(NamedTuple):
    """`local` and `domain` as they are compared, with fnmatch's wildcards; `exact`: they have none."""

    written: str
    local: str
    domain: str
    exact: bool = False


ENTRIES = [
    Entry("*@example.test", "*", "example.test"),
    Entry("*@EXAMPLE.test.", "*", "example.test"),
    Entry("*@*.sub.test", "*", "*.sub.test"),
    Entry("*@m\u00fcnchen.test", "*", "xn--mnchen-3ya.test"),
    Entry("qa+*@plus.test", "qa+*", "plus.test"),
    Entry("j?ne@one.test", "j?ne", "one.test"),
    Entry("*@\\[192.0.2.1\\]".replace("\\", ""), "*", "[[]192.0.2.1]"),
    Entry("jane@exact.test", "jane", "exact.test", exact=True),
    Entry("jane%customer.test@example.test", "jane%customer.test", "example.test", exact=True),
    Entry("customer.test!jane@exact.test", "customer.test!jane", "exact.test", exact=True),
    Entry('"jane@customer.test"@exact.test', "jane@customer.test", "exact.test", exact=True),
    Entry("postmaster", "postmaster", "", exact=True),
]


def refused(line: bytes, entries: list[Entry]) -> str | None:  # noqa: PLR0911  one for each thing that can be wrong
    """Why a RCPT line must not have left; None where it may."""
    if not line.startswith(b"RCPT TO:<"):
        return "it is no RCPT line"
    if any(octet < 0x20 or octet == 0x7F for octet in line):
        return "a control character"
    end = _closing(line, len(b"RCPT TO:<"))
    if end is None:
        return "no end of the path"
    address, rest = line[len(b"RCPT TO:<") : end], line[end + 1 :]
    if rest and not rest.startswith(b" "):
        return "something behind the path"
    if not allowed(address, entries):
        return "nobody allows that address"
    for word in rest.split():
        keyword, _, value = word.partition(b"=")
        if keyword.upper() == b"ORCPT" and not _may_be_named(value, entries):
            return "nobody allows its ORCPT"
        if keyword.upper() not in (b"ORCPT", b"NOTIFY"):
            return "a parameter that could name anybody"
    return None


def _closing(line: bytes, at: int) -> int | None:
    quoted = False
    while at < len(line):
        octet = line[at : at + 1]
        if quoted and octet == b"\\":
            at += 1
        elif octet == b'"':
            quoted = not quoted
        elif octet == b">" and not quoted:
            return at
        elif octet in b"< ," and not quoted:
            return None
        at += 1
    return None


def allowed(address: bytes, entries: list[Entry]) -> bool:
    parts = parts_of(address)
    if parts is None:
        return False
    local, domain = parts
    for entry in entries:
        if entry.exact:
            if (_lower(local), domain) == (entry.local, entry.domain):
                return True
        elif (
            domain and fnmatchcase(_lower(local), entry.local) and fnmatchcase(domain, entry.domain) and not _odd(local)
        ):
            return True
    return False


def parts_of(address: bytes) -> tuple[str, str] | None:
    """Local part without its quotes, and domain with A-labels; None where it is not one address."""
    try:
        text = address.decode("utf-8")
    except UnicodeDecodeError:
        return None
    local, at, quoted_end = "", 0, 0
    if text.startswith('"'):
        at = 1
        while at < len(text) and text[at] != '"':
            at += text[at] == "\\"
            local += text[at : at + 1]
            at += 1
        at += 1
        quoted_end = at
        if text[at : at + 1] not in ("@", ""):
            return None
    else:
        at = len(text) if "@" not in text else text.index("@")
        local = text[:at]
        if '"' in local or "\\" in local:
            return None
    domain = text[at + 1 :]
    if "@" in domain or not (local or quoted_end):
        return None
    domain = domain.removesuffix(".")
    labels = [_a_label(label) for label in domain.split(".")]
    if None in labels:
        return None
    return local, ".".join([label or "" for label in labels])


def _a_label(label: str) -> str | None:
    if label.isascii():
        label = label.lower()
        if not label.startswith("xn--"):
            return label
        try:
            shown = label[4:].encode("ascii").decode("punycode")
        except UnicodeError:
            return None
        return None if shown.isascii() or _disguised(shown) or "\u3002" in shown else label
    label = unicodedata.normalize("NFC", label).lower()
    if "\u3002" in label or _disguised(label):
        return None
    return KNOWN_LABELS.get(label) or "xn--" + label.encode("punycode").decode("ascii")


def _odd(local: str) -> bool:
    """Whether somebody would send it elsewhere than behind its last @."""
    return any(sign in form for form in (local, unicodedata.normalize("NFKC", local)) for sign in "%!@") or _disguised(
        local
    )


def _disguised(text: str) -> bool:
    """Whether who maps characters before he compares reads another text."""
    return unicodedata.normalize("NFKC", text) != unicodedata.normalize("NFC", text)


def _lower(local: str) -> str:
    """Letters that look like others are no other case of them."""
    return "".join([sign.lower() if sign.isascii() or not _disguised(sign) else sign for sign in local])


def _may_be_named(value: bytes, entries: list[Entry]) -> bool:
    kind, _, written = value.partition(b";")
    address, at = b"", 0
    while at < len(written):
        if written[at : at + 1] == b"+":
            address += bytes([int(written[at + 1 : at + 3], 16)])
            at += 3
        else:
            address += written[at : at + 1]
            at += 1
    return kind.lower() in (b"rfc822", b"utf-8") and b"\\x{" not in address and allowed(address, entries)
