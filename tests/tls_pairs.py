"""What the tests of TLS share: an authority and its files, contexts of either side, and how the two sides meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from stream_pairs import memory_pair

from relayproxy.tls.contexts import ClientTls, Minimum, ServerTls
from relayproxy.tls.stream import TlsStream

if TYPE_CHECKING:
    from pathlib import Path

    from stream_pairs import Transport

HOST = "mx.example.test"

Pair = tuple[TlsStream, TlsStream]


class Files:
    """An authority and what it signs, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca = self.write("ca.pem", self.authority.cert_pem.bytes())
        self._made = 0

    def write(self, name: str, octets: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(octets)
        return path

    def pair(self, *names: str, authority: trustme.CA | None = None) -> tuple[Path, Path]:
        """A certificate with its chain, and its key."""
        return self.keep((authority or self.authority).issue_cert(*names, key_type=trustme.KeyType.ECDSA))

    def keep(self, leaf: trustme.LeafCert) -> tuple[Path, Path]:
        return self._keep(b"".join(one.bytes() for one in leaf.cert_chain_pems), leaf.private_key_pem.bytes())

    def self_signed(self, host: str = HOST) -> tuple[Path, Path]:
        """A certificate that nobody else signed, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._keep(certificate.public_bytes(Encoding.PEM), private)

    def _keep(self, certificates: bytes, key: bytes) -> tuple[Path, Path]:
        self._made += 1
        return self.write(f"{self._made}.pem", certificates), self.write(f"{self._made}.key", key)


def server_of(
    files: Files,
    pair: tuple[Path, Path] | None = None,
    *,
    client_ca: Path | None = None,
    minimum: Minimum = "TLSv1.2",
) -> ServerTls:
    certificate, key = pair or files.pair(HOST)
    return ServerTls.of_files(certificate, key, client_ca=client_ca, minimum=minimum, keylog=None)


def client_of(
    files: Files,
    verify: str = "full",
    *,
    pair: tuple[Path, Path] | None = None,
    ca: Path | None = None,
    minimum: Minimum = "TLSv1.2",
) -> ClientTls:
    certificate, key = pair or (None, None)
    return ClientTls(verify=verify, ca=ca or files.ca, certificate=certificate, key=key, minimum=minimum, keylog=None)


async def handshake(
    server: ServerTls,
    client: ClientTls,
    transports: Transport | None = None,
    host: str = HOST,
) -> Pair:
    """Both ends of a new session, the server's first."""
    made: dict[str, TlsStream] = {}
    one, other = transports or memory_pair()

    async def accept() -> None:
        made["server"] = await server.accept(one, seconds=10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        made["client"] = await client.connect(other, host=host, seconds=10)
    return made["server"], made["client"]
