"""`sqlite:` stores: one file, its write-ahead log, and a folder beside it for large bodies (DEPENDENCIES §5).

`open_store` only names a store: who writes opens its `backend`, which makes what is not there; who reads a `reader`, which never does.
What is in the file does not belong here (schema.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from relayproxy.record.store.backend import SqliteBackend
from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.interface import StoreError
from relayproxy.record.store.location import path_of
from relayproxy.record.store.reader import SqliteReader
from relayproxy.record.store.upkeep import Keep

if TYPE_CHECKING:
    from relayproxy.record.store.connection import Sync

__all__ = ["Keep", "SqliteStore", "open_store"]

_KEEP_ALL: Final = Keep()
#: Seconds that a write waits for others who write before it fails.
PATIENCE: Final = 5.0


class SqliteStore:
    """A store by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Where large bodies are, and wait on their way in (spool.py); of this process.
        self.bodies = Bodies(path.parent / f"{path.name}-bodies")

    def backend(self, *, sync: Sync = "normal", keep: Keep = _KEEP_ALL, patience: float = PATIENCE) -> SqliteBackend:
        """The writing end; one a process. `sync`: normal survives kill -9, full also power loss. Raises StoreError."""
        return SqliteBackend(self.path, self.bodies, sync=sync, keep=keep, patience=patience)

    def reader(self) -> SqliteReader:
        """A reading end. Raises StoreError."""
        return SqliteReader(self.path, self.bodies.folder)


def open_store(url: str) -> SqliteStore:
    """The store of that url. Raises StoreError where it is none that we know; nothing is opened yet."""
    try:
        path = path_of(url)
    except ValueError as error:
        raise StoreError(f"{url!r} is no store: expected {error}") from None
    if path is None:
        raise StoreError("there is no store: nothing is recorded (record.store is none)")
    return SqliteStore(Path(path).expanduser().absolute())
