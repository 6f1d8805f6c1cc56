"""Both kinds of stream keep trio's contract, and the one of relayproxy/net/stream.py on top of it."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import check_half_closeable_stream, memory_stream_pair

from relayproxy.net.edge import Poller
from relayproxy.net.stream import DeadlineStream, TrioStream


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


def small_buffers(pair):
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return pair


def memory_pair() -> tuple[DeadlineStream, DeadlineStream]:
    one, other = memory_stream_pair()
    return TrioStream(one, one.receive_stream._incoming.get_nowait), TrioStream(other)


async def clog(stream: DeadlineStream) -> None:
    if isinstance(stream, TrioStream):
        with trio.move_on_after(0.02):
            while True:
                await stream.send_all(b"x" * 16384)
    while stream.send_nowait(b"x" * 16384):
        pass


@asynccontextmanager
async def open_poller():
    async with trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


@pytest.fixture
async def poller():
    async with open_poller() as poller:
        yield poller


KINDS = ["edge-tcp", "edge-unix", "trio-tcp", "memory"]
SOCKETS = KINDS[:3]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def pair(kind, poller):
    """Makes connected pairs of the kind."""

    def make(*, small: bool = False) -> tuple[DeadlineStream, DeadlineStream]:
        if kind == "memory":
            return memory_pair()
        sockets = socket.socketpair() if kind == "edge-unix" else tcp_sockets()
        if small:
            sockets = small_buffers(sockets)
        if kind == "trio-tcp":
            return TrioStream.of_socket(sockets[0]), TrioStream.of_socket(sockets[1])
        return poller.adopt(sockets[0]), poller.adopt(sockets[1])

    return make


async def test_trios_contract(kind, pair):
    async def make():
        return pair()

    async def make_clogged():
        one, other = pair(small=True)
        await clog(one)
        await clog(other)
        return one, other

    await check_half_closeable_stream(make, None if kind == "memory" else make_clogged)
