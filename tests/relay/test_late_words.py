"""What may leave a moment later (relayproxy/net/turn.py), and what may not: the final dot, and what a record tells as heard."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, cast

import pytest
import trio
from relay_on_sockets import PATIENCE, Client, connect, serving
from stream_pairs import poller, tcp_sockets
from trio.testing import wait_all_tasks_blocked

from relayproxy.net.dial import UpstreamUrl
from relayproxy.net.peer import Peer
from relayproxy.relay.settings import UpstreamTimeouts
from relayproxy.relay.upstream import SmtpUpstream
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.client import ClientProtocol
from relayproxy.smtp.commands import Data, Ehlo, parse_command

if TYPE_CHECKING:
    from pathlib import Path

    from relay_on_sockets import Upstream

    from relayproxy.net.poller import Poller

__all__ = ["poller"]


def in_mail_data() -> ClientProtocol:
    """An upstream's dialogue behind 354."""
    protocol = ClientProtocol(reply_bytes=65536, reply_lines=512, ehlo_keywords=100)
    protocol.receive_data(b"220 mx.example\r\n")
    assert protocol.next_reply() is not None
    for command, answer in (
        (Ehlo(b"relay.example"), b"250 mx.example\r\n"),
        (parse_command(b"MAIL FROM:<ann@a.example>"), b"250 ok\r\n"),
        (parse_command(b"RCPT TO:<bob@b.example>"), b"250 ok\r\n"),
        (Data(), b"354 go ahead\r\n"),
    ):
        protocol.send(command)
        protocol.receive_data(answer)
        assert protocol.next_reply() is not None
    return protocol


async def test_the_final_dot_is_never_late(poller: Poller) -> None:
    pairs = [tcp_sockets() for _ in range(2)]
    streams = [poller.adopt(near) for near, _ in pairs]
    turns = iter(range(2))

    async def end(number: int) -> None:
        stream, far = streams[number], pairs[number][1]
        assert await stream.receive_some() == b"!"
        if next(turns) == 0:
            peer = Peer(stream, "upstream", "192.0.2.1", 25)
            url = UpstreamUrl.parse("smtp://mx.example")
            upstream = SmtpUpstream("mx", url, peer, in_mail_data(), Capabilities(), UpstreamTimeouts())
            assert (await upstream.finish(b"the end\r\n")).code == 250
        else:
            other = pairs[1 - number][1]
            assert other.recv(100, socket.MSG_DONTWAIT) == b"the end\r\n.\r\n", "no other session was waited for"
            other.send(b"250 queued\r\n")
        far.close()

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(end, number)
        await wait_all_tasks_blocked()
        for _, far in pairs:
            far.send(b"!")
    for stream in streams:
        stream.close()


class Slow:
    """An upstream that keeps what it has to say to messages until it is told to."""

    port = 0

    def __init__(self) -> None:
        self.waiting: list[trio.SocketStream] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mx.example\r\n")
        data, buffer = False, b""
        async for octets in stream:
            buffer += octets
            while (end := buffer.find(b"\r\n.\r\n" if data else b"\r\n")) >= 0:
                verb, buffer = buffer[:4].upper(), buffer[end + (5 if data else 2) :]
                if data:
                    data = False
                    self.waiting.append(stream)
                    continue
                data = verb == b"DATA"
                answers = {b"DATA": b"354 go ahead\r\n", b"QUIT": b"221 bye\r\n"}
                await stream.send_all(answers.get(verb, b"250 ok\r\n"))


@pytest.mark.slow
async def test_nobody_is_told_to_have_heard_who_was_gone(tmp_path: Path) -> None:
    upstream = Slow()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            upstream.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, upstream.serve, [listener])
            async with serving(tmp_path, upstream=cast("Upstream", upstream)) as relay:
                clients: list[Client] = []
                for _ in range(8):
                    clients.append(client := await connect(relay.addresses[0]))
                    await client.hello()
                    await client.begin_message()
                    await client.send(b"\r\n.\r\n")
                while len(upstream.waiting) < len(clients):
                    await wait_all_tasks_blocked(0.01)
                for client in clients:
                    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.stream.socket.close()
                await wait_all_tasks_blocked(0.05)
                for stream in upstream.waiting:
                    await stream.send_all(b"250 queued\r\n")
                told = await relay.log.wait_for("transaction", len(clients))
                assert {(one["outcome"], one["acknowledged"]) for one in told} == {("accepted", False)}
            nursery.cancel_scope.cancel()
