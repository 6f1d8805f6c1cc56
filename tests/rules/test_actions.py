"""How actions are written: what each is read as, and what is told of those that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_texts import FACTS, JANE, raw, written

from relayproxy.rules import actions
from relayproxy.rules.action_syntax import ACTIONS, then
from relayproxy.rules.actions import Act, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable

GROUPS = frozenset({"who"})
LISTS = {"list": "*@a.test\n*@b.test\n"}


def read(toml: str) -> Act:
    one = written(f"then = [{{ {toml} }}]", LISTS, GROUPS).of("then")
    (act,) = then(one)
    assert one.source.complaints == []
    return act


def told(value: str) -> list[str]:
    one = written(f"then = {value}", LISTS, GROUPS).of("then")
    then(one)
    return [complaint.text.removeprefix("rule[0].when.then") for complaint in one.source.complaints]


def given_by(template: object) -> str:
    return template.render(FACTS, JANE, {"who": "w"})  # type: ignore[attr-defined, no-any-return]


READ: list[tuple[str, Callable[[Any], object], object]] = [
    ('change_sender = "bounces@x.test"', lambda act: given_by(act.address), "bounces@x.test"),
    ('change_sender = ""', lambda act: given_by(act.address), ""),
    ('add_recipient = "{who}@x.test"', lambda act: [*map(given_by, act.addresses)], ["w@x.test"]),
    ('add_recipient = ["a@x.test", "b@x.test"]', lambda act: [*map(given_by, act.addresses)], ["a@x.test", "b@x.test"]),
    ("delete_recipient = true", lambda act: act.patterns, None),
    ('delete_recipient = "*@x.test"', lambda act: [one.text for one in act.patterns], ["*@x.test"]),
    ('delete_recipient = [{ in = "list" }, "c"]', lambda act: [one.text for one in act.patterns], ["*@a.test", "*@b.test", "c"]),
    ('rewrite_recipient = ["{recipient.local}@x.test", "qa@x.test"]', lambda act: [*map(given_by, act.addresses)], ["jane@x.test", "qa@x.test"]),
    ('redirect_recipient = "qa+{recipient.local}@x.test"', lambda act: given_by(act.address), "qa+jane@x.test"),
    (
        'rewrite_header_addresses = { fields = ["To", "Cc"], except = "*@x.test", to = "qa@x.test" }',
        lambda act: (act.fields, [one.text for one in act.spare], given_by(act.to)),
        (("To", "Cc"), ["*@x.test"], "qa@x.test"),
    ),
    ('rewrite_header_addresses = { fields = ["To"], to = "qa@x.test" }', lambda act: act.spare, ()),
    ('add_header = ["X-Original-To", "{recipient}"]', lambda act: (act.name, act.field, given_by(act.value), act.index), ("add_header", "X-Original-To", JANE.address, None)),
    ('insert_header = [0, "X-Received", "by us"]', lambda act: (act.name, act.field, act.index), ("insert_header", "X-Received", 0)),
    ('change_header = ["Subject", "[test] {header.Subject}"]', lambda act: (act.field, act.n, given_by(act.value)), ("Subject", 1, "[test] Grüße and order 17")),
    ('change_header = ["DKIM-Signature", 2, "x"]', lambda act: act.n, 2),
    ('delete_header = "X-Env"', lambda act: (act.field, act.n), ("X-Env", None)),
    ('delete_header = ["X-Env", 2]', lambda act: (act.field, act.n), ("X-Env", 2)),
    (r'replace_body = "Dear {recipient.local},\nno.\n"', lambda act: given_by(act.text), "Dear jane,\nno.\n"),
    ('strip_attachment = "*.exe"', lambda act: act.pattern.text, "*.exe"),
    ("discard = true", lambda act: act.name, "discard"),
    ('hold = "from {sender.domain}"', lambda act: given_by(act.reason), "from app.test"),
    ("accept = true", lambda act: act.name, "accept"),
    ('route = "provider-2"', lambda act: act.upstream, "provider-2"),
    ('tag = "seen by {auth}"', lambda act: given_by(act.text), "seen by app"),
    ('delay = "1500ms"', lambda act: act.seconds, 1.5),
    ('throttle = "10KiB/s"', lambda act: act.rate, 10240),
    ('disconnect = "reset"', lambda act: act.how, "reset"),
    ("drop_reply = true", lambda act: act.name, "drop_reply"),
]  # fmt: skip


@pytest.mark.parametrize(("toml", "look", "seen"), READ)
def test_an_action_is_read(toml: str, look: Callable[[Any], object], seen: object) -> None:
    act = read(toml)
    assert act.name == toml.partition(" ")[0]
    assert look(act) == seen


REPLIES = [
    ("reject = true", (550, "5.7.1 Refused")),
    ('reject = ""', (550, "5.7.1 Refused")),
    ('reject = "No mail for {recipient}"', (550, "5.7.1 No mail for jane@customer.example")),
    ('reject = "554 No"', (554, "5.0.0 No")),
    ('reject = "552 5.2.2 Full"', (552, "5.2.2 Full")),
    ('reject = "5.1.1 Nobody"', (550, "5.1.1 Nobody")),
    ('reject = "554"', (554, "5.0.0 Refused")),
    ('reject = "550  5.7.1  a  b"', (550, "5.7.1 a  b")),
    ('reject = "12 is too many"', (550, "5.7.1 12 is too many")),
    ("tempfail = true", (451, "4.7.1 Try again later")),
    ('tempfail = "Not now"', (451, "4.7.1 Not now")),
    ('tempfail = "452 4.2.2 Mailbox full"', (452, "4.2.2 Mailbox full")),
    ('reply = "452 4.2.2 Mailbox full"', (452, "4.2.2 Mailbox full")),
    ('reply = "421 Bye, {header.Subject}"', (421, "4.0.0 Bye, Gr??e and order 17")),
    ('reply = "559 5.999.999 x"', (559, "5.999.999 x")),
]


@pytest.mark.parametrize(("toml", "reply"), REPLIES)
def test_a_reply_is_read(toml: str, reply: tuple[int, str]) -> None:
    act = read(toml)
    assert isinstance(act, Refuse)
    assert act.kind == toml.partition(" ")[0]
    assert (act.code, given_by(act.text)) == reply


def test_each_action_is_read_above_and_each_that_there_is_can_be_written() -> None:
    written_above = [one[0] for one in READ] + [one[0] for one in REPLIES]
    names = {toml.partition(" ")[0] for toml in written_above}
    assert names == set(ACTIONS)
    classes = {
        one for one in vars(actions).values() if isinstance(one, type) and issubclass(one, Act) and one is not Act
    }
    assert {type(read(toml)) for toml in written_above} == classes


ERRORS = [
    ("{ reject = true }", ': expected a list of actions, such as [{ tag = "x" }], got a table'),
    ("[]", ": expected an action, got an empty list"),
    ("[1]", '[0]: expected a table of one action, such as { tag = "x" }, got 1'),
    ("[{}]", "[0]: expected one action a table, got none"),
    ("[{ discard = true, accept = true }]", "[0]: expected one action a table, got 2"),
    ("[{ redirect = 'qa@b.test' }]", "[0].redirect: unknown action; the nearest known is redirect_recipient"),
    ("[{ rewrite = 'qa@b.test' }]", "[0].rewrite: unknown action; the nearest known is rewrite_header_addresses or rewrite_recipient"),
    ("[{ sender = 'qa@b.test' }]", "[0].sender: unknown action; the nearest known is change_sender"),
    ("[{ quarantine = true }]", "[0].quarantine: unknown action; the nearest known is hold"),
    ("[{ drop = true }]", "[0].drop: unknown action; the nearest known is discard"),
    ("[{ re = true }]", "[0].re: unknown action; known are accept, "),
    ("[{ rejct = true }]", "[0].rejct: unknown action; the nearest known is reject"),
    ("[{ change_sender = 'x y@z.test' }]", "[0].change_sender: expected an address such as user@example.com, got 'x y@z.test'"),
    ("[{ add_recipient = '' }]", "[0].add_recipient: expected an address such as user@example.com, got ''"),
    ("[{ add_recipient = ['a@b.test', 5] }]", "[0].add_recipient[1]: expected an address such as user@example.com, got 5"),
    ("[{ add_recipient = [] }]", "[0].add_recipient: expected an address such as user@example.com, got an empty list"),
    ("[{ rewrite_recipient = '{who}{recipent}' }]", "[0].rewrite_recipient: unknown placeholder {recipent} at character 6; the nearest known is recipient"),
    ("[{ redirect_recipient = true }]", "[0].redirect_recipient: expected an address such as user@example.com, got true"),
    ("[{ delete_recipient = false }]", "[0].delete_recipient: expected true or a pattern of an address, got false"),
    ("[{ delete_recipient = '/(/' }]", "[0].delete_recipient: expected a regular expression (RE2) between the slashes: missing ): (, got '/(/'"),
    ("[{ rewrite_header_addresses = 'x' }]", "[0].rewrite_header_addresses: expected a table such as { fields"),
    ("[{ rewrite_header_addresses = { fields = ['To'], too = 'a@b.test', to = 'a@b.test' } }]", "[0].rewrite_header_addresses.too: unknown key; the nearest known is to"),
    ("[{ rewrite_header_addresses = { to = 'a@b.test' } }]", "[0].rewrite_header_addresses: expected the key fields, which is missing"),
    ("[{ rewrite_header_addresses = { fields = 'To', to = 'a@b.test' } }]", "[0].rewrite_header_addresses.fields: expected a list of names of fields, such as [\"To\", \"Cc\"], got 'To'"),
    ("[{ add_header = 'X: y' }]", "[0].add_header: expected [name, value], got 'X: y'"),
    ("[{ add_header = ['X'] }]", "[0].add_header: expected [name, value], got a list of 1"),
    ("[{ add_header = ['X:', 'y'] }]", "[0].add_header[0]: expected the name of a field, of printable ASCII without colon and space, got 'X:'"),
    ("[{ add_header = ['X Y', 'y'] }]", "[0].add_header[0]: expected the name of a field, of printable ASCII without colon and space, got 'X Y'"),
    (r'[{ add_header = ["X", "a\r\nBcc: b"] }]', "[0].add_header[1]: expected one line without control characters, got '\\r' at character 2"),
    ("[{ insert_header = [-1, 'X', 'y'] }]", "[0].insert_header[0]: expected an index from 0, the top, got -1"),
    ("[{ insert_header = [true, 'X', 'y'] }]", "[0].insert_header[0]: expected an index from 0, the top, got true"),
    ("[{ change_header = ['X', 0, 'y'] }]", "[0].change_header[1]: expected a number from 1, got 0"),
    ("[{ change_header = [] }]", "[0].change_header: expected [name, value] or [name, n, value], got a list of 0"),
    ("[{ delete_header = '' }]", "[0].delete_header: expected the name of a field, of printable ASCII without colon and space, got ''"),
    ("[{ delete_header = 5 }]", "[0].delete_header: expected the name of a field or [name, n], got 5"),
    ("[{ add_header = ['Received', 'y'] }]", "[0].add_header[0]: expected a field that is no trace: rules leave Received and Return-Path as they are, got Received"),
    ("[{ insert_header = [0, 'RECEIVED', 'y'] }]", "[0].insert_header[1]: expected a field that is no trace: rules leave Received and Return-Path as they are, got RECEIVED"),
    ("[{ change_header = ['received', 2, 'y'] }]", "[0].change_header[0]: expected a field that is no trace: rules leave Received and Return-Path as they are, got received"),
    ("[{ delete_header = 'Return-Path' }]", "[0].delete_header: expected a field that is no trace: rules leave Received and Return-Path as they are, got Return-Path"),
    ("[{ delete_header = ['Received', 1] }]", "[0].delete_header[0]: expected a field that is no trace: rules leave Received and Return-Path as they are, got Received"),
    ("[{ rewrite_header_addresses = { fields = ['To', 'return-path'], to = 'a@b.test' } }]", "[0].rewrite_header_addresses.fields[1]: expected a field that is no trace: rules leave Received and Return-Path as they are, got return-path"),
    ("[{ replace_body = 5 }]", "[0].replace_body: expected a text, got 5"),
    ("[{ strip_attachment = ['a'] }]", "[0].strip_attachment: expected a pattern of a file name, got a list"),
    ("[{ reject = false }]", "[0].reject: expected true, a text or a reply of 5yz such as 550 5.7.1 Refused, got false"),
    ("[{ reject = '452 No' }]", "[0].reject: expected true, a text or a reply of 5yz such as 550 5.7.1 Refused, got the code 452"),
    ("[{ reject = '550 4.7.1 No' }]", "[0].reject: expected an enhanced code such as 5.7.1 behind 550, got 4.7.1"),
    ("[{ reject = '550 5.7.1234 No' }]", "[0].reject: expected an enhanced code such as 5.7.1 behind 550, got 5.7.1234"),
    ("[{ reject = 'Grüße' }]", "[0].reject: expected one line of printable ASCII, got 'ü' at character 3"),
    (r'[{ reject = "no\r\n250 yes" }]', "[0].reject: expected one line of printable ASCII, got '\\r' at character 3"),
    ("[{ reject = '550 5.7.1 No {x}' }]", "[0].reject: unknown placeholder {x} at character 14; known are "),
    ("[{ tempfail = '550 No' }]", "[0].tempfail: expected true, a text or a reply of 4yz such as 451 4.7.1 Try again later, got the code 550"),
    ("[{ reply = true }]", "[0].reply: expected a reply of 4yz or 5yz such as 452 4.2.2 Mailbox full, got true"),
    ("[{ reply = 'No' }]", "[0].reply: expected a reply of 4yz or 5yz such as 452 4.2.2 Mailbox full, got 'No'"),
    ("[{ reply = '250 OK' }]", "[0].reply: expected a reply of 4yz or 5yz such as 452 4.2.2 Mailbox full, got the code 250"),
    ("[{ reply = '599 No' }]", "[0].reply: expected a reply of 4yz or 5yz such as 452 4.2.2 Mailbox full, got the code 599"),
    ("[{ discard = false }]", "[0].discard: expected true, got false"),
    ("[{ hold = true }]", "[0].hold: expected a reason, got true"),
    ("[{ route = 'a b' }]", "[0].route: expected a name of at most 64 letters, digits, dots, hyphens and underscores, got 'a b'"),
    ("[{ tag = '{x}' }]", "[0].tag: unknown placeholder {x} at character 1; known are "),
    ("[{ delay = 2 }]", "[0].delay: expected a duration such as 500ms, 2s or 1m, got 2"),
    ("[{ delay = '2' }]", "[0].delay: expected a duration such as 500ms, 2s or 1m, got '2'"),
    ("[{ throttle = '10KiB' }]", "[0].throttle: expected octets a second, such as 10KiB/s, got '10KiB'"),
    ("[{ throttle = '0B/s' }]", "[0].throttle: expected octets a second, such as 10KiB/s, got '0B/s'"),
    ("[{ disconnect = 'rest' }]", "[0].disconnect: expected before-reply, after-reply or reset, got 'rest'; the nearest known is reset"),
    ("[{ disconnect = true }]", "[0].disconnect: expected before-reply, after-reply or reset, got true"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "said"), ERRORS)
def test_what_is_wrong_is_told_with_what_was_expected(value: str, said: str) -> None:
    (wrong,) = told(value)
    assert wrong.startswith(said)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.floats(), st.text(max_size=5),
    st.sampled_from(["{recipient}", "a@b.test", "550 No", "X", "452 4.2.2 Full", "2s", "1B/s", "reset", "{", "*@x"]),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["in", "fields", "except", "to", "x"]), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.slow
@given(
    value=st.lists(
        st.dictionaries(st.one_of(st.sampled_from(sorted(ACTIONS)), st.text(max_size=3)), values, max_size=1),
        max_size=3,
    )
)
def test_whatever_stands_there_is_read_or_told(value: list[object]) -> None:
    one = raw(value, LISTS, GROUPS)
    acts = then(one)
    assert len(acts) == len(value) or one.source.complaints
    for act in acts:
        assert isinstance(act.reads | act.writes, frozenset)
