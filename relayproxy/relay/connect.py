"""From an upstream's settings to a server that has greeted us, taken EHLO and let us log in: failover in order, one deadline for all of it.

RFC 5321 §3.1, §3.2, §4.2.1; RFC 3207; PROTOCOL §1.1 (1, 2), §1.6, §1.9, fault matrix rows S0 and S2. Invariants: whatever goes wrong here becomes the
client's greeting, or after a verdict that closed upstream the answer to its MAIL: 421 for trouble of any kind, upstream's own reply where it refuses
for good (5yz: not tried elsewhere). Where upstream is to be told who the client is, no mail passes before it was (attack 27). Where a url asks for TLS nothing but EHLO and STARTTLS leaves in clear, and nothing that came in clear
is believed behind it (attacks 7, 8).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.net.dial import DialError, UpstreamUrl
from relayproxy.net.peer import Peer, PeerLost, PeerStalled
from relayproxy.relay.credentials import LoginFailed
from relayproxy.relay.upstream import SmtpUpstream, reply_by
from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.client import ClientProtocol
from relayproxy.smtp.commands import Ehlo, Helo, Lhlo, StartTls
from relayproxy.smtp.errors import RemoteProtocolError
from relayproxy.tls.facts import TlsFacts, TlsFailure, is_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.net.dial import Kind
    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.tape import LegTape
    from relayproxy.relay.carriers import Introduction
    from relayproxy.relay.credentials import SessionLogin
    from relayproxy.relay.settings import Limits, UpstreamTimeouts
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.contexts import ClientTls

#: Opens a connection within so many seconds, or raises DialError.
Dial = Callable[[UpstreamUrl, float], "Awaitable[DeadlineStream]"]
#: Hears how each handshake went.
TellTls = Callable[[UpstreamUrl, TlsFacts | TlsFailure], None]

#: Hears of a server that would not have us.
Tell = Callable[["UpstreamUnavailable"], None]

_DIAL_REPLIES: Final = {
    "refused": local_replies.UPSTREAM_UNREACHABLE,
    "unreachable": local_replies.UPSTREAM_UNREACHABLE,
    "timeout": local_replies.UPSTREAM_SLOW,
    "unresolved": local_replies.UPSTREAM_UNRESOLVED,
}


class UpstreamUnavailable(Exception):  # noqa: N818  it is a fact, and reads as one
    """No server could be had: `reply` is what the client hears instead of 220. `for_good`: no other server is tried; `violation`: the server
    broke the protocol.
    """

    def __init__(self, what: str, greeting: Reply, *, for_good: bool = False, violation: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.reply = greeting
        self.for_good = for_good or greeting.severity == 5
        self.violation = violation


async def connect(
    name: str,
    urls: Sequence[UpstreamUrl],
    dial: Dial,
    ehlo: bytes,
    timeouts: UpstreamTimeouts,
    limits: Limits,
    *,
    tls: ClientTls | None,
    tell_tls: TellTls,
    tell: Tell | None = None,
    login: SessionLogin | None = None,
    introduction: Introduction | None = None,
    tape: LegTape | None = None,
    admits: Callable[[bytes], bool] | None = None,
) -> SmtpUpstream:
    """The first server of `urls` that will have us, each in its share of the time that is left. Raises UpstreamUnavailable; `tell` hears of those behind which another was tried.

    `tls` may be None where no url asks for it; `login`: where we have credentials there; `introduction`: where it is told who the client is;
    `tape`: where it is recorded; `admits`: the guard.
    """
    end = trio.current_time() + timeouts.setup
    failed: UpstreamUnavailable | None = None
    for tried, url in enumerate(urls):
        left = end - trio.current_time()
        if left <= 0:
            break
        if failed is not None and tell is not None:
            tell(failed)
        # One that accepts connections and says nothing must leave the others their time.
        share = left / (len(urls) - tried)
        deadline = trio.current_time() + share
        try:
            stream = await dial(url, min(timeouts.connect, share))
            approach = _Approach(url, stream, ehlo, timeouts, limits, deadline, introduction, tape)
            return await approach.make(name, tls, tell_tls, login, admits)
        except DialError as error:
            if tape is not None:
                tape.event(error.reason, str(url))
            failed = UpstreamUnavailable(str(error), _DIAL_REPLIES[error.reason])  # it names the url
        except UpstreamUnavailable as error:
            failed = error
            failed.what = f"{url}: {error.what}"
            if error.for_good:
                break
    raise failed or UpstreamUnavailable("no time was left", local_replies.UPSTREAM_SLOW)


class _Approach:
    """One server, from the connection to its answer to EHLO."""

    def __init__(
        self,
        url: UpstreamUrl,
        stream: DeadlineStream,
        ehlo: bytes,
        timeouts: UpstreamTimeouts,
        limits: Limits,
        deadline: float,
        introduction: Introduction | None,
        tape: LegTape | None,
    ) -> None:
        self._introduction = introduction
        self._url = url
        self._tape = tape
        self._peer = Peer.of(stream, "upstream", url, tape)
        self._protocol = ClientProtocol(
            reply_bytes=limits.reply_bytes,
            reply_lines=limits.reply_lines,
            ehlo_keywords=limits.ehlo_keywords,
            tape=tape,
        )
        self._ehlo = ehlo
        self._timeouts = timeouts
        self._deadline = deadline

    async def make(
        self,
        name: str,
        tls: ClientTls | None,
        tell_tls: TellTls,
        login: SessionLogin | None,
        admits: Callable[[bytes], bool] | None,
    ) -> SmtpUpstream:
        """The server, ready for mail. The connection is closed where there is none."""
        try:
            facts, capabilities = await self._greet(tls, tell_tls)
            if self._introduction is not None:
                capabilities = await self._introduce(self._introduction, capabilities)
            if login is not None:
                await self._log_in(login, capabilities.mechanisms, private=is_private(facts, self._peer.address))
        except BaseException as error:
            self._peer.drop()
            if (unavailable := _unavailable(error)) is not None:
                raise unavailable from error
            raise
        return SmtpUpstream(
            name,
            self._url,
            self._peer,
            self._protocol,
            capabilities,
            self._timeouts,
            facts,
            None if login is None else login.alarm,
            admits,
        )

    async def _greet(self, tls: ClientTls | None, tell_tls: TellTls) -> tuple[TlsFacts | None, Capabilities]:
        """PROTOCOL §1.1 (1): a PROXY header; TLS, the greeting, EHLO; or the greeting, EHLO, STARTTLS, TLS, and EHLO again."""
        facts = None
        if self._introduction is not None and (
            header := self._introduction.header((self._peer.address, self._peer.port))
        ):
            if self._tape is not None:
                self._tape.said(header)
            await self._peer.send(header, self._timeouts.data_block)
        if self._url.tls == "implicit":
            facts = await self._start_tls(tls, tell_tls)
        greeting = await self._reply_to(None, self._timeouts.greeting)
        if greeting.severity != 2:
            raise _refused("the greeting", greeting)
        capabilities = await self._hello()
        if self._url.tls == "starttls":
            await self._ask_for_tls(capabilities)
            facts = await self._start_tls(tls, tell_tls)
            self._protocol.tls_started()
            capabilities = await self._hello()  # RFC 3207 §4.2: what was said in clear is forgotten
        return facts, capabilities

    async def _reply_to(self, command: Command | None, seconds: float) -> Reply:
        if command is not None:
            await self._peer.send(self._protocol.send(command), self._timeouts.data_block)
        return await reply_by(min(self._deadline, self._peer.now() + seconds), self._peer, self._protocol)

    async def _ask(self, command: Command) -> Reply:
        """A line of our AUTH."""
        return await self._reply_to(command, self._timeouts.auth)

    async def _hello(self) -> Capabilities:
        hello = await self._reply_to(hello_of(self._url.kind)(self._ehlo), self._timeouts.ehlo)
        if hello.severity == 5 and self._url.kind != "lmtp":
            # RFC 5321 §3.2: a server without extensions.
            hello = await self._reply_to(Helo(self._ehlo), self._timeouts.ehlo)
            if hello.severity == 2:
                return Capabilities()
        if hello.severity != 2:
            refusal = hello if hello.code == 421 else local_replies.UPSTREAM_UNREACHABLE
            raise UpstreamUnavailable(f"the server answered {hello.code} to our EHLO", refusal)
        return parse_capabilities(hello)

    async def _introduce(self, introduction: Introduction, capabilities: Capabilities) -> Capabilities:
        """XCLIENT, and EHLO again, since what is offered may depend on who asks; what is offered then."""
        if (verb := introduction.missing(capabilities)) is not None:
            raise UpstreamUnavailable(
                f"the server does not offer {verb} with ADDR to us", local_replies.IDENTITY_NOT_TAKEN
            )
        command = introduction.xclient(capabilities)
        if command is None:
            return capabilities
        reply = await self._reply_to(command, self._timeouts.ehlo)
        if reply.severity != 2:
            refusal = reply if reply.code == 421 else local_replies.IDENTITY_NOT_TAKEN
            raise UpstreamUnavailable(f"the server answered {reply.code} to XCLIENT", refusal)
        return await self._hello()

    async def _log_in(self, login: SessionLogin, offered: bytes, *, private: bool) -> None:
        """The secret may be long in coming, too."""
        with trio.move_on_at(self._deadline) as patience:
            await login.login.log_in(self._ask, offered, private=private, tell=login.tell)
        if patience.cancelled_caught:
            raise UpstreamUnavailable("we could not log in in time", local_replies.UPSTREAM_SLOW)

    async def _ask_for_tls(self, capabilities: Capabilities) -> None:
        """STARTTLS, up to its 220 and not an octet further. A server that has no TLS for us gets nothing else (attack 8)."""
        if b"STARTTLS" not in capabilities:
            raise UpstreamUnavailable("the server does not offer STARTTLS", local_replies.UPSTREAM_WITHOUT_TLS)
        reply = await self._reply_to(StartTls(), self._timeouts.ehlo)
        if reply.severity != 2:
            refusal = reply if reply.code == 421 else local_replies.UPSTREAM_WITHOUT_TLS
            raise UpstreamUnavailable(f"the server answered {reply.code} to STARTTLS", refusal)
        if self._peer.readable and (data := self._peer.receive_now()):
            self._protocol.receive_data(data)
        if self._protocol.unread:
            # Whoever is between us could otherwise speak as if under TLS (CVE-2021-38371, attack 7).
            raise UpstreamUnavailable(
                "the server sent more behind its answer to STARTTLS, in clear",
                local_replies.UPSTREAM_TLS_FAILED,
                violation=True,
            )

    async def _start_tls(self, tls: ClientTls | None, tell_tls: TellTls) -> TlsFacts:
        if tls is None:
            raise ValueError(f"expected a context for TLS with {self._url}")
        seconds = min(self._timeouts.handshake, self._deadline - self._peer.now())
        try:
            stream = await tls.connect(self._peer.stream, host=self._url.host, seconds=seconds)
        except TlsFailure as failure:
            tell_tls(self._url, failure)
            raise
        self._peer.stream = stream
        if self._tape is not None:
            self._tape.event("tls", stream.facts.version, stream.facts.cipher)
        tell_tls(self._url, stream.facts)
        return stream.facts


def _unavailable(error: BaseException) -> UpstreamUnavailable | None:  # noqa: PLR0911  one a kind of loss
    """What the loss of a server on the way to its EHLO means for the client; None where it is no such thing."""
    match error:
        case PeerStalled():
            return UpstreamUnavailable("the server did not greet us in time", local_replies.UPSTREAM_SLOW)
        case PeerLost():
            return UpstreamUnavailable("the server closed the connection", local_replies.UPSTREAM_UNREACHABLE)
        case RemoteProtocolError():
            return UpstreamUnavailable(
                error.what, local_replies.UPSTREAM_UNREACHABLE, violation=error.reply.code != 421
            )
        case LoginFailed():
            return UpstreamUnavailable(error.what, local_replies.CREDENTIALS_REFUSED, for_good=error.for_good)
        case TlsFailure(reason="timeout"):
            return UpstreamUnavailable(f"TLS: {error.what}", local_replies.UPSTREAM_SLOW)
        case TlsFailure():
            return UpstreamUnavailable(f"TLS: {error.what}", local_replies.UPSTREAM_TLS_FAILED)
        case _:
            return None


def _refused(what: str, reply: Reply) -> UpstreamUnavailable:
    if reply.severity == 5 or reply.code == 421:
        return UpstreamUnavailable(f"{what} was {reply.code}", reply)
    return UpstreamUnavailable(f"{what} was {reply.code}", local_replies.UPSTREAM_UNREACHABLE)


def hello_of(kind: Kind) -> type[Ehlo]:
    """How a server of this kind is greeted (RFC 5321 §4.1.1.1, RFC 2033 §4.1)."""
    return Lhlo if kind == "lmtp" else Ehlo


async def greet_again(upstream: Upstream, name: bytes) -> Reply | None:
    """Greet upstream anew with the client's name; its refusal, if it will not have it. A server without EHLO gets HELO (RFC 5321 §3.2)."""
    (reply,) = await upstream.exchange([hello_of(upstream.kind)(name)])
    capabilities = parse_capabilities(reply)
    if reply.severity == 5 and upstream.kind != "lmtp":
        (reply,) = await upstream.exchange([Helo(name)])
        capabilities = Capabilities()
    if reply.severity != 2:
        return reply
    upstream.capabilities = capabilities
    return None


@lru_cache(maxsize=64)
def parse_capabilities(hello: Reply) -> Capabilities:
    """An upstream says the same at every session: parsed once, and kept once for all of them."""
    return Capabilities.parse(hello)
