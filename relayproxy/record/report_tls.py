"""What is told of TLS on a leg: parts of the lines in report.py, under its rules (DESIGN §7: additive only). Pure.

Of TLS itself nothing is known here; who fills these in is relay/tls_records.py.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class CertificateRecord(msgspec.Struct, frozen=True, gc=False):
    """The certificate that a peer showed."""

    subject: str
    names: Annotated[tuple[str, ...], Meta(description="subjectAltName: host names and IP addresses")]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of its DER form, in hexadecimal")]


Why = Annotated[str | None, Meta(description="why the certificate was not verified, in words; null where it was")]
Resumed = Annotated[bool, Meta(description="whether an earlier session was resumed")]


class ClientTlsRecord(msgspec.Struct, frozen=True, gc=False):
    """TLS with the client. A certificate is there only where it was asked for one."""

    version: str
    cipher: str
    sni: Annotated[str | None, Meta(description="the host that it asked for")]
    certificate: CertificateRecord | None = None
    verified: bool = False
    why: Why = None
    resumed: Resumed = False


class UpstreamTlsRecord(msgspec.Struct, frozen=True, gc=False):
    """TLS with upstream."""

    version: str
    cipher: str
    verified: Annotated[
        bool, Meta(description="whether its certificate is what `verify` asks for; false where that is none")
    ]
    sni: Annotated[str | None, Meta(description="the host that we asked for")] = None
    certificate: CertificateRecord | None = None
    why: Why = None
    resumed: Resumed = False
