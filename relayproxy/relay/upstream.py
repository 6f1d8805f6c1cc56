"""The far side of a session: what a delivery asks of it, and the SMTP server that usually is it.

Trouble never arises here as an exception: every command gets a reply, upstream's own or, where upstream was lost, stalled or broke
the protocol, the one that stands for that in smtp/local_replies.py; from then on `failure` says what the client hears next.
Invariants: a connection that failed is closed without a dot and not used again (I6, I7); one that was closed because the verdict on a
message was given before its end is `spent`, and a new one may take its place. `progress` is "committed" before the first octet of
the final dot is handed to the socket; what is lost after that is `unknown`, never guessed (PROTOCOL I1, S7).
Failover and greeting do not belong here (connect.py), nor what is sent (delivery.py).
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from relayproxy.net.peer import PeerLost, PeerStalled
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Data, Quit, Rcpt, Rset, Vrfy
from relayproxy.smtp.errors import RemoteProtocolError
from relayproxy.tls.facts import is_private

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from relayproxy.net.dial import Kind, UpstreamUrl
    from relayproxy.net.peer import Peer
    from relayproxy.relay.settings import UpstreamTimeouts
    from relayproxy.smtp.capabilities import Capabilities
    from relayproxy.smtp.client import ClientProtocol
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.facts import TlsFacts

#: Commands sent before their replies are read (PROTOCOL §1.3): the replies to so many fit any socket buffer, so neither side can block.
GROUP = 100
#: Mail data up to this size leaves in one write with the final dot; a larger remainder goes first, so that its loss is no `unknown`.
LAST_WRITE = 64 * 1024


#: What a command is answered where there is no server to ask.
UNASKED: Final[dict[str, Reply]] = {
    "MAIL": local_replies.SENDER_OK,
    "RCPT": local_replies.RECIPIENT_OK,
    "RSET": local_replies.RESET_OK,
    "NOOP": local_replies.NOOP_OK,
    "VRFY": local_replies.CANNOT_VERIFY,
    "HELP": local_replies.HELP,
    "EHLO": local_replies.NOOP_OK,
    "QUIT": local_replies.QUIT_OK,
}
#: How far the message has gone: "begun" from DATA on, "committed" once the first octet of the final dot may have left, "answered" once the
#: verdict on it was read. What stays "committed" is `unknown`.
Progress = Literal["none", "begun", "committed", "answered"]


_DATA: Final = (Data(),)
#: Codes of replies that say more than that a command was refused.
_TELLING: Final = frozenset({421, 530})


class Violation(NamedTuple):
    """How upstream broke the protocol, and what the client hears of it."""

    what: str
    reply: Reply


class Upstream(Protocol):
    """Who takes the mail. All replies are final for their command; nothing raises for trouble on the far side."""

    capabilities: Capabilities

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def address(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...
    @property
    def host(self) -> str | None: ...
    @property
    def tls(self) -> TlsFacts | None:
        """None in clear."""

    @property
    def private(self) -> bool:
        """Whether nobody else can hear what it is told."""

    @property
    def failure(self) -> Reply | None:
        """What the client hears at its next command because this connection is dead; None while it lives."""

    @property
    def trouble(self) -> str | None:
        """In words, for the log."""

    @property
    def violation(self) -> Violation | None:
        """Where that is the trouble."""

    @property
    def progress(self) -> Progress: ...
    @property
    def withheld(self) -> Sequence[Command]:
        """Of the commands of the last exchange, those that never left."""

    @property
    def spent(self) -> bool:
        """Closed without a dot, the client having its verdict: nothing is wrong, but there is no connection."""

    def listen(self) -> None:
        """Notice what came or ended while nothing was asked; sets `failure`."""

    def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> Awaitable[list[Reply]]:
        """Ask, as a group where upstream takes groups; as many replies as commands. `deadline`: for all of it, instead of each reply's own time."""

    async def start_data(self, transaction: str) -> Reply:
        """Ask to send the message of the transaction with this id; 3yz: go ahead."""

    async def send(self, data: bytes) -> Reply | None:
        """Send mail data as on the wire. A reply is the verdict: send no more."""

    async def finish(self, data: bytes) -> Reply:
        """Send the last mail data and the final dot; the verdict."""

    def drop(self) -> None:
        """Close at once, without a dot: the only way out of DATA (PROTOCOL I3)."""

    def expire(self) -> None:
        """End every wait on this leg: the grace of a shutdown is over."""

    async def leave(self) -> None:
        """End the session politely, and briefly."""


async def reply_by(deadline: float, peer: Peer, protocol: ClientProtocol) -> Reply:
    """The next reply; the deadline is for all of it: a server can be slow one octet at a time, too. Raises PeerLost and RemoteProtocolError."""
    reply = protocol.next_reply() if protocol.unread else None
    while reply is None:
        data = await peer.receive_by(deadline)
        if not data:
            raise PeerLost(peer.leg)
        protocol.receive_data(data)
        reply = protocol.next_reply()
    return reply


class SmtpUpstream:
    """An SMTP server, greeted and with EHLO done."""

    __slots__ = (
        "_admits", "_alarm", "_patience", "_peer", "_protocol", "_timeouts", "capabilities", "failure", "name", "progress", "spent", "tls", "trouble", "url", "violation", "withheld",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        url: UpstreamUrl,
        peer: Peer,
        protocol: ClientProtocol,
        capabilities: Capabilities,
        timeouts: UpstreamTimeouts,
        tls: TlsFacts | None = None,
        alarm: Callable[[str], None] | None = None,
        admits: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`alarm`, where it was we that logged in, hears that upstream wants somebody else to; `admits`: the guard, by address, where there may be one."""
        self.name = name
        self.url = url
        self.capabilities = capabilities
        self.failure: Reply | None = None
        self.trouble: str | None = None
        self.violation: Violation | None = None
        self.progress: Progress = "none"
        self.withheld: Sequence[Command] = ()
        self.spent = False
        self.tls = tls
        self._alarm = alarm
        self._admits = admits
        self._peer = peer
        self._protocol = protocol
        self._timeouts = timeouts
        self._patience = timeouts.by_verb

    @property
    def host(self) -> str | None:
        return self.url.host or None

    @property
    def kind(self) -> Kind:
        return self.url.kind

    @property
    def address(self) -> str | None:
        return self._peer.address

    @property
    def port(self) -> int | None:
        return self._peer.port

    @property
    def private(self) -> bool:
        return is_private(self.tls, self.address)

    def _fail(self, what: str, reply: Reply) -> None:
        self.failure = self.failure or reply
        self.trouble = self.trouble or f"{self.url}: {what}"
        self._peer.drop()

    def _failed(self, error: PeerLost | RemoteProtocolError, *, asked: bool = True, transaction: bool = True) -> Reply:
        """Mark the leg dead; the answer to the command that was outstanding (PROTOCOL §1.12: 451 in a transaction, else 421).

        Not `asked`: none was, and the client hears `failure` at its next.
        """
        match error:
            case PeerStalled() if self._peer.expired:
                self._fail("its time was over", local_replies.SHUTTING_DOWN)
                return local_replies.SHUTTING_DOWN
            case RemoteProtocolError():
                if error.reply.code != 421:
                    heard = error.reply if asked else local_replies.UPSTREAM_GONE
                    self.violation = self.violation or Violation(error.what, heard)
                self._fail(error.what, error.reply if error.reply.code == 421 else local_replies.UPSTREAM_GONE)
                return error.reply
            case PeerStalled():
                self._fail("the server did not answer in time", local_replies.UPSTREAM_GONE)
            case PeerLost():
                self._fail("the server closed the connection", local_replies.UPSTREAM_GONE)
        return local_replies.UPSTREAM_LOST if transaction else local_replies.UPSTREAM_GONE

    def listen(self) -> None:
        if not self._peer.stream.readable or self.failure is not None or self.spent:
            return
        if self._protocol.dialogue.framing == "data":
            return  # between two chunks: what it says now is a verdict on the message, and heard with the next one
        try:
            self._hear_silence()
        except (PeerLost, RemoteProtocolError) as error:
            self._failed(error, asked=False)

    def _hear_silence(self) -> None:
        """Nothing was asked: whatever came is an error."""
        if self._peer.readable:
            self._hear_now()
            self._protocol.check_silence()

    def _hear_now(self) -> None:
        """Take in what has come already, if anything."""
        data = self._peer.receive_now()
        if data is not None:
            if not data:
                # Its last words may be a 421, which says more than the end of the connection does.
                self._protocol.check_silence()
                raise PeerLost(self._peer.leg)
            self._protocol.receive_data(data)

    def _heard(self, reply: Reply) -> Reply:
        if reply.code == 421:
            self._fail("the server closed the session with 421", reply)
        return reply if reply.code != 530 or self._alarm is None else self._unwelcome(self._alarm)

    def _unwelcome(self, alarm: Callable[[str], None]) -> Reply:
        """530 although we have logged in (PROTOCOL §1.6): that is no affair of the client's, who must not be asked for what we have."""
        alarm(f"{self.url}: the server answered 530: our credentials do not allow what is asked of it")
        return local_replies.MISCONFIGURED

    def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> Awaitable[list[Reply]]:
        admits = self._admits
        if admits is not None:
            for one in commands:
                if (named := _named(one)) is not None and not admits(named):
                    return self._exchange_guarded(commands, deadline, admits)
        return self._exchange(commands, deadline)

    async def _exchange_guarded(
        self, commands: Sequence[Command], deadline: float | None, admits: Callable[[bytes], bool]
    ) -> list[Reply]:
        # DESIGN §9.3, whatever else went wrong: here RCPT becomes octets, and nowhere else.
        may = [(named := _named(one)) is None or admits(named) for one in commands]
        allowed = list(compress(commands, may))
        answers = iter(await self._exchange(allowed, deadline) if allowed else ())
        kept_back = [one for one, leaves in zip(commands, may, strict=True) if not leaves]
        self.withheld = [*kept_back, *(self.withheld if allowed else ())]
        kept_from = {Rcpt: local_replies.GUARDED, Vrfy: local_replies.CANNOT_VERIFY}
        return [next(answers) if leaves else kept_from[type(one)] for one, leaves in zip(commands, may, strict=True)]

    async def _exchange(self, commands: Sequence[Command], deadline: float | None) -> list[Reply]:
        protocol, count = self._protocol, len(commands)
        replies: list[Reply] = []
        withheld: list[Command] = []
        size = GROUP if count == 1 or b"PIPELINING" in self.capabilities else 1
        end = 0  # of those that have left, or were passed over
        while end < count and self.failure is None:
            try:
                if self._peer.stream.readable:
                    self._hear_silence()
                if commands[end].verb not in protocol.dialogue.place.ways:
                    # The MAIL in front of it was refused in a group before: what upstream itself would say to RCPT in that one.
                    replies.append(local_replies.BAD_SEQUENCE)
                    withheld.append(commands[end])
                    end += 1
                    continue
                group = commands[end : end + size] if end or count > size else commands
                end += len(group)
                send = protocol.send
                octets = send(group[0]) if len(group) == 1 else b"".join([send(command) for command in group])
                if not self._peer.say(octets):
                    await self._peer.say_rest(self._timeouts.data_block)
                for command in group:
                    if self.failure is not None:
                        break
                    until = deadline or self._peer.now() + self._patience.get(command.verb, self._timeouts.mail)
                    reply = await reply_by(until, self._peer, protocol)
                    if reply.code in _TELLING:
                        reply = self._heard(reply)
                    replies.append(reply if command.verb != "RSET" else self._forgotten(reply))
            except (PeerLost, RemoteProtocolError) as error:
                transaction = commands[0].verb in ("MAIL", "XFORWARD") or protocol.dialogue.transaction != "none"
                replies.append(self._failed(error, transaction=transaction))
        self.withheld = [*withheld, *commands[end:]] if withheld or end < count else ()
        if len(replies) < count:
            rest = self.failure if replies or self.failure is None else local_replies.UPSTREAM_LOST
            replies += [rest or local_replies.UPSTREAM_LOST] * (count - len(replies))
        return replies

    def _forgotten(self, reply: Reply) -> Reply:
        """To RSET: behind a refusal nobody knows what upstream still remembers (PROTOCOL §1.1 (9))."""
        if reply.severity == 2 or self.failure is not None:
            return reply
        self._fail(f"the server answered {reply.code} to RSET", local_replies.UPSTREAM_GONE)
        return local_replies.UPSTREAM_GONE

    async def start_data(self, transaction: str) -> Reply:
        del transaction
        self.progress = "begun"
        return (await self._exchange(_DATA, None))[0]

    async def send(self, data: bytes) -> Reply | None:
        try:
            if self._peer.readable:
                self._hear_now()
            if (reply := self._protocol.early_reply()) is not None:
                return self._verdict(reply)
            if not self._protocol.refusing and await self._peer.send_or_hear(
                self._protocol.mail_data(data), self._timeouts.data_block
            ):
                return None
            return await self._early()
        except (PeerLost, RemoteProtocolError) as error:
            return self._last_words(error)

    async def _early(self) -> Reply:
        """The refusal that upstream has begun to say, to its end."""
        deadline = self._peer.now() + self._timeouts.data_block
        while (reply := self._protocol.early_reply()) is None:
            data = await self._peer.receive_by(deadline)
            if not data:
                raise PeerLost(self._peer.leg)
            self._protocol.receive_data(data)
        return self._verdict(reply)

    def _verdict(self, reply: Reply) -> Reply:
        """A refusal before the end of data: nothing more is sent, and no dot (PROTOCOL §1.6)."""
        if reply.code == 421:
            self._fail("the server closed the session with 421", reply)
        else:
            self.drop()
        return reply if reply.code != 530 or self._alarm is None else self._unwelcome(self._alarm)

    def _last_words(self, error: PeerLost | RemoteProtocolError) -> Reply:
        """A server that refuses and closes resets the connection under our writing; its refusal may still be there to read."""
        if isinstance(error, PeerLost) and not isinstance(error, PeerStalled):
            try:
                if data := self._peer.receive_now():
                    self._protocol.receive_data(data)
                if (reply := self._protocol.early_reply()) is not None:
                    return self._verdict(reply)
            except (PeerLost, RemoteProtocolError):
                pass  # nothing to be had: the loss itself is the answer
        return self._failed(error)

    async def finish(self, data: bytes) -> Reply:
        if len(data) > LAST_WRITE or self._peer.readable or self._protocol.unread:
            if (verdict := await self.send(data)) is not None:
                return verdict
            data = b""
        try:
            octets = self._protocol.mail_data(data) + self._protocol.end_of_data()
            self.progress = "committed"
            if not self._peer.say(octets):
                await self._peer.say_rest(self._timeouts.data_block)
            deadline = self._peer.now() + self._timeouts.end_of_data
            reply = self._heard(await reply_by(deadline, self._peer, self._protocol))
        except (PeerLost, RemoteProtocolError) as error:
            if (refusal := self._refusal_left_behind(error)) is None:
                return self._failed(error)
            reply = refusal
        self.progress = "answered"
        return reply

    def _refusal_left_behind(self, error: PeerLost | RemoteProtocolError) -> Reply | None:
        """The refusal of a server that closed while our last octets were leaving. A 2yz is not believed then (I1)."""
        if self._protocol.owed != 1 or not isinstance(error, PeerLost) or isinstance(error, PeerStalled):
            return None
        try:
            if data := self._peer.receive_now():
                self._protocol.receive_data(data)
            reply = self._protocol.next_reply()
        except (PeerLost, RemoteProtocolError):
            return None
        if reply is None or reply.severity < 4:
            return None
        self._fail("the server closed the connection", reply if reply.code == 421 else local_replies.UPSTREAM_GONE)
        return reply

    def drop(self) -> None:
        self.spent = True
        self._peer.drop()

    def expire(self) -> None:
        self._peer.expire()

    async def leave(self) -> None:
        if self.failure is None:
            self.listen()
        if self.failure is not None or self.spent:
            return
        dialogue = self._protocol.dialogue
        if self._protocol.owed or dialogue.framing != "command":
            self.drop()
            return
        try:
            goodbye = (Quit(),) if dialogue.transaction == "none" else (Rset(), Quit())
            await self.exchange(goodbye, deadline=self._peer.now() + self._timeouts.quit)
        finally:
            self.drop()


def _named(command: Command) -> bytes | None:
    """Whom it names to the server, that somebody has to allow; None: nobody."""
    match command:
        case Rcpt():
            return command.path.address
        case Vrfy():
            return command.argument
        case _:
            return None
