"""Takes the mail of one session as the recorded server did, in place of an upstream (relay/upstream.py `Upstream`; DESIGN §8).

Where the recording has no answer and there is a server behind, the session goes on there: what was said of the transaction so far is said again, and from then on that server answers.
Invariants: what the recording answered is no promise of that server's: where it refuses afterwards what was taken, the refusal is the answer to all that follows, and nobody gets the message.
No credentials of a client's go on that way. A reply takes as long as it did only where that is asked for, and no wait outlives `expire`.
Which answer is whose does not belong here (conversation.py), nor listening (mocked.py).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio

from relayproxy.relay.capture import CAPABILITIES
from relayproxy.relay.client_leg import Goodbye
from relayproxy.relay.connect import UpstreamUnavailable
from relayproxy.replay.login import CHECKED, Exchange
from relayproxy.replay.recorded import Answer
from relayproxy.smtp import local_replies, sasl
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.commands import Auth, Ehlo, Helo, Mail, Noop, Rcpt, Rset, SaslCancel, SaslResponse, Vrfy
from relayproxy.smtp.replies import worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.net.dial import Kind
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.upstream import Progress, Upstream, Violation
    from relayproxy.relay.upstream_leg import Connect
    from relayproxy.replay.conversation import Conversation
    from relayproxy.replay.login import Credentials
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.facts import TlsFacts

#: Its name in records.
RECORDING: Final = "recording"
_ENDED: Final = "the recorded server ended the connection"


class Manner(NamedTuple):
    """How recordings are played. `latency`: replies take as long as they did; `credentials`: the only right ones, without which nobody may send; `logs_in`: we do, at the server behind."""

    latency: bool = False
    credentials: Credentials | None = None
    logs_in: bool = False


class Behind:
    """The server behind, for one session: `upstream` once it was called upon. `doom`: what it refused of what the recording had taken."""

    def __init__(
        self,
        connect: Connect,
        session: str,
        called: Callable[[], None],
        lost: Callable[[UpstreamUnavailable, bool], None],
    ) -> None:
        """`called` hears that it was; `lost` that it is not to be had, and whether that is while mail is taken, where the relay tells nobody."""
        self.upstream: Upstream | None = None
        self.doom: Reply | None = None
        self._connect = connect
        self._session = session
        self._called = called
        self._lost = lost

    async def call(self, said: Sequence[Command], *, late: bool = False) -> Upstream:
        """Connect, and say what was said so far and taken; `late`: the client was greeted before. Raises UpstreamUnavailable."""
        try:
            self.upstream = upstream = await self._connect(self._session, None, None)
        except UpstreamUnavailable as error:
            self._lost(error, late)
            raise
        self._called()
        refused = [reply for reply in await upstream.exchange(said) if reply.severity != 2] if said else []
        self.doom = worst(refused) if refused else None
        return upstream

    async def exchange(self, upstream: Upstream, commands: Sequence[Command]) -> list[Reply]:
        if self.doom is None:
            return await upstream.exchange(commands)
        replies: list[Reply] = []
        for command in commands:
            if isinstance(command, Mail | Rset):
                self.doom = None
            replies += await upstream.exchange([command]) if self.doom is None else [self.doom]
        return replies


class StandIn:
    """An `Upstream`."""

    def __init__(
        self,
        conversation: Conversation | None,
        behind: Behind,
        client: ClientLeg,
        manner: Manner,
        left: Callable[[], None],
    ) -> None:
        """`conversation` None: all of it is for the server behind, which was called then; `left` hears that the session is over."""
        self.name = RECORDING
        self.kind: Kind = "smtp"
        self.host: str | None = None
        self.address: str | None = "localhost"  # nobody else hears what it is told
        self.port: int | None = None
        self.capabilities: Capabilities = CAPABILITIES
        self.failure: Reply | None = None
        self.trouble: str | None = None
        self.violation: Violation | None = None
        self.progress: Progress = "none"
        self.tls: TlsFacts | None = None
        self.withheld: Sequence[Command] = ()
        self.spent = False
        self._conversation = conversation
        self._behind = behind
        self._client = client
        self._manner = manner
        self._left = left
        self._taken: list[Command] = []  # of the open transaction: what was answered 2yz
        self._login: Exchange | None = None
        self._may_send = manner.credentials is None
        self._hello_refused: Answer | None = None
        self._expired = False
        self._pausing: trio.CancelScope | None = None
        self._mirror()

    def _mirror(self) -> None:
        """Be as the server behind, once there is one."""
        if (upstream := self._behind.upstream) is None:
            return
        self.name, self.kind = upstream.name, upstream.kind
        self.host, self.address, self.port = upstream.host, upstream.address, upstream.port
        self.failure, self.trouble, self.violation = upstream.failure, upstream.trouble, upstream.violation
        self.progress, self.withheld = upstream.progress, upstream.withheld
        self.tls, self.spent = upstream.tls, upstream.spent

    async def greet(self, answer: Answer) -> None:
        """As the recorded server did. Raises Goodbye, and UpstreamUnavailable where it let nobody in."""
        if answer.reply is None or answer.ends is not None:
            await self._end(answer, answer.latency, [])
        await self._pause(answer.latency)
        if answer.reply.severity != 2:
            raise UpstreamUnavailable("the recorded server refused the connection", answer.reply)

    async def call_behind(self) -> StandIn:
        """The server behind, from the beginning; or again, when it was left. Raises UpstreamUnavailable."""
        await self._behind.call([])
        self._mirror()
        return self

    def listen(self) -> None:
        if self._behind.upstream is not None:
            self._behind.upstream.listen()
            self._mirror()

    async def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Reply]:
        del deadline  # only `leave` has one, which asks the server behind itself
        replies: list[Reply] = []
        latency = 0.0
        for number, command in enumerate(commands):
            if (answer := self._answer(command)) is None:
                return [*replies, *await self._ask_behind(commands[number:])]
            latency = max(latency, answer.latency)
            if answer.reply is None or answer.ends is not None:
                await self._end(answer, latency, replies)
            replies.append(answer.reply)
            self._note(command, answer.reply)
            self._note_gone(answer)
            if self.failure is not None:  # nothing behind it is done
                replies += [self.failure] * (len(commands) - len(replies))
                break
        await self._pause(latency)
        return replies

    def _answer(self, command: Command) -> Answer | None:  # noqa: PLR0911  a table of commands
        """Whatever the server behind need not be asked for."""
        if isinstance(command, Ehlo | Helo):
            return self._hello(command)
        conversation = None if self._behind.upstream is not None else self._conversation
        if conversation is not None or self._manner.logs_in:
            if isinstance(command, Auth | SaslResponse | SaslCancel):
                return self._authenticate(command, conversation)
            if isinstance(command, Mail) and not self._may_send:
                return Answer(local_replies.LOGIN_REQUIRED)
        match command:
            case _ if conversation is None:
                return None
            case Mail():
                return conversation.mail(command)
            case Rcpt():
                return conversation.rcpt(command)
            case Rset():
                return conversation.reset()
            case Noop() | Vrfy():
                return conversation.asked(command)
            case _:
                return None

    def _note(self, command: Command, reply: Reply) -> None:
        """What would be said again to the server behind, and what cannot be said any more."""
        match command:
            case Mail() | Rset():
                self._taken = [command] if isinstance(command, Mail) and reply.severity == 2 else []
            case Rcpt() if reply.severity == 2:
                self._taken.append(command)
            case _:
                pass

    def _note_gone(self, answer: Answer) -> None:
        """Whether there is a server any more."""
        if answer.reply is not None and answer.reply.code == 421:
            self.failure = answer.reply
        elif answer.then is not None:
            self.failure = answer.then

    # The session's own.

    def _hello(self, command: Ehlo | Helo) -> Answer:
        """EHLO; HELO is what a relay says behind an EHLO that was refused (relay/connect.py)."""
        if isinstance(command, Helo) and self._hello_refused is not None:
            return self._hello_refused
        if (upstream := self._behind.upstream) is not None or self._conversation is None:
            answer = Answer(local_replies.NOOP_OK)
            offered = CAPABILITIES if upstream is None else upstream.capabilities
        else:
            answer = self._conversation.hello(under_tls=self._client.tls is not None)
            offered = CAPABILITIES if answer.reply is None else Capabilities.parse(answer.reply)
        if answer.reply is None or answer.reply.severity != 2:
            self._hello_refused = answer
            return answer
        self._hello_refused = None
        keywords = {**offered.keywords, b"AUTH": self._mechanisms(offered.mechanisms)}
        if not keywords[b"AUTH"]:
            del keywords[b"AUTH"]
        return Answer(Capabilities(keywords).to_reply(b"localhost"), answer.latency, then=answer.then)

    def _mechanisms(self, offered: bytes) -> bytes:
        """Of AUTH: of those that were offered those that can be answered."""
        known = sasl.ACCEPTED if self._manner.credentials is None else CHECKED
        if self._behind.upstream is not None:
            return known if self._manner.logs_in else offered
        found = b" ".join([one for one in offered.split() if one in known.split()])
        return found if self._manner.credentials is None else found or CHECKED

    def _authenticate(self, command: Auth | SaslResponse | SaslCancel, conversation: Conversation | None) -> Answer:
        if isinstance(command, Auth):
            nonce = b"<%b@localhost>" % secrets.token_hex(16).encode("ascii")
            self._login = Exchange(command, nonce, self._manner.credentials)
        elif self._login is None:
            return Answer(local_replies.BAD_SEQUENCE)
        else:
            self._login.take(command)
        if self._login.reply is not None:
            return Answer(self._login.reply)
        login, self._login = self._login, None
        if self._manner.credentials is not None:
            self._may_send |= login.right
            return Answer(local_replies.AUTHENTICATED if login.right else local_replies.WRONG_CREDENTIALS)
        return Answer(local_replies.AUTHENTICATED) if conversation is None else conversation.login(login.mechanism)

    # A message.

    async def start_data(self, transaction: str) -> Reply:
        answer = None
        if self._conversation is not None and self._behind.upstream is None:
            answer = self._conversation.data()
        if answer is not None:
            reply = await self._give(answer)
            self.progress = "begun" if reply.severity == 3 else "none"
            return reply
        if (upstream := await self._go_behind()) is None:
            return self.failure or local_replies.UPSTREAM_LOST
        reply = self._behind.doom or await upstream.start_data(transaction)
        self._mirror()
        return reply

    async def send(self, data: bytes) -> Reply | None:
        if (upstream := self._behind.upstream) is None:
            return None
        reply = await upstream.send(data)
        self._mirror()
        return reply

    async def finish(self, data: bytes) -> Reply:
        if (upstream := self._behind.upstream) is not None:
            try:
                return await upstream.finish(data)
            finally:
                self._mirror()  # how far it came counts most where it came to no end
        answer = None if self._conversation is None else self._conversation.verdict()
        self._taken = []
        self.progress = "answered"
        return local_replies.UPSTREAM_LOST if answer is None else await self._give(answer)

    def drop(self) -> None:
        if self._behind.upstream is not None:
            self._behind.upstream.drop()
            self._mirror()
        elif self._conversation is not None:
            self._conversation.cut_short()
            self._taken = []

    # How answers are given.

    async def _give(self, answer: Answer) -> Reply:
        if answer.reply is None or answer.ends is not None:
            await self._end(answer, answer.latency, [])
        await self._pause(answer.latency)
        self._note_gone(answer)
        return answer.reply

    async def _end(self, answer: Answer, latency: float, replies: Sequence[Reply]) -> NoReturn:
        """As the recorded server did, behind what is said before. Raises Goodbye."""
        await self._pause(latency)
        if said := [*replies, *([] if answer.reply is None else [answer.reply])]:
            await self._client.answer(said)
        if answer.ends == "reset":
            self._client.peer.reset()
        raise Goodbye(_ENDED)

    async def _pause(self, seconds: float) -> None:
        if not self._manner.latency or self._expired or seconds <= 0:
            return
        with trio.CancelScope() as self._pausing:
            await trio.sleep(seconds)
        self._pausing = None

    # The server behind.

    async def _go_behind(self) -> Upstream | None:
        """Go on there, where the recording has no answer; None: it is not to be had."""
        if self._behind.upstream is not None:
            return self._behind.upstream
        if self._conversation is not None:
            self._conversation.leave()
        upstream = None
        try:
            with trio.CancelScope() as self._pausing:
                upstream = await self._behind.call(self._taken, late=True)
        except UpstreamUnavailable as error:
            self.failure = error.reply if error.reply.code == 421 else local_replies.UPSTREAM_UNREACHABLE
            self.trouble = error.what
            return None
        finally:
            self._pausing = None
        if upstream is None:
            self.failure = local_replies.SHUTTING_DOWN
        self._mirror()
        return upstream

    async def _ask_behind(self, commands: Sequence[Command]) -> list[Reply]:
        if (upstream := await self._go_behind()) is None:
            return [self.failure or local_replies.UPSTREAM_LOST] * len(commands)
        replies = await self._behind.exchange(upstream, commands)
        self._mirror()
        return replies

    # The end.

    def expire(self) -> None:
        self._expired = True
        if self._pausing is not None:
            self._pausing.cancel()
        if self._behind.upstream is not None:
            self._behind.upstream.expire()

    async def leave(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
        try:
            if self._behind.upstream is not None:
                await self._behind.upstream.leave()
                self._mirror()
        finally:
            self._left()
