"""A transaction under rules without a relay: they run stage by stage, as a relay runs them, and nothing is sent (DESIGN §6).

    begun = begin(rules, Facts(listener="in", client="192.0.2.1"), "app-1", draws)    # connect and helo, once a session
    played = begun.play(Coming(sender="a@x.test", recipients=(("b@y.test", {}),), header=section, content=lambda: content))
    played.outcome, played.facts

Invariants: pure, given what is drawn; whoever is behind the rules takes everything, but for whom `Coming.takes` says otherwise. What is not known of a transaction is not guessed:
rules that would have to know it do not run, and `unplayed` says from which stage on.
What comes, and what it is compared with, does not belong here (cases.py, and whoever tries rules on what was recorded), nor the guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.rules.facts import Recipient, Stage
from relayproxy.rules.recipients import collapsed
from relayproxy.rules.ruleset import RuleSet
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Path
from relayproxy.smtp.replies import worst

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relayproxy.mail.header import HeaderSection
    from relayproxy.rules.case_syntax import Outcome
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Content, Draws, Facts
    from relayproxy.smtp.replies import Reply

    #: What runs a stage's rules: `RuleSet.evaluate`, or who gives up functions that take too long.
    Decide = Callable[[RuleSet, Stage, Facts, Draws], Decision]


def _nothing() -> None:
    """Of a message that nobody knows."""


class Coming(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in a session that has begun. Each recipient with its RCPT's parameters."""

    tls: str | None = None
    user: str | None = None
    transaction: str = ""
    sender: str = ""
    parameters: Mapping[str, str | None] = {}
    recipients: tuple[tuple[str, Mapping[str, str | None]], ...] = ()
    #: Whether upstream takes this recipient, as rules left it; None: it takes all.
    takes: Callable[[str], bool] | None = None
    #: How far it came: RCPT, DATA, or EOM: a message came.
    until: Stage = Stage.EOM
    #: None: it is not known.
    header: HeaderSection | None = None
    #: Gives None where the content is not known; called only where all else is.
    content: Callable[[], Content | None] = _nothing


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. `facts`: as the rules left them; `rules`: those that did something, in order; `failure`: what went wrong with one."""

    facts: Facts
    #: What rules refused it, or some recipient, with: a 4yz before a 5yz, since what is to be tried again is not given back.
    reply: Reply | None
    rules: tuple[str, ...]
    failure: str | None
    #: Whether it came to the end of what there is of it.
    went_on: bool
    #: A rule cut the connection.
    is_cut: bool
    #: The first stage whose rules did not run since not all that they may look at is known.
    unplayed: Stage | None

    @property
    def ruled(self) -> Outcome | None:
        """The outcome that rules brought about; None where they let it pass."""
        if self.is_cut:
            return "aborted"
        if not self.went_on:
            return None if self.reply is None else "tempfailed" if self.reply.severity == 4 else "rejected"
        match self.facts.fate:
            case "hold":
                return "held"
            case "discard":
                return "discarded"
            case None:
                return None

    @property
    def outcome(self) -> Outcome:
        return self.ruled or ("accepted" if self.went_on else "aborted")


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A session in which nothing has come yet, for any number of transactions."""

    rules: RuleSet
    draws: Draws
    decide: Decide
    facts: Facts
    refusals: tuple[Reply, ...]
    fired: tuple[str, ...]
    failure: str | None
    is_cut: bool

    def play(self, coming: Coming) -> Played:
        """From MAIL to the end of the message, or as far as the rules let it come."""
        play = _Play(self.rules, self.draws, self.decide, self.facts)
        play.take(self)
        went_on = not self.refusals and not self.is_cut and play.envelope(coming) and play.message(coming)
        refusals = play.refusals
        return Played(
            facts=play.facts,
            reply=worst(refusals) if refusals else None,
            rules=tuple(play.fired),
            failure=play.failure,
            went_on=went_on,
            is_cut=play.is_cut,
            unplayed=play.unplayed,
        )


def begin(rules: RuleSet, facts: Facts, helo: str, draws: Draws, decide: Decide = RuleSet.evaluate) -> Begun:
    """Connect and helo. `facts`: what is known when a client connects."""
    play = _Play(rules, draws, decide, facts)
    if play.stage(Stage.CONNECT, facts):
        play.stage(Stage.HELO, _with(play.facts, helo=helo))
    return Begun(
        rules=rules,
        draws=draws,
        decide=decide,
        facts=play.facts,
        refusals=tuple(play.refusals),
        fired=tuple(play.fired),
        failure=play.failure,
        is_cut=play.is_cut,
    )


_with: Final = msgspec.structs.replace


class _Play:
    def __init__(self, rules: RuleSet, draws: Draws, decide: Decide, facts: Facts) -> None:
        self._rules = rules
        self._draws = draws
        self._decide = decide
        self.facts = facts
        self.fired: dict[str, None] = {}
        self.refusals: list[Reply] = []
        self.failure: str | None = None
        self.is_cut = False
        self.unplayed: Stage | None = None

    def take(self, begun: Begun) -> None:
        """Go on from there."""
        self.fired = dict.fromkeys(begun.fired)
        self.refusals = list(begun.refusals)
        self.failure, self.is_cut = begun.failure, begun.is_cut

    def stage(self, stage: Stage, facts: Facts) -> bool:
        """Whether it goes on."""
        if not self._rules.runs_at(stage, facts):
            self.facts = facts
            return True
        decision = self._decide(self._rules, stage, facts, self._draws)
        self.fired |= dict.fromkeys([fired.rule for fired in decision.fired])
        self.failure = self.failure or decision.failure
        self.facts = decision.facts
        if decision.answer is not None:
            self.refusals.append(decision.answer)
        if decision.faults is not None and decision.faults.disconnect is not None and stage < Stage.EOM:
            self.is_cut = True
        return decision.answer is None and not self.is_cut

    def envelope(self, coming: Coming) -> bool:
        facts = _with(
            self.facts,
            tls=coming.tls,
            user=coming.user,
            transaction=coming.transaction,
            sender=coming.sender,
            parameters=coming.parameters,
        )
        return self.stage(Stage.MAIL, facts) and self._recipients(coming)

    def _recipients(self, coming: Coming) -> bool:
        taken: list[Recipient] = []
        origin = 0
        is_taken = False
        of_mail = self.facts.route
        for address, parameters in coming.recipients:
            before = self.facts
            one = Recipient(address, origin, parameters)
            if self.stage(Stage.RCPT, _with(before, recipients=(one,), route=of_mail)):
                if (refusal := self._refusal(before, one, coming, others=is_taken)) is not None:
                    self.facts = _with(before, tags=self.facts.tags)
                    self.refusals.append(refusal)
                    continue
                origin += 1
                stand = self.facts.recipients
                if coming.takes is None or all(coming.takes(one.address) for one in stand):
                    taken += stand
                    is_taken = True
            elif self.is_cut:
                return False
            else:
                self.facts = _with(before, tags=self.facts.tags)
                if self.refusals[-1].code == 421:
                    return False  # it closes the session
        self.facts = _with(self.facts, recipients=collapsed(taken))
        return is_taken and (
            coming.until < Stage.DATA or (self.stage(Stage.DATA, self.facts) and self._has_recipients())
        )

    def _refusal(self, before: Facts, one: Recipient, coming: Coming, *, others: bool) -> Reply | None:
        """What rules made of a recipient may go another way than the others, of whom the first counts (PROTOCOL §1.10), or be no address."""
        if others and self.facts.route != before.route:
            return local_replies.TOO_MANY_RECIPIENTS
        made = [other.address for other in self.facts.recipients if other.address != one.address]
        fits = all(_is_address(address, utf8="SMTPUTF8" in coming.parameters) for address in made)
        return None if fits else local_replies.NO_VALID_ADDRESS

    def message(self, coming: Coming) -> bool:
        if coming.until < Stage.EOM:
            return True
        rules = self._rules
        if coming.header is None:
            if any(rules.runs_at(stage, self.facts) for stage in (Stage.EOH, Stage.EOM)):
                self.unplayed = Stage.EOH
            return True
        if not self.stage(Stage.EOH, _with(self.facts, header=coming.header)):
            return False
        content = coming.content()
        if content is None:
            if rules.runs_at(Stage.EOM, self.facts):
                self.unplayed = Stage.EOM
        elif not self.stage(Stage.EOM, _with(self.facts, content=content)):
            return False
        return self.unplayed is not None or self._has_recipients()

    def _has_recipients(self) -> bool:
        """Or is kept from leaving; else it goes no further."""
        if self.facts.recipients or self.facts.fate is not None:
            return True
        self.refusals.append(local_replies.NO_RECIPIENTS)
        return False


def _is_address(address: str, *, utf8: bool) -> bool:
    """Whether it may be named to a server (RFC 6531 §3.4)."""
    try:
        path = Path.parse(address.encode("utf-8", "replace"))
    except ValueError:
        return False
    return utf8 or path.is_ascii
