"""What every stream with deadlines keeps (relayproxy/net/stream.py), whatever carries it: for the streams of net/, and for TLS over them.

A test module has it by a class of its own that inherits from `StreamContract`; `make_pair` and `kind` are its folder's fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from relayproxy.net.stream import DeadlineStream

ON_SOCKETS = pytest.mark.parametrize("kind", ["edge-tcp", "edge-unix", "trio-tcp"])


class MakePair(Protocol):
    def __call__(self, *, small: bool = False) -> Awaitable[tuple[DeadlineStream, DeadlineStream]]: ...


async def hear_nothing(stream: DeadlineStream) -> None:
    await stream.receive_some()
    pytest.fail("expected to hear nothing")


async def until_at_end(stream: DeadlineStream) -> None:
    with trio.fail_after(5):
        while not stream.at_end:
            await wait_all_tasks_blocked(0.001)


class StreamContract:
    async def test_what_is_there_is_had_without_waiting(self, make_pair: MakePair) -> None:
        one, other = await make_pair()
        with pytest.raises(trio.WouldBlock):
            other.receive_nowait()
        await one.send_all(b"abcdef")
        while not other.readable:
            await wait_all_tasks_blocked()
        assert other.receive_nowait(2) == b"ab"
        assert other.readable
        assert other.receive_nowait(100) == b"cdef"
        with pytest.raises(trio.WouldBlock):
            other.receive_nowait()

    async def test_the_end_is_known_without_receiving(self, make_pair: MakePair) -> None:
        one, other = await make_pair()
        assert not other.at_end
        await one.send_all(b"abc")
        await one.send_eof()
        await wait_all_tasks_blocked(0.01)
        assert not other.at_end, "what was said before is still to be received"
        assert await other.receive_some(2) == b"ab"
        assert not other.at_end
        assert await other.receive_some() == b"c"
        await until_at_end(other)
        assert await other.receive_some() == b""

    async def test_a_receive_ends_at_its_deadline(self, autojump_clock: MockClock, make_pair: MakePair) -> None:
        _, other = await make_pair()
        other.receive_by = autojump_clock.current_time() + 300
        with pytest.raises(trio.TooSlowError):
            await other.receive_some()
        assert 300 <= autojump_clock.current_time() <= 300.5

    @ON_SOCKETS
    async def test_a_send_ends_at_its_deadline(self, autojump_clock: MockClock, make_pair: MakePair) -> None:
        one, _ = await make_pair(small=True)
        one.send_by = autojump_clock.current_time() + 60
        with pytest.raises(trio.TooSlowError):
            await one.send_all(b"x" * 10_000_000)
        assert 60 <= autojump_clock.current_time() <= 60.5

    async def test_expire_ends_waits_now(self, make_pair: MakePair) -> None:
        _, other = await make_pair()

        async def wait() -> None:
            with pytest.raises(trio.TooSlowError):
                await other.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            other.expire()

    async def test_nothing_is_lost_to_a_cancellation(self, make_pair: MakePair) -> None:
        one, other = await make_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_nothing, other)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await one.send_all(b"abc")
        with trio.CancelScope() as scope:
            scope.cancel()
            await other.receive_some()
        assert await other.receive_some() == b"abc"

    @ON_SOCKETS
    async def test_send_or_hear_gives_up_when_it_hears(self, make_pair: MakePair) -> None:
        one, other = await make_pair(small=True)
        said: list[bool] = []

        async def send() -> None:
            said.append(await one.send_or_hear(b"x" * 10_000_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.01)
            assert not said
            await other.send_all(b"552 too big\r\n")
        assert said == [False]
        assert await one.receive_some(4) == b"552 "
        assert one.readable
        assert await one.receive_some() == b"too big\r\n"

    async def test_send_or_hear_sends_what_is_taken(self, kind: str, make_pair: MakePair) -> None:
        one, other = await make_pair(small=True)
        octets = b"x" * (10 if kind == "memory" else 40_000)
        taken = bytearray()

        async def take() -> None:
            while len(taken) < len(octets):
                taken.extend(await other.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            assert await one.send_or_hear(octets)
        assert taken == octets
        await one.send_all(b"more")
        assert await other.receive_some() == b"more"

    @ON_SOCKETS
    async def test_send_or_hear_has_deadlines(self, autojump_clock: MockClock, make_pair: MakePair) -> None:
        one, _ = await make_pair(small=True)
        one.send_by = autojump_clock.current_time() + 30
        with pytest.raises(trio.TooSlowError):
            await one.send_or_hear(b"x" * 10_000_000)
        assert 30 <= autojump_clock.current_time() <= 30.5

    async def test_two_at_once_are_an_error(self, make_pair: MakePair) -> None:
        one, other = await make_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_nothing, other)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await other.receive_some()
            with pytest.raises(trio.BusyResourceError):
                other.receive_nowait()
            await other.send_all(b"the other direction goes on")
            assert await one.receive_some() == b"the other direction goes on"
            nursery.cancel_scope.cancel()

    async def test_closing_wakes_who_waits(self, make_pair: MakePair) -> None:
        one, _ = await make_pair()

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            one.close()

    async def test_closed_is_closed(self, make_pair: MakePair) -> None:
        one, _ = await make_pair()
        one.close()
        one.close()
        one.reset()
        with pytest.raises(trio.ClosedResourceError):
            one.receive_nowait()
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await one.send_eof()
        with assert_checkpoints():
            await one.aclose()
