"""What can wait: retention, the index of words, files that were left behind, pages that are free. In pieces of some twenty milliseconds.

Retention removes the oldest first, by the time of MAIL, whole transactions with their messages, and sessions that have none (left). `age`: what is older goes.
`bytes`: what the database's pages in use and the files beside take stays below it: not counted are free pages (at most a tenth, or 1 MiB, is left of them in
the file; they are used again), the write-ahead log, the reserve (reserve.py) and what is on its way in.
Never removed: what is `held` and was not released (accepted: what may have left stays too); within an hour, a transaction that is not final, and within a day, a session that has not ended.

Where there is no room to remove anything, the reserve is given up, and the log begun anew; then what is removed and given back goes in small pieces.

Invariants: rows go first, files after the commit, so that no row is ever without its file; a crash in between leaves a file, which the next start
finds. Several processes may do this at once. Writing does not belong here (backend.py), nor when upkeep is done (writer.py).
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import apsw

from relayproxy.record.store.bodies import Sweep
from relayproxy.record.store.connection import is_for_want_of_room, roll_back
from relayproxy.record.store.index import index_some
from relayproxy.record.store.interface import ABANDONED_SESSION, ABANDONED_TRANSACTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.record.store.bodies import Bodies
    from relayproxy.record.store.interface import Keep
    from relayproxy.record.store.reserve import Reserve

#: Seconds that a piece takes, or a little more.
_PIECE: Final = 0.02
#: Rows that go in one statement.
_ROWS: Final = 32
#: Pages that become free in one piece, or a few more, and that are given back where room is tight: all of them go through the log.
_FREED: Final = 64
#: Pages that are given back to the system in one piece; octets of free pages that are kept at least.
_PAGES: Final = 256
_FREE: Final = 1 << 20
#: Seconds until retention tries again that found nothing it may remove.
_IN_VAIN: Final = 5.0

_MAY_GO: Final = "(outcome <> 'held' OR released) AND (final OR time < :abandoned)"
_SESSION_MAY_GO: Final = "(ended IS NOT NULL OR began < :abandoned_session) AND NOT EXISTS (SELECT 1 FROM transactions WHERE session = sessions.id)"
_OLD: Final = f"SELECT number FROM transactions WHERE time < :before AND {_MAY_GO} ORDER BY time LIMIT {_ROWS}"
_OLDEST: Final = f"SELECT number, time FROM transactions WHERE {_MAY_GO} ORDER BY time LIMIT 1"
_OLD_SESSIONS: Final = (
    f"SELECT number FROM sessions WHERE began < :before * 1000 AND {_SESSION_MAY_GO} ORDER BY began LIMIT :rows"
)
_UNNAMED: Final = """
DELETE FROM contents WHERE number IN (SELECT content FROM loose) AND NOT EXISTS (SELECT 1 FROM documents WHERE body = contents.number)
  AND NOT EXISTS (SELECT 1 FROM documents WHERE body_sent = contents.number) RETURNING file
"""
_TAKEN: Final = """
SELECT (page_count - freelist_count) * page_size + file_octets
  FROM pragma_page_count, pragma_freelist_count, pragma_page_size, counters
"""
_FREE_PAGES: Final = f"""
SELECT freelist_count, max({_FREE} / page_size, page_count / 10) FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
_FOR_EVER: Final = 1 << 53  # microseconds


class Upkeep:
    """Upkeep of one store by one process. The caller rolls back when anything is raised: apsw.Error, OSError."""

    def __init__(self, bodies: Bodies, keep: Keep, reserve: Reserve) -> None:
        self._bodies = bodies
        self._reserve = reserve
        self._keep = keep
        self._sweep = Sweep(bodies)
        self._giving_back = False
        self._in_vain_until = 0.0

    def piece(self, connection: apsw.Connection, *, busy: bool) -> bool:
        """A piece; whether there is more. `busy`: writes come all the time, or none can, so only what makes room."""
        if self._make_room(connection, self._retention):
            return True
        if busy:
            return self._reserve.is_tight and self._make_room(connection, self._give_back)
        known = "SELECT EXISTS(SELECT 1 FROM contents WHERE file = ?)"
        return (
            self._sweep.piece(lambda name: bool(connection.execute(known, (name,)).get))
            or index_some(connection, self._bodies.folder)
            or self._give_back(connection)
        )

    def _make_room(self, connection: apsw.Connection, make: Callable[[apsw.Connection], bool]) -> bool:
        """Do so; where that takes room that is not there, in what is kept for it."""
        if self._reserve.is_held:
            try:
                return make(connection)
            except (OSError, apsw.Error) as error:
                if not is_for_want_of_room(error, connection):
                    raise
            roll_back(connection)
            self._reserve.give_up()
        with suppress(apsw.Error):  # so that the log begins anew, and need not grow
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return make(connection)

    # Retention.

    def _retention(self, connection: apsw.Connection) -> bool:
        """Whether anything was removed."""
        start = time.monotonic()
        if start < self._in_vain_until:
            return False
        removals = self._due(connection)
        if not removals and not connection.execute("SELECT EXISTS(SELECT 1 FROM loose)").get:
            return False
        removed = False
        connection.execute("BEGIN IMMEDIATE")
        free = _free(connection)
        files = _drop_loose(connection)
        for remove in removals:
            while time.monotonic() < start + _PIECE and _free(connection) - free < _FREED and remove():
                removed = True
                files += _drop_loose(connection)
        connection.execute("COMMIT")
        for name in files:
            with suppress(FileNotFoundError):
                (self._bodies.folder / name).unlink()
        if removals and not removed:
            self._in_vain_until = start + _IN_VAIN
        return removed

    def _due(self, connection: apsw.Connection) -> list[Callable[[], bool]]:
        """What there is to remove: functions that remove some, and say whether there was any."""
        now = time.time()
        bindings = {
            "abandoned": int((now - ABANDONED_TRANSACTION) * 1e6),
            "abandoned_session": int((now - ABANDONED_SESSION) * 1e9),
        }
        age, limit = self._keep
        due: list[Callable[[], bool]] = []
        if age is not None:
            old = bindings | {"before": int((now - age) * 1e6), "rows": _ROWS}
            if connection.execute(f"SELECT EXISTS({_OLD}) OR EXISTS({_OLD_SESSIONS})", old).get:
                due.append(lambda: _remove_old(connection, old))
        if limit is not None and taken(connection) > limit:
            due.append(lambda: taken(connection) > limit and _remove_oldest(connection, bindings))
        return due

    # What is left.

    def _give_back(self, connection: apsw.Connection) -> bool:
        """Give free pages back to the system where there are many; whether there are more."""
        free, enough = connection.execute(_FREE_PAGES).get
        if free <= (enough // 2 if self._giving_back else enough):
            self._giving_back = False
            return False
        self._giving_back = True
        for _ in connection.execute(f"PRAGMA incremental_vacuum({_FREED if self._reserve.is_tight else _PAGES})"):
            pass
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return True


def taken(connection: apsw.Connection) -> int:
    """Octets as `bytes` counts them."""
    octets: int = connection.execute(_TAKEN).get
    return octets


def _free(connection: apsw.Connection) -> int:
    """Pages."""
    pages: int = connection.pragma("freelist_count")
    return pages


def _remove_old(connection: apsw.Connection, bindings: dict[str, int]) -> bool:
    connection.execute(f"DELETE FROM transactions WHERE number IN ({_OLD})", bindings)
    removed = connection.changes()
    connection.execute(f"DELETE FROM sessions WHERE number IN ({_OLD_SESSIONS})", bindings)
    return bool(removed + connection.changes())


def _remove_oldest(connection: apsw.Connection, bindings: dict[str, int]) -> bool:
    """One transaction, or a session without any that is older; one by one, since a single one may be all that is too much."""
    oldest: tuple[int, int] | None = connection.execute(_OLDEST, bindings).get
    number, before = oldest or (None, _FOR_EVER)
    connection.execute(
        f"DELETE FROM sessions WHERE number IN ({_OLD_SESSIONS})", bindings | {"before": before, "rows": 1}
    )
    if connection.changes():
        return True
    connection.execute("DELETE FROM transactions WHERE number = ?", (number,))
    return bool(connection.changes())


def _drop_loose(connection: apsw.Connection) -> list[str]:
    """Remove the bodies that nothing names any more; the names of their files."""
    files = [name for (name,) in connection.execute(_UNNAMED) if name is not None]
    connection.execute("DELETE FROM loose")
    return files
