"""The client's leg: a peer and the protocol that faces it, joined in the few moves that a session makes.

Groups come in whole, replies go out gathered in one write, mail data comes in slices; deadlines are over whole units
(RFC 5321 §4.5.3.2, attack 17). Deciding anything does not belong here (session.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from relayproxy.net.peer import PeerLost, PeerStalled
from relayproxy.record.report import ClientRecord
from relayproxy.record.text import text
from relayproxy.relay.tls_records import client_record
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.net.peer import Peer
    from relayproxy.record.report import AuthRecord
    from relayproxy.record.tape import LegTape
    from relayproxy.relay.settings import ClientTimeouts
    from relayproxy.rules.decision import Faults
    from relayproxy.smtp.commands import Command, Ehlo, Helo, SaslCancel, SaslResponse
    from relayproxy.smtp.data import DataReader, DataSlice
    from relayproxy.smtp.replies import Reply
    from relayproxy.smtp.server import Refused, ServerProtocol
    from relayproxy.tls.contexts import ServerTls
    from relayproxy.tls.facts import TlsFacts

#: Commands of a group that are answered together; the rest waits in the buffer, so that no group grows with what a client sends.
GROUP = 100
#: Seconds that who has sent its message is not asked whether it is still there: who has half-closed looks as if it were not.
HALF_CLOSED = 10.0


class Goodbye(Exception):  # noqa: N818  it is no error
    """The session ends, after this reply where there is one."""

    def __init__(self, why: str, reply: Reply | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.reply = reply


class ClientLeg:
    """`ended`: the client has half-closed; what it had sent is still answered (PROTOCOL §1.1 (7))."""

    __slots__ = (
        "_came",
        "_minimum_rate",
        "_pausing",
        "_server_tls",
        "_stays_until",
        "_tape",
        "_timeouts",
        "_waited",
        "ended",
        "faults",
        "peer",
        "protocol",
        "resets",
        "tls",
        "why",
    )

    def __init__(
        self,
        peer: Peer,
        protocol: ServerProtocol,
        timeouts: ClientTimeouts,
        minimum_rate: int,
        server_tls: ServerTls | None = None,
        tape: LegTape | None = None,
    ) -> None:
        """`minimum_rate`: of mail data, in octets a second; `server_tls`: what the client may have TLS with, as long as this session lasts."""
        self.peer = peer
        self.protocol = protocol
        self.ended = False
        #: None in clear.
        self.tls: TlsFacts | None = None
        #: Asked for before anything is said: what rules have befall it.
        self.faults: Callable[[], Faults | None] | None = None
        #: Why nothing more is said; None as long as it is.
        self.why: str | None = None
        #: Whether the connection ends harder than by closing it.
        self.resets = False
        self._timeouts = timeouts
        self._server_tls = server_tls
        self._tape = tape
        self._minimum_rate = minimum_rate
        self._waited = 0.0
        self._came = 0
        self._pausing: trio.CancelScope | None = None
        self._stays_until = 0.0  # until when it is not asked whether the client has left meanwhile

    def record(self, helo: Ehlo | Helo | None, auth: AuthRecord | None) -> ClientRecord:
        """Who speaks to us, as it is told: what it has said of itself so far, and what TLS shows."""
        tls = None if self.tls is None else client_record(self.tls)
        return ClientRecord(self.peer.address, self.peer.port, None if helo is None else text(helo.name), tls, auth)

    async def group(self) -> list[Command | Refused]:
        """The next group; empty when the client has closed. The deadline is for the whole line, not for each octet of it."""
        peer, protocol = self.peer, self.protocol
        if protocol.unread and (group := protocol.next_group(GROUP)):
            return group
        deadline = peer.now() + self._timeouts.command
        while not self.ended:
            data = await peer.receive_by(deadline)
            if not data:
                self.ended = True
                break
            protocol.receive_data(data)
            if group := protocol.next_group(GROUP):
                return group
        return []

    async def response(self) -> SaslResponse | SaslCancel | Refused:
        """What the client says to our 334. Raises PeerLost where it leaves instead."""
        peer, protocol = self.peer, self.protocol
        deadline = peer.now() + self._timeouts.auth
        while (response := protocol.next_response()) is None:
            data = b"" if self.ended else await peer.receive_by(deadline)
            if not data:
                self.ended = True
                raise PeerLost(peer.leg, "it closed in the middle of AUTH")
            protocol.receive_data(data)
        return response

    def spoke_early(self) -> bool:
        """Whether octets have come behind a command that changes what octets mean, before its reply (PROTOCOL §1.3)."""
        if self.protocol.unread:
            return True
        if self.peer.stream.readable and (data := self.peer.receive_now()) is not None:
            if data:
                self.protocol.receive_data(data)
                return True
            self.ended = True
        return False

    async def start_tls(self) -> None:
        """The handshake; all that follows is under TLS. Raises TlsFailure, behind which there is nothing but to close."""
        if self._server_tls is None:
            raise ValueError("expected a context for TLS, as it was offered")
        stream = await self._server_tls.accept(self.peer.stream, seconds=self._timeouts.handshake)
        self.peer.stream = stream
        self.protocol.tls_started()
        self.tls = stream.facts
        if self._tape is not None:
            self._tape.event("tls", self.tls.version, self.tls.cipher)

    async def answer(self, replies: Sequence[Reply]) -> bool:
        """Write replies to the oldest commands, in one go; nothing follows a 421, which promises to close (RFC 5321 §3.8). False: the last is not written, as a rule or a recording has it."""
        faults = None if self.faults is None else self.faults()
        if faults is not None and not await self._befall(faults):
            for reply in replies:
                self.protocol.pass_over(reply)
            return False
        octets, hung_up = b"", False
        for reply in replies:
            if hung_up := reply is local_replies.HUNG_UP:
                self.protocol.pass_over(reply)
                break
            octets += self.protocol.send(reply)
            if reply.code == 421:
                break
        if octets and not self.peer.say(octets):
            await self.peer.say_rest(self._timeouts.write)
        if self.resets:
            self.peer.reset()
        return not hung_up

    async def _befall(self, faults: Faults) -> bool:
        """The trouble that rules ask for (DESIGN §6 "delay", "disconnect", "drop_reply"); whether what is to be said is said."""
        if faults.delay:
            await self.pause(faults.delay)
        if faults.disconnect is not None:
            self.why = "a rule ends the connection"
        if faults.disconnect == "reset":
            self.peer.reset()
        return faults.disconnect in (None, "after-reply") and not faults.drop_reply

    @property
    def closing(self) -> bool:
        return self.protocol.dialogue.place.channel == "closing"

    async def pause(self, seconds: float) -> None:
        """Wait so long because a rule wants it; not behind `expire`, nor for a client that is gone."""
        self._stays_until = 0.0
        with trio.CancelScope() as self._pausing:
            if not self.peer.expired:
                await trio.sleep(seconds)
        self._pausing = None

    def patience(self, deadline: float) -> trio.CancelScope:
        """For a wait of ours behind the end of a message: until then, or `expire`, or, once it takes long, until the client is gone.

        Who has sent all that it wanted may have half-closed, and waits all the same (PROTOCOL §1.1 (7)).
        """
        self._stays_until = self.peer.now() + HALF_CLOSED
        self._pausing = trio.CancelScope(deadline=deadline)
        return self._pausing

    def pause_for_nobody(self) -> None:
        """Asked now and then: end a pause that its client did not wait for."""
        if self._pausing is not None and self.peer.gone and self.peer.now() >= self._stays_until:
            self._pausing.cancel()

    def expire(self) -> None:
        """End every wait on this leg: the grace of a shutdown is over."""
        self.peer.expire()
        if self._pausing is not None:
            self._pausing.cancel()

    def begin_message(self) -> None:
        """From here on it is counted how fast mail data comes."""
        self._waited = 0.0
        self._came = 0

    def no_message(self) -> None:
        """What mail data comes now is nobody's: it was refused."""
        if self._tape is not None:
            self._tape.begin_message("")

    @property
    def too_slow(self) -> bool:
        """Whether mail data comes at less than its least rate (attack 17), over all of the message, one `data_block` of patience aside.

        Only what the client is waited for counts, never upstream; and as this is asked when octets have come, a pause within `data_block` is
        no offence as long as what comes behind it makes up for it.
        """
        return self._came < self._minimum_rate * (self._waited - self._timeouts.data_block)

    async def mail_data(self) -> DataSlice:
        """The next slice of mail data. Raises PeerLost where the client leaves before its end, or is told to."""
        return self.protocol.receive_mail_data(await self._block())

    async def chunk(self) -> bytes:
        """The next octets of the chunk under way, b"" once all have come. Raises PeerLost as `mail_data` does."""
        protocol = self.protocol
        if not protocol.chunk:
            return b""
        if not protocol.unread:
            protocol.receive_data(await self._block())
        return protocol.take_chunk()

    async def _block(self) -> bytes:
        peer = self.peer
        if peer.expired:
            raise PeerStalled(peer.leg, "its time was over")  # however fast it sends
        began = peer.now()
        data = b"" if self.ended else await peer.receive_by(began + self._timeouts.data_block)
        if not data:
            self.ended = True
            raise PeerLost(peer.leg)
        self._waited += peer.now() - began
        self._came += len(data)
        return data

    @property
    def reader(self) -> DataReader:
        return self.protocol.mail_data
