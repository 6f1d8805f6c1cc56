"""`--redirect-all` (DESIGN §4): the envelope goes to one address, and a reply-all reaches nobody whom the guard does not allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_pieces import NoDraws, When, rule, rule_set

from relayproxy.mail.header import HeaderSection
from relayproxy.rules import actions
from relayproxy.rules.conditions import All
from relayproxy.rules.doubts import doubts
from relayproxy.rules.facts import Facts, Recipient, Stage
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.rules.guard import Guard
from relayproxy.rules.redirect_all import redirect_all
from relayproxy.rules.rule import Rule
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from collections.abc import Sequence

QA = "qa@example.test"
STAGING = ["*@example.test"]


def passed(
    recipients: Sequence[str],
    header: str = "",
    *,
    above: Sequence[Rule] = (),
    to: str = QA,
    allow: Sequence[str] = STAGING,
) -> Facts:
    """What is left of a message at its end, or, without a header section, in front of that. `above`: rules of files."""
    rules = rule_set(*above, *redirect_all(to, Guard.parse(allow)))
    facts = Facts(listener="default", client="127.0.0.1", sender="app@example.test")
    for stage in Stage:
        if stage is Stage.EOH and not header:
            break
        if stage is not Stage.RCPT:
            if stage is Stage.EOH:
                facts = msgspec.structs.replace(facts, header=HeaderSection(header.replace("\n", "\r\n").encode()))
            facts = decided(rules, stage, facts)
            continue
        kept: list[Recipient] = []
        for origin, address in enumerate(recipients):
            one = msgspec.structs.replace(facts, recipients=(Recipient(address, origin),))
            facts = decided(rules, stage, one)
            kept += facts.recipients
        facts = msgspec.structs.replace(facts, recipients=tuple(kept))
    return facts


def decided(rules: RuleSet, stage: Stage, facts: Facts) -> Facts:
    decision = rules.evaluate(stage, facts, NoDraws())
    assert (decision.answer, decision.failure) == (None, None)
    return decision.facts


def addresses(facts: Facts) -> list[str]:
    return [recipient.address for recipient in facts.recipients]


def test_it_needs_no_more_than_the_header_section() -> None:
    gates = RuleSet(redirect_all(QA, Guard.parse(STAGING))).gates
    assert (gates.envelope, gates.data, gates.dot) == (EnvelopeGate.LIVE, DataGate.HEADER, False)


def test_who_is_outside_is_redirected_and_who_is_allowed_is_left_alone() -> None:
    people = ["jane@customer.example", "joe@example.test", "x%customer.example@example.test", '"a@b"@example.test']
    assert addresses(passed(people)) == [QA, "joe@example.test", QA, QA]
    assert addresses(passed(["joe@example.test", QA], allow=[QA])) == [QA, QA]


@pytest.mark.parametrize("to", [QA, '"q {a} }}"@example.test', "{recipient}@example.test"])
def test_the_address_is_no_template(to: str) -> None:
    assert addresses(passed(["jane@customer.example"], to=to, allow=[to])) == [to]


HEADER = """From: App <app@provider.example>
To: "Doe, Jane" <jane@customer.example>, joe@example.test
Cc: jane@customer.example
Bcc: boss@customer.example
Reply-To: Help <help@provider.example>
Resent-To: x@customer.example
Resent-From: y@customer.example
Subject: jane@customer.example
"""


@pytest.mark.parametrize("recipients", [["jane@customer.example"], ["joe@example.test"]])
def test_a_reply_to_all_reaches_nobody_outside(recipients: list[str]) -> None:
    header = passed(recipients, HEADER).header
    assert header is not None
    said = bytes(header).decode()
    kept = [line for line in said.splitlines() if "customer.example" in line or "provider.example" in line]
    assert kept == [
        "From: App <app@provider.example>",
        "Resent-From: y@customer.example",
        "Subject: jane@customer.example",
    ]
    assert "joe@example.test" in said
    assert said.count(QA) == 5


SPARED = [
    # entries of the guard, To, whether it stays
    (["*@example.test"], "joe@example.test", True),
    (["*@example.test"], "x%customer.test@example.test", False),
    (["*@example.test", "x%customer.test@example.test"], "x%customer.test@example.test", True),
    # The guard allows these; who overlooks quotes, or maps before he splits, reads others.
    (["*@example.test"], '"a b"@example.test', False),
    (["*@example.test"], "a\u3002b@example.test", False),
]


@pytest.mark.parametrize(("allow", "to", "stays"), SPARED)
def test_who_is_allowed_stays_where_all_read_the_same_address(allow: list[str], to: str, *, stays: bool) -> None:
    header = passed(["joe@example.test"], f"To: {to}\n", allow=allow).header
    assert header is not None
    assert bytes(header).decode() == f"To: {to if stays else QA}\r\n"


ANSWERED = [
    # fields of a message, where they say that answers go
    ("From: Shop <shop@shop.example>", [QA]),
    ("From: shop@shop.example, app@example.test", [QA]),
    ("From: shop@shop.example\nReply-To:", [QA]),
    ("From: x%shop.example@example.test", [QA]),
    ("From: App <app@example.test>", []),
    ("From: shop@shop.example\nReply-To: help@example.test", ["help@example.test"]),
    ("From: shop@shop.example\nReply-To: help@shop.example", [QA]),
    ("Subject: nobody", []),
]


@pytest.mark.parametrize(("fields", "where"), ANSWERED)
def test_answers_stay_inside_where_the_author_is_outside(fields: str, where: list[str]) -> None:
    header = passed(["joe@example.test"], f"{fields}\n").header
    assert header is not None
    assert [field.value.decode().strip() for field in header.get_all(b"Reply-To")] == where
    # And From stays.
    assert bytes(header).decode().startswith(fields.partition("\n")[0])


STOPS = [
    rule(None, actions.Accept()),
    rule(When("recipient", "joe@*"), actions.Accept()),
    rule(When("header:subject"), actions.Accept()),
    rule(None, actions.Accept(), at=Stage.EOM),
    # At eom it keeps nothing from leaving: the message is upstream's by then.
    rule(None, actions.Cut("before-reply"), at=Stage.EOM),
]


@pytest.mark.parametrize("stops", STOPS)
def test_a_rule_that_stops_others_stops_none_of_these(stops: Rule) -> None:
    facts = passed(["joe@example.test", "jane@customer.example"], HEADER, above=[stops])
    assert addresses(facts) == ["joe@example.test", QA]
    assert facts.header is not None
    assert bytes(facts.header).count(QA.encode()) == 5


def test_check_does_not_say_that_they_are_stopped() -> None:
    all_mail = (Rule("accept", All(()), (actions.Accept(),)), Rule("discard", All(()), (actions.Discard(),)))
    rules = redirect_all(QA, Guard.parse(STAGING))
    assert doubts(RuleSet((all_mail[0], *rules))) == []
    assert [doubt.rule for doubt in doubts(RuleSet((all_mail[1], *rules)))] == list(rules)


def test_word_that_it_was_read_stays_inside_too() -> None:
    header = passed(["joe@example.test"], "Disposition-Notification-To: shop@shop.example\n").header
    assert header is not None
    assert bytes(header) == f"Disposition-Notification-To: {QA}\r\n".encode()


@pytest.mark.slow
@given(st.lists(st.text(alphabet='ab.@%!"\\:<>,;()ü\u3002\uff20 -', max_size=30), max_size=4))
def test_whatever_they_are_the_guard_allows_what_is_left(recipients: list[str]) -> None:
    guard = Guard.parse(STAGING)
    assert all(guard.allows(address.encode()) for address in addresses(passed(recipients)))
