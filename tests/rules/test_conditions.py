"""Conditions: what holds for what, what each reads, when something is drawn, and what is told of those that are none."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rule_texts import FACTS, JANE, Told, complaints, condition, raw

from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.rules.condition_syntax import CONDITIONS, when
from relayproxy.rules.facts import Content, Facts, Recipient
from relayproxy.rules.pattern_list import AddressList, PatternList

HOLDS = [
    # condition, whether
    ('client = "10.0.0.0/8"', True),
    ('client = "10.0.0.5"', True),
    ('client = ["192.168.0.0/16", "::/0"]', False),
    ('client = ["192.168.0.0/16", "10.0.0.4/31"]', True),
    ('listener = "sub*"', True),
    ('listener = "sub"', False),
    ('helo = "*.local"', True),
    ("helo = '/^app-[0-9]/'", True),
    ("tls = true", True),
    ("tls = false", False),
    ('tls = "TLSv1.3"', True),
    ('tls = ["TLSv1.2"]', False),
    ('tls = [false, "TLSv1.3"]', True),
    ('auth = "APP"', True),
    ("auth = true", True),
    ("auth = false", False),
    ('auth = [false, "app"]', True),
    ('sender = "*@app.test"', True),
    ('sender = ""', False),
    ('recipient = "*@CUSTOMER.example"', True),
    ('recipient = "*@*.example"', True),
    ('recipient = "*@*.customer.example"', False),
    ('recipient = ["*@x.test", "jane@*"]', True),
    ('recipient = { in = "list" }', True),
    ('recipient = ["x@x.test", { in = "list" }]', True),
    ('recipient = { in = "none" }', False),
    ('recipients = ">0"', True),
    ('recipients = "1"', True),
    ('recipients = "=1"', True),
    ('recipients = "<= 0"', False),
    ('recipients = [">50", "<2"]', True),
    ('parameter.SIZE = "3*"', True),
    ("parameter.SMTPUTF8 = true", True),
    ('parameter.SMTPUTF8 = ""', True),
    ("parameter.BODY = false", True),
    ("parameter.BODY = true", False),
    ('parameter = { SIZE = "328", NOTIFY = "never" }', True),
    ('parameter.ORCPT = "*"', False),
    ('header.Subject = "Grüße*"', True),
    ('header.SUBJECT = "GRÜßE  AND ORDER 17"', False),
    ("header.Subject = '/order [0-9]+/'", True),
    ('header.X-Env = "two"', True),  # any of them
    ('header.X-Env = "three"', False),
    ("header.X-Env = true", True),
    ("header.X-Env = false", False),
    ("header.X-None = false", True),
    ('header.X-None = [false, "x"]', True),
    ('header = { Subject = "*order*", To = "*b.test" }', True),
    ('header.Subject = "*order*"\nheader.To = "no"', False),
    ('size = ">10MiB"', True),
    ('size = "<= 11MiB"', True),
    ('size = "<11MiB"', False),
    ('body = "*invoice*"', True),
    ("body = '/^your/'", False),
    ("body = '/(?m)^your/'", True),
    ('attachment = "*.exe"', True),
    ('attachment = "*.com"', False),
    ("unreadable = false", True),
    ("unreadable = true", False),
    ("chance = 0.1", True),
    ("chance = 0", False),
    ("every = 10", True),
    ('first = { per = ["client"], within = "4h" }', True),
    ('not = { recipient = "*@example.test" }', True),
    ('not = [{ recipient = "*@example.test" }, { sender = "*@app.test" }]', False),
    ('not.sender = ["*@a.test", "*@b.test"]', True),
    ("any = [{ tls = false }, { auth = true }]", True),
    ("any = [{ tls = false }, { auth = false }]", False),
    ("all = [{ tls = true }, { auth = true, any = [{ tls = false }, { not = { tls = false } }] }]", True),
    ('tls = true\nsender = "*@x.test"', False),
]
LISTS = {"list": "# customers\n\n  jane@customer.example  \r\n*@x.test\n", "none": "# nobody\n"}


@pytest.mark.parametrize(("written", "holds"), HOLDS)
def test_a_condition_holds(written: str, holds: bool) -> None:
    part = condition(written, LISTS)
    assert part.holds(FACTS, JANE, Told(), {}) is holds
    opposite = condition(f"not = {{ {written} }}" if "\n" not in written else "[not]\n" + written, LISTS)
    assert opposite.holds(FACTS, JANE, Told(), {}) is not holds


def test_each_condition_has_an_example_above() -> None:
    assert {name for name in CONDITIONS if not any(name in written for written, _ in HOLDS)} == set()


UNKNOWN = Facts(listener="l", client="")


@pytest.mark.parametrize(
    "written",
    ['client = "0.0.0.0/0"', "tls = true", 'auth = "*"', 'recipient = "*"', 'header.To = "*"', 'body = "*"', 'attachment = "*"', "unreadable = true", 'parameter.SIZE = "*"'],
)  # fmt: skip
def test_what_is_not_there_is_like_nothing(written: str) -> None:
    assert not condition(written).holds(UNKNOWN, None, Told(), {})


def test_what_cannot_be_read_to_its_end_can_be_asked_for() -> None:
    facts = msgspec.structs.replace(FACTS, content=Content(5, complete=False))
    assert condition("unreadable = true").holds(facts, None, Told(), {})
    assert not condition("unreadable = false").holds(facts, None, Told(), {})


READS = [
    ('client = "::1"\nlistener = "l"\nhelo = "h"\ntls = true\nauth = true', {"client", "listener", "helo", "tls", "auth"}),
    ('sender = ""\nrecipient = "*"\nrecipients = "1"', {"sender", "recipient", "recipients"}),
    ("parameter.SIZE = true", {"parameters"}),
    ("parameter.NOTIFY = true", {"recipient"}),
    ("header.X-Env = false", {"header:x-env"}),
    ('size = ">1B"\nbody = "*"\nattachment = "*"', {"size", "body", "attachment"}),
    ("unreadable = false", {"attachment"}),
    ("chance = 1\nevery = 2", set()),
    ('first = { per = ["client", "sender", "recipient"], within = "1h" }', {"client", "sender", "recipient"}),
    ("not = [{ any = [{ tls = true }, { all = [{ auth = true }] }] }]", {"tls", "auth"}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "reads"), READS)
def test_a_condition_says_what_it_reads(written: str, reads: set[str]) -> None:
    assert condition(written).reads == reads


def test_it_is_drawn_only_where_all_else_holds() -> None:
    draws = Told()
    assert not condition('chance = 0.5\nfirst = { per = ["client"], within = "1s" }\ntls = false').holds(
        FACTS, JANE, draws, {}
    )
    assert not condition("any = [{ every = 2 }]\ntls = false").holds(FACTS, JANE, draws, {})
    assert condition("any = [{ every = 2 }, { tls = true }]").holds(FACTS, JANE, draws, {})
    assert draws.asked == []
    draws = Told(chance=0.5)
    assert not condition("chance = 0.5\nevery = 2\ntls = true").holds(FACTS, JANE, draws, {})
    assert draws.asked == [("R: when.chance",)]


def test_what_is_drawn_has_the_name_of_the_rule_and_its_place() -> None:
    draws = Told()
    first = '{ times = 2, per = ["client", "sender", "recipient"], within = "4h" }'
    assert condition(f"any = [{{ tls = false }}, {{ first = {first} }}]\nevery = 3").holds(FACTS, JANE, draws, {})
    assert draws.asked == [
        ("R: when.any[1].first", ("10.0.0.5", FACTS.sender, "jane@customer.example"), 2, 14400.0),
        ("R: when.every", 3),
    ]


def test_groups_are_those_of_what_made_it_hold() -> None:
    def groups(written: str) -> dict[str, str]:
        found: dict[str, str] = {}
        assert condition(written).holds(FACTS, JANE, Told(), found)
        return found

    assert groups("header.Subject = '/order (?P<number>[0-9]+)/'\nrecipient = '/^(?P<who>[^@]*)@/'") == {
        "number": "17",
        "who": "jane",
    }
    assert groups("header.Subject = ['*', '/order (?P<number>[0-9]+)/']") == {"number": "17"}
    assert groups("any = [{ helo = '/(?P<x>app)/', tls = false }, { helo = '/(?P<y>app)/' }]") == {"y": "app"}
    assert groups("not = { helo = '/(?P<x>none)/' }") == {}
    assert groups("not = { helo = '/(?P<x>app)/', tls = false }") == {}
    assert condition("any = [{ helo = '/(?P<x>a)/' }]\nnot = { helo = '/(?P<y>none)/' }").names == {"x"}


ERRORS = [
    ("", "rule[0].when: expected a condition, got an empty table"),
    ("sendr = 'x'", "rule[0].when.sendr: unknown key; the nearest known is sender"),
    ("sender = 5", "rule[0].when.sender: expected a pattern of an address, got 5"),
    ("sender = true", "rule[0].when.sender: expected a pattern of an address, got true"),
    ("sender = []", "rule[0].when.sender: expected a pattern of an address, got an empty list"),
    ("sender = ['a', 1]", "rule[0].when.sender[1]: expected a pattern of an address, got 1"),
    ("helo = '/(/'", "rule[0].when.helo: expected a regular expression (RE2) between the slashes: missing ): ("),
    ("helo = 1979-05-27", "rule[0].when.helo: expected a pattern, got a date or time"),
    ("recipient = { in = 'gone' }", "rule[0].when.recipient: gone: cannot be read: No such file or directory"),
    ("recipient = { in = 'bad' }", "expected a regular expression (RE2) between the slashes: missing ): (, got '/(/'"),
    ("recipient = { in = 5 }", "rule[0].when.recipient.in: expected the name of a file, got 5"),
    ("recipient = { in = 'list', of = 5 }", "rule[0].when.recipient.of: unknown key; known are in"),
    ("client = '10.0.0.1/8'", "rule[0].when.client: expected a network whose last bits are 0, got '10.0.0.1/8'"),
    ("client = 'x'", "rule[0].when.client: expected a network such as 10.0.0.0/8, or an IP address, got 'x'"),
    ("tls = 'TLSv9'", "rule[0].when.tls: expected true, false or TLSv1.2 or TLSv1.3, got 'TLSv9'"),
    ("recipients = 5", "rule[0].when.recipients: expected a count such as >50, <=2 or 3, as a string, got 5"),
    ("recipients = '>x'", "rule[0].when.recipients: expected a count such as >50, <=2 or 3, as a string, got '>x'"),
    ("size = '>10'", "rule[0].when.size: expected a size such as >10MiB or <=4KiB, got '>10'"),
    ("parameter = 'SIZE'", "rule[0].when.parameter: expected a table, or parameter.NAME, got 'SIZE'"),
    ("parameter.SIZ = true", "rule[0].when.parameter.SIZ: unknown parameter; the nearest known is SIZE"),
    ("parameter.smtputf8 = true", "rule[0].when.parameter.smtputf8: unknown parameter; the nearest known is SMTPUTF8"),
    ("header = {}", "rule[0].when.header: expected a table, or header.NAME, got a table"),
    ("header.'a b' = true", "rule[0].when.header.a b: expected the name of a field, of printable ASCII without colon and space, got 'a b'"),
    ("header.X.Y = 'a'", "rule[0].when.header.X: expected a pattern, true or false, got a table"),
    ("header.Subject = 'a'\nheader.subject = 'b'", "rule[0].when.header.subject: expected each name once, in any case of letters, got Subject and subject"),
    ("unreadable = 'yes'", "rule[0].when.unreadable: expected true or false, got 'yes'"),
    ("chance = 2", "rule[0].when.chance: expected a number from 0 to 1, got 2"),
    ("chance = nan", "rule[0].when.chance: expected a number from 0 to 1, got nan"),
    ("chance = true", "rule[0].when.chance: expected a number from 0 to 1, got true"),
    ("every = 0", "rule[0].when.every: expected an integer of at least 1, got 0"),
    ("every = true", "rule[0].when.every: expected an integer of at least 1, got true"),
    ("first = 1", "rule[0].when.first: expected a table of times, per and within, got 1"),
    ("first = { within = '1h' }", "rule[0].when.first: expected the key per, which is missing"),
    ("first = { per = ['client'], within = 'x' }", "rule[0].when.first.within: expected a duration such as 30s, 5m or 4h, got 'x'"),
    ("first = { per = ['clent'], within = '1h' }", "rule[0].when.first.per[0]: expected client, listener, helo, auth, sender, recipient or session, got 'clent'; the nearest known is client"),
    ("first = { per = 'client', within = '1h' }", "rule[0].when.first.per: expected a list of some of client, listener, helo, auth, sender, recipient, session, got 'client'"),
    ("any = { tls = true }", "rule[0].when.any: expected a list of tables of conditions, got a table"),
    ("any = []", "rule[0].when.any: expected a table of conditions, got an empty list"),
    ("not = true", "rule[0].when.not: expected a table of conditions, got true"),
    ("all = [{ any = [{ x = 1 }] }]", "rule[0].when.all[0].any[0].x: unknown key; known are "),
]  # fmt: skip


@pytest.mark.parametrize(("written", "said"), ERRORS)
def test_what_is_wrong_is_told_with_what_was_expected(written: str, said: str) -> None:
    told = complaints(written, LISTS | {"bad": "a@x.test\n/(/\n"})
    assert len(told) == 1
    assert told[0].startswith(said)


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert len(complaints("sendr = 'x'\nhelo = 5\nnot = { tls = 1, chance = 2 }")) == 4


def test_conditions_are_nested_only_so_deep() -> None:
    nested: object = {"tls": True}
    for _ in range(100):
        nested = {"not": nested}
    one = raw(nested)
    assert when(one) is None
    assert [complaint.text.rpartition(": ")[2] for complaint in one.source.complaints] == [
        "expected conditions that are nested less deep"
    ]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([">1", "1h", "client", "/(/", "TLSv1.2"]),
)
keys = st.one_of(st.sampled_from([*CONDITIONS, "in", "per", "within", "times", "SIZE", "Subject"]), st.text(max_size=3))
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)), max_leaves=8
)


@pytest.mark.slow
@given(value=values)
def test_whatever_stands_there_is_read_or_told(value: object) -> None:
    one = raw(value, LISTS)
    part = when(one)
    assert part is not None or one.source.complaints
    if part is not None:
        assert part.holds(FACTS, JANE, Told(), {}) in (True, False)


addresses = st.sampled_from(
    [
        "jane@x.test", "JANE@X.test", "*@x.test", "*@*.test", "*@*.x.test", "*", "?@x.test", "", "postmaster", "/^j/", "*@ü.test",
        "a@sub.x.test", '"a@x.test"', '"a@x.test"@b.test', "\u212a@x.test", "k@x.test", "\u017f@x.test", "s@x.test", "*@\u212a.test", "k@k.test",
        "a@.test", "a@b@x.test", "ü@xn--tda.test", "*@xn--tda.test", "*@x.test.", "İ@x.test", "i̇@x.test",
    ]
)  # fmt: skip


@pytest.mark.slow
@given(patterns=st.lists(addresses, max_size=6), value=st.one_of(addresses, st.text(max_size=10)))
@example(["*@*.test"], "a@.test")
@example(["*@b@x.test"], "a@b@x.test")
@example(["s@x.test"], "\u017f@x.test")
@example(["*@k.test"], "a@\u212a.test")
def test_a_list_matches_what_one_of_its_patterns_matches(patterns: list[str], value: str) -> None:
    of_addresses = [AddressPattern.parse(pattern) for pattern in patterns]
    assert (AddressList(of_addresses).groups(value) is not None) == any(one.matches(value) for one in of_addresses)
    of_texts = [Pattern.parse(pattern) for pattern in patterns]
    assert (PatternList(of_texts).groups(value) is not None) == any(one.matches(value) for one in of_texts)


def test_a_long_list_is_quick() -> None:
    long = "\n".join(f"user{n}@customer{n}.example\n*@domain{n}.test\n*@*.parent{n}.test" for n in range(500))
    part = condition("recipient = { in = 'long' }", {"long": long})
    begun = time.process_time()
    for n in range(500):
        assert part.holds(FACTS, Recipient(f"x@a.b.parent{n}.test"), Told(), {})
        assert not part.holds(FACTS, Recipient(f"x{n}@customer{n}.example"), Told(), {})
    assert time.process_time() - begun < 0.5


def test_an_expression_takes_linear_time_and_sees_a_mebibyte() -> None:
    facts = msgspec.structs.replace(FACTS, content=Content(0, "a" * (1 << 20) + "b"))
    begun = time.process_time()
    assert not condition("body = '/^(a+)+$/'\nnot = { body = '/a$/' }").holds(facts, JANE, Told(), {})
    assert not condition("body = '/b/'").holds(facts, JANE, Told(), {})
    assert time.process_time() - begun < 1
