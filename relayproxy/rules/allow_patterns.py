"""What is doubtful about an entry of `[guard] allow`: it is right, and yet hardly what anybody means. For `check`, which says so.

It is about how patterns are written, so it can be wrong about an expression; what an entry really allows is the guard's (guard.py).
"""

from __future__ import annotations

import re
from typing import Final

from relayproxy.mail.canonical import split
from relayproxy.mail.pattern import AddressPattern
from relayproxy.smtp.commands import Path

#: What one that guards something does not all allow.
_STRANGERS: Final = ("a@a.example", "zoe.q-7@mail.k9.invalid", "0@xn--mnchen-3ya.de", "info@customer.com")
#: Top-level domains that are nobody's (RFC 2606 §2, RFC 6761 §6, and what ICANN keeps free for private use).
_OWN: Final = frozenset({"example", "internal", "invalid", "local", "localhost", "test"})

_WILDCARDS: Final = re.compile(r"[*?]+")
# A piece of an expression in which `|`, `(` and `)` mean themselves, or one of these.
_PIECE: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|.", re.DOTALL)
_FLAGS: Final = re.compile(r"\(\?[imsU-]+\)")
_GROUP: Final = re.compile(r"\((?!\?)|\(\?(?:[imsU-]*:|P?<\w+>)")
_REPEATED: Final = re.compile(r"(?<!\\)[*+?{]")
_END: Final = re.compile(r"(?:[^\\]|\\.)*(?:\$|\\z)", re.DOTALL)


def doubt(entry: str) -> str | None:
    """What is doubtful about an entry that is a pattern, in words behind its name; None where nothing is."""
    pattern = AddressPattern.parse(entry)
    if all(map(pattern.matches, _STRANGERS)):
        return "guards nothing: it allows every address"
    if (expression := pattern.pattern.expression) is not None:
        return _of_expression(expression)
    return _of_wildcards(entry) if _WILDCARDS.search(entry) else _of_address(entry)


def _of_wildcards(entry: str) -> str | None:
    domain = split(entry)[1]
    if not domain:
        return "has no @, so that its wildcard stands for domains of others too"
    *before, behind = _WILDCARDS.split(domain.removesuffix("."))
    if not before:
        return None
    if not behind.startswith(".") or behind == ".":
        return "allows domains of others too, as its wildcard does not stand for whole names in front of a domain of yours (*@*.example.com)"
    if "." not in behind[1:] and behind[1:].lower() not in _OWN:
        return f"allows every domain in {behind[1:]}"
    return None


def _of_address(entry: str) -> str | None:
    local, domain = split(entry)
    if not local:
        return f"allows no address; all of a domain is *@{domain}"
    try:
        Path.parse(entry.encode())
    except ValueError:
        return "allows no address, as none is written so"
    if not domain and "." in local:
        return f"allows a recipient without a domain; all of a domain is *@{local}"
    return None


def _of_expression(expression: str) -> str | None:
    for one in _alternatives(expression):
        if _END.fullmatch(one) is None:
            return "is searched for anywhere in an address, so that domains of others may stand behind it; $ at its end keeps them out"
        if "@" not in one and not (one.startswith(("^", "\\A")) and _REPEATED.search(one) is None):
            return "names no @, so that domains of others may end like that; an @ in front of the domain keeps them out"
    return None


def _alternatives(expression: str) -> list[str]:
    """What stands between the `|` of an expression, also where all of it is in one pair of parentheses."""
    found, depth, start = [], 0, 0
    expression = _FLAGS.sub("", expression, count=1) if _FLAGS.match(expression) else expression
    closed = -1
    for piece in _PIECE.finditer(expression):
        match piece[0]:
            case "(":
                depth += 1
            case ")":
                depth -= 1
                if depth == 0 and closed < 0:
                    closed = piece.end()
            case "|" if depth == 0:
                found.append(expression[start : piece.start()])
                start = piece.end()
    if closed == len(expression) and (group := _GROUP.match(expression)):
        return _alternatives(expression[group.end() : -1])
    return [*found, expression[start:]]
