"""Other addresses in fields such as To: `replaced` some by others, `rewritten` all but those that are spared (DESIGN §6 "Actions").

Invariants: only octets of addr-specs change, and, in `rewritten`, of odd elements (mail/address_list.py), which go as a whole: it fails closed, so that behind it no
program that reads mail finds an address that is neither spared nor the one that was to be. Fields in which nothing is found stay octet for octet. Names stay:
they tell whose mail it was. How a value is read does not belong here, nor which fields there are.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from relayproxy.mail.address_list import addresses, found
from relayproxy.mail.canonical import canonical, dequoted, split
from relayproxy.mail.field_text import folded, wire_address
from relayproxy.mail.header import MAX_LINE, HeaderSection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from relayproxy.mail.address_list import Found
    from relayproxy.mail.pattern import AddressPattern

# atext (RFC 5322 §3.2.3, RFC 6532 §3.2) but for what routes: the percent hack, UUCP paths.
_PLAIN_LOCAL: Final = re.compile(r"[A-Za-z0-9#$&'*+\-/=?^_`{|}~.\u0080-\U0010ffff]++")
_FULL_STOP: Final = "\u3002"  # to IDNA 2003 a dot, and the only one of those that NFKC leaves as it is


def replaced(
    section: HeaderSection, fields: Collection[str], pairs: Sequence[tuple[str, str]], *, utf8: bool
) -> HeaderSection:
    """In these fields, the first address of a pair is to be the second, pair after pair. Raises ValueError where one is no address."""
    to: dict[str, bytes] = {}
    for old, new in reversed(pairs):
        octets = wire_address(new, utf8=utf8)
        to[canonical(old)] = to.get(canonical(new), octets)  # what a later pair makes of it
    return _with_values(section, fields, addresses, lambda address: to.get(canonical(address)))


def rewritten(
    section: HeaderSection, fields: Collection[str], spare: tuple[AddressPattern, ...], to: str, *, utf8: bool
) -> HeaderSection:
    """In these fields, all addresses that no pattern spares are to be `to`, and odd elements too. Raises ValueError where `to` is no address."""
    octets, target = wire_address(to, utf8=utf8), canonical(to)

    def another(address: str) -> bytes | None:
        return None if canonical(address) == target or is_spared(address, spare) else octets

    return _with_values(section, fields, found, another, octets)


def is_spared(address: str, spare: Collection[AddressPattern]) -> bool:
    """Whether one matches. As in the guard, one with a wildcard, or an expression, speaks for nothing odd: who routes by `%` or `!`, splits at another `@`,
    or maps characters before he splits (NFKC), would send that elsewhere (attacks 10, 30).
    """
    local, domain = split(address)
    is_odd = (
        not domain
        or _PLAIN_LOCAL.fullmatch(dequoted(local)) is None
        or (not address.isascii() and _is_disguised(address))
    )
    return any(pattern.matches(address) and not (is_odd and _is_wild(pattern)) for pattern in spare)


def _is_wild(pattern: AddressPattern) -> bool:
    glob = pattern.pattern.glob
    return glob is None or "*" in glob or "?" in glob


def _is_disguised(text: str) -> bool:
    return any(unicodedata.normalize("NFKC", character) != character or character == _FULL_STOP for character in text)


def _with_values(
    section: HeaderSection,
    fields: Collection[str],
    read: Callable[[bytes], list[Found]],
    another: Callable[[str], bytes | None],
    for_odd: bytes = b"",
) -> HeaderSection:
    """All that is put in are addresses; all else in a value may be anything, and stays: HeaderSection.change would refuse it."""
    names = {name.lower().encode("utf-8") for name in fields}
    raw = bytes(section)
    pieces, at = [], 0
    for field in section.fields:
        if field.name.lower() not in names:
            continue
        end = field.end - (2 if raw.endswith(b"\r\n", field.start, field.end) else 0)
        start = end - len(field.value)
        value: list[bytes] = []
        last = 0
        for one in read(field.value):
            octets = for_odd if one.address is None else another(one.address)
            if octets is not None:
                value += [field.value[last : one.start], octets]
                last = one.end
        if value:
            pieces += [raw[at:start], _refolded(b"".join([*value, field.value[last:]]), start - field.start)]
            at = end
    return HeaderSection(b"".join([*pieces, raw[at:]]))


def _refolded(value: bytes, start: int) -> bytes:
    """With lines that have grown too long (RFC 5322 §2.1.1) folded; `start` octets stand before the first."""
    if all(len(line) <= MAX_LINE for line in (bytes(start) + value).split(b"\r\n")):
        return value
    pieces, at = [], 0
    for one in found(value):
        if value[one.start - 1 : one.start] in (b",", b";"):  # white space may stand there
            pieces.append(value[at : one.start] + b" ")
            at = one.start
    first, *others = b"".join([*pieces, value[at:]]).split(b"\r\n")
    lines = [(first, start), *[(line, 0) for line in others]]
    return b"\r\n".join([folded(line, at) if at + len(line) > MAX_LINE else line for line, at in lines])
