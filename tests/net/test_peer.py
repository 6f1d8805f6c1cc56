"""A leg as SMTP code sees it: patience, loss, early words, goodbyes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayproxy.net.dial import UpstreamUrl
from relayproxy.net.peer import LINGER_BYTES, LINGER_SECONDS, STREAK, Peer, PeerLost, PeerStalled
from relayproxy.net.stream import DeadlineStream

if TYPE_CHECKING:
    from relayproxy.net.poller import Poller

MakePair = Callable[..., tuple[DeadlineStream, DeadlineStream]]
PLENTY = b"x" * 10_000_000

ON_SOCKETS = pytest.mark.parametrize("kind", ["edge-tcp", "edge-unix", "trio-tcp"])


def upstream(stream: DeadlineStream) -> Peer:
    return Peer(stream, "upstream", "192.0.2.1", 25)


async def test_lines_go_to_and_fro(pair: MakePair) -> None:
    one, other = map(upstream, pair())
    await one.send(b"NOOP\r\n", 60)
    assert await other.receive_by(other.now() + 300) == b"NOOP\r\n"
    assert other.receive_now() is None
    await one.send_eof()
    assert await other.receive_by(other.now() + 300) == b""
    await other.send(b"250 OK\r\n", 60)
    assert await one.receive_by(one.now() + 300) == b"250 OK\r\n"


async def test_what_is_not_said_in_time_is_a_stall(autojump_clock: MockClock, pair: MakePair) -> None:
    peer = upstream(pair()[0])
    with pytest.raises(PeerStalled, match="upstream: nothing moved in time") as caught:
        await peer.receive_by(peer.now() + 300)
    assert caught.value.leg == "upstream"
    assert 300 <= autojump_clock.current_time() <= 300.5


@ON_SOCKETS
async def test_what_is_not_taken_in_time_is_a_stall(autojump_clock: MockClock, pair: MakePair) -> None:
    peer = upstream(pair()[0])
    with pytest.raises(PeerStalled):
        await peer.send(PLENTY, 60)
    assert 60 <= autojump_clock.current_time() <= 60.5
    with pytest.raises(PeerLost, match="an earlier send was cut short"):
        await peer.send(b"x", 60)


@ON_SOCKETS
async def test_a_send_that_was_cancelled_is_the_last(pair: MakePair) -> None:
    peer = upstream(pair()[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, PLENTY, 60)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(PeerLost, match="an earlier send was cut short"):
        await peer.send(b"x", 60)


async def test_so_is_one_that_was_cancelled_while_it_gave_way(pair: MakePair) -> None:
    peer = upstream(pair()[0])
    for _ in range(STREAK):
        await peer.send(b"x", 60)
    with trio.CancelScope() as scope:
        scope.cancel()
        await peer.send(b"x", 60)
    with pytest.raises(PeerLost, match="an earlier send was cut short"):
        await peer.send(b"x", 60)


@pytest.mark.parametrize("kind", ["edge-tcp", "trio-tcp"])
async def test_a_reset_is_a_loss_but_what_was_said_before_is_heard(pair: MakePair) -> None:
    one, far = pair()
    peer = upstream(one)
    await far.send_all(b"554 no\r\n")
    far.reset()
    with pytest.raises(PeerLost):  # noqa: PT012  the reset is on its way
        while True:
            await peer.send(b"x" * 1000, 60)
    with pytest.raises(PeerLost):
        await peer.send(b"x", 60)


@pytest.mark.parametrize("kind", ["edge-tcp", "edge-unix", "trio-tcp"])  # memory takes everything at once
async def test_a_refusal_amid_the_message_is_heard(pair: MakePair) -> None:
    one, far = pair()
    peer = upstream(one)
    heard: list[bool] = []

    async def send() -> None:
        heard.append(await peer.send_or_hear(PLENTY, 180))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked(0.01)
        await far.send_all(b"552 too big\r\n")
    assert heard == [False]
    assert await peer.receive_by(peer.now() + 1) == b"552 too big\r\n"
    with pytest.raises(PeerLost):
        await peer.send_or_hear(b"more", 180)


async def test_expire_ends_this_wait_and_the_next(pair: MakePair) -> None:
    peer = upstream(pair()[0])

    async def wait() -> None:
        with pytest.raises(PeerStalled):
            await peer.receive_by(peer.now() + 300)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        peer.expire()
    with pytest.raises(PeerStalled, match="its time was over"):
        await peer.receive_by(peer.now() + 300)


async def test_dropped_is_lost(pair: MakePair) -> None:
    peer = upstream(pair()[0])
    peer.drop()
    peer.drop()
    with pytest.raises(PeerLost):
        peer.receive_now()
    with pytest.raises(PeerLost):
        await peer.receive_by(peer.now() + 1)
    with pytest.raises(PeerLost):
        await peer.send(b"x", 1)
    await peer.close()


@ON_SOCKETS
async def test_the_last_reply_arrives_though_input_is_unread(pair: MakePair) -> None:
    """PROTOCOL §1.1.8: a plain close would reset the connection and eat the 421."""
    one, far = pair()
    peer = Peer(one, "client", "192.0.2.9", 1025)
    await far.send_all(b"MAIL FROM:<a@example.com>\r\n" * 100)
    heard = bytearray()

    async def client() -> None:
        while octets := await far.receive_some():
            heard.extend(octets)
        far.close()

    async with trio.open_nursery() as nursery:
        await peer.send(b"421 4.7.0 bye\r\n", 60)
        nursery.start_soon(client)
        await peer.close()
    assert heard == b"421 4.7.0 bye\r\n"


async def test_a_client_that_stays_does_not_hold_us(autojump_clock: MockClock, pair: MakePair) -> None:
    one, _far = pair()
    await Peer(one, "client", "192.0.2.9", 1025).close()
    assert LINGER_SECONDS <= autojump_clock.current_time() <= LINGER_SECONDS + 0.5


@ON_SOCKETS
async def test_a_client_that_goes_on_talking_does_not_hold_us(pair: MakePair) -> None:
    one, far = pair()
    sent = 0

    async def talk() -> None:
        nonlocal sent
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  as long as it may
            while True:
                await far.send_all(b"x" * 4096)
                sent += 4096

    with trio.fail_after(LINGER_SECONDS - 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            await Peer(one, "client", "192.0.2.9", 1025).close()
    assert sent >= LINGER_BYTES


async def test_a_peer_that_is_always_ready_gives_others_their_turn(poller: Poller) -> None:
    near, far = socket.socketpair()
    with far:
        peer = upstream(poller.adopt(near))
        turns: list[int] = []
        done = False

        async def other() -> None:
            while not done:
                turns.append(1)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(10 * STREAK):
                await peer.send(b"x", 1)
                far.recv(1)
            done = True
        assert len(turns) >= 5
        peer.drop()


@pytest.mark.parametrize("kind", ["edge-tcp"])
async def test_the_address_is_where_the_stream_leads(pair: MakePair) -> None:
    stream = pair()[0]
    by_name = Peer.of(stream, "upstream", UpstreamUrl.parse("smtp://localhost:2525"))
    assert by_name.address == "127.0.0.1"
    assert by_name.port not in {None, 2525}
    by_address = Peer.of(stream, "upstream", UpstreamUrl.parse("smtp://[2001:db8::1]"))
    assert (by_address.address, by_address.port) == ("2001:db8::1", 25)
