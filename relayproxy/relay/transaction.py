"""What is told of one transaction afterwards: facts gathered while it runs, one record when it is over (DESIGN §7).

Records tell, they decide nothing. What the relay reads back are the facts themselves: how many recipients there are, what MAIL declared, and the
Received field that is made of them.
The format of the record does not belong here (record/report.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from relayproxy.record.report import (
    DigestRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    MessageRecord,
    RecipientRecord,
    RuleRecord,
    SecondsRecord,
    SizeRecord,
    TransactionRecord,
    address_of,
    duration,
    envelope_of,
    outcome,
    parameters_of,
    reply_of,
    timestamp,
)
from relayproxy.record.text import text
from relayproxy.relay.keeping import Keeping
from relayproxy.relay.message import Intake
from relayproxy.relay.parties import record_of
from relayproxy.smtp.parameters import get

if TYPE_CHECKING:
    from relayproxy.record.recorder import Recording
    from relayproxy.record.report import AddressRecord, Outcome
    from relayproxy.record.store.interface import Message
    from relayproxy.relay.context import Context
    from relayproxy.relay.delivery import Passed
    from relayproxy.relay.parties import Parties
    from relayproxy.relay.plan import Plan
    from relayproxy.relay.upstream import Progress, Upstream
    from relayproxy.smtp.commands import Mail, Rcpt
    from relayproxy.smtp.data import ContentReader
    from relayproxy.smtp.replies import Reply


#: What becomes of what a rule keeps from leaving.
FATES: Final[dict[str, Outcome]] = {"discard": "discarded", "hold": "held"}


class Transaction:
    """From MAIL on. `accepted` counts the recipients that upstream took, `asked` all that were named."""

    __slots__ = (
        "_context", "_heard", "_intake", "_intent", "_late", "_mail", "_parties", "_plan", "_progress", "_recipients", "_recording", "_reply", "_session", "_started", "_taken", "_time", "accepted", "acknowledged", "asked", "id", "keeping", "upstream_seconds",
    )  # fmt: skip

    def __init__(
        self,
        id_: str,
        session: str,
        context: Context,
        parties: Parties,
        mail: Mail,
        passed: Passed,
        started: float,
        recording: Recording | None = None,
    ) -> None:
        self.id = id_
        self.accepted = self.asked = 0
        #: Whether the last reply was written to the client. What notes a reply here makes it False.
        self.acknowledged = False
        #: Spent waiting for upstream.
        self.upstream_seconds = 0.0
        #: Of the message, where that is recorded.
        self.keeping: Keeping | None = None
        # Where it is while a kill should leave it `aborted`.
        self._late = context.late if recording is not None and recording.policy.before_dot else None
        self._recording = recording
        self._session = session
        self._context = context
        self._parties = parties
        self._mail = (mail, passed)
        self._plan = passed.plan
        self._recipients: list[tuple[Rcpt, Passed]] = []
        self._heard: list[Reply] = []  # to each of them
        self._taken: Rcpt | None = None  # the last that was accepted
        self._intake: Intake | None = None
        self._reply: Reply | None = None
        self._progress: Progress = "none"
        self._intent: TransactionRecord | None = None
        self._started = started
        # When MAIL came, as durations have it, on the calendar's clock.
        self._time = time.time_ns() - int((context.now() - started) * 1e9)
        if self._late is not None:
            self._late.note(self)

    def now(self) -> float:
        """Seconds, on the clock of the durations that are told."""
        return self._context.now()

    def recipient(self, rcpt: Rcpt, passed: Passed) -> None:
        """A RCPT, and what became of it."""
        self._recipients.append((rcpt, passed))
        self._heard.append(passed.reply)
        self.asked += 1
        self.acknowledged = False
        if passed.reply.severity == 2:
            self.accepted += 1
            self._taken = rcpt
        if self._late is not None:
            self._late.note(self)

    @property
    def _taker(self) -> Upstream | None:
        """The upstream that it is for, wherever rules have routed it."""
        plan, upstream = self._plan, self._parties.upstream
        return upstream if plan is None else plan.upstream or upstream

    @property
    def keeps(self) -> bool:
        """Whether nobody else has the message, or a recipient's copy of it."""
        plan, taker = self._plan, self._taker
        return plan is not None and (
            plan.captured
            or plan.facts.fate == "hold"
            or (plan.facts.fate is None and taker is not None and taker.kind == "capture")
        )

    @property
    def declares_eight_bit(self) -> bool:
        """Whether MAIL said that the content may be 8-bit (RFC 6152 §3, RFC 6531 §3.6)."""
        parameters = self._mail[0].parameters
        return self._says_utf8 or (get(parameters, b"BODY") or b"").upper() == b"8BITMIME"

    @property
    def _says_utf8(self) -> bool:
        parameters = self._mail[0].parameters
        return bool(parameters) and get(parameters, b"SMTPUTF8") is not None

    @property
    def normalises(self) -> bool:
        """Whether bare CR and LF in the message are made CRLF."""
        return self._context.normalise

    def refused(self, reply: Reply) -> None:
        """DATA was not answered 354."""
        self._reply = reply
        self.acknowledged = False

    def lost(self, reply: Reply) -> None:
        """The session ends with this 421, by no fault of the client's: earlier 250s are void (PROTOCOL §4, S4)."""
        if self._reply is None:
            self._reply = reply
            self.acknowledged = False

    def begin_message(
        self, reader: ContentReader, max_size: int, *, eight_bit_passes: bool, holds_header: bool = False
    ) -> Intake:
        """354 was said: the message comes, and Received is put on top of it (PROTOCOL §1.8)."""
        context, parties = self._context, self._parties
        trace = b""
        if (stamp := parties.stamp) is not None:
            # RFC 5321 §7.2: a list of recipients would show Bcc to all of them.
            only = None if self._taken is None or self.accepted > 1 else self._taken.path.address
            trace = stamp.field(protocol=parties.protocol(utf8=self._says_utf8), for_=only, nanoseconds=self._time)
        self._intake = Intake(
            reader,
            context.limits,
            max_size=max_size,
            eight_bit_passes=eight_bit_passes,
            normalise=context.normalise,
            trace=trace,
            identity=context.identity,
            holds_header=holds_header,
        )
        if self._recording is not None:
            plan = self._plan
            capture = self._taker is not None and self._taker.kind == "capture"
            self.keeping = Keeping(
                self._recording,
                self._intake,
                capture=capture,
                may_capture=plan is not None and plan.may_stay,
                may_edit=plan is not None and plan.rules.edits_body,
            )
            self._recording.begin_message(self.id)
        if self._late is not None:
            self._late.note(self)
        return self._intake

    def left_to_keep(self) -> Message | None:
        """The message, where the store has it not yet."""
        return None if self.keeping is None or self.keeping.written else self.keeping.message

    async def settle(self) -> None:
        """The message has ended, or will not."""
        if self.keeping is not None and not self.keeping.written:
            await self.keeping.settle()

    def verdict(self, reply: Reply, progress: Progress) -> None:
        """The answer to the message, and how far the message had come."""
        self._reply = reply
        self._progress = progress
        self.acknowledged = False

    def cut_short(self, progress: Progress) -> None:
        """The wait for upstream's verdict was cancelled, or ended by a fault of ours: the dot may have left."""
        self._progress = progress
        self.acknowledged = False

    # The record.

    def catch_up(self) -> None:
        """It takes its time: have it recorded what is told where we end in front of its dot."""
        if self._recording is not None:
            self._recording.so_far(self._record("none"))

    def over(self) -> None:
        """It has ended, or its record is about to be in the store."""
        if self._late is not None:
            self._late.over(self)
            self._late = None

    def intent(self) -> TransactionRecord:
        """What is told where we end behind its dot: nobody has heard anything of it."""
        self.over()
        intent = msgspec.structs.replace(self._record("committed"), reply=None, acknowledged=False)
        if self._plan is not None and self._plan.stays:
            # It is told to nobody else: with this it is held, discarded or captured.
            kept = "accepted" if self._plan.facts.fate is None else FATES[self._plan.facts.fate]
            intent = msgspec.structs.replace(intent, outcome=kept)
        self._intent = intent
        return intent

    def record(self) -> TransactionRecord:
        """As things stand."""
        intent = self._intent
        kept = self.keeping is not None and self.keeping.trouble is None
        if intent is None or self._reply is None or self._progress != "answered" or not kept:
            return self._record(self._progress)
        # What was told before the dot holds, and this came of it.
        return msgspec.structs.replace(
            intent,
            reply=reply_of(self._reply),
            outcome=self._outcome(self._progress),
            acknowledged=self.acknowledged,
            seconds=self._seconds(),
        )

    def _outcome(self, progress: Progress) -> Outcome:
        came = outcome(self._mail[1].reply, self._heard, self._reply, unknown=progress == "committed")
        fate = None if self._plan is None else self._plan.facts.fate
        return came if came != "accepted" or fate is None else FATES[fate]

    def _seconds(self) -> SecondsRecord:
        return SecondsRecord(duration(self._context.now() - self._started), duration(self.upstream_seconds))

    def _record(self, progress: Progress) -> TransactionRecord:
        context, parties, plan = self._context, self._parties, self._plan
        mail_reply, heard = self._mail[1].reply, self._heard
        reply = self._reply or (mail_reply if mail_reply.severity != 2 else heard[-1] if heard else mail_reply)
        envelope, recipients = self._addresses()
        record = TransactionRecord(  # of more than 15 keywords a call makes a dictionary first
            time=timestamp(self._time),
            session=self._session,
            transaction=self.id,
            listener=context.listener,
            client=parties.client,
            upstream=record_of(self._taker),
            envelope=envelope,
            recipients=recipients,
            message=self._message_record(progress),
            reply=reply_of(reply),
            outcome=self._outcome(progress),
            acknowledged=self.acknowledged,
            seconds=self._seconds(),
        )
        if plan is not None:
            record = msgspec.structs.replace(
                record,
                rules=tuple([RuleRecord(one.rule, one.actions) for one in plan.fired]),
                tags=tuple(plan.facts.tags),
                held=_held_record(plan, guarded=context.rulebook.guard is not None),
            )
        return context.privacy.record(record)

    def _addresses(self) -> tuple[EnvelopesRecord, tuple[RecipientRecord, ...]]:
        """The envelope before and after us, and what became of each recipient: together, since most addresses are the same in all of it."""
        received: list[AddressRecord] = []
        sent: list[AddressRecord] = []
        became: list[RecipientRecord] = []
        for rcpt, passed in self._recipients:
            told = address_of(rcpt)
            received.append(told)
            if len(passed.sent) == 1 and passed.sent[0] is rcpt:
                sent.append(told)
                went: tuple[str, ...] = (told.address,)
            else:
                others = [address_of(cast("Rcpt", one)) for one in passed.sent]
                sent += others
                went = tuple([other.address for other in others])
            reply = reply_of(passed.reply)
            became.append(RecipientRecord(told.address, went, reply, captured=True if passed.captured else UNSET))
        if (plan := self._plan) is not None:
            left = [one for _, passed in self._recipients for one in passed.sent]
            left = list({id(one): one for one in (*left, *plan.added)}.values())  # several may have come to one
            sent = [address_of(cast("Rcpt", one)) for one in left]
            became += [RecipientRecord(text(rcpt.path.address), (), None, captured=True) for rcpt in plan.kept]
        mail, passed = self._mail
        sender = text(mail.path.address)
        before = EnvelopeRecord(sender, parameters_of(mail.parameters), tuple(received))
        after = None
        if passed.sent:
            as_sent = cast("Mail", passed.sent[0])
            if as_sent.path is not mail.path:
                sender = text(as_sent.path.address)
            after = EnvelopeRecord(sender, parameters_of(as_sent.parameters), tuple(sent))
        return EnvelopesRecord(before, after), tuple(became)

    def _message_record(self, progress: Progress) -> MessageRecord | None:
        intake = self._intake
        if intake is None or (self.keeping is not None and self.keeping.says_nothing):
            return None
        received = sent = None
        left = progress in ("committed", "answered") and (self._plan is None or not self._plan.stays)
        if intake.whole:
            as_received, as_sent = intake.digests()
            received = DigestRecord(*as_received)
            sent = DigestRecord(*as_sent) if left else None
        return MessageRecord(
            intake.message_id,
            intake.subject,
            SizeRecord(intake.size, intake.size + intake.growth if left else None),
            DigestsRecord(received, sent),
            headers_changed=intake.headers_changed if left else (),
            malformed=True if intake.malformed else UNSET,
            truncated=True if self.keeping is not None and self.keeping.trouble is not None else UNSET,
        )


def _held_record(plan: Plan, *, guarded: bool) -> HeldRecord | UnsetType:
    return (
        UNSET
        if plan.facts.fate != "hold" or plan.held is None
        else HeldRecord(plan.facts.reason, envelope_of(plan.held), upstream=plan.facts.route, guarded=guarded)
    )
