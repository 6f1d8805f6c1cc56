"""How a transaction leaves: the only place that knows the two gates (DESIGN §3, §6), the envelope's and the data's.

Both gates are open here: a command goes upstream when it comes, and upstream's reply is the answer; mail data leaves as it is read.
A gate that a rule closes will note the command, answer locally, and play `outgoing` upstream when it opens: what a caller sees, a
reply to each command and at most one verdict on the message, stays the same.
Invariants: the envelope that leaves is made here and nowhere else; mail data leaves only between a 3yz and `end` or `give_up`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from relayproxy.mail.trace import TRACE_MARGIN
from relayproxy.smtp.commands import Mail
from relayproxy.smtp.grammar import number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from relayproxy.relay.carriers import Forwarding
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.parameters import Parameters
    from relayproxy.smtp.replies import Reply

Asked = TypeVar("Asked", bound="Command")


class Delivery:
    """The way to one upstream."""

    __slots__ = ("_forwarding", "growth", "streaming", "upstream")

    def __init__(self, upstream: Upstream, *, trace: bool, forwarding: Forwarding | None = None) -> None:
        """`forwarding`: where upstream is told with each transaction whose it is."""
        self.upstream = upstream
        self._forwarding = forwarding
        #: While upstream is to take mail data.
        self.streaming = False
        #: Octets by which the message may grow on its way (RFC 1870 §6.3).
        self.growth = TRACE_MARGIN if trace else 0

    def outgoing(self, command: Asked) -> Asked:
        """The command as it leaves: SIZE grown by what we add, or dropped where upstream has none; no `MAIL AUTH=`.

        We do not vouch for what AUTH= says (RFC 4954 §5).
        """
        if not isinstance(command, Mail) or not command.parameters:
            return command
        parameters = self._mail_parameters(command.parameters)
        return command if parameters == command.parameters else msgspec.structs.replace(command, parameters=parameters)

    def _mail_parameters(self, received: Parameters) -> Parameters:
        sent: list[tuple[bytes, bytes | None]] = []
        for keyword, value in received:
            match keyword.upper():
                case b"SIZE" if value is not None:
                    if b"SIZE" in self.upstream.capabilities:
                        sent.append((keyword, b"%d" % (number(value) + self.growth)))
                case b"AUTH":
                    pass
                case _:
                    sent.append((keyword, value))
        return tuple(sent)

    def ask(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Envelope gate: pass the commands on as the group that they came in; a reply to each."""
        if self._forwarding is not None:
            return self._forwarding.exchange(self.upstream, commands)
        return self.upstream.exchange(commands)

    def data(self, transaction: str) -> Awaitable[Reply]:
        """Data gate: 3yz, and mail data may leave."""
        return self.upstream.start_data(transaction)

    async def body(self, octets: bytes) -> Reply | None:
        """Mail data as on the wire. A reply is the verdict, given early: send no more."""
        if not octets:
            return None
        self.streaming = True
        try:
            return await self.upstream.send(octets)
        finally:
            self.streaming = False

    def end(self, octets: bytes) -> Awaitable[Reply]:
        """The last mail data and the final dot: the commit. The reply is the verdict."""
        return self.upstream.finish(octets)

    def give_up(self) -> None:
        """Once DATA has gone upstream there is no other way out than to close without a dot (PROTOCOL I3)."""
        self.upstream.drop()
