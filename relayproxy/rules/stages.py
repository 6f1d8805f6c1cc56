"""At which stage a rule runs (DESIGN §6 "When a rule runs").

The earliest at which everything it reads is known and its actions have a place, but never before a rule above it that writes what it reads, or that can
stop it; `at` moves it later. One that only edits fields waits for the end of the header section where a rule above looks at them there: nothing has to wait for it.
Where it rewrites addresses, so that nobody outside is named, it waits for whichever rule above may still name somebody there, to the end of the message: then that
rule holds DATA back already. All other edits are not worth that.
Functions are pinned to their own stage, before rules above them that wait for a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relayproxy.rules.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    RedirectRecipient,
    Refuse,
    RewriteHeaderAddresses,
    RewriteRecipient,
    Tag,
)
from relayproxy.rules.facts import Stage
from relayproxy.rules.rule import ANY_HEADER, HEADER, known_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from relayproxy.rules.rule import Action, Rule, Subject


_FIELDS_ONLY = (AddHeader, ChangeHeader, DeleteHeader, RewriteHeaderAddresses, Tag)


class Placement(NamedTuple):
    """`why` not earlier, in words."""

    stage: Stage
    why: str


class Problem(NamedTuple):
    """`what`: what was expected and what came."""

    rule: Rule
    what: str


def placements(rules: Iterable[Rule]) -> tuple[Placement, ...]:
    """Of each rule, in order. One whose `at` is too early (`problems`) runs as early as it can."""
    return tuple([earliest if at is None or at.stage < earliest.stage else at for _, earliest, at in _each(rules)])


def problems(rules: Iterable[Rule]) -> list[Problem]:
    """Rules whose `at` is earlier than they can run."""
    return [
        Problem(rule, f'expected at = "{_name(earliest.stage)}" or later ({earliest.why}), got "{_name(at.stage)}"')
        for rule, earliest, at in _each(rules)
        if at is not None and at.stage < earliest.stage
    ]


def _each(rules: Iterable[Rule]) -> Iterator[tuple[Rule, Placement, Placement | None]]:
    """Each rule, when it can run, and when it is to run."""
    written: dict[Subject, tuple[Stage, Rule]] = {}  # the last stage at which it is written so far
    seen: dict[Subject, Rule] = {}  # fields that are looked at, or edited, from the end of the header section on
    stopped: dict[bool, tuple[Stage, Rule]] = {}  # by whether a rule runs always: the last one above that can stop it
    for rule in rules:
        if rule.pinned and rule.at is not None:
            earliest = Placement(rule.at, "it is the function of that stage")
        else:
            earliest = _behind(rule, written, seen, _earliest(rule, written, stopped.get(rule.always)))
        at = None if rule.at is None or rule.pinned else Placement(rule.at, f'at = "{_name(rule.at)}"')
        yield rule, earliest, at
        stage = earliest.stage if rule.at is None else max(earliest.stage, rule.at)
        if stage >= Stage.EOH:
            seen.update({subject: rule for subject in rule.reads | rule.writes if subject.startswith(HEADER)})
        for subject in rule.writes:
            if subject not in written or written[subject][0] < stage:
                written[subject] = (stage, rule)
        for always in (False, True):
            if _can_stop(rule, stage, always=always) and (always not in stopped or stopped[always][0] < stage):
                stopped[always] = (stage, rule)


def _earliest(
    rule: Rule, written: Mapping[Subject, tuple[Stage, Rule]], stopped: tuple[Stage, Rule] | None
) -> Placement:
    found = Placement(Stage.CONNECT, "nothing has to be known")
    reads = sorted(rule.reads)
    for subject in reads:
        if (stage := known_at(subject)) > found.stage:
            found = Placement(stage, f"it reads {_written(subject)}")
    for action in rule.then:
        stage = first_stage(action, per_recipient=rule.per_recipient, by_recipient="recipient" in rule.when.reads)
        if stage > found.stage:
            found = Placement(stage, f"{action.name} has its place from there on")
    for subject in reads:
        for known in (subject, ANY_HEADER) if subject.startswith(HEADER) else (subject,):
            if known in written and written[known][0] > found.stage:
                stage, writer = written[known]
                found = Placement(stage, f"it reads {_written(subject)}, which the rule {writer.name!r} above writes")
    if stopped is not None and stopped[0] > found.stage:
        found = Placement(stopped[0], f"the rule {stopped[1].name!r} above can stop it")
    return found


def _behind(
    rule: Rule, written: Mapping[Subject, tuple[Stage, Rule]], seen: Mapping[Subject, Rule], found: Placement
) -> Placement:
    """Of a rule that only edits fields: with, and so behind, those above it that look at them or, where it rewrites addresses, that write them."""
    if not all(isinstance(action, _FIELDS_ONLY) for action in rule.then):
        return found
    rewrites = any(isinstance(action, RewriteHeaderAddresses) for action in rule.then)
    for subject in sorted(rule.writes):
        what = f"it edits {_written(subject)}, which the rule"
        for known in (subject, ANY_HEADER):
            if known in seen and found.stage < Stage.EOH:
                found = Placement(Stage.EOH, f"{what} {seen[known].name!r} above looks at there")
            if rewrites and known in written and written[known][0] > found.stage:
                stage, writer = written[known]
                # Up to there it makes no difference to what waits, and at rcpt a rule may write once more for each recipient.
                found = Placement(max(stage, Stage.EOH), f"{what} {writer.name!r} above writes")
    return found


def first_stage(action: Action, *, per_recipient: bool, by_recipient: bool) -> Stage:
    """From where on an action has a place. What concerns the message may be said before there is one.

    `per_recipient`: its rule runs once for each recipient; `by_recipient`: and whether it applies depends on which one that is.
    """
    match action:
        case ChangeSender():
            return Stage.MAIL
        case AddRecipient():  # for one that was named, with it; for the message once, when all are named
            return Stage.RCPT if per_recipient else Stage.DATA
        case DeleteRecipient() if action.patterns is not None and by_recipient:
            return Stage.DATA  # one recipient takes away others, which may have been named before
        case DeleteRecipient() | RewriteRecipient() | RedirectRecipient():
            return Stage.RCPT
        case _:
            return Stage.CONNECT


def _can_stop(rule: Rule, stage: Stage, *, always: bool) -> bool:
    """Whether rules below, or those of them that run always, may not run because of it. A refusal at rcpt is about one recipient: it stops only what runs for that one, then or later."""
    return any(
        (action.ends if always else action.stops) and not (stage is Stage.RCPT and isinstance(action, Refuse))
        for action in rule.then
    )


def _name(stage: Stage) -> str:
    return stage.name.lower()


def _written(subject: Subject) -> str:
    return subject.replace(":", ".", 1)
