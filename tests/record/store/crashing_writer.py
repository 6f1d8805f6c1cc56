"""A process that writes to a store as fast as it can and says what is in it, until it is killed: `crashing_writer.py STORE NAME`.

Each line names a transaction whose commit had returned: NAME-NUMBER. What its message is follows from the number (`octets_of`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent))

from conformance import noise
from stored_things import HEADER, record, session, transaction

from relayproxy.record.store.interface import Message, TransactionWrite
from relayproxy.record.store.opening import open_store
from relayproxy.record.store.spool import Spool
from relayproxy.record.store.writer import Writer

TASKS = 4


def octets_of(number: int) -> bytes:
    """Every fifth is a file, every tenth of those goes through a spool."""
    return noise(100_000 if number % 5 == 0 else 3000, number)


async def main(path: str, name: str) -> None:
    store = open_store(f"sqlite:{path}")
    writer = Writer(store.backend())

    async def write(task: int) -> None:
        for number in range(task, 1 << 30, TASKS):
            id_ = f"{name}-{number}"
            if number % 10:
                await writer.commit([transaction(id_, octets_of(number), outcome="unknown", final=False)])
            else:
                spool = Spool(store.bodies, 1000)
                await spool.add(octets_of(number))
                message = Message(HEADER, b"\r\n", await spool.finish())
                await writer.commit([TransactionWrite(record(id_, outcome="unknown"), message)])
                spool.discard()
            os.write(1, f"{id_}\n".encode())
            writer.put(TransactionWrite(record(id_), None, final=True))
            writer.put(session(f"S-{id_}", wire=b"\x90"))

    async with trio.open_nursery() as nursery:
        for task in range(TASKS):
            nursery.start_soon(write, task)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
