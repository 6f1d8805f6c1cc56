"""What DATA and BDAT are answered: whether a message may come now, and what follows from its verdict (RFC 5321 §4.1.1.4, RFC 3030).

The message itself passes in transfer.py. Invariant: octets that a BDAT brings are read whatever it is answered, but where that ends the session (attack 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.smtp import local_replies
from relayproxy.smtp.server import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from relayproxy.relay.allowance import Allowance
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context
    from relayproxy.relay.transactions import Transactions
    from relayproxy.relay.transfer import Transfer
    from relayproxy.relay.upstream_leg import UpstreamLeg
    from relayproxy.smtp.commands import Bdat
    from relayproxy.smtp.replies import Reply


class Messages:
    """One session's."""

    __slots__ = ("_allowance", "_client", "_context", "_leg", "_say", "_transactions", "_transfer")

    def __init__(
        self,
        client: ClientLeg,
        context: Context,
        leg: UpstreamLeg,
        transactions: Transactions,
        transfer: Transfer,
        allowance: Allowance,
        say: Callable[[Sequence[Reply]], Awaitable[None]],
    ) -> None:
        """`say` writes what is pending, and these replies, to the client."""
        self._client = client
        self._context = context
        self._leg = leg
        self._transactions = transactions
        self._transfer = transfer
        self._allowance = allowance
        self._say = say

    async def data(self) -> None:
        """DATA, behind the replies to what came before it in its group."""
        transaction, delivery = self._transactions.open, self._leg.way
        if self._client.spoke_early():
            self._transfer.refuse_early_input(transaction)
        if self._leg.upstream is not None and (failure := self._leg.upstream.failure) is not None:
            if transaction is not None:
                transaction.lost(failure)
            await self._say([failure])
        elif transaction is None or delivery is None or not transaction.accepted:
            await self._say([local_replies.BAD_SEQUENCE if transaction is None else local_replies.NO_RECIPIENTS])
        elif (refusal := self._context.unrecorded) is not None:
            transaction.refused(refusal)
            await self._say([refusal])
        elif await self._transfer.begin(transaction, delivery):
            verdict = await self._transfer.finish(transaction, delivery, self._context.max_size(self._leg.upstream))
            if verdict.severity == 2:
                self._allowance.message_accepted()
            self._transactions.end()

    async def chunk(self, command: Bdat | Refused, refuse: Callable[[Refused], Reply]) -> Reply:
        """BDAT (RFC 3030), behind the replies to what came before it in its group. Its reply is not said yet; `refuse` tells of a refused one."""
        transaction, delivery = self._transactions.open, self._leg.way
        if self._leg.upstream is not None and (failure := self._leg.upstream.failure) is not None:
            if transaction is not None:
                transaction.lost(failure)
            return failure
        max_size = self._context.max_size(self._leg.upstream)
        if self._client.protocol.chunk > min(self._client.protocol.unread, max_size):
            await self._say(())  # nothing that is ready to be said waits for octets (RFC 2920 §3.2)
        if isinstance(command, Refused):
            await self._transfer.skip_chunk(max_size)
            return refuse(command)
        if transaction is None or delivery is None:
            await self._transfer.skip_chunk(max_size)
            return local_replies.BAD_SEQUENCE
        if not self._transfer.chunking:
            refusal = self._context.unrecorded if transaction.accepted else local_replies.NO_RECIPIENTS
            if refusal is not None:
                # Where there are none, told is what they were answered, as with DATA.
                await self._transfer.refuse_chunks(refusal, delivery, noted=not transaction.accepted)
        reply = await self._transfer.chunk(command, transaction, delivery, max_size)
        if command.last:
            if reply.severity == 2:
                self._allowance.message_accepted()
            self._transactions.end()
        return reply

    async def abandon(self) -> Reply | None:
        """What is reset while a message comes in chunks has no other way out than to close upstream (PROTOCOL, choices), or RSET, where its DATA has not left.

        A reply where upstream is lost with that: the 421 that ends the session.
        """
        if self._transfer.abandon():
            if self._leg.way is not None:
                await self._leg.way.settle()
            await self._transactions.settle()
            self._transactions.end()
        return None if self._leg.upstream is None else self._leg.upstream.failure
