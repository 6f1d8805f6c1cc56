"""The rules of one stage, so that those which cannot apply are not looked at: a thousand rules, each for one address, cost as much as a few.

A condition may know keys (`Condition.keys`), one of which must be so. Whole addresses and domains are looked up; parts of texts are looked for, in long texts
many at once. Rules whose conditions know no keys are looked at always. Invariant: what is left out would not have applied; the order is the file's. Whether a rule applies does not belong here.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

import re2  # type: ignore[import-untyped]

from relayproxy.mail.pattern import Pattern, folded
from relayproxy.rules.pattern_list import keys_of
from relayproxy.rules.rule import HEADER, Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.rule import Rule, Subject


#: Characters of a text from which on many parts are looked for at once, and how many.
_LONG: Final = 512
_AT_ONCE: Final = 100


class Candidate(NamedTuple):
    """A rule, and what is asked of it often."""

    rule: Rule
    per_recipient: bool
    holds: Callable[[Facts, Recipient | None, Draws, dict[str, str]], bool]


class _Parts:
    """Parts of one subject's text, each with the place of the rule that it is a key of."""

    __slots__ = ("_all", "_together")

    def __init__(self, parts: Sequence[tuple[str, int]]) -> None:
        self._all = parts
        chunks = [parts[at : at + _AT_ONCE] for at in range(0, len(parts), _AT_ONCE)]
        self._together = [(_one_of([part for part, _ in chunk]), chunk) for chunk in chunks]

    def found_in(self, text: str) -> list[int]:
        if len(text) < _LONG:
            return [place for part, place in self._all if part in text]
        return [
            place for one_of, chunk in self._together if one_of.matches(text) for part, place in chunk if part in text
        ]


class Candidates:
    """Rules in order; their places are from 0."""

    __slots__ = ("_always", "_fields", "_known", "_texts", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple([Candidate(rule, rule.per_recipient, rule.when.holds) for rule in rules])
        self._known: dict[Key, list[int]] = {}
        parts: dict[Subject, list[tuple[str, int]]] = {}
        always: list[int] = []
        for place, candidate in enumerate(self.rules):
            keys = candidate.rule.when.keys
            if keys is None or not all(key.subject in _TEXTS or key.subject.startswith(HEADER) for key in keys):
                always.append(place)
                continue
            for key in keys:
                if key.is_part:
                    parts.setdefault(key.subject, []).append((key.text, place))
                else:
                    self._known.setdefault(key, []).append(place)
        self._always = tuple(always)
        self._texts = [(_TEXTS[subject], _Parts(of)) for subject, of in parts.items() if subject in _TEXTS]
        self._fields = {
            subject.removeprefix(HEADER).encode("ascii"): _Parts(of)
            for subject, of in parts.items()
            if subject not in _TEXTS
        }

    def after(self, place: int, facts: Facts) -> Sequence[int]:
        """Places behind that one of rules that may apply, in order."""
        found: set[int] = set()
        if known := self._known:
            for key in _keys(facts):
                if key in known:
                    found.update(known[key])
        for text, parts in self._texts:
            found.update(parts.found_in(text(facts)))
        if (fields := self._fields) and facts.header is not None:
            for name in facts.header.names:
                if name in fields:
                    found.update(fields[name].found_in(folded("\n".join(facts.header.texts(name)))))
        places = sorted(found.union(self._always)) if found else self._always
        return places if place < 0 else places[bisect_right(places, place) :]

    @staticmethod
    def looks_at_the_same(one: Facts, other: Facts) -> bool:
        """Whether the same rules may apply to both."""
        return (
            one.sender is other.sender
            and one.recipients is other.recipients
            and one.header is other.header
            and one.content is other.content
        )


def _one_of(parts: Iterable[str]) -> Pattern:
    return Pattern("", None, "|".join(map(re2.escape, parts)))


def _keys(facts: Facts) -> Iterator[Key]:
    for text in keys_of(facts.sender):
        yield Key("sender", text)
    for recipient in facts.recipients:
        for text in keys_of(recipient.address):
            yield Key("recipient", text)


def _recipients(facts: Facts) -> str:
    return "\n".join([keys_of(recipient.address)[0] for recipient in facts.recipients])


#: All that a subject says, but for header fields.
_TEXTS: Final[Mapping[Subject, Callable[[Facts], str]]] = {
    "sender": lambda facts: keys_of(facts.sender)[0],
    "recipient": _recipients,
    "body": lambda facts: "" if facts.content is None else folded(facts.content.text),
}
