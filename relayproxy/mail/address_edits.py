"""Other addresses in fields such as To: `replaced` some by others, `rewritten` all but those that are spared (DESIGN §6 "Actions").

Invariants: only octets of addr-specs change, and, in `rewritten`, of odd elements (mail/address_list.py), which go as a whole: it fails closed, so that behind it no
program that reads mail finds an address that is neither spared nor the one that was to be. Fields in which nothing is found stay octet for octet. Names stay:
they tell whose mail it was. How a value is read does not belong here, nor which fields there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from relayproxy.mail.address_list import addresses, found
from relayproxy.mail.canonical import canonical
from relayproxy.mail.field_text import wire_address, wrapped
from relayproxy.mail.header import MAX_LINE, HeaderSection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from relayproxy.mail.address_list import Found


class Spares(Protocol):
    """Who says which addresses stay: AddressPattern does. What is odd (mail/odd.py) is for it to look at."""

    def spares(self, address: str, /) -> bool:
        """`address` may be in any form."""


class Pair(NamedTuple):
    """Where `old` stands `new` is to stand; `origin`: for whom."""

    old: str
    new: str
    origin: int


def replaced(section: HeaderSection, fields: Collection[str], pairs: Sequence[Pair], *, utf8: bool) -> HeaderSection:
    """In these fields, the first address of a pair is to be the second, or what later pairs of the same origin make of that: an address that stands there is
    replaced once. Raises ValueError where one is no address.
    """
    if not pairs:
        return section
    became: dict[tuple[int, str], bytes] = {}
    for old, new, origin in reversed(pairs):
        octets = wire_address(new, utf8=utf8)
        became[origin, canonical(old)] = became.get((origin, canonical(new)), octets)
    # Whom the client named goes before whom a rule made of another.
    first = {pair.origin: (pair.origin, canonical(pair.old)) for pair in reversed(pairs)}
    to: dict[str, bytes] = {}
    for origin, address in (*reversed(first.values()), *reversed(became)):
        to.setdefault(address, became[origin, address])
    return _with_values(section, fields, addresses, lambda address: to.get(canonical(address)))


def rewritten(
    section: HeaderSection, fields: Collection[str], spare: tuple[Spares, ...], to: str, *, utf8: bool
) -> HeaderSection:
    """In these fields, all addresses that nobody spares are to be `to`, and odd elements too. Raises ValueError where `to` is no address."""
    octets, target = wire_address(to, utf8=utf8), canonical(to)

    def another(address: str) -> bytes | None:
        return None if canonical(address) == target or any(one.spares(address) for one in spare) else octets

    return _with_values(section, fields, found, another, octets)


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
    return b"\r\n".join([wrapped(line, at) if at + len(line) > MAX_LINE else line for line, at in lines])
