"""Several relays and one PostgreSQL: killed under load, and the server gone and back (DESIGN §9.2, PROTOCOL §4 column DF)."""

from __future__ import annotations

import os
import random
import socket
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from marked_mail import Sender, check, content, dots_seen
from postgresql import server
from relay_on_sockets import END_OF_DATA, relay_process, upstream_server

from relayproxy.record.store.opening import store_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from postgresql import Server
    from relay_on_sockets import Process

pytestmark = [pytest.mark.interop, pytest.mark.slow]

CLIENTS = 6
KILLS = max(1, int(os.environ.get("KILLS", "10")) // 10)


@pytest.mark.timeout(120)
async def test_of_two_relays_one_is_killed_and_nothing_is_missing(postgresql: Server, tmp_path: Path) -> None:
    chance = random.Random(2)  # noqa: S311 - the same each time
    sent: dict[str, bytes] = {}
    acknowledged: set[str] = set()
    committed: set[str] = set()
    with postgresql.database() as url:
        for kill in range(KILLS):
            async with upstream_server() as upstream, AsyncExitStack() as stack:
                relays: list[Process] = []
                for name in "ab":
                    folder = tmp_path / f"{kill}{name}"
                    folder.mkdir()
                    toml = f'[record]\nstore = "{url.url}"'
                    relays.append(await stack.enter_async_context(relay_process(folder, upstream, toml=toml)))
                senders = [Sender(f"{kill}-{number}", 100 * kill + number) for number in range(2 * CLIENTS)]
                async with trio.open_nursery() as nursery:
                    for number, sender in enumerate(senders):
                        nursery.start_soon(sender.send, relays[number % 2])
                    await trio.sleep(chance.uniform(0.3, 1))  # any moment
                    relays[0].kill()
                    await trio.sleep(0.3)  # the other goes on
                    before = sum([len(sender.acknowledged) for sender in senders[1::2]])
                    await trio.sleep(0.3)
                    assert sum([len(sender.acknowledged) for sender in senders[1::2]]) > before
                    relays[1].kill()
                await upstream.until(lambda upstream=upstream: upstream.open == 0)  # type: ignore[misc]
                committed |= set(dots_seen(upstream))
            for sender in senders:
                sent |= sender.sent
                acknowledged |= sender.acknowledged
        assert len(acknowledged) > 20 * KILLS, "there was load"
        with store_at(url).reader() as reader:
            check(reader, sent, acknowledged, committed)


class Patient:
    """Sends messages, and goes on whatever it hears: what was taken, and the codes of what was not."""

    def __init__(self, relay: Process, name: str) -> None:
        self.taken: dict[str, bytes] = {}
        self.refused: list[int] = []
        self._relay = relay
        self._name = name

    async def send(self) -> None:
        number = 0
        while True:
            with suppress(EOFError, trio.BrokenResourceError):
                client = await self._relay.connect()
                code = (await client.reply())[0]
                lines = ["EHLO client.test", "MAIL FROM:<a@client.test>", "RCPT TO:<b@upstream.test>", "DATA"]
                while code < 400:
                    number += 1
                    name = f"{self._name}-{number}"
                    octets = content(name, 3000 if number % 9 else 400_000)
                    for line in lines:
                        code = (await client.say(line))[0]
                        if code >= 400:
                            break
                    else:
                        await client.send(octets.removesuffix(b"\r\n") + END_OF_DATA)
                        code = (await client.reply())[0]
                        if code < 400:
                            self.taken[name] = octets
                    lines = lines[-3:]
                self.refused.append(code)
            await trio.sleep(0.02)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("mode", "sync", "on_failure"),
    [("fast", "normal", "refuse"), ("immediate", "full", "refuse"), ("fast", "normal", "continue")],
)
async def test_the_server_goes_and_comes_back(mode: str, sync: str, on_failure: str, tmp_path: Path) -> None:
    toml = f'[record]\nsync = "{sync}"\non_failure = "{on_failure}"\n'
    with server(free_port()) as own, own.database() as url:
        async with upstream_server() as upstream:
            toml += f'store = "{url.url}"\n'
            async with relay_process(tmp_path, upstream, toml=toml) as relay:
                patients = [Patient(relay, f"{number}") for number in range(CLIENTS)]
                async with trio.open_nursery() as nursery:
                    for patient in patients:
                        nursery.start_soon(patient.send)
                    await progress(patients, 20)
                    await trio.to_thread.run_sync(own.stop, mode)
                    if on_failure == "refuse":
                        await some(lambda: all(patient.refused for patient in patients))
                    else:
                        await progress(patients, 20)
                    await trio.to_thread.run_sync(own.start)
                    await progress(patients, 20)
                    nursery.cancel_scope.cancel()
                for client in relay.clients:
                    await client.stream.aclose()
                relay.terminate()
                assert await relay.ended() == 0
        codes = {code for patient in patients for code in patient.refused}
        assert codes <= {421, 451}
        assert bool(codes) == (on_failure == "refuse")
        taken = {name: octets for patient in patients for name, octets in patient.taken.items()}
        assert upstream.messages >= len(taken)
        with store_at(url).reader() as reader:
            kept = [stored for stored in reader.transactions() if stored.record.outcome == "accepted"]
            names = [stored.record.message.subject for stored in kept if stored.record.message is not None]
            assert len(names) == len(set(names))
            assert set(taken) <= set(names)
            assert all(stored.final for stored in kept)
            for stored in kept:
                if on_failure == "refuse":
                    assert stored.record.message is not None
                    name = stored.record.message.subject or ""
                    whole = b"".join(reader.message(stored) or ())
                    assert name not in taken or whole == taken[name].replace(b"\r\n..", b"\r\n.")


@pytest.mark.timeout(120)
async def test_a_relay_that_starts_while_the_server_is_away(tmp_path: Path) -> None:
    with server(free_port()) as own:
        own.ask("CREATE DATABASE mail")
        own.stop()
        async with (
            upstream_server() as upstream,
            relay_process(tmp_path, upstream, toml=f'[record]\nstore = "{own.url("mail").url}"\n') as relay,
        ):
            patient = Patient(relay, "0")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(patient.send)
                await some(lambda: bool(patient.refused))
                assert not patient.taken
                await trio.to_thread.run_sync(own.start)
                await progress([patient], 3)
                nursery.cancel_scope.cancel()
            for client in relay.clients:
                await client.stream.aclose()
            relay.terminate()
            assert await relay.ended() == 0
        assert set(patient.refused) <= {421, 451}
        with store_at(own.url("mail")).reader() as reader:
            assert len([stored for stored in reader.transactions() if stored.record.outcome == "accepted"]) >= 3


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def progress(patients: list[Patient], count: int) -> None:
    """Until so many more were taken."""
    before = sum([len(patient.taken) for patient in patients])
    await some(lambda: sum([len(patient.taken) for patient in patients]) >= before + count)


async def some(true: Callable[[], bool]) -> None:
    with trio.fail_after(40):
        while not true():  # noqa: ASYNC110 - of what processes do there is no event
            await trio.sleep(0.01)
