"""Who the client is, told to upstream: a PROXY header, XCLIENT, or XFORWARD with each transaction (DESIGN §5 `identity`, PROTOCOL §1.10).

An upstream that is not told takes us for the client, and may let us do what it lets nobody else do (attack 27). So this fails closed: a server that
offers no XCLIENT or XFORWARD, or will not have ours, gets no mail (421 and 451 4.3.5), and an `error` line says why.
Nothing about the client is invented: what we do not know is `[UNAVAILABLE]`, or left out where the server then finds it out by itself.
How the commands look does not belong here (smtp/carriers.py), nor the header (net/proxy_header.py), nor what is said before the greeting (connect.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from relayproxy.mail.ip import plain_address
from relayproxy.net.proxy_header import proxy_header
from relayproxy.smtp import local_replies
from relayproxy.smtp.carriers import UNAVAILABLE, Xclient, Xforward, xforwards
from relayproxy.smtp.commands import Ehlo, Mail, Rcpt, Rset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.net.address import Peername
    from relayproxy.net.proxy_header import Ends
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.capabilities import Capabilities
    from relayproxy.smtp.commands import Command, Helo
    from relayproxy.smtp.replies import Reply

Carrier = Literal["none", "xclient", "xforward", "proxy-v1", "proxy-v2"]

_HEADERS: Final[dict[str, Literal[1, 2]]] = {"proxy-v1": 1, "proxy-v2": 2}
_VERBS: Final = {"xclient": "XCLIENT", "xforward": "XFORWARD"}


class Introduction(NamedTuple):
    """What one connection to an upstream is told: of which client, and how."""

    carrier: Carrier
    client: Ends

    def header(self, upstream: Peername) -> bytes:
        """The first octets on a connection to there; none, where it is told in another way."""
        version = _HEADERS.get(self.carrier)
        return b"" if version is None else proxy_header(version, self.client.source, self.client.destination, upstream)

    def missing(self, capabilities: Capabilities) -> str | None:
        """The command that the server would have to offer, with ADDR, which is the point of it, and does not."""
        verb = _VERBS.get(self.carrier)
        return None if verb is None or b"ADDR" in _offered(capabilities, verb) else verb

    def xclient(self, capabilities: Capabilities) -> Xclient | None:
        """What to say after EHLO, if anything. ADDR is last: behind it we are somebody else, who may not say the rest."""
        if self.carrier != "xclient":
            return None
        address, port = _address(self.client.source)
        # Nobody was asked for a name, and what the server has so far is ours.
        known = {b"NAME": UNAVAILABLE, b"PORT": port}
        if self.client.destination is not None and plain_address(self.client.destination[0]) is not None:
            to_address, to_port = _address(self.client.destination)
            known |= {b"DESTADDR": to_address, b"DESTPORT": to_port}
        known[b"ADDR"] = address
        offered = _offered(capabilities, "XCLIENT")
        return Xclient(tuple((name, value) for name, value in known.items() if name in offered))


def _offered(capabilities: Capabilities, verb: str) -> list[bytes]:
    return capabilities.keywords.get(verb.encode("ascii"), b"").upper().split()


def _address(peername: Peername) -> tuple[bytes, bytes]:
    """ADDR and PORT."""
    address = plain_address(peername[0])
    if address is None or peername[1] is None:
        return UNAVAILABLE, UNAVAILABLE
    prefix = "IPV6:" if address.version == 6 else ""
    return f"{prefix}{address}".encode("ascii"), b"%d" % peername[1]


class Forwarding:
    """XFORWARD in front of each MAIL of one session, in the group that MAIL goes with. The server forgets it with the transaction."""

    __slots__ = ("_client", "_session", "_tell", "hello")

    def __init__(self, client: Peername, session: str, tell: Callable[[str], None]) -> None:
        """`tell` hears that a server will not have it."""
        #: What the client said last.
        self.hello: Ehlo | Helo | None = None
        self._client = client
        self._session = session
        self._tell = tell

    async def exchange(self, upstream: Upstream, commands: Sequence[Command]) -> list[Reply]:
        """Ask as `Upstream.exchange` does. A transaction whose XFORWARD was refused has failed, whatever upstream says to its MAIL."""
        ahead = [self._commands(upstream) if isinstance(command, Mail) else () for command in commands]
        asked = [one for command, before in zip(commands, ahead, strict=True) for one in (*before, command)]
        replies = iter(await upstream.exchange(asked))
        answers: list[Reply] = []
        refusal: Reply | None = None
        for command, before in zip(commands, ahead, strict=True):
            if isinstance(command, Mail | Rset):
                refusal = None
            refused = [reply for reply in [next(replies) for _ in before] if reply.severity != 2]
            if refused:
                refusal = self._refusal(upstream, refused[0])
            answers.append(_instead(command, next(replies), refusal))
        if refusal is not None and upstream.failure is None:
            await upstream.exchange((Rset(),))  # of what upstream may have begun under a wrong name
        return answers

    def _commands(self, upstream: Upstream) -> tuple[Xforward, ...]:
        """Of what is known, what upstream lists, and ADDR in any case: it is asked to refuse rather than not asked."""
        address, port = _address(self._client)
        known = {
            b"NAME": UNAVAILABLE,
            b"ADDR": address,
            b"PORT": port,
            b"PROTO": b"ESMTP" if isinstance(self.hello, Ehlo) else b"SMTP",
            b"HELO": UNAVAILABLE if self.hello is None else self.hello.name,
            b"IDENT": self._session.encode("ascii"),
            b"SOURCE": b"LOCAL" if address is UNAVAILABLE else b"REMOTE",
        }
        offered = [b"ADDR", *_offered(upstream.capabilities, "XFORWARD")]
        return tuple(xforwards(tuple((name, value) for name, value in known.items() if name in offered)))

    def _refusal(self, upstream: Upstream, reply: Reply) -> Reply:
        """What MAIL is answered instead: where upstream was lost that is what counts, else it is a matter of our configuration."""
        if reply.code == 421 or (reply.origin == "proxy" and reply.severity == 4):
            return reply
        self._tell(f"{upstream.host}: the server answered {reply.code} to XFORWARD")
        return local_replies.MISCONFIGURED


def _instead(command: Command, reply: Reply, refusal: Reply | None) -> Reply:
    match command:
        case Mail() if refusal is not None:
            return refusal
        case Rcpt() if refusal is not None and reply.code != 421:
            return local_replies.BAD_SEQUENCE
        case _:
            return reply
