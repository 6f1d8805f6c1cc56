"""What is doubtful about rules that are right: hardly anybody means it (DESIGN §4 `check`).

Invariant: nothing here is an error, and no rule runs otherwise because of it. What does not fit together does not belong here, nor what is doubtful about the guard (allow_patterns.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relayproxy.mail.dkim import broken, signed_fields
from relayproxy.rules.actions import Accept, AddHeader, ChangeHeader
from relayproxy.rules.cases import play
from relayproxy.rules.conditions import All, AnyOf, Matches, Not
from relayproxy.rules.pattern_list import AddressList
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.rules.case_syntax import Case
    from relayproxy.rules.facts import Stage
    from relayproxy.rules.playing import Played
    from relayproxy.rules.rule import Condition, Rule


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
        for what in (*_unreachable(rule, stage, placed[:place]), *_of_condition(rule.when), *_of_actions(rule))
    ]


def _unreachable(rule: Rule, stage: Stage, placed: list[tuple[Rule, Stage]]) -> Iterator[str]:
    """Rules above run before it where their stage is not a later one."""
    for above, its in placed:
        stopping = [action.name for action in above.then if (action.ends if rule.always else action.stops)]
        if stopping and its <= stage and isinstance(above.when, All) and not above.when.of:
            yield f"never runs: the rule {above.name!r} above has {stopping[0]} without a condition"
            return


def _of_condition(condition: Condition) -> Iterator[str]:
    """Addresses have a domain, but for `postmaster` and local users: one without is mostly a domain that was meant."""
    match condition:
        case All(of=several) | AnyOf(of=several):
            for one in several:
                yield from _of_condition(one)
        case Not(of=one):
            yield from _of_condition(one)
        case Matches(patterns=AddressList() as addresses):
            for pattern in addresses.patterns:
                text = pattern.text
                if "." in text and not any(sign in text for sign in "@*?/"):
                    yield f"{text} is no whole address: all of a domain is *@{text}"
        case _:
            pass


def _of_actions(rule: Rule) -> Iterator[str]:
    for action in rule.then:
        match action:
            case AddHeader() | ChangeHeader() if "recipient" in action.value.reads:
                yield f"{action.name} shows each recipient to all others, those of Bcc too: {{recipient}} stands in {action.field}"
            case Accept() if rule.per_recipient:
                yield "accept is of the whole message: no rule runs for recipients that are named behind the first one that this rule applies to"
            case _:
                pass


def broken_signatures(case: Case, rules: RuleSet) -> list[str]:
    """What rules do to the DKIM signatures of a test's message, as far as it goes on (RFC 6376 §3.7)."""
    before, after = play(case.given, RuleSet()), play(case.given, rules)
    header, edited = before.facts.header, after.facts.header
    if header is None or edited is None or after.outcome not in ("accepted", "held"):
        return []
    found = broken(header, edited)
    if _is_another_body(before, after):
        found += [signature for signature in signed_fields(edited) if signature.body and signature not in found]
    doers = ", ".join(map(repr, after.rules))
    return [
        f"{doers} {'break' if len(after.rules) > 1 else 'breaks'} the DKIM signature of {one.domain}, which covers {':'.join(one.fields)}{' and the body' if one.body else ''}"
        for one in found
    ]


def _is_another_body(before: Played, after: Played) -> bool:
    was, now = before.facts.content, after.facts.content
    stripped = was is not None and now is not None and was.attachments != now.attachments
    return stripped or any(edit.text is not None for edit in after.facts.body)
