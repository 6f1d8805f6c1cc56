"""What is said in one turn of the event loop leaves together, and nothing of it stays behind (relayproxy/net/turn.py)."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
from stream_pairs import tcp_sockets
from trio.testing import MockClock, wait_all_tasks_blocked

from relayproxy.net.peer import LINGER_SECONDS, Peer, PeerLost
from relayproxy.net.stream import LateLoss
from relayproxy.net.turn import GATHER, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.net.poller import Poller
    from relayproxy.net.stream import DeadlineStream

Step = Callable[[int, "DeadlineStream", socket.socket], Awaitable[None]]


def heard(far: socket.socket, octets: int = 1 << 20) -> bytes:
    """What has arrived by now."""
    try:
        return far.recv(octets, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


@contextmanager
def connected(poller: Poller, count: int, *, clogged: bool) -> Iterator[list[tuple[DeadlineStream, socket.socket]]]:
    # In TCP, a window that opens again is noticed by timers.
    pairs = [socket.socketpair() if clogged else tcp_sockets() for _ in range(count)]
    streams = [(poller.adopt(near), far) for near, far in pairs]
    for near, _ in pairs if clogged else ():
        with suppress(BlockingIOError):
            while True:  # and the stream knows nothing of it
                near.send(b"x" * 4096)
    try:
        yield streams
    finally:
        for stream, far in streams:
            stream.close()
            far.close()


async def in_one_turn(poller: Poller, count: int, step: Step, *, clogged: bool = False) -> None:
    """Have `step` run for each of so many streams, all woken by one look of the poller, the first as 0. `clogged`: nothing more fits between the two ends."""
    order = iter(range(count))

    async def run(stream: DeadlineStream, far: socket.socket) -> None:
        assert await stream.receive_some() == b"!"
        await step(next(order), stream, far)

    with connected(poller, count, clogged=clogged) as streams:
        async with trio.open_nursery() as nursery:
            for stream, far in streams:
                nursery.start_soon(run, stream, far)
            await wait_all_tasks_blocked()
            for _, far in streams:
                far.send(b"!")


async def test_the_first_waits_for_the_last(poller: Poller) -> None:
    first: list[socket.socket] = []

    async def step(number: int, stream: DeadlineStream, far: socket.socket) -> None:
        assert stream.send_soon(b"250 ok\r\n") == 8
        if number == 0:
            first.append(far)
            assert heard(far) == b""
        else:
            assert heard(far) == b"250 ok\r\n", "nobody is left to wait for"
            with trio.move_on_after(0.01):
                await stream.receive_some()
            assert heard(first[0]) == b"250 ok\r\n"

    await in_one_turn(poller, 2, step)


async def test_what_is_said_leaves_though_nobody_waits_on_a_stream(poller: Poller) -> None:
    async def step(_: int, stream: DeadlineStream, far: socket.socket) -> None:
        stream.send_soon(b"250 ok\r\n")
        await wait_all_tasks_blocked()
        assert heard(far) == b"250 ok\r\n"

    await in_one_turn(poller, 5, step)


async def test_no_more_than_so_many_wait(poller: Poller) -> None:
    said: list[socket.socket] = []

    async def step(number: int, stream: DeadlineStream, far: socket.socket) -> None:
        stream.send_soon(b"250 ok\r\n")
        said.append(far)
        if number == GATHER - 1:
            assert [heard(one) for one in said] == [b"250 ok\r\n"] * GATHER

    await in_one_turn(poller, GATHER + 2, step)


@pytest.mark.parametrize("more", [b"x" * (SMALL + 1), b"and more"])
@pytest.mark.parametrize("by", ["send_nowait", "send_all", "send_or_hear", "send_eof", "close"])
async def test_order_is_kept(poller: Poller, by: str, more: bytes) -> None:
    async def step(_: int, stream: DeadlineStream, far: socket.socket) -> None:
        stream.send_soon(b"first ")
        match by:
            case "send_nowait":
                assert stream.send_nowait(more) == len(more)
            case "send_all":
                await stream.send_all(more)
            case "send_or_hear":
                assert await stream.send_or_hear(more)
            case "send_eof":
                await stream.send_eof()
            case _:
                stream.close()
        await trio.lowlevel.checkpoint()
        wanted = b"first " if by in ("send_eof", "close") else b"first " + more
        came = b""
        with trio.fail_after(5):
            while len(came) < len(wanted):
                came += heard(far)
                await trio.lowlevel.checkpoint()
        assert came == wanted
        if by in ("send_eof", "close"):
            assert far.recv(1) == b""

    await in_one_turn(poller, 2, step)


@pytest.mark.parametrize("by", ["send_nowait", "send_all", "send_or_hear", "send_eof", "nothing"])
async def test_what_the_kernel_does_not_take_goes_when_it_does(poller: Poller, by: str) -> None:
    message = bytes(range(256)) * 16
    assert len(message) == SMALL

    async def step(number: int, stream: DeadlineStream, far: socket.socket) -> None:
        if number:
            return
        came = b""
        assert stream.send_soon(message) == SMALL
        await wait_all_tasks_blocked()  # it has left, as far as it goes
        assert stream.send_nowait(b"more") == 0, "what goes first has not gone"
        async with trio.open_nursery() as nursery:
            match by:
                case "send_nowait" | "nothing":
                    pass
                case "send_all":
                    nursery.start_soon(stream.send_all, b"more")
                case "send_or_hear":
                    nursery.start_soon(stream.send_or_hear, b"more")
                case _:
                    nursery.start_soon(stream.send_eof)
            with trio.fail_after(5):
                while message not in came:
                    came += heard(far)
                    await trio.lowlevel.checkpoint()
        if by == "send_nowait":
            assert stream.send_nowait(b"more") == 4
        wanted = message + (b"" if by in ("send_eof", "nothing") else b"more")
        with trio.fail_after(5):
            while not came.endswith(wanted):
                came += heard(far)
                await trio.lowlevel.checkpoint()
        assert came.strip(b"x") == wanted

    await in_one_turn(poller, 2, step, clogged=True)


async def test_a_loss_is_told_once_by_the_next_receive_and_what_came_is_still_had(poller: Poller) -> None:
    async def step(number: int, stream: DeadlineStream, far: socket.socket) -> None:
        if number:
            return
        far.send(b"421 bye\r\n")
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()  # a reset
        assert stream.send_soon(b"250 ok\r\n") == 8
        await wait_all_tasks_blocked()
        with pytest.raises(LateLoss):
            stream.receive_nowait()
        assert stream.receive_nowait() == b"421 bye\r\n"

    await in_one_turn(poller, 2, step)


async def test_a_loss_wakes_who_waits_and_is_a_loss_to_a_peer(poller: Poller) -> None:
    async def step(number: int, stream: DeadlineStream, far: socket.socket) -> None:
        if number:
            return
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        peer = Peer(stream, "client", "192.0.2.1", 25)
        assert peer.say(b"250 ok\r\n", soon=True)
        assert peer.unsaid
        with pytest.raises(PeerLost):
            await peer.receive(5)

    await in_one_turn(poller, 2, step)


async def test_only_what_is_sent_soon_waits(poller: Poller) -> None:
    async def step(_: int, stream: DeadlineStream, far: socket.socket) -> None:
        assert stream.send_nowait(b"354 go ahead\r\n") == 14
        assert heard(far) == b"354 go ahead\r\n"
        assert not stream.unsaid

    await in_one_turn(poller, 3, step)


async def test_a_stream_that_was_closed_with_something_late_is_nobody_elses_trouble(poller: Poller) -> None:
    async def step(number: int, stream: DeadlineStream, _: socket.socket) -> None:
        if number == 0:
            assert stream.send_soon(b"x" * SMALL) == SMALL
            stream.close()
            assert stream.unsaid
            with pytest.raises(trio.ClosedResourceError):
                stream.send_soon(b"more")
        else:
            stream.send_soon(b"x" * SMALL)
            with trio.move_on_after(0.01):
                await stream.receive_some()

    await in_one_turn(poller, 3, step, clogged=True)


async def test_a_reset_that_is_known_takes_nothing_more(poller: Poller) -> None:
    async def step(number: int, stream: DeadlineStream, far: socket.socket) -> None:
        if number:
            await wait_all_tasks_blocked()
            return
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            stream.send_soon(b"250 ok\r\n")

    await in_one_turn(poller, 2, step)


async def test_a_peer_that_takes_nothing_is_closed_in_time(autojump_clock: MockClock, poller: Poller) -> None:
    async def step(number: int, stream: DeadlineStream, _: socket.socket) -> None:
        if number:
            return
        peer = Peer(stream, "client", "192.0.2.1", 25)
        assert peer.say(b"250 ok\r\n" * 100, soon=True)
        began = autojump_clock.current_time()
        await peer.close()
        assert autojump_clock.current_time() - began < LINGER_SECONDS + 1

    await in_one_turn(poller, 2, step, clogged=True)
