"""kill -9 at any moment: what was committed is in the store and whole (DESIGN §9.2). KILLS: how often, 10 by default."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conformance import noise
from crashing_writer import octets_of
from stored_things import HEADER, NOW, SECOND, transaction, whole

from relayproxy.record.store.interface import Keep
from relayproxy.record.store.sqlite import SqliteStore

KILLS = int(os.environ.get("KILLS", "10"))


def write_and_die(store: SqliteStore, *names: str, lines: int) -> list[str]:
    """Processes that write at once and are killed when the first has committed so often; what all of them had committed."""
    program = str(Path(__file__).with_name("crashing_writer.py"))
    processes = [
        subprocess.Popen([sys.executable, program, str(store.path), name], stdout=subprocess.PIPE, bufsize=0)
        for name in names
    ]
    try:
        first = processes[0].stdout
        assert first is not None
        told = [first.readline() for _ in range(lines)]
    finally:
        for process in processes:
            process.kill()
    told += [line for process in processes for line in process.communicate()[0].splitlines(keepends=True)]
    return [line.decode().rstrip() for line in told if line.endswith(b"\n")]


@pytest.mark.slow
@pytest.mark.timeout(30 * KILLS)
def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(os.environ.get("RELAYPROXY_SEED", "1"))  # noqa: S311 - to be had again
    store = SqliteStore(tmp_path / "store.db")
    committed: dict[str, str] = {}
    for kill in range(KILLS):
        names = [f"{kill}a", f"{kill}b"][: 1 + kill % 2]
        told = write_and_die(store, *names, lines=chance.randrange(1, 200))
        assert told
        if kill % 3 == 0:  # sometimes who writes is the first to open it again
            store.backend().close()
        with store.reader() as reader:
            for id_ in told:
                stored = reader.transaction(id_)
                number = int(id_.partition("-")[2])
                assert whole(reader, stored) == HEADER + b"\r\n" + octets_of(number)
                assert stored is not None
                assert stored.record.outcome == ("accepted" if stored.final else "unknown")
            committed |= dict.fromkeys(told, "")
    with store.reader() as reader:
        found = {stored.record.transaction for stored in reader.transactions()}
        assert set(committed) <= found
    with closing(store.backend()) as backend:
        while backend.upkeep():
            pass


@pytest.mark.slow
def test_retention_while_another_process_writes(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    limit = 3_000_000
    with closing(store.backend(keep=Keep(age=3600, bytes=limit))) as backend:
        old = [transaction(f"old{number}", noise(2000, number), at=NOW - 7200 * SECOND) for number in range(500)]
        backend.write([*old, transaction("held", b"held", at=NOW - 7200 * SECOND, outcome="held")], durable=False)
        for _ in range(3):
            write_and_die(store, "young", lines=300)
            while backend.upkeep():
                pass
        backend.write([transaction("last", b"last")], durable=False)
        with store.reader() as reader:
            left = list(reader.transactions())
            assert [stored.record.transaction for stored in left if stored.record.outcome == "held"] == ["held"]
            assert not any(stored.record.transaction.startswith("old") for stored in left)
            assert len(left) > 10
            for stored in left:
                whole(reader, stored)
        files = sum(path.stat().st_size for path in store.bodies.folder.glob("*.zst"))
        assert files <= limit
