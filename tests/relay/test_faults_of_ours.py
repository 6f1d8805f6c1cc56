"""A fault of ours ends one session, with an answer, and is told without what the client sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import dialog_relay
import trio
import trio.testing
from dialog_runner import play
from memory_store import MemoryWriter

from relayproxy.net.stream import TrioStream
from relayproxy.record.log import Reporter
from relayproxy.record.recorder import Policy, Recorder
from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.spool import Spool
from relayproxy.relay.service import Relay
from relayproxy.relay.settings import Config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from socket import socket

    from dialog_relay import Dial, Driven

    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.store.interface import Write

    Stream = trio.abc.HalfCloseableStream


def test_a_fault_is_answered_421_and_told_without_its_message() -> None:
    async def broken(url: str, seconds: float) -> NoReturn:
        raise RuntimeError(f"{url} {seconds} and what the client sent")

    driven: list[Driven] = []

    def start(config: Mapping[str, Any], dial: Dial) -> Driven:
        del dial
        driven.append(dialog_relay.start(config, broken))
        return driven[0]

    play(
        """relayproxy dialog 1
C< 421 4.3.0 *
C close by us
@ log error where=session
@ log session state=closed why="a fault of ours"
@ record none
""",
        start=start,
    )


class BrokenStore(MemoryWriter):
    """Has a fault where it is given a transaction."""

    def put(self, write: Write) -> None:
        assert not isinstance(write, TransactionWrite), "a fault of ours"
        super().put(write)


async def say(stream: Stream, line: bytes = b"") -> int:
    """The code of what is answered."""
    if line:
        await stream.send_all(line + b"\r\n")
    heard = b""
    while not heard.endswith(b"\r\n"):
        octets = await stream.receive_some()
        assert octets, "the relay closed"
        heard += octets
    return int(heard.splitlines()[-1][:3])


def with_a_broken_store(
    folder: Path, script: Callable[[Callable[[], Awaitable[Stream]], list[bytes | bytearray]], Awaitable[None]]
) -> list[str]:
    """Play it with a relay whose upstream takes all; it is given what begins a session, and what upstream hears. The errors that were told."""
    log, heard = dialog_relay.MemoryTarget(), list[bytes | bytearray]()
    config = Config.model_validate(
        {"hostname": "relay.test", "state": str(folder), "upstream": {"default": {"url": "smtp://upstream.test:25"}}}
    )
    reporter = Reporter(log, format_="json")
    recorder = Recorder(BrokenStore(), Policy(), lambda: Spool(Bodies(folder), 1 << 20))

    async def upstream(stream: Stream) -> None:
        await stream.send_all(b"220 upstream.test\r\n")
        while octets := await stream.receive_some():
            heard.append(octets)
            await stream.send_all(b"250 ok\r\n")
        heard.append(b"")

    def no_sockets(_: socket) -> DeadlineStream:
        raise AssertionError("no socket is accepted here")

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def dial(_: UpstreamUrl, _seconds: float) -> DeadlineStream:
                near, far = trio.testing.memory_stream_pair()
                nursery.start_soon(upstream, far)
                return TrioStream(near)

            relay = Relay(config, reporter, dial=dial, adopt=no_sockets, recorder=recorder)
            nursery.start_soon(relay.watch)

            async def session() -> Stream:
                near, far = trio.testing.memory_stream_pair()
                nursery.start_soon(relay.session, TrioStream(far), "10.0.0.5", 53122, config.listener[0])
                assert await say(near) == 220
                assert await say(near, b"EHLO client.test") == 250
                return near

            await script(session, heard)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert reporter.close(5)
    lines = [json.loads(line) for line in log.written.splitlines()]
    return [line["what"] for line in lines if line["event"] == "error"]


def test_a_fault_while_one_transaction_is_looked_after_is_no_other_sessions_trouble(tmp_path: Path) -> None:
    async def script(session: Callable[[], Awaitable[Stream]], _: list[bytes | bytearray]) -> None:
        one, other = await session(), await session()
        assert await say(one, b"MAIL FROM:<a@client.test>") == 250
        await trio.sleep(10)
        assert await say(other, b"NOOP") == 250
        assert await say(await session(), b"NOOP") == 250

    told = with_a_broken_store(tmp_path, script)
    assert "a fault of ours outside of the dialogue" in told


def test_a_fault_while_a_transaction_is_told_leaves_nothing_open(tmp_path: Path) -> None:
    async def script(session: Callable[[], Awaitable[Stream]], heard: list[bytes | bytearray]) -> None:
        client = await session()
        assert await say(client, b"MAIL FROM:<a@client.test>") == 250
        await client.aclose()
        await trio.sleep(10)
        assert heard[-1] == b"", "upstream sees the end"

    with_a_broken_store(tmp_path, script)
