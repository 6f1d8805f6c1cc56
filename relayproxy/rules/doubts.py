"""What is doubtful about rules that are right: hardly anybody means it (DESIGN §4 `check`).

Invariant: nothing here is an error, and no rule runs otherwise because of it. What does not fit together does not belong here, nor what is doubtful about the guard (allow_patterns.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relayproxy.rules.actions import Accept, AddHeader, ChangeHeader
from relayproxy.rules.conditions import All

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.rules.facts import Stage
    from relayproxy.rules.rule import Rule
    from relayproxy.rules.ruleset import RuleSet


class Doubt(NamedTuple):
    """`what`: in words behind the rule's name."""

    rule: Rule
    what: str


def doubts(rules: RuleSet) -> list[Doubt]:
    """In the order of the rules."""
    placed = list(zip(rules.rules, rules.stages, strict=True))
    return [
        Doubt(rule, what)
        for place, (rule, stage) in enumerate(placed)
        for what in (*_unreachable(stage, placed[:place]), *_of_actions(rule))
    ]


def _unreachable(stage: Stage, above: list[tuple[Rule, Stage]]) -> Iterator[str]:
    """Rules above run before it where their stage is not a later one."""
    for rule, its in above:
        if rule.stops and its <= stage and isinstance(rule.when, All) and not rule.when.of:
            stopping = next(action.name for action in rule.then if action.stops)
            yield f"never runs: the rule {rule.name!r} above has {stopping} without a condition"
            return


def _of_actions(rule: Rule) -> Iterator[str]:
    for action in rule.then:
        match action:
            case AddHeader() | ChangeHeader() if "recipient" in action.value.reads:
                yield f"{action.name} shows each recipient to all others, those of Bcc too: {{recipient}} stands in {action.field}"
            case Accept() if rule.per_recipient:
                yield "accept is of the whole message: no rule runs for recipients that are named behind the first one that this rule applies to"
            case _:
                pass
