"""`relayproxy send`: one message to one server, to try things out.

The client is the relay's own upstream leg (relay/upstream.py). A message from a file goes out octet for octet, but that LF becomes
CRLF; it is held in memory whole. Invariants: exit status 0 means that the server took the message for every recipient; where the configuration has a guard, one that it
does not allow is told to no server (DESIGN §6 "Guard"), but for a relay of this very configuration, which has that guard, and rules in front of it.
Retrying does not belong here, nor sending what was recorded.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from relayproxy.cli import Failed, file_or_dash, in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.relay.settings import Config
    from relayproxy.relay.upstream import SmtpUpstream
    from relayproxy.smtp.capabilities import Capabilities
    from relayproxy.smtp.commands import Mail
    from relayproxy.smtp.commands import Path as Mailbox
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.contexts import ClientTls

#: Octets of mail data handed to the socket at a time, so that a refusal in between is heard.
BLOCK: Final = 64 * 1024
#: Listeners there are on loopback too.
_ANY: Final = ("0.0.0.0", "::")
#: The exit status where the message did not go, or not to all.
UNSENT: Final = 1


async def send(
    *,
    server: Annotated[str, Parameter(metavar="URL")],
    sender: Annotated[str, Parameter(name="--from", metavar="ADDRESS")],
    to: Annotated[list[str], Parameter(negative="", metavar="ADDRESS")],
    subject: Annotated[str | None, Parameter(metavar="TEXT", allow_leading_hyphen=True)] = None,
    body: Annotated[str | None, Parameter(metavar="TEXT", allow_leading_hyphen=True)] = None,
    message: Annotated[
        str | None, Parameter(metavar="FILE|-", allow_leading_hyphen=True, validator=file_or_dash)
    ] = None,
    verify: Annotated[str | None, Parameter(metavar="full|ca|pin:sha256:HEX|none")] = None,
    ca: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Send one message. Exit status 0: the server took it for every recipient.

    Parameters
    ----------
    server
        where to: smtp://host[:port], smtp+starttls://host[:port] or smtps://host[:port]
    sender
        the envelope's sender; "" for the null sender
    to
        a recipient; again for another
    subject
        of the message that is made
    body
        the text of the message that is made
    message
        a file with a whole message, sent as it is; - for standard input
    verify
        with TLS, what the server's certificate must be: issued by the CA for this host (full, the default), issued by it (ca), this one
        (pin), anything (none)
    ca
        with TLS, certificates of the CA; default: the system's
    config
        a configuration whose guard is to be kept; default: ./relayproxy.toml where there is one

    """
    if message is not None and (subject is not None or body is not None):
        raise Failed("expected --message, or --subject and --body, got both")
    url, reverse, recipients = _url(server), _path("--from", sender), [_path("--to", one) for one in to]
    tls = _tls(url, verify, ca)
    _guard(config, url, recipients)
    content = _made(sender, to, subject, body) if message is None else _read(message)
    reply = await _deliver(url, tls, reverse, recipients, content)
    sys.stdout.write(_words(reply) + "\n")
    return 0


def _url(text: str) -> UpstreamUrl:
    from relayproxy.net.dial import UpstreamUrl

    try:
        url = UpstreamUrl.parse(text)
    except ValueError as error:
        raise Failed(f"--server: {error}") from error
    if url.kind == "capture":
        raise Failed("--server: expected smtp://host[:port], got capture:, which is no server")
    if url.kind == "lmtp":
        raise Failed(f"--server: expected smtp://host[:port], got {text}: LMTP answers once for each recipient")
    return url


def _tls(url: UpstreamUrl, verify: str | None, ca: Path | None) -> ClientTls | None:
    for flag, given in (("--verify", verify), ("--ca", ca)):
        if url.tls == "off" and given is not None:
            raise Failed(f"{flag}: expected --server smtp+starttls:// or smtps:// beside it, got {url}")
    if url.tls == "off":
        return None
    from relayproxy.tls.contexts import ClientTls

    with in_words():
        return ClientTls(verify=verify or "full", ca=ca, certificate=None, key=None, minimum="TLSv1.2", keylog=None)


def _path(flag: str, address: str) -> Mailbox:
    from relayproxy.smtp.commands import Path as Mailbox

    try:
        path = Mailbox.parse(address.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise Failed(f"{flag}: expected an address such as user@example.com, got {address!r}") from error
    if flag == "--to" and not path.local:
        raise Failed("--to: expected an address, got nothing")
    return path


def _guard(config: Path | None, url: UpstreamUrl, recipients: Sequence[Mailbox]) -> None:
    from relayproxy.cli.config import default_file, load
    from relayproxy.rules.guard import Guard

    loaded = load(config)
    if loaded.guard is None or _is_relay_of(loaded, url):
        return
    guard = Guard.parse(loaded.guard.allow)
    if outside := [path for path in recipients if not guard.allows(path.address)]:
        source = config or default_file() or "the environment"
        told = [f"RCPT TO:<{_shown(path)}>: the guard of {source} does not allow it" for path in outside]
        raise Failed("\n".join([*told, f"mail may go to {guard.what}: nothing was sent"]), UNSENT)


def _is_relay_of(config: Config, url: UpstreamUrl) -> bool:
    """Whether a listener of this configuration is there."""
    from relayproxy.net.address import is_loopback

    for listener in config.listener:
        address = listener.address
        here = is_loopback(url.host) and (address.is_loopback or address.host in _ANY)
        if address.kind == "tcp" and address.port == url.port and (here or address.host == url.host):
            return True
    return False


# The message.


def _made(sender: str, to: Sequence[str], subject: str | None, body: str | None) -> bytes:
    """A message of our own making (RFC 5322), with nothing in it that a server could object to."""
    from email import policy
    from email.message import EmailMessage
    from email.utils import format_datetime, make_msgid

    from relayproxy.relay.values import machine

    # Without 8-bit text unless an address has it already: the server may not take it.
    ascii_only = "".join((sender, *to)).isascii()
    made = EmailMessage(policy.SMTP.clone(cte_type="7bit") if ascii_only else policy.SMTPUTF8)
    try:
        made["Date"] = format_datetime(datetime.now(UTC))
        made["From"] = sender or f"MAILER-DAEMON@{machine()}"
        made["To"] = ", ".join(to)
        made["Message-ID"] = make_msgid(domain=machine())
        made["Subject"] = subject if subject is not None else "A message from relayproxy send"
        made.set_content(body if body is not None else "Sent to try things out.\n")
        return made.as_bytes()
    except ValueError as error:  # such as a line break in the subject
        raise Failed(f"no message can be made of that: {error}") from error


def _read(name: str) -> bytes:
    """A message from a file, with its lines ending as they must."""
    try:
        if name == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:  # noqa: PTH123 - the name as it was given
                content = file.read()
    except OSError as error:
        raise Failed(f"--message: {name}: cannot be read: {error.strerror}") from error
    content = re.sub(rb"\r?\n", b"\r\n", content)
    if found := re.search(rb"\r(?!\n)|\0", content):
        line = content.count(b"\n", 0, found.start()) + 1
        what = "NUL" if found[0] == b"\0" else "a bare CR"
        raise Failed(f"--message: {name}:{line}: expected lines that end with CRLF or LF, found {what}")
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


# The delivery.


async def _deliver(
    url: UpstreamUrl, tls: ClientTls | None, sender: Mailbox, recipients: Sequence[Mailbox], content: bytes
) -> Reply:
    from relayproxy.net.dial import dial
    from relayproxy.net.stream import TrioStream
    from relayproxy.relay.connect import UpstreamUnavailable, connect
    from relayproxy.relay.settings import Limits, UpstreamTimeouts
    from relayproxy.relay.values import machine

    try:
        server = await connect(
            str(url),
            [url],
            partial(dial, adopt=TrioStream.of_socket),
            machine().encode("ascii"),
            UpstreamTimeouts(),
            Limits(),
            tls=tls,
            tell_tls=lambda _url, _went: None,
        )
    except UpstreamUnavailable as error:
        reply = f" ({_words(error.greeting)})" if error.greeting.origin == "upstream" else ""
        raise Failed(f"{error.what}{reply}", UNSENT) from error
    try:
        return await _transact(server, sender, recipients, content)
    finally:
        await server.leave()


async def _transact(server: SmtpUpstream, sender: Mailbox, recipients: Sequence[Mailbox], content: bytes) -> Reply:
    from relayproxy.smtp.commands import Data, Rcpt

    mail = _mail(sender, recipients, content, server.capabilities)
    (reply,) = await server.exchange((mail,))
    _must(server, f"MAIL FROM:<{_shown(sender)}>", reply, 2)
    answers = await server.exchange([Rcpt(path) for path in recipients])
    refused = [
        f"RCPT TO:<{_shown(path)}>: {_words(answer)}"
        for path, answer in zip(recipients, answers, strict=True)
        if answer.severity != 2
    ]
    if len(refused) == len(recipients):
        raise Failed("\n".join([*refused, "no recipient is left: nothing was sent"]), UNSENT)
    _must(server, Data.verb, await server.start_data(""), 3)
    final = await _send_content(server, content)
    if server.progress == "committed":
        trouble = server.trouble or "no answer"
        raise Failed(f"{trouble}: whether the server has the message is unknown", UNSENT)
    _must(server, "end of data", final, 2)
    if refused:
        raise Failed("\n".join([*refused, f"sent to the others: {_words(final)}"]), UNSENT)
    return final


async def _send_content(server: SmtpUpstream, content: bytes) -> Reply:
    from relayproxy.smtp.data import stuff

    wire = stuff(content)
    whole = len(wire) - len(wire) % BLOCK
    for start in range(0, whole, BLOCK):
        if (verdict := await server.send(wire[start : start + BLOCK])) is not None:
            return verdict
    return await server.finish(wire[whole:])


def _mail(sender: Mailbox, recipients: Sequence[Mailbox], content: bytes, offered: Capabilities) -> Mail:
    """MAIL with what this message needs of the server, as far as it can."""
    from relayproxy.smtp.commands import Mail

    parameters: list[tuple[bytes, bytes | None]] = []
    if b"SIZE" in offered:
        parameters.append((b"SIZE", b"%d" % len(content)))
    if not content.isascii() and b"8BITMIME" in offered:
        parameters.append((b"BODY", b"8BITMIME"))
    if not all(path.is_ascii for path in (sender, *recipients)):
        if b"SMTPUTF8" not in offered:
            raise Failed("an address is not ASCII, and the server does not offer SMTPUTF8", UNSENT)
        parameters.append((b"SMTPUTF8", None))
    return Mail(sender, tuple(parameters))


def _must(server: SmtpUpstream, what: str, reply: Reply, severity: int) -> None:
    if reply.severity != severity:
        raise Failed(
            f"{what}: {_words(reply) if reply.origin == 'upstream' else server.trouble or _words(reply)}", UNSENT
        )


def _shown(path: Mailbox) -> str:
    from relayproxy.record.text import text

    return text(path.address)


def _words(reply: Reply) -> str:
    """A reply on one line, with nothing in it that a terminal would obey (attack 22)."""
    from relayproxy.record.text import printable, text

    return printable(f"{reply.code} {text(b' '.join(reply.lines))}")
