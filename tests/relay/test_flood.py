"""Under attack, over sockets (PROTOCOL §2, attacks 17 and 18): floods of connections, too few descriptors, peers that never read.

What virtual time shows better (slow commands, handshakes, mail data) is in dialogs/timeouts and dialogs/limits.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
from relay_on_sockets import END_OF_DATA, Client, Log, connect, relay_process, serving, upstream_server

if TYPE_CHECKING:
    from pathlib import Path

    from relay_on_sockets import Running

pytestmark = pytest.mark.slow


def silent_connections(relay: Running, count: int) -> list[socket.socket]:
    """So many, none of which says or reads anything."""
    host, _, port = relay.addresses[0].rpartition(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


async def test_a_flood_of_connections_leaves_a_session_in_progress_alone(tmp_path: Path) -> None:
    """Attack 18: those over the limit are turned away, and no more than a few of them are waited for."""
    limits = {"sessions": 5, "sessions_per_client": 1000}
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream, limits=limits) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message()
        flood = silent_connections(relay, 600)
        try:
            await relay.log.wait_for("limit", 596, limit="sessions")
            await client.send(END_OF_DATA)
            assert (await client.reply())[0] == 250
            assert (await client.message())[0] == 250
            assert upstream.open == 5, "nothing is spent on who has no place"
            heard = await trio.to_thread.run_sync(_read_all, flood[-1])
            assert heard[:9] == b"421 4.3.2", "and closed at once, where so many wait already"
        finally:
            for sock in flood:
                sock.close()


def _read_all(sock: socket.socket) -> bytes:
    sock.settimeout(5.0)
    heard = b""
    try:
        while data := sock.recv(4096):
            heard += data
    except ConnectionResetError:
        pass
    return heard


async def test_sessions_are_no_more_than_there_are_descriptors_for(tmp_path: Path) -> None:
    """Attack 18: who is in can reach upstream, whoever else comes; who goes makes room."""
    listen, log, toml = f"unix:{tmp_path}/relay", tmp_path / "log", "[limits]\nsessions = 1000"
    async with (
        upstream_server() as upstream,
        relay_process(tmp_path, upstream, listen=listen, log=str(log), toml=toml, descriptors=500) as relay,
    ):
        with trio.fail_after(20):
            while not (tmp_path / "relay").exists():  # noqa: ASYNC110 - it has no other way to tell
                await trio.sleep(0.01)
        codes: list[int] = []
        clients = [await relay.connect() for _ in range(400)]
        for client in clients:
            try:
                codes.append((await client.reply())[0])
            except (EOFError, trio.BrokenResourceError):
                codes.append(0)
        served = [client for client, code in zip(clients, codes, strict=True) if code == 220]
        assert 50 < len(served) < 150
        assert set(codes) <= {220, 421, 0}
        for client in served:
            assert (await client.say("EHLO client.test"))[0] == 250
            assert (await client.message())[0] == 250
        for client in clients:
            await client.stream.aclose()
        await upstream.until(lambda: upstream.open == 0)
        last = await relay.connect()
        await last.hello()
        assert (await last.message())[0] == 250
        await last.stream.aclose()
        relay.terminate()
        assert await relay.ended() == 0
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in lines if line["event"] == "error"], "nothing ran out"
        assert len([line for line in lines if line["event"] == "limit"]) == 400 - len(served)


RULES = """
[[rule]]
name = "a body that is made anew"
when = { size = ">1KiB" }
then = [{ strip_attachment = "*.exe" }, { strip_attachment = "*.com" }]
"""


@pytest.mark.parametrize("toml", ["", '[rules]\nfiles = ["edits.toml"]'], ids=["kept", "edited"])
async def test_all_that_are_in_may_send_what_takes_the_disk(tmp_path: Path, toml: str) -> None:
    """Attack 18: what a message waits in takes descriptors as well, and who is in has a place for it."""
    (tmp_path / "edits.toml").write_text(RULES, encoding="utf-8")
    listen, log = f"unix:{tmp_path}/relay", tmp_path / "log"
    toml = f'[limits]\nspool_memory = "1KiB"\n[record]\nstore = "sqlite:{tmp_path}/kept.db"\n{toml}'
    async with (
        upstream_server() as upstream,
        relay_process(tmp_path, upstream, listen=listen, log=str(log), toml=toml, descriptors=1000) as relay,
    ):
        with trio.fail_after(20):
            while not (tmp_path / "relay").exists():  # noqa: ASYNC110 - it has no other way to tell
                await trio.sleep(0.01)
        served: list[Client] = []
        while (await (client := await relay.connect()).reply())[0] == 220:
            served.append(client)
        assert len(served) > 100
        for client in served:
            assert (await client.say("EHLO client.test"))[0] == 250
            await client.begin_message(b"Subject: large\r\n\r\n" + b"x" * 70_000)
        for client in served:
            await client.send(END_OF_DATA)
        assert [(await client.reply())[0] for client in served] == [250] * len(served)
        relay.terminate()
        assert await relay.ended() == 0
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in lines if line["event"] == "error"], "nothing ran out"


async def test_slow_clients_do_not_stop_a_good_one(tmp_path: Path) -> None:
    """Attack 17: a hundred that are in the middle of a line, a hundred in the middle of a message, and each sends an octet now and then."""
    limits = {"sessions_per_client": 1000}
    log = Log(keep=lambda line: line["event"] in ("listening", "error"))
    async with (
        upstream_server() as upstream,
        serving(tmp_path, upstream=upstream, limits=limits, log=log) as relay,
        trio.open_nursery() as nursery,
    ):
        slow = [await relay.connect() for _ in range(200)]

        async def begin(number: int, client: Client) -> None:
            await client.hello()
            if number % 2:
                await client.begin_message()
            await client.send(b"M")

        async with trio.open_nursery() as beginning:
            for number, client in enumerate(slow):
                beginning.start_soon(begin, number, client)

        async def drip() -> None:
            while True:
                for client in slow:
                    await client.send(b"x")

        nursery.start_soon(drip)
        good = await connect(relay.addresses[0])
        await good.hello()
        for _ in range(20):
            assert (await good.message())[0] == 250
        await good.stream.aclose()
        nursery.cancel_scope.cancel()
    assert not log.of("error")


async def test_an_upstream_that_never_reads_is_given_up(tmp_path: Path) -> None:
    """Attack 17: what it does not take stays with the client, until its time is over; the client is heard to its end all the same."""
    stuck = trio.Event()

    async def never_read(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 upstream.test\r\n")
        async for command in stream:
            await stream.send_all(b"354 go on\r\n" if command == b"DATA\r\n" else b"250 ok\r\n")
            if command == b"DATA\r\n":
                await stuck.wait()
                return

    config: dict[str, Any] = {"timeouts": {"upstream": {"data_block": "200ms"}}}
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, never_read, [listener])
        url = f"smtp://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with serving(tmp_path, upstream_url=url, **config) as relay:
            client = await relay.connect()
            await client.hello()
            await client.begin_message()
            await client.send((b"\r\n" + b"x" * 70) * 300_000 + END_OF_DATA)
            code, words = await client.reply()
            assert (code, words[:5]) == (451, "4.4.2")
            (line,) = await relay.log.wait_for("transaction")
            assert (line["outcome"], line["message"]["size"]["sent"]) == ("tempfailed", None)
            assert (await client.say("NOOP"))[0] == 421
        stuck.set()
        nursery.cancel_scope.cancel()
