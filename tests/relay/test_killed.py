"""kill -9 of a relay under load, at any moment (DESIGN §9.2): no message whose 250 a client has seen is missing from the store, nor any that upstream has seen the dot of.

KILLS: how often, 10 by default.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
import trio
from marked_mail import Sender, check, content, dots_seen
from relay_on_sockets import relay_process, until_stored, upstream_server

from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("KILLS", "10"))
CLIENTS = 8


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
            committed |= set(dots_seen(upstream))
        for sender in senders:
            sent |= sender.sent
            acknowledged |= sender.acknowledged
    assert len(acknowledged) > KILLS, "there was load"
    with SqliteStore(tmp_path / "relayproxy.db").reader() as reader:
        check(reader, sent, acknowledged, committed)


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
