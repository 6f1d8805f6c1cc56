"""rules/README.md is the language's reference: its tables name all there is and nothing else, what they say of gates is what is computed, and its examples hold."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from relayproxy.cli.check_rules import of_rules
from relayproxy.cli.config import load as load_config
from relayproxy.cli.config_rules import read
from relayproxy.rules.action_syntax import ACTIONS
from relayproxy.rules.case_syntax import EXPECT, GIVEN, Given, Outcome
from relayproxy.rules.cases import differences
from relayproxy.rules.condition_syntax import CONDITIONS
from relayproxy.rules.conditions import KEYS
from relayproxy.rules.facts import Stage
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.rules.load import load
from relayproxy.rules.rule import HEADER, KNOWN_AT
from relayproxy.rules.schema import schema
from relayproxy.rules.template import placeholder_names

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "rules/README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(title: str, number: int = 0) -> dict[str, list[str]]:
    """The cells of a section's table by what stands in the first, without backquotes."""
    tables = re.findall(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", section(title), re.MULTILINE)
    rows = [[cell.strip() for cell in row.strip("|").split(" |")] for row in tables[number].splitlines()]
    found = {cells[0].lstrip("| ").strip("`"): cells[1:] for cells in rows}
    assert len(found) == len(rows)
    return found


def test_each_condition_is_there_and_no_other() -> None:
    assert [name.removesuffix(".NAME") for name in table("Conditions")] == list(CONDITIONS)
    named = re.search(r"`first` may count by (.*?);", section("Conditions").replace("\n", " "))
    assert named
    assert re.findall(r"`(\w+)`", named[1]) == list(KEYS)


def test_each_action_is_there_and_no_other() -> None:
    assert list(table("Actions")) == list(ACTIONS)


def test_each_placeholder_is_there_and_no_other() -> None:
    assert sorted(name.strip("{}") for name in table("Templates")) == sorted(placeholder_names())


def test_each_stage_is_there_with_what_is_known_from_there_on() -> None:
    stages = table("When a rule runs")
    assert list(stages) == [stage.name.lower() for stage in Stage]
    told = {subject: name for name, (text,) in stages.items() for subject in re.findall(r"`(\w+)`", text)}
    told["parameters"] = next(name for name, (text,) in stages.items() if "MAIL's parameters" in text)
    known = {subject: stage.name.lower() for subject, stage in KNOWN_AT.items()}
    assert told == known | {HEADER.rstrip(":"): "eoh"}


def test_each_key_of_tests_is_there_and_no_other() -> None:
    given, expect = table("Tests"), table("Tests", 1)
    assert list(given) == list(GIVEN)
    assert [name.removesuffix(".NAME") for name in expect] == list(EXPECT)
    assert re.findall(r"`(\w+)`", expect["outcome"][0]) == list(Outcome.__args__)  # type: ignore[attr-defined]
    usual = Given()
    shown = {name: cells[-1].strip("`") for name, cells in given.items()}
    for name in ("sender", "client", "helo", "listener"):
        assert shown[name] == getattr(usual, name)
    assert shown["recipients"] == '["recipient@example.com"]'
    assert usual.recipients == ("recipient@example.com",)


ENVELOPE = {
    EnvelopeGate.LIVE: "as they come",
    EnvelopeGate.RCPT: "with the first RCPT",
    EnvelopeGate.DATA: "at DATA",
    EnvelopeGate.EOH: "at the end of the header section",
    EnvelopeGate.EOM: "at the end of the message",
}
DATA = {
    DataGate.LIVE: "as it comes",
    DataGate.HEADER: "as it comes; the header section when it is edited",
    DataGate.EOH: "at the end of the header section",
    DataGate.EOM: "at the end of the message",
}
BY_RECIPIENT, BY_HEADER, BY_BODY = 'recipient = "a@*"', 'header.X = "y"', 'body = "*y*"'
ANSWERS = ["reject = true", "tempfail = true", "reply = '452 full'"]
STOPS = ["discard = true", "hold = 'why'"]
ENVELOPES = ["change_sender = 'a@b.test'", "rewrite_recipient = 'a@b.test'", "delete_recipient = 'a@*'"]
FIELDS = [
    "add_header = ['X', 'y']", "insert_header = [0, 'X', 'y']", "change_header = ['X', 'y']", "delete_header = 'X'",
    "rewrite_header_addresses = { fields = ['To'], to = 'a@b.test' }",
]  # fmt: skip
#: What rows of the table on gates are about: conditions, and actions each of which by itself asks for that.
ROWS = {
    "reads and answers up to `rcpt`; adds or rewrites recipients there": ([BY_RECIPIENT, 'sender = "*"'], [*ANSWERS, "add_recipient = 'a@b.test'", "tag = 'x'", "accept = true"]),
    "changes the sender from a recipient, or recipients from their count": ([BY_RECIPIENT], ["change_sender = 'a@b.test'"]),
    "discards or holds from a recipient": ([BY_RECIPIENT], STOPS),
    "routes from a recipient": ([BY_RECIPIENT], ["route = 'x'"]),
    "edits fields": ([BY_RECIPIENT, BY_HEADER], FIELDS),
    "answers, discards, holds or adds a recipient from the header section": ([BY_HEADER], [*ANSWERS, *STOPS, "add_recipient = 'a@b.test'"]),
    "changes sender or recipients, or routes, from the header section": ([BY_HEADER], [*ENVELOPES, "route = 'x'"]),
    "answers from the whole message": ([BY_BODY], ANSWERS),
    "edits fields from the whole message": ([BY_BODY], FIELDS),
    "edits envelope or body, discards or holds from the whole message": ([BY_BODY], [*ENVELOPES, *STOPS, "add_recipient = 'a@b.test'", "replace_body = 'x'", "strip_attachment = '*'"]),
}  # fmt: skip


def test_what_waits_is_told_of_all_that_rules_can_ask_for() -> None:
    assert list(table("What waits for rules")) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_what_waits_is_what_is_computed(row: str, tmp_path: Path) -> None:
    envelope, data = table("What waits for rules")[row]
    for condition in ROWS[row][0]:
        for action in ROWS[row][1]:
            path = tmp_path / "a.toml"
            path.write_text(f"[[rule]]\nthen = [{{ {action} }}]\n[rule.when]\n{condition}\n")
            gates = load([path]).rules.gates
            dot = "; the final dot waits" if gates.dot and gates.data is DataGate.LIVE else ""
            assert (ENVELOPE[gates.envelope], DATA[gates.data] + dot) == (envelope, data), action


@pytest.mark.parametrize("text", BLOCKS)
def test_its_examples_are_right_and_their_tests_hold(text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text(text, encoding="utf-8")
    if "rule" not in tomllib.loads(text):
        assert read(load_config(path, environ={})).rules.rules
        return
    loaded = load([path])
    assert loaded.cases
    assert [differences(case, loaded.rules) for case in loaded.cases] == [()] * len(loaded.cases)
    assert of_rules(loaded.rules, [path]).doubtful == []
    jsonschema.Draft202012Validator(schema()).validate(tomllib.loads(text))


def test_a_copy_with_another_domain_is_right_too(tmp_path: Path) -> None:
    """As the README has it done."""
    (script,) = re.findall(r"sed -i '(.*)' staging\.toml", README)
    substitutions = [re.fullmatch(r"s/(.*?)(?<!\\)/(.*)/g", one) for one in script.split("; ")]
    assert len(substitutions) == 2
    for name in [name for name, cells in table("Shipped rules").items() if cells[1] == "copy"]:
        text = (ROOT / "rules" / f"{name}.toml").read_text(encoding="utf-8")
        for one in substitutions:
            assert one is not None
            text = re.sub(one[1], one[2].replace(r"\\", "\\\\"), text)
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        assert "example.test" not in text
        assert r"example\.test" not in text
        loaded = load([path])
        assert [differences(case, loaded.rules) for case in loaded.cases] == [()] * len(loaded.cases)
