"""The upstream's leg: the connection that there is, the way to it, and how another takes its place.

A verdict that came before the end of a message closes the connection (PROTOCOL I3): the next MAIL dials again.
Deciding what is asked of upstream does not belong here (session.py), nor failover between servers (connect.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from relayproxy.net.peer import PeerLost
from relayproxy.relay.carriers import Forwarding
from relayproxy.relay.client_leg import Goodbye
from relayproxy.relay.connect import UpstreamUnavailable
from relayproxy.relay.delivery import Delivery
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from relayproxy.net.address import Peername
    from relayproxy.relay.context import Context
    from relayproxy.relay.delivery import Way
    from relayproxy.relay.gated import GatedDelivery
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Ehlo, Helo
    from relayproxy.smtp.replies import Reply

#: Makes a connection for the session with this id, saying this name in EHLO (None: our own), to the upstream of this name (None: the listener's own).
#: Raises UpstreamUnavailable.
Connect = Callable[[str, "bytes | None", "str | None"], "Awaitable[Upstream]"]


class UpstreamLeg:
    """`upstream`, and the `delivery` to it; None as long as none was had."""

    __slots__ = (
        "_connect",
        "_connecting",
        "_context",
        "_forwarding",
        "_gated",
        "_hello",
        "_session",
        "delivery",
        "fits",
        "routed",
        "upstream",
    )

    def __init__(self, session: str, context: Context, connect: Connect, client: Peername) -> None:
        self.upstream: Upstream | None = None
        self.delivery: Delivery | None = None
        #: To which upstream a rule routes; None: to the listener's own.
        self.routed: str | None = None
        #: Whether upstream offers all that the client was offered; what does not gets no mail.
        self.fits = True
        self._gated: GatedDelivery | None = None
        self._hello: Ehlo | Helo | None = None
        self._session = session
        self._context = context
        self._connect = connect
        self._connecting: trio.CancelScope | None = None
        self._forwarding: Forwarding | None = None
        if context.forwarding:
            self._forwarding = Forwarding(client, session, partial(context.reporter.error, "upstream", session=session))

    @property
    def recipients(self) -> int | None:
        """How many a transaction may have, None: no matter. LMTP answers a message once for each, and the client hears one answer (RFC 2033 §4.2)."""
        return 1 if self.upstream is not None and self.upstream.kind == "lmtp" else None

    async def dial(self, name: bytes | None) -> None:
        """Connect, saying this name. Raises UpstreamUnavailable, which has been told; a shutdown does not wait for it, but raises Goodbye."""
        self._connecting = trio.CancelScope()
        try:
            with self._connecting:
                upstream = await self._connect(self._session, name, self.routed)
        except UpstreamUnavailable as error:
            if error.violation:
                self._context.reporter.violation("upstream", error.what, session=self._session, reply=error.reply)
            self._context.reporter.error("upstream", error.what, session=self._session)
            raise
        finally:
            scope, self._connecting = self._connecting, None
        if scope.cancelled_caught:
            if not self._context.shutting_down:
                raise PeerLost("client")  # stop_waiting
            raise Goodbye("shutdown", local_replies.SHUTTING_DOWN)
        self.upstream = upstream
        forwards = (self.routed or self._context.upstream) in self._context.forwarding
        self.delivery = Delivery(
            upstream,
            trace=self._context.trace,
            margin=self._context.edit_margin,
            forwarding=self._forwarding if forwards else None,
        )

    def gate(self, gated: GatedDelivery) -> None:
        """From here on rules have a say."""
        self._gated = gated

    @property
    def way(self) -> Way | None:
        """What transactions are passed to; None as long as there is no upstream."""
        return self.delivery if self._gated is None or self.delivery is None else self._gated

    def hear(self, hello: Ehlo | Helo) -> None:
        """What the client said and we answered: upstream may have to be told."""
        self._hello = hello
        if self._forwarding is not None:
            self._forwarding.hello = hello

    @property
    def _name(self) -> bytes | None:
        """What a connection that takes another's place says in EHLO; None: our own name."""
        return self._hello.name if self._context.says_client_name and self._hello is not None else None

    async def dial_again(self) -> Reply | None:
        """After a verdict that closed upstream; what the client hears where no other is to be had."""
        try:
            await self.dial(self._name)
        except UpstreamUnavailable as error:
            return error.reply if error.reply.code == 421 else local_replies.UPSTREAM_GONE
        self.fits = True  # or the session ends here
        return None

    async def reroute(self, to: str | None) -> Reply | None:
        """To the upstream of that name, in place of the one that there is; what the client hears where it is not to be had."""
        if self.upstream is not None:
            await self.upstream.leave()  # a session has one connection at a time (PROTOCOL, choices)
        self.routed, self.fits = to, False
        try:
            await self.dial(self._name)
        except UpstreamUnavailable:
            self.routed = None  # where the next MAIL dials
            return local_replies.UPSTREAM_LOST
        return None

    def stop_dialling(self) -> bool:
        """A shutdown: give up a connection that is being made; whether there was one."""
        if self._connecting is None:
            return False
        self._connecting.cancel()
        return True

    @property
    def alone(self) -> bool:
        """Whether upstream is waited for and nobody hears the client: before the greeting, and while mail data is to be taken."""
        return self._connecting is not None if self.delivery is None else self.delivery.streaming

    def stop_waiting(self) -> None:
        """The client is gone: end the wait."""
        if not self.stop_dialling():
            self.expire()

    def expire(self) -> None:
        """The grace of a shutdown is over."""
        if self.upstream is not None:
            self.upstream.expire()

    async def leave(self) -> None:
        """End it, politely where that can be."""
        self._gated = None  # it has the session
        if (upstream := self.upstream) is not None:
            heard = upstream.violation is not None
            await upstream.leave()
            if (violation := upstream.violation) is not None:
                reply = violation.reply if heard else None
                self._context.reporter.violation("upstream", violation.what, session=self._session, reply=reply)
