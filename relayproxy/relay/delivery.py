"""The way to one upstream, as things come: a command goes upstream when it comes, and upstream's reply is the answer; mail data leaves as it is read.

What a caller sees, a reply to each command and at most one verdict on the message, is the same where rules close a gate (gated.py).
Invariants: mail data leaves only between a 3yz and `end` or `give_up`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from relayproxy.mail.trace import TRACE_MARGIN
from relayproxy.smtp.commands import Mail
from relayproxy.smtp.grammar import number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from relayproxy.relay.carriers import Forwarding
    from relayproxy.relay.message import Intake
    from relayproxy.relay.plan import Plan
    from relayproxy.relay.transaction import Transaction
    from relayproxy.relay.upstream import Progress, Upstream
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.parameters import Parameters
    from relayproxy.smtp.replies import Reply

Asked = TypeVar("Asked", bound="Command")


class Passed:
    """A command of the client's, what left in its place, and what it is answered. What a gate holds back leaves later, and is then in `sent`.

    `captured`: of a recipient, the guard keeps its copy; `plan`: of MAIL, what rules and guard want of the transaction.
    """

    __slots__ = ("captured", "plan", "received", "reply", "sent")

    def __init__(self, received: Command, sent: Sequence[Command], reply: Reply, plan: Plan | None = None) -> None:
        self.received = received
        self.sent = sent
        self.reply = reply
        self.captured = False
        self.plan = plan


class Way(Protocol):
    """What a session passes its transactions to: a Delivery, or a GatedDelivery (gated.py)."""

    @property
    def upstream(self) -> Upstream: ...
    @property
    def progress(self) -> Progress:
        """How far the message has come on its way there."""

    @property
    def holds_header(self) -> bool:
        """Whether the header section waits for `take`, of which it may be another that leaves."""

    async def pass_on(self, commands: Sequence[Command]) -> list[Passed]:
        """The envelope, and what else is passed on, as the group that it came in; an answer to each."""

    def data(self, transaction: Transaction) -> Awaitable[Reply]:
        """DATA; 3yz: mail data may come."""

    async def take(self, intake: Intake, octets: bytes, *, ended: bool) -> bytes | Reply:
        """What came of a message, judged: of it what may leave now, or a refusal. `ended`: there is no more of it."""

    def body(self, octets: bytes) -> Awaitable[Reply | None]:
        """Mail data as on the wire. A reply is the verdict, given early: send no more."""

    def end(self, octets: bytes) -> Awaitable[Reply]:
        """The last mail data and the final dot: the commit. The reply is the verdict."""

    async def settle(self) -> None:
        """The message has had its verdict: nothing of what has left stays begun upstream."""

    def give_up(self) -> None:
        """Once DATA has gone upstream there is no other way out than to close without a dot (PROTOCOL I3)."""


class Delivery:
    """The way to one upstream."""

    __slots__ = ("_forwarding", "growth", "streaming", "upstream")

    holds_header = False

    def __init__(
        self, upstream: Upstream, *, trace: bool, margin: int = 0, forwarding: Forwarding | None = None
    ) -> None:
        """`margin`: octets that rules may add to a message; `forwarding`: where upstream is told with each transaction whose it is."""
        self.upstream = upstream
        self._forwarding = forwarding
        #: While upstream is to take mail data.
        self.streaming = False
        #: Octets by which the message may grow on its way (RFC 1870 §6.3).
        self.growth = margin + (TRACE_MARGIN if trace else 0)

    @property
    def progress(self) -> Progress:
        return self.upstream.progress

    def outgoing(self, command: Asked, size: int | None = None) -> Asked:
        """The command as it leaves: SIZE grown by what we add, or `size` where that is known, or dropped where upstream has none; no `MAIL AUTH=`.

        We do not vouch for what AUTH= says (RFC 4954 §5).
        """
        if command.verb != "MAIL" or not isinstance(command, Mail) or not command.parameters:
            return command
        parameters = self._mail_parameters(command.parameters, size)
        return command if parameters == command.parameters else msgspec.structs.replace(command, parameters=parameters)

    def _mail_parameters(self, received: Parameters, size: int | None) -> Parameters:
        sent: list[tuple[bytes, bytes | None]] = []
        for keyword, value in received:
            match keyword.upper():
                case b"SIZE" if value is not None:
                    if b"SIZE" in self.upstream.capabilities:
                        sent.append((keyword, b"%d" % (number(value) + self.growth if size is None else size)))
                case b"AUTH":
                    pass
                case _:
                    sent.append((keyword, value))
        return tuple(sent)

    def ask(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Upstream's replies to commands that are as they leave."""
        if self._forwarding is not None:
            return self._forwarding.exchange(self.upstream, commands)
        return self.upstream.exchange(commands)

    async def pass_on(self, commands: Sequence[Command]) -> list[Passed]:
        leaving = [self.outgoing(command) for command in commands]
        replies = await self.ask(leaving)
        withheld = self.upstream.withheld
        answers: list[Passed] = []
        for received, sent, reply in zip(commands, leaving, replies, strict=True):
            stayed = withheld and any(sent is one for one in withheld)
            answers.append(Passed(received, () if stayed else (sent,), reply))
        return answers

    def data(self, transaction: Transaction) -> Awaitable[Reply]:
        return self.upstream.start_data(transaction.id)

    async def take(self, intake: Intake, octets: bytes, *, ended: bool) -> bytes | Reply:
        del intake, ended
        return octets

    async def body(self, octets: bytes) -> Reply | None:
        if not octets:
            return None
        self.streaming = True
        try:
            return await self.upstream.send(octets)
        finally:
            self.streaming = False

    def end(self, octets: bytes) -> Awaitable[Reply]:
        return self.upstream.finish(octets)

    async def settle(self) -> None:
        """Upstream's verdict has ended it, or the connection is closed."""

    def give_up(self) -> None:
        self.upstream.drop()
