"""One message over one connection, for who has it whole already (`relayproxy send`, `release`): MAIL, RCPT, DATA, and what came of it, in words.

RFC 5321 §3.3; PROTOCOL I1. Invariants: nothing leaves that DATA cannot carry (bare CR, LF, NUL); only the server's own 2yz is `accepted`, and where the end has left and was not answered
it is `unknown`; what a server says is nothing that a terminal obeys (attack 22). Memory: a piece of the content.
What a client sends while we hear it does not belong here (transfer.py), nor connecting (connect.py).
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.record.text import printable, text
from relayproxy.smtp.commands import Command, Data, Mail, Path, Rcpt
from relayproxy.smtp.data import ChunkReader
from relayproxy.smtp.parameters import get
from relayproxy.smtp.replies import Reply, worst

if TYPE_CHECKING:
    from relayproxy.record.report import ReleaseOutcome
    from relayproxy.relay.connect import UpstreamUnavailable
    from relayproxy.relay.upstream import SmtpUpstream
    from relayproxy.smtp.capabilities import Capabilities
    from relayproxy.smtp.parameters import Parameters

#: Octets of mail data handed to the socket at a time, so that a refusal in between is heard.
BLOCK: Final = 64 * 1024

#: Upstream's replies to commands.
Ask = Callable[[Sequence[Command]], Awaitable[list[Reply]]]


class Unsent(Exception):  # noqa: N818  it is a fact, and reads as one
    """The server did not take it, or did not say so: why, in words. `reply`: the server's own, where that is why."""

    def __init__(self, what: str, outcome: ReleaseOutcome, reply: Reply | None = None) -> None:
        super().__init__(what)
        self.outcome: ReleaseOutcome = outcome
        self.reply = reply


class Whole(NamedTuple):
    """A message; `pieces` gives it from its beginning, each time. `size` as RFC 1870 has it, of what leaves."""

    pieces: Callable[[], Iterable[bytes]]
    size: int
    eight_bit: bool

    @classmethod
    def of(cls, pieces: Callable[[], Iterable[bytes]]) -> Whole:
        """Read it once. Raises ValueError where it cannot be sent, and what `pieces` raises."""
        reader = ChunkReader(sys.maxsize)
        for piece in pieces():
            reader.feed(piece)
        reader.finish()
        if reader.violation is not None:
            raise ValueError(f"it has {reader.violation}")
        return cls(pieces, reader.size, reader.eight_bit)


class Taken(NamedTuple):
    """The server's 2yz to the message, and in words those recipients for whom it did not take it."""

    reply: Reply
    refused: tuple[str, ...]


def outgoing(
    sender: Path, given: Parameters, recipients: Sequence[Rcpt], content: Whole, offered: Capabilities
) -> Mail:
    """MAIL with what this message needs of the server besides what is given, as far as it offers that."""
    parameters = [one for one in given if one[0].upper() != b"SIZE"]
    if content.eight_bit and get(given, b"BODY") is None and b"8BITMIME" in offered:
        parameters.insert(0, (b"BODY", b"8BITMIME"))
    if b"SIZE" in offered:
        parameters.insert(0, (b"SIZE", b"%d" % content.size))
    paths = (sender, *[rcpt.path for rcpt in recipients])
    if get(given, b"SMTPUTF8") is None and not all(path.is_ascii for path in paths):
        if b"SMTPUTF8" not in offered:
            raise Unsent("an address is not ASCII, and the server does not offer SMTPUTF8", "aborted")
        parameters.append((b"SMTPUTF8", None))
    return Mail(sender, tuple(parameters))


async def transact(
    server: SmtpUpstream,
    mail: Mail,
    recipients: Sequence[Rcpt],
    content: Whole,
    *,
    all_or_none: bool,
    ask: Ask | None = None,
) -> Taken:
    """Send it. `all_or_none`: not without one of the recipients; `ask`: in place of the server's own `exchange`. Raises Unsent; the server's `leave` is the caller's."""
    ask = ask or server.exchange
    (reply,) = await ask((mail,))
    _must(server, f"MAIL FROM:<{shown(mail.path)}>", reply, 2)
    answers = await ask(recipients)
    refused = [one for one in zip(recipients, answers, strict=True) if one[1].severity != 2]
    told = tuple([f"RCPT TO:<{shown(rcpt.path)}>: {_said(server, answer)}" for rcpt, answer in refused])
    if len(refused) == len(recipients) or (refused and all_or_none):
        answer = worst([answer for _, answer in refused])
        left = "no recipient is left: nothing was sent" if len(refused) == len(recipients) else "nothing was sent"
        raise Unsent("\n".join([*told, left]), outcome_of(answer), _own(answer))
    _must(server, Data.verb, await server.start_data(""), 3)
    final = await _send(server, content)
    if server.progress == "committed":
        raise Unsent(f"{server.trouble or 'no answer'}: whether the server has the message is unknown", "unknown")
    _must(server, "end of data", final, 2)
    return Taken(final, told)


async def _send(server: SmtpUpstream, content: Whole) -> Reply:
    """The message and its end; the verdict."""
    reader = ChunkReader(sys.maxsize)
    waiting = b""
    for piece in content.pieces():
        waiting += reader.feed(piece).wire
        whole = len(waiting) - len(waiting) % BLOCK
        for start in range(0, whole, BLOCK):
            if (verdict := await server.send(waiting[start : start + BLOCK])) is not None:
                return verdict
        waiting = waiting[whole:]
    return await server.finish(waiting + reader.finish().wire)


def _must(server: SmtpUpstream, what: str, reply: Reply, severity: int) -> None:
    if reply.severity != severity:
        raise Unsent(f"{what}: {_said(server, reply)}", outcome_of(reply), _own(reply))


def outcome_of(refusal: Reply) -> ReleaseOutcome:
    return "rejected" if refusal.severity == 5 else "tempfailed"


def unavailable(error: UpstreamUnavailable) -> Unsent:
    """That there was no server to send it to."""
    own = _own(error.reply)
    return Unsent(
        error.what if own is None else f"{error.what} ({words(own)})",
        "tempfailed" if own is None else outcome_of(own),
        own,
    )


def _own(reply: Reply) -> Reply | None:
    """The reply, where it is the server's."""
    return reply if reply.origin == "upstream" else None


def _said(server: SmtpUpstream, reply: Reply) -> str:
    return words(reply) if _own(reply) is not None else server.trouble or words(reply)


def shown(path: Path) -> str:
    return text(path.address)


def words(reply: Reply) -> str:
    """A reply on one line, with nothing in it that a terminal would obey."""
    return printable(f"{reply.code} {text(b' '.join(reply.lines))}")
