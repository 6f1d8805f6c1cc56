"""What TLS tells of a leg, and how it fails: plain values, so that whoever reports them need not know OpenSSL.

How a handshake is made does not belong here (stream.py), nor how facts look in a record (record/report.py).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from relayproxy.net.address import is_loopback

#: certificate: whom we met is not whom we wanted, or showed no certificate that we take; protocol: no common version or cipher, or octets that
#: are no TLS; closed: the peer went away during the handshake; timeout: it did not end in time.
Reason = Literal["certificate", "protocol", "closed", "timeout"]


class CertificateFacts(msgspec.Struct, frozen=True, gc=False):
    """The certificate that the peer showed. `digest` is SHA-256 of its DER form, in hexadecimal."""

    subject: str
    names: tuple[str, ...]
    digest: str


class TlsFacts(msgspec.Struct, frozen=True, gc=False):
    """A leg under TLS. `certificate` is the peer's own; `verified`, or `why` not, in words; both of a client only where it was asked for one."""

    version: str
    cipher: str
    sni: str | None = None
    certificate: CertificateFacts | None = None
    verified: bool = False
    why: str | None = None
    resumed: bool = False


def is_private(tls: TlsFacts | None, address: str | None) -> bool:
    """Whether nobody else can hear what is said to a peer, on either leg: under TLS, or inside of this machine."""
    return tls is not None or is_loopback(address or "")


class TlsFailure(Exception):  # noqa: N818  it is a fact, and reads as one
    """There is no TLS on this leg, and the connection is of no use any more. `what` says why, in words for the log."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason: Reason = reason
        self.what = what


class TlsConfigError(ValueError):
    """A file of certificates or keys, or what was asked of TLS, is not as it must be: which, what was expected, what came."""
