"""A PostgreSQL store by its URL; what it takes is imported when it is opened, and asked for when it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.interface import KEEP_ALL, PATIENCE, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.interface import Keep, Sync
    from relayproxy.record.store.location import PostgresqlUrl
    from relayproxy.record.store.postgresql.backend import PostgresqlBackend
    from relayproxy.record.store.postgresql.reader import PostgresqlReader


class PostgresqlStore:
    """A store by its URL."""

    def __init__(self, url: PostgresqlUrl, waiting: Path) -> None:
        """`waiting`: a folder for large bodies on their way in, made when there is one. Raises StoreError where psycopg is missing."""
        self.url = url
        #: Where large bodies wait on their way in (spool.py); of this process.
        self.bodies = Bodies(waiting)
        try:
            import psycopg  # noqa: F401 - is it there?
        except ImportError as error:
            raise StoreError(
                f"{url} takes psycopg, PostgreSQL's library for Python: pip install 'relayproxy[postgresql]' ({error})"
            ) from error

    def backend(
        self, *, sync: Sync = "normal", keep: Keep = KEEP_ALL, patience: float = PATIENCE, later: bool = False
    ) -> PostgresqlBackend:
        """The writing end; one a process. `sync`: normal survives that the relay is killed, and what the database is set to; full power loss of the server in any case. `later`: it connects when it is first asked for something. Raises StoreError."""
        from relayproxy.record.store.postgresql.backend import PostgresqlBackend

        return PostgresqlBackend(self.url, self.bodies, sync=sync, keep=keep, patience=patience, later=later)

    def reader(self) -> PostgresqlReader:
        """A reading end. Raises StoreError."""
        from relayproxy.record.store.postgresql.reader import PostgresqlReader

        return PostgresqlReader(self.url)
