"""Who a session's transactions are between, as it is told of each of them: in its record, and in the Received field of its message.

It is the same until the client greets us anew, begins TLS or says who it is, or another upstream takes the place of the one that there was
(`fits`): so it is worked out then, and not with every message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.trace import Stamp
from relayproxy.record.report import UpstreamRecord
from relayproxy.relay.tls_records import upstream_record
from relayproxy.smtp.commands import Ehlo

if TYPE_CHECKING:
    from relayproxy.record.report import AuthRecord
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Helo

#: What there is without extensions.
_PLAIN: Final = b"SMTP"


class Parties:
    """`client`: as it is told; `stamp`: of our Received fields, None where we leave none."""

    __slots__ = ("_facts", "_protocol", "client", "stamp", "upstream")

    def __init__(
        self,
        session: str,
        context: Context,
        client: ClientLeg,
        helo: Ehlo | Helo | None,
        auth: AuthRecord | None,
        upstream: Upstream | None,
    ) -> None:
        self._facts = (helo, auth, client.tls, upstream)
        self._protocol = _PLAIN
        if isinstance(helo, Ehlo):
            self._protocol = b"ESMTP%b%b" % (b"" if client.tls is None else b"S", b"" if auth is None else b"A")
        self.client = client.record(helo, auth)
        self.upstream = upstream
        self.stamp: Stamp | None = None
        if context.trace:
            self.stamp = Stamp(
                helo=b"" if helo is None else helo.name,
                client_address=client.peer.address,
                hostname=context.hostname,
                identity=f"{session}@{context.identity}",
            )

    def fits(
        self, client: ClientLeg, helo: Ehlo | Helo | None, auth: AuthRecord | None, upstream: Upstream | None
    ) -> bool:
        """Whether it is still these, who have said no more."""
        return self._facts == (helo, auth, client.tls, upstream)

    def protocol(self, *, utf8: bool) -> bytes:
        """What a message came with (RFC 3848); `utf8`: its MAIL said SMTPUTF8 (RFC 6531 §4.3)."""
        return self._protocol.replace(b"ESMTP", b"UTF8SMTP") if utf8 else self._protocol


def record_of(upstream: Upstream | None) -> UpstreamRecord | None:
    """Whom we speak to, or who has turned out to take the message."""
    if upstream is None:
        return None
    tls = None if upstream.tls is None else upstream_record(upstream.tls)
    return UpstreamRecord(upstream.name, upstream.host, upstream.address, upstream.port, tls)
