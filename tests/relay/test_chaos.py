"""Random resets, stalls and slices on both legs under load: client, sink and log agree on every message (DESIGN §9.1).

`CHAOS_SECONDS` makes it long, `CHAOS_SEED` makes it the same again, as far as the machine's timing allows.
"""

from __future__ import annotations

import math
import os
import secrets
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
import trio
from chaos import chaos
from chaos_account import Log, disagreements
from chaos_load import Load
from chaos_sink import TOO_LATE, sink_server
from chaos_tls import MODES, Security
from relay_on_sockets import relay_process

from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from chaos_sink import Sink
    from chaos_tls import Mode
    from relay_on_sockets import Process

pytestmark = pytest.mark.slow

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "12"))
SEED: Final = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
CLIENTS: Final = 24
MIB: Final = 1 << 20

#: The relay waits for nobody as long as the sink dawdles, or the test would take as long as the wires that have fallen silent.
IMPATIENT: Final = """
[limits]
sessions_per_client = 1000
[timeouts.client]
command = "4s"
data_block = "2s"
handshake = "2s"
write = "2s"
[timeouts.upstream]
setup = "4s"
greeting = "2s"
handshake = "2s"
ehlo = "2s"
mail = "2s"
rcpt = "2s"
data = "2s"
data_block = "2s"
end_of_data = "2s"
quit = "1s"
"""
assert TOO_LATE > 2


class Memory:
    """A relay's, once a second."""

    def __init__(self, relay: Process) -> None:
        self.samples: list[int] = []
        self._relay = relay

    async def watch(self) -> None:
        while True:
            await trio.sleep(1)
            self.samples.append(self._relay.memory())

    @property
    def growth(self) -> int:
        """From the second quarter on, when all is warm, to the last; of each the middle one."""
        quarter = len(self.samples) // 4
        second, last = sorted(self.samples[quarter : 2 * quarter]), sorted(self.samples[-quarter:])
        return last[quarter // 2] - second[quarter // 2]


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("mode", MODES)
async def test_client_sink_and_log_agree(tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: Mode) -> None:
    seconds = SECONDS if mode == "clear" else SECONDS / 3
    security = Security(tmp_path, mode)
    async with (
        sink_server(SEED, security) as sink,
        chaos(f"{SEED} upstream", sink.port, doomed=0.3) as upstream,
        relay_process(tmp_path, None, listen=None, toml=IMPATIENT + security.toml(upstream.port)) as relay,
        chaos(f"{SEED} client", int(relay.address.rpartition(":")[2]), doomed=0.3) as wires,
        trio.open_nursery() as reading,
    ):
        sink.behind(upstream.wire)

        async def connect() -> trio.abc.Stream:
            return await trio.open_tcp_stream("127.0.0.1", wires.port, happy_eyeballs_delay=math.inf)

        load, log, memory = Load(SEED, connect, security), Log(), Memory(relay)
        idle = relay.descriptors()
        reading.start_soon(log.read, relay)
        async with trio.open_nursery() as watching:
            watching.start_soon(memory.watch)
            async with trio.open_nursery() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(load.client, number)
                await trio.sleep(seconds)
                load.over = True
            await log.until_all_are_closed()
            watching.cancel_scope.cancel()
        left = relay.descriptors()
        relay.terminate()
        assert await relay.process.wait() == 0
    said = capfd.readouterr().err
    sys.stdout.write(_summary(mode, load, sink, log, memory))
    found = [*disagreements(load.attempts, sink, log)]
    assert not found, "\n".join(found)
    assert log.errors == []
    with SqliteStore(tmp_path / "relayproxy.db").reader() as reader:
        stored = {one.record.transaction: (one.record.outcome, one.final) for one in reader.transactions()}
    assert stored == {id_: (outcome, True) for id_, outcome in log.outcome_of.items()}
    beginning, listening, ending = said.splitlines()
    assert "configuration" in beginning
    assert "listening on" in listening
    assert "ending" in ending
    assert left <= idle, "descriptors are left"
    assert memory.growth < 16 * MIB, [size // MIB for size in memory.samples]
    assert sink.in_clear == 0
    # It was as bad as it was meant to be, and mail went through all the same.
    least = {"accepted", "rejected", "tempfailed", "aborted", "unknown"} if mode == "clear" else {"accepted"}
    assert least <= log.outcomes().keys()
    assert min(upstream.harmed, wires.harmed) > 3


def _summary(mode: Mode, load: Load, sink: Sink, log: Log, memory: Memory) -> str:
    heard = Counter("nothing" if one.heard is None else f"{one.heard // 100}yz" for one in load.attempts)
    taken = sum(len(copies) for copies in sink.taken.values())
    return (
        f"\nCHAOS_SEED={SEED} {mode}: {load.sessions} sessions, {len(load.attempts)} attempts, heard {dict(heard)}, taken {taken},"
        f" told {dict(log.outcomes())}\nmoods of the sink {dict(sink.moods)}\n"
        f"memory {memory.samples[0] / MIB:.1f} to {memory.samples[-1] / MIB:.1f} MiB, grown {memory.growth / MIB:+.1f}\n"
    )
