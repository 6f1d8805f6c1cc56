"""A rule set: which rules run when, what they decide, and what that asks of whoever relays (DESIGN §6).

    rules = load(files).rules                                    # load.py
    rules.gates.envelope, rules.gates.data                 # when envelope and DATA may leave
    decision = rules.evaluate(Stage.MAIL, facts, draws)

All that can be known of rules beforehand is worked out once, here. What one stage's rules do is evaluation.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.rules.actions import Hold, ReplaceBody, Route, StripAttachment
from relayproxy.rules.candidates import Candidates
from relayproxy.rules.evaluation import Evaluation
from relayproxy.rules.facts import Stage
from relayproxy.rules.function import Call, kinds
from relayproxy.rules.gates import gates
from relayproxy.rules.rule import HEADER
from relayproxy.rules.stages import placements

if TYPE_CHECKING:
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Draws, Facts
    from relayproxy.rules.gates import Gates
    from relayproxy.rules.rule import Rule


class RuleSet:
    """Immutable. `stages[i]` is the stage of `rules[i]`.

    `reads_content`: a rule reads body or attachments; then Facts.content must have them at eom. `edits_header`, `edits_body`, `may_hold`, `may_route`: a rule may.
    """

    __slots__ = (
        "_calls",
        "_candidates",
        "edits_body",
        "edits_header",
        "gates",
        "may_hold",
        "may_route",
        "reads_content",
        "rules",
        "stages",
    )

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self.rules = rules
        self.stages: tuple[Stage, ...] = tuple([placement.stage for placement in placements(rules)])
        placed = tuple(zip(rules, self.stages, strict=True))
        self.gates: Gates = gates(placed)
        self.reads_content: bool = any(rule.reads & {"body", "attachment"} for rule in rules)
        said = {kind for rule in rules for action in rule.then for kind in kinds(action)}
        self.edits_header: bool = any(subject.startswith(HEADER) for rule in rules for subject in rule.writes)
        self.edits_body: bool = bool(said & {ReplaceBody, StripAttachment})
        self.may_hold: bool = Hold in said
        self.may_route: bool = Route in said
        self._candidates = tuple([Candidates([rule for rule, at in placed if at is stage]) for stage in Stage])
        self._calls = frozenset(at for rule, at in placed if any(isinstance(action, Call) for action in rule.then))

    def runs_at(self, stage: Stage, facts: Facts) -> bool:
        """Whether there is something to do at that stage: where there is not, evaluate need not be called."""
        is_due = (stage is Stage.EOH and facts.edits) or (stage is Stage.EOM and facts.body)
        return bool(self._candidates[stage].rules or is_due)

    def calls_at(self, stage: Stage) -> bool:
        """Whether it calls functions of others, which may take long: then where it runs is to be thought about."""
        return stage in self._calls

    def begin(self, stage: Stage, facts: Facts, draws: Draws) -> Evaluation:
        """What `evaluate` runs, for who may give it up before it has come to an end."""
        return Evaluation(self._candidates[stage], stage, facts, draws)

    def evaluate(self, stage: Stage, facts: Facts, draws: Draws) -> Decision:
        """Pure, given what is drawn, as far as functions are. `facts` are those of the decision before, with what has become known since; a transaction begins with the session's.

        At RCPT, `facts.recipients` is the one recipient that is being named. At EOH, pending edits are made first. Never raises for what mail or a rule says
        (`Decision.failure`).
        """
        return self.begin(stage, facts, draws).run()
