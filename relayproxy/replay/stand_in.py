"""Takes the mail of one session as the recorded server did, in place of an upstream (relay/upstream.py `Upstream`; DESIGN §8).

Where the recording has no answer and there is a server behind, the session goes on there, and from then on that server answers (behind.py).
Invariants: no credentials of a client's go on that way, and where credentials are given nobody sends without them, whoever answers. A reply takes as long as it did only where that is asked
for, and no wait outlives `expire`, the end of the mock, or for long its client. Which answer is whose does not belong here (conversation.py), nor listening (mocked.py).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from relayproxy.relay.capture import CAPABILITIES
from relayproxy.relay.client_leg import Goodbye
from relayproxy.relay.connect import UpstreamUnavailable, greet_again
from relayproxy.replay.face import Face
from relayproxy.replay.login import CHECKED, Exchange
from relayproxy.replay.recorded import Answer
from relayproxy.smtp import local_replies, sasl
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.commands import Auth, Ehlo, Helo, Mail, Noop, Rcpt, Rset, SaslCancel, SaslResponse, Vrfy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.upstream import Upstream
    from relayproxy.replay.behind import Behind
    from relayproxy.replay.conversation import Conversation
    from relayproxy.replay.login import Credentials
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

#: Seconds between two looks at a client that is to wait for its reply.
_LOOK: Final = 1.0
_ENDED: Final = "the recorded server ended the connection"


class Manner(NamedTuple):
    """How recordings are played. `latency`: replies take as long as they did; `credentials`: the only right ones, without which nobody may send.

    `logs_in`: we do, at the server behind; `introduces`: that server hears the client's name in EHLO, and not ours.
    """

    latency: bool = False
    credentials: Credentials | None = None
    logs_in: bool = False
    introduces: bool = False


class StandIn(Face):
    """An `Upstream`."""

    def __init__(
        self,
        conversation: Conversation | None,
        behind: Behind,
        client: ClientLeg,
        manner: Manner,
        left: Callable[[], None],
        ending: trio.Event,
    ) -> None:
        """`conversation` None: all of it is for the server behind, which was called then; `left` hears that the session is over; `ending`: nothing takes its time any more."""
        super().__init__(behind)
        self.capabilities: Capabilities = CAPABILITIES
        self._conversation = conversation
        self._client = client
        self._manner = manner
        self._left = left
        self._ending = ending
        self._taken: list[Command] = []  # of the open transaction: what was answered 2yz
        self._login: Exchange | None = None
        self._may_send = manner.credentials is None
        self._hello_refused: Answer | None = None
        self._calling: trio.CancelScope | None = None
        self._leaving: Reply | None = None
        self._until_gone = (
            -1
        )  # before we `listen` so often, and leave: the relay does it before each thing that a client says

    async def greet(self, answer: Answer) -> None:
        """As the recorded server did. Raises Goodbye, and UpstreamUnavailable where it let nobody in."""
        reply = await self._give(answer)
        if self._client.why is not None:
            raise Goodbye(self._client.why, reply)
        if reply.severity != 2:
            raise UpstreamUnavailable("the recorded server refused the connection", reply)

    async def call_behind(self) -> StandIn:
        """The server behind, from the beginning; or again, when it was left. Raises UpstreamUnavailable."""
        self._take_over(await self.behind.call([]))
        return self

    def _take_over(self, upstream: Upstream) -> None:
        """From here on that server answers."""
        self.capabilities = self._offered(upstream.capabilities)

    def listen(self) -> None:
        if self.behind.upstream is not None:
            self.behind.upstream.listen()
            return
        if self._until_gone == 0:
            self.recorded.failure = self._leaving
        self._until_gone -= 1

    async def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Reply]:
        del deadline  # only `leave` has one, which asks the server behind itself
        replies: list[Reply] = []
        latency = 0.0
        for number, command in enumerate(commands):
            if (answer := await self._introduce(command) or self._answer(command)) is None:
                return [*replies, *await self._ask_behind(commands[number:])]
            latency = max(latency, answer.latency)
            replies.append(self._reply(answer))
            self._note(command, replies[-1])
            if self._client.why is not None or self.failure is not None:  # nothing behind it is done
                instead = self.failure if self._client.why is None else None
                replies += [instead or local_replies.HUNG_UP] * (len(commands) - len(replies))
                break
        await self._pause(latency)
        return replies

    def _answer(self, command: Command) -> Answer | None:  # noqa: PLR0911  a table of commands
        """Whatever the server behind need not be asked for."""
        conversation = None if self.behind.upstream is not None else self._conversation
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

    def _reply(self, answer: Answer) -> Reply:
        """Its reply; and note where there is no server any more behind it, or in its place: the session ends then."""
        if answer.reply is None or answer.ends is not None:
            self._client.why, self._client.resets = _ENDED, answer.ends == "reset"
        elif answer.reply.code == 421:
            self.recorded.failure = answer.reply
        elif answer.then is not None:
            self._leaving, self._until_gone = answer.then, answer.between
            if not answer.between:  # for what came in the same group, too
                self.recorded.failure = answer.then
        return answer.reply or local_replies.HUNG_UP

    # The session's own.

    async def _introduce(self, command: Command) -> Answer | None:
        """Have the server behind hear its client's name, where it is to; its refusal of it."""
        if not isinstance(command, Ehlo | Helo) or not self._manner.introduces:
            return None
        self.behind.name = command.name
        if (upstream := self.behind.upstream) is None or (isinstance(command, Helo) and self._hello_refused):
            return None
        refusal = await greet_again(upstream, command.name)
        self._hello_refused = None if refusal is None else Answer(refusal)
        return self._hello_refused

    def _hello(self, command: Ehlo | Helo) -> Answer:
        # HELO is what a relay says behind an EHLO that was refused (relay/connect.py).
        if isinstance(command, Helo) and self._hello_refused is not None:
            return self._hello_refused
        if (upstream := self.behind.upstream) is not None or self._conversation is None:
            answer = Answer(local_replies.NOOP_OK)
            offered = CAPABILITIES if upstream is None else upstream.capabilities
        else:
            answer = self._conversation.hello(under_tls=self._client.tls is not None)
            offered = CAPABILITIES if answer.reply is None else Capabilities.parse(answer.reply)
        if answer.reply is None or answer.reply.severity != 2:
            self._hello_refused = answer
            return answer
        self._hello_refused = None
        return Answer(
            self._offered(offered).to_reply(b"localhost"), answer.latency, then=answer.then, between=answer.between
        )

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
        if self.behind.upstream is not None:
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
        if self._conversation is not None and self.behind.upstream is None:
            answer = self._conversation.data()
        if answer is not None:
            reply = await self._give(answer)
            self.recorded.progress = "begun" if reply.severity == 3 else "none"
            return reply
        if (upstream := await self._go_behind()) is None:
            return self.failure or local_replies.UPSTREAM_LOST
        return await self.behind.start_data(upstream, transaction)

    async def send(self, data: bytes) -> Reply | None:
        return None if self.behind.upstream is None else await self.behind.upstream.send(data)

    async def finish(self, data: bytes) -> Reply:
        if (upstream := self.behind.upstream) is not None:
            return await upstream.finish(data)
        answer = None if self._conversation is None else self._conversation.verdict()
        self._taken = []
        self.recorded.progress = "answered" if answer is None or answer.reply is not None else "committed"
        return local_replies.UPSTREAM_LOST if answer is None else await self._give(answer)

    def drop(self) -> None:
        if self.behind.upstream is not None:
            self.behind.upstream.drop()
        elif self._conversation is not None:
            self._conversation.cut_short()
            self._taken = []

    # How answers are given.

    async def _give(self, answer: Answer) -> Reply:
        await self._pause(answer.latency)
        return self._reply(answer)

    async def _pause(self, seconds: float) -> None:
        """No longer than the client is there, and the mock."""
        if not self._manner.latency or seconds <= 0:
            return
        with trio.move_on_after(seconds):
            while not self._ending.is_set() and not self._client.peer.gone:
                with trio.move_on_after(_LOOK):
                    await self._ending.wait()

    # The server behind.

    async def _go_behind(self) -> Upstream | None:
        """Go on there, where the recording has no answer; None: it is not to be had."""
        if self.behind.upstream is not None:
            return self.behind.upstream
        if self._conversation is not None:
            self._conversation.leave()
        upstream = None
        try:
            with trio.CancelScope() as self._calling:
                upstream = await self.behind.call(self._taken, self._client.protocol.offered)
        except UpstreamUnavailable as error:
            is_heard = error.reply.code == 421 or error.reply is local_replies.MISCONFIGURED
            self.recorded.failure = error.reply if is_heard else local_replies.UPSTREAM_UNREACHABLE
            self.recorded.trouble = error.what
            return None
        finally:
            self._calling = None
        if upstream is None:
            self.recorded.failure = local_replies.SHUTTING_DOWN
        else:
            self._take_over(upstream)
        return upstream

    async def _ask_behind(self, commands: Sequence[Command]) -> list[Reply]:
        if (upstream := await self._go_behind()) is None:
            return [self.failure or local_replies.UPSTREAM_LOST] * len(commands)
        return await self.behind.exchange(upstream, commands)

    # The end.

    def expire(self) -> None:
        if self._calling is not None:
            self._calling.cancel()
        if self.behind.upstream is not None:
            self.behind.upstream.expire()

    async def leave(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
        try:
            if self.behind.upstream is not None:
                await self.behind.upstream.leave()
        finally:
            self._left()
