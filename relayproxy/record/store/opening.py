"""Which store a URL names: the one place that knows what kinds there are. What is not used is not imported.

Nothing is opened here: who writes opens the store's `backend`, which makes what is not there; who reads a `reader`, which never does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from relayproxy.record.state import default_state
from relayproxy.record.store.interface import KEEP_ALL, PATIENCE, Backend, Releasing, StoreError
from relayproxy.record.store.location import PostgresqlUrl, location, without_password

if TYPE_CHECKING:
    from relayproxy.record.store.bodies import Bodies
    from relayproxy.record.store.interface import Keep, Reader, Sync


class WritingEnd(Backend, Releasing, Protocol):
    """Both writing ends in one."""


class Store(Protocol):
    """A store by its place."""

    @property
    def bodies(self) -> Bodies:
        """Where large bodies wait on their way in (spool.py); of this process."""

    def backend(
        self, *, sync: Sync = "normal", keep: Keep = KEEP_ALL, patience: float = PATIENCE, later: bool = False
    ) -> WritingEnd:
        """The writing end; one a process. Raises StoreError, and StoreAwayError only where it is not to be reached `later`."""

    def reader(self) -> Reader:
        """A reading end. Raises StoreError."""


def open_store(url: str) -> Store:
    """The store of that url, for who writes no messages. Raises StoreError where it is none that we know."""
    try:
        place = location(url)
    except ValueError as error:
        raise StoreError(f"{without_password(url)!r} is no store: expected {error}") from None
    if place is None:
        raise StoreError("there is no store: nothing is recorded (record.store is none)")
    return store_at(place if isinstance(place, PostgresqlUrl) else Path(place).expanduser().absolute())


def store_at(place: Path | PostgresqlUrl, waiting: Path | None = None) -> Store:
    """The store there. `waiting`: a folder for large bodies on their way in, where the store has none of its own, default: in the usual state folder; made when one comes. Raises StoreError where its library is missing."""
    if isinstance(place, PostgresqlUrl):
        from relayproxy.record.store.postgresql.store import PostgresqlStore

        return PostgresqlStore(place, waiting or Path(default_state()).expanduser() / "waiting")
    from relayproxy.record.store.sqlite import SqliteStore

    return SqliteStore(place)
