"""When envelope and DATA may leave: the table at the end of DESIGN §6, row by row, and what holds of any rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from random_rules import random_rules
from rule_pieces import Address, Always, Text, When, address_patterns, addresses, rule, rule_set

from relayproxy.mail.pattern import Pattern
from relayproxy.rules import actions
from relayproxy.rules.facts import Stage
from relayproxy.rules.gates import DataGate, EnvelopeGate, Gates
from relayproxy.rules.rule import Action, Condition, Rule
from relayproxy.rules.ruleset import RuleSet

LIVE = (EnvelopeGate.LIVE, DataGate.LIVE)

REJECT = actions.Refuse("reject", 550, Text("5.7.1 no"))
SENDER = actions.ChangeSender(Address("a@b"))
ADD = actions.AddRecipient(addresses("a@b"))
REWRITE = actions.RewriteRecipient(addresses("a@b"))
REDIRECT = actions.RedirectRecipient(Address("a@b"))
DELETE = actions.DeleteRecipient()
DISCARD = actions.Discard()
HOLD = actions.Hold(Text("why"))
ROUTE = actions.Route("other")
FIELD = actions.AddHeader("X-A", Text("b"))
TO = actions.RewriteHeaderAddresses(("To",), address_patterns("*@b"), Address("a@b"))
BODY = actions.ReplaceBody(Text("gone"))
STRIP = actions.StripAttachment(Pattern.parse("*.exe"))

ANYTHING, RECIPIENT, COUNT, HEADER, BODY_SAYS = (
    Always(), When("recipient"), When("recipients"), When("header:subject"), When("body"),
)  # fmt: skip
EARLY: list[Condition] = [ANYTHING, When("client"), When("helo"), When("sender")]

#: As DESIGN §6 has it: what the rule reads, what it does, when envelope and DATA leave.
TABLE: list[tuple[str, list[Condition], list[Action], EnvelopeGate, DataGate]] = [
    ("reads and answers at connect … rcpt", [*EARLY, RECIPIENT], [REJECT], *LIVE),
    ("changes the sender, routes, discards, holds at mail", EARLY, [SENDER, ROUTE, DISCARD, HOLD], *LIVE),
    ("changes the sender from a recipient", [RECIPIENT], [SENDER], EnvelopeGate.DATA, DataGate.LIVE),
    ("changes the envelope from the count", [COUNT], [SENDER, REWRITE, DELETE, ROUTE], EnvelopeGate.DATA, DataGate.LIVE),
    ("discards or holds at rcpt", [RECIPIENT], [DISCARD, HOLD], EnvelopeGate.DATA, DataGate.LIVE),
    ("changes recipients at rcpt", [*EARLY, RECIPIENT], [REWRITE, DELETE], *LIVE),
    ("adds a recipient before DATA leaves", [*EARLY, RECIPIENT, COUNT], [ADD], *LIVE),
    ("answers, discards, holds before DATA leaves", [COUNT], [REJECT, DISCARD, HOLD], *LIVE),
    ("routes from a recipient", [RECIPIENT], [ROUTE], EnvelopeGate.RCPT, DataGate.LIVE),
    ("edits header fields only", [*EARLY, RECIPIENT, COUNT, HEADER], [FIELD, TO], EnvelopeGate.LIVE, DataGate.HEADER),
    ("redirects at rcpt", [*EARLY, RECIPIENT], [REDIRECT], EnvelopeGate.LIVE, DataGate.HEADER),
    ("redirects from the count", [COUNT], [REDIRECT], EnvelopeGate.DATA, DataGate.HEADER),
    (
        "answers, discards, holds, or adds a recipient, from the header section",
        [HEADER], [REJECT, DISCARD, HOLD, ADD], EnvelopeGate.LIVE, DataGate.EOH,
    ),
    (
        "changes sender or recipients, or routes, from the header section",
        [HEADER], [SENDER, REWRITE, REDIRECT, DELETE, ROUTE], EnvelopeGate.EOH, DataGate.EOH,
    ),
    ("answers from the whole message", [BODY_SAYS], [REJECT], *LIVE),
    (
        "edits envelope or body, discards or holds from the whole message",
        [BODY_SAYS], [SENDER, ADD, REWRITE, REDIRECT, DELETE, ROUTE, BODY, STRIP, DISCARD, HOLD],
        EnvelopeGate.EOM, DataGate.EOM,
    ),
    ("edits the body, whenever it is said", [*EARLY, RECIPIENT, COUNT, HEADER], [BODY], EnvelopeGate.EOM, DataGate.EOM),
    ("edits header fields from the whole message", [BODY_SAYS], [FIELD, TO], EnvelopeGate.LIVE, DataGate.EOM),
    (
        "changes nothing that leaves",
        [*EARLY, RECIPIENT, COUNT, HEADER, BODY_SAYS],
        [actions.Accept(), actions.Tag(Text("t")), actions.Delay(1), actions.Throttle(9), actions.Cut("reset"), actions.DropReply()],
        *LIVE,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "reads", "does", "envelope", "data"), TABLE, ids=[row[0] for row in TABLE])
def test_a_row(what: str, reads: list[Condition], does: list[Action], envelope: EnvelopeGate, data: DataGate) -> None:
    for when in reads:
        for action in does:
            gates = rule_set(rule(when, action, name=what)).gates
            assert (gates.envelope, gates.data) == (envelope, data), (when, action)
            assert gates.envelope_rule == (what if envelope else None)
            assert gates.data_rule == (what if data else None)
            assert gates.dot == (when == BODY_SAYS)


def test_at_is_as_good_as_a_reason() -> None:
    assert rule_set(rule(None, DISCARD, at=Stage.EOH)).gates.data is DataGate.EOH
    assert rule_set(rule(None, SENDER, at=Stage.RCPT)).gates.envelope is EnvelopeGate.DATA
    assert rule_set(rule(None, actions.DropReply(), at=Stage.EOM)).gates.dot


def test_no_rules_hold_nothing() -> None:
    assert RuleSet().gates == Gates(EnvelopeGate.LIVE, DataGate.LIVE, dot=False)


def test_the_first_rule_that_forces_a_gate_is_named() -> None:
    gates = rule_set(
        rule(When("sender"), FIELD, name="a field"),
        rule(RECIPIENT, ROUTE, name="a route"),
        rule(COUNT, REWRITE, name="many"),
        rule(COUNT, SENDER, name="many again"),
        rule(HEADER, HOLD, name="a subject"),
        rule(HEADER, DISCARD, name="another"),
        rule(BODY_SAYS, actions.Tag(Text("t")), name="a word"),
        rule(BODY_SAYS, REJECT, name="a bad word"),
    ).gates
    assert gates == Gates(EnvelopeGate.DATA, DataGate.EOH, True, "many", "a subject", "a word")


# What must hold of any rules: nothing leaves before the last rule that may change it has run.

LEAVES = {EnvelopeGate.LIVE: Stage.MAIL, EnvelopeGate.RCPT: Stage.RCPT, EnvelopeGate.DATA: Stage.DATA, EnvelopeGate.EOH: Stage.EOH, EnvelopeGate.EOM: Stage.EOM}  # fmt: skip
DATA_LEAVES = {DataGate.LIVE: Stage.DATA, DataGate.HEADER: Stage.DATA, DataGate.EOH: Stage.EOH, DataGate.EOM: Stage.EOM}
RECIPIENTS = (actions.RewriteRecipient, actions.RedirectRecipient, actions.DeleteRecipient)
REFUSES = (actions.Refuse, actions.Discard, actions.Hold)


@pytest.mark.slow
@given(random_rules())
def test_nothing_leaves_before_the_rules_have_run(rules: tuple[Rule, ...]) -> None:
    made = RuleSet(rules)
    gates = made.gates
    envelope, data = LEAVES[gates.envelope], DATA_LEAVES[gates.data]
    assert data >= envelope
    for one, stage in zip(rules, made.stages, strict=True):
        assert gates.dot or stage < Stage.EOM
        for action in one.then:
            writes = action.writes
            if "sender" in writes or isinstance(action, actions.Route):
                assert envelope >= stage
            if isinstance(action, RECIPIENTS):  # at rcpt each leaves when it has been seen to
                assert envelope >= stage or stage is Stage.RCPT
            if isinstance(action, (*REFUSES, actions.AddRecipient)) and stage < Stage.EOM:
                assert data >= stage
            if isinstance(action, REFUSES[1:]):
                assert data >= stage
            if "body" in writes:
                assert data is Stage.EOM
            if any(written.startswith("header:") for written in writes):
                assert gates.data >= DataGate.HEADER
                assert data is Stage.EOM or stage < Stage.EOM


@pytest.mark.slow
@given(random_rules())
def test_what_holds_more_than_nothing_is_named_and_needed(rules: tuple[Rule, ...]) -> None:
    made = RuleSet(rules)
    gates = made.gates
    by_name = {one.name: (one, stage) for one, stage in zip(rules, made.stages, strict=True)}
    for gate, name in (
        (gates.envelope, gates.envelope_rule),
        (gates.data, gates.data_rule),
        (gates.dot, gates.dot_rule),
    ):
        assert bool(gate) == (name is not None)
    if gates.envelope_rule is not None:
        one, stage = by_name[gates.envelope_rule]
        alone = RuleSet((Rule(one.name, one.when, one.then, stage),)).gates
        assert alone.envelope is gates.envelope
    if gates.data_rule is not None:
        one, stage = by_name[gates.data_rule]
        alone = RuleSet((Rule(one.name, one.when, one.then, stage),)).gates
        assert alone.data is gates.data
