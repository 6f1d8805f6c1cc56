"""A message from DATA to its verdict: passed on while it comes, judged as it passes.

Read top to bottom like RFC 5321 §3.3 and §4.1.1.4. Invariants (PROTOCOL §0, §1.5): mail data that comes before it was asked for is never read as
commands (attack 5); it is read to its true end whatever is wrong with it; the dot leaves only if the client's own came and nothing speaks
against the message (I3); a 2xx is upstream's own, and nothing local changes it any more (I1, I2).
What speaks against a message does not belong here (message.py), nor what is told of it (transaction.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

from relayproxy.net.peer import PeerLost
from relayproxy.relay.client_leg import Goodbye
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from relayproxy.record.log import Reporter
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.delivery import Delivery
    from relayproxy.relay.message import Intake, Objection
    from relayproxy.relay.transaction import Transaction
    from relayproxy.smtp.replies import Reply


Say = Callable[["list[Reply]"], Awaitable[None]]


class Transfer:
    """Takes the messages of a session. Raises PeerLost and Goodbye, as all that speaks to the client does."""

    __slots__ = ("_client", "_reporter", "_say", "_session")

    def __init__(self, client: ClientLeg, say: Say, reporter: Reporter, session: str) -> None:
        """`say` writes replies to the client."""
        self._client = client
        self._say = say
        self._reporter = reporter
        self._session = session

    async def begin(self, transaction: Transaction, delivery: Delivery, replies: list[Reply]) -> bool:
        """DATA, behind `replies` to what came before it in its group; whether the client was told to go on."""
        started = transaction.now()
        reply = await delivery.data(transaction.id)
        transaction.upstream_seconds += transaction.now() - started
        if self._client.spoke_early():
            if reply.severity == 3:
                delivery.give_up()
            await self.refuse_early_data(replies, transaction)
        if reply.severity != 3:
            transaction.refused(reply)
        await self._say([*replies, reply])
        return reply.severity == 3

    async def refuse_early_data(self, replies: list[Reply], transaction: Transaction | None) -> NoReturn:
        """Octets came behind DATA before its reply: whatever they are, they are not read."""
        if replies:
            await self._say(replies)
        if transaction is not None:
            transaction.refused(local_replies.SYNC_VIOLATION)
        what = "the client sent mail data before it was told to"
        self._reporter.violation("client", what, session=self._session, reply=local_replies.SYNC_VIOLATION)
        raise Goodbye(what, local_replies.SYNC_VIOLATION)

    async def finish(self, transaction: Transaction, delivery: Delivery, max_size: int) -> Reply:
        """From 354 to the verdict, and the client has it."""
        intake = transaction.begin_message(
            self._client.reader, max_size, eight_bit_passes=b"8BITMIME" in delivery.upstream.capabilities
        )
        verdict: Reply | None = None
        while True:
            try:
                part = await self._client.mail_data()
            except PeerLost:
                delivery.give_up()  # at once: the goodbyes to the client may take a while
                raise
            octets = intake.add(part)
            if verdict is None and intake.objection is not None:
                delivery.give_up()
                verdict = self._object(intake.objection, transaction)
            if part.ended:
                break
            if verdict is None:
                verdict = await delivery.body(octets)
            elif intake.overrun:
                transaction.verdict(verdict, delivery.upstream.progress)
                self._client.protocol.cut_mail_data_short()
                raise Goodbye("the client went on sending a message that was refused", verdict)
        if verdict is None:
            started = transaction.now()
            try:
                verdict = await delivery.end(octets)
            except BaseException:
                transaction.cut_short(delivery.upstream.progress)
                raise
            transaction.upstream_seconds += transaction.now() - started
        transaction.verdict(verdict, delivery.upstream.progress)
        await self._say([verdict])
        self._tell_flaws(intake, transaction, delivery)
        return verdict

    def _object(self, objection: Objection, transaction: Transaction) -> Reply:
        """Tell why a message is refused; it is read to its end all the same."""
        reply, session, id_ = objection.reply, self._session, transaction.id
        if objection.limit is not None:
            self._reporter.limit(objection.limit, session=session, transaction=id_, reply=reply)
        else:
            self._reporter.violation("client", objection.what, session=session, transaction=id_, reply=reply)
        return reply

    def _tell_flaws(self, intake: Intake, transaction: Transaction, delivery: Delivery) -> None:
        """What passed all the same, or went wrong on our own disk."""
        session, id_ = self._session, transaction.id
        if intake.objection is None and intake.eight_bit and not transaction.declares_eight_bit:
            # RFC 6152 §3; PROTOCOL §1.5: passed and flagged
            self._reporter.violation(
                "client", "8-bit content that MAIL did not announce", session=session, transaction=id_
            )
        upstream = delivery.upstream
        if upstream.trouble is not None and upstream.failure is None:
            self._reporter.error("upstream", upstream.trouble, session=session, transaction=id_)
