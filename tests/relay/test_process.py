"""The relay as a process of its own: SIGTERM at every stage (SIGKILL: test_fault_matrix.py), a log that is full, a message of 1 GiB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from relay_on_sockets import END_OF_DATA, relay_process, upstream_server

if TYPE_CHECKING:
    from pathlib import Path

    from relay_on_sockets import Client, Process, Upstream

pytestmark = pytest.mark.slow

MIB = 1 << 20


async def at_each_stage(relay: Process, upstream: Upstream) -> dict[str, Client]:
    """Sessions that stand at S1, S4, S5, S6, S7 and S9 of the fault matrix, in this order of upstream's connections."""
    stages: dict[str, Client] = {}
    for stage in ("S1", "S4", "S5", "S6", "S7", "S9"):
        client = stages[stage] = await relay.connect()
        upstream.silent_to = {"S5": {"DATA"}, "S7": {"."}}.get(stage, set())
        await client.hello()
        number = len(upstream.conversations) - 1
        match stage:
            case "S4":
                await client.envelope()
            case "S5":
                await client.envelope()
                await client.send(b"DATA\r\n")
                await upstream.until(lambda: upstream.conversations[number].endswith(b"DATA\r\n"))  # noqa: B023
            case "S6":
                await client.begin_message()
                await upstream.until(lambda: upstream.conversations[number].endswith(b"half of it"))  # noqa: B023
            case "S7":
                taken = upstream.messages
                await client.begin_message()
                await client.send(END_OF_DATA)
                await upstream.until(lambda: upstream.messages > taken)  # noqa: B023
            case "S9":
                assert (await client.message())[0] == 250
    upstream.silent_to = set()
    return stages


async def test_sigterm_at_each_stage(tmp_path: Path) -> None:
    """PROTOCOL §4, SIGTERM; DESIGN §9.8: exit 0, a line for each transaction."""
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml='drain = "1s"') as relay:
        clients = await at_each_stage(relay, upstream)
        relay.terminate()
        for stage in ("S1", "S9"):
            assert (await clients[stage].reply())[0] == 421
            assert await clients[stage].ended()
            await clients[stage].stream.aclose()
        await clients["S6"].send(END_OF_DATA)
        assert (await clients["S6"].reply())[0] == 250
        for stage in ("S4", "S5", "S6", "S7"):
            code, words = await clients[stage].reply()
            assert (stage, code, words[:5]) == (stage, 421, "4.3.2")
            assert await clients[stage].ended()
            await clients[stage].stream.aclose()
        assert await relay.ended() == 0
        assert upstream.messages == 3
        outcomes = [line["outcome"] for line in relay.lines if line["event"] == "transaction"]
        assert sorted(outcomes) == ["accepted", "accepted", "tempfailed", "tempfailed", "unknown"]
        assert not [line for line in relay.lines if line["event"] == "error"]


async def test_a_second_sigterm_does_not_wait(tmp_path: Path) -> None:
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml='drain = "1h"') as relay:
        clients = await at_each_stage(relay, upstream)
        relay.terminate()
        assert (await clients["S1"].reply())[0] == 421
        relay.terminate()
        for stage in ("S4", "S5", "S6", "S7"):
            assert (await clients[stage].reply())[0] == 421
            await clients[stage].stream.aclose()
        for stage in ("S1", "S9"):
            await clients[stage].stream.aclose()
        assert await relay.ended() == 0
        assert upstream.messages == 2
        outcomes = [line["outcome"] for line in relay.lines if line["event"] == "transaction"]
        assert sorted(outcomes) == ["accepted", "tempfailed", "tempfailed", "tempfailed", "unknown"]


async def test_a_full_disk_under_the_log_refuses_mail(tmp_path: Path) -> None:
    """DESIGN §7: without a store 451 4.3.0 at the next MAIL; nothing of it goes upstream, and the session lives."""
    listen = f"unix:{tmp_path}/relay"
    async with (
        upstream_server() as upstream,
        relay_process(tmp_path, upstream, listen=listen, log="/dev/full", toml='record.store = "none"') as relay,
    ):
        with trio.fail_after(20):
            while not (tmp_path / "relay").exists():  # noqa: ASYNC110 - it has no other way to tell
                await trio.sleep(0.01)
        client = await relay.connect()
        await client.hello()
        for _ in range(2):
            code, words = await client.say("MAIL FROM:<a@client.test>")
            assert (code, words[:5]) == (451, "4.3.0")
        assert (await client.say("QUIT"))[0] == 221
        assert b"MAIL" not in upstream.conversations[0]


@pytest.mark.timeout(300)
async def test_a_gibibyte_passes_in_flat_memory(tmp_path: Path) -> None:
    """DESIGN §9.7: memory does not grow with the message."""
    size = 1024 * MIB
    block = (b"x" * 76 + b"\r\n") * 13443  # a little less than 1 MiB
    toml = '[limits]\nmessage_bytes = "2GiB"'
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml=toml) as relay:
        upstream.keep = False
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"Subject: small\r\n\r\n" + 4 * block)
        await client.send(END_OF_DATA)
        assert (await client.reply())[0] == 250
        before = relay.peak_memory()
        upstream.octets = 0
        await client.begin_message(b"Subject: large\r\n\r\n")
        sent = 0
        while sent < size:
            await client.send(block)
            sent += len(block)
        await client.send(b".\r\n")
        assert (await client.reply())[0] == 250
        grown = relay.peak_memory() - before
        assert upstream.messages == 2
        assert 0 < upstream.octets - sent < 1024, "the message, its envelope and one Received"
        assert (await client.say("QUIT"))[0] == 221
        await client.stream.aclose()
        relay.terminate()
        assert await relay.ended() == 0
        lines = [line for line in relay.lines if line["event"] == "transaction"]
        assert lines[1]["message"]["size"]["received"] == sent + len(b"Subject: large\r\n\r\n")
        # Each thread that takes a piece to the disk keeps some memory of its own.
        assert grown < 16 * MIB, f"{grown / MIB:.1f} MiB more for 1 GiB than for 4 MiB"
