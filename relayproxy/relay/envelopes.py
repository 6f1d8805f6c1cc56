"""The envelope's gate: MAIL, RCPT and RSET of a session under rules, passed on as they come or noted until the gate opens (DESIGN §6).

Invariants: what several of the client's recipients come to leaves once, and each RCPT has its reply; one that comes to several is accepted only if all of them are; what
has left and must not become a message is taken back with RSET before the next thing leaves. What rules say does not belong here (ruling.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from relayproxy.relay.delivery import Passed
from relayproxy.relay.outgoing import Refusal, accept, mail_of, rcpt_of
from relayproxy.relay.plan import Leaving
from relayproxy.rules.gates import EnvelopeGate
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Mail, Rcpt, Rset
from relayproxy.smtp.replies import worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relayproxy.record.log import Reporter
    from relayproxy.relay.delivery import Delivery
    from relayproxy.relay.message import Intake
    from relayproxy.relay.plan import Plan
    from relayproxy.relay.ruling import Ruling
    from relayproxy.relay.upstream_leg import UpstreamLeg
    from relayproxy.rules.facts import Recipient
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

#: Goes to the upstream of this name (None: the listener's own); why that cannot be.
Reroute = Callable[["str | None"], Awaitable["Reply | None"]]


class _Wanted:
    """A command of the client's on its way: what is to leave in its place, if it is not answered here; of RCPT the recipients that it comes to, those of them that the guard keeps, and the MAIL that waited for it."""

    __slots__ = ("captured", "leaving", "mail", "new", "passed", "recipients")

    def __init__(
        self,
        passed: Passed,
        leaving: Sequence[Leaving] = (),
        recipients: Sequence[Recipient] = (),
        captured: Sequence[Rcpt] = (),
        mail: Leaving | None = None,
    ) -> None:
        self.passed = passed
        self.leaving = leaving
        #: Of those, what nobody asked for before.
        self.new = [one for one in leaving if one.reply is None]
        self.recipients = recipients
        self.captured = captured
        self.mail = mail

    @property
    def all(self) -> Sequence[Leaving]:
        return self.leaving if self.mail is None else (self.mail, *self.leaving)


class Envelopes:
    """One session's. `plan`: of its last transaction."""

    def __init__(self, leg: UpstreamLeg, ruling: Ruling, reroute: Reroute, reporter: Reporter) -> None:
        self.plan: Plan | None = None
        self._leg = leg
        self._ruling = ruling
        self._reroute = reroute
        self._reporter = reporter
        self._waiting: list[_Wanted] = []  # of the group that is being answered, what has not left yet

    @property
    def delivery(self) -> Delivery:
        if self._leg.delivery is None:
            raise RuntimeError("expected an upstream, since a transaction is passed on")
        return self._leg.delivery

    # As it comes.

    async def pass_on(self, commands: Sequence[Command]) -> list[Passed]:
        """An answer to each."""
        answers: list[Passed] = []
        batch: list[Command] = []
        for command in commands:
            if batch and isinstance(command, Mail | Rset):  # by then it is known what became of the one before
                answers += await self._batch(batch)
                batch = []
            batch.append(command)
        return answers + await self._batch(batch)

    async def _batch(self, commands: Sequence[Command]) -> list[Passed]:
        """Commands of one transaction at most, as one group."""
        answers: list[Passed] = []
        for command in commands:
            try:
                wanted = await self._want(command)
            except Refusal as refusal:
                wanted = _Wanted(Passed(command, (), refusal.reply))
            self._waiting.append(wanted)
            answers.append(wanted.passed)
        await self._send()
        return answers

    async def _send(self) -> None:
        """What waits leaves, as one group, and has its answers."""
        waiting, self._waiting = self._waiting, []
        await self._ask([leaving for one in waiting for leaving in one.all])
        for one in waiting:
            self._answered(one)

    async def _want(self, command: Command) -> _Wanted:
        match command:
            case Mail():
                return await self._mail(command)
            case Rcpt():
                return await self._rcpt(command)
            case Rset():
                plan, self.plan = self.plan, None
                left = plan is not None and plan.mail_left
                return _Wanted(Passed(command, (), local_replies.RESET_OK), (Leaving(command),) if left else ())
            case _:
                return _Wanted(Passed(command, (), local_replies.NOOP_OK), (Leaving(command),))

    async def _mail(self, command: Mail) -> _Wanted:
        await self.take_back()
        self.plan, decision = await self._ruling.mail(command)
        plan = self.plan
        passed = plan.passed
        try:
            accept(decision)
            plan.mail_route = decision.route
            mail_of(plan)
            if plan.facts.fate is not None or plan.rules.gates.envelope is not EnvelopeGate.LIVE:
                return _Wanted(passed)
            await self._go_to(plan)
            return _Wanted(passed, (self._begin(plan),))
        except Refusal as refusal:
            passed.reply = plan.doom = refusal.reply
            return _Wanted(passed)

    def _begin(self, plan: Plan, size: int | None = None) -> Leaving:
        """MAIL is about to leave. Raises Refusal."""
        mail = Leaving(self.delivery.outgoing(mail_of(plan), size))
        plan.mail_left = True
        return mail

    @staticmethod
    def _live(plan: Plan) -> bool:
        """Whether RCPT leaves as it comes."""
        return plan.facts.fate is None and plan.rules.gates.envelope <= EnvelopeGate.RCPT

    async def _rcpt(self, command: Rcpt) -> _Wanted:
        plan = self.plan
        if plan is None:
            raise Refusal(local_replies.BAD_SEQUENCE)
        if plan.named and self._leg.recipients is not None:
            await self._send()  # one that is refused takes nobody's place
        if (refusal := plan.refusal) is not None:
            raise Refusal(refusal)
        before, named, leaving = plan.facts, len(plan.named), plan.leaving.copy()
        decision = await self._ruling.rcpt(plan, command)
        try:
            accept(decision)
            if decision.route != before.route:
                await self._give_way(plan)
            return await self._name(plan, command, decision.facts.recipients)
        except Refusal:
            del plan.named[named:]
            plan.leaving = leaving
            plan.facts = msgspec.structs.replace(before, recipients=plan.facts.recipients, tags=plan.facts.tags)
            raise

    async def _give_way(self, plan: Plan) -> None:
        """To a recipient with another route: the first counts (PROTOCOL §1.10), as long as any recipient stands that came before. Raises Refusal."""
        await self._send()  # whether they stand, upstream knows
        if (refusal := plan.refusal) is not None:
            raise Refusal(refusal)
        if any(passed.reply.severity == 2 for passed in plan.named):
            raise Refusal(local_replies.TOO_MANY_RECIPIENTS)
        await self.take_back()
        if (failure := self.delivery.upstream.failure) is not None:
            raise Refusal(failure)

    async def _name(self, plan: Plan, command: Rcpt, recipients: Iterable[Recipient]) -> _Wanted:
        """One more recipient of the client's, and what rules made of it. Raises Refusal."""
        passed = Passed(command, (), local_replies.RECIPIENT_OK)
        plan.named.append(passed)
        leaving: list[Leaving] = []
        stand: list[Recipient] = []
        captured: list[Rcpt] = []
        for recipient in recipients:
            rcpt = rcpt_of(plan, recipient, self._ruling.book.guard)
            if self._live(plan):
                if self._captures(rcpt):
                    captured.append(rcpt)
                    continue
                leaving.append(plan.leaves(rcpt))
            stand.append(recipient)  # behind a closed gate rules may yet make another of it
        begins = bool(leaving) and not plan.mail_left
        if begins:
            await self._go_to(plan)
        self._check_number(one for one in plan.leaving.values() if one.reply is None or one.reply.severity == 2)
        return _Wanted(passed, leaving, stand, captured, self._begin(plan) if begins else None)

    def _check_number(self, leaving: Iterable[Leaving]) -> None:
        """LMTP answers a message once for each recipient, and the client hears one answer. Raises Refusal."""
        most = self._leg.recipients
        if most is not None and len({id(one) for one in leaving}) > most:
            raise Refusal(local_replies.TOO_MANY_RECIPIENTS)

    def _captures(self, rcpt: Rcpt) -> bool:
        """Whether the guard keeps this recipient's copy. What it refuses is refused where it would leave (upstream.py)."""
        book = self._ruling.book
        return book.captures and not book.admits(rcpt.path.address)

    def _capture(self, plan: Plan, named: Sequence[Passed], rcpt: Rcpt) -> None:
        """`named`: of whose RCPTs it comes."""
        plan.captured = True
        for passed in named:
            passed.captured = True
        if not named:
            plan.kept.append(rcpt)
        self._tell_guard(plan, rcpt, captured=True)

    def _tell_guard(self, plan: Plan, rcpt: Rcpt, *, captured: bool) -> None:
        self._reporter.guard(rcpt.path.address, captured=captured, session=plan.facts.session, transaction=plan.id)

    async def _ask(self, leaving: Iterable[Leaving]) -> None:
        """Upstream, each of those that it was not asked before."""
        asked = list({id(one): one for one in leaving if one.reply is None}.values())
        if not asked:
            return
        for one in asked:
            one.left = True  # as far as is known, should this be cut short
        replies = await self.delivery.ask([one.command for one in asked])
        withheld = {id(one) for one in self.delivery.upstream.withheld}
        for one, reply in zip(asked, replies, strict=True):
            one.reply = reply
            if reply is local_replies.GUARDED and self.plan is not None and isinstance(one.command, Rcpt):
                self._tell_guard(self.plan, one.command, captured=False)
            one.left = id(one.command) not in withheld

    def _answered(self, wanted: _Wanted) -> None:
        """Take note of upstream's answers."""
        passed, plan = wanted.passed, self.plan
        replies = [one.reply for one in wanted.leaving if one.reply is not None]
        if replies:
            passed.reply = worst(replies)
            passed.sent = tuple([one.command for one in wanted.leaving if one.left])
        if plan is None or not isinstance(passed.received, Mail | Rcpt):
            return
        if (mail := wanted.mail) is not None and mail.reply is not None:
            plan.passed.sent = (mail.command,) if mail.left else ()
            if mail.reply.severity != 2:
                plan.doom, plan.mail_left = mail.reply, False
        if (refusal := plan.refusal) is not None and isinstance(passed.received, Rcpt):
            passed.reply = refusal  # MAIL was refused in the same group
            return
        accepted = passed.reply.severity == 2
        if isinstance(passed.received, Mail):
            if not accepted:
                plan.doom = passed.reply
                plan.mail_left = False
        elif accepted:
            self._stands(plan, wanted)
        elif any(one.reply is not None and one.reply.severity == 2 for one in wanted.new):
            # Of several for one of the client's some were accepted, and there is no way to take those back but all.
            plan.doom = passed.reply

    def _stands(self, plan: Plan, wanted: _Wanted) -> None:
        """A RCPT was accepted."""
        plan.facts = msgspec.structs.replace(plan.facts, recipients=(*plan.facts.recipients, *wanted.recipients))
        for rcpt in wanted.captured:
            self._capture(plan, (wanted.passed,), rcpt)

    # When the gate opens.

    async def leave(self, plan: Plan, intake: Intake | None = None) -> None:
        """All of it, as far as it has not left yet; `intake`: the message has begun. Raises Refusal: that is the answer to the message, and nothing of it stays upstream."""
        if plan.stays:
            await self.take_back()
            return
        try:
            await self._leave(plan, intake)
        except Refusal as refusal:
            plan.doom = refusal.reply
            await self.take_back()
            raise

    async def _leave(self, plan: Plan, intake: Intake | None) -> None:
        if not plan.mail_left:
            await self._go_to(plan)
        going = self._going(plan)
        plan.facts = msgspec.structs.replace(plan.facts, recipients=tuple([recipient for recipient, _ in going]))
        if plan.stays:
            await self.take_back()
            return
        if not going:
            raise Refusal(local_replies.NO_RECIPIENTS)
        asked = [leaving for _, leaving in going]
        self._check_number(asked)
        self._check_message(plan, intake)
        mail = None
        if not plan.mail_left:
            mail = self._begin(plan, plan.size)
            asked.insert(0, mail)
        try:
            await self._ask(asked)
        finally:
            if mail is not None:
                plan.passed.sent = (mail.command,) if mail.left else ()
            _note_sent(plan, going)
        if refused := [one.reply for one in asked if one.reply is not None and one.reply.severity != 2]:
            raise Refusal(worst(refused))

    def _check_message(self, plan: Plan, intake: Intake | None) -> None:
        """Whether upstream takes it, which may be another than the one that it began for. Raises Refusal."""
        capabilities = self.delivery.upstream.capabilities
        most = capabilities.size
        if plan.size is not None and most is not None and plan.size > most:
            raise Refusal(local_replies.MESSAGE_TOO_BIG)
        if intake is not None:
            most = None if plan.size is not None or most is None else max(1, most - self.delivery.growth)
            objection = intake.goes_to(max_size=most, eight_bit_passes=b"8BITMIME" in capabilities)
            if objection is not None:
                raise Refusal(objection.reply)

    def _going(self, plan: Plan) -> list[tuple[Recipient, Leaving]]:
        """Of the recipients that stand, those that nobody captures."""
        going: list[tuple[Recipient, Leaving]] = []
        plan.kept.clear()  # the client may ask once more
        for recipient in plan.facts.recipients:
            rcpt = rcpt_of(plan, recipient, self._ruling.book.guard)
            named = [plan.named[origin] for origin in (recipient.origin, *recipient.also) if origin >= 0]
            if self._captures(rcpt) and not plan.has_left(rcpt):
                self._capture(plan, named, rcpt)
            else:
                going.append((recipient, plan.leaves(rcpt)))
        return going

    async def _go_to(self, plan: Plan) -> None:
        """To the upstream that rules want. Raises Refusal."""
        if plan.facts.route == self._leg.routed and self._leg.fits:
            return
        if (refusal := await self._reroute(plan.facts.route)) is not None:
            raise Refusal(refusal)
        plan.upstream = self.delivery.upstream

    async def take_back(self) -> None:
        """What has left of an envelope must not become a message."""
        if self.plan is None or not self.plan.mail_left:
            return
        self.plan.mail_left = False
        upstream = self.delivery.upstream
        if upstream.failure is None and not upstream.spent:
            await self.delivery.ask((Rset(),))

    def over(self) -> None:
        """The message has had its end, or upstream was left without: nothing is to be taken back."""
        if self.plan is not None:
            self.plan.mail_left = False


def _note_sent(plan: Plan, going: list[tuple[Recipient, Leaving]]) -> None:
    plan.added.clear()
    for passed in plan.named:
        if passed.reply.severity == 2:
            passed.sent = ()  # what upstream refused has left as it is noted already
    for recipient, leaving in going:
        if not leaving.left:
            continue
        for origin in (recipient.origin, *recipient.also):
            if origin >= 0:
                passed = plan.named[origin]
                passed.sent = (*passed.sent, leaving.command)
            else:
                plan.added.append(leaving.command)
