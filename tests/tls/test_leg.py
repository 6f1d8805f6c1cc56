"""A leg under TLS, as those see it who speak SMTP on it (relayproxy/net/peer.py)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import trio

from relayproxy.net.peer import LINGER_SECONDS, Peer, PeerLost, PeerStalled

if TYPE_CHECKING:
    from tls_pairs import Pair
    from trio.testing import MockClock

MakePair = Callable[..., "Awaitable[Pair]"]

ON_SOCKETS = pytest.mark.parametrize("kind", ["edge-tcp", "trio-tcp"])


async def test_what_one_says_the_other_hears(pair: MakePair) -> None:
    client, upstream = (Peer(stream, "client", "test", None) for stream in await pair())
    await client.send(b"220 ready\r\n", 1)
    assert await upstream.receive_by(upstream.now() + 1) == b"220 ready\r\n"


@ON_SOCKETS
async def test_much_goes_in_parts(pair: MakePair) -> None:
    one, other = await pair(small=True)
    peer = Peer(one, "upstream", "test", None)
    octets = bytes(range(256)) * 150
    heard = bytearray()

    async def hear() -> None:
        while len(heard) < 2 * len(octets):
            heard.extend(await other.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await peer.send(octets, 10)
        assert await peer.send_or_hear(octets, 10)
    assert heard == octets * 2


async def test_a_leg_without_close_notify_is_lost(pair: MakePair) -> None:
    one, other = await pair()
    peer = Peer(one, "client", "test", None)
    other._transport.close()
    with pytest.raises(PeerLost, match="closed without close_notify"):
        await peer.receive_by(peer.now() + 1)


@ON_SOCKETS
async def test_last_words_arrive_and_the_end_behind_them(pair: MakePair) -> None:
    one, other = await pair()
    peer = Peer(one, "client", "test", None)
    await other.send_all(b"NOOP\r\n" * 100)
    await peer.send(b"421 bye\r\n", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.close)
        assert await other.receive_some() == b"421 bye\r\n"
        assert await other.receive_some() == b""
        other.close()
    with pytest.raises(PeerLost):
        await peer.receive_by(peer.now() + 1)


@ON_SOCKETS
async def test_who_does_not_listen_does_not_keep_us(autojump_clock: MockClock, pair: MakePair) -> None:
    one, _ = await pair(small=True)
    peer = Peer(one, "client", "test", None)
    with pytest.raises(PeerStalled):
        await peer.send(b"x" * 1_000_000, 60)
    began = autojump_clock.current_time()
    await peer.close()
    assert autojump_clock.current_time() - began <= LINGER_SECONDS + 1
