"""What rules say of one session, stage by stage: facts made of what has come, decisions taken over into the plan of a transaction (DESIGN §6).

Invariants: a stage's rules see what the rules before them left; all that befalls a transaction is said by one set (what connect and helo decided by another is
decided anew at MAIL, which is refused where they refuse); where one goes wrong nothing of what its stage decided is used, and it is told (`rule-error`).
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
        "_begun",
        "_client",
        "_connected",
        "_faults",
        "_helo",
        "_new_id",
        "_reporter",
        "_rules",
        "_session",
        "_turn",
        "book",
        "decided",
        "user",
    )

    def __init__(
        self,
        book: Rulebook,
        session: str,
        listener: str,
        client: ClientLeg,
        new_id: Callable[[], str],
        reporter: Reporter,
        helo: bytes | None = None,
    ) -> None:
        """`helo`: what the client has said already."""
        self.book = book
        #: Who the client says it is.
        self.user: str | None = None
        self._client = client
        self._session = session
        self._new_id = new_id
        self._reporter = reporter
        self._faults: Faults | None = None
        self._turn: Turn | None = None
        address = plain_address(client.peer.address)
        self._begun = Facts(listener=listener, client="" if address is None else str(address), session=session)
        self._helo = None if helo is None else text(helo)
        #: Whose doing `decided` is; None: nobody was asked yet.
        self._rules: RuleSet | None = None
        self._connected = self.decided = Decision(facts=self._begun)

    async def connect(self) -> str | None:
        """Before anything else: to which upstream the session goes (None: the listener's own). Raises Refusal, whose reply is a greeting."""
        await self._catch_up(self.book.rules)
        accept(self.decided)
        return self.decided.route

    async def helo(self, name: bytes) -> Decision:
        """EHLO or HELO begins anew, unless it is refused: then all stays as it was (RFC 5321 §4.1.4)."""
        rules, helo = self.book.rules, text(name)
        connected, decided = await self._decide(rules, helo)
        if decided.answer is None:
            self._rules, self._helo, self._connected, self.decided = rules, helo, connected, decided
        return decided

    async def _catch_up(self, rules: RuleSet) -> None:
        """What others decided counts no more: rules that ran later there may run this early here."""
        self._connected, self.decided = await self._decide(rules, self._helo)
        self._rules = rules if self.decided.answer is None else None  # who was refused is judged anew

    async def _decide(self, rules: RuleSet, helo: str | None) -> tuple[Decision, Decision]:
        """What the rules of connect want, and what those and the ones of helo do; where these have been asked at connect, they are not asked again."""
        connected = self._connected
        if rules is not self._rules:
            connected = _greeting(await self._evaluate(rules, Stage.CONNECT, self._begun))
        if helo is None or connected.answer is not None:
            return connected, connected
        decision = await self._evaluate(rules, Stage.HELO, msgspec.structs.replace(connected.facts, helo=helo))
        faults, more = connected.faults, decision.faults
        return connected, msgspec.structs.replace(
            decision,
            faults=more if faults is None else faults if more is None else faults.joined(more),
            fired=(*connected.fired, *decision.fired),
        )

    async def mail(self, command: Mail) -> tuple[Plan, Decision]:
        """A transaction begins: its plan, and what its rules say of MAIL."""
        rules = self.book.rules
        if rules is not self._rules:
            await self._catch_up(rules)
        id_ = self._new_id()
        tls = self._client.tls
        facts = msgspec.structs.replace(
            self.decided.facts,
            tls=None if tls is None else tls.version,
            user=self.user,
            transaction=id_,
            sender=_words(command.path.address),
            parameters=parameters_of(command.parameters),
        )
        plan = Plan(id_, rules, facts, command, captures=self.book.captures)
        plan.take(msgspec.structs.replace(self.decided, facts=facts))
        if self.decided.answer is not None:
            return plan, self.decided
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


def _greeting(decision: Decision) -> Decision:
    """Of connect, whose answer is one."""
    if (answer := decision.answer) is None or answer.code in _GREETINGS:
        return decision
    code = 554 if answer.severity == 5 else 421
    return msgspec.structs.replace(decision, answer=msgspec.structs.replace(answer, code=code))


def _words(address: bytes) -> str:
    """What the wire has is UTF-8 (smtp/grammar.py)."""
    return address.decode("utf-8", "replace")
