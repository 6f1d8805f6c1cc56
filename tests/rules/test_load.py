"""Rule files from disk: what is read, from where, and that all that is wrong is told at once with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.rules.action_syntax import ACTIONS
from relayproxy.rules.case_syntax import CASE_KEYS, EXPECT, GIVEN, cases
from relayproxy.rules.condition_syntax import CONDITIONS
from relayproxy.rules.facts import Stage
from relayproxy.rules.load import RuleError, load, shipped
from relayproxy.rules.rule_syntax import RULE_KEYS, rules
from relayproxy.rules.syntax import Lines, Source, Written

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wrong(*files: str) -> list[str]:
    with pytest.raises(RuleError) as caught:
        load(files)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return list(caught.value.lines)


def test_rules_are_read_in_order_with_names_stages_and_places() -> None:
    Path("a.toml").write_text(
        '[[rule]]\nname = "one"\nthen = [{ tag = "x" }]\n\n[[rule]]\nat = "data"\nthen = [{ tag = "y" }]\n'
    )
    Path("b.toml").write_text(
        '[[rule]]\nname = "three"\nthen = [{ accept = true }]\n[rule.when]\nheader.Subject = "x"\n'
    )
    loaded = load(["a.toml", Path("b.toml")])
    assert [(rule.name, rule.at, rule.where) for rule in loaded.rules.rules] == [
        ("one", None, "a.toml:1"),
        ("rule 2 of a.toml", Stage.DATA, "a.toml:5"),
        ("three", None, "b.toml:1"),
    ]
    assert [rule.when.reads for rule in loaded.rules.rules] == [frozenset(), frozenset(), {"header:subject"}]
    assert tuple(loaded.files) == (Path("a.toml"), Path("b.toml"))


def test_no_files_and_empty_ones_are_no_rules() -> None:
    Path("a.toml").write_text("# nothing\n")
    assert load([]).rules.rules == load(["a.toml"]).rules.rules == ()


def test_a_list_of_patterns_is_read_beside_the_file_that_names_it() -> None:
    Path("rules").mkdir()
    Path("rules/a.toml").write_text('[[rule]]\nwhen = { recipient = [{ in = "lists/x" }, "c@c.test"] }\nthen = [{ delete_recipient = { in = "lists/x" } }]\n')  # fmt: skip
    Path("rules/lists").mkdir()
    Path("rules/lists/x").write_text("# customers\r\n\r\n*@a.test\r\nb@b.test # not a comment")
    loaded = load(["rules/a.toml"])
    assert tuple(loaded.files) == (Path("rules/a.toml"), Path("rules/lists/x"))


def test_named_groups_of_conditions_are_placeholders_of_actions() -> None:
    Path("a.toml").write_text(
        "[[rule]]\nwhen = { header.Subject = '/(?P<id>[0-9]+)/' }\nthen = [{ tag = 'order {id}' }]\n"
    )
    assert load(["a.toml"]).rules.rules[0].then[0].reads == frozenset()
    Path("b.toml").write_text(
        "[[rule]]\nwhen = { not = { helo = '/(?P<id>[0-9]+)/' } }\nthen = [{ tag = 'order {id}' }]\n"
    )
    assert wrong("b.toml")[0].startswith(
        "b.toml:3: rule[0].then[0].tag: unknown placeholder {id} at character 7; known are "
    )


FILES = [
    ("[[rule]]\n\nthen = [{ tag = 'x' }\n", "a.toml: expected TOML, at its end: Unclosed array"),
    ("[[rule]]\n\nthen = x\n", "a.toml:3: expected TOML, at column 8: Invalid value"),
    ("[[rule]]\nthen = [", "a.toml: expected TOML, at its end: Invalid value"),
    ("x = " + "[" * 5000, "a.toml: expected TOML that is nested less deep"),
    ("x = " + "[" * 150 + "]" * 150, "a.toml:1: x: unknown key; known are rule, test"),
    ("rules = 1\n", "a.toml:1: rules: unknown key; the nearest known is rule"),
    ("rule = 1\n", "a.toml:1: rule: expected tables under [[rule]], got 1"),
    ("test = {}\n", "a.toml:1: test: expected tables under [[test]], got a table"),
    ("rule = [1]\n", "a.toml:1: rule[0]: expected a table, got 1"),
    ("[[rule]]\nname = 'x'\n", "a.toml:1: rule[0]: expected the key then, which is missing"),
    ("[[rule]]\nthn = []\n", "a.toml:1: rule[0]: expected the key then, which is missing"),
    ("[[rule]]\nname = ''\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].name: expected a name of 1 to 200 printable characters, got ''"),
    ("[[rule]]\nname = 5\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].name: expected a name, got 5"),
    ('[[rule]]\nname = "a\\nb"\nthen = [{ accept = true }]\n', "a.toml:2: rule[0].name: expected a name of 1 to 200 printable characters, got 'a\\nb'"),
    ("[[rule]]\nat = 'eon'\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].at: expected a stage: connect, helo, mail, rcpt, data, eoh or eom, got 'eon'; the nearest known is eom"),
    ("[[rule]]\nat = 5\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].at: expected a stage: connect, helo, mail, rcpt, data, eoh or eom, got 5"),
    ("[[rule]]\nwhen = { sendr = 'x' }\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].when.sendr: unknown key; the nearest known is sender"),
    ("[[rule]]\nthen = [\n  { tag = 'x' },\n  { tag = '{' },\n]\n", "a.toml:4: rule[0].then[1].tag: expected a placeholder such as {recipient}, or {{ for a brace, got { at character 1"),
    ("[[rule]]\nwhen = { helo = '/(?P<sender>x)/' }\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].when: expected a named group that is no placeholder of templates, got sender"),
    ("[[rule]]\nwhen = { helo = '/(?P<body>x)/' }\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].when: expected a named group that is no placeholder of templates, got body"),
    ("[[rule]]\nname = 'x'\nthen = [{ accept = true }]\n[[rule]]\nname = 'x'\nthen = [{ accept = true }]\n", "a.toml:5: rule[1].name: expected a name that no other rule has, got 'x', which is that of the rule at a.toml:1"),
    ("[[rule]]\nwhen = { sender = { in = 'gone' } }\nthen = [{ accept = true }]\n", "a.toml:2: rule[0].when.sender: gone: cannot be read: No such file or directory"),
    ('[[rule]]\nwhen = { sender = { in = "a\\u0000b" } }\nthen = [{ accept = true }]\n', "a.toml:2: rule[0].when.sender: a"),
    ("[[rule]]\nwhen = { sender = { in = 'bad' } }\nthen = [{ accept = true }]\n", "bad:3: expected a regular expression (RE2) between the slashes: missing ): (, got '/(/'"),
    ("[[test]]\ngiven = {}\n", "a.toml:1: test[0]: expected the key expect, which is missing"),
    ("[[test]]\ngiven = {}\nexpect = {}\n", "a.toml:3: test[0].expect: expected something, got an empty table"),
    ("[[test]]\ngiven = { sendr = 'x' }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.sendr: unknown key; the nearest known is sender"),
    ("[[test]]\ngiven = { sender = 'x y' }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.sender: expected an address such as user@example.com, or \"\" for the null sender, got 'x y'"),
    ("[[test]]\ngiven = { recipients = 'x' }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.recipients: expected a list of addresses such as [\"user@example.com\"], got 'x'"),
    ("[[test]]\ngiven = { recipients = [''] }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.recipients[0]: expected an address such as user@example.com, got ''"),
    ("[[test]]\ngiven = { client = 'x' }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.client: expected an IP address, or \"\" for a Unix socket, got 'x'"),
    ("[[test]]\ngiven = { tls = 'x' }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.tls: expected true, false or TLSv1.2 or TLSv1.3, got 'x'"),
    ("[[test]]\ngiven = { auth = true }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.auth: expected the name of a user, or false, got true"),
    ("[[test]]\ngiven = { message = 5 }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.message: expected a message: fields, an empty line, and a body, got 5"),
    ("[[test]]\ngiven = { parameters = { SIZ = '1' } }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.parameters.SIZ: unknown parameter; the nearest known is SIZE"),
    ("[[test]]\ngiven = { parameters = { SIZE = 1 } }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.parameters.SIZE: expected a text, or true where it has no value, got 1"),
    ("[[test]]\ngiven = { drawn = 1 }\nexpect = { rules = [] }\n", "a.toml:2: test[0].given.drawn: expected true or false, got 1"),
    ("[[test]]\ngiven = {}\nexpect = { outcome = 'acceptd' }\n", "a.toml:3: test[0].expect.outcome: expected accepted, rejected, tempfailed, discarded, held or aborted, got 'acceptd'; the nearest known is accepted"),
    ("[[test]]\ngiven = {}\nexpect = { header = 'x' }\n", "a.toml:3: test[0].expect.header: expected a table, or header.NAME, got 'x'"),
    ("[[test]]\ngiven = {}\nexpect = { header.'a b' = 'x' }\n", "a.toml:3: test[0].expect.header.a b: expected the name of a field, of printable ASCII without colon and space, got 'a b'"),
    ("[[test]]\ngiven = {}\nexpect = { held = 1 }\n", "a.toml:3: test[0].expect.held: expected a pattern, true or false, got 1"),
    ("[[test]]\ngiven = {}\nexpect = { tags = 'x' }\n", "a.toml:3: test[0].expect.tags: expected a list of texts, got 'x'"),
    ("[[test]]\ngiven = 1\nexpect = 2\n", "a.toml:2: test[0].given: expected a table of what comes, got 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FILES)
def test_what_is_wrong_is_told_with_file_line_and_key(text: str, said: str) -> None:
    Path("bad").write_text("# x\na@a.test\n/(/\n")
    Path("a.toml").write_text(text)
    assert wrong("a.toml")[0].startswith(said)


def test_all_that_is_wrong_in_all_files_is_told_at_once() -> None:
    Path("a.toml").write_text(
        "[[rule]]\nwhen = { sendr = 'x', helo = 1 }\nthen = [{ rejct = true }, { tag = '{x}' }]\nat = 'x'\n[[test]]\n"
    )
    Path("b.toml").write_text("[[rule]\n")
    Path("c.toml").write_bytes(b"# ok\n\xff")
    Path("d").mkdir()
    told = wrong("a.toml", "b.toml", "c.toml", "d", "gone.toml")
    assert [line.split(" expected")[0].split(" unknown")[0] for line in told] == [
        "a.toml:2: rule[0].when.sendr:",
        "a.toml:2: rule[0].when.helo:",
        "a.toml:3: rule[0].then[0].rejct:",
        "a.toml:3: rule[0].then[1].tag:",
        "a.toml:4: rule[0].at:",
        "a.toml:5: test[0]:",
        "a.toml:5: test[0]:",
        "b.toml:1:",
        "c.toml:",
        "d: cannot be read: Is a directory",
        "gone.toml: cannot be read: No such file or directory",
    ]
    assert told[8] == "c.toml: expected UTF-8, found the byte 0xff in line 2"


def test_two_files_may_not_name_two_rules_alike() -> None:
    for name in ("a.toml", "b.toml"):
        Path(name).write_text("[[rule]]\nname = 'x'\nthen = [{ accept = true }]\n")
    assert wrong("a.toml", "b.toml") == [
        "b.toml:2: rule[0].name: expected a name that no other rule has, got 'x', which is that of the rule at a.toml:1"
    ]


def test_shipped_files_are_found_by_name() -> None:
    assert shipped() == ROOT / "rules"
    loaded = load(["relayproxy:staging-redirect"])
    assert tuple(loaded.files) == (ROOT / "rules" / "staging-redirect.toml",)
    assert loaded.rules.rules[0].where.startswith("relayproxy:staging-redirect:")
    assert wrong("relayproxy:staging-redirct") == [
        "relayproxy:staging-redirct: expected the name of a rule file that is shipped; the nearest known is staging-redirect"
    ]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["a@b.test", "eom", "held"]),
)
words = [*RULE_KEYS, *CASE_KEYS, *GIVEN, *EXPECT, *CONDITIONS, *ACTIONS]
values = st.recursive(leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(words), inner, max_size=4)), max_leaves=12)  # fmt: skip
one_table = st.one_of(values, st.fixed_dictionaries({}, optional=dict.fromkeys((*RULE_KEYS, *CASE_KEYS), values)))


@pytest.mark.slow
@given(content=st.dictionaries(st.sampled_from(["rule", "test"]), st.one_of(values, st.lists(one_table, max_size=3))))
def test_whatever_stands_in_a_file_is_read_or_told(content: dict[str, Any]) -> None:
    def nothing(name: str) -> Lines:
        raise ValueError(f"{name}: cannot be read")

    written = Written(content, (), Source("a.toml", "", nothing))
    read = [*rules(written, {}), *cases(written)]
    there = [one for tables in content.values() for one in (tables if isinstance(tables, list) else [tables])]
    assert len(read) == len(there) or written.source.complaints
