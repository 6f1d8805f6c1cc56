"""Both kinds of stream keep trio's contract, and the one of relayproxy/net/stream.py on top of it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from stream_contract import StreamContract, until_at_end
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from relayproxy.net.stream import DeadlineStream, TrioStream

if TYPE_CHECKING:
    from stream_pairs import Transport, Transports

    from relayproxy.net.poller import Poller

ON_EDGE = pytest.mark.parametrize("kind", ["edge-tcp", "edge-unix"])


class TestContract(StreamContract):
    pass


async def clog(stream: DeadlineStream) -> None:
    """Send until no more goes."""
    if isinstance(stream, TrioStream):
        with trio.move_on_after(0.02):
            while True:
                await stream.send_all(b"x" * 16384)
    while stream.send_nowait(b"x" * 16384):
        pass


@pytest.mark.slow
async def test_keeps_trios_contract(kind: str, pair: Transports) -> None:
    async def make() -> Transport:
        return pair()

    async def make_clogged() -> Transport:
        one, other = pair(small=True)
        await clog(one)
        await clog(other)
        return one, other

    await check_half_closeable_stream(make, None if kind == "memory" else make_clogged)


@ON_EDGE
async def test_octets_and_the_end_that_came_at_once_are_both_had(pair: Transports) -> None:
    one, other = pair()
    with pytest.raises(trio.WouldBlock):
        other.receive_nowait()
    one.send_nowait(b"421 bye")
    one.close()
    while not other.readable:
        await wait_all_tasks_blocked()
    assert other.receive_nowait() == b"421 bye"
    assert other.receive_nowait() == b""
    assert await other.receive_some() == b""


async def test_urgent_data_hides_nothing_behind_it(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as far:
        stream = poller.adopt(listener.accept()[0])
        far.send(b"before")
        far.send(b"!", socket.MSG_OOB)
        far.send(b"after")
        heard = b""
        with trio.fail_after(1):
            while len(heard) < len(b"beforeafter"):
                heard += await stream.receive_some()
        assert heard == b"beforeafter"
        stream.close()


@pytest.mark.parametrize(("first", "then"), [(300.0, 10.0), (10.0, 300.0)])
async def test_moving_the_deadline_moves_a_wait_that_has_begun(
    autojump_clock: MockClock, pair: Transports, first: float, then: float
) -> None:
    _, other = pair()
    other.receive_by = autojump_clock.current_time() + first
    ends: list[float] = []

    async def wait() -> None:
        with pytest.raises(trio.TooSlowError):
            await other.receive_some()
        ends.append(autojump_clock.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        other.receive_by = then
    assert then <= ends[0] <= then + 0.5


@pytest.mark.parametrize("kind", ["edge-tcp", "trio-tcp"])
async def test_reset_is_seen_as_such(pair: Transports) -> None:
    one, other = pair()
    one.reset()
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()


@ON_EDGE
async def test_a_broken_connection_wakes_the_writer(pair: Transports) -> None:
    one, other = pair(small=True)

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await one.send_all(b"x" * 10_000_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        other.close()


@ON_EDGE
async def test_a_half_close_lets_the_writer_wait(pair: Transports) -> None:
    one, other = pair()
    sent = trio.Event()

    async def send() -> None:
        await one.send_all(b"x" * 20_000_000)
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await other.send_eof()
        await wait_all_tasks_blocked(0.01)
        assert not sent.is_set()
        left = 20_000_000
        while left:
            left -= len(await other.receive_some())
    assert await one.receive_some() == b""


async def test_many_sessions_at_once(poller: Poller) -> None:
    """More sockets than one look at epoll serves, and descriptors that are closed and used again."""

    async def answer(stream: DeadlineStream) -> None:
        while octets := await stream.receive_some():
            await stream.send_all(octets)
        stream.close()

    async def ask(stream: DeadlineStream, number: int) -> None:
        for turn in range(3):
            line = f"{number} {turn}\r\n".encode()
            await stream.send_all(line)
            assert await stream.receive_some() == line
        stream.close()

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for number in range(150):
                near, far = socket.socketpair()
                nursery.start_soon(answer, poller.adopt(far))
                nursery.start_soon(ask, poller.adopt(near), number)


@pytest.mark.parametrize("kind", ["edge-tcp", "trio-tcp"])
async def test_a_reset_is_an_end(pair: Transports) -> None:
    one, other = pair()
    one.reset()
    await until_at_end(other)


@pytest.mark.parametrize("kind", ["edge-tcp"])
async def test_a_reset_is_an_end_whatever_came_before(pair: Transports) -> None:
    one, other = pair()
    await one.send_all(b"abc")
    await wait_all_tasks_blocked(0.01)
    assert not other.at_end
    one.reset()
    await until_at_end(other)


async def test_whether_one_that_was_closed_is_at_its_end_may_be_asked(pair: Transports) -> None:
    one, _ = pair()
    one.close()
    assert not one.at_end
