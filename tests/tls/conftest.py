"""Certificates of a test authority, and connected pairs of TLS streams over every kind of transport."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from tls_pairs import Files, Pair, Transports, client_of, handshake, memory_pair, server_of, tcp_sockets

from relayproxy.net.edge import Poller
from relayproxy.net.stream import TrioStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from relayproxy.net.stream import DeadlineStream
    from relayproxy.tls.contexts import ClientTls, ServerTls


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server(files: Files) -> ServerTls:
    return server_of(files)


@pytest.fixture(scope="session")
def client(files: Files) -> ClientTls:
    return client_of(files)


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    async with trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["edge-tcp", "trio-tcp", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def transports(kind: str, poller: Poller) -> AsyncIterator[Transports]:
    """Makes connected pairs without TLS; with small=True little fits between the two ends."""
    made: list[DeadlineStream] = []

    def make(*, small: bool = False) -> tuple[DeadlineStream, DeadlineStream]:
        pair: tuple[DeadlineStream, DeadlineStream]
        if kind == "memory":
            pair = memory_pair()
        else:
            sockets = tcp_sockets()
            for sock in sockets if small else ():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one, other = map(TrioStream.of_socket if kind == "trio-tcp" else poller.adopt, sockets)
            pair = one, other
        made.extend(pair)
        return pair

    yield make
    for stream in made:
        stream.close()


@pytest.fixture
def pair(server: ServerTls, client: ClientTls, transports: Transports) -> Callable[..., Awaitable[Pair]]:
    """Makes connected TLS streams, the server's first."""

    async def make(*, small: bool = False) -> Pair:
        return await handshake(server, client, transports(small=small))

    return make
