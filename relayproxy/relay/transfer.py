"""A message from DATA, or its first BDAT, to its verdict: passed on while it comes, judged as it passes.

Read top to bottom like RFC 5321 §3.3 and §4.1.1.4, and RFC 3030 §2. Upstream is always spoken to with DATA. Invariants (PROTOCOL §0, §1.5): mail
data that comes before it was asked for is never read as commands (attack 5), nor is a chunk, whatever becomes of it (attack 4); a message is read
to its true end whatever is wrong with it; the dot leaves only if the client's own end of data came and nothing speaks against the message (I3);
a 2xx is upstream's own, and nothing local changes it any more (I1, I2).
What speaks against a message does not belong here (message.py), nor what is told of it (transaction.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

import trio

from relayproxy.net.peer import PeerLost
from relayproxy.relay.client_leg import Goodbye
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Rset
from relayproxy.smtp.data import ChunkReader

if TYPE_CHECKING:
    from relayproxy.record.log import Reporter
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context
    from relayproxy.relay.delivery import Way
    from relayproxy.relay.message import Intake, Objection
    from relayproxy.relay.transaction import Transaction
    from relayproxy.smtp.commands import Bdat
    from relayproxy.smtp.data import ContentReader, DataSlice
    from relayproxy.smtp.replies import Reply


Say = Callable[["list[Reply]"], Awaitable[None]]


class Passage:
    """One message under way, however it is framed: `verdict` is upstream's, or ours against it, as soon as there is one."""

    __slots__ = ("_client", "_delivery", "_held", "_reporter", "_session", "_transaction", "intake", "verdict")

    def __init__(
        self,
        reader: ContentReader,
        transaction: Transaction,
        delivery: Way,
        max_size: int,
        client: ClientLeg,
        held: float,
        reporter: Reporter,
        session: str,
    ) -> None:
        """DATA was answered 354. `held`: seconds from the client's end of data to ours."""
        self.intake: Intake = transaction.begin_message(
            reader,
            max_size,
            eight_bit_passes=b"8BITMIME" in delivery.upstream.capabilities,
            holds_header=delivery.holds_header,
        )
        self.verdict: Reply | None = None
        self._client = client
        self._held = held
        self._transaction = transaction
        self._delivery = delivery
        self._reporter = reporter
        self._session = session

    async def take(self, part: DataSlice) -> Reply | None:
        """Judge a slice and pass it on; with the last one comes the verdict."""
        intake, ended = self.intake, part.ended
        came = trio.current_time() if ended else 0.0
        octets = intake.add(part)
        if self.verdict is not None:
            return self.verdict
        refusal, keeping = None, self._transaction.keeping
        if intake.objection is not None:
            refusal = self._object(intake.objection)
        elif keeping is not None:
            refusal = await keeping.take(ended=ended)
        if refusal is None:
            judged = await self._delivery.take(intake, octets, ended=ended)
            if isinstance(judged, bytes):
                self.verdict = await (self._end(judged, came) if ended else self._delivery.body(judged))
                return self.verdict
            refusal = judged if intake.objection is None else self._object(intake.objection)
        self._delivery.give_up()
        self.verdict = refusal
        return refusal

    async def _end(self, octets: bytes, came: float) -> Reply:
        """`came`: when the client's end did."""
        transaction, delivery = self._transaction, self._delivery
        if (keeping := transaction.keeping) is not None:
            if transaction.keeps:
                keeping.demand()
            with self._client.patience(keeping.patience(came + self._held, trio.current_time())) as patience:
                refusal = await keeping.commit(transaction.intent())
            if patience.cancelled_caught:
                refusal = keeping.give_up()
            if self._client.peer.expired:  # the grace of a shutdown is over: no dot leaves any more (PROTOCOL §4, S6)
                refusal = local_replies.SHUTTING_DOWN
            if refusal is not None:
                delivery.give_up()
                return refusal
        elif transaction.keeps:
            delivery.give_up()
            return local_replies.RECORD_FAILED
        started = transaction.now()
        try:
            verdict = await delivery.end(octets)
        except BaseException:
            transaction.cut_short(delivery.progress)
            raise
        transaction.upstream_seconds += transaction.now() - started
        return verdict

    def _object(self, objection: Objection) -> Reply:
        """Tell why a message is refused; it is read to its end all the same."""
        reply, session, id_ = objection.reply, self._session, self._transaction.id
        if objection.limit is not None:
            self._reporter.limit(objection.limit, session=session, transaction=id_, reply=reply)
        else:
            self._reporter.violation("client", objection.what, session=session, transaction=id_, reply=reply)
        return reply

    def give_up(self) -> None:
        """The message will not come to its end."""
        self._delivery.give_up()

    def note_verdict(self, verdict: Reply) -> None:
        """What the client is about to hear."""
        self._transaction.verdict(verdict, self._delivery.progress)

    def tell_flaws(self) -> None:
        """What passed all the same, or went wrong on our own disk."""
        session, id_, intake = self._session, self._transaction.id, self.intake
        if intake.repairs:
            what = f"{intake.repairs} bare CR or LF in the message, made CRLF"
            self._reporter.violation("client", what, session=session, transaction=id_)
        if intake.objection is None and intake.eight_bit and not self._transaction.declares_eight_bit:
            # RFC 6152 §3; PROTOCOL §1.5: passed and flagged
            self._reporter.violation(
                "client", "8-bit content that MAIL did not announce", session=session, transaction=id_
            )
        keeping, upstream = self._transaction.keeping, self._delivery.upstream
        if keeping is not None and keeping.trouble is not None:
            self._reporter.error("record", keeping.trouble.what, session=session, transaction=id_)
        if upstream.trouble is not None and upstream.failure is None:
            self._reporter.error("upstream", upstream.trouble, session=session, transaction=id_)


class Transfer:
    """Takes the messages of a session. Raises PeerLost and Goodbye, as all that speaks to the client does."""

    __slots__ = ("_chunked", "_client", "_held", "_limits", "_reporter", "_say", "_session")

    def __init__(self, client: ClientLeg, say: Say, context: Context, session: str) -> None:
        """`say` writes replies to the client."""
        self._client = client
        self._say = say
        self._limits = context.limits
        self._held = context.timeouts.upstream.held
        self._reporter = context.reporter
        self._session = session
        self._chunked: _Chunked | None = None

    def _passage(self, reader: ContentReader, transaction: Transaction, delivery: Way, max_size: int) -> Passage:
        return Passage(reader, transaction, delivery, max_size, self._client, self._held, self._reporter, self._session)

    async def begin(self, transaction: Transaction, delivery: Way) -> bool:
        """DATA; whether the client was told to go on."""
        reply = await _ask_to_send(transaction, delivery)
        goes_on = reply.severity == 3
        if self._client.spoke_early():
            if goes_on:
                delivery.give_up()
            self.refuse_early_input(transaction)
        if not goes_on:
            transaction.refused(reply)
        await self._say([reply])
        return goes_on

    def refuse_early_input(self, transaction: Transaction | None) -> NoReturn:
        """Octets came behind DATA, AUTH or STARTTLS before its reply: whatever they are, they are not read (attacks 5, 6, 9)."""
        if transaction is not None:
            transaction.refused(local_replies.SYNC_VIOLATION)
        what = "the client sent on before our reply told it how"
        self._reporter.violation("client", what, session=self._session, reply=local_replies.SYNC_VIOLATION)
        raise Goodbye(what, local_replies.SYNC_VIOLATION)

    async def finish(self, transaction: Transaction, delivery: Way, max_size: int) -> Reply:
        """From 354 to the verdict, and the client has it."""
        self._client.begin_message()
        passage = self._passage(self._client.reader, transaction, delivery, max_size)
        while True:
            try:
                part = await self._client.mail_data()
            except PeerLost:
                passage.give_up()  # at once: the goodbyes to the client may take a while
                raise
            if not part.ended:
                self._check_rate(passage)
            verdict = await passage.take(part)
            if verdict is not None:
                if part.ended:
                    break
                if passage.intake.overrun:
                    passage.note_verdict(verdict)
                    self._client.protocol.cut_mail_data_short()
                    raise Goodbye("the client went on sending a message that was refused", verdict)
        passage.note_verdict(verdict)
        await delivery.settle()
        if transaction.keeping is not None:
            await transaction.settle()
        await self._say([verdict])
        passage.tell_flaws()
        return verdict

    def _check_rate(self, passage: Passage | None) -> None:
        """Wait no longer for a client that sends its message in drops; nothing but the end of the connection can follow."""
        if not self._client.too_slow:
            return
        if passage is not None:
            passage.give_up()
        self._reporter.limit("minimum_rate", session=self._session, reply=local_replies.DATA_TOO_SLOW)
        raise Goodbye("the client sent its message too slowly", local_replies.DATA_TOO_SLOW)

    # Chunks (RFC 3030).

    async def chunk(self, command: Bdat, transaction: Transaction, delivery: Way, max_size: int) -> Reply:
        """One chunk; its reply is not said yet. To the last one it is the verdict on the message."""
        chunked = self._chunked
        if chunked is None:
            chunked = await self._begin_chunks(transaction, delivery, max_size)
        await self._take_chunk(chunked, command, max_size)
        if chunked.verdict is not None and not chunked.noted:
            # Not before the chunk was read: a client that stalls in it hears another answer.
            if chunked.passage is None:
                transaction.refused(chunked.verdict)
            else:
                chunked.passage.note_verdict(chunked.verdict)
            chunked.noted = True
        if command.last:
            self._chunked = None
            await delivery.settle()
            await transaction.settle()
            if chunked.passage is not None:
                chunked.passage.tell_flaws()
        return chunked.verdict or local_replies.CHUNK_OK

    async def refuse_chunks(self, reply: Reply, delivery: Way, *, noted: bool = False) -> _Chunked:
        """A message is refused before any of it left; what else the client says of it is answered here, so upstream is done with its envelope (I12)."""
        self._client.begin_message()
        self._client.no_message()
        await delivery.pass_on((Rset(),))
        chunked = self._chunked = _Chunked(None, None, reply, noted=noted)
        return chunked

    async def _begin_chunks(self, transaction: Transaction, delivery: Way, max_size: int) -> _Chunked:
        self._client.begin_message()
        reply = await _ask_to_send(transaction, delivery)
        if reply.severity != 3:
            return await self.refuse_chunks(reply, delivery)
        reader = ChunkReader(self._limits.line_bytes, bare_ends=transaction.normalises)
        passage = self._passage(reader, transaction, delivery, max_size)
        chunked = self._chunked = _Chunked(reader, passage, None)
        return chunked

    async def _take_chunk(self, chunked: _Chunked, command: Bdat, max_size: int) -> None:
        reader, passage = chunked.reader, chunked.passage
        chunked.count += 1
        if passage is not None and chunked.verdict is None and chunked.count > self._limits.chunks:
            self._limit("chunks", local_replies.TOO_MANY_CHUNKS, passage)
            chunked.verdict = local_replies.TOO_MANY_CHUNKS
        if reader is None or passage is None or chunked.verdict is not None:
            await self.skip_chunk(max_size)
            return
        if reader.size + command.size > max_size:
            # PROTOCOL, choices: what is so long is not even read. Nothing but the end of the connection can follow.
            self._limit("message_bytes", local_replies.MESSAGE_TOO_BIG, passage)
            passage.note_verdict(local_replies.MESSAGE_TOO_BIG)
            raise Goodbye("the message is too big", local_replies.MESSAGE_TOO_BIG)
        try:
            while octets := await self._client.chunk():
                self._check_rate(passage)
                await passage.take(reader.feed(octets))
        except PeerLost:
            passage.give_up()
            raise
        chunked.verdict = await passage.take(reader.finish()) if command.last else passage.verdict

    def _limit(self, limit: str, reply: Reply, passage: Passage) -> None:
        passage.give_up()
        self._reporter.limit(limit, session=self._session, reply=reply)

    async def skip_chunk(self, max_size: int) -> None:
        """Read the octets of a chunk that is refused: they came whatever we say (attack 4). So much is read and no more."""
        if self._client.protocol.chunk > max_size:
            raise Goodbye("a chunk that is refused is too big to be read", local_replies.MESSAGE_TOO_BIG)
        if not self.chunking:
            self._client.begin_message()
            self._client.no_message()
        while await self._client.chunk():
            self._check_rate(None)

    @property
    def chunking(self) -> bool:
        """Whether a message has begun in chunks, of which not the last one has come."""
        return self._chunked is not None

    def abandon(self) -> bool:
        """RSET and its like: whether a message was under way in chunks, of which upstream had seen a part (PROTOCOL I3: then it is left)."""
        chunked, self._chunked = self._chunked, None
        if chunked is None:
            return False
        if chunked.passage is not None:
            chunked.passage.give_up()
        return True


class _Chunked:
    """A message that comes in chunks. After a `verdict` all further chunks get the same, up to the last, or RSET (RFC 3030 §2)."""

    __slots__ = ("count", "noted", "passage", "reader", "verdict")

    def __init__(
        self, reader: ChunkReader | None, passage: Passage | None, verdict: Reply | None, *, noted: bool = False
    ) -> None:
        self.reader = reader
        self.passage = passage
        self.verdict = verdict
        self.noted = noted
        self.count = 0


async def _ask_to_send(transaction: Transaction, delivery: Way) -> Reply:
    """DATA upstream; its reply, 3yz: go ahead."""
    started = transaction.now()
    reply = await delivery.data(transaction)
    transaction.upstream_seconds += transaction.now() - started
    return reply
