"""A held message on its way out: with which envelope, to which upstream, past which guard, and how it went (DESIGN §4 `release`, §6 `hold`).

It leaves as the rules left it, Received field and all, and is met as the relay meets that upstream: its TLS, credentials, names and patience, and what it is told of the client.
Invariants: nobody is connected to where the guard allows one of its recipients no mail; nobody gets it unless upstream takes every recipient; whenever it is
cut off, `went` is what is known: where the end may have left, `unknown`.
That only one does this at a time does not belong here (cli/release.py, record/store/releases.py).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from relayproxy.mail.envelope import Envelope
from relayproxy.net.dial import dial
from relayproxy.net.proxy_header import Ends
from relayproxy.net.stream import TrioStream
from relayproxy.record.store.interface import StoreError
from relayproxy.record.text import octets
from relayproxy.relay.carriers import Forwarding, Introduction
from relayproxy.relay.connect import UpstreamUnavailable, connect
from relayproxy.relay.credentials import Login, SessionLogin
from relayproxy.relay.keyring import client_tls
from relayproxy.relay.rulebook import guard_of
from relayproxy.relay.sending import Unsent, outgoing, shown, transact, unavailable
from relayproxy.smtp import grammar
from relayproxy.smtp.capabilities import check
from relayproxy.smtp.commands import Ehlo, Mail, Path, Rcpt
from relayproxy.smtp.errors import RemoteProtocolError
from relayproxy.smtp.parameters import get

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.record.report import ParametersRecord, ReleaseOutcome, TransactionRecord
    from relayproxy.relay.sending import Whole
    from relayproxy.relay.settings import Config
    from relayproxy.relay.upstream import SmtpUpstream
    from relayproxy.rules.guard import Guard
    from relayproxy.smtp.parameters import Parameters
    from relayproxy.smtp.replies import Reply


class Went(NamedTuple):
    """How it went; `reply`: the server's own."""

    outcome: ReleaseOutcome
    reply: Reply | None = None
    why: str | None = None


class Release:
    """One try. `upstream` is its name in the configuration."""

    def __init__(
        self, config: Config, record: TransactionRecord, to: Sequence[Path], tell: Callable[[str], None]
    ) -> None:
        """`to`: in place of its recipients. `tell` hears what upstream has against us. Raises ValueError, in words: it cannot go, or must not; TlsConfigError."""
        self.upstream = upstream_of(config, record)
        self.envelope = _envelope(record, to)
        self._config = config
        self._record = record
        self._tell = tell
        self._guard = guard_of(config)
        if self._guard is None and record.held is not UNSET and record.held.guarded:
            raise ValueError(
                "it was held behind a guard, and this configuration has none: expected [guard], or RELAYPROXY_ALLOW"
            )
        if self._guard is not None:
            self.envelope = _guarded(self._guard, self.envelope)
        settings = config.upstream[self.upstream]
        if settings.url[0].kind == "lmtp" and len(self.envelope.recipients) > 1:
            raise ValueError(f"{self.upstream} speaks LMTP, which answers for each recipient: expected one")
        self._tls = client_tls(config, self.upstream) if settings.has_tls else None
        self._server: SmtpUpstream | None = None
        self._went: Went | None = None

    @property
    def went(self) -> Went:
        """What is known of how it went, whenever this is asked."""
        if self._went is not None:
            return self._went
        if self._server is not None and self._server.progress in ("committed", "answered"):
            return Went("unknown", None, "it was interrupted behind its end: whether the server has it is unknown")
        return Went("aborted", None, "it was interrupted: nothing was sent")

    async def send(self, content: Whole) -> None:
        """Send it; `went` says how it went."""
        try:
            server = self._server = await self._connect()
            taken = await self._transact(server, content)
            self._went = Went("accepted", taken)
        except UpstreamUnavailable as error:
            self._went = _why(unavailable(error))
        except Unsent as error:
            self._went = _why(error)
        except StoreError as error:
            self._went = Went("aborted", None, str(error))
        finally:
            if self._server is not None:
                await self._server.leave()

    async def _connect(self) -> SmtpUpstream:
        config, client = self._config, self._record.client
        upstream = config.upstream[self.upstream]
        introduction = None
        if upstream.identity != "none":
            introduction = Introduction(upstream.identity, Ends((client.address, client.port), None))
        login = None
        if upstream.credentials is not None:
            login = SessionLogin(Login(upstream.credentials), lambda *_told: None, self._tell)
        return await connect(
            self.upstream,
            upstream.url,
            partial(dial, adopt=TrioStream.of_socket),
            (self._client_name() if upstream.ehlo == "client" else None) or config.hostname.encode("ascii"),
            config.timeouts.upstream,
            config.limits,
            tls=self._tls,
            tell_tls=lambda _url, _went: None,
            login=login,
            introduction=introduction,
            admits=None if self._guard is None else self._guard.allows,
        )

    def _client_name(self) -> bytes | None:
        """What the client said in EHLO, where it can be said again."""
        name = octets(self._record.client.helo or "")
        return name if grammar.HELO_NAME.fullmatch(name) is not None else None

    async def _transact(self, server: SmtpUpstream, content: Whole) -> Reply:
        offered = server.capabilities
        given, recipients = self.envelope.mail, self.envelope.recipients
        mail = outgoing(given.path, given.parameters, recipients, content, offered)
        if content.eight_bit and b"8BITMIME" not in offered:
            raise Unsent("its content is 8-bit, and the server does not offer 8BITMIME", "aborted")
        utf8 = get(mail.parameters, b"SMTPUTF8") is not None
        for command in (mail, *recipients):
            try:
                check(command, offered, smtputf8=utf8)
            except RemoteProtocolError as error:
                line = command.wire().decode("utf-8", "backslashreplace").rstrip()
                raise Unsent(f"{line}: the server does not offer what that needs", "aborted") from error
        ask = None
        if self._config.upstream[self.upstream].identity == "xforward":
            forwarding = Forwarding(
                (self._record.client.address, self._record.client.port), self._record.session, self._tell
            )
            if (name := self._client_name()) is not None:
                forwarding.hello = Ehlo(name)
            ask = partial(forwarding.exchange, server)
        return (await transact(server, mail, recipients, content, all_or_none=True, ask=ask)).reply


def upstream_of(config: Config, record: TransactionRecord) -> str:
    """The name of the upstream that a held message goes to: the one that it was for, or its listener's. Raises ValueError, in words."""
    listeners = [listener for listener in config.listener if listener.name == record.listener]
    routed = None if record.held is UNSET else record.held.upstream
    if routed is not None:
        if routed not in config.upstream:
            raise ValueError(f"a rule routes it to the upstream {routed}, which the configuration does not have")
        name = routed
    elif record.upstream is not None and record.upstream.name in config.upstream:
        name = record.upstream.name
    elif listeners or len(config.upstream) == 1:
        name = config.upstream_of(listeners[0] if listeners else config.listener[0])
    else:
        was = "" if record.upstream is None else f", nor the upstream {record.upstream.name}"
        raise ValueError(f"the configuration has no listener {record.listener}{was}: where is it to go?")
    if config.upstream[name].captures:
        raise ValueError(f"its upstream, {name}, is capture:, which is no server: expected a configuration with one")
    return name


def _envelope(record: TransactionRecord, to: Sequence[Path]) -> Envelope:
    """As it was held, with other recipients where there are some."""
    if record.held is UNSET:
        raise ValueError("its record does not say with which envelope it is to leave")
    held = record.held.envelope
    # A login's identity is not ours to vouch for (RFC 4954 §5).
    parameters = tuple([one for one in _parameters(held.parameters) if one[0] != b"AUTH"])
    mail = Mail(_path(held.sender), parameters)
    if to:
        return Envelope(mail, tuple([Rcpt(path) for path in dict.fromkeys(to)]))
    recipients = tuple([Rcpt(_path(one.address), _parameters(one.parameters)) for one in held.recipients])
    if not recipients:
        raise ValueError("it has no recipient: expected --to")
    return Envelope(mail, recipients)


def _parameters(told: ParametersRecord) -> Parameters:
    return tuple([(octets(name), None if value is None else octets(value)) for name, value in told.items()])


def _path(address: str) -> Path:
    try:
        return Path.parse(octets(address))
    except ValueError as error:
        raise ValueError(
            f"the envelope that it is to leave with has no address {address!r} that can be sent"
        ) from error


def _guarded(guard: Guard, envelope: Envelope) -> Envelope:
    """As it may leave. Raises ValueError: the guard does not allow all of them."""
    outside = [shown(rcpt.path) for rcpt in envelope.recipients if not guard.allows(rcpt.path.address)]
    if outside:
        raise ValueError(f"the guard does not allow {', '.join(outside)}: mail may go to {guard.what}")
    return Envelope(envelope.mail, tuple([guard.guarded(rcpt) for rcpt in envelope.recipients]))


def _why(error: Unsent) -> Went:
    return Went(error.outcome, error.reply, str(error).replace("\n", "; "))
