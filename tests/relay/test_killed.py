"""kill -9 of a relay under load, at any moment (DESIGN §9.2): no message whose 250 a client has seen is missing from the store, nor any that upstream has seen the dot of.

KILLS: how often, 10 by default.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from relay_on_sockets import END_OF_DATA, relay_process, until_stored, upstream_server

from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from relay_on_sockets import Process

KILLS = int(os.environ.get("KILLS", "10"))
CLIENTS = 8


def content(name: str, size: int) -> bytes:
    """A message that says who it is, and is no other's."""
    line = (name.encode() + b" and some more of it\r\n..a dot\r\n") * (1 + size // 40)
    return b"Subject: " + name.encode() + b"\r\nX-Size: %d\r\n\r\n" % len(line) + line


class Sender:
    """Sends until the relay is gone."""

    def __init__(self, name: str, seed: int) -> None:
        self.sent: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self._name = name
        self._random = random.Random(seed)  # noqa: S311 - it has to differ, no more

    async def send(self, relay: Process) -> None:
        try:
            client = await relay.connect()
            await client.hello()
            for number in range(1000):
                name = f"{self._name}-{number}"
                # One in ten is more than stays in memory on its way into the store.
                octets = content(name, 3_000_000 if self._random.random() < 0.1 else self._random.randrange(8000))
                self.sent[name] = octets
                await client.begin_message(octets.removesuffix(b"\r\n"))
                await client.send(END_OF_DATA)
                assert (await client.reply())[0] == 250
                self.acknowledged.add(name)
        except (EOFError, OSError, trio.BrokenResourceError):
            pass


@pytest.mark.slow
@pytest.mark.timeout(60 + 5 * KILLS)
async def test_what_was_acknowledged_is_in_the_store(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - the same each time
    sent: dict[str, bytes] = {}
    acknowledged: set[str] = set()
    committed: set[str] = set()
    for kill in range(KILLS):
        senders = [Sender(f"{kill}-{number}", 100 * kill + number) for number in range(CLIENTS)]
        async with upstream_server() as upstream, relay_process(tmp_path, upstream) as relay:
            async with trio.open_nursery() as nursery:
                for sender in senders:
                    nursery.start_soon(sender.send, relay)
                await trio.sleep(chance.uniform(0.02, 0.6))  # any moment
                relay.kill()
            await upstream.until(lambda upstream=upstream: upstream.open == 0)  # type: ignore[misc]
            for conversation in upstream.conversations:
                for message in re.split(rb"DATA\r\n", bytes(conversation))[1:]:
                    subject = re.search(rb"\r\nSubject: (\S+)\r\n", message)
                    if subject is not None and END_OF_DATA in message:
                        committed.add(subject[1].decode())
        for sender in senders:
            sent |= sender.sent
            acknowledged |= sender.acknowledged
    assert len(acknowledged) > KILLS, "there was load"
    check(tmp_path / "relayproxy.db", sent, acknowledged, committed)


@pytest.mark.slow
async def test_what_was_cut_off_before_its_dot_is_there_and_aborted(tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    async with upstream_server() as upstream, relay_process(tmp_path, upstream) as relay:
        for number in range(CLIENTS):
            client = await relay.connect()
            await client.hello()
            if number % 2:
                await client.begin_message(content("half", 3_000_000)[: 100_000 * number])
            else:
                await client.envelope()
        await until_stored(store, CLIENTS, lambda stored: bool(stored.record.recipients))
        relay.kill()
        await upstream.until(lambda: upstream.open == 0)
        assert upstream.messages == 0
    async with upstream_server() as upstream, relay_process(tmp_path, upstream) as relay:
        client = await relay.connect()
        await client.hello()
        assert (await client.message())[0] == 250
        relay.terminate()
        assert await relay.ended() == 0
    with SqliteStore(store).reader() as reader:
        *cut_off, last = reader.transactions()
        assert [(stored.record.outcome, stored.final) for stored in cut_off] == [("aborted", False)] * CLIENTS
        assert all(reader.message(stored) is None for stored in cut_off)
        assert all(reader.session(stored.record.session) is not None for stored in cut_off)
        assert (last.record.outcome, last.final) == ("accepted", True)


def check(store: Path, sent: dict[str, bytes], acknowledged: set[str], committed: set[str]) -> None:
    kept: Counter[str] = Counter()
    with SqliteStore(store).reader() as reader:
        for stored in reader.transactions():
            message = stored.record.message
            if message is None or message.subject is None:
                assert stored.record.outcome in ("aborted", "unknown")
                continue
            kept[message.subject] += 1
            octets = b"".join(reader.message(stored) or ())
            whole = sent[message.subject].replace(b"\r\n..", b"\r\n.")
            if stored.message is not None and stored.message.whole:
                assert octets == whole
            else:
                assert whole.startswith(octets)
                assert stored.record.outcome == "aborted"
            if message.subject in acknowledged:
                assert stored.record.outcome in ("accepted", "unknown")
                assert octets == whole
    assert acknowledged - kept.keys() == set(), "a client has seen its 250"
    assert committed - kept.keys() == set(), "upstream has seen its dot"
    assert set(kept.values()) == {1}
