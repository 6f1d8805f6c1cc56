"""How a transaction leaves where rules or a guard have a say: the two gates, the envelope's (envelopes.py) and the data's (DESIGN §3, §6).

An open gate passes on what comes, as the rules left it, and upstream's reply is the answer. A closed one notes it, answers locally, and plays the envelope, and DATA,
when it opens; a recipient that upstream refuses then is the answer to the message, and nobody gets it. Gates are computed from the rules (rules/gates.py).
Invariants: a message leaves with all its edits or not at all; what has begun to leave and must not become a message ends without a dot (PROTOCOL I3).
What rules say does not belong here (ruling.py), nor how a message is judged by itself (message.py).
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.mail.envelope import Envelope
from relayproxy.mail.header import HeaderSection
from relayproxy.net.spool import SpoolError
from relayproxy.relay.envelopes import Envelopes
from relayproxy.relay.outgoing import Refusal, accept, mail_of, rcpt_of
from relayproxy.relay.rewriting import Rewriting
from relayproxy.relay.ruling import Ruling
from relayproxy.rules.facts import Stage
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Noop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context
    from relayproxy.relay.delivery import Passed
    from relayproxy.relay.envelopes import Reroute
    from relayproxy.relay.message import Intake
    from relayproxy.relay.plan import Plan
    from relayproxy.relay.transaction import Transaction
    from relayproxy.relay.transactions import Transactions
    from relayproxy.relay.upstream import Progress, Upstream
    from relayproxy.relay.upstream_leg import UpstreamLeg
    from relayproxy.smtp.commands import Command, Ehlo, Helo
    from relayproxy.smtp.replies import Reply


#: Seconds that upstream hears nothing while a message waits; and how often at most it is then asked NOOP (RFC 5321 lets a server tire of it).
AWAKE: Final = 60.0
MOST_NUDGES: Final = 99


class GatedDelivery:
    """One session's."""

    holds_header = True

    def __init__(
        self,
        envelopes: Envelopes,
        ruling: Ruling,
        rewriting: Callable[[Plan], Rewriting],
        *,
        held: float,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        """`held`: seconds from the client's dot to ours, behind a closed gate. `pause`: between two reads of a message that rules slow down."""
        self._envelopes = envelopes
        self._ruling = ruling
        self._new_rewriting = rewriting
        self._rewriting: Rewriting | None = None
        self._held = held
        self._pause = pause
        self._transaction: Transaction | None = None
        self._data_left = False
        self._awake = 0.0  # when upstream was last spoken to, while a message waits
        self._nudges = 0

    @property
    def upstream(self) -> Upstream:
        return self._envelopes.delivery.upstream

    @property
    def progress(self) -> Progress:
        plan = self._envelopes.plan
        if plan is not None and plan.stays:
            return "answered"
        return self.upstream.progress if self._data_left else "none"

    async def pass_on(self, commands: Sequence[Command]) -> list[Passed]:
        return await self._envelopes.pass_on(commands)

    async def data(self, transaction: Transaction) -> Reply:
        plan = self._envelopes.plan
        if plan is None:
            return local_replies.BAD_SEQUENCE
        self._transaction = transaction
        self._data_left = False
        self._awake, self._nudges = trio.current_time(), 0
        if plan.doom is not None:
            await self._envelopes.take_back()
            return plan.doom
        before, stood = plan.facts, (plan.mail_left, len(plan.leaving))
        decision = await self._ruling.judge(plan, Stage.DATA)
        if decision.answer is not None:
            return decision.answer
        go_ahead = local_replies.START_MAIL
        gates = plan.rules.gates
        if plan.stays or (gates.envelope <= EnvelopeGate.DATA and gates.data <= DataGate.HEADER):
            try:
                go_ahead = await self._leave(plan)
            except Refusal as refusal:
                # Should the client ask once more, rules see the mail as it was; where something has left with DATA it would leave twice, or stay.
                plan.facts = before
                if stood != (plan.mail_left, len(plan.leaving)):
                    plan.doom = refusal.reply
                return refusal.reply
        elif not plan.facts.recipients:
            return local_replies.NO_RECIPIENTS
        self._rewriting = self._new_rewriting(plan)
        return go_ahead

    async def _leave(self, plan: Plan, intake: Intake | None = None) -> Reply:
        """Both gates open: the envelope leaves, and DATA; its answer, 3yz. Raises Refusal."""
        await self._envelopes.leave(plan, intake)
        if plan.stays or self._transaction is None:
            return local_replies.START_MAIL
        reply = await self._envelopes.delivery.data(self._transaction)
        if reply.severity != 3:
            raise Refusal(reply)
        self._data_left = True
        return reply

    # The message.

    async def take(self, intake: Intake, octets: bytes, *, ended: bool) -> bytes | Reply:
        plan, rewriting = self._envelopes.plan, self._rewriting
        if plan is None or rewriting is None:
            return local_replies.BAD_SEQUENCE
        with trio.move_on_after(self._held) if ended else trio.CancelScope():
            try:
                return await self._take(plan, rewriting, intake, octets, ended=ended)
            except Refusal as refusal:
                if not self._data_left:
                    await self._envelopes.take_back()
                return refusal.reply
            except SpoolError as error:
                return local_replies.DISK_FULL if error.full else local_replies.MESSAGE_NOT_HELD
        self.upstream.drop()  # nobody knows what has left of it
        self._envelopes.over()
        return local_replies.HELD_TOO_LONG

    async def _take(self, plan: Plan, rewriting: Rewriting, intake: Intake, octets: bytes, *, ended: bool) -> bytes:
        if intake.header is None:
            return b""
        if plan.facts.header is None:
            await self._end_of_header(plan, intake, intake.header)
            octets = intake.release()
        await rewriting.add(intake)
        if plan.throttle is not None:
            await self._pause(len(intake.body) / plan.throttle)
        if ended:
            return await self._end_of_message(plan, rewriting, intake, octets)
        if not self._data_left:
            await self._keep_awake()
        return b"" if plan.stays or rewriting.holds else octets

    async def _keep_awake(self) -> None:
        """Upstream hears nothing while a gate is closed, and its patience ends (PROTOCOL §1.5): now and then it is asked nothing. Should it be gone, that shows when the gate opens."""
        now = trio.current_time()
        if now - self._awake >= AWAKE and self._nudges < MOST_NUDGES and self.upstream.failure is None:
            self._awake, self._nudges = now, self._nudges + 1
            await self._envelopes.delivery.ask((Noop(),))

    async def _end_of_header(self, plan: Plan, intake: Intake, header: HeaderSection) -> None:
        accept(await self._ruling.header(plan, HeaderSection(bytes(header))))
        intake.edit(plan.facts.header or header)
        if plan.stays or plan.rules.gates.data is DataGate.EOH:
            await self._leave(plan, intake)

    async def _end_of_message(self, plan: Plan, rewriting: Rewriting, intake: Intake, octets: bytes) -> bytes:
        if plan.rules.runs_at(Stage.EOM, plan.facts):
            accept(await self._ruling.content(plan, rewriting.content(intake.size)))
        if rewriting.holds:
            await rewriting.finish(intake, None if self._transaction is None else self._transaction.keeping)
            plan.size = intake.size + intake.growth
            await self._leave(plan, intake)
        if plan.stays:
            self._hold(plan)
            return b""
        return await self._play(rewriting, intake) if rewriting.holds else octets

    def _hold(self, plan: Plan) -> None:
        """Of what is held it is noted as what it would have left."""
        if plan.facts.fate == "hold":
            guard = self._ruling.book.guard
            recipients = [rcpt_of(plan, recipient, guard) for recipient in plan.facts.recipients]
            plan.held = Envelope(mail_of(plan), tuple(recipients))

    async def _play(self, rewriting: Rewriting, intake: Intake) -> bytes:
        """What has waited leaves; its end is to leave with the dot. Raises Refusal: upstream's, given early."""
        waiting = b""
        async with aclosing(rewriting.wire(intake)) as pieces:
            async for piece in pieces:
                if (verdict := await self._envelopes.delivery.body(waiting)) is not None:
                    raise Refusal(verdict)
                waiting = piece
        return waiting

    def body(self, octets: bytes) -> Awaitable[Reply | None]:
        return self._envelopes.delivery.body(octets)

    async def end(self, octets: bytes) -> Reply:
        self._drop_rewriting()
        plan = self._envelopes.plan
        if plan is None or not plan.stays:
            self._envelopes.over()
            return await self._envelopes.delivery.end(octets)
        match plan.facts.fate:
            case "hold":
                return local_replies.held(plan.id)
            case "discard":
                return local_replies.discarded(plan.id)
            case None:
                return local_replies.captured(plan.id)

    async def settle(self) -> None:
        if not self._data_left:
            await self._envelopes.take_back()

    def give_up(self) -> None:
        self._drop_rewriting()
        if self._data_left:
            self._envelopes.over()
            self._envelopes.delivery.give_up()

    def _drop_rewriting(self) -> None:
        rewriting, self._rewriting = self._rewriting, None
        if rewriting is not None:
            rewriting.close()


def put_rules_between(
    client: ClientLeg,
    leg: UpstreamLeg,
    context: Context,
    transactions: Transactions,
    reroute: Reroute,
    hello: Ehlo | Helo | None,
) -> Ruling:
    """Have rules and guard say what passes between two legs; what says it. `hello`: what the client has said already."""
    helo = None if hello is None else hello.name
    book, id_, new_id = context.rulebook, transactions.session, transactions.new_id
    ruling = Ruling(book, id_, context.listener, client, new_id, context.reporter, helo)
    client.faults = ruling.take_faults
    envelopes = Envelopes(leg, ruling, reroute, context.reporter)
    rewriting = partial(Rewriting, memory=context.limits.spool_memory)
    leg.gate(GatedDelivery(envelopes, ruling, rewriting, held=context.timeouts.upstream.held, pause=client.pause))
    return ruling
