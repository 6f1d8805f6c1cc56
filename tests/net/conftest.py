"""Connected pairs of streams, of every kind that there is."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair

from relayproxy.net.edge import Poller
from relayproxy.net.stream import DeadlineStream, TrioStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Pair = tuple[DeadlineStream, DeadlineStream]
KINDS = ["edge-tcp", "edge-unix", "trio-tcp", "memory"]


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    async with trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def pair(kind: str, poller: Poller) -> AsyncIterator[Callable[..., Pair]]:
    """Makes connected pairs; with small=True little fits between the two ends."""
    made: list[DeadlineStream] = []

    def keep(*pair: DeadlineStream) -> Pair:
        made.extend(pair)
        return pair[0], pair[1]

    def make(*, small: bool = False) -> Pair:
        if kind == "memory":
            one, other = memory_stream_pair()
            return keep(
                TrioStream(one, one.receive_stream._incoming.get_nowait),
                TrioStream(other, other.receive_stream._incoming.get_nowait),
            )
        sockets = socket.socketpair() if kind == "edge-unix" else tcp_sockets()
        if small:
            for sock in sockets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if kind == "trio-tcp":
            return keep(TrioStream.of_socket(sockets[0]), TrioStream.of_socket(sockets[1]))
        return keep(poller.adopt(sockets[0]), poller.adopt(sockets[1]))

    yield make
    for stream in made:
        stream.close()
