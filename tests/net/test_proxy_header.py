"""The PROXY header: PROTOCOL §1.10, with headers of the standard's own examples and HAProxy's making."""

from __future__ import annotations

import struct

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from relayproxy.net.proxy_header import Ends, ProxyHeaderError, proxy_header, receive_proxy_header
from relayproxy.net.stream import TrioStream

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
Peername = tuple[str, int | None]


def v2(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if length is None else length) + rest


FOUR = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 56324, 25)
SIX = bytes.fromhex("20010db8000000000000000000000001" * 2) + struct.pack("!HH", 1, 65535)
TLVS = b"\x01\x00\x04smtp\x04\x00\x03abc"

LONGEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
ENDS_4 = Ends(("192.0.2.1", 56324), ("198.51.100.2", 25))

HEADERS: list[tuple[bytes, Ends | None]] = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", ENDS_4),
    (b"PROXY TCP6 2001:db8::1 2001:DB8::2 0 25\r\n", Ends(("2001:db8::1", 0), ("2001:db8::2", 25))),
    (f"PROXY TCP6 {LONGEST} {LONGEST} 65535 65535\r\n".encode(), Ends((LONGEST, 65535), (LONGEST, 65535))),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::f ffff::1 1 2\r\n", None),
    (v2(0x21, 0x11, FOUR), ENDS_4),
    (v2(0x21, 0x11, FOUR + TLVS), ENDS_4),
    (v2(0x21, 0x21, SIX), Ends(("2001:db8::1", 1), ("2001:db8::1", 65535))),
    (v2(0x21, 0x00, b""), None),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, FOUR + TLVS), None),
]  # fmt: skip

BAD: list[tuple[bytes, str]] = [
    (b"EHLO client.example\r\n", "expected a PROXY header, got something else"),
    (b"proxy TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", "something else"),
    (b"PROXY  TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\n" + b"x" * 200, "more than 107 octets"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.256 56324 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 65536\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 192.0.2.256 198.51.100.2 56324 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 2001:db8::1 198.51.100.2 56324 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP6 192.0.2.1 198.51.100.2 56324 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 056 25\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1_0 25\r\n", "expected PROXY TCP4"),
    (b"PROXY UDP4 192.0.2.1 198.51.100.2 1 25\r\n", "expected PROXY TCP4"),
    (b"PROXY UNKNOWN\0\r\n", "expected PROXY TCP4"),
    (b"PROXY TCP4", "ended in front of a PROXY header, or inside"),
    (b"", "ended in front"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "ended"),
    (v2(0x11, 0x11, FOUR), "expected version 2"),
    (v2(0x22, 0x11, FOUR), "expected version 2"),
    (v2(0x21, 0x12, FOUR), "family 0x12"),
    (v2(0x21, 0x31, b"x" * 216), "family 0x31"),
    (v2(0x21, 0x11, FOUR[:-1]), "family 0x11"),
    (v2(0x21, 0x21, FOUR), "family 0x21"),
    (v2(0x21, 0x11, FOUR, 521), "more than 536 octets"),
    (v2(0x21, 0x11, FOUR, 13), "ended"),
]


async def received(octets: bytes, piece: int, behind: bytes = b"") -> Ends | None:
    """What is read of octets that come in pieces; nothing of what is behind them may be."""
    ours, theirs = memory_stream_pair()
    stream = TrioStream(ours)
    for start in range(0, len(octets), piece):
        await theirs.send_all(octets[start : start + piece])
    await theirs.send_all(behind)
    await theirs.send_eof()
    ends = await receive_proxy_header(stream, seconds=5, most=536)
    left = b""
    while more := await stream.receive_some():
        left += more
    assert left == behind
    return ends


@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize(("octets", "ends"), HEADERS)
async def test_who_the_client_is(octets: bytes, ends: Ends | None, piece: int) -> None:
    assert await received(octets, piece, b"\x16\x03\x01EHLO x\r\n") == ends


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize(("octets", "what"), BAD)
async def test_what_is_no_header(octets: bytes, what: str, piece: int) -> None:
    with pytest.raises(ProxyHeaderError, match=what):
        await received(octets, piece)


async def test_a_header_has_an_end_in_time(autojump_clock: MockClock) -> None:  # noqa: ARG001  virtual time
    """Attack 17: all of it, not each octet."""
    ours, theirs = memory_stream_pair()

    async def drip(nursery: trio.Nursery) -> None:
        with pytest.raises(ProxyHeaderError, match="within 5 seconds"):
            await receive_proxy_header(TrioStream(ours), seconds=5, most=536)
        assert trio.current_time() - began == pytest.approx(5)
        nursery.cancel_scope.cancel()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip, nursery)
        for octet in b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n":
            await theirs.send_all(bytes([octet]))
            await trio.sleep(1)


@given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
async def test_whatever_comes_is_a_header_or_none(octets: bytes, start: bytes) -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(start + octets)
    await theirs.send_eof()
    try:
        ends = await receive_proxy_header(TrioStream(ours), seconds=5, most=536)
    except ProxyHeaderError:
        return
    assert ends is None or 0 <= (ends.source[1] or 0) <= 0xFFFF


WRITTEN: list[tuple[Peername, list[Peername | None], bytes, bytes]] = [
    (("192.0.2.1", 56324), [("198.51.100.2", 25)], b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", v2(0x21, 0x11, FOUR)),
    (("2001:DB8:0::1", 1), [("2001:db8::1", 65535)], b"PROXY TCP6 2001:db8::1 2001:db8::1 1 65535\r\n", v2(0x21, 0x21, SIX)),
    # What a socket of both families says, and a zone, which means nothing elsewhere.
    (("::ffff:192.0.2.1", 56324), [("::ffff:198.51.100.2", 25)], b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", v2(0x21, 0x11, FOUR)),
    (("2001:db8::1%eth0", 1), [("2001:db8::1%1", 65535)], b"PROXY TCP6 2001:db8::1 2001:db8::1 1 65535\r\n", v2(0x21, 0x21, SIX)),
    # The first of the family.
    (("192.0.2.1", 56324), [None, ("::1", 25), ("unix:/run/x", None), ("mx.example", 25), ("198.51.100.2", 25), ("198.51.100.3", 25)],
     b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n", v2(0x21, 0x11, FOUR)),
    # None of the family: the client is told all the same.
    (("192.0.2.1", 56324), [("::1", 25)], b"PROXY TCP4 192.0.2.1 0.0.0.0 56324 0\r\n", v2(0x21, 0x11, FOUR[:4] + bytes(4) + FOUR[8:10] + bytes(2))),
    (("2001:db8::1", 1), [], b"PROXY TCP6 2001:db8::1 :: 1 0\r\n", v2(0x21, 0x21, SIX[:16] + bytes(16) + SIX[32:34] + bytes(2))),
    # No address: we speak for ourselves.
    (("unix:/run/x", None), [("192.0.2.1", 25)], b"PROXY UNKNOWN\r\n", v2(0x20, 0x00, b"")),
]  # fmt: skip


@pytest.mark.parametrize(("source", "destinations", "first", "second"), WRITTEN)
async def test_what_is_written_is_read(
    source: Peername, destinations: list[Peername | None], first: bytes, second: bytes
) -> None:
    assert proxy_header(1, source, *destinations) == first
    assert proxy_header(2, source, *destinations) == second
    assert await received(first, 1000) == await received(second, 1000)
    assert len(first) <= 107
