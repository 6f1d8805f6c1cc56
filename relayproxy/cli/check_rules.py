"""What `check` says of rules: when each runs, what waits for them and why, whether their own tests hold, and what is doubtful.

The tests of a file are about that file: they are run on its rules alone; those of a file that has no rules are about the Python files right before it.
How a configuration is shown does not belong here (check.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.rules.allow_patterns import doubt
from relayproxy.rules.cases import differences
from relayproxy.rules.doubts import broken_signatures, doubts
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.rules.load import load
from relayproxy.rules.python_file import is_python
from relayproxy.rules.ruleset import RuleSet
from relayproxy.rules.stages import placements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from relayproxy.rules.case_syntax import Case
    from relayproxy.rules.rule import Rule

_ENVELOPE: Final = {
    EnvelopeGate.LIVE: "MAIL and RCPT leave as they come",
    EnvelopeGate.RCPT: "MAIL leaves with the first RCPT",
    EnvelopeGate.DATA: "MAIL and RCPT leave at DATA",
    EnvelopeGate.EOH: "MAIL and RCPT leave at the end of the header section",
    EnvelopeGate.EOM: "MAIL and RCPT leave at the end of the message",
}
_DATA: Final = {
    DataGate.LIVE: "DATA leaves as it comes",
    DataGate.HEADER: "DATA leaves as it comes, its header section when that is edited",
    DataGate.EOH: "DATA leaves at the end of the header section",
    DataGate.EOM: "DATA leaves at the end of the message",
}


class Found(NamedTuple):
    """Lines for people. `differences`: what was expected by tests and what came."""

    said: list[str]
    doubtful: list[str]
    differences: list[str]


def of_rules(rules: RuleSet, files: Iterable[str | Path]) -> Found:
    """Of rules that were read from these files, in which nothing is wrong."""
    said = [
        f"{placement.stage.name.lower():8}{rule.name} ({rule.where}): {placement.why}"
        for rule, placement in zip(rules.rules, placements(rules.rules), strict=True)
    ]
    if said:
        said += gates_in_words(rules)
    doubtful = [f"{rule.where}: {rule.name}: {what}" for rule, what in doubts(rules)]
    tests = list(_tests(rules, files))
    tried = [[f"{case.where}: {case.name}: {one}" for one in differences(case, alone)] for case, alone in tests]
    if tests:
        said.append(f"tests of the rules: {len(tests)}, failed: {sum(map(bool, tried))}")
    for case, alone in tests:
        doubtful += [f"{case.where}: {case.name}: {what}" for what in broken_signatures(case, alone)]
    return Found(said, doubtful, [line for lines in tried for line in lines])


def _tests(rules: RuleSet, files: Iterable[str | Path]) -> Iterator[tuple[Case, RuleSet]]:
    """Each with the rules that it is about: those of its file or, where it has none, those of the Python files right before it."""
    functions: list[Rule] = []  # they are not run once more
    for file in files:
        if is_python(file):
            functions += [rule for rule in rules.rules if rule.where.rpartition(":")[0] == str(file)]
            continue
        loaded = load([file])
        alone = loaded.rules if loaded.rules.rules else RuleSet(tuple(functions))
        yield from ((case, alone) for case in loaded.cases)
        functions.clear()


def of_guard(allow: Iterable[str]) -> list[str]:
    """What is doubtful about entries that are right."""
    return [f"guard.allow: {entry} {what}" for entry in allow if (what := doubt(entry)) is not None]


def gates_in_words(rules: RuleSet) -> Iterator[str]:
    """When the envelope, DATA and the final dot leave, and which rule each waits for."""
    gates = rules.gates
    for what, rule in (
        (_ENVELOPE[gates.envelope], gates.envelope_rule),
        (_DATA[gates.data], gates.data_rule),
        ("the final dot waits for the rules" if gates.dot else "the final dot leaves as it comes", gates.dot_rule),
    ):
        yield what if rule is None else f"{what}: {rule}"
