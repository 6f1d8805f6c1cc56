"""`relayproxy schema config|rules|record`: the JSON Schema of what users write, and of what they read.

The schemas are made of the very types that read and write (relay/settings.py, rules/schema.py, record/report.py and record/report_lines.py); changing them does not belong here.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG_ID: Final = "urn:relayproxy:schema:config:1"


def schema(what: Literal["config", "rules", "record"], /) -> int:
    """Print the JSON Schema of the configuration, of a rule file or of a record.

    Parameters
    ----------
    what
        config: relayproxy.toml; rules: a file of rules; record: a line of the log

    """
    sys.stdout.write(json.dumps(_SCHEMAS[what](), indent=2, ensure_ascii=False) + "\n")
    return 0


def _record() -> dict[str, Any]:
    from relayproxy.record.report_lines import schema

    return schema()


def _config() -> dict[str, Any]:
    from relayproxy.relay.settings import Config

    made = Config.model_json_schema()
    for table in _tables(made):
        # Pydantic shows the default of a whole table as it is in memory, where a duration is a number; its keys show it as one writes it.
        if isinstance(table.get("default"), dict | list):
            del table["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": CONFIG_ID, **made}


def _rules() -> dict[str, Any]:
    from relayproxy.rules.schema import schema

    return schema()


_SCHEMAS: Final = {"config": _config, "rules": _rules, "record": _record}


def _tables(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for inner in schema.values():
            yield from _tables(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _tables(inner)
