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

from relayproxy.cli import Failed, file_or_dash, in_words, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.relay.settings import Config
    from relayproxy.smtp.commands import Path as Mailbox
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.contexts import ClientTls

#: Listeners there are on loopback too.
_ANY: Final = ("0.0.0.0", "::")
#: The exit status where the message did not go, or not to all.
UNSENT: Final = 1
#: Behind what is wrong with a server's certificate.
_TRUST: Final = "; --ca FILE says whose certificates to trust, --verify how much to ask of one"


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
    from relayproxy.relay.sending import words

    url, reverse, recipients = _url(server), path_of("--from", sender), [path_of("--to", one) for one in to]
    tls = _tls(url, verify, ca)
    _guard(config, url, recipients)
    content = _made(sender, to, subject, body) if message is None else _read(message)
    reply = await _deliver(url, tls, reverse, recipients, content)
    sys.stdout.write(words(reply) + "\n")
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
    from relayproxy.tls.facts import TlsConfigError
    from relayproxy.tls.verification import Verification

    verify = verify or "full"
    try:
        Verification(verify)
    except TlsConfigError as error:
        raise Failed(f"--{error}") from error  # it begins with the setting's name
    with in_words():
        return ClientTls(verify=verify, ca=ca, certificate=None, key=None, minimum="TLSv1.2", keylog=None)


def _guard(config: Path | None, url: UpstreamUrl, recipients: Sequence[Mailbox]) -> None:
    from relayproxy.cli.config import default_file, load
    from relayproxy.relay.rulebook import guard_of
    from relayproxy.relay.sending import shown

    loaded = load(config)
    guard = guard_of(loaded)
    if guard is None or _is_relay_of(loaded, url):
        return
    if outside := [path for path in recipients if not guard.allows(path.address)]:
        source = config or default_file()
        told = [
            f"RCPT TO:<{shown(path)}>: the guard of {source or 'the environment'} does not allow it" for path in outside
        ]
        otherwise = "" if source is None else "; --config FILE takes another configuration, and its guard if it has one"
        raise Failed(
            "\nrelayproxy: ".join([*told, f"mail may go to {guard.what}: nothing was sent{otherwise}"]), UNSENT
        )


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
    url: UpstreamUrl, tls: ClientTls | None, sender: Mailbox, recipients: Sequence[Mailbox], octets: bytes
) -> Reply:
    from relayproxy.net.dial import dial
    from relayproxy.net.stream import TrioStream
    from relayproxy.relay.connect import UpstreamUnavailable, connect
    from relayproxy.relay.sending import Unsent, Whole, outgoing, transact, unavailable, words
    from relayproxy.relay.settings import Limits, UpstreamTimeouts
    from relayproxy.relay.values import machine
    from relayproxy.smtp.commands import Rcpt
    from relayproxy.tls.facts import TlsFailure

    content = Whole.of(lambda: (octets,))
    rcpts = [Rcpt(path) for path in recipients]
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
        cause = error.__cause__
        distrusted = isinstance(cause, TlsFailure) and cause.reason == "certificate"
        raise Failed(f"{unavailable(error)}{_TRUST if distrusted else ''}", UNSENT) from error
    try:
        mail = outgoing(sender, (), rcpts, content, server.capabilities)
        taken = await transact(server, mail, rcpts, content, all_or_none=False)
    except Unsent as error:
        raise Failed(str(error), UNSENT) from error
    finally:
        await server.leave()
    if taken.refused:
        raise Failed("\nrelayproxy: ".join([*taken.refused, f"sent to the others: {words(taken.reply)}"]), UNSENT)
    return taken.reply
