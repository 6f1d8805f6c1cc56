r"""The guard: which addresses may stand in a RCPT line that leaves (DESIGN §6 "Guard", §9.3).

    guard = Guard.parse(["*@example.test", "jane%x@other.test"])
    guard.allows(b"Jane@EXAMPLE.test")      # True
    guard.allows(b'"a@b.test"@example.test')  # False
    rcpt = guard.guarded(rcpt)              # without an ORCPT that names somebody else

Invariants: what no entry allows is refused, and so is whatever two mail programs could take for two addresses; nothing raises, whatever the octets. An address is judged
as it would leave: it must be one by the grammar that writes the line (smtp/grammar.py), without a source route. An entry with a wildcard, or an expression,
speaks for an address only where nothing in it is odd (mail/odd.py). Who asks the guard, and what the client hears, does not belong here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.mail.canonical import canonical_domain, dequoted, split
from relayproxy.mail.odd import is_disguised, is_odd
from relayproxy.mail.pattern import AddressPattern, PatternError
from relayproxy.smtp import grammar
from relayproxy.smtp.commands import Path, Rcpt

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Entries that are named where the guard is told of.
_NAMED: Final = 5

_WILDCARD: Final = re.compile(r"[*?]")
# RFC 6533 §3: EmbeddedUnicodeChar = %x5C.78 "{" HEXPOINT "}", two to six upper case digits
_EMBEDDED: Final = re.compile(r"\\x\{([0-9A-F]{2,6})\}")


class Guard(msgspec.Struct, frozen=True):
    """`entries` as they were written. None allows nothing."""

    entries: tuple[str, ...]
    #: Local part and domain of those without wildcard; domains of those that are `*@domain`; all others.
    _addresses: frozenset[tuple[str, str]]
    _domains: frozenset[str]
    _patterns: tuple[AddressPattern, ...]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Guard:
        """Raises PatternError, which says of which entry it is."""
        entries = tuple(entries)
        addresses, domains, patterns = set(), set(), []
        for entry in entries:
            try:
                pattern = AddressPattern.parse(entry)
            except PatternError as error:
                raise PatternError(f"{entry[:80]!r}: {error}") from None
            if pattern.pattern.expression is not None:
                patterns.append(pattern)
                continue
            local, domain = split(entry)
            if _WILDCARD.search(entry) is None:
                addresses.add(_key(local, domain))
            elif local == "*" and domain and _WILDCARD.search(domain) is None:
                domains.add(canonical_domain(domain))
            else:
                patterns.append(pattern)
        return cls(entries, frozenset(addresses), frozenset(domains), tuple(patterns))

    @property
    def what(self) -> str:
        """Whom it allows, in words."""
        if not self.entries:
            return "nobody"
        more = len(self.entries) - _NAMED
        return ", ".join(self.entries[:_NAMED]) + (f" and {more} more" if more > 0 else "")

    def allows(self, address: bytes) -> bool:
        """Whether that may stand between the angle brackets of a RCPT."""
        try:
            path = Path.parse(address)
            if path.address != address or not path.local:  # a source route was cut; the null path is no recipient
                return False
            local, domain = path.local.decode(), path.domain.decode()
        except ValueError:
            return False
        key = _key(local, domain)
        if key in self._addresses:
            return True
        if is_odd(*key):
            return False
        return key[1] in self._domains or any(pattern.matches(f"{local}@{domain}") for pattern in self._patterns)

    def guarded(self, rcpt: Rcpt) -> Rcpt:
        """The same without parameters that name somebody who is not allowed, or that could: of what is no ORCPT only NOTIFY is known to name nobody."""
        kept = tuple(
            (name, value)
            for name, value in rcpt.parameters
            if (keyword := name.upper()) == b"NOTIFY" or (keyword == b"ORCPT" and self._admits(value))
        )
        return rcpt if len(kept) == len(rcpt.parameters) else Rcpt(rcpt.path, kept)

    def _admits(self, orcpt: bytes | None) -> bool:
        """Whether an ORCPT (RFC 3461 §4.2, RFC 6533 §3) names an address that is allowed."""
        try:
            kind, address = grammar.original_recipient(orcpt or b"")
            match kind.lower():
                case b"rfc822":
                    return self.allows(address)
                case b"utf-8":
                    # A backslash that is left is somebody's escape in a form that we do not read, and no address of ours.
                    meant = _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), address.decode())
                    return "\\" not in meant and self.allows(meant.encode())
                case _:
                    return False
        except ValueError:
            return False


def _key(local: str, domain: str) -> tuple[str, str]:
    """Local part and domain as they are compared. Letters in disguise are no other case of those that they look like."""
    meant = dequoted(local)
    return (meant if is_disguised(meant) else meant.lower()), ("" if not domain else _domain_key(domain))


def _domain_key(domain: str) -> str:
    return domain if is_disguised(domain) else canonical_domain(domain)
