"""A message on its way into the store, beside its way to upstream (DESIGN §5 `[record]`, PROTOCOL §4 column DF).

Follows the intake (message.py) slice by slice; before the dot leaves, the message and the record of its transaction are committed (or, as `commit` says, some time later). What cannot be recorded is refused, 452
for want of space and 451 for all else, or passes all the same where `on_failure` says so: then it is told, and marked `truncated`.
Invariants: a message that nobody else holds (capture:) is kept whole and durable, whatever the configuration leaves out of records, or it is refused.
What is written when does not belong here (record/recorder.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.record.store.interface import STUCK, Message, RecordError
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from relayproxy.record.recorder import Recording
    from relayproxy.record.report import TransactionRecord
    from relayproxy.record.store.spool import Spool
    from relayproxy.relay.message import Intake
    from relayproxy.smtp.replies import Reply


def refusal_for(trouble: RecordError) -> Reply:
    """What the client hears where something cannot be recorded."""
    return local_replies.DISK_FULL if trouble.full else local_replies.RECORD_FAILED


class Keeping:
    """One message's. `capture`: upstream is the store itself."""

    __slots__ = (
        "_capture",
        "_edited",
        "_intake",
        "_keeps_body",
        "_recording",
        "_sent",
        "_spool",
        "_whole",
        "message",
        "trouble",
        "written",
    )

    def __init__(
        self,
        recording: Recording,
        intake: Intake,
        *,
        capture: bool,
        may_capture: bool = False,
        may_edit: bool = False,
    ) -> None:
        """`may_capture`: it may yet be demanded; `may_edit`: another body may leave than the one that came."""
        self._recording = recording
        self._intake = intake
        self._capture = capture
        self._keeps_body = recording.policy.messages == "full" and not recording.policy.privacy.body
        keeps_body = capture or may_capture or self._keeps_body
        self._spool: Spool | None = recording.spool() if keeps_body else None
        # Where line endings may be repaired, or rules edit it, what leaves is another body.
        self._sent: Spool | None = recording.spool() if keeps_body and (intake.repairs_lines or may_edit) else None
        self._edited = False
        self._whole = False
        #: What is kept of it, as far as it came; None before it has settled.
        self.message: Message | None = None
        #: Why it is not all kept.
        self.trouble: RecordError | None = None
        #: Whether the store has the message.
        self.written = False

    @property
    def says_nothing(self) -> bool:
        """Whether the record has nothing of the message, either."""
        return self._recording.policy.messages == "none" and not self._capture

    async def take(self, *, ended: bool) -> Reply | None:
        """What the intake's last slice brought, `ended`: with which the message did; a reply where it must be refused."""
        self._whole = ended
        if self._spool is None:
            return None
        try:
            await self._spool.add(self._intake.received[2])
            if self._sent is not None and self._intake.repairs_lines:
                await self._sent.add(self._intake.body)
        except RecordError as error:
            self._drop_bodies()
            return self._failed(error)
        return None

    def demand(self) -> None:
        """From here on it is kept whole and durable, or refused."""
        self._capture = True

    async def body_leaves(self, octets: bytes) -> None:
        """These of an edited body leave in place of the one that came. What cannot be kept of it shows when it is committed."""
        if self._sent is None:
            return
        if not self._edited:
            self._edited = True
            if self._intake.repairs_lines:
                self._sent.discard()
                self._sent = self._recording.spool()
        try:
            await self._sent.add(octets)
        except RecordError as error:
            self._drop_bodies()
            self.trouble = error

    def patience(self, until: float, now: float) -> float:
        """Until when `commit`, which begins now, may take, where the message may be held until then; what passes all the same does not wait for a store that hangs."""
        return until if self._capture or self._recording.policy.refuse else min(until, now + STUCK)

    def give_up(self) -> Reply | None:
        """`commit` was cancelled: the store hangs. What there is of the message waits for it with the outcome; a reply where it must be refused."""
        if self.message is None:
            self._drop_bodies()  # their own file hangs
        return self._failed(RecordError("the store did not take the message in time"))

    async def commit(self, record: TransactionRecord) -> Reply | None:
        """Before the dot: it is in the store, or a reply says that it must be refused. How long that takes is the store's affair."""
        if not self._capture and not self._recording.policy.before_dot:
            return None
        await self.settle()
        if self.trouble is not None and (refusal := self._failed(self.trouble)) is not None:
            return refusal
        try:
            await self._recording.before_dot(record, self.message, durable=self._capture)
        except RecordError as error:
            return self._failed(error)
        self.written = True
        self._drop_bodies()  # the store has its own
        return None

    def _failed(self, error: RecordError) -> Reply | None:
        self.trouble = error
        return refusal_for(error) if self._capture or self._recording.policy.refuse else None

    async def settle(self) -> None:
        """The message has ended, or will not: what there is of it is `message`. Behind it nothing more is taken."""
        if self.message is not None:
            return
        if not self._capture and not self._keeps_body:
            self._drop_bodies()  # in the end nobody demanded them
        if not (self._capture or self._recording.policy.messages in ("full", "headers")):
            return
        intake = self._intake
        body = repaired = None
        try:
            if self._spool is not None:
                body = await self._spool.finish(intake.body_digest if self._whole else None)
            if self._sent is not None and (intake.repairs or self._edited):
                repaired = await self._sent.finish()
        except RecordError as error:
            self.trouble = error
            self._drop_bodies()
            body = repaired = None
        header, separator, _ = intake.received
        whole = self._whole and self.trouble is None
        message = Message(header, separator, body, intake.header_sent, repaired, whole=whole)
        self.message = message if self._capture else self._recording.policy.privacy.message(message)
        if self._sent is not None and repaired is None:
            self._sent.discard()

    def _drop_bodies(self) -> None:
        for spool in (self._spool, self._sent):
            if spool is not None:
                spool.discard()
        self._spool = self._sent = None
