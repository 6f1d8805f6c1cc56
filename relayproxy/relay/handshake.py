"""The TLS handshake with a client: when it asks for it with STARTTLS, or before anything else (RFC 3207, RFC 8314 §3.3, PROTOCOL §1.9).

Invariants: nothing is said in clear once the handshake has begun, whatever becomes of it; a shutdown does not wait for it; how it went is
told (`tls`). What the session forgets behind it does not belong here (session.py), nor how TLS is made (tls/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from relayproxy.relay.client_leg import Goodbye
from relayproxy.relay.tls_records import client_record
from relayproxy.smtp import local_replies
from relayproxy.tls.facts import TlsFailure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relayproxy.record.log import Reporter
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.transfer import Say, Transfer
    from relayproxy.smtp.replies import Reply


class Handshake:
    """One client's, made at most once."""

    __slots__ = ("_client", "_reporter", "_say", "_scope", "_session", "_transfer")

    def __init__(self, client: ClientLeg, transfer: Transfer, say: Say, reporter: Reporter, session: str) -> None:
        """`say` writes replies to the client."""
        self._client = client
        self._transfer = transfer
        self._say = say
        self._reporter = reporter
        self._session = session
        self._scope: trio.CancelScope | None = None

    def abandon(self) -> None:
        """Shutting down: end it if it is under way. There is no way to say so inside of a handshake (PROTOCOL §4, S2)."""
        if self._scope is not None:
            self._scope.cancel()

    async def answer(self, reset: Callable[[], Awaitable[Reply | None]]) -> None:
        """STARTTLS. All that was said before is forgotten: next must be EHLO.

        `reset` ends the transaction that is open; a reply where that failed. Raises Goodbye and PeerLost, as all that speaks to the client does.
        """
        refusal = None if self._client.spoke_early() else await reset()
        if self._client.spoke_early():
            self._transfer.refuse_early_input(None)
        await self._say([refusal or local_replies.TLS_READY])
        if refusal is None:
            await self.make()

    async def make(self) -> None:
        """Raises Goodbye, without a reply, where there is no TLS behind it."""
        try:
            self._scope = trio.CancelScope()
            with self._scope:
                await self._client.start_tls()
        except TlsFailure as failure:
            self._reporter.tls_failed("client", failure.what, session=self._session)
            raise Goodbye(f"no TLS: {failure.what}") from None
        if self._client.tls is None:
            raise Goodbye("shutdown")
        self._reporter.tls_started(client_record(self._client.tls), session=self._session)
