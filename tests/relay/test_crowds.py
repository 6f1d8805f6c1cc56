"""Many clients that are slow or that should not be there do not starve those that are served (attacks 17, 18). Idle ones: benchmarks/test_idle.py."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest
import trio
from relay_on_sockets import connect, relay_process, upstream_server

if TYPE_CHECKING:
    from pathlib import Path

    from relay_on_sockets import Process

pytestmark = pytest.mark.slow

#: Seconds that a message may take among a crowd; alone it takes some milliseconds, on a machine that does other things too.
BOUND: Final = 5.0


async def send(relay: Process) -> float:
    """A session with a message, from its first octet to its last; how long it took."""
    began = trio.current_time()
    client = await connect(relay.address)
    await client.hello()
    assert (await client.message())[0] == 250
    assert (await client.say("QUIT"))[0] == 221
    await client.stream.aclose()
    return trio.current_time() - began


async def forget_log(relay: Process) -> None:
    """Read it, so that there is always room for more."""
    assert relay.process.stdout is not None
    async for _ in relay.process.stdout:
        pass


async def test_a_thousand_slow_clients_do_not_stop_a_good_one(tmp_path: Path) -> None:
    """Half of them in the middle of a command, half in the middle of a message, at an octet a second."""
    slow = 1000
    toml = f"[limits]\nsessions_per_client = {2 * slow}"
    async with (
        upstream_server() as upstream,
        relay_process(tmp_path, upstream, toml=toml) as relay,
        trio.open_nursery() as crowd,
    ):
        upstream.keep = False
        there = [0, 0]
        all_there = trio.Event()

        async def dawdle(number: int) -> None:
            client = await connect(relay.address)
            async with client.stream:
                if in_message := number % 2:
                    await client.hello()
                    await client.begin_message()
                else:
                    await client.reply()
                there[in_message] += 1
                if sum(there) == slow:
                    all_there.set()
                try:
                    while True:
                        await client.stream.send_all(b"x")
                        await trio.sleep(1)
                except trio.BrokenResourceError:
                    pass  # it was given up: too slow is too slow

        crowd.start_soon(forget_log, relay)
        for number in range(slow):
            crowd.start_soon(dawdle, number)
        with trio.fail_after(60):
            await all_there.wait()
        times = []
        for _ in range(30):
            times.append(await send(relay))
            await trio.sleep(0.1)
        assert there == [slow / 2, slow / 2]
        assert max(times) < BOUND, times
        crowd.cancel_scope.cancel()


async def test_a_flood_of_connections_does_not_starve_sessions_in_progress(tmp_path: Path) -> None:
    """Thousands from one address that say nothing and do not go: they hold no more than their share of sessions, and few descriptors."""
    share, flood, at_work = 100, 4000, 5
    toml = f"[limits]\nsessions_per_client = {share}"
    async with (
        upstream_server() as upstream,
        relay_process(tmp_path, upstream, toml=toml) as relay,
        trio.open_nursery() as around,
    ):
        upstream.keep = False
        around.start_soon(forget_log, relay)
        before = relay.descriptors()
        held: list[int] = []
        times: list[float] = []
        over = trio.Event()

        async def work() -> None:
            client = await relay.connect()
            await client.hello()
            while not over.is_set():
                began = trio.current_time()
                assert (await client.message())[0] == 250
                times.append(trio.current_time() - began)
                await trio.sleep(0.02)

        with ExitStack() as crowd:
            async with trio.open_nursery() as working:
                for _ in range(at_work):
                    working.start_soon(work)
                for number in range(flood):
                    crowd.enter_context(silent(relay.address))
                    if number % 20 == 0:
                        await trio.sleep(0.005)
                        held.append(relay.descriptors() - before)
                times.append(await send(relay))
                over.set()
        around.cancel_scope.cancel()
    assert len(times) > 2 * at_work
    assert max(times) < BOUND, sorted(times)[-5:]
    # Both legs of those who were let in and of those at work, and those who are told that they are too many.
    assert share < max(held) < 2 * (share + at_work) + 300


def silent(address: str) -> socket.socket:
    """A connection from an address of its own that says nothing, as far as it has come."""
    host, _, port = address.rpartition(":")
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind(("127.0.0.2", 0))
    sock.connect_ex((host, int(port)))
    return sock
