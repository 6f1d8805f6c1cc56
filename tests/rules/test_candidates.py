"""That rules are found by what they look at (DESIGN §10: a thousand of them), and that this changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_pieces import CONTENT, Address, NoDraws, Text, addresses, mail, rule_set

from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.rules import actions
from relayproxy.rules import conditions as of
from relayproxy.rules.conditions import All, AnyOf, Exists, Matches, Not, Part
from relayproxy.rules.facts import Draws, Facts, Recipient, Stage
from relayproxy.rules.pattern_list import AddressList, PatternList
from relayproxy.rules.rule import Action, Condition, Key, Rule, Subject
from relayproxy.rules.rule import header as header_of


class Keyless(msgspec.Struct, frozen=True):
    """As the condition, but that nothing is known of it."""

    condition: Condition
    keys: None = None

    @property
    def reads(self) -> frozenset[Subject]:
        return self.condition.reads

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        return self.condition.holds(facts, recipient, draws, groups)


def sender(*patterns: str) -> Matches:
    return Matches("sender", of.sender, AddressList([AddressPattern.parse(one) for one in patterns]))


def recipient(*patterns: str) -> Matches:
    return Matches("recipient", of.one_recipient, AddressList([AddressPattern.parse(one) for one in patterns]))


def field(name: str, *patterns: str) -> Matches:
    return Matches(header_of(name), of.fields(name), PatternList([Pattern.parse(one) for one in patterns]))


def body(*patterns: str) -> Matches:
    return Matches("body", of.body, PatternList([Pattern.parse(one) for one in patterns]))


ADDRESSES = [
    "",
    "root",
    "a@b.test",
    "A@B.test.",
    '"a"@sub.b.test',
    "x+a@c.test",
    "k@\u017fub.test",
    "a@münchen.test",
    '"a@b.test"@c.test',
]
PATTERNS = [
    "",
    "root",
    "a@b.test",
    "*@b.test",
    "*@*.b.test",
    "*@*.test",
    "a@*",
    "*a*",
    "/a/",
    "/^a@/",
    "/^(a|x)/",
    "?@b.test",
    "*",
    "*@münchen.test",
    "*@*",
]
WORDS = ["", "hi", "Hi there", "the\u212aelvin", "straße", "hi|ho", "I\u0307"]
GLOBS = [
    "",
    "hi",
    "*hi*",
    "h*e",
    "*kelvin*",
    "/hi?/",
    "/th(?P<found>e)/",
    "/hi|the/",
    "/x+/",
    "*",
    "?i",
    "*straße*",
    "*i*",
]

parts = st.recursive(
    st.one_of(
        st.builds(lambda some: sender(*some), st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3)),
        st.builds(lambda some: recipient(*some), st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3)),
        st.builds(lambda some: field("Subject", *some), st.lists(st.sampled_from(GLOBS), min_size=1, max_size=3)),
        st.builds(lambda some: field("X-Kind", *some), st.lists(st.sampled_from(GLOBS), min_size=1, max_size=2)),
        st.builds(lambda some: body(*some), st.lists(st.sampled_from(GLOBS), min_size=1, max_size=2)),
        st.just(Exists(header_of("X-Kind"), of.fields("X-Kind"))),
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda some: All(tuple(some)), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda some: AnyOf(tuple(some)), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)

ACTIONS: list[Action] = [
    actions.Tag(Text("{sender}")),
    actions.ChangeSender(Address("a@b.test")),
    actions.RewriteRecipient(addresses("a@b.test", "x+a@c.test")),
    actions.AddRecipient(addresses("a@sub.b.test")),
    actions.ReplaceBody(Text("hi there")),
]


@pytest.mark.slow
@given(
    st.lists(st.tuples(parts, st.sampled_from(ACTIONS)), max_size=6),
    st.lists(st.sampled_from(ADDRESSES), max_size=3),
    st.sampled_from(ADDRESSES),
    st.lists(st.sampled_from(WORDS), max_size=2),
    st.sampled_from(WORDS),
)
def test_rules_that_are_looked_up_decide_as_if_each_was_tried(
    written: list[tuple[Part, Action]], to: list[str], from_: str, kinds: list[str], text: str
) -> None:
    # all at one stage, so that those before change what those behind are found by
    rules = [Rule(str(number), when, (action,), Stage.EOM) for number, (when, action) in enumerate(written)]
    keyless = [msgspec.structs.replace(one, when=Keyless(one.when)) for one in rules]
    header = "".join([f"X-Kind: {kind}\r\n" for kind in kinds]) + f"subject: {text}\r\n"
    facts = mail(*to, sender=from_, header=header, content=CONTENT._replace(text=text * 300))
    found = rule_set(*rules).evaluate(Stage.EOM, facts, NoDraws())
    tried = rule_set(*keyless).evaluate(Stage.EOM, facts, NoDraws())
    assert found == tried


@pytest.mark.parametrize(
    ("change", "then"),
    [
        (actions.ChangeSender(Address("new@b.test")), sender("new@*")),
        (actions.AddRecipient(addresses("new@b.test")), recipient("new@b.test")),
        (actions.ChangeHeader("Subject", 1, Text("new")), field("Subject", "new")),
        (actions.ReplaceBody(Text("new")), body("*new*")),
    ],
    ids=lambda one: one.name if isinstance(one, actions.Act) else "",
)
def test_a_rule_is_found_by_what_one_before_it_made(change: Action, then: Part) -> None:
    tag = (actions.Tag(Text("t")),)
    rules = rule_set(Rule("1", All(()), (change,), Stage.EOM), Rule("2", then, tag, Stage.EOM))
    assert rules.evaluate(Stage.EOM, mail("a@b.test"), NoDraws()).facts.tags == ("t",)
    assert rule_set(Rule("2", then, tag, Stage.EOM)).evaluate(Stage.EOM, mail("a@b.test"), NoDraws()).facts.tags == ()


class Counting(msgspec.Struct, frozen=True):
    """Counts how often it is asked."""

    keys: frozenset[Key]
    reads: frozenset[Subject]
    asked: list[int]

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        self.asked.append(1)
        return False


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        (sender("*@b.test"), 1),
        (sender("*@*.test"), 1),
        (sender("x@b.test", "*@x.test"), 0),
        (recipient("a@b.test"), 2),  # once for each recipient
        (recipient("*@x.test"), 0),
        (recipient("*nobody*"), 0),
        (field("Subject", "*HELLO*"), 1),
        (field("Subject", "*invoice*", "/^order [0-9]/"), 0),
        (field("X-None", "*"), 0),
        (body("*hello*"), 1),
        (body("*password*", "/order [0-9]/"), 0),
        (All((sender("*@x.test"), field("Subject", "*"))), 0),
        (AnyOf((sender("*@x.test"), recipient("*@x.test"))), 0),
        (AnyOf((sender("*@x.test"), recipient("*@b.test"))), 2),
    ],
)
def test_a_rule_that_cannot_apply_is_not_asked(condition: Part, asked: int) -> None:
    assert condition.keys is not None
    counting = Counting(condition.keys, condition.reads, [])
    facts = mail(
        "a@b.test",
        "c@d.test",
        sender="me@b.test",
        header="Subject: Hello\r\n",
        content=CONTENT._replace(text="Hello\n" * 200),
    )
    rule_set(Rule("", counting, (actions.Tag(Text("t")),), Stage.EOM)).evaluate(Stage.EOM, facts, NoDraws())
    assert len(counting.asked) == asked


@pytest.mark.parametrize("condition", [Not(sender("*@b.test")), AnyOf((sender("a@b.test"), Not(sender("*"))))])
def test_what_is_said_by_not_has_no_keys(condition: Part) -> None:
    assert condition.keys is None
