"""The JSON Schema of rule files, for editors: made of the very tables that read them.

What each key may hold stands there (condition_syntax.py, action_syntax.py, case_syntax.py); no schema knows templates, patterns and expressions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from relayproxy.rules.action_syntax import ACTIONS
from relayproxy.rules.case_syntax import CASE_KEYS, EXPECT, GIVEN
from relayproxy.rules.condition_syntax import CONDITIONS
from relayproxy.rules.rule_syntax import MAX_NAME, RULE_KEYS, STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relayproxy.rules.syntax import Entry, JsonSchema

RULES_ID: Final = "urn:relayproxy:schema:rules:1"

_NAME: Final[JsonSchema] = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
_RULE: Final[Mapping[str, JsonSchema]] = {
    "name": {**_NAME, "description": "what records call it; no two rules have the same"},
    "when": {
        "anyOf": [{"$ref": "#/$defs/when"}, {"type": "array", "items": {"$ref": "#/$defs/when"}, "minItems": 1}],
        "description": "when it applies: all of these hold; of a list, one; always where it is left out",
    },
    "then": {
        "type": "array",
        "items": {"$ref": "#/$defs/action"},
        "minItems": 1,
        "description": "what it does, in order",
    },
    "at": {"enum": list(STAGES), "description": "not before this stage"},
}
_CASE: Final[Mapping[str, JsonSchema]] = {
    "name": {**_NAME, "description": "what it is called where it fails"},
    "given": {"$ref": "#/$defs/given"},
    "expect": {"$ref": "#/$defs/expect"},
}


def schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": RULES_ID,
        "title": "A rule file of relayproxy",
        **_table(
            {
                "rule": {"type": "array", "items": {"$ref": "#/$defs/rule"}, "description": "rules, in order"},
                "test": {"type": "array", "items": {"$ref": "#/$defs/test"}, "description": "what the rules are to do"},
            }
        ),
        "$defs": {
            "rule": _table({key: _RULE[key] for key in RULE_KEYS}, needed=("then",)),
            "when": _table(_described(CONDITIONS), least=1),
            "action": _table(_described(ACTIONS), least=1, most=1),
            "test": _table({key: _CASE[key] for key in CASE_KEYS}, needed=("given", "expect")),
            "given": _table(_described(GIVEN)),
            "expect": _table(_described(EXPECT), least=1),
        },
    }


def _described(entries: Mapping[str, Entry]) -> dict[str, JsonSchema]:
    return {key: {**entry.schema, "description": entry.description} for key, entry in entries.items()}


def _table(
    properties: Mapping[str, JsonSchema], *, needed: Iterable[str] = (), least: int = 0, most: int | None = None
) -> JsonSchema:
    table: JsonSchema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if needed:
        table["required"] = list(needed)
    if least:
        table["minProperties"] = least
    if most is not None:
        table["maxProperties"] = most
    return table
