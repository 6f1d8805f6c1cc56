"""`sqlite:` stores: one file, its write-ahead log, and a folder beside it for large bodies (DEPENDENCIES §5).

What is in the file does not belong here (schema.py), nor which store a URL names (opening.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.record.store.backend import SqliteBackend
from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.interface import KEEP_ALL, PATIENCE
from relayproxy.record.store.reader import SqliteReader

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.interface import Keep, Sync


class SqliteStore:
    """A store by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Where large bodies are, and wait on their way in (spool.py); of this process.
        self.bodies = Bodies(path.parent / f"{path.name}-bodies")

    def backend(
        self,
        *,
        sync: Sync = "normal",
        keep: Keep = KEEP_ALL,
        patience: float = PATIENCE,
        later: bool = False,
    ) -> SqliteBackend:
        """The writing end; one a process. `sync`: normal survives kill -9, full also power loss; `later`: where there is no space to open it now, it is opened when there is. Raises StoreError."""
        return SqliteBackend(self.path, self.bodies, sync=sync, keep=keep, patience=patience, later=later)

    def reader(self) -> SqliteReader:
        """A reading end. Raises StoreError."""
        return SqliteReader(self.path, self.bodies.folder)
