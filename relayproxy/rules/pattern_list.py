"""Lists of patterns, of which one is to match: quick however many there are.

Nearly all patterns in long lists are whole values, `*@domain` and `*@*.domain`: those are looked up, the rest is tried one behind the other. (RE2 has
sets of expressions, which find nothing where they run out of memory: no rule may hang on that.)

Invariants: a list matches what one of its patterns matches, and nothing else; named groups are those of the first in order that has some and matches.
Where lists come from does not belong here (load.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.canonical import canonical_again
from relayproxy.mail.pattern import folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relayproxy.mail.pattern import AddressPattern, Pattern

#: Characters of a value that are looked at (PROTOCOL §1.13: regex input).
MAX_INPUT: Final = 1 << 20

#: Patterns of a list, for each of which something is looked for.
MAX_KEYS: Final = 8


class PatternList:
    """Of texts. `keys`: in a text that matches one of them stands; None where to look for them would take as long as to match."""

    __slots__ = ("_rest", "_whole", "_with_groups", "keys", "names")

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.names = frozenset[str]().union(*[pattern.names for pattern in patterns])
        self._with_groups = tuple(pattern for pattern in patterns if pattern.names)
        whole, rest = set(), []
        for pattern in patterns:
            if (glob := _ascii_glob(pattern.glob)) is not None and not _has_wildcard(glob):
                whole.add(folded(glob))
            elif not pattern.names:
                rest.append(pattern)
        self._whole = frozenset(whole)
        self._rest = tuple(rest)
        self.keys = _keys((), patterns)

    def groups(self, value: str) -> dict[str, str] | None:
        """What named groups found; None where no pattern matches."""
        value = value[:MAX_INPUT]
        for pattern in self._with_groups:
            if (found := pattern.groups(value)) is not None:
                return found
        if (self._whole and folded(value) in self._whole) or any(pattern.matches(value) for pattern in self._rest):
            return {}
        return None


def keys_of(address: str) -> list[str]:
    """An address in any form as the keys of lists have it: the whole, `@` and its domain, `@*.` and each domain above that."""
    whole = folded(canonical_again(address[:MAX_INPUT]))
    keys = [whole]
    _, at, domain = whole.rpartition("@")
    if at:
        keys.append("@" + domain)
        while domain:
            _, _, domain = domain.partition(".")
            keys.append("@*." + domain)
    return keys


class AddressList:
    """Of addresses, in their canonical form. `keys`: as of texts, or what an address that matches is or is of."""

    __slots__ = ("_domains", "_parents", "_rest", "_whole", "_with_groups", "keys", "names", "patterns")

    def __init__(self, patterns: Sequence[AddressPattern]) -> None:
        self.patterns = tuple(patterns)
        self.names = frozenset[str]().union(*[pattern.pattern.names for pattern in patterns])
        self._with_groups = tuple(pattern for pattern in patterns if pattern.pattern.names)
        whole, domains, parents, rest = set(), set(), set(), []
        for pattern in patterns:
            glob = _ascii_glob(pattern.pattern.glob) if pattern.text.isascii() else None
            # Of `*@x`, x has no wildcard and no @: it is all that is behind the last @ of what matches.
            if glob is None:
                if not pattern.pattern.names:
                    rest.append(pattern)
            elif not _has_wildcard(glob):
                whole.add(folded(glob))
            elif glob.startswith("*@*.") and _is_domain(glob[4:]):
                parents.add(folded(glob[4:]))
            elif glob.startswith("*@") and _is_domain(glob[2:]):
                domains.add(folded(glob[2:]))
            else:
                rest.append(pattern)
        self._whole, self._domains, self._parents = frozenset(whole), frozenset(domains), frozenset(parents)
        self._rest = tuple(rest)
        known = [*whole, *[f"@{domain}" for domain in domains], *[f"@*.{parent}" for parent in parents]]
        tried = [*self._with_groups, *rest]
        self.keys = None
        if all(one.text.isascii() for one in tried):  # others are tried on two forms
            self.keys = _keys(known, [one.pattern for one in tried])

    def groups(self, address: str) -> dict[str, str] | None:
        """`address` may be in any form. What named groups found; None where no pattern matches."""
        address = address[:MAX_INPUT]
        for pattern in self._with_groups:
            if (found := pattern.groups(address)) is not None:
                return found
        return (
            {}
            if self._is_known(folded(canonical_again(address))) or any(one.matches(address) for one in self._rest)
            else None
        )

    def _is_known(self, address: str) -> bool:
        if address in self._whole:
            return True
        _, at, domain = address.rpartition("@")
        if not at:
            return False
        if domain in self._domains:
            return True
        while self._parents and domain:
            _, _, domain = domain.partition(".")
            if domain in self._parents:
                return True
        return False


def _keys(known: Iterable[str], tried: Sequence[Pattern]) -> frozenset[tuple[str, bool]] | None:
    """As `Key` has them: text, and whether it is a part."""
    needles = [pattern.needle for pattern in tried[:MAX_KEYS]]
    if len(tried) > MAX_KEYS:
        return None
    return frozenset([*[(text, False) for text in known], *[(needle, True) for needle in needles]])


def _ascii_glob(glob: str | None) -> str | None:
    return glob if glob is not None and glob.isascii() else None


def _has_wildcard(glob: str) -> bool:
    return "*" in glob or "?" in glob


def _is_domain(glob: str) -> bool:
    return not _has_wildcard(glob) and "@" not in glob
