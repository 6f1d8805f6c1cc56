"""Conditions and templates as small as can be, rules made of them, and the mail they are tried on: what rules do does not depend on how they are written."""

# ruff: noqa: ARG002 - they are protocols' arguments
from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from relayproxy.mail.header import HeaderSection
from relayproxy.mail.pattern import AddressPattern
from relayproxy.rules.facts import Content, Draws, Facts, Recipient, Stage
from relayproxy.rules.rule import HEADER, Action, BadAddress, Condition, Rule, Subject
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from collections.abc import Mapping

QA = "qa@example.test"
JANE = "jane@customer.example"
JOE = "joe@customer.example"
CONTENT = Content(1000, "hello")


class NoDraws:
    """Nothing is drawn."""

    def chance(self, rule: str) -> float:
        raise AssertionError(rule)

    def first(self, rule: str, key: tuple[str, ...], *, times: int, within: float) -> bool:
        raise AssertionError(rule)

    def every(self, rule: str, n: int) -> bool:
        raise AssertionError(rule)


class Drawn:
    """Each chance in turn."""

    def __init__(self, *chances: float) -> None:
        self.chances = list(chances)

    def chance(self, rule: str) -> float:
        assert rule
        return self.chances.pop(0)

    first = NoDraws.first
    every = NoDraws.every


def values(subject: Subject, facts: Facts, recipient: Recipient | None) -> list[str]:
    if subject.startswith(HEADER):
        assert facts.header is not None
        found = facts.header.get_all(subject.removeprefix(HEADER).encode())
        return [field.value.decode().strip() for field in found]
    content = facts.content
    return {
        "listener": [facts.listener],
        "client": [facts.client],
        "helo": [facts.helo],
        "sender": [facts.sender],
        "recipient": [] if recipient is None else [recipient.address],
        "recipients": [str(len(facts.recipients))],
        "size": [] if content is None else [str(content.size)],
        "body": [] if content is None else [content.text],
        "attachment": [] if content is None else list(content.attachments),
    }[subject]


class When(msgspec.Struct, frozen=True):
    """One value of the subject is as the glob says; `groups`: `found` is that value."""

    subject: Subject
    glob: str = "*"

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset({self.subject})

    @property
    def keys(self) -> None:
        return None

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        for value in values(self.subject, facts, recipient):
            if fnmatchcase(value, self.glob):
                groups["found"] = value
                return True
        return False


class Always(msgspec.Struct, frozen=True):
    reads: frozenset[Subject] = frozenset()
    keys: None = None

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        return True


class ByChance(msgspec.Struct, frozen=True):
    """Half of the time."""

    reads: frozenset[Subject] = frozenset()
    keys: None = None

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        return draws.chance("by chance") < 0.5


class Breaks(msgspec.Struct, frozen=True):
    """What there should not be."""

    reads: frozenset[Subject] = frozenset()
    keys: None = None

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        raise ZeroDivisionError("by nothing")


class Text(msgspec.Struct, frozen=True):
    """`{subject}` is its first value, `{found}` that of the condition."""

    source: str

    @property
    def reads(self) -> frozenset[Subject]:
        return frozenset(re.findall(r"\{(?!found)(.+?)\}", self.source))

    def render(self, facts: Facts, recipient: Recipient | None, groups: Mapping[str, str]) -> str:
        def one(match: re.Match[str]) -> str:
            return groups["found"] if match[1] == "found" else values(match[1], facts, recipient)[0]

        return re.sub(r"\{(.+?)\}", one, self.source)


class Address(Text, frozen=True):
    """It has an @, or is none."""

    def render(self, facts: Facts, recipient: Recipient | None, groups: Mapping[str, str]) -> str:
        made = super().render(facts, recipient, groups)
        if "@" not in made:
            raise BadAddress(f"expected an address, got {made!r}")
        return made


def addresses(*sources: str) -> tuple[Address, ...]:
    return tuple([Address(source) for source in sources])


def address_patterns(*written: str) -> tuple[AddressPattern, ...]:
    return tuple([AddressPattern.parse(one) for one in written])


def rule(when: Condition | None, *then: Action, at: Stage | None = None, name: str = "", always: bool = False) -> Rule:
    return Rule(name, Always() if when is None else when, then, at, always=always)


def named(*rules: Rule) -> tuple[Rule, ...]:
    """Those without a name are called 1, 2, ..."""
    return tuple(
        [one if one.name else msgspec.structs.replace(one, name=str(number)) for number, one in enumerate(rules, 1)]
    )


def rule_set(*rules: Rule) -> RuleSet:
    return RuleSet(named(*rules))


def mail(
    *recipients: str | Recipient,
    sender: str = "app@example.test",
    header: str = "Subject: hi\r\n",
    content: Content = CONTENT,
    client: str = "192.0.2.1",
) -> Facts:
    """All that can be known."""
    return Facts(
        listener="in",
        client=client,
        session="S",
        helo="client.example",
        transaction="T",
        sender=sender,
        recipients=tuple(
            [Recipient(one, origin) if isinstance(one, str) else one for origin, one in enumerate(recipients)]
        ),
        header=HeaderSection(header.encode()),
        content=content,
    )
