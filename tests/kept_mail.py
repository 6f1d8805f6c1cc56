"""What is in a store, for those who sent it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.interface import Stored


def kept(store: Path) -> list[tuple[Stored, bytes]]:
    """The transactions that were accepted, in order, each with its message as it left."""
    with SqliteStore(store).reader() as reader:
        return [
            (stored, b"".join(reader.message(stored, sent=True) or ()))
            for stored in reader.transactions()
            if stored.record.outcome == "accepted"
        ]
