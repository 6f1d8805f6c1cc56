"""`--redirect-all` (DESIGN §4): the envelope goes to one address, and a reply-all reaches nobody whom the guard does not allow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_pieces import CONTENT, Address, NoDraws, Text, When, rule, rule_set

from relayproxy.mail.header import HeaderSection
from relayproxy.rules import actions
from relayproxy.rules.asked import Allowed
from relayproxy.rules.conditions import All
from relayproxy.rules.doubts import doubts
from relayproxy.rules.facts import Facts, Recipient, Stage
from relayproxy.rules.function import function_rule
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.rules.guard import Guard
from relayproxy.rules.redirect_all import redirect_all
from relayproxy.rules.rule import Rule
from relayproxy.rules.ruleset import RuleSet
from relayproxy.rules.stages import placements

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
            if stage is Stage.EOM:
                facts = msgspec.structs.replace(facts, content=CONTENT)
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
    # entries of the guard, Reply-To, whether it stays
    (["*@example.test"], "joe@example.test", True),
    (["*@example.test"], "x%customer.test@example.test", False),
    (["*@example.test", "x%customer.test@example.test"], "x%customer.test@example.test", True),
    # The guard allows these; who overlooks quotes, or maps before he splits, reads others.
    (["*@example.test"], '"a b"@example.test', False),
    (["*@example.test"], "a\u3002b@example.test", False),
]


@pytest.mark.parametrize(("allow", "to", "stays"), SPARED)
def test_who_is_allowed_stays_where_all_read_the_same_address(allow: list[str], to: str, *, stays: bool) -> None:
    header = passed(["joe@example.test"], f"Reply-To: {to}\n", allow=allow).header
    assert header is not None
    assert bytes(header).decode() == f"Reply-To: {to if stays else QA}\r\n"


ANSWERED = [
    # fields of a message, where they say that answers go
    ("From: Shop <shop@shop.example>", [QA]),
    ("From: shop@shop.example, app@example.test", [QA]),
    ("From: shop@shop.example\nReply-To:", [QA]),
    ("From: x%shop.example@example.test", [QA]),
    ('From: "a b"@example.test', [QA]),
    ("From: App <app@example.test>", []),
    ("From: shop@shop.example\nReply-To: help@example.test", ["help@example.test"]),
    ("From: shop@shop.example\nReply-To: help@shop.example", [QA]),
    # What some programs cannot read, and then answer From.
    ("From: shop@shop.example\nReply-To: help@example.test;", [QA]),
    ("From: shop@shop.example\nReply-To: ;help@example.test", [QA]),
    ("From: shop@shop.example\nReply-To: ,help@example.test", [QA]),
    ("From: shop@shop.example\nReply-To: us: help@example.test;", [QA]),
    ("From: shop@shop.example\nReply-To:\nReply-To: help@example.test", [QA]),
    (
        "From: shop@shop.example\nReply-To: Help <help@example.test>, joe@example.test",
        ["Help <help@example.test>, joe@example.test"],
    ),
    ("From: shop@shop.example\nFrom: joe@example.test", [QA]),
    ("From: shop@shop.example\nReply-To: j\u00f6e@example.test", [QA]),
    ('From: shop@shop.example\nReply-To: "Help: us; Joe" <joe@example.test>', ['"Help: us; Joe" <joe@example.test>']),
    ("From: shop@shop.example\nReply-To: J\u00f6 <joe@example.test>", ["J\u00f6 <joe@example.test>"]),
    # A line that is no field, behind which some see the text.
    ("From: shop@shop.example\nX Header: y\nReply-To: help@example.test", [QA]),
    ("From: shop@shop.example\nReply-To: help@example.test\nX Header: y", ["help@example.test"]),
    ("no colon here\nFrom: joe@example.test", [QA]),
    ("From: joe@example.test\nno colon here", []),
    ("From: (nobody)\nSender: shop@shop.example", [QA]),
    ("Sender: shop@shop.example", [QA]),
    ("Subject: nobody", [QA]),
]


def test_where_answers_go_stands_on_top_so_that_no_line_hides_it() -> None:
    header = passed(["joe@example.test"], "X Header: y\nFrom: shop@shop.example\n").header
    assert header is not None
    assert bytes(header).startswith(b"Reply-To: qa@example.test\r\n")


@pytest.mark.parametrize(("fields", "where"), ANSWERED)
def test_answers_stay_inside_where_the_author_is_outside(fields: str, where: list[str]) -> None:
    header = passed(["joe@example.test"], f"{fields}\n").header
    assert header is not None
    assert [field.value.decode().strip() for field in header.get_all(b"Reply-To")] == where
    # And From stays.
    assert fields.partition("\n")[0] in bytes(header).decode().split("\r\n")


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


CC = actions.AddHeader("Cc", Text("boss@customer.example"))
WRITERS = [
    rule(None, CC),
    rule(When("recipient"), actions.AddHeader("Cc", Text("{recipient}"))),
    rule(When("recipients"), CC),
    rule(When("header:subject"), CC),
    rule(When("body"), CC),
    rule(When("body"), actions.ChangeHeader("Reply-To", 1, Text("boss@customer.example"))),
    rule(When("body"), actions.DeleteHeader("Reply-To")),
    rule(When("body"), actions.ChangeHeader("From", 1, Text("boss@customer.example"))),
    rule(When("body"), actions.RedirectRecipient(Address("boss@customer.example"))),
    rule(When("body"), actions.AddRecipient((Address("boss@customer.example"),))),
    function_rule("it.py", 1, Stage.EOM, lambda mail: mail.add_header("Cc", "boss@customer.example"), "it.py", Allowed(frozenset({"add_header"}))),
]  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_names_somebody_outside_does_so_in_front_of_them(writer: Rule) -> None:
    header = "From: app@provider.example\nTo: jane@customer.example\nReply-To: joe@example.test\nSubject: hi\n"
    facts = passed(["jane@customer.example", "mary@customer.example"], header, above=[writer])
    assert set(addresses(facts)) == {QA}
    assert facts.header is not None
    said = bytes(facts.header).decode()
    assert not re.search("^(?!From).*customer", said, re.MULTILINE)
    assert re.search("^Reply-To: (joe|qa)@example.test$", said.replace("\r", ""), re.MULTILINE)


def test_where_one_does_from_the_whole_message_data_leaves_at_its_end() -> None:
    rules = rule_set(rule(When("body"), CC, name="cc"), *redirect_all(QA, Guard.parse(STAGING)))
    assert (rules.gates.envelope, rules.gates.data) == (EnvelopeGate.LIVE, DataGate.EOM)
    assert [(placement.stage, placement.why) for placement in placements(rules.rules)][1:] == [
        (Stage.RCPT, "it reads recipient"),
        (Stage.EOM, "it edits header.cc, which the rule 'cc' above writes"),
        (Stage.EOM, "it reads header.reply-to, which the rule 'redirect-all: header' above writes"),
    ]


def test_check_does_not_say_that_they_are_stopped() -> None:
    all_mail = (Rule("accept", All(()), (actions.Accept(),)), Rule("discard", All(()), (actions.Discard(),)))
    rules = redirect_all(QA, Guard.parse(STAGING))
    assert doubts(RuleSet((all_mail[0], *rules))) == []
    assert [doubt.rule for doubt in doubts(RuleSet((all_mail[1], *rules)))] == list(rules)


FIELDS = [
    "To", "Cc", "Bcc", "Reply-To", "Resent-To", "Resent-Cc", "Resent-Bcc", "Resent-Reply-To", "Mail-Followup-To", "Mail-Reply-To", "Mail-Copies-To",
    "Apparently-To", "Disposition-Notification-To", "Return-Receipt-To", "Read-Receipt-To", "X-Confirm-Reading-To", "Errors-To",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_nobody_outside_is_left_where_mail_goes_that_is_written_to_answer_it(field: str) -> None:
    header = passed(
        ["joe@example.test"], f"From: app@example.test\n{field}: Shop <shop@shop.example>, joe@example.test\n"
    ).header
    assert header is not None
    assert bytes(header) == f"From: app@example.test\r\n{field}: Shop <{QA}>, joe@example.test\r\n".encode()


@pytest.mark.parametrize(
    "where", ["<mailto:list@shop.example>", "<mailto:list@example.test?cc=shop@shop.example>", "NO"]
)
def test_an_answer_to_the_list_is_not_offered(where: str) -> None:
    header = passed(["joe@example.test"], f"From: app@example.test\nList-Post: {where}\n").header
    assert header is not None
    assert bytes(header) == b"From: app@example.test\r\n"


def test_what_is_tested_stays() -> None:
    fields = """From: Shop <shop@shop.example>
Sender: shop@shop.example
Reply-To: help@example.test
List-Unsubscribe: <mailto:off@shop.example>, <https://shop.example/off>
Subject: Write to jane@customer.example
"""
    facts = passed(["joe@example.test"], fields)
    assert facts.sender == "app@example.test"
    assert facts.header is not None
    assert bytes(facts.header).decode().replace("\r", "") == fields


@pytest.mark.slow
@given(st.lists(st.text(alphabet='ab.@%!"\\:<>,;()ü\u3002\uff20 -', max_size=30), max_size=4))
def test_whatever_they_are_the_guard_allows_what_is_left(recipients: list[str]) -> None:
    guard = Guard.parse(STAGING)
    assert all(guard.allows(address.encode()) for address in addresses(passed(recipients)))
