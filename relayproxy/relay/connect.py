"""From an upstream's settings to a server that has greeted us and taken EHLO: failover in order, one deadline for all of it.

RFC 5321 §3.1, §3.2, §4.2.1; PROTOCOL §1.1 (1, 2), fault matrix row S0. Invariant: whatever goes wrong here becomes the client's greeting, or after a
verdict that closed upstream the answer to its MAIL: 421 for trouble of any kind, upstream's own reply where it refuses for good (5yz: not tried elsewhere).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from relayproxy.net.dial import DialError, UpstreamUrl
from relayproxy.net.peer import Peer, PeerLost, PeerStalled
from relayproxy.relay.upstream import SmtpUpstream
from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.client import ClientProtocol
from relayproxy.smtp.commands import Ehlo, Helo
from relayproxy.smtp.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.net.stream import DeadlineStream
    from relayproxy.relay.settings import Limits, UpstreamTimeouts
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

#: Opens a connection within so many seconds, or raises DialError.
Dial = Callable[[UpstreamUrl, float], "Awaitable[DeadlineStream]"]

_DIAL_REPLIES = {
    "refused": local_replies.UPSTREAM_UNREACHABLE,
    "unreachable": local_replies.UPSTREAM_UNREACHABLE,
    "timeout": local_replies.UPSTREAM_SLOW,
    "unresolved": local_replies.UPSTREAM_UNRESOLVED,
}


class UpstreamUnavailable(Exception):  # noqa: N818  it is a fact, and reads as one
    """No server could be had: `greeting` is what the client hears instead of 220."""

    def __init__(self, what: str, greeting: Reply) -> None:
        super().__init__(what)
        self.what = what
        self.greeting = greeting


async def connect(
    name: str,
    urls: Sequence[UpstreamUrl],
    dial: Dial,
    ehlo: bytes,
    timeouts: UpstreamTimeouts,
    limits: Limits,
) -> SmtpUpstream:
    """The first server of `urls` that will have us. Raises UpstreamUnavailable."""
    deadline = trio.current_time() + timeouts.setup
    failed: UpstreamUnavailable | None = None
    for url in urls:
        left = deadline - trio.current_time()
        if left <= 0:
            break
        try:
            return await _connect_one(name, url, dial, ehlo, timeouts, limits, deadline)
        except UpstreamUnavailable as error:
            failed = error
            if error.greeting.severity == 5:
                break
    raise failed or UpstreamUnavailable("no time was left", local_replies.UPSTREAM_SLOW)


async def _connect_one(
    name: str,
    url: UpstreamUrl,
    dial: Dial,
    ehlo: bytes,
    timeouts: UpstreamTimeouts,
    limits: Limits,
    deadline: float,
) -> SmtpUpstream:
    try:
        stream = await dial(url, min(timeouts.connect, deadline - trio.current_time()))
    except DialError as error:
        raise UpstreamUnavailable(str(error), _DIAL_REPLIES[error.reason]) from error
    peer = Peer.of(stream, "upstream", url)
    protocol = ClientProtocol(reply_bytes=limits.reply_bytes, reply_lines=limits.reply_lines)
    try:
        return await _greet(name, url, peer, protocol, ehlo, timeouts, deadline)
    except BaseException as error:
        peer.drop()
        match error:
            case PeerStalled():
                raise UpstreamUnavailable("upstream did not greet us in time", local_replies.UPSTREAM_SLOW) from error
            case PeerLost():
                raise UpstreamUnavailable(
                    "upstream closed the connection", local_replies.UPSTREAM_UNREACHABLE
                ) from error
            case RemoteProtocolError():
                raise UpstreamUnavailable(error.what, local_replies.UPSTREAM_UNREACHABLE) from error
        raise


async def _greet(
    name: str,
    url: UpstreamUrl,
    peer: Peer,
    protocol: ClientProtocol,
    ehlo: bytes,
    timeouts: UpstreamTimeouts,
    deadline: float,
) -> SmtpUpstream:
    async def reply_to(command: Command | None, seconds: float) -> Reply:
        if command is not None:
            await peer.send(protocol.send(command), timeouts.data_block)
        until = min(deadline, peer.now() + seconds)  # for the whole reply, however it comes
        while (reply := protocol.next_reply()) is None:
            data = await peer.receive_by(until)
            if not data:
                raise PeerLost(peer.leg)
            protocol.receive_data(data)
        return reply

    greeting = await reply_to(None, timeouts.greeting)
    if greeting.severity != 2:
        raise _refused("upstream's greeting", greeting)
    hello = await reply_to(Ehlo(ehlo), timeouts.ehlo)
    if hello.severity == 5:
        # RFC 5321 §3.2: a server without extensions.
        hello = await reply_to(Helo(ehlo), timeouts.ehlo)
        if hello.severity == 2:
            return SmtpUpstream(name, url, peer, protocol, Capabilities(), timeouts)
    if hello.severity != 2:
        refusal = hello if hello.code == 421 else local_replies.UPSTREAM_UNREACHABLE
        raise UpstreamUnavailable(f"upstream answered {hello.code} to our EHLO", refusal)
    return SmtpUpstream(name, url, peer, protocol, parse_capabilities(hello), timeouts)


def _refused(what: str, reply: Reply) -> UpstreamUnavailable:
    if reply.severity == 5 or reply.code == 421:
        return UpstreamUnavailable(f"{what} was {reply.code}", reply)
    return UpstreamUnavailable(f"{what} was {reply.code}", local_replies.UPSTREAM_UNREACHABLE)


async def greet_again(upstream: Upstream, name: bytes) -> Reply | None:
    """Greet upstream anew with the client's name; its refusal, if it will not have it. A server without EHLO gets HELO (RFC 5321 §3.2)."""
    (reply,) = await upstream.exchange([Ehlo(name)])
    capabilities = parse_capabilities(reply)
    if reply.severity == 5:
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
