"""How a relay's sessions come to their upstreams: whose connection, with which TLS, credentials and introduction, and what is told of it.

Connecting itself does not belong here (connect.py), nor when a session does (upstream_leg.py).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relayproxy.relay.capture import CaptureUpstream
from relayproxy.relay.carriers import Introduction
from relayproxy.relay.connect import connect
from relayproxy.relay.credentials import Login, SessionLogin
from relayproxy.relay.tls_records import upstream_record
from relayproxy.tls.facts import TlsFailure

if TYPE_CHECKING:
    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.net.proxy_header import Ends
    from relayproxy.record.log import Reporter
    from relayproxy.record.tape import LegTape
    from relayproxy.relay.connect import Dial, UpstreamUnavailable
    from relayproxy.relay.context import Context
    from relayproxy.relay.keyring import Keyring
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.settings import Config
    from relayproxy.relay.upstream import Upstream
    from relayproxy.relay.upstream_leg import Connect
    from relayproxy.tls.facts import TlsFacts


class Connections:
    """One relay's. `introduces`: an upstream is told who the client is."""

    def __init__(self, config: Config, dial: Dial, keyring: Keyring, rulebook: Rulebook, reporter: Reporter) -> None:
        self.introduces = any(upstream.identity != "none" for upstream in config.upstream.values())
        self._config = config
        self._dial = dial
        self._keyring = keyring
        self._rulebook = rulebook
        self._reporter = reporter
        self._logins = {
            name: Login(upstream.credentials)
            for name, upstream in config.upstream.items()
            if upstream.credentials is not None
        }

    def of(self, context: Context, ends: Ends | None, tape: LegTape | None) -> Connect:
        """A session's; `ends`: of its client's connection, where they are told to upstream."""
        return partial(self._connect, context, ends, tape)

    async def _connect(
        self,
        context: Context,
        ends: Ends | None,
        tape: LegTape | None,
        session: str,
        ehlo: bytes | None,
        routed: str | None,
    ) -> Upstream:
        name = routed or context.upstream
        if self._config.upstream[name].captures:
            return CaptureUpstream(self._rulebook.admits)
        return await connect(
            name,
            self._config.upstream[name].url,
            self._dial,
            ehlo or context.ehlo_name,
            self._config.timeouts.upstream,
            self._config.limits,
            tls=self._keyring.clients.get(name),
            tell_tls=partial(self._tell_tls, session),
            tell=partial(self._tell_passed_over, session),
            login=self._login(name, session),
            introduction=self._introduction(name, ends),
            tape=tape,
            admits=self._rulebook.admits,
        )

    def _introduction(self, upstream: str, ends: Ends | None) -> Introduction | None:
        """What an upstream is told of this client."""
        carrier = self._config.upstream[upstream].identity
        return None if carrier == "none" or ends is None else Introduction(carrier, ends)

    def _login(self, name: str, session: str) -> SessionLogin | None:
        """Our credentials there, if we have some."""
        if (login := self._logins.get(name)) is None:
            return None
        reporter = self._reporter
        return SessionLogin(
            login,
            lambda mechanism, user, outcome, reply: reporter.auth(
                "upstream", mechanism, user, outcome, session=session, reply=reply
            ),
            partial(reporter.error, "upstream", session=session),
        )

    def _tell_passed_over(self, session: str, failure: UpstreamUnavailable) -> None:
        """The next url is tried; that the first is away, or attacked, does not stay unseen for that."""
        if failure.violation:
            self._reporter.violation("upstream", failure.what, session=session)
        else:
            self._reporter.error("upstream", failure.what, session=session, level="warning")

    def _tell_tls(self, session: str, url: UpstreamUrl, went: TlsFacts | TlsFailure) -> None:
        if isinstance(went, TlsFailure):
            self._reporter.tls_failed("upstream", went.what, session=session, host=url.host)
        else:
            self._reporter.tls_started(upstream_record(went), session=session, host=url.host)
