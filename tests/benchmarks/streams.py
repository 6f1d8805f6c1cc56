"""What a stream costs, in microseconds: `python tests/benchmarks/streams.py [ROUNDS]`.

It chose relayproxy/net/poller.py, and shows whether it still earns its keep. All rounds of all candidates are interleaved and the median
is printed: on a shared machine only the ratios mean something.

ready: a send and the receive of what was sent, neither of which waits. wait: a line there and a line back between two tasks, of one
pair of sockets and of fifty at once; every line is waited for, as in an SMTP dialogue; per line.
"""

# ruff: noqa: T201
from __future__ import annotations

import select
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from relayproxy.net.edge import EdgeStream
from relayproxy.net.peer import Peer
from relayproxy.net.poller import Poller
from relayproxy.net.stream import TrioStream

LINE = b"RCPT TO:<jane@customer.example>\r\n"
READY = 2000
LINES = 2000


class End(Protocol):
    """As much of a connection as the measurements use."""

    @property
    def send(self) -> Callable[[bytes], Awaitable[object]]: ...
    @property
    def receive(self) -> Callable[[], Awaitable[bytes | bytearray]]: ...


class TrioOwn:
    """trio.SocketStream."""

    def __init__(self, sock: socket.socket, _: Poller) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.send = stream.send_all
        self.receive = stream.receive_some


class LowLevel:
    """The system call first, then trio's wait for it."""

    def __init__(self, sock: socket.socket, _: Poller) -> None:
        self.sock = sock

    async def send(self, octets: bytes) -> None:
        self.sock.send(octets)

    async def receive(self) -> bytes:
        while True:
            try:
                return self.sock.recv(65536)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)


class Edge:
    """What the relay uses: a Peer, with a deadline, on an EdgeStream."""

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        self.peer = Peer(poller.adopt(sock), "client", "", None)

    async def send(self, octets: bytes) -> None:
        await self.peer.send(octets, 60)

    async def receive(self) -> bytes:
        return await self.peer.receive_by(self.peer.now() + 300)


class Wrapped(Edge):
    """A Peer on trio's stream, as where there is no epoll: a cancel scope for each wait."""

    def __init__(self, sock: socket.socket, _: Poller) -> None:
        self.peer = Peer(TrioStream.of_socket(sock), "client", "", None)


Candidate = Callable[[socket.socket, Poller], End]


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


@asynccontextmanager
async def pairs(candidate: Candidate, count: int) -> AsyncIterator[list[tuple[End, End]]]:
    sockets = [connected() for _ in range(count)]
    async with trio.open_nursery() as nursery:
        poller = Poller()
        await nursery.start(poller.run)
        ends = []
        for pair in sockets:
            for sock in pair:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends.append((candidate(pair[0], poller), candidate(pair[1], poller)))
        yield ends
        nursery.cancel_scope.cancel()
    for near, far in sockets:
        near.close()
        far.close()


async def ready(candidate: Candidate) -> float:
    async with pairs(candidate, 1) as ((near, far),):
        await near.send(LINE)
        await far.receive()
        start = time.perf_counter()
        for _ in range(READY):
            await near.send(LINE)
            if isinstance(far, Edge):
                _tell(far)
            await far.receive()
        return (time.perf_counter() - start) / READY


def _tell(end: Edge) -> None:
    """As the poller would have by the time that a relay comes to ask: here nothing ever waits, so it has no turn."""
    if isinstance(end.peer.stream, EdgeStream):
        end.peer.stream.notify(select.EPOLLIN)


async def wait(candidate: Candidate, count: int) -> float:
    async def ask(end: End) -> None:
        for _ in range(LINES // count):
            await end.send(LINE)
            await end.receive()

    async def answer(end: End) -> None:
        for _ in range(LINES // count):
            await end.receive()
            await end.send(LINE)

    async with pairs(candidate, count) as ends:
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for near, far in ends:
                nursery.start_soon(ask, near)
                nursery.start_soon(answer, far)
        return (time.perf_counter() - start) / (LINES // count * count * 2)


def system_calls() -> float:
    near, far = connected()
    with near, far:
        start = time.perf_counter()
        for _ in range(READY):
            near.send(LINE)
            far.recv(65536)
        return (time.perf_counter() - start) / READY


CANDIDATES: dict[str, Candidate] = {
    "trio.SocketStream": TrioOwn,
    "call, then trio's wait": LowLevel,
    "Peer on TrioStream": Wrapped,
    "Peer on EdgeStream": Edge,
}


def main(rounds: int) -> None:
    """Print a table: medians, and the best round, which a busy machine disturbs least."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        found.setdefault(("the system calls alone", "ready"), []).append(system_calls())
        for name, candidate in CANDIDATES.items():
            found.setdefault((name, "ready"), []).append(trio.run(ready, candidate))
            found.setdefault((name, "wait, 1 pair"), []).append(trio.run(wait, candidate, 1))
            found.setdefault((name, "wait, 50 pairs"), []).append(trio.run(wait, candidate, 50))
    print(f"{'us':24}{'':16}{'median':>8}{'best':>8}")
    for (name, what), seconds in found.items():
        print(f"{name:24}{what:16}{statistics.median(seconds) * 1e6:8.1f}{min(seconds) * 1e6:8.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
