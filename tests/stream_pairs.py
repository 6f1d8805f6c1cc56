"""Connected pairs of streams, of every kind that there is: what tests/net tries, and what tests/tls puts TLS on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

import pytest
import trio
from trio.testing import memory_stream_pair

from relayproxy.net.poller import Poller
from relayproxy.net.stream import DeadlineStream, TrioStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Transport = tuple[DeadlineStream, DeadlineStream]


class Transports(Protocol):
    def __call__(self, *, small: bool = False) -> Transport: ...


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


def memory_pair() -> Transport:
    one, other = memory_stream_pair()
    return (
        TrioStream(one, one.receive_stream._incoming.get_nowait),
        TrioStream(other, other.receive_stream._incoming.get_nowait),
    )


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    async with trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


@pytest.fixture
async def transports(kind: str, poller: Poller) -> AsyncIterator[Transports]:
    """Makes connected pairs; with small=True little fits between the two ends."""
    made: list[DeadlineStream] = []

    def make(*, small: bool = False) -> Transport:
        if kind == "memory":
            pair = memory_pair()
        else:
            sockets = socket.socketpair() if kind == "edge-unix" else tcp_sockets()
            for sock in sockets if small else ():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            adopt = TrioStream.of_socket if kind == "trio-tcp" else poller.adopt
            pair = adopt(sockets[0]), adopt(sockets[1])
        made.extend(pair)
        return pair

    yield make
    for stream in made:
        stream.close()
