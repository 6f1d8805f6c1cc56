"""Rules tried on recorded transactions: what they would have made of them, what of that differs, and what nobody can know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import UNSET
from stored import BODY, HEADER, message, reader_of, record

from relayproxy.record.privacy import Privacy
from relayproxy.record.report import (
    AddressRecord,
    AuthRecord,
    ClientRecord,
    DigestRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    MessageRecord,
    RecipientRecord,
    ReplyRecord,
    RuleRecord,
    SizeRecord,
    timestamp,
)
from relayproxy.record.report_tls import ClientTlsRecord
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.replay.backtest import Trial
from relayproxy.replay.draws import Redrawn
from relayproxy.replay.effects import Both, Difference, Field, Moved, difference, recorded
from relayproxy.rules.guard import Guard
from relayproxy.rules.load import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from relayproxy.record.report import TransactionRecord
    from relayproxy.record.store.interface import Message, Stored
    from relayproxy.replay.effects import Effect

    Effects = Callable[..., Effect]

JANE = "jane@customer.example"
GUARD = Guard.parse(["*@example.test"])
TRACED = b"Received: from app-1 ([10.0.0.5])\r\n\tby relay.test with ESMTP\r\n\tid S1@relay.test;\r\n\tFri, 2 Jan 2026 03:04:05 +0000\r\n"
REFUSED_BY_RULE = ReplyRecord(550, "5.7.1", "No", "rule")
TO_QA = "[[rule]]\nname = 'qa'\nwhen = { not = { recipient = '*@example.test' } }\nthen = [{ rewrite_recipient = 'qa@example.test' }]\n"


def kept(made: TransactionRecord | None = None, of_message: Message | None = None) -> Stored:
    made = record() if made is None else made
    with reader_of(TransactionWrite(made, of_message, final=True)) as reader:
        (stored,) = reader.transactions()
    return stored


def full(header: bytes = HEADER, content: bytes = BODY, **more: Any) -> Stored:
    return kept(record(**more), message(header, content, header_sent=TRACED + header))


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Trial]:
    def made(rules: str, *, guard: Guard | None = None, captures: bool = False, body: bytes = BODY, seed: int = 1) -> Trial:  # fmt: skip
        path = tmp_path / "rules.toml"
        path.write_text(rules)

        def read_body(_: bytes) -> Iterator[bytes]:
            assert "body" in rules or "attachment" in rules, "nobody asks for it"
            yield from (body[at : at + 3] for at in range(0, len(body), 3))

        return Trial(load([path]).rules, read_body, Redrawn(seed), guard=guard, captures=captures)

    return made


def rule(then: str, when: str = "", **more: str) -> str:
    lines = [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(["[[rule]]", *([f"when = {{ {when} }}"] if when else []), f"then = [{then}]", *lines, ""])


def test_no_rules_change_nothing(trial: Callable[..., Trial]) -> None:
    stored = full()
    assert difference(recorded(stored), trial("").effect(stored)) is None


WHAT: list[tuple[str, str, Difference]] = [
    ("recipients", TO_QA, Difference(recipients=Moved((JANE,), ("qa@example.test",)))),
    ("a recipient more", rule('{ add_recipient = "x@example.test" }'), Difference(recipients=Moved((), ("x@example.test",)))),
    ("in another case of letters", rule('{ rewrite_recipient = "jane@CUSTOMER.example" }'), Difference(tags=Moved((), ("t",)))),
    ("the sender", rule('{ change_sender = "b@example.com" }'), Difference(sender=Both("a@example.com", "b@example.com"))),
    ("a field", rule('{ change_header = ["Subject", "[x] {header.Subject}"] }'), Difference(headers=(Field("Subject", ("hi",), ("[x] hi",)),))),
    ("a field that goes", rule('{ delete_header = "subject" }'), Difference(headers=(Field("Subject", ("hi",), ()),))),
    ("a field that comes", rule('{ insert_header = [0, "X-For", "{recipient}"] }'), Difference(headers=(Field("X-For", (), (JANE,)),))),
    ("envelope and field", rule('{ redirect_recipient = "qa@example.test" }'), Difference(recipients=Moved((JANE,), ("qa@example.test",)), headers=(Field("To", (JANE,), ("qa@example.test",)),))),
    ("refused", rule('{ reject = "550 5.7.1 No" }', 'header.Subject = "hi"'), Difference(outcome=Both("accepted", "rejected"), recipients=Moved((JANE,), ()))),
    ("for now", rule("{ tempfail = true }", 'recipient = "*"'), Difference(outcome=Both("accepted", "tempfailed"), recipients=Moved((JANE,), ()))),
    ("held", rule('{ hold = "look" }', 'body = "*hello*"'), Difference(outcome=Both("accepted", "held"))),
    ("discarded", rule("{ discard = true }", 'client = "10.0.0.0/8"'), Difference(outcome=Both("accepted", "discarded"), recipients=Moved((JANE,), ()))),
    ("cut", rule('{ disconnect = "reset" }', "", at='"mail"'), Difference(outcome=Both("accepted", "aborted"), recipients=Moved((JANE,), ()))),
    ("another body", rule('{ replace_body = "gone" }'), Difference(headers=(Field("MIME-Version", (), ("1.0",)), Field("Content-Type", (), ("text/plain; charset=us-ascii",)), Field("Content-Transfer-Encoding", (), ("7bit",))), body=True)),
    ("no such attachment", rule('{ strip_attachment = "*.exe" }'), Difference(tags=Moved((), ("t",)))),
    ("routed", rule('{ route = "other" }'), Difference(route=Both(None, "other"))),
    ("tagged", rule('{ tag = "x" }', 'sender = "a@*"'), Difference(tags=Moved((), ("x",)))),
    ("a rule that goes wrong", rule('{ add_recipient = "a@{header.X-None}" }'), Difference(outcome=Both("accepted", "rejected"), recipients=Moved((JANE,), ()))),
    ("nobody is left", rule("{ delete_recipient = true }"), Difference(outcome=Both("accepted", "rejected"), recipients=Moved((JANE,), ()))),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "expected"), [row[1:] for row in WHAT], ids=[row[0] for row in WHAT])
def test_what_rules_would_have_made_of_it(rules: str, expected: Difference, trial: Callable[..., Trial]) -> None:
    stored = full()
    if expected.tags == Moved((), ("t",)):  # nothing else
        rules += rule('{ tag = "t" }')
    found = difference(recorded(stored), trial(rules + "# body").effect(stored))
    assert found is not None
    if expected.body:  # what the fields of a new body say is mail/body_edit.py's
        found, expected = (msgspec.structs.replace(one, headers=()) for one in (found, expected))
    assert found == expected


def test_conditions_see_what_was_recorded(trial: Callable[..., Trial]) -> None:
    """Whatever is known of session and envelope."""
    client = ClientRecord("192.0.2.7", 1, "app-1", ClientTlsRecord("TLSv1.3", "c", None), AuthRecord("PLAIN", "app"))
    envelope = EnvelopeRecord("a@example.com", {"SIZE": "10"}, (AddressRecord(JANE, {"NOTIFY": "NEVER"}),))
    stored = full(client=client, envelope=EnvelopesRecord(envelope, envelope), listener="in")
    when = 'client = "192.0.2.0/24", listener = "in", helo = "app-1", tls = "TLSv1.3", auth = "app", parameter.SIZE = "10", size = ">70B", size = "<90B"'
    for one in when.split(", "):
        assert trial(rule('{ tag = "x" }', one)).effect(stored).tags == ("x",), one
    notify = rule('{ tag = "x" }', "parameter.NOTIFY = 'NEVER'")
    assert trial(notify).effect(stored).tags == ("x",)


def test_a_leak_is_whom_rules_leave_and_the_guard_does_not(trial: Callable[..., Trial]) -> None:
    stored = full()
    effect = trial("", guard=GUARD).effect(stored)
    assert (effect.leaks, effect.outcome, effect.reply, effect.recipients) == (
        (JANE,), "rejected", "550 5.7.1 This relay sends no mail to that address", (),
    )  # fmt: skip
    effect = trial("", guard=GUARD, captures=True).effect(stored)
    assert (effect.leaks, effect.outcome, effect.recipients) == ((JANE,), "accepted", ())
    assert trial(TO_QA, guard=GUARD).effect(stored).leaks == ()


def test_who_is_kept_from_it_by_a_rule_is_no_leak(trial: Callable[..., Trial]) -> None:
    for then in ("{ reject = true }", "{ discard = true }", "{ hold = 'x' }"):
        assert trial(rule(then, 'header.Subject = "hi"'), guard=GUARD).effect(full()).leaks == ()


def test_behind_an_open_gate_the_others_get_it_and_behind_a_closed_one_nobody_does(
    trial: Callable[..., Trial],
) -> None:
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}), AddressRecord("qa@example.test", {})))
    stored = full(envelope=EnvelopesRecord(envelope, envelope), recipients=())
    for then, when in (
        ('{ tag = "x" }', ""),
        ('{ route = "x" }', 'recipient = "*"'),
    ):  # MAIL waits for RCPT, and no longer
        live = trial(rule(then, when), guard=GUARD).effect(stored)
        assert (live.outcome, live.recipients, live.leaks) == ("accepted", ("qa@example.test",), (JANE,))
    closed = trial(rule('{ delete_recipient = "nobody@*" }', 'header.Subject = "*"'), guard=GUARD).effect(stored)
    assert (closed.outcome, closed.recipients, closed.leaks) == ("rejected", (), (JANE,))


def test_upstream_does_as_it_did(trial: Callable[..., Trial]) -> None:
    """Whom it refused it refuses, and the outcome is its own where rules have nothing against the message."""
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}), AddressRecord("joe@customer.example", {})))
    taken, refused = ReplyRecord(250, None, "ok", "upstream"), ReplyRecord(550, "5.1.1", "unknown", "upstream")
    told = tuple(
        [
            RecipientRecord(one.address, (one.address,), reply)
            for one, reply in zip(envelope.recipients, (taken, refused), strict=True)
        ]
    )
    stored = full(
        envelope=EnvelopesRecord(envelope, envelope),
        recipients=told,
        outcome="rejected",
        reply=ReplyRecord(554, "5.6.0", "spam", "upstream"),
    )
    effect = trial(rule('{ tag = "two" }', 'recipients = ">1"')).effect(stored)
    assert (effect.outcome, effect.recipients, effect.tags) == ("rejected", (JANE,), ())
    assert difference(recorded(stored), effect) is None


def test_whom_upstream_had_taken_before_it_refused_a_list_with_him_gets_it(trial: Callable[..., Trial]) -> None:
    received = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}), AddressRecord("all@example.com", {})))
    sent = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}), AddressRecord("gone@example.com", {})))
    told = (
        RecipientRecord(JANE, (JANE,), ReplyRecord(250, None, "ok", "upstream")),
        RecipientRecord("all@example.com", (JANE, "gone@example.com"), ReplyRecord(550, None, "no", "upstream")),
    )
    stored = full(envelope=EnvelopesRecord(received, sent), recipients=told)
    everyone = rule(f'{{ rewrite_recipient = ["{JANE}", "gone@example.com"] }}', 'recipient = "all@*"')
    effect = trial(everyone).effect(stored)
    assert effect.recipients == (JANE,)
    assert difference(recorded(stored), effect) is None


def test_whom_upstream_refused_keeps_nobody_from_another_route(trial: Callable[..., Trial]) -> None:
    """PROTOCOL §1.10: the first route counts, of the recipients that stand."""
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}), AddressRecord("joe@shop.example", {})))
    told = (
        RecipientRecord(JANE, (JANE,), ReplyRecord(450, "4.2.1", "later", "upstream")),
        RecipientRecord("joe@shop.example", ("joe@shop.example",), ReplyRecord(250, None, "ok", "upstream")),
    )
    stored = full(envelope=EnvelopesRecord(envelope, envelope), recipients=told)
    effect = trial(rule('{ route = "shop" }', 'recipient = "*@shop.example"')).effect(stored)
    assert (effect.outcome, effect.recipients, effect.route) == ("accepted", ("joe@shop.example",), "shop")


def test_a_recipient_too_many_was_none_for_rules(trial: Callable[..., Trial]) -> None:
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}), AddressRecord("joe@customer.example", {})))
    left = EnvelopeRecord("a@example.com", {}, envelope.recipients[:1])
    told = (
        RecipientRecord(JANE, (JANE,), ReplyRecord(250, None, "ok", "upstream")),
        RecipientRecord("joe@customer.example", (), ReplyRecord(452, "4.5.3", "Too many recipients", "proxy")),
    )
    stored = full(envelope=EnvelopesRecord(envelope, left), recipients=told)
    effect = trial("", guard=GUARD).effect(stored)
    assert effect.leaks == (JANE,)
    assert difference(recorded(stored), trial("").effect(stored)) is None


def test_who_gave_up_is_nobody_s_change_and_no_leak(trial: Callable[..., Trial]) -> None:
    stored = kept(record(outcome="aborted", message=None, reply=None))
    effect = trial(rule('{ tag = "x" }', 'header.Subject = "*"'), guard=GUARD).effect(stored)
    assert (difference(recorded(stored), effect), effect.leaks, effect.unseen) == (None, (), ())


def refused_by_rule(**more: Any) -> TransactionRecord:
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}),))
    told = {
        "envelope": EnvelopesRecord(envelope, None),
        "recipients": (RecipientRecord(JANE, (), REFUSED_BY_RULE),),
        "message": None,
        "reply": REFUSED_BY_RULE,
        "outcome": "rejected",
        "rules": (RuleRecord("no", ("reject",)),),
    }
    return record(**{**told, **more})


def test_what_rules_stopped_and_would_not_stop_now_is_thought_to_be_taken(trial: Callable[..., Trial]) -> None:
    stored = kept(refused_by_rule())
    effect = trial(rule('{ tag = "x" }', 'header.Subject = "*"'), guard=GUARD).effect(stored)
    found = difference(recorded(stored), effect)
    assert effect.leaks == (JANE,)
    assert effect.unseen == ("message",)
    assert found == Difference(reply=Both("550 5.7.1 No", "550 5.7.1 This relay sends no mail to that address"))
    found = difference(recorded(stored), trial("").effect(stored))
    assert found is not None
    assert (found.outcome, found.recipients) == (Both("rejected", "accepted"), Moved((), (JANE,)))


def test_another_refusal_is_another_reply(trial: Callable[..., Trial]) -> None:
    stored = kept(refused_by_rule())
    same = trial(rule('{ reject = "550 5.7.1 No" }', 'recipient = "*"')).effect(stored)
    other = trial(rule('{ reject = "553 5.7.1 Never" }', 'recipient = "*"')).effect(stored)
    assert difference(recorded(stored), same) is None
    assert difference(recorded(stored), other) == Difference(reply=Both("550 5.7.1 No", "553 5.7.1 Never"))


def test_of_a_mail_that_rules_refused_nobody_knows_whom_it_was_for(trial: Callable[..., Trial]) -> None:
    nobody = EnvelopesRecord(EnvelopeRecord("a@example.com", {}, ()), None)
    stored = kept(refused_by_rule(envelope=nobody, recipients=()))
    effect = trial("").effect(stored)
    assert (effect.outcome, effect.unseen) == ("accepted", ("recipients", "message"))


def test_what_is_too_big_stays_too_big(trial: Callable[..., Trial]) -> None:
    stored = full(outcome="rejected", reply=ReplyRecord(552, "5.3.4", "Message too big", "proxy"))
    effect = trial(rule('{ hold = "x" }')).effect(stored)
    assert effect.outcome == "rejected"


def test_what_was_held_is_compared_as_it_was_to_leave(trial: Callable[..., Trial]) -> None:
    held = HeldRecord("x", EnvelopeRecord("a@example.com", {}, (AddressRecord(JANE, {}),)))
    stored = full(outcome="held", held=held)
    assert difference(recorded(stored), trial(rule('{ hold = "x" }')).effect(stored)) is None
    found = difference(recorded(stored), trial(rule('{ hold = "x" }') + TO_QA).effect(stored))
    assert found == Difference(recipients=Moved((JANE,), ("qa@example.test",)))
    let_go = trial("", guard=GUARD).effect(stored)
    assert (let_go.outcome, let_go.leaks) == ("rejected", (JANE,))


def test_rules_by_other_names_are_no_change(trial: Callable[..., Trial]) -> None:
    stored = full(tags=("x",), rules=(RuleRecord("before", ("tag",)),))
    effect = trial(rule('{ tag = "x" }', name='"after"')).effect(stored)
    assert effect.rules == ("after",)
    assert difference(recorded(stored), effect) is None


READS: list[tuple[str, str, Sequence[str]]] = [
    ("an envelope's", TO_QA, ()),
    ("a field", rule("{ reject = true }", 'header.Subject = "*"'), ("header section",)),
    ("the body", rule("{ reject = true }", 'body = "*"'), ("header section",)),
    ("a field to be added", rule('{ add_header = ["X", "y"] }'), ("header section",)),
    ("a body to be replaced", rule('{ replace_body = "gone" }'), ("header section",)),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "unseen"), [row[1:] for row in READS], ids=[row[0] for row in READS])
def test_what_was_not_kept_is_said(rules: str, unseen: Sequence[str], trial: Callable[..., Trial]) -> None:
    """`messages = "digest"`: the record alone."""
    effect = trial(rules, guard=GUARD).effect(kept())
    assert effect.unseen == unseen
    # Rules that could not run are not thought to have saved anybody.
    assert effect.leaks == (() if rules is TO_QA else (JANE,))


def test_where_header_sections_alone_were_kept_a_body_is_said_to_be_missing(trial: Callable[..., Trial]) -> None:
    stored = kept(None, message(header_sent=TRACED + HEADER)._replace(body=None))
    assert trial(rule('{ tag = "x" }', 'header.Subject = "hi"')).effect(stored).tags == ("x",)
    assert trial(rule('{ tag = "x" }', "size = '>1B'")).effect(stored).tags == ("x",)
    for then, when in (('{ tag = "x" }', 'body = "*"'), ('{ replace_body = "x" }', "")):
        effect = trial(rule(then, when)).effect(stored)
        assert (effect.unseen, effect.tags) == (("body",), ())


def test_fields_that_rules_touched_are_known_by_name_where_nothing_else_was_kept(trial: Callable[..., Trial]) -> None:
    told = record().message
    assert told is not None
    stored = kept(record(message=msgspec.structs.replace(told, headers_changed=("Subject",))))
    assert difference(recorded(stored), trial("").effect(stored)) == Difference(headers=(Field("Subject"),))


def test_another_body_was_sent_then(trial: Callable[..., Trial]) -> None:
    came, left = (DigestRecord("0" * 64, digest * 64) for digest in "12")
    told = MessageRecord(None, None, SizeRecord(1, 1), DigestsRecord(came, left))
    stored = kept(record(message=told, rules=(RuleRecord("b", ("replace_body",)),)))
    found = difference(recorded(stored), trial("").effect(stored))
    assert found == Difference(body=True)


def test_redacted_fields_are_said_to_be_where_rules_look(trial: Callable[..., Trial]) -> None:
    hidden = Privacy.parse(["subject"]).message(message(header_sent=TRACED + HEADER))
    stored = kept(None, hidden)
    assert trial(TO_QA).effect(stored).unseen == ()
    looks = rule('{ tag = "x" }', 'header.Subject = "hi"')
    assert trial(looks).effect(stored).unseen == ("what was redacted in the header section",)
    assert difference(recorded(stored), trial("").effect(stored)) is None


def test_without_addresses_nothing_is_tried(trial: Callable[..., Trial]) -> None:
    stored = kept(Privacy.parse(["addresses"]).record(record(held=UNSET)))
    effect = trial(TO_QA, guard=GUARD).effect(stored)
    assert (effect.unseen, effect.leaks) == (("addresses",), ())


def test_what_was_cut_off_in_the_store_is_not_read(trial: Callable[..., Trial]) -> None:
    stored = kept(None, message(header_sent=TRACED + HEADER, whole=False))
    assert trial(rule('{ tag = "x" }', 'body = "*"')).effect(stored).unseen == ("body",)


def test_bare_line_ends_that_were_repaired_are_seen_so(trial: Callable[..., Trial]) -> None:
    bare = HEADER.replace(b"\r\n", b"\n")
    stored = kept(None, message(bare, b"a\rb\n", header_sent=TRACED + HEADER))
    looks = rule('{ tag = "x" }', """header.Subject = "hi", body = '/^a\\r\\nb\\r\\n$/'""")
    effect = trial(looks, body=b"a\rb\n").effect(stored)
    assert effect.tags == ("x",)
    assert difference(recorded(stored), trial("").effect(stored)) is None


def test_the_clock_is_the_record_s(trial: Callable[..., Trial]) -> None:
    """`first`: greylisting by what came before, and when."""
    greylist = rule("{ tempfail = true }", "first = { times = 1, per = ['sender'], within = '1h' }", at='"mail"')
    tried = trial(greylist)

    def at(minutes: int) -> str:
        return tried.effect(full(time=timestamp(1_767_323_045_000_000_000 + minutes * 60_000_000_000))).outcome

    assert [at(0), at(10), at(69), at(180)] == ["tempfailed", "accepted", "accepted", "tempfailed"]
    assert [at(300), at(315), at(345), at(390)] == ["tempfailed", "accepted", "accepted", "accepted"]


def test_every_counts_through_the_traffic(trial: Callable[..., Trial]) -> None:
    tried = trial(rule('{ tag = "third" }', "every = 3"))
    tagged = [tried.effect(full(transaction=f"T{n}", session=f"S{n}")).tags for n in range(6)]
    assert [bool(tags) for tags in tagged] == [False, False, True, False, False, True]


def test_chance_is_a_transaction_s_whatever_other_rules_there_are(trial: Callable[..., Trial]) -> None:
    draws, other = (rule(f'{{ tag = "{tag}" }}', "chance = 0.5", at='"mail"', name=f"'{tag}'") for tag in "xy")
    stored = [full(transaction=f"T{n}") for n in range(40)]

    def tagged(rules: str, seed: int = 1) -> list[bool]:
        tried = trial(rules, seed=seed)
        return ["x" in tried.effect(one).tags for one in stored]

    assert tagged(draws) == tagged(other + draws)
    assert tagged(draws) != tagged(draws, seed=2)
    alone = [one for one in stored if "x" in trial(draws).effect(one).tags]
    assert len(alone) == sum(tagged(draws))  # whatever came before
    assert 5 < sum(tagged(draws)) < 35


def test_a_session_connects_once(trial: Callable[..., Trial]) -> None:
    tried = trial(rule('{ tag = "second" }', "every = 2", at='"connect"'))
    tags = [tried.effect(full(session=session, transaction=f"T{n}")).tags for n, session in enumerate(("S1", "S1", "S2", "S2"))]  # fmt: skip
    assert tags == [(), (), ("second",), ("second",)]


def test_a_session_that_is_refused_takes_all_its_mail_with_it(trial: Callable[..., Trial]) -> None:
    effect = trial(rule("{ reject = true }", 'client = "10.0.0.0/8"')).effect(full())
    assert (effect.outcome, effect.reply) == ("rejected", "554 5.7.1 Refused")
