"""A TLS stream keeps trio's contract, and that of relayproxy/net/stream.py, over every kind of transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import trio
from OpenSSL import SSL
from stream_contract import StreamContract, until_at_end
from tls_pairs import Pair, client_of, handshake, server_of
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from relayproxy.tls import stream as stream_module
from relayproxy.tls.openssl import verify_by

if TYPE_CHECKING:
    from stream_pairs import Transports
    from tls_pairs import Files

    from relayproxy.net.stream import DeadlineStream
    from relayproxy.tls.contexts import ServerTls
    from relayproxy.tls.stream import TlsStream

MakePair = Callable[..., Awaitable[Pair]]

ON_SOCKETS = pytest.mark.parametrize("kind", ["edge-tcp", "trio-tcp"])
ON_EDGE = pytest.mark.parametrize("kind", ["edge-tcp"])
MUCH = bytes(range(256)) * 12_000
SOME = MUCH[:40_000]


class TestContract(StreamContract):
    pass


def fill(stream: TlsStream) -> None:
    """Send until no more goes: until the transport takes nothing of what is encrypted."""
    left = -1
    while stream.send_nowait(b"x" * 16384) or len(stream._unsent) != left:
        left = len(stream._unsent)


@pytest.mark.slow
async def test_keeps_trios_contract(kind: str, pair: MakePair) -> None:
    async def make_clogged() -> Pair:
        one, other = await pair(small=True)
        for _ in range(2):
            fill(one)
            fill(other)
            await wait_all_tasks_blocked(0.01)  # what the handshake left in the kernel's buffers goes first
        return one, other

    # Only the edge-triggered stream says what goes without waiting, and a send that is cut short leaves nothing to go on with.
    await check_half_closeable_stream(pair, make_clogged if kind == "edge-tcp" else None)


@ON_EDGE
async def test_readable_is_false_once_all_was_had(pair: MakePair) -> None:
    one, other = await pair()
    assert one.send_nowait(b"abc") == 3
    assert await other.receive_some() == b"abc"
    with pytest.raises(trio.WouldBlock):
        other.receive_nowait()
    assert not other.readable


@ON_EDGE
async def test_tickets_wait_for_company(pair: MakePair) -> None:
    """They cost no send of their own: behind STARTTLS it is the client that speaks first, and our answer takes them along."""
    one, other = await pair()
    await other.send_all(b"EHLO app.test\r\n")
    assert await one.receive_some() == b"EHLO app.test\r\n"
    raw = other._transport
    with pytest.raises(trio.WouldBlock):
        raw.receive_nowait()
    assert one.send_nowait(b"250 mx.example.test\r\n") == 21
    assert await other.receive_some() == b"250 mx.example.test\r\n"


@ON_SOCKETS
async def test_a_write_is_a_record(transports: Transports, server: ServerTls, files: Files) -> None:
    one, other = await handshake(server, client_of(files), transports())
    await one.send_all(b"220 ready")  # the tickets go with it
    assert await other.receive_some() == b"220 ready"
    lines = b"250-mx.example.test\r\n" * 100
    assert one.send_nowait(lines) == len(lines)
    raw = other._transport
    assert len(await raw.receive_some()) == len(lines) + 22  # header, type, tag (RFC 8446 §5.2)


async def test_both_ways_at_once(pair: MakePair) -> None:
    one, other = await pair()
    heard: dict[str, bytearray] = {"one": bytearray(), "other": bytearray()}

    async def send(stream: TlsStream) -> None:
        await stream.send_all(MUCH)
        await stream.send_eof()

    async def hear(name: str, stream: TlsStream) -> None:
        while octets := await stream.receive_some():
            heard[name] += octets

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, one)
        nursery.start_soon(send, other)
        nursery.start_soon(hear, "one", one)
        nursery.start_soon(hear, "other", other)
    assert heard["one"] == heard["other"] == MUCH


@ON_SOCKETS
@pytest.mark.parametrize("whole", [True, False])
async def test_what_went_in_part_goes_on_where_it_was(pair: MakePair, whole: bool) -> None:
    one, other = await pair(small=True)
    heard = bytearray()
    parts: list[int] = []

    async def send() -> None:
        rest = memoryview(SOME)
        while rest:
            sent = one.send_nowait(rest)
            parts.append(sent)
            rest = rest[sent:]
            if not rest:
                break
            if whole:
                await one.send_all(rest)
                break
            await one.wait_send_all_might_not_block()
        await one.send_eof()

    async def hear() -> None:
        while octets := await other.receive_some(1000):
            heard.extend(octets)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(hear)
    assert heard == SOME
    assert parts[0] < len(SOME)


@ON_SOCKETS
async def test_a_send_that_was_cut_short_is_the_last(pair: MakePair) -> None:
    one, other = await pair(small=True)
    with trio.move_on_after(0.02):
        await one.send_all(MUCH)
    with pytest.raises(trio.BrokenResourceError, match="cut short"):
        await one.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError, match="cut short"):
        one.send_nowait(b"x")
    # What the peer says can still be had, and the peer does not take what came for all that there is.
    await other.send_all(b"552 too big\r\n")
    assert await one.receive_some() == b"552 too big\r\n"
    await one.aclose()
    with pytest.raises(trio.BrokenResourceError, match=r"closed without close_notify|reset"):
        await hear_all(other)


async def hear_all(stream: DeadlineStream) -> bytes:
    heard = bytearray()
    while octets := await stream.receive_some():
        heard += octets
    return bytes(heard)


@ON_EDGE
async def test_closing_in_the_middle_makes_no_whole_of_it(pair: MakePair) -> None:
    """What was encrypted for a send that did not end, and close_notify behind it, would pass for all that there was to say."""
    one, other = await pair(small=True)
    assert one.send_nowait(MUCH) < len(MUCH)
    heard = 0
    with trio.move_on_after(0.1):
        while True:
            heard += len(await other._transport.receive_some())
    one.close()
    with pytest.raises(trio.BrokenResourceError, match=r"bad record mac|closed without close_notify"):
        await hear_all(other)


@ON_SOCKETS
async def test_a_half_close_is_told_to_the_peer(pair: MakePair) -> None:
    one, other = await pair()
    await one.send_all(b"QUIT\r\n")
    await one.send_eof()
    await one.send_eof()
    assert await other.receive_some() == b"QUIT\r\n"
    assert await other.receive_some() == b""
    assert other.receive_nowait() == b""
    await other.send_all(b"221 bye\r\n")
    other.close()
    assert await one.receive_some() == b"221 bye\r\n"
    assert await one.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")


async def test_an_end_without_close_notify_is_no_end(pair: MakePair) -> None:
    one, other = await pair()
    await one.send_all(b"DATA\r\n")
    one._transport.close()
    assert await other.receive_some() == b"DATA\r\n"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="closed without close_notify"):
            await other.receive_some()
    with pytest.raises(trio.BrokenResourceError, match="closed without close_notify"):
        other.receive_nowait()


@ON_SOCKETS
async def test_who_half_closed_without_close_notify_is_still_spoken_to(pair: MakePair) -> None:
    one, other = await pair()
    await one._transport.send_eof()
    with pytest.raises(trio.BrokenResourceError, match="closed without close_notify"):
        await other.receive_some()
    await other.send_all(b"421 bye\r\n")
    assert await one.receive_some() == b"421 bye\r\n"


async def test_what_was_tampered_with_is_an_error_for_both(pair: MakePair) -> None:
    one, other = await pair()
    await one._transport.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="bad record mac"):
            await other.receive_some()
    with pytest.raises(trio.BrokenResourceError, match="bad record mac"):
        await other.send_all(b"x")


@ON_SOCKETS
async def test_a_failure_is_told_to_the_peer(pair: MakePair) -> None:
    one, other = await pair()
    await one._transport.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()
    with pytest.raises(trio.BrokenResourceError, match="alert: bad record mac"):
        await one.receive_some()


@ON_SOCKETS
async def test_closing_does_not_wait_for_who_does_not_listen(autojump_clock: MockClock, pair: MakePair) -> None:
    one, _ = await pair(small=True)
    fill(one)
    one.close()
    assert autojump_clock.current_time() == 0


@pytest.mark.slow
@ON_SOCKETS
async def test_send_or_hear_does_not_take_tls_for_the_peers_words(
    transports: Transports, server: ServerTls, files: Files
) -> None:
    """A server's tickets, which come after the handshake, are no reply."""
    upstream, one = await handshake(server, client_of(files), transports(small=True))
    said: list[bool] = []
    heard = bytearray()

    async def send() -> None:
        said.append(await one.send_or_hear(MUCH[:80_000]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked(0.01)
        await upstream.send_all(b"")  # the tickets
        await wait_all_tasks_blocked(0.01)
        assert not said
        while len(heard) < len(MUCH[:80_000]):
            heard.extend(await upstream.receive_some())
    assert said == [True]
    assert heard == MUCH[:80_000]


@ON_EDGE
async def test_closing_says_close_notify_without_waiting(pair: MakePair) -> None:
    one, other = await pair()
    one.send_nowait(b"221 bye\r\n")
    one.close()
    assert await other.receive_some() == b"221 bye\r\n"
    assert await other.receive_some() == b""


@ON_SOCKETS
async def test_a_reset_is_seen_as_such(pair: MakePair) -> None:
    one, other = await pair()
    one.reset()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await other.receive_some()


@ON_SOCKETS
async def test_its_ends_are_the_transports(pair: MakePair) -> None:
    one, other = await pair()
    assert one.far_end is not None
    assert one.far_end[0] == "127.0.0.1"
    assert (one.near_end, one.far_end) == (other.far_end, other.near_end)


async def asking(transports: Transports, files: Files, *, small: bool = False) -> tuple[TlsStream, TlsStream, bytes]:
    """A server, a client under TLS 1.2, and its request to negotiate again, which TLS answers by itself."""
    server, client = server_of(files), client_of(files, "none")
    server._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client._context = SSL.Context(SSL.TLS_CLIENT_METHOD)  # ours would not ask for it
    verify_by(client._context, SSL.VERIFY_PEER, client._verification.judge)
    one, other = await handshake(server, client, transports(small=small))
    connection = other._engine._connection
    assert connection.renegotiate()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return one, other, other._engine.take()


@ON_EDGE
async def test_nothing_is_negotiated_again(
    transports: Transports, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS 1.2 has a way to ask for it (CVE-2009-3555); what we answer cannot pile up where the peer does not take it."""
    for most in (stream_module.MOST_OWED, 0):
        monkeypatch.setattr(stream_module, "MOST_OWED", most)
        one, other, request = await asking(transports, files)
        await other._transport.send_all(request)
        if most:
            with trio.move_on_after(0.02):
                await one.receive_some()
            with pytest.raises(trio.BrokenResourceError, match="no renegotiation"):
                await other.receive_some()
        else:
            with pytest.raises(trio.BrokenResourceError, match="does not take the answers"):
                await one.receive_some()


@ON_EDGE
async def test_what_tls_answers_cannot_pile_up_while_we_send(
    transports: Transports, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MOST_OWED", 0)
    one, other, request = await asking(transports, files, small=True)
    await other._transport.send_all(request)
    with trio.fail_after(1), pytest.raises(trio.BrokenResourceError, match="does not take the answers"):
        await one.send_or_hear(MUCH)


@ON_EDGE
async def test_nor_while_nobody_reads(transports: Transports, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, request = await asking(transports, files)
    assert not one.at_end
    monkeypatch.setattr(stream_module, "MOST_OWED", 0)
    await other._transport.send_all(request)
    await until_at_end(one)


async def test_the_older_version_does_the_same(transports: Transports, files: Files) -> None:
    """TLS 1.2, where the server speaks last in the handshake."""
    server = server_of(files)
    server._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    one, other = await handshake(server, client_of(files), transports())
    assert one.facts.version == other.facts.version == "TLSv1.2"
    await one.send_all(b"220 ready")
    assert await other.receive_some() == b"220 ready"
    await other.send_eof()
    assert await one.receive_some() == b""
    await one.send_all(b"221 bye")
    assert await other.receive_some() == b"221 bye"


async def test_so_is_an_end_without_a_word(pair: MakePair) -> None:
    one, other = await pair()
    one._transport.close()
    await until_at_end(other)
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()
