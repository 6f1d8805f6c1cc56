"""Conditions (DESIGN §6 "Conditions"): whether a rule applies.

Invariants: pure, but for what is drawn by the caller; a condition on what is not there does not hold, and its opposite does; what is drawn is drawn
only where all else in the same table holds, so that it counts what it is to count. Nothing takes more than linear time.
Named groups are those of patterns that made the rule apply: none of a part that does not hold, none of `not`.
How conditions are written does not belong here (condition_syntax.py).
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from relayproxy.mail.canonical import canonical
from relayproxy.mail.ip import plain_address
from relayproxy.rules.pattern_list import PatternList
from relayproxy.rules.rule import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from ipaddress import IPv4Network, IPv6Network

    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.pattern_list import AddressList
    from relayproxy.rules.rule import Subject

Comparison = Literal["<", "<=", "=", ">=", ">"]

_COMPARED: Final[Mapping[Comparison, Callable[[int, int], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}
_NOTHING: Final[frozenset[Subject]] = frozenset()


class Part(msgspec.Struct, frozen=True):
    """What all have. `is_drawn`: something in it is drawn; `names`: groups that it may put in."""

    @property
    def reads(self) -> frozenset[Subject]:
        return _NOTHING

    @property
    def keys(self) -> frozenset[Key] | None:
        return None

    @property
    def is_drawn(self) -> bool:
        return False

    @property
    def names(self) -> frozenset[str]:
        return frozenset()

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        raise NotImplementedError


class _Several(Part, frozen=True):
    """Those that are drawn stand behind the others."""

    of: tuple[Part, ...]

    @property
    def reads(self) -> frozenset[Subject]:
        return _NOTHING.union(*[part.reads for part in self.of])

    @property
    def is_drawn(self) -> bool:
        return any(part.is_drawn for part in self.of)

    @property
    def names(self) -> frozenset[str]:
        return frozenset[str]().union(*[part.names for part in self.of])


class All(_Several, frozen=True):
    """Each of them holds; none: always."""

    @property
    def keys(self) -> frozenset[Key] | None:
        return min([keys for part in self.of if (keys := part.keys) is not None], key=len, default=None)

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        for part in self.of:  # noqa: SIM110  half the time of all(): a thousand rules are asked
            if not part.holds(facts, recipient, draws, groups):
                return False
        return True


class AnyOf(_Several, frozen=True):
    """One of them holds, or more."""

    @property
    def keys(self) -> frozenset[Key] | None:
        found: set[Key] = set()
        for part in self.of:
            if (keys := part.keys) is None:
                return None
            found |= keys
        return frozenset(found)

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        for part in self.of:
            found: dict[str, str] = {}
            if part.holds(facts, recipient, draws, found):
                groups.update(found)
                return True
        return False


class Not(Part, frozen=True):
    """It does not hold."""

    of: Part

    @property
    def reads(self) -> frozenset[Subject]:
        return self.of.reads

    @property
    def is_drawn(self) -> bool:
        return self.of.is_drawn

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return not self.of.holds(facts, recipient, draws, {})


def in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    """As All and AnyOf want them."""
    return tuple(sorted(parts, key=lambda part: part.is_drawn))


class Matches(Part, frozen=True):
    """One of some texts is as a pattern has it. `of` gives those that are there."""

    subject: Subject
    of: Callable[[Facts, Recipient | None], Iterable[str]]
    patterns: PatternList | AddressList

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({self.subject})

    @property
    def keys(self) -> frozenset[Key] | None:
        if self.subject == "recipient" and isinstance(self.patterns, PatternList):
            return None  # of a parameter of its RCPT: the subject's keys are addresses
        keys = self.patterns.keys
        return None if keys is None else frozenset([Key(self.subject, text, is_part) for text, is_part in keys])

    @property
    def names(self) -> frozenset[str]:
        return self.patterns.names

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        for value in self.of(facts, recipient):
            if (found := self.patterns.groups(value)) is not None:
                groups.update(found)
                return True
        return False


class Exists(Part, frozen=True):
    """There is one."""

    subject: Subject
    of: Callable[[Facts, Recipient | None], Iterable[str]]

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({self.subject})

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return any(True for _ in self.of(facts, recipient))


class ClientIn(Part, frozen=True):
    """The client's address is in one of these networks; that of a Unix socket is in none. By version and length of the prefix, its numbers."""

    networks: tuple[tuple[int, int, frozenset[int]], ...]

    @classmethod
    def of(cls, networks: Iterable[IPv4Network | IPv6Network]) -> ClientIn:
        found: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            found.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
        return cls(tuple((version, shift, frozenset(numbers)) for (version, shift), numbers in found.items()))

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({"client"})

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        if (client := _client(facts.client)) is None:
            return False
        of, number = client
        for version, shift, numbers in self.networks:  # noqa: SIM110  as above
            if of == version and number >> shift in numbers:
                return True
        return False


@lru_cache(maxsize=1024)  # many rules ask, and clients come again
def _client(written: str) -> tuple[int, int] | None:
    """Version and number."""
    address = plain_address(written)
    return None if address is None else (address.version, int(address))


class Count(Part, frozen=True):
    """A number compares so."""

    subject: Subject
    of: Callable[[Facts], int]
    comparison: Comparison
    number: int

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({self.subject})

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return _COMPARED[self.comparison](self.of(facts), self.number)


class ByDraw(Part, frozen=True):
    """`draw`: the name under which it is drawn, that of the rule and its place in it."""

    draw: str

    @property
    def is_drawn(self) -> bool:
        return True


class Chance(ByDraw, frozen=True):
    probability: float

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return draws.chance(self.draw) < self.probability


class Every(ByDraw, frozen=True):
    n: int

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return draws.every(self.draw, self.n)


class First(ByDraw, frozen=True):
    """The first so many times of what is the same in `per`, within so many seconds."""

    times: int
    per: tuple[str, ...]
    within: float

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset(self.per)

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        key = tuple([KEYS[one](facts, recipient) for one in self.per])
        return draws.first(self.draw, key, times=self.times, within=self.within)


#: What `first` may count by, as text.
KEYS: Final[Mapping[str, Callable[[Facts, Recipient | None], str]]] = {
    "client": lambda facts, _: facts.client,
    "listener": lambda facts, _: facts.listener,
    "helo": lambda facts, _: facts.helo,
    "auth": lambda facts, _: facts.user or "",
    "sender": lambda facts, _: canonical(facts.sender),
    "recipient": lambda _, recipient: "" if recipient is None else canonical(recipient.address),
    "session": lambda facts, _: facts.session,
}


# What conditions look at: the values that are there.


def listener(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return (facts.listener,)


def helo(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return (facts.helo,)


def tls(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return () if facts.tls is None else (facts.tls,)


def user(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return () if facts.user is None else (facts.user,)


def sender(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return (facts.sender,)


def one_recipient(_: Facts, recipient: Recipient | None) -> Iterable[str]:
    return () if recipient is None else (recipient.address,)


def body(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return () if facts.content is None else (facts.content.text,)


def attachments(facts: Facts, _: Recipient | None) -> Iterable[str]:
    return () if facts.content is None else facts.content.attachments


def unreadable(facts: Facts, _: Recipient | None) -> Iterable[str]:
    """One, where an attachment may hide."""
    return () if facts.content is None or facts.content.complete else ("",)


def how_many(facts: Facts) -> int:
    return len(facts.recipients)


def size(facts: Facts) -> int:
    return 0 if facts.content is None else facts.content.size


def of_mail(keyword: str) -> Callable[[Facts, Recipient | None], Iterable[str]]:
    """A parameter of MAIL; "" where it has no value."""
    return lambda facts, _: _given(facts.parameters, keyword)


def of_rcpt(keyword: str) -> Callable[[Facts, Recipient | None], Iterable[str]]:
    """A parameter of the recipient's RCPT."""
    return lambda _, recipient: () if recipient is None else _given(recipient.parameters, keyword)


def _given(parameters: Mapping[str, str | None], keyword: str) -> Iterable[str]:
    return (parameters[keyword] or "",) if keyword in parameters else ()


def fields(name: str) -> Callable[[Facts, Recipient | None], Iterable[str]]:
    """What the fields of that name say."""
    octets = name.encode("ascii")

    def values(facts: Facts, _: Recipient | None) -> Iterable[str]:
        return () if facts.header is None else facts.header.texts(octets)

    return values
