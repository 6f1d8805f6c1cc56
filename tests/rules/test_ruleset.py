"""What the rules of a stage decide (DESIGN §6): example by example, and what holds of any rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_rules import random_rules
from rule_pieces import (
    CONTENT,
    JANE,
    JOE,
    QA,
    Address,
    Breaks,
    ByChance,
    Drawn,
    NoDraws,
    Text,
    When,
    address_patterns,
    addresses,
    mail,
    rule,
    rule_set,
)

from relayproxy.mail.edits import AddField
from relayproxy.mail.pattern import Pattern
from relayproxy.rules import actions
from relayproxy.rules.decision import Faults, Fired
from relayproxy.rules.facts import BodyEdit, Noted, Recipient, Stage
from relayproxy.rules.ruleset import RuleSet
from relayproxy.smtp import local_replies
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Facts
    from relayproxy.rules.rule import Action, Rule

CONNECT, HELO, MAIL, RCPT, DATA, EOH, EOM = Stage

TAG = actions.Tag(Text("t"))
NO = actions.Refuse("reject", 550, Text("5.7.1 no {recipient}"))
LATER = actions.Refuse("tempfail", 451, Text("4.7.1 later {recipient}"))
NEVER = actions.Refuse("reject", 550, Text("5.7.1 never"))
DISCARD = actions.Discard()
ACCEPT = actions.Accept()
HOLD = actions.Hold(Text("look at {sender}"))


def decide(stage: Stage, facts: Facts, *rules: Rule) -> Decision:
    return rule_set(*rules).evaluate(stage, facts, NoDraws())


def recipients(decision: Decision) -> list[str]:
    return [one.address for one in decision.facts.recipients]


def tags(decision: Decision) -> list[str]:
    return list(decision.facts.tags)


def header(decision: Decision) -> str:
    assert decision.facts.header is not None
    return bytes(decision.facts.header).decode()


def fired(decision: Decision) -> list[str]:
    return [one.rule for one in decision.fired]


# The order of rules.


def test_no_rules_change_nothing() -> None:
    facts = mail(JANE, JANE)
    for stage in Stage:
        decision = decide(stage, facts)
        assert decision.facts is facts
        assert (decision.answer, decision.faults, decision.fired, decision.failure) == (None, None, (), None)
        assert not rule_set().runs_at(stage, facts)


def test_each_rule_sees_the_mail_as_those_before_it_left_it() -> None:
    decision = decide(
        MAIL,
        mail(sender="a@example.test"),
        rule(When("sender", "a@*"), actions.ChangeSender(Address("b@example.test"))),
        rule(When("sender", "b@*"), actions.ChangeSender(Address("c+{sender}"))),
        rule(When("sender", "a@*"), TAG),
    )
    assert decision.facts.sender == "c+b@example.test"
    assert decision.fired == (Fired("1", ("change_sender",)), Fired("2", ("change_sender",)))


def test_templates_see_the_mail_as_it_was_when_the_rule_began() -> None:
    decision = decide(
        MAIL,
        mail(sender="a@example.test"),
        rule(
            When("sender"), actions.ChangeSender(Address("b@example.test")), actions.Tag(Text("{sender} was {found}"))
        ),
    )
    assert tags(decision) == ["a@example.test was a@example.test"]


def test_only_rules_of_the_stage_run() -> None:
    rules = rule_set(rule(When("client"), actions.Tag(Text("c"))), rule(When("sender"), actions.Tag(Text("s"))))
    facts = mail()
    assert [stage.name for stage in Stage if rules.runs_at(stage, facts)] == ["CONNECT", "MAIL"]
    for stage in Stage:
        facts = rules.evaluate(stage, facts, NoDraws()).facts
        assert facts.tags == (("c",) if stage < MAIL else ("c", "s"))


def test_what_is_drawn_comes_from_the_caller() -> None:
    rules = rule_set(rule(ByChance(), TAG))
    assert rules.evaluate(CONNECT, mail(), Drawn(0.4)).facts.tags == ("t",)
    assert rules.evaluate(CONNECT, mail(), Drawn(0.6)).facts.tags == ()


# What it applies to.


@pytest.mark.parametrize("stage", [RCPT, DATA, EOH, EOM])
def test_a_rule_about_the_recipient_runs_for_each(stage: Stage) -> None:
    decision = decide(
        stage,
        mail(JANE, QA, JOE),
        rule(When("recipient", "*@customer.example"), actions.RewriteRecipient(addresses("to+{found}")), at=stage),
    )
    assert recipients(decision) == [f"to+{JANE}", QA, f"to+{JOE}"]
    assert fired(decision) == ["1"]


def test_a_rule_that_only_names_the_recipient_too() -> None:
    decision = decide(RCPT, mail(JANE, JOE), rule(None, actions.Tag(Text("to {recipient}"))))
    assert tags(decision) == [f"to {JANE}", f"to {JOE}"]


def test_it_runs_for_those_that_a_rule_before_made() -> None:
    decision = decide(
        RCPT,
        mail(JANE),
        rule(None, actions.RewriteRecipient(addresses(QA, JOE))),
        rule(When("recipient", "joe@*"), actions.DeleteRecipient()),
        rule(None, actions.Tag(Text("{recipient}"))),
    )
    assert recipients(decision) == [QA]
    assert tags(decision) == [QA]


def test_each_rewriting_sees_the_recipients_of_before() -> None:
    swap = rule(None, actions.RewriteRecipient(addresses("x{recipient}")), actions.Tag(Text("{recipient}")))
    decision = decide(RCPT, mail(JANE, f"x{JANE}"), swap)
    assert recipients(decision) == [f"x{JANE}", f"xx{JANE}"]
    assert tags(decision) == [JANE, f"x{JANE}"]


def test_a_rewritten_recipient_keeps_what_it_comes_of_and_loses_its_orcpt() -> None:
    jane = Recipient(JANE, 3, {"ORCPT": f"rfc822;{JANE}", "NOTIFY": "NEVER"})
    decision = decide(RCPT, mail(jane), rule(None, actions.RewriteRecipient(addresses(QA, JOE, "{recipient}"))))
    assert decision.facts.recipients == (
        Recipient(QA, 3, {"NOTIFY": "NEVER"}),
        Recipient(JOE, 3, {"NOTIFY": "NEVER"}),
        jane,
    )


def test_an_added_recipient_comes_of_none() -> None:
    decision = decide(DATA, mail(JANE), rule(When("sender"), actions.AddRecipient(addresses(QA, JOE))))
    assert decision.facts.recipients == (Recipient(JANE, 0), Recipient(QA, -1), Recipient(JOE, -1))
    decision = decide(RCPT, mail(JANE), rule(When("recipient", "jane@*"), actions.AddRecipient(addresses(QA))))
    assert decision.facts.recipients == (Recipient(JANE, 0), Recipient(QA, -1))


def test_deleted_recipients_are_gone() -> None:
    decision = decide(RCPT, mail(JANE, QA), rule(When("recipient", "jane@*"), actions.DeleteRecipient()))
    assert recipients(decision) == [QA]
    assert decision.answer is None


@pytest.mark.parametrize("stage", [RCPT, EOM])
def test_recipients_are_deleted_by_pattern(stage: Stage) -> None:
    delete = actions.DeleteRecipient(address_patterns("*@CUSTOMER.example", "x@y"))
    decision = decide(stage, mail(JANE, QA, JOE), rule(When("client"), delete, at=stage))
    assert recipients(decision) == [QA]


def test_one_recipient_deletes_another_when_all_are_named() -> None:
    delete = rule(When("recipient", "jane@*"), actions.DeleteRecipient(address_patterns("joe@*")))
    assert recipients(decide(RCPT, mail(JOE), delete)) == [JOE]
    assert recipients(decide(DATA, mail(JOE, JANE, QA), delete)) == [JANE, QA]
    assert recipients(decide(DATA, mail(JOE, QA), delete)) == [JOE, QA]


def test_actions_on_recipients_are_done_in_order() -> None:
    add, delete = actions.AddRecipient(addresses(JOE)), actions.DeleteRecipient(address_patterns("joe@*"))
    assert recipients(decide(DATA, mail(JANE), rule(None, add, delete, at=DATA))) == [JANE]
    assert recipients(decide(DATA, mail(JANE), rule(None, delete, add, at=DATA))) == [JANE, JOE]


def test_identical_recipients_collapse_into_one() -> None:
    rewrite = rule(When("recipient", "jo*"), actions.RewriteRecipient(addresses('"jane"@CUSTOMER.example.', QA)))
    decision = decide(DATA, mail(JANE, JOE, "john@customer.example"), msgspec.structs.replace(rewrite, at=DATA))
    assert decision.facts.recipients == (Recipient(JANE, 0, also=(1, 2)), Recipient(QA, 1, also=(2,)))


def test_what_no_rule_touches_stays() -> None:
    decision = decide(RCPT, mail(JANE, JANE), rule(None, actions.Tag(Text("{recipient}"))))
    assert recipients(decision) == [JANE, JANE]


def test_a_refusal_answers_that_rcpt() -> None:
    for_jane = rule(When("recipient", "jane@*"), NO)
    decision = decide(RCPT, mail(JANE), for_jane)
    assert decision.answer == Reply(550, (f"5.7.1 no {JANE}".encode(),), "rule")
    assert decide(RCPT, mail(JOE), for_jane).answer is None


def test_a_refusal_of_one_past_rcpt_answers_the_message() -> None:
    decision = decide(DATA, mail(JOE, JANE), rule(When("recipient", "jane@*"), NO, at=DATA))
    assert decision.answer == Reply(550, (f"5.7.1 no {JANE}".encode(),), "rule")
    assert recipients(decision) == [JOE, JANE]


def test_a_4yz_is_chosen_before_a_5yz() -> None:
    never, later = rule(When("recipient", "jane@*"), NO, at=DATA), rule(When("recipient", "joe@*"), LATER, at=DATA)
    for rules in ((never, later), (later, never)):
        decision = decide(DATA, mail(JANE, JOE), *rules)
        assert decision.answer == Reply(451, (f"4.7.1 later {JOE}".encode(),), "rule")
        assert len(decision.fired) == 2
    assert decide(DATA, mail(JOE), rule(When("recipient"), NO, at=DATA), rule(None, LATER, at=DATA)).answer == Reply(
        550, (f"5.7.1 no {JOE}".encode(),), "rule"
    )


def test_of_two_refusals_of_a_class_the_first_is_the_answer() -> None:
    decision = decide(DATA, mail(JANE, JOE), rule(None, NO, at=DATA))
    assert decision.answer == Reply(550, (f"5.7.1 no {JANE}".encode(),), "rule")


def test_what_was_refused_for_a_recipient_is_no_mail_for_rules_about_the_message() -> None:
    message = rule(None, NEVER, at=DATA)
    decision = decide(DATA, mail(JANE, JOE), rule(When("recipient", "jane@*"), LATER, at=DATA), message)
    assert fired(decision) == ["1"]


def test_everything_else_applies_to_the_message() -> None:
    decision = decide(
        RCPT,
        mail(JANE),
        rule(When("recipient", "jane@*"), HOLD, actions.Route("other"), actions.AddHeader("X-A", Text("b")), TAG),
    )
    assert (decision.facts.fate, decision.facts.reason) == ("hold", "look at app@example.test")
    assert (decision.facts.route, decision.facts.tags) == ("other", ("t",))
    assert decision.facts.edits == (Noted("1", 2, AddField("X-A", "b")),)
    assert recipients(decision) == [JANE]


def test_identical_header_edits_are_made_once() -> None:
    rules = rule_set(
        rule(None, actions.AddHeader("X-For", Text("{recipient}")), actions.AddHeader("X-All", Text("a"))),
        rule(None, actions.AddHeader("X-All", Text("a")), at=RCPT),
        rule(None, actions.DeleteHeader("X-B", 1), actions.DeleteHeader("X-B", 1), at=RCPT),
    )
    # Rules of rcpt run at each RCPT, and two actions that say the same mean two edits.
    facts = rules.evaluate(RCPT, mail(JANE, JOE), NoDraws()).facts
    facts = rules.evaluate(RCPT, msgspec.structs.replace(facts, recipients=(Recipient(QA),)), NoDraws()).facts
    made = [(noted.rule, noted.place, getattr(noted.edit, "value", None)) for noted in facts.edits]
    assert sorted(made, key=str) == [
        ("1", 0, JANE), ("1", 0, JOE), ("1", 0, QA), ("1", 1, "a"), ("2", 0, "a"), ("3", 0, None), ("3", 1, None),
    ]  # fmt: skip


# Header edits.


def test_edits_that_were_noted_are_made_before_the_rules_of_eoh_run() -> None:
    rules = rule_set(
        rule(None, actions.ChangeHeader("Subject", 1, Text("[test] hi"))),
        rule(When("sender"), actions.AddHeader("X-Sender", Text("{sender}"))),
        rule(When("header:subject", "[[]test] *"), actions.Tag(Text("{found}"))),
    )
    facts = mail(JANE)
    for stage in (CONNECT, MAIL):
        facts = rules.evaluate(stage, facts, NoDraws()).facts
    assert len(facts.edits) == 2
    decision = rules.evaluate(EOH, facts, NoDraws())
    assert header(decision) == "Subject: [test] hi\r\nX-Sender: app@example.test\r\n"
    assert decision.facts.edits == ()
    assert tags(decision) == ["[test] hi"]


def test_they_are_made_where_no_rule_of_eoh_is() -> None:
    rules = rule_set(rule(When("sender"), actions.DeleteHeader("Subject")))
    facts = mail(header="A: b\r\nSubject: hi\r\n")
    assert not rules.runs_at(EOH, facts)
    facts = rules.evaluate(MAIL, facts, NoDraws()).facts
    assert rules.runs_at(EOH, facts)
    assert header(rules.evaluate(EOH, facts, NoDraws())) == "A: b\r\n"


def test_they_are_made_where_a_rule_accepted() -> None:
    rules = rule_set(
        rule(When("sender"), actions.AddHeader("X-A", Text("b"))),
        rule(When("sender"), ACCEPT),
        rule(When("header:subject"), TAG),
    )
    facts = rules.evaluate(MAIL, mail(), NoDraws()).facts
    decision = rules.evaluate(EOH, facts, NoDraws())
    assert header(decision) == "Subject: hi\r\nX-A: b\r\n"
    assert tags(decision) == []


@pytest.mark.parametrize("action", [ACCEPT, actions.Cut("before-reply")], ids=lambda action: str(action.name))
def test_a_rule_that_runs_always_does_where_others_do_not_any_more(action: Action) -> None:
    rules = rule_set(
        rule(None, action),
        rule(None, actions.Tag(Text("some"))),
        rule(None, actions.Tag(Text("all")), always=True),
        rule(None, actions.Tag(Text("at eom")), at=EOM),
        rule(None, actions.Tag(Text("all at eom")), at=EOM, always=True),
    )
    begun = rules.evaluate(CONNECT, mail(), NoDraws())
    assert tags(begun) == ["all"]
    of_message = ["all", "all at eom"] if action is ACCEPT else ["all", "at eom", "all at eom"]
    assert tags(rules.evaluate(EOM, begun.facts, NoDraws())) == of_message


@pytest.mark.parametrize("action", [NEVER, DISCARD], ids=lambda action: str(action.name))
def test_what_does_not_leave_has_no_rule_at_all(action: Action) -> None:
    decision = decide(CONNECT, mail(), rule(None, action), rule(None, TAG, always=True))
    assert tags(decision) == []


@pytest.mark.parametrize("stage", [EOH, EOM])
def test_from_eoh_on_they_are_made_at_once(stage: Stage) -> None:
    decision = decide(
        stage,
        mail(JANE, JOE),
        rule(None, actions.AddHeader("X-To", Text("{recipient}"), 0), at=stage),
        rule(When("header:x-to"), actions.ChangeHeader("Subject", 1, Text("{header:x-to}, {header:subject}"))),
    )
    assert header(decision) == f"X-To: {JOE}\r\nX-To: {JANE}\r\nSubject: {JOE}, hi\r\n"


def test_a_redirection_is_one_of_envelope_and_header_section() -> None:
    rules = rule_set(rule(When("recipient", "*@customer.example"), actions.RedirectRecipient(Address(QA))))
    facts = mail(JANE, "b@example.test", header=f'To: "J. D." <{JANE}>, b@example.test\r\n')
    decision = rules.evaluate(RCPT, facts, NoDraws())
    assert recipients(decision) == [QA, "b@example.test"]
    assert header(rules.evaluate(EOH, decision.facts, NoDraws())) == f'To: "J. D." <{QA}>, b@example.test\r\n'


def test_who_is_redirected_to_himself_stays() -> None:
    decision = decide(RCPT, mail(JANE), rule(None, actions.RedirectRecipient(Address("{recipient}"))))
    assert (decision.facts.recipients, decision.facts.edits) == ((Recipient(JANE, 0),), ())


def test_a_tag_is_one_however_often_it_is_said() -> None:
    decision = decide(RCPT, mail(JANE, JOE), rule(When("recipient"), TAG), rule(None, TAG, at=RCPT))
    assert tags(decision) == ["t"]


def test_every_address_in_a_field_is_rewritten() -> None:
    spare = address_patterns("*@example.test")
    decision = decide(
        EOH,
        mail(header=f"To: {JANE}, b@example.test\r\nCc: {JOE}\r\n"),
        rule(None, actions.RewriteHeaderAddresses(("To",), spare, Address(QA)), at=EOH),
    )
    assert header(decision) == f"To: {QA}, b@example.test\r\nCc: {JOE}\r\n"


def test_addresses_are_rewritten_behind_what_rules_wrote_for_the_last_recipient() -> None:
    rules = rule_set(
        rule(When("recipient"), actions.AddHeader("Cc", Text("{recipient}"))),
        rule(When("recipient"), actions.RewriteHeaderAddresses(("Cc",), (), Address(QA))),
    )
    facts = rules.evaluate(RCPT, mail(JANE), NoDraws()).facts
    facts = rules.evaluate(RCPT, msgspec.structs.replace(mail(JOE), edits=facts.edits), NoDraws()).facts
    assert len(facts.edits) == 3
    assert header(rules.evaluate(EOH, facts, NoDraws())) == f"Subject: hi\r\nCc: {QA}\r\nCc: {QA}\r\n"


def test_smtputf8_lets_a_field_be_utf8() -> None:
    add = rule(None, actions.AddHeader("X-A", Text("ü")), at=EOH)
    facts = mail()
    assert header(decide(EOH, facts, add)).isascii()
    utf8 = msgspec.structs.replace(facts, parameters={"SMTPUTF8": None})
    assert header(decide(EOH, utf8, add)).endswith("X-A: ü\r\n")


# Body edits.


def test_body_edits_are_carried_to_the_end_of_the_message() -> None:
    strip = actions.StripAttachment(Pattern.parse("*.exe"))
    rules = rule_set(
        rule(When("sender"), actions.ReplaceBody(Text("from {sender}"))),
        rule(When("body", "from app*"), actions.Tag(Text("{body}"))),
        rule(When("attachment", "*"), strip),
    )
    facts = rules.evaluate(MAIL, mail(content=CONTENT._replace(attachments=("a.exe",))), NoDraws()).facts
    decision = rules.evaluate(EOM, facts, NoDraws())
    assert decision.facts.body == (BodyEdit(text="from app@example.test"),)
    assert tags(decision) == ["from app@example.test"]
    assert fired(decision) == ["2"], "a body that was replaced has no attachments"


def test_later_rules_do_not_see_what_was_stripped() -> None:
    exe, zipped = Pattern.parse("*.EXE"), Pattern.parse("*.zip")
    decision = decide(
        EOM,
        mail(content=CONTENT._replace(attachments=("a.exe", "b.zip", "c.txt"))),
        rule(When("attachment", "a.exe"), actions.StripAttachment(exe)),
        rule(When("attachment", "a.exe"), NEVER),
        rule(When("attachment", "b.zip"), actions.StripAttachment(zipped), actions.StripAttachment(zipped)),
        rule(When("attachment", "c.txt"), actions.Tag(Text("{attachment}"))),
    )
    assert decision.facts.body == (BodyEdit(strip=exe), BodyEdit(strip=zipped))
    assert tags(decision) == ["c.txt"]


def test_a_body_that_is_replaced_leaves_nothing_of_the_edits_before() -> None:
    decision = decide(
        EOM,
        mail(),
        rule(None, actions.StripAttachment(Pattern.parse("*"))),
        rule(None, actions.ReplaceBody(Text("one")), at=EOM),
        rule(None, actions.ReplaceBody(Text("two")), actions.StripAttachment(Pattern.parse("*"))),
    )
    assert decision.facts.body == (BodyEdit(text="two"),)


@pytest.mark.parametrize(
    ("reads", "wanted"), [("body", True), ("attachment", True), ("size", False), ("header:subject", False)]
)
def test_who_needs_the_content_is_known(reads: str, wanted: bool) -> None:
    assert rule_set(rule(When("client"), TAG), rule(When(reads), TAG)).reads_content is wanted


# What stops.


@pytest.mark.parametrize("stop", [NEVER, DISCARD, ACCEPT, actions.Cut("reset")], ids=lambda action: action.name)
def test_no_further_rule_runs(stop: Action) -> None:
    decision = decide(MAIL, mail(), rule(When("sender"), stop, actions.Tag(Text("a"))), rule(None, TAG))
    assert fired(decision) == ["1"]
    assert tags(decision) == ["a"], "what the rule itself says is done"


@pytest.mark.parametrize(("stop", "runs"), [(ACCEPT, False), (DISCARD, False), (HOLD, True)])
def test_nor_does_one_at_a_later_stage(stop: Action, runs: bool) -> None:
    rules = rule_set(rule(When("header:subject"), TAG), rule(When("sender"), stop))
    facts = rules.evaluate(MAIL, mail(), NoDraws()).facts
    assert rules.evaluate(EOH, facts, NoDraws()).facts.tags == (("t",) if runs else ())


def test_what_a_rule_held_is_held_as_the_later_ones_leave_it() -> None:
    decision = decide(
        MAIL,
        mail(),
        rule(When("sender"), HOLD),
        rule(When("sender"), actions.ChangeSender(Address(QA)), actions.Hold(Text("for another reason"))),
    )
    assert (decision.facts.fate, decision.facts.reason, decision.facts.sender) == (
        "hold",
        "look at app@example.test",
        QA,
    )


def test_what_is_discarded_is_not_held() -> None:
    assert decide(MAIL, mail(), rule(When("sender"), HOLD), rule(When("sender"), DISCARD)).facts.fate == "discard"


@pytest.mark.parametrize(
    ("stage", "action", "code"),
    [
        (CONNECT, actions.Refuse("reject", 550, Text("5.7.1 x")), 554),
        (CONNECT, actions.Refuse("tempfail", 451, Text("4.7.1 x")), 421),
        (CONNECT, actions.Refuse("reply", 521, Text("5.3.2 x")), 521),
        (HELO, actions.Refuse("reject", 550, Text("5.7.1 x")), 550),
        (EOM, actions.Refuse("tempfail", 451, Text("4.7.1 x")), 451),
    ],
)
def test_a_refusal_says_what_its_stage_asks_for(stage: Stage, action: actions.Refuse, code: int) -> None:
    decision = decide(stage, mail(), rule(None, action, at=stage))
    assert decision.answer == Reply(code, (action.text.render(mail(), None, {}).encode(),), "rule")


def test_what_was_said_of_a_refused_recipient_is_not_said_of_the_message() -> None:
    decision = decide(
        RCPT,
        mail(JANE),
        rule(None, actions.AddHeader("X-To", Text("{recipient}")), HOLD, actions.Tag(Text("trap")), actions.Delay(1)),
        rule(When("recipient"), NO),
    )
    assert decision.answer is not None
    assert decision.facts == msgspec.structs.replace(mail(JANE), tags=("trap",), header=decision.facts.header)
    assert decision.faults == Faults(delay=1)
    assert fired(decision) == ["1", "2"]


# Faults.


def test_faults_of_several_rules_come_together() -> None:
    decision = decide(
        CONNECT,
        mail(),
        rule(None, actions.Delay(1), actions.Throttle(2000)),
        rule(None, actions.Delay(2), actions.Throttle(1000), actions.DropReply()),
        rule(None, actions.Throttle(3000), actions.Cut("after-reply"), actions.Cut("reset")),
        rule(None, actions.Delay(4)),
    )
    assert decision.faults == Faults(delay=3, throttle=1000, disconnect="after-reply", drop_reply=True)


def test_a_fault_is_one_whomever_the_rule_applies_to() -> None:
    assert decide(DATA, mail(JANE, JOE), rule(When("recipient"), actions.Delay(1), at=DATA)).faults == Faults(delay=1)


# When a rule goes wrong.


@pytest.mark.parametrize("stage", [MAIL, RCPT, DATA, EOH, EOM])
def test_no_valid_address_is_the_messages_fault(stage: Stage) -> None:
    facts = mail(JANE, sender="nobody", header="A: b\r\n")
    decision = decide(
        stage,
        facts,
        rule(None, actions.AddHeader("X-A", Text("b")), TAG, at=stage),
        rule(When("sender"), actions.ChangeSender(Address("{sender}")), at=stage, name="sender of us"),
    )
    assert decision.answer == Reply(550, (b"5.1.3 A rule made no valid address of it",), "rule")
    assert decision.failure == "rule 'sender of us': expected an address, got 'nobody'"
    assert decision.facts is facts
    assert decision.fired == ()


@pytest.mark.parametrize(
    ("stage", "answer"),
    [(CONNECT, local_replies.INTERNAL_ERROR), (HELO, local_replies.RULE_FAILED), (RCPT, local_replies.RULE_FAILED)],
)
def test_what_else_goes_wrong_is_our_fault(stage: Stage, answer: Reply) -> None:
    facts = mail(JANE)
    decision = decide(stage, facts, rule(None, actions.Delay(1), at=stage), rule(Breaks(), TAG, at=stage, name="bad"))
    assert decision.answer == answer
    assert decision.failure == "rule 'bad': ZeroDivisionError: by nothing"
    assert decision.facts is facts
    assert decision.faults is None


def test_a_value_that_is_none_is_said_of_the_rule_that_gave_it() -> None:
    rules = rule_set(
        rule(When("sender"), actions.AddHeader("X-A", Text("b"))),
        rule(When("sender"), actions.AddHeader("X-Sender", Text("{sender}")), name="smuggles"),
    )
    facts = rules.evaluate(MAIL, mail(sender="a\r\nBcc: b@c"), NoDraws()).facts
    decision = rules.evaluate(EOH, facts, NoDraws())
    assert decision.answer == local_replies.RULE_FAILED
    assert decision.failure is not None
    assert decision.failure.startswith("rule 'smuggles': expected ")
    assert header(decision) == "Subject: hi\r\n"
    at_eoh = rule(When("header:subject"), actions.AddHeader("X-Sender", Text("{sender}")), name="smuggles")
    assert decide(EOH, mail(sender="a\r\nb"), at_eoh).failure == decision.failure.replace("a\\r\\nBcc: b@c", "a\\r\\nb")


# Any rules.


def plain(facts: Facts) -> tuple[Facts, bytes]:
    """To be compared."""
    return msgspec.structs.replace(facts, header=None), bytes(facts.header or b"")


@pytest.mark.slow
@given(random_rules(), st.lists(st.sampled_from([JANE, JOE, QA]), max_size=4))
def test_no_rules_raise_and_what_is_decided_is_whole(rules: tuple[Rule, ...], named: list[str]) -> None:
    made = RuleSet(rules)
    facts = mail(*named)
    for stage in Stage:
        decision = made.evaluate(stage, facts, NoDraws())
        assert plain(made.evaluate(stage, facts, NoDraws()).facts) == plain(decision.facts), "it is pure"
        assert made.runs_at(stage, facts) or (decision.answer, decision.fired, decision.facts.edits) == (
            None,
            (),
            facts.edits,
        )
        if decision.failure is not None:
            assert decision.answer is not None
            assert decision.facts is facts
            return
        if decision.answer is not None:
            assert decision.answer.severity in (4, 5)
            assert plain(decision.facts) == plain(msgspec.structs.replace(facts, tags=decision.facts.tags))
            return
        facts = decision.facts
    assert facts.edits == ()


@pytest.mark.slow
@given(random_rules(), st.lists(st.sampled_from([JANE, JOE, QA]), max_size=4))
def test_rules_of_a_stage_do_what_they_do_one_by_one(rules: tuple[Rule, ...], to: list[str]) -> None:
    rules = tuple([msgspec.structs.replace(one, at=EOM) for one in rules])
    together = RuleSet(rules).evaluate(EOM, mail(*to), NoDraws())
    facts = mail(*to)
    fired: list[Fired] = []
    for one in rules:
        decision = RuleSet((one,)).evaluate(EOM, facts, NoDraws())
        fired += decision.fired
        if decision.answer is not None:
            assert together.answer is not None
            assert together.answer == decision.answer or one.per_recipient
            return
        facts = decision.facts
        if decision.faults is not None and decision.faults.disconnect:
            break
    assert plain(together.facts) == plain(facts)
    assert together.fired == tuple(fired)
