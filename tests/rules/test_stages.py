"""When a rule runs (DESIGN §6): as early as it can, and never out of turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_rules import random_rules
from rule_pieces import Address, Text, When, address_patterns, addresses, named, rule

from relayproxy.rules import actions
from relayproxy.rules.facts import Stage
from relayproxy.rules.rule import Action, Rule, known_at
from relayproxy.rules.stages import placements, problems

CONNECT, HELO, MAIL, RCPT, DATA, EOH, EOM = Stage

TAG = actions.Tag(Text("x"))
REJECT = actions.Refuse("reject", 550, Text("5.7.1 no"))


def stages(*rules: Rule) -> list[Stage]:
    return [placement.stage for placement in placements(named(*rules))]


@pytest.mark.parametrize(
    ("subject", "stage"),
    [
        ("client", CONNECT),
        ("listener", CONNECT),
        ("helo", HELO),
        ("tls", MAIL),
        ("auth", MAIL),
        ("sender", MAIL),
        ("parameters", MAIL),
        ("recipient", RCPT),
        ("recipients", DATA),
        ("header:subject", EOH),
        ("size", EOM),
        ("body", EOM),
        ("attachment", EOM),
    ],
)
def test_a_rule_runs_as_soon_as_what_it_reads_is_known(subject: str, stage: Stage) -> None:
    assert stages(rule(When(subject), TAG)) == [stage]
    assert stages(rule(None, actions.Tag(Text(f"a {{{subject}}}")))) == [stage]
    assert stages(rule(When("client"), TAG, actions.Refuse("reply", 450, Text(f"4.7.1 {{{subject}}}")))) == [stage]


@pytest.mark.parametrize(
    ("action", "stage"),
    [
        (TAG, CONNECT),
        (REJECT, CONNECT),
        (actions.Accept(), CONNECT),
        (actions.AddHeader("X-A", Text("b")), CONNECT),  # noted for each message of the session
        (actions.Hold(Text("why")), CONNECT),
        (actions.ReplaceBody(Text("gone")), CONNECT),
        (actions.Route("other"), CONNECT),
        (actions.Delay(1), CONNECT),
        (actions.ChangeSender(Address("a@b")), MAIL),
        (actions.DeleteRecipient(), RCPT),
        (actions.DeleteRecipient(address_patterns("*@b")), RCPT),
        (actions.RewriteRecipient(addresses("a@b")), RCPT),
        (actions.RedirectRecipient(Address("a@b")), RCPT),
        (actions.AddRecipient(addresses("a+{recipient}@b")), RCPT),  # with the one that it runs for
        (actions.AddRecipient(addresses("a@b")), DATA),  # once, when all are named
        (actions.StripAttachment(address_patterns("*")[0].pattern), EOM),
    ],
)
def test_an_action_has_its_place(action: Action, stage: Stage) -> None:
    assert stages(rule(None, action)) == [stage]


def test_one_recipient_takes_others_away_when_all_are_named() -> None:
    assert stages(rule(When("recipient", "a@b"), actions.DeleteRecipient(address_patterns("c@d")))) == [DATA]
    assert stages(rule(When("recipient", "a@b"), actions.DeleteRecipient())) == [RCPT]


def test_a_rule_waits_for_one_above_that_writes_what_it_reads() -> None:
    writes = rule(When("header:subject"), actions.ChangeSender(Address("a@b")))
    assert stages(writes, rule(When("sender"), TAG)) == [EOH, EOH]
    assert stages(rule(When("sender"), TAG), writes) == [MAIL, EOH]
    assert stages(writes, rule(When("recipient"), TAG)) == [EOH, RCPT]
    # through a third
    between = rule(When("sender"), actions.RewriteRecipient(addresses("{sender}")))
    assert stages(writes, between, rule(When("recipient"), TAG)) == [EOH, EOH, EOH]


def test_field_names_differ_only_by_case() -> None:
    writes = rule(When("body"), actions.AddHeader("X-Score", Text("9")))
    assert stages(writes, rule(When("header:x-score"), TAG), rule(When("header:x-other"), TAG)) == [EOM, EOM, EOH]


def test_the_last_of_those_that_write_counts() -> None:
    late = rule(When("body"), actions.ChangeSender(Address("a@b")))
    early = rule(When("client"), actions.ChangeSender(Address("a@b")))
    assert stages(late, early, rule(When("sender"), TAG)) == [EOM, MAIL, EOM]


@pytest.mark.parametrize(
    "action", [REJECT, actions.Accept(), actions.Discard(), actions.Cut("reset")], ids=lambda action: str(action.name)
)
def test_a_rule_waits_for_one_above_that_can_stop_it(action: Action) -> None:
    assert stages(rule(When("header:subject"), action), rule(When("client"), TAG)) == [EOH, EOH]
    assert stages(rule(When("client"), TAG), rule(When("header:subject"), action)) == [CONNECT, EOH]


def test_a_rule_that_runs_always_waits_only_for_one_that_keeps_the_message_from_leaving() -> None:
    last = rule(When("client"), TAG, always=True)
    assert stages(rule(When("header:subject"), actions.Accept()), last) == [EOH, CONNECT]
    assert stages(rule(None, actions.Cut("before-reply"), at=EOM), last) == [EOM, CONNECT]
    assert stages(rule(When("header:subject"), REJECT), rule(When("body"), actions.Accept()), last) == [EOH, EOM, EOH]
    assert stages(rule(When("header:subject"), actions.Discard()), last) == [EOH, EOH]


def test_the_last_of_those_that_can_stop_it_counts() -> None:
    early, late = rule(When("sender"), actions.Accept()), rule(When("body"), actions.Accept())
    assert stages(early, late, rule(When("client"), TAG)) == [MAIL, EOM, EOM]
    assert stages(early, rule(When("client"), TAG), late) == [MAIL, MAIL, EOM]


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"])
def test_a_redirection_writes_where_the_address_may_stand(field: str) -> None:
    redirect = rule(When("body"), actions.RedirectRecipient(Address("a@b")))
    assert stages(redirect, rule(When(f"header:{field}"), TAG)) == [EOM, EOM]


@pytest.mark.parametrize("action", [TAG, actions.Hold(Text("why")), actions.Delay(1)], ids=lambda action: action.name)
def test_and_for_no_other(action: Action) -> None:
    assert stages(rule(When("header:subject"), action), rule(When("client"), TAG)) == [EOH, CONNECT]


def test_a_refusal_of_one_recipient_does_not_stop_what_is_about_the_message() -> None:
    change = rule(When("client"), actions.ChangeSender(Address("a@b")))
    assert stages(rule(When("recipient", "a@b"), REJECT), change) == [RCPT, MAIL]
    assert stages(rule(When("recipient", "a@b"), actions.Accept()), change) == [RCPT, RCPT]
    assert stages(rule(When("recipient", "a@b"), REJECT, at=DATA), change) == [DATA, DATA]


def test_at_moves_a_rule_later() -> None:
    assert stages(rule(None, actions.Delay(1), at=EOM)) == [EOM]
    assert stages(rule(When("sender"), actions.Discard(), at=EOH), rule(When("client"), TAG)) == [EOH, EOH]


def test_at_cannot_move_it_earlier_and_that_is_said() -> None:
    rules = named(
        rule(When("header:subject"), actions.ChangeSender(Address("a@b")), at=RCPT, name="late"),
        rule(When("sender"), TAG, at=MAIL),
        rule(None, actions.RewriteRecipient(addresses("a@b")), at=CONNECT),
        rule(None, actions.AddRecipient(addresses("a@b")), at=RCPT),
        rule(When("client"), actions.Accept(), at=EOH, name="enough"),
        rule(When("client"), TAG, at=HELO),
        rule(When("client"), TAG, at=EOM),
    )
    assert [(problem.rule.name, problem.what) for problem in problems(rules)] == [
        ("late", 'expected at = "eoh" or later (it reads header.subject), got "rcpt"'),
        ("2", 'expected at = "eoh" or later (it reads sender, which the rule \'late\' above writes), got "mail"'),
        ("3", 'expected at = "rcpt" or later (it reads recipient), got "connect"'),
        ("4", 'expected at = "data" or later (add_recipient has its place from there on), got "rcpt"'),
        ("6", 'expected at = "eoh" or later (the rule \'enough\' above can stop it), got "helo"'),
    ]
    assert [placement.stage for placement in placements(rules)] == [EOH, EOH, RCPT, DATA, EOH, EOH, EOM]


def test_why_a_rule_does_not_run_earlier_is_said() -> None:
    assert [placement.why for placement in placements([rule(None, TAG), rule(None, TAG, at=MAIL)])] == [
        "nothing has to be known",
        'at = "mail"',
    ]


@pytest.mark.slow
@given(random_rules(), st.data())
def test_no_rule_runs_out_of_turn(rules: tuple[Rule, ...], data: st.DataObject) -> None:
    placed = [placement.stage for placement in placements(rules)]
    for index, (one, stage) in enumerate(zip(rules, placed, strict=True)):
        assert all(known_at(subject) <= stage for subject in one.reads)
        assert one.at is None or one.at <= stage
        assert all(placed[above] <= stage for above in range(index) if rules[above].writes & one.reads)
    # What is not above a rule does not move it.
    cut = data.draw(st.integers(0, len(rules)))
    assert [placement.stage for placement in placements(rules[:cut])] == placed[:cut]


def test_a_rule_that_only_edits_fields_stays_behind_those_that_look_at_them() -> None:
    looks = rule(When("header:x-debug"), TAG)
    deletes = rule(None, actions.DeleteHeader("X-Debug"))
    assert stages(looks, deletes) == [EOH, EOH]
    assert stages(deletes, looks) == [CONNECT, EOH]
    assert stages(looks, rule(None, actions.DeleteHeader("X-Other"))) == [EOH, CONNECT]
    # What adds the field at eoh comes before what takes it away.
    assert stages(rule(When("header:subject"), actions.AddHeader("X-Debug", Text("1"))), deletes) == [EOH, EOH]


REWRITE = actions.RewriteHeaderAddresses(("To", "Cc"), (), Address("qa@example.test"))


def test_a_rule_that_rewrites_addresses_stays_behind_those_that_write_these_fields() -> None:
    rewrites = rule(None, REWRITE)
    cc = actions.AddHeader("CC", Text("boss@customer.example"))
    redirects = rule(When("recipient"), actions.RedirectRecipient(Address("qa@example.test")))
    assert stages(rewrites) == [CONNECT]
    assert stages(rule(When("client"), cc), rewrites) == [CONNECT, CONNECT]
    assert stages(redirects, rewrites) == [RCPT, EOH]
    assert stages(rule(When("recipients"), cc), rewrites) == [DATA, EOH]
    assert stages(rule(When("body"), cc), rewrites) == [EOM, EOM]
    assert stages(rule(When("body"), cc), redirects, rewrites) == [EOM, RCPT, EOM]
    assert stages(rewrites, rule(When("body"), cc)) == [CONNECT, EOM]
    assert stages(rule(When("body"), actions.AddHeader("X-Spam", Text("no"))), rewrites) == [EOM, CONNECT]
    assert stages(rule(When("body"), cc), rule(None, REWRITE, actions.DeleteHeader("List-Post"))) == [EOM, EOM]
    # No other edit is worth it that DATA waits.
    assert stages(rule(When("body"), cc), rule(None, actions.DeleteHeader("Cc"))) == [EOM, EOH]


def test_where_that_is_too_late_it_is_said() -> None:
    cc = rule(When("body"), actions.AddHeader("Cc", Text("boss@customer.example")), name="cc")
    assert [problem.what for problem in problems(named(cc, rule(None, REWRITE, at=EOH)))] == [
        'expected at = "eom" or later (it edits header.cc, which the rule \'cc\' above writes), got "eoh"'
    ]


def test_what_edits_more_than_fields_waits_for_no_reader() -> None:
    looks = rule(When("header:to"), TAG)
    redirects = rule(When("recipient"), actions.RedirectRecipient(Address("qa@example.test")))
    assert stages(looks, redirects) == [EOH, RCPT]
