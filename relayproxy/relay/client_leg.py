"""The client's leg: a peer and the protocol that faces it, joined in the few moves that a session makes.

Groups come in whole, replies go out gathered in one write, mail data comes in slices; deadlines are over whole units
(RFC 5321 §4.5.3.2, attack 17). Deciding anything does not belong here (session.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from relayproxy.net.peer import PeerLost, PeerStalled
from relayproxy.smtp.server import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.net.peer import Peer
    from relayproxy.relay.settings import ClientTimeouts
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.data import DataReader, DataSlice
    from relayproxy.smtp.replies import Reply
    from relayproxy.smtp.server import ServerProtocol

#: Commands of a group that are answered together; the rest waits in the buffer, so that no group grows with what a client sends.
GROUP = 100


class ClientLeg:
    """`ended`: the client has half-closed; what it had sent is still answered (PROTOCOL §1.1 (7))."""

    __slots__ = ("_timeouts", "ended", "peer", "protocol")

    def __init__(self, peer: Peer, protocol: ServerProtocol, timeouts: ClientTimeouts) -> None:
        self.peer = peer
        self.protocol = protocol
        self.ended = False
        self._timeouts = timeouts

    def group_now(self) -> list[Command | Refused]:
        """The commands that have come and can be answered together."""
        group: list[Command | Refused] = []
        while len(group) < GROUP and (command := self.protocol.next_command()) is not None:
            group.append(command)
        return group

    async def group(self) -> list[Command | Refused]:
        """The next group; empty when the client has closed. The deadline is for the whole line, not for each octet of it."""
        if group := self.group_now():
            return group
        deadline = 0.0
        while not self.ended:
            if deadline:
                data = await self.peer.receive(max(0.0, deadline - trio.current_time()))
            else:
                data = await self.peer.receive(self._timeouts.command)
            if not data:
                self.ended = True
                break
            self.protocol.receive_data(data)
            if group := self.group_now():
                return group
            deadline = deadline or trio.current_time() + self._timeouts.command
        return []

    def spoke_early(self) -> bool:
        """Whether octets have come behind a command that changes what octets mean, before its reply (PROTOCOL §1.3)."""
        if not self.protocol.unread and self.peer.readable and (data := self.peer.receive_now()) is not None:
            if data:
                self.protocol.receive_data(data)
            else:
                self.ended = True
        return self.protocol.unread > 0

    async def answer(self, replies: Iterable[Reply]) -> None:
        """Write replies to the oldest commands, in one go; nothing follows a 421, which promises to close (RFC 5321 §3.8)."""
        octets: list[bytes] = []
        for reply in replies:
            octets.append(self.protocol.send(reply))
            if reply.code == 421:
                break
        await self.peer.send(b"".join(octets), self._timeouts.write)

    @property
    def closing(self) -> bool:
        return self.protocol.dialogue.channel == "closing"

    async def mail_data(self) -> DataSlice:
        """The next slice of mail data. Raises PeerLost where the client leaves before its end, or is told to."""
        if self.peer.expired:
            raise PeerStalled(self.peer.leg, "its time was over")  # however fast it sends
        data = b"" if self.ended else await self.peer.receive(self._timeouts.data_block)
        if not data:
            self.ended = True
            raise PeerLost(self.peer.leg)
        return self.protocol.receive_mail_data(data)

    @property
    def reader(self) -> DataReader:
        return self.protocol.mail_data
