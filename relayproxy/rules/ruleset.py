"""A rule set: which rules run when, what they decide, and what that asks of whoever relays (DESIGN §6).

    rules = load(files)                                    # load.py
    rules.gates.envelope, rules.gates.data                 # when envelope and DATA may leave
    decision = rules.evaluate(Stage.MAIL, facts, draws)

All that can be known of rules beforehand is worked out once, here. What one stage's rules do is evaluation.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.rules.actions import Hold, ReplaceBody, StripAttachment
from relayproxy.rules.evaluation import Evaluation
from relayproxy.rules.facts import Stage
from relayproxy.rules.gates import gates
from relayproxy.rules.plan import Plan
from relayproxy.rules.rule import HEADER
from relayproxy.rules.stages import placements

if TYPE_CHECKING:
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Draws, Facts
    from relayproxy.rules.gates import Gates
    from relayproxy.rules.rule import Rule


class RuleSet:
    """Immutable. `stages[i]` is the stage of `rules[i]`.

    `reads_content`: a rule reads body or attachments; then Facts.content must have them at eom. `edits_body`, `may_hold`: a rule may.
    """

    __slots__ = ("_edits_header", "_plans", "edits_body", "gates", "may_hold", "reads_content", "rules", "stages")

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self.rules = rules
        self.stages: tuple[Stage, ...] = tuple([placement.stage for placement in placements(rules)])
        placed = tuple(zip(rules, self.stages, strict=True))
        self.gates: Gates = gates(placed)
        self.reads_content: bool = any(rule.reads & {"body", "attachment"} for rule in rules)
        actions = [action for rule in rules for action in rule.then]
        self.edits_body: bool = any(isinstance(action, ReplaceBody | StripAttachment) for action in actions)
        self.may_hold: bool = any(isinstance(action, Hold) for action in actions)
        self._plans = tuple([Plan([rule for rule, at in placed if at is stage]) for stage in Stage])
        self._edits_header = any(subject.startswith(HEADER) for rule in rules for subject in rule.writes)

    def runs_at(self, stage: Stage) -> bool:
        """Whether there is something to do at that stage: where there is not, evaluate need not be called."""
        return bool(self._plans[stage].rules) or (stage is Stage.EOH and self._edits_header)

    def evaluate(self, stage: Stage, facts: Facts, draws: Draws) -> Decision:
        """Pure, given what is drawn. `facts` are those of the decision before, with what has become known since; a transaction begins with the session's.

        At RCPT, `facts.recipients` is the one recipient that is being named. At EOH, pending edits are made first. Never raises for what mail or a rule says
        (`Decision.failure`).
        """
        return Evaluation(stage, facts, draws).run(self._plans[stage])
