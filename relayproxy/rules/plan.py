"""The rules of one stage, so that those which cannot apply are not looked at: a thousand rules, each for one address, cost as much as a few.

A condition may know keys (`Condition.keys`): it holds only where one of them is among those of the sender, or of a recipient. Rules whose conditions know none
are looked at always. Invariant: what is left out would not have applied; the order is the file's. Whether a rule applies does not belong here.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.rules.pattern_list import keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.rule import Key, Rule

_NO_PLACES: Final[Sequence[int]] = ()


class Planned(NamedTuple):
    """A rule, and what is asked of it often."""

    rule: Rule
    per_recipient: bool
    holds: Callable[[Facts, Recipient | None, Draws, dict[str, str]], bool]


class Plan:
    """Rules in order; their places are from 0."""

    __slots__ = ("_always", "_by_key", "rules")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple([Planned(rule, rule.per_recipient, rule.when.holds) for rule in rules])
        self._by_key: dict[Key, list[int]] = {}
        always: list[int] = []
        for place, planned in enumerate(self.rules):
            keys = planned.rule.when.keys
            if keys is None:
                always.append(place)
            else:
                for key in keys:
                    self._by_key.setdefault(key, []).append(place)
        self._always = tuple(always)

    def after(self, place: int, facts: Facts) -> Sequence[int]:
        """Places behind that one of rules that may apply, in order."""
        places: Sequence[int] = self._always
        by_key = self._by_key
        if by_key:
            found = {at for key in _keys(facts) for at in by_key.get(key, _NO_PLACES)}
            if found:
                places = sorted(found.union(places))
        return places if place < 0 else places[bisect_right(places, place) :]


def _keys(facts: Facts) -> Iterator[Key]:
    for key in keys_of(facts.sender):
        yield "sender", key
    for recipient in facts.recipients:
        for key in keys_of(recipient.address):
            yield "recipient", key
