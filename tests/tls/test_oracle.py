"""Against the standard library's TLS, by way of trio's own stream, on either side."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
from tls_pairs import HOST
from trio.testing import memory_stream_pair

from relayproxy.net.stream import TrioStream

if TYPE_CHECKING:
    from tls_pairs import Files

    from relayproxy.tls.contexts import ClientTls, ServerTls
    from relayproxy.tls.stream import TlsStream

MUCH = bytes(range(256)) * 3_000

Theirs: TypeAlias = trio.SSLStream[trio.abc.Stream]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


def oracle(stream: trio.abc.Stream, files: Files, version: ssl.TLSVersion, *, server: bool) -> Theirs:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    if server:
        context.load_cert_chain(*files.pair(HOST))
    else:
        context.load_verify_locations(files.ca)
    return trio.SSLStream(stream, context, server_hostname=None if server else HOST, server_side=server)


@pytest.fixture(params=["server", "client"])
async def meeting(
    request: pytest.FixtureRequest, files: Files, server: ServerTls, client: ClientTls, version: ssl.TLSVersion
) -> tuple[TlsStream, Theirs]:
    """Ours, as the parameter says, and the oracle's other end."""
    one, far = memory_stream_pair()
    near = TrioStream(one)
    ours: list[TlsStream] = []

    async def meet() -> None:
        if request.param == "server":
            ours.append(await server.accept(near, seconds=10))
        else:
            ours.append(await client.connect(near, host=HOST, seconds=10))

    theirs = oracle(far, files, version, server=request.param == "client")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meet)
        await theirs.do_handshake()
    return ours[0], theirs


async def test_the_facts_are_the_same(meeting: tuple[TlsStream, Theirs], version: ssl.TLSVersion) -> None:
    ours, theirs = meeting
    assert ours.facts.version == theirs.version() == version.name.replace("_", ".")
    cipher = theirs.cipher()
    assert cipher is not None
    assert ours.facts.cipher == cipher[0]


async def test_both_ways_at_once_and_an_end_that_is_one(
    meeting: tuple[TlsStream, Theirs],
) -> None:
    ours, theirs = meeting
    heard: dict[str, bytes] = {}

    async def hear(name: str, stream: trio.abc.Stream) -> None:
        octets = bytearray()
        while len(octets) < len(MUCH):
            octets += await stream.receive_some()
        heard[name] = bytes(octets)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, MUCH)
        nursery.start_soon(theirs.send_all, MUCH)
        nursery.start_soon(hear, "ours", ours)
        nursery.start_soon(hear, "theirs", theirs)
    assert heard == {"ours": MUCH, "theirs": MUCH}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.aclose)
        assert await ours.receive_some() == b""
        await ours.aclose()


async def test_our_end_is_one_for_them(meeting: tuple[TlsStream, Theirs]) -> None:
    ours, theirs = meeting
    await ours.send_all(b"221 bye\r\n")
    await ours.send_eof()
    assert await theirs.receive_some() == b"221 bye\r\n"
    assert await theirs.receive_some() == b""


async def test_an_end_that_is_none_is_told(meeting: tuple[TlsStream, Theirs]) -> None:
    ours, theirs = meeting
    await theirs.send_all(b"DATA\r\n")
    await theirs.transport_stream.aclose()
    assert await ours.receive_some() == b"DATA\r\n"
    with pytest.raises(trio.BrokenResourceError, match="closed without close_notify"):
        await ours.receive_some()
