"""The peers of a dialog under TLS: handshakes that are real, made by Python's own ssl, so that both sides are not the same code.

`FarTls` is the far side of a `Leg` (dialog_wire.py): what it wraps leaves as records, what comes as records is text again. Certificates are
made once a process. What a dialog says of them is in the manual (dialog_runner.py).
"""

from __future__ import annotations

import datetime as dt
import ssl
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Certificate = Literal["good", "expired", "wrong-name", "self-signed", "unknown-issuer"]
CERTIFICATES: Final = get_args(Certificate)

_SIGNERS: Final = ("CA of the dialogs", "a CA that nobody knows")
_NOW = dt.datetime.now(dt.UTC)
_DAY = dt.timedelta(days=1)
_KEY = ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
    ends: dt.datetime,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(_KEY.public_key() if issuer != subject else key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - 30 * _DAY)
        .not_valid_after(ends)
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    )
    return builder.sign(key, hashes.SHA256())


@cache
def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _signed(_name(name), _name(name), key, x509.BasicConstraints(ca=True, path_length=0), _NOW + 30 * _DAY)


def authority_pem(kind: Certificate = "good") -> str:
    """The CA that signs certificates of this kind; the relay of a dialog is told to trust that of good ones."""
    return _pem(_authority(_SIGNERS[kind == "unknown-issuer"])[1])


@cache
def certificate_pem(kind: Certificate, host: str) -> tuple[str, str]:
    """A certificate for a host, and its key."""
    key, ca = _authority(_SIGNERS[kind == "unknown-issuer"])
    host = "other.test" if kind == "wrong-name" else host
    alternative: x509.GeneralName = x509.DNSName(host)
    with suppress(ValueError):
        alternative = x509.IPAddress(ip_address(host))
    ends = _NOW - _DAY if kind == "expired" else _NOW + 30 * _DAY
    names = x509.SubjectAlternativeName([alternative])
    own = kind == "self-signed"
    leaf = _signed(_name(host), _name(host) if own else ca.subject, _KEY if own else key, names, ends)
    private = _KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _pem(leaf), private.decode()


@cache
def server_context(kind: Certificate, host: str) -> ssl.SSLContext:
    """Upstream's; the module has no way to take a key from memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        path = Path(folder, "chain.pem")
        path.write_text("".join(certificate_pem(kind, host)), encoding="ascii")
        context.load_cert_chain(path)
    return context


def client_context(authority: str, *, has_name: bool) -> ssl.SSLContext:
    """The client's, that trusts the relay's authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority)
    context.check_hostname = has_name
    return context


class FarTls:
    """One peer's end of TLS, without I/O: octets from the relay in, octets for the relay out."""

    def __init__(self, context: ssl.SSLContext, *, server: bool, sni: str | None = None) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=sni)
        self.state: Literal["handshake", "started", "failed"] = "handshake"
        #: Why it failed.
        self.why = ""

    def feed(self, octets: bytes) -> bytes:
        """Take records of the relay's; the text in them."""
        self._in.write(octets)
        text = b""
        try:
            if self.state == "handshake":
                self._tls.do_handshake()
                self.state = "started"
            while self.state == "started" and (part := self._tls.read(65536)):
                text += part
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            self.state, self.why = "failed", str(error)
        return text

    def wrap(self, text: bytes) -> None:
        self._tls.write(text)

    def end(self) -> None:
        """close_notify: no more will be wrapped."""
        if self.state == "started":
            with suppress(ssl.SSLWantReadError):
                self._tls.unwrap()

    def outgoing(self) -> bytes:
        """Records for the relay."""
        return self._out.read()

    @property
    def words(self) -> tuple[str, str]:
        """Version and cipher, as the event `tls` has them."""
        cipher = self._tls.cipher()
        return self._tls.version() or "", cipher[0] if cipher else ""
