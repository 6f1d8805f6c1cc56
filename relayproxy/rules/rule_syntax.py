"""How rules are written (DESIGN §6): the tables of a rule file.

Invariants: as in syntax.py; a rule with anything wrong in it is none, and neither is its file. What stands in `when` and `then` does not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.rules import template
from relayproxy.rules.action_syntax import then
from relayproxy.rules.condition_syntax import when
from relayproxy.rules.conditions import All
from relayproxy.rules.facts import Stage
from relayproxy.rules.rule import Rule
from relayproxy.rules.wording import either

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relayproxy.rules.syntax import Written

RULE_KEYS: Final = ("name", "when", "then", "at")
#: Characters of the name of a rule or a case.
MAX_NAME: Final = 200
STAGES: Final[Mapping[str, Stage]] = {stage.name.lower(): stage for stage in Stage}


def rules(written: Written, names: dict[str, str]) -> list[Rule]:
    """Those of a file. `names`: those that rules have had, each with where it stands; filled."""
    return [rule for one in tables(written, "rule") if (rule := _rule(one, names)) is not None]


def tables(written: Written, key: str) -> list[Written]:
    """Of `[[key]]`."""
    if key not in written.value:
        return []
    one = written.of(key)
    if not isinstance(one.value, list):
        one.expected(f"tables under [[{key}]]")
        return []
    return one.each(f"tables under [[{key}]]")


def named(written: Written, table: Mapping[str, Written]) -> tuple[str, bool]:
    """The name of a rule or a case, and whether it has one of its own."""
    kind, index = written.place[-2:]
    if "name" not in table:
        return f"{kind} {int(index) + 1} of {written.source.file}", False
    name = table["name"].text("a name")
    if name is not None and not (0 < len(name) <= MAX_NAME and name.isprintable()):
        table["name"].expected(f"a name of 1 to {MAX_NAME} printable characters")
    return name or "", True


def _rule(written: Written, names: dict[str, str]) -> Rule | None:
    source = written.source
    before = len(source.complaints)
    table = written.table(RULE_KEYS, needed=("then",), what="a table")
    name, is_its_own = named(written, table)
    where = f"{source.file}:{source.line(written.place)}"
    if (other := names.setdefault(name, where)) != where and is_its_own:
        table["name"].wrong(
            f"expected a name that no other rule has, got {name!r}, which is that of the rule at {other}"
        )
    within = written.within(name)
    condition = when(within.of("when")) if "when" in table else All(())
    groups = condition.names if condition is not None else frozenset()
    for group in sorted(groups):
        if template.is_placeholder(group):
            table["when"].wrong(f"expected a named group that is no placeholder of templates, got {group}")
    actions = then(within.within(name, groups).of("then")) if "then" in table else ()
    at = table["at"].choice(STAGES, f"a stage: {either(STAGES)}") if "at" in table else None
    if condition is None or len(source.complaints) > before:
        return None
    return Rule(name, condition, actions, at, where)
