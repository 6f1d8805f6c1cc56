"""What rules say of one session, stage by stage: facts made of what has come, decisions taken over into the plan of a transaction (DESIGN §6).

Invariants: a stage's rules see what the rules before them left; where one goes wrong nothing of what its stage decided is used, and it is told (`rule-error`).
Evaluating rules does not belong here (rules/ruleset.py), nor what leaves and when (gated.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relayproxy.mail.ip import plain_address
from relayproxy.record.report import parameters_of
from relayproxy.record.text import text
from relayproxy.relay.outgoing import accept
from relayproxy.relay.plan import Plan
from relayproxy.rules.decision import Decision, Faults
from relayproxy.rules.facts import Facts, Recipient, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.mail.header import HeaderSection
    from relayproxy.record.log import Reporter
    from relayproxy.record.report import AuthRecord
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.workers import Turn
    from relayproxy.rules.facts import Content
    from relayproxy.rules.ruleset import RuleSet
    from relayproxy.smtp.commands import Mail, Rcpt

#: RFC 5321 §3.1, RFC 7504: what a greeting can say.
_GREETINGS = frozenset({421, 521, 554})


class Ruling:
    """One session's. `decided`: what the rules of connect and helo want of all its mail."""

    __slots__ = (
        "_client",
        "_connected",
        "_faults",
        "_new_id",
        "_reporter",
        "_session",
        "_turn",
        "auth",
        "book",
        "decided",
    )

    def __init__(
        self,
        book: Rulebook,
        session: str,
        listener: str,
        client: ClientLeg,
        new_id: Callable[[], str],
        reporter: Reporter,
    ) -> None:
        self.book = book
        #: Who the client says it is.
        self.auth: AuthRecord | None = None
        self._client = client
        self._session = session
        self._new_id = new_id
        self._reporter = reporter
        self._faults: Faults | None = None
        self._turn: Turn | None = None
        address = plain_address(client.peer.address)
        self._connected = Decision(
            facts=Facts(listener=listener, client="" if address is None else str(address), session=session)
        )
        self.decided = self._connected

    async def connect(self) -> str | None:
        """Before anything else: to which upstream the session goes (None: the listener's own). Raises Refusal, whose reply is a greeting."""
        decision = await self._evaluate(self.book.rules, Stage.CONNECT, self._connected.facts)
        if (answer := decision.answer) is not None and answer.code not in _GREETINGS:
            decision = msgspec.structs.replace(
                decision, answer=msgspec.structs.replace(answer, code=554 if answer.severity == 5 else 421)
            )
        self._connected = self.decided = decision
        accept(decision)
        return decision.route

    async def helo(self, name: bytes) -> Decision:
        """EHLO or HELO begins anew; one that is refused behind another leaves things as they were (RFC 5321 §4.1.4)."""
        facts = msgspec.structs.replace(self._connected.facts, helo=text(name))
        decision = await self._evaluate(self.book.rules, Stage.HELO, facts)
        if decision.answer is not None and self.decided.facts.helo:
            return decision
        faults, more = self._connected.faults, decision.faults
        self.decided = msgspec.structs.replace(
            decision,
            faults=more if faults is None else faults if more is None else faults.joined(more),
            fired=(*self._connected.fired, *decision.fired),
        )
        return decision

    async def mail(self, command: Mail) -> tuple[Plan, Decision]:
        """A transaction begins: its plan, and what its rules say of MAIL."""
        id_ = self._new_id()
        tls = self._client.tls
        facts = msgspec.structs.replace(
            self.decided.facts,
            tls=None if tls is None else tls.version,
            user=None if self.auth is None else self.auth.user or "",
            transaction=id_,
            sender=_words(command.path.address),
            parameters=parameters_of(command.parameters),
        )
        plan = Plan(id_, self.book.rules, facts, command, captures=self.book.captures)
        plan.take(msgspec.structs.replace(self.decided, facts=facts))
        return plan, await self.judge(plan, Stage.MAIL)

    async def rcpt(self, plan: Plan, command: Rcpt) -> Decision:
        """Of this one recipient: the others of the plan are not in the decision's facts.

        What else is said with it stays said, also where upstream then refuses it: so it makes no difference whether the client sends its commands in a group.
        """
        recipient = Recipient(_words(command.path.address), len(plan.named), parameters_of(command.parameters))
        facts = msgspec.structs.replace(plan.facts, recipients=(recipient,), route=plan.mail_route)
        decision = await self._evaluate(plan.rules, Stage.RCPT, facts, plan.id)
        if decision.failure is None:
            plan.take(decision, one=True)
        return decision

    async def header(self, plan: Plan, section: HeaderSection) -> Decision:
        plan.facts = msgspec.structs.replace(plan.facts, header=section)
        return await self.judge(plan, Stage.EOH)

    async def content(self, plan: Plan, content: Content) -> Decision:
        if not content.complete:
            what = "the structure of the message cannot be read to its end: rules may not see all of its attachments"
            self._reporter.violation("client", what, session=self._session, transaction=plan.id)
        plan.facts = msgspec.structs.replace(plan.facts, content=content)
        return await self.judge(plan, Stage.EOM)

    async def judge(self, plan: Plan, stage: Stage) -> Decision:
        """A stage of the whole message: what is decided is in the plan, unless it was refused."""
        decision = await self._evaluate(plan.rules, stage, plan.facts, plan.id)
        if decision.failure is None:
            plan.take(decision)
        return decision

    def take_faults(self) -> Faults | None:
        """Trouble that was asked for since this was last asked: it befalls the next that is said."""
        faults, self._faults = self._faults, None
        return faults

    async def _evaluate(self, rules: RuleSet, stage: Stage, facts: Facts, transaction: str | None = None) -> Decision:
        if not rules.runs_at(stage, facts):
            return Decision(facts=facts)
        if rules.calls_at(stage):
            self._turn = self._turn or self.book.workers.turn()
            decision = await self.book.workers.decide(rules.begin(stage, facts, self.book.draws), self._turn)
        else:
            decision = rules.evaluate(stage, facts, self.book.draws)
        if (faults := decision.faults) is not None:
            self._faults = faults if self._faults is None else self._faults.joined(faults)
        if decision.failure is not None:
            self._reporter.rule_error(
                decision.failure, session=self._session, transaction=transaction, reply=decision.answer
            )
        return decision


def _words(address: bytes) -> str:
    """What the wire has is UTF-8 (smtp/grammar.py)."""
    return address.decode("utf-8", "replace")
