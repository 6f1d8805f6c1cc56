"""Whether we believe a peer's certificate: decided during the handshake, so that nothing but an alert leaves when we do not.

OpenSSL reports what it finds wrong with a chain one by one, and stops at the first that is not waved through. Here all of it is waved
through and noted, and the verdict falls when OpenSSL has looked at everything, so that the words name all that is wrong at once.
Invariants: without a verdict nothing is believed (`Findings.judged`); the alert that a refusal sends is that of the first finding.
How a callback of OpenSSL is made does not belong here (openssl.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509

from relayproxy.tls import openssl
from relayproxy.tls.certificates import digest_of, names_of
from relayproxy.tls.facts import TlsConfigError
from relayproxy.tls.openssl import UNSPECIFIED, VERIFIED

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL

# OpenSSL numbers its findings (x509_vfy.h); the words are in Findings, one by one.
_UNKNOWN_ISSUER: Final = frozenset({2, 20})
_UNVERIFIED_LEAF: Final = 21  # comes with an unknown issuer, and says no more
_OUR_OWN: Final = 50  # X509_V_ERR_APPLICATION_VERIFICATION

#: Names of a certificate that are told when none is the one we wanted.
_NAMES_TOLD: Final = 10

_PIN = re.compile(r"pin:sha256:(?P<digest>[0-9A-Fa-f]{64})", re.ASCII)


class Finding(NamedTuple):
    number: int
    depth: int
    certificate: x509.Certificate | None  # None: it cannot be read


class Findings:
    """What the callbacks of one handshake found out. It hangs on the connection, and knows neither it nor the engine."""

    __slots__ = ("expected", "found", "judged", "problem", "required")

    def __init__(self, expected: str = "", *, required: bool) -> None:
        #: The host that the certificate should be for.
        self.expected = expected
        #: There is no session unless the peer's certificate was judged.
        self.required = required
        self.found: list[Finding] = []
        self.judged = False
        #: What else went wrong inside a callback, where an exception would be lost.
        self.problem: str | None = None

    def words(self) -> str | None:
        """All that is wrong with the peer's certificate, None where nothing is."""
        unknown = any(finding.number in _UNKNOWN_ISSUER for finding in self.found)
        told = [finding for finding in self.found if not (unknown and finding.number == _UNVERIFIED_LEAF)]
        return "; ".join(dict.fromkeys(map(self._say, told))) or None

    def _say(self, finding: Finding) -> str:
        number, depth, certificate = finding
        it = "it" if depth == 0 else "the certificate of its issuer"
        match number, certificate:
            case (2 | 20, x509.Certificate()):
                words = f"its issuer is unknown to us ({_issuer(certificate)})"
            case (9, x509.Certificate()):
                words = f"{it} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
            case (10, x509.Certificate()):
                words = f"{it} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
            case (18, _):
                words = "it is self-signed, and not one that we trust"
            case (19, _):
                words = "its chain ends in a self-signed certificate that we do not trust"
            case (50, x509.Certificate()):
                words = f"it is not the pinned one: its digest is {digest_of(certificate)}"
            case (62 | 64, x509.Certificate()):
                names = ", ".join(names_of(certificate)[:_NAMES_TOLD]) or "no name"
                words = f"it is not for {self.expected} but for {names}"
            case _:
                words = f"{it}: {openssl.words_of_finding(number)}"
        return words


def _issuer(certificate: x509.Certificate) -> str:
    try:
        return certificate.issuer.rfc4514_string()
    except ValueError:
        return "its name cannot be read"


class Verification:
    """What a peer's certificate must be: `full` (a chain to whom we trust, for the host), `ca` (the chain), a pinned one, or anything (`none`)."""

    __slots__ = ("kind", "pin")

    def __init__(self, text: str) -> None:
        """Raises TlsConfigError."""
        match = _PIN.fullmatch(text)
        if match is None and text not in {"full", "ca", "none"}:
            raise TlsConfigError(
                f"verify: expected full, ca, none or pin:sha256: and the 64 hexadecimal digits of the certificate's digest, got {text!r}"
            )
        self.kind = text if match is None else "pin"
        self.pin = "" if match is None else match["digest"].lower()

    def judge(self, connection: SSL.Connection, number: int, depth: int, chain: openssl.Chain) -> int:
        """Note what is found; the verdict is that on the peer's own certificate, the last that OpenSSL looks at."""
        findings: Findings = connection.get_app_data()
        try:
            return self._judge(findings, number, depth, chain)
        except Exception as error:  # noqa: BLE001  it would be lost in OpenSSL
            findings.problem = f"the peer's certificate could not be judged: {error}"
            return UNSPECIFIED

    def _judge(self, findings: Findings, number: int, depth: int, chain: openssl.Chain) -> int:
        if number != VERIFIED:
            findings.found.append(Finding(number, depth, _read(chain.looked_at)))
            return VERIFIED
        if depth > 0:
            return VERIFIED
        findings.judged = True
        return self._verdict(findings, chain)

    def _verdict(self, findings: Findings, chain: openssl.Chain) -> int:
        if self.kind == "none":
            return VERIFIED
        if self.kind == "pin":
            certificate = _read(chain.peers_own)
            findings.found.clear()  # nothing else is asked of it
            if certificate is None or digest_of(certificate) != self.pin:
                findings.found.append(Finding(_OUR_OWN, 0, certificate))
        return findings.found[0].number if findings.found else VERIFIED


def _read(certificate: Callable[[], x509.Certificate]) -> x509.Certificate | None:
    try:
        return certificate()
    except ValueError:
        return None
