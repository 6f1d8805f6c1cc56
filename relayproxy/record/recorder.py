"""Recording: what the store is given of each session, and when (DESIGN §5 `[record]`, §9.2; PROTOCOL §4, "write order").

    recording = recorder.session(id, "submission", "10.0.0.5:53122")
    recording.tape.client ...                              # told by the protocols (smtp/tape.py)
    recording.so_far(record)                               # of one that takes its time
    spool = recording.spool()                              # a message's body on its way in
    await recording.before_dot(record, message)            # in the store, or RecordError: then no dot leaves
    recording.told(record)                                 # the outcome, behind the reply
    recording.closed("QUIT")

Invariants: recording is one-way and never changes the mail. Before the dot it may refuse, behind it never: what comes then is tried until it is in. The wire of a
session goes in parts, now and then, so what is held of it is bounded.
What a failure means for the client does not belong here (relay/keeping.py), nor how things are kept (store/).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from relayproxy.record.privacy import Privacy
from relayproxy.record.store.interface import RecordError, SessionWrite, TransactionWrite
from relayproxy.record.tape import SessionTape

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.record.report import TransactionRecord
    from relayproxy.record.store.interface import Message, Write, Writing
    from relayproxy.record.store.spool import Spool

Messages = Literal["full", "headers", "digest", "none"]

#: Octets of wire that gather before they go to the store in between.
WIRE: Final = 256 * 1024


class Policy(NamedTuple):
    """`[record]`, as far as it says what is written when."""

    before_dot: bool = True
    #: Whether nothing passes that cannot be recorded.
    refuse: bool = True
    messages: Messages = "full"
    #: What is left out of it.
    privacy: Privacy = Privacy()


class Recorder:
    """All sessions'."""

    def __init__(
        self,
        writer: Writing,
        policy: Policy,
        new_spool: Callable[[], Spool],
        *,
        clock: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`clock`: nanoseconds since 1970; `now`: seconds, for offsets."""
        self.writer = writer
        self.policy = policy
        self.new_spool = new_spool
        #: Whether, at the end, the store has all that it was given.
        self.complete = True
        self.clock = clock
        self.now = now

    @property
    def trouble(self) -> RecordError | None:
        """Why nothing more may be taken; None where all is well, or passes all the same (`on_failure`)."""
        return self.writer.trouble if self.policy.refuse else None

    def session(self, id_: str, listener: str, client: str) -> Recording:
        """One begins."""
        return Recording(self, id_, listener, client)


class Recording:
    """One session's."""

    __slots__ = ("_began", "_client", "_id", "_listener", "_part", "_recorder", "tape")

    def __init__(self, recorder: Recorder, id_: str, listener: str, client: str) -> None:
        self._recorder = recorder
        self._id = id_
        self._listener = listener
        self._client = client
        self._began = recorder.clock()
        self._part = 0
        privacy = recorder.policy.privacy
        self.tape = SessionTape(recorder.now, privacy.spans if privacy.addresses else None)

    @property
    def policy(self) -> Policy:
        return self._recorder.policy

    def begin_message(self, transaction: str) -> None:
        """What mail data comes and leaves from here on is this transaction's."""
        self.tape.client.begin_message(transaction)
        self.tape.upstream.begin_message(transaction)

    def spool(self) -> Spool:
        """For the body of a message."""
        return self._recorder.new_spool()

    def so_far(self, record: TransactionRecord) -> None:
        """It takes its time: what is written is what is left of it if we end before its dot. Never waits, never fails.

        Its wire so far is written with it.
        """
        writer = self._recorder.writer
        if writer.trouble is not None:
            return  # it is not worth the memory: the outcome waits there, too
        self.spill(-1)
        if not self._part:
            writer.put(self._write(None))
        writer.put(TransactionWrite(record))

    async def before_dot(self, record: TransactionRecord, message: Message | None, *, durable: bool = False) -> None:
        """Have it in the store, as far as it is known: what is written is what is left of it if we end now. Raises RecordError.

        Its wire follows: it is not waited for.
        `durable`: nobody else will have it, so it has to survive power loss.
        """
        writer, policy = self._recorder.writer, self._recorder.policy
        if not durable and not policy.refuse and (trouble := writer.trouble) is not None:
            raise RecordError(
                trouble.what, full=trouble.full
            )  # it passes all the same: it need not wait for what fails
        writes: list[Write] = [TransactionWrite(record, message)]
        if not self._part:
            writes.insert(0, self._write(None))  # so that it is known whose the transaction is
        await writer.commit(writes, durable=durable)

    def told(self, record: TransactionRecord, message: Message | None = None) -> None:
        """It is over; its wire follows with what `spill`s next, or with the end of the session. Never waits, never fails."""
        self._recorder.writer.put(TransactionWrite(record, message, final=True))

    def spill(self, most: int = WIRE) -> None:
        """Called now and then: what a session says without a transaction is bounded in memory, too, and can be looked at while it is open."""
        if self.tape.octets > most and (wire := self.tape.take()) is not None:
            self._recorder.writer.put(self._write(wire))

    def closed(self, why: str) -> None:
        """The session is over."""
        self._recorder.writer.put(self._write(self.tape.take(last=True), ended=self._recorder.clock(), why=why))

    def _write(self, wire: bytes | None, *, ended: int | None = None, why: str | None = None) -> SessionWrite:
        part = self._part
        self._part += wire is not None
        return SessionWrite(self._id, self._listener, self._client, self._began, part, wire, ended, why)
