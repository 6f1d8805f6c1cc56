"""What the tests of TLS share: an authority and its files, contexts of either side, and how the two sides meet."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

import trio
import trustme
from trio.testing import memory_stream_pair

from relayproxy.net.stream import DeadlineStream, TrioStream
from relayproxy.tls.contexts import ClientTls, Minimum, ServerTls
from relayproxy.tls.stream import TlsStream

if TYPE_CHECKING:
    from pathlib import Path

HOST = "mx.example.test"

Pair = tuple[TlsStream, TlsStream]


class Transports(Protocol):
    def __call__(self, *, small: bool = False) -> tuple[DeadlineStream, DeadlineStream]: ...


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
        self._made += 1
        chain = b"".join(one.bytes() for one in leaf.cert_chain_pems)
        return self.write(f"{self._made}.pem", chain), self.write(f"{self._made}.key", leaf.private_key_pem.bytes())


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


def memory_pair() -> tuple[TrioStream, TrioStream]:
    one, other = memory_stream_pair()
    return (
        TrioStream(one, one.receive_stream._incoming.get_nowait),
        TrioStream(other, other.receive_stream._incoming.get_nowait),
    )


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


async def handshake(
    server: ServerTls,
    client: ClientTls,
    transports: tuple[DeadlineStream, DeadlineStream] | None = None,
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
