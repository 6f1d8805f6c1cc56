"""AUTH with a client, read top to bottom like RFC 4954 §4: passed to upstream line by line, or taken whatever it is.

PROTOCOL §1.9, fault matrix row S3, attacks 9, 21. Invariants: lock-step: every line of the client's is answered before the next is read, and what
comes before our answer ends the session; nothing that is said in an exchange is kept longer than it, nor told; whatever cuts one short
on our side cancels it upstream, and no connection in whose name a client has authenticated is ever dialled again (I7: `passed`).
Which lines are whose does not belong here (smtp/dialogue.py), nor our own credentials (credentials.py).
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING

from relayproxy.net.peer import PeerLost
from relayproxy.record.redact import looks_like_auth
from relayproxy.record.report import AuthRecord
from relayproxy.record.text import text
from relayproxy.relay.client_leg import Goodbye
from relayproxy.smtp import local_replies, sasl
from relayproxy.smtp.commands import SaslCancel, SaslResponse
from relayproxy.smtp.server import Refused
from relayproxy.tls.facts import is_private

if TYPE_CHECKING:
    from relayproxy.record.report import AuthOutcome
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context, Offer
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Auth, Command
    from relayproxy.smtp.replies import Reply

_passable = lru_cache(maxsize=64)(sasl.passable)


class Authentication:
    """One session's."""

    __slots__ = ("_client", "_context", "_session", "out_of_step", "record", "user")

    def __init__(self, client: ClientLeg, context: Context, session: str) -> None:
        self._client = client
        self._context = context
        self._session = session
        #: Who the client is; None before AUTH has succeeded.
        self.record: AuthRecord | None = None
        #: Who the client says it is, for rules; None as long as it has not logged in.
        self.user: str | None = None
        #: There was an AUTH, and no MAIL since: what is no command may be a line that was meant for it (attack 21).
        self.out_of_step = False

    @property
    def passed(self) -> bool:
        """Upstream knows this connection as the client's: there can be no other one for it (I7)."""
        return self.record is not None and self._context.auth == "pass"

    # What is offered.

    def offer(self, upstream: Upstream) -> Offer:
        """Our answer to EHLO in front of such an upstream, with the mechanisms that this client may use (PROTOCOL §1.4, §1.9)."""
        offer = self._context.offer(
            upstream.capabilities, self._mechanisms(upstream), under_tls=self._client.tls is not None
        )
        # RFC 4954 §6: whom TLS would help is told so.
        helps = b"STARTTLS" in offer.capabilities and self._context.auth != "off" and not self._client_may
        self._client.protocol.unoffered_auth = local_replies.ENCRYPTION_NEEDED if helps else local_replies.BAD_SEQUENCE
        return offer

    def gap(self, upstream: Upstream | None, reply: Reply) -> Reply | None:
        """The reply, unless upstream offers all that the client was offered in front of another."""
        offered = self._client.protocol.offered
        return None if upstream is not None and offered.covered_by(self.offer(upstream).capabilities) else reply

    def _mechanisms(self, upstream: Upstream) -> bytes:
        mode = self._context.auth
        if mode == "off" or not self._client_may:
            return b""
        if mode == "any":
            return sasl.ACCEPTED
        return _passable(upstream.capabilities.mechanisms) if upstream.private else b""

    @property
    def _client_may(self) -> bool:
        client = self._client
        return self._context.auth_in_clear or is_private(client.tls, client.peer.address)

    # The exchange.

    async def converse(self, command: Auth, upstream: Upstream) -> Reply:
        """AUTH up to its last reply. Raises Goodbye and PeerLost, as all that speaks to the client does."""
        witness = sasl.Witness(command.mechanism)
        if command.initial is not None:
            witness.hear(command.initial)
        outcome: AuthOutcome = "failed"
        reply: Reply | None = None
        self.out_of_step = True
        try:
            self._check_silence()
            if self._context.auth == "any":
                reply = await self._accept(command, witness)
            else:
                reply = await self._pass(command, witness, upstream)
            self._check_silence()
            outcome = "cancelled" if witness.cancelled else _OUTCOMES[reply.severity]
        finally:
            # What takes whatever comes has not seen that it was right: rules are told who it says it is, nobody else.
            user = witness.user(accepted=outcome == "accepted" and self._context.auth != "any")
            told = None if reply is None else witness.tellable(reply)
            self._context.reporter.auth("client", command.mechanism, user, outcome, session=self._session, reply=told)
        if outcome == "accepted":
            self.record = AuthRecord(command.mechanism.decode("ascii"), None if user is None else text(user))
            self.user = text(witness.user(accepted=True) or b"")
        return reply

    def tell_refused(self, refused: Refused) -> None:
        """A line that was no acceptable command: told, and behind an AUTH as if it were a part of it (attack 21)."""
        self._context.reporter.violation(
            "client", refused.what, session=self._session, line=refused.line, sasl=self.out_of_step, reply=refused.reply
        )
        if looks_like_auth(refused.line) or refused.reply is local_replies.AUTH_LINE_TOO_LONG:
            self.out_of_step = True

    def _check_silence(self) -> None:
        """What came behind a line of the exchange, before it was answered, was not meant for whom it would be read by (attack 9)."""
        if self._client.spoke_early():
            what = "the client sent more before its AUTH was answered"
            self._context.reporter.violation("client", what, session=self._session, reply=local_replies.SYNC_VIOLATION)
            raise Goodbye(what, local_replies.SYNC_VIOLATION)

    async def _response(self, challenge: Reply, witness: sasl.Witness) -> SaslResponse | SaslCancel | Reply:
        """Say 334 and hear the client; a reply where what it said was no response."""
        if self._context.shutting_down:
            raise Goodbye("shutdown", local_replies.SHUTTING_DOWN)
        await self._client.answer([challenge])
        response = await self._client.response()
        if isinstance(response, Refused):
            self._context.reporter.violation(
                "client", response.what, session=self._session, line=response.line, sasl=True, reply=response.reply
            )
            witness.cancelled = True
            if response.fatal:
                raise Goodbye(response.what, response.reply)
            return response.reply
        self._check_silence()
        if isinstance(response, SaslCancel):
            witness.cancelled = True
        else:
            witness.hear(response.octets)
        return response

    async def _accept(self, command: Auth, witness: sasl.Witness) -> Reply:
        """Mode `any`: all that has the mechanism's form is right."""
        nonce = b"<%b@%b>" % (secrets.token_hex(16).encode("ascii"), self._context.ehlo_name)
        challenges = sasl.prompts(command.mechanism, nonce)
        if command.initial is not None:
            if command.mechanism == b"CRAM-MD5":
                return local_replies.BAD_RESPONSE  # RFC 4954 §4: there is nothing yet to respond to
            challenges = challenges[1:]
        for challenge in challenges:
            response = await self._response(local_replies.challenge(sasl.encode(challenge)), witness)
            if isinstance(response, SaslCancel):
                return local_replies.AUTH_CANCELLED
            if not isinstance(response, SaslResponse):
                return response
        return local_replies.AUTHENTICATED if witness.fits else local_replies.BAD_RESPONSE

    async def _pass(self, command: Auth, witness: sasl.Witness, upstream: Upstream) -> Reply:
        """Mode `pass`: challenges and responses go on as they are."""
        reply = await self._ask(command, upstream)
        while reply.severity == 3:
            try:
                if witness.heard >= sasl.MAX_CHALLENGES:
                    await self._cancel(upstream)
                    return local_replies.AUTH_UNAVAILABLE
                self._check_silence()
                response = await self._response(reply, witness)
                if self._context.unrecorded is not None:
                    await self._cancel(upstream)
                    return local_replies.AUTH_UNAVAILABLE
            except (PeerLost, Goodbye):
                await self._cancel(upstream)
                raise
            if not isinstance(response, SaslResponse | SaslCancel):
                await self._cancel(upstream)
                return response
            reply = await self._ask(response, upstream)
        return reply

    @staticmethod
    async def _ask(command: Command, upstream: Upstream) -> Reply:
        """Upstream's reply; where upstream was lost, what RFC 4954 §6 has for that."""
        (reply,) = await upstream.exchange([command])
        ours = upstream.failure is not None and reply.origin == "proxy" and reply is not local_replies.SHUTTING_DOWN
        return local_replies.AUTH_UNAVAILABLE if ours else reply

    async def _cancel(self, upstream: Upstream) -> None:
        """Leave upstream where it takes commands again; when shutting down there is no time for that (S3)."""
        if self._context.shutting_down:
            upstream.drop()
        else:
            deadline = self._client.peer.now() + self._context.timeouts.upstream.quit
            await upstream.exchange([SaslCancel()], deadline=deadline)


_OUTCOMES: dict[int, AuthOutcome] = {2: "accepted", 4: "failed", 5: "refused"}
