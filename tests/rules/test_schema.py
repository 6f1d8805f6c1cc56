"""The JSON Schema of rule files takes what the reader takes, and refuses what any editor could tell."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from test_actions import READ, REPLIES
from test_cases import PLAYED
from test_conditions import HOLDS

from relayproxy.rules.schema import schema

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = jsonschema.Draft202012Validator(schema())

RULES = [
    *[f"[[rule]]\nthen = [{{ tag = 'x' }}]\n[rule.when]\n{written}\n" for written, _ in HOLDS],
    *[f"[[rule]]\nthen = [{{ {one[0]} }}]\n" for one in READ],
    *[f"[[rule]]\nthen = [{{ {one[0]} }}]\n" for one in REPLIES],
    *[f"{rules}\n[[test]]\n[test.given]\n{given}\n[test.expect]\n{expect}\n" for rules, given, expect in PLAYED],
    *[path.read_text() for path in sorted((ROOT / "rules").glob("*.toml"))],
    "",
]


def test_it_is_a_schema_and_says_of_each_key_what_it_is() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for name in ("when", "action", "given", "expect"):
        properties: dict[str, Any] = schema()["$defs"][name]["properties"]
        assert [key for key, one in properties.items() if not one.get("description")] == []


def test_it_takes_all_that_is_read() -> None:
    assert [text for text in RULES if not VALIDATOR.is_valid(tomllib.loads(text))] == []


WRONG = [
    "rules = []",
    "[[rule]]",
    "[[rule]]\nthen = []",
    "[[rule]]\nthen = [{ reject = true, accept = true }]",
    "[[rule]]\nthen = [{ rejct = true }]",
    "[[rule]]\nthen = [{ accept = false }]",
    "[[rule]]\nthen = [{ add_header = ['a b', 'c'] }]",
    "[[rule]]\nthen = [{ add_header = ['a'] }]",
    "[[rule]]\nthen = [{ delete_header = 'RECEIVED' }]",
    "[[rule]]\nthen = [{ change_header = ['Return-Path', 'x'] }]",
    "[[rule]]\nthen = [{ accept = true }]\nwhen = {}",
    "[[rule]]\nthen = [{ accept = true }]\nwhen = { sendr = 'x' }",
    "[[rule]]\nthen = [{ accept = true }]\nwhen = { not = { tls = 'TLSv9' } }",
    "[[rule]]\nthen = [{ accept = true }]\nwhen = { any = [] }",
    "[[rule]]\nthen = [{ accept = true }]\nwhen = { parameter.SIZ = 'x' }",
    "[[rule]]\nthen = [{ accept = true }]\nwhen = { unreadable = 1 }",
    "[[rule]]\nthen = [{ accept = true }]\nat = 'eon'",
    "[[test]]\ngiven = {}",
    "[[test]]\ngiven = {}\nexpect = {}",
    "[[test]]\ngiven = { tls = 1 }\nexpect = { rules = [] }",
]


@pytest.mark.parametrize("text", WRONG)
def test_it_refuses_what_is_no_rule_file(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))
