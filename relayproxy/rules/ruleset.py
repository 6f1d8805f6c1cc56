"""A rule set: which rules run when, what they decide, and what that asks of whoever relays (DESIGN §6).

rules = load(files)                                    # load.py
rules.gates.envelope, rules.gates.data                 # when envelope and DATA may leave
decision = rules.evaluate(Stage.MAIL, facts, draws)
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Draws, Facts, Stage
    from relayproxy.rules.rule import Rule


class EnvelopeGate(IntEnum):
    """When MAIL and RCPT leave: as they come, MAIL with the first RCPT, at DATA, at the end of the header section, at the end of the message."""

    LIVE = 0
    RCPT = 1
    DATA = 2
    EOH = 3
    EOM = 4


class DataGate(IntEnum):
    """When DATA leaves: as it comes, so with the header section held back (edited), at the end of the header section, at the end of the message (spooled)."""

    LIVE = 0
    HEADER = 1
    EOH = 2
    EOM = 3


class Gates(NamedTuple):
    """`dot`: the final dot waits for the rules at eom. The rules that force each, by name; None where it is open."""

    envelope: EnvelopeGate
    data: DataGate
    dot: bool
    envelope_rule: str | None = None
    data_rule: str | None = None
    dot_rule: str | None = None


class RuleSet:
    """Immutable. `stages[i]` is the stage of `rules[i]`."""

    rules: tuple[Rule, ...]
    stages: tuple[Stage, ...]
    gates: Gates

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None: ...

    def runs_at(self, stage: Stage) -> bool:
        """Whether a rule runs at that stage: where none does, evaluate need not be called."""

    @property
    def reads_content(self) -> bool:
        """Whether a rule reads body or attachments: then Facts.content must have them at eom."""

    def evaluate(self, stage: Stage, facts: Facts, draws: Draws) -> Decision:
        """Pure, given what is drawn. At RCPT, `facts.recipients` is the one recipient that is being named. At EOH, pending edits are made first, also where no rule runs.

        Never raises for what mail or a rule says (`Decision.failure`).
        """
