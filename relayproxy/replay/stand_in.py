"""Takes the mail of one session as the recorded server did, in place of an upstream (relay/upstream.py `Upstream`; DESIGN §8).

Where the recording has no answer and there is a server behind, the session goes on there, and from then on that server answers (behind.py).
Invariants: no credentials of a client's go on that way, and where credentials are given nobody sends without them, whoever answers. A reply takes as long as it did only where that is asked
for, and no wait outlives `expire`. Which answer is whose does not belong here (conversation.py), nor listening (mocked.py).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio

from relayproxy.relay.capture import CAPABILITIES
from relayproxy.relay.client_leg import Goodbye
from relayproxy.relay.connect import UpstreamUnavailable, greet_again
from relayproxy.replay.login import CHECKED, Exchange
from relayproxy.replay.recorded import Answer
from relayproxy.smtp import local_replies, sasl
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.commands import Auth, Ehlo, Helo, Mail, Noop, Rcpt, Rset, SaslCancel, SaslResponse, Vrfy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.net.dial import Kind
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.upstream import Progress, Upstream, Violation
    from relayproxy.replay.behind import Behind
    from relayproxy.replay.conversation import Conversation
    from relayproxy.replay.login import Credentials
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.facts import TlsFacts

#: Its name in records.
RECORDING: Final = "recording"
_ENDED: Final = "the recorded server ended the connection"


class Manner(NamedTuple):
    """How recordings are played. `latency`: replies take as long as they did; `credentials`: the only right ones, without which nobody may send.

    `logs_in`: we do, at the server behind; `introduces`: that server hears the client's name in EHLO, and not ours.
    """

    latency: bool = False
    credentials: Credentials | None = None
    logs_in: bool = False
    introduces: bool = False


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
        self._take_over(await self._behind.call([]))
        return self

    def _take_over(self, upstream: Upstream) -> None:
        """From here on that server answers."""
        self.capabilities = self._offered(upstream.capabilities)
        self._mirror()

    def listen(self) -> None:
        if self._behind.upstream is not None:
            self._behind.upstream.listen()
            self._mirror()

    async def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Reply]:
        del deadline  # only `leave` has one, which asks the server behind itself
        replies: list[Reply] = []
        latency = 0.0
        for number, command in enumerate(commands):
            if (answer := await self._introduce(command) or self._answer(command)) is None:
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
        conversation = None if self._behind.upstream is not None else self._conversation
        match command:
            case Ehlo() | Helo():
                return self._hello(command)
            case Auth() | SaslResponse() | SaslCancel() if conversation is not None or self._judges_logins:
                return self._authenticate(command, conversation)
            case Auth() if self._conversation is not None:  # it was offered by the recording alone
                return Answer(local_replies.BAD_SEQUENCE)
            case Mail() if not self._may_send:
                return Answer(local_replies.LOGIN_REQUIRED)
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

    async def _introduce(self, command: Command) -> Answer | None:
        """Have the server behind hear its client's name, where it is to; its refusal of it."""
        if not isinstance(command, Ehlo | Helo) or not self._manner.introduces:
            return None
        self._behind.name = command.name
        if (upstream := self._behind.upstream) is None or (isinstance(command, Helo) and self._hello_refused):
            return None
        refusal = await greet_again(upstream, command.name)
        self._mirror()
        self._hello_refused = None if refusal is None else Answer(refusal)
        return self._hello_refused

    def _hello(self, command: Ehlo | Helo) -> Answer:
        if (
            isinstance(command, Helo) and self._hello_refused is not None
        ):  # what a relay says behind an EHLO that was refused (relay/connect.py)
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
        return Answer(self._offered(offered).to_reply(b"localhost"), answer.latency, then=answer.then)

    @property
    def _judges_logins(self) -> bool:
        """Whether they are ours to judge even where a server behind answers."""
        return self._manner.logs_in or self._manner.credentials is not None

    def _offered(self, offered: Capabilities) -> Capabilities:
        """The same with the mechanisms of AUTH that can be answered."""
        keywords = {**offered.keywords, b"AUTH": self._mechanisms(offered.mechanisms)}
        if not keywords[b"AUTH"]:
            del keywords[b"AUTH"]
        return Capabilities(keywords)

    def _mechanisms(self, offered: bytes) -> bytes:
        known = sasl.ACCEPTED if self._manner.credentials is None else CHECKED
        if self._behind.upstream is not None:
            if self._judges_logins:
                return known
            return offered if self._conversation is None else b""
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
        reply = await self._behind.start_data(upstream, transaction)
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
                upstream = await self._behind.call(self._taken, self._client.protocol.offered)
        except UpstreamUnavailable as error:
            is_heard = error.reply.code == 421 or error.reply is local_replies.MISCONFIGURED
            self.failure = error.reply if is_heard else local_replies.UPSTREAM_UNREACHABLE
            self.trouble = error.what
            return None
        finally:
            self._pausing = None
        if upstream is None:
            self.failure = local_replies.SHUTTING_DOWN
        else:
            self._take_over(upstream)
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
