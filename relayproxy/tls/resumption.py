"""Sessions with upstreams that a later connection goes on with: without signatures, and the look at them, a handshake costs a fifth less (RFC 8446 §2.2, RFC 5077).

A server that goes on with a session has shown no certificate: it has shown that it is the one that was met then.
Invariants: what is kept is a session whose peer was looked at, under the context that looked at it and for the host that it was looked at for (PROTOCOL §1.9);
however often it is gone on with, after LOOK_AGAIN the certificate is looked at anew; where a server refuses to go on once, it is not tried again.
How a session is made does not belong here (contexts.py), nor whom we believe (verification.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from OpenSSL import SSL

    from relayproxy.tls.verification import Findings

#: Seconds.
LOOK_AGAIN: Final = 600.0


class Known(NamedTuple):
    """A session, what was found out about its peer's certificate, and when that was looked at, on trio's clock."""

    session: SSL.Session
    findings: Findings
    looked_at: float


class Sessions:
    """Those of one ClientTls; one a host, of which a configuration names few."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._never: set[str] = set()

    def of(self, host: str, now: float) -> Known | None:
        """What to go on with."""
        known = self._known.get(host)
        return None if known is None or now >= known.looked_at + LOOK_AGAIN else known

    def keep(self, host: str, known: Known) -> None:
        """The tickets of a session are worth most when they are new, the look at a certificate as well."""
        before = self._known.get(host)
        if host not in self._never and (before is None or before.looked_at <= known.looked_at):
            self._known[host] = known

    def forget(self, host: str) -> None:
        """It came to nothing, which may have been for this session's sake."""
        self._known.pop(host, None)

    def give_up(self, host: str) -> None:
        """There are servers that promise to go on, and refuse (those of whole providers did)."""
        self.forget(host)
        self._never.add(host)
