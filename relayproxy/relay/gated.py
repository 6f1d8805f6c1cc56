"""How a transaction leaves where rules or a guard have a say: the only place that knows the two gates, the envelope's and the data's (DESIGN §3, §6).

An open gate passes commands on, as the rules left them, and upstream's reply is the answer. A closed one notes them, answers locally, and plays the envelope, and DATA,
when it opens; a recipient that upstream refuses then is the answer to the message, and nobody gets it. Gates are computed from the rules (rules/gates.py).
Invariants: a message leaves with all its edits or not at all; what several of the client's recipients come to leaves once; what has left and must not become a message is
taken back with RSET before DATA, and by closing after it (PROTOCOL I3).
What rules say does not belong here (ruling.py), nor how a message is judged by itself (message.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from relayproxy.mail.envelope import Envelope
from relayproxy.mail.header import HeaderSection
from relayproxy.relay.delivery import Passed
from relayproxy.relay.plan import Leaving
from relayproxy.relay.rewriting import Rewriting
from relayproxy.rules.facts import Stage
from relayproxy.rules.gates import DataGate, EnvelopeGate
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Mail, Path, Rcpt, Rset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from relayproxy.record.log import Reporter
    from relayproxy.relay.delivery import Delivery
    from relayproxy.relay.message import Intake
    from relayproxy.relay.plan import Plan
    from relayproxy.relay.ruling import Ruling
    from relayproxy.relay.transaction import Transaction
    from relayproxy.relay.upstream import Progress, Upstream
    from relayproxy.relay.upstream_leg import UpstreamLeg
    from relayproxy.rules.facts import Recipient
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

#: Goes to the upstream of this name (None: the listener's own); why that cannot be.
Reroute = Callable[["str | None"], "Awaitable[Reply | None]"]


class _Wanted:
    """A command of the client's on its way: what is to leave in its place, if it is not answered here, and of RCPT the recipients that it comes to."""

    __slots__ = ("leaving", "passed", "recipients")

    def __init__(self, passed: Passed, leaving: Sequence[Leaving] = (), recipients: tuple[Recipient, ...] = ()) -> None:
        self.passed = passed
        self.leaving = leaving
        self.recipients = recipients


class GatedDelivery:
    """One session's. `plan`: of its last transaction."""

    holds_header = True

    def __init__(
        self,
        leg: UpstreamLeg,
        ruling: Ruling,
        rewriting: Callable[[Plan], Rewriting],
        reroute: Reroute,
        reporter: Reporter,
        held: float,
    ) -> None:
        """`held`: seconds from the client's dot to ours, behind a closed gate."""
        self.plan: Plan | None = None
        self._leg = leg
        self._ruling = ruling
        self._new_rewriting = rewriting
        self._rewriting: Rewriting | None = None
        self._reroute = reroute
        self._reporter = reporter
        self._held = held
        self._transaction: Transaction | None = None
        self._data_left = False
        self._go_ahead = local_replies.START_MAIL
        self._taken_back = True  # what has left of the envelope

    @property
    def _delivery(self) -> Delivery:
        if self._leg.delivery is None:
            raise RuntimeError("expected an upstream, since a transaction is passed on")
        return self._leg.delivery

    @property
    def upstream(self) -> Upstream:
        return self._delivery.upstream

    @property
    def streaming(self) -> bool:
        return self._delivery.streaming

    @property
    def progress(self) -> Progress:
        if self.plan is not None and self.plan.stays:
            return "answered"
        return self.upstream.progress if self._data_left else "none"

    # The envelope.

    async def pass_on(self, commands: Sequence[Command]) -> list[Passed]:
        answers: list[Passed] = []
        batch: list[Command] = []
        for command in commands:
            if isinstance(command, Mail) and batch:
                answers += await self._batch(batch)
                batch = []
            batch.append(command)
        return answers + await self._batch(batch)

    async def _batch(self, commands: Sequence[Command]) -> list[Passed]:
        """Commands of one transaction at most."""
        wanted: list[_Wanted] = []
        for command in commands:
            match command:
                case Mail():
                    wanted.append(await self._mail(command))
                case Rcpt():
                    wanted.append(self._rcpt(command))
                case Rset():
                    wanted.append(self._reset(command))
                case _:
                    wanted.append(_Wanted(Passed(command, (), local_replies.NOOP_OK), (Leaving(command),)))
        await self._ask([leaving for one in wanted for leaving in one.leaving])
        for one in wanted:
            self._answered(one)
        return [one.passed for one in wanted]

    async def _mail(self, command: Mail) -> _Wanted:
        await self._take_back()
        plan, decision = self._ruling.mail(command)
        self.plan = plan
        passed = plan.passed = Passed(command, (), local_replies.SENDER_OK, plan)
        refusal = decision.answer
        if refusal is None and plan.facts.fate is None and self._envelope_gate is EnvelopeGate.LIVE:
            refusal = await self._go_to(plan)
        mail = self._outgoing_mail(plan)
        if refusal is None and mail is None:
            refusal = local_replies.NO_VALID_ADDRESS
        if refusal is not None or mail is None:
            passed.reply = plan.doom = refusal or local_replies.NO_VALID_ADDRESS
            return _Wanted(passed)
        plan.mail = mail
        if plan.facts.fate is not None or self._envelope_gate is not EnvelopeGate.LIVE:
            return _Wanted(passed)
        plan.mail_left, self._taken_back = True, False
        return _Wanted(passed, (Leaving(mail),))

    def _outgoing_mail(self, plan: Plan) -> Mail | None:
        """MAIL as it leaves; None where there is no such sender."""
        received = plan.received
        path = _path(plan.facts.sender, received.path, utf8=plan.utf8)
        if path is None:
            return None
        return self._delivery.outgoing(
            received if path is received.path else msgspec.structs.replace(received, path=path)
        )

    @property
    def _envelope_gate(self) -> EnvelopeGate:
        return EnvelopeGate.LIVE if self.plan is None else self.plan.rules.gates.envelope

    def _rcpt(self, command: Rcpt) -> _Wanted:
        plan = self.plan
        passed = Passed(command, (), local_replies.RECIPIENT_OK)
        if plan is None or plan.doom is not None:
            passed.reply = (
                local_replies.BAD_SEQUENCE
                if plan is None or not plan.mail_left
                else plan.doom or local_replies.BAD_SEQUENCE
            )
            return _Wanted(passed)
        decision = self._ruling.rcpt(plan, command)
        if decision.answer is not None:
            passed.reply = decision.answer
            return _Wanted(passed)
        plan.named.append(passed)
        live = plan.facts.fate is None and self._envelope_gate is EnvelopeGate.LIVE
        if not live and plan.mail_left:
            return self._refuse(passed, local_replies.RULE_FAILED)  # a gate would have been closed: this cannot be
        return self._to_leave(plan, passed, decision.facts.recipients, live=live)

    def _to_leave(self, plan: Plan, passed: Passed, recipients: tuple[Recipient, ...], *, live: bool) -> _Wanted:
        """A recipient of the client's, as the rules left it."""
        leaving: list[Leaving] = []
        stand: list[Recipient] = []
        for recipient in recipients:
            rcpt = self._outgoing_rcpt(plan, recipient)
            if rcpt is None:
                return self._refuse(passed, local_replies.NO_VALID_ADDRESS)
            if self._is_captured(plan, passed, rcpt):
                continue
            stand.append(recipient)
            if live:
                leaving.append(plan.leaves(rcpt))
        most = self._leg.recipients
        if most is not None and len(plan.leaving) > most:
            return self._refuse(passed, local_replies.TOO_MANY_RECIPIENTS)
        return _Wanted(passed, leaving, tuple(stand))

    def _refuse(self, passed: Passed, reply: Reply) -> _Wanted:
        passed.reply = reply
        return _Wanted(passed)

    def _outgoing_rcpt(self, plan: Plan, recipient: Recipient) -> Rcpt | None:
        """A RCPT as it leaves; None where there is no such address. One that is not the client's own loses its ORCPT."""
        received = plan.named[recipient.origin].received if recipient.origin >= 0 else None
        known = received if isinstance(received, Rcpt) else None
        path = _path(recipient.address, None if known is None else known.path, utf8=plan.utf8)
        if path is None or (not path.local and not path.domain):
            return None
        guard = self._ruling.book.guard
        if known is None:
            return Rcpt(path)
        if path is known.path:
            return known if guard is None else guard.guarded(known)
        kept = tuple([one for one in known.parameters if one[0].upper() != b"ORCPT"])
        return Rcpt(path, kept)

    def _is_captured(self, plan: Plan, passed: Passed | None, rcpt: Rcpt) -> bool:
        """Whether the guard keeps this recipient's copy. What it refuses is refused where it would leave (upstream.py)."""
        book = self._ruling.book
        if not book.captures or book.admits(rcpt.path.address):
            return False
        plan.captured = True
        if passed is not None:
            passed.captured = True
        self._reporter.guard(rcpt.path.address, captured=True, session=plan.facts.session, transaction=plan.id)
        return True

    def _reset(self, command: Rset) -> _Wanted:
        plan, self.plan = self.plan, None
        self._drop_rewriting()
        passed = Passed(command, (), local_replies.RESET_OK)
        if plan is None or plan.mail_left or not self._taken_back:
            self._taken_back = True
            return _Wanted(passed, (Leaving(command),))
        return _Wanted(passed)

    async def _ask(self, leaving: Iterable[Leaving]) -> None:
        """Upstream, each of those that it was not asked before."""
        asked = list({id(one): one for one in leaving if one.reply is None}.values())
        if not asked:
            return
        replies = await self._delivery.ask([one.command for one in asked])
        withheld = self.upstream.withheld
        for one, reply in zip(asked, replies, strict=True):
            one.reply = reply
            one.left = not any(one.command is other for other in withheld)

    def _answered(self, wanted: _Wanted) -> None:
        """Take note of upstream's answers."""
        passed, plan = wanted.passed, self.plan
        if wanted.leaving:
            passed.reply = _worst([one.reply for one in wanted.leaving if one.reply is not None])
            passed.sent = tuple([one.command for one in wanted.leaving if one.left])
        if plan is None:
            return
        match passed.received:
            case Mail() if passed.reply.severity != 2:
                plan.doom = passed.reply
                plan.mail_left, self._taken_back = False, True
            case Rcpt() if passed.reply.severity == 2 and plan.doom is None:
                plan.facts = msgspec.structs.replace(
                    plan.facts, recipients=(*plan.facts.recipients, *wanted.recipients)
                )
            case Rcpt() if passed.reply.severity == 2:
                passed.reply = local_replies.BAD_SEQUENCE  # MAIL was refused in the same group
            case Rcpt() if len(wanted.leaving) > 1 and any(
                one.reply is not None and one.reply.severity == 2 for one in wanted.leaving
            ):
                # Of several for one of the client's some were accepted, and there is no way to take those back but all.
                plan.doom = passed.reply
            case _:
                pass

    async def _go_to(self, plan: Plan) -> Reply | None:
        """To the upstream that rules want; why that cannot be."""
        if plan.facts.route == self._leg.routed:
            return None
        refusal = await self._reroute(plan.facts.route)
        if refusal is None:
            plan.upstream = self.upstream
        return refusal

    async def _open_envelope(self, plan: Plan) -> Reply | None:
        """Have all of it leave that has not yet; a refusal is for the whole message, and of what has left nothing stays."""
        if plan.mail is None:
            return local_replies.RULE_FAILED
        if not plan.mail_left and (refusal := await self._go_to(plan)) is not None:
            return refusal
        recipients: list[tuple[Recipient, Leaving]] = []
        for recipient in plan.facts.recipients:
            rcpt = self._outgoing_rcpt(plan, recipient)
            if rcpt is None:
                return await self._fail(plan, local_replies.NO_VALID_ADDRESS)
            if not self._is_captured(plan, plan.named[recipient.origin] if recipient.origin >= 0 else None, rcpt):
                recipients.append((recipient, plan.leaves(rcpt)))
        plan.facts = msgspec.structs.replace(plan.facts, recipients=tuple([recipient for recipient, _ in recipients]))
        if not recipients:
            return None
        if self._leg.recipients is not None and len({id(one) for _, one in recipients}) > self._leg.recipients:
            return await self._fail(plan, local_replies.TOO_MANY_RECIPIENTS)
        mail = self._outgoing_mail(plan)
        asked = [one for _, one in recipients]
        if not plan.mail_left:
            if mail is None:
                return await self._fail(plan, local_replies.NO_VALID_ADDRESS)
            plan.mail = mail
            asked.insert(0, Leaving(mail))
            self._taken_back = False
        await self._ask(asked)
        if not plan.mail_left and plan.passed is not None:
            plan.mail_left = True
            plan.passed.sent = (asked[0].command,) if asked[0].left else ()
        self._note_sent(plan, recipients)
        refused = [one.reply for one in asked if one.reply is not None and one.reply.severity != 2]
        return await self._fail(plan, _worst(refused)) if refused else None

    def _note_sent(self, plan: Plan, recipients: list[tuple[Recipient, Leaving]]) -> None:
        for passed in plan.named:
            passed.sent = ()
        for recipient, leaving in recipients:
            if not leaving.left:
                continue
            for origin in (recipient.origin, *recipient.also):
                if origin >= 0:
                    passed = plan.named[origin]
                    passed.sent = (*passed.sent, leaving.command)
                else:
                    plan.added.append(leaving.command)

    async def _fail(self, plan: Plan, reply: Reply) -> Reply:
        plan.doom = reply
        await self._take_back()
        return reply

    async def _take_back(self) -> None:
        """What has left of an envelope must not become a message."""
        if not self._taken_back and self.upstream.failure is None and not self.upstream.spent:
            await self._delivery.ask((Rset(),))
        self._taken_back = True
        if self.plan is not None:
            self.plan.mail_left = False

    # The message.

    async def data(self, transaction: Transaction) -> Reply:
        plan = self.plan
        if plan is None:
            return local_replies.BAD_SEQUENCE
        if plan.doom is not None:
            await self._take_back()
            return plan.doom
        decision = self._ruling.judge(plan, Stage.DATA)
        if decision.answer is not None:
            return decision.answer
        self._transaction = transaction
        self._data_left = False
        gates = plan.rules.gates
        if not plan.stays and gates.envelope <= EnvelopeGate.DATA and gates.data <= DataGate.HEADER:
            refusal = await self._leave(plan)
            if refusal is not None:
                return refusal
        if plan.stays:
            await self._take_back()
        elif not plan.facts.recipients:
            return local_replies.NO_RECIPIENTS
        self._rewriting = self._new_rewriting(plan)
        return self._go_ahead if self._data_left else local_replies.START_MAIL

    async def _leave(self, plan: Plan) -> Reply | None:
        """Open both gates: envelope and DATA."""
        if (refusal := await self._open_envelope(plan)) is not None:
            return refusal
        if plan.stays:
            return None
        if not plan.facts.recipients or self._transaction is None:
            return local_replies.NO_RECIPIENTS
        self._go_ahead = await self._delivery.data(self._transaction)
        if self._go_ahead.severity != 3:
            return self._go_ahead
        self._data_left = True
        return None

    async def take(self, intake: Intake, octets: bytes, *, ended: bool) -> bytes | Reply:
        plan, rewriting = self.plan, self._rewriting
        if plan is None or rewriting is None:
            return local_replies.BAD_SEQUENCE
        with trio.move_on_after(self._held) if ended else trio.CancelScope() as patience:
            judged = await self._take(plan, rewriting, intake, octets, ended=ended)
            if not isinstance(judged, bytes) and not self._data_left:
                await self._take_back()
            return judged
        if patience.cancelled_caught:
            self.upstream.drop()
        return local_replies.HELD_TOO_LONG

    async def _take(
        self, plan: Plan, rewriting: Rewriting, intake: Intake, octets: bytes, *, ended: bool
    ) -> bytes | Reply:
        if intake.header is None:
            return b""
        if plan.header is None:
            if (refusal := await self._end_of_header(plan, intake, intake.header)) is not None:
                return refusal
            octets = intake.release()
        if (refusal := await rewriting.add(intake)) is not None:
            return refusal
        if plan.throttle is not None:
            await trio.sleep(len(octets) / plan.throttle)
        if not ended:
            return b"" if plan.stays or rewriting.holds else octets
        return await self._end_of_message(plan, rewriting, intake, octets)

    async def _end_of_header(self, plan: Plan, intake: Intake, header: HeaderSection) -> Reply | None:
        decision = self._ruling.header(plan, HeaderSection(bytes(header)))
        if decision.answer is not None:
            return decision.answer
        plan.header = plan.facts.header or header
        intake.edit(plan.header)
        if plan.stays:
            await self._take_back()
        elif not self._data_left and plan.rules.gates.data is DataGate.EOH:
            return await self._leave(plan)
        return None

    async def _end_of_message(self, plan: Plan, rewriting: Rewriting, intake: Intake, octets: bytes) -> bytes | Reply:
        if plan.rules.runs_at(Stage.EOM):
            decision = self._ruling.content(plan, rewriting.content(intake.size))
            if decision.answer is not None:
                return decision.answer
        if rewriting.holds:
            keeping = None if self._transaction is None else self._transaction.keeping
            if (refusal := await rewriting.finish(intake, keeping)) is not None:
                return refusal
            if not plan.stays:
                size = self.upstream.capabilities.size
                if size and intake.size + intake.growth > size:
                    return local_replies.MESSAGE_TOO_BIG
                if (refusal := await self._leave(plan)) is not None:
                    return refusal
        if plan.stays:
            await self._take_back()
            return self._keep(plan)
        if not rewriting.holds:
            return octets
        async for piece, last in rewriting.wire(intake):
            if last:
                return piece
            if (verdict := await self._delivery.body(piece)) is not None:
                return verdict
        return b""

    def _keep(self, plan: Plan) -> bytes | Reply:
        """Nothing of it leaves; of what is held it is noted as what it would have left."""
        if plan.facts.fate == "hold":
            mail = self._outgoing_mail(plan)
            recipients = [self._outgoing_rcpt(plan, recipient) for recipient in plan.facts.recipients]
            if mail is None or any(rcpt is None for rcpt in recipients):
                return local_replies.NO_VALID_ADDRESS
            plan.held = Envelope(mail, tuple([rcpt for rcpt in recipients if rcpt is not None]))
        return b""

    def body(self, octets: bytes) -> Awaitable[Reply | None]:
        return self._delivery.body(octets)

    async def end(self, octets: bytes) -> Reply:
        plan = self.plan
        self._drop_rewriting()
        if plan is None:
            return local_replies.BAD_SEQUENCE
        if not plan.stays:
            self._taken_back = True
            return await self._delivery.end(octets)
        match plan.facts.fate:
            case "hold":
                return local_replies.held(plan.id)
            case "discard":
                return local_replies.discarded(plan.id)
            case None:
                return local_replies.captured(plan.id)

    def give_up(self) -> None:
        self._drop_rewriting()
        if self._data_left:
            self._taken_back = True
            self._delivery.give_up()

    def _drop_rewriting(self) -> None:
        rewriting, self._rewriting = self._rewriting, None
        if rewriting is not None:
            rewriting.close()


def _path(address: str, known: Path | None, *, utf8: bool) -> Path | None:
    """The path of an address as rules have it; None where it is none, or may not travel."""
    octets = address.encode("utf-8", "surrogateescape")
    if known is not None and octets == known.address:
        return known
    try:
        path = Path.parse(octets)
    except ValueError:
        return None
    return path if utf8 or path.is_ascii else None


def _worst(replies: Sequence[Reply]) -> Reply:
    """What stands for all of them: a refusal if there is one, that may be tried again before one for good."""
    return min(replies, key=lambda reply: {4: 0, 5: 1}.get(reply.severity, 2))
