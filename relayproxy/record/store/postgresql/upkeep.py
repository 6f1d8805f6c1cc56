"""What can wait: retention, the index of words, tomorrow's tables. In pieces of some twenty milliseconds, by one relay at a time.

Retention removes the oldest first, by the time of MAIL, whole transactions with their messages, and sessions that have none (left). `age`: what is older goes, a whole
day at a time, and row by row where no more than two days are kept, or something of a day has to stay. While somebody reads a day that is to go (a backup does so for long)
nothing is removed: row by row it would be dead weight, since who reads keeps it. `bytes`: what records, messages and wire take stays below it, as
`days` counts it: not counted are indexes, and what PostgreSQL adds. A day goes whole where that is a tenth of it at most.
Never removed: what is `held` and was not released (accepted: what may have left stays too); within an hour, a transaction that is not final, and within a day, a
session that has not ended.

Invariants: who removes has locked `counters`, as who writes; nobody is kept waiting longer than a piece takes, nor for a day that somebody reads longer than `_PATIENCE`, and that seldom.
Writing does not belong here (backend.py), nor when upkeep is done (writer.py).
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import psycopg

from relayproxy.record.store.bodies import Sweep
from relayproxy.record.store.interface import ABANDONED_SESSION, ABANDONED_TRANSACTION, RecordError
from relayproxy.record.store.postgresql.index import index_some
from relayproxy.record.store.postgresql.schema import (
    ADD_GROWTH,
    DAY,
    FORGET_REVISIONS,
    FREE,
    LOCK_TABLES,
    LOCK_UPKEEP,
    NEWER,
    OUTLIVES,
    STEPS,
    drop_day,
    lock_day,
    make_day,
)

if TYPE_CHECKING:
    from relayproxy.record.store.bodies import Bodies
    from relayproxy.record.store.interface import Keep
    from relayproxy.record.store.postgresql.connection import Connection

#: Seconds that a piece takes, or a little more.
_PIECE: Final = 0.02
#: Rows that go in one statement at most.
_ROWS: Final = 200
#: Milliseconds that those who write may be kept waiting until nobody uses one of the tables of a day that is to go.
_PATIENCE: Final = 20
#: Seconds until retention tries again that found nothing it may remove, or, while writes come all the time, nothing that is due.
_IN_VAIN: Final = 5.0
#: Seconds of `age` up to which what is older goes row by row, and a day is not waited for.
_BY_ROWS: Final = 2 * 86400

# $1: before when; $2: now; microseconds. $3: octets that are too much.
_MAY_GO: Final = f"((outcome <> 'held' OR released) AND (final OR time < $2 - {ABANDONED_TRANSACTION * 1_000_000}))"
_ENDED: Final = f"(ended IS NOT NULL OR began < ($2 - {ABANDONED_SESSION * 1_000_000}) * 1000)"
_SESSION_MAY_GO: Final = (
    f"{_ENDED} AND NOT EXISTS (SELECT FROM transactions t WHERE upper(t.session) = upper(sessions.id))"
)
_OLD: Final = f"""
DELETE FROM transactions WHERE (id, time) IN (SELECT id, time FROM transactions WHERE time < $1 AND {_MAY_GO} ORDER BY time LIMIT {_ROWS})
"""
_OLD_SESSIONS: Final = f"""
DELETE FROM sessions WHERE (id, day) IN (SELECT id, day FROM sessions WHERE began < $1 * 1000 AND {_SESSION_MAY_GO} ORDER BY began LIMIT {_ROWS})
"""
_ANY_OLD: Final = f"""
SELECT EXISTS (SELECT FROM transactions WHERE time < $1 AND {_MAY_GO}) OR EXISTS (SELECT FROM sessions WHERE began < $1 * 1000 AND {_SESSION_MAY_GO})
"""
# No more than needed: none is removed where those before it are enough.
_OLDEST: Final = f"""
DELETE FROM transactions WHERE (id, time) IN (
  SELECT id, time FROM (SELECT id, time, sum(size) OVER (ORDER BY time, number) - size AS before FROM (
    SELECT id, time, number, kept + coalesce((SELECT kept FROM contents c WHERE c.digest = t.body AND c.day = t.day), 0) AS size
      FROM transactions t WHERE time < $1 AND {_MAY_GO} ORDER BY time, number LIMIT {_ROWS}
  ) AS oldest) AS summed WHERE before < $3
)
"""
_OLDEST_SESSIONS: Final = f"""
DELETE FROM sessions WHERE (id, day) IN (
  SELECT id, day FROM (SELECT id, day, sum(size) OVER (ORDER BY began, id) - size AS before FROM (
    SELECT id, day, began, kept + coalesce((SELECT sum(kept) FROM wire WHERE wire.session = sessions.id AND wire.day = sessions.day), 0) AS size
      FROM sessions WHERE began < $1 * 1000 AND {_SESSION_MAY_GO} ORDER BY began, id LIMIT {_ROWS}
  ) AS oldest) AS summed WHERE before < $3
)
"""
_OLDEST_TIME: Final = f"SELECT time FROM transactions WHERE time < $1 AND {_MAY_GO} ORDER BY time, number LIMIT 1"
# Whether anything of day $1 has to stay: $2 as above. Few rows are looked at (schema.py, the indexes for it).
_STAYS: Final = f"""
SELECT EXISTS (SELECT FROM transactions WHERE time >= $1::bigint * {DAY} AND time < ($1 + 1)::bigint * {DAY} AND NOT {FREE} AND NOT {_MAY_GO})
  OR EXISTS (SELECT FROM sessions WHERE day = $1 AND {OUTLIVES} AND (NOT {_ENDED}
    OR EXISTS (SELECT FROM transactions t WHERE upper(t.session) = upper(sessions.id) AND t.time >= ($1 + 1)::bigint * {DAY})))
"""
_UNNAMED: Final = f"""
WITH gone AS (DELETE FROM loose RETURNING day, digest), went AS (
  DELETE FROM contents c USING gone WHERE c.day = gone.day AND c.digest = gone.digest
    AND NOT EXISTS (SELECT FROM transactions t WHERE t.body = c.digest AND t.time >= c.day::bigint * {DAY} AND t.time < (c.day + 1)::bigint * {DAY})
    AND NOT EXISTS (SELECT FROM transactions t WHERE t.body_sent = c.digest AND t.time >= c.day::bigint * {DAY} AND t.time < (c.day + 1)::bigint * {DAY})
    RETURNING c.day, c.number
)
DELETE FROM chunks USING went WHERE chunks.day = went.day AND chunks.number = went.number
"""
# $1: the last number of what has been added to `days`.
_TAKEN: Final = """
SELECT ((SELECT coalesce(sum(octets), 0) FROM days) + (SELECT coalesce(sum(octets), 0) FROM growth WHERE number > $1))::bigint
"""
_FOR_EVER: Final = 1 << 53  # microseconds


class Upkeep:
    """Upkeep of one store by one process. Raises psycopg.Error, OSError, RecordError."""

    def __init__(self, bodies: Bodies, keep: Keep) -> None:
        self._bodies = bodies
        self._keep = keep
        self._sweep = Sweep(bodies)
        self._ready = 0  # the last day whose tables are known to be there
        # The last numbers of `growth` and `revisions` that were dealt with: what is before is not gone through again.
        self._added, self._forgotten = 0, -1
        self._in_vain_until = 0.0
        self._found_none = -_IN_VAIN  # when

    def piece(self, connection: Connection, *, busy: bool) -> bool:
        """A piece; whether there is more. `busy`: writes come all the time, or none can, so only retention."""
        if busy and time.monotonic() < self._found_none + _IN_VAIN:
            return False
        if not connection.value("SELECT pg_try_advisory_lock($1)", LOCK_UPKEEP):
            return False  # another relay is at it
        try:
            if connection.value("SELECT version FROM counters") != len(STEPS):
                raise RecordError(NEWER)
            if self._retention(connection):  # first: where the disk is full all else fails
                return True
            self._make_ready(connection)
            self._found_none = time.monotonic()
            if busy:
                return False
            # There is no folder before a large body comes; no row names a file.
            swept = not self._bodies.folder.exists() or not self._sweep.piece(lambda _: False)
            return not swept or index_some(connection)
        finally:
            with suppress(psycopg.Error):  # it goes with the connection
                connection.ask("SELECT pg_advisory_unlock($1)", (LOCK_UPKEEP,))

    def _make_ready(self, connection: Connection) -> None:
        """Tomorrow's tables, so that nobody has to make them when it begins."""
        tomorrow = _now() // DAY + 1
        if self._ready < tomorrow:
            make_days(connection, {tomorrow - 1, tomorrow})
            self._ready = tomorrow

    def _count(self, connection: Connection) -> None:
        """Take in what batches have left to be counted."""
        self._added = connection.value(ADD_GROWTH, self._added) or self._added
        self._forgotten = connection.value(FORGET_REVISIONS, self._forgotten) or self._forgotten

    # Retention.

    def _retention(self, connection: Connection) -> bool:
        """Whether anything was removed."""
        start = time.monotonic()
        if start < self._in_vain_until:
            return False
        self._in_vain_until = 0.0
        age, limit = self._keep
        if age is not None and self._remove_old(connection, age):
            return True
        self._count(connection)
        too_much = limit is not None and connection.value(_TAKEN, self._added) > limit
        if limit is not None and too_much and not self._in_vain_until and self._remove_oldest(connection, limit):
            return True
        if self._in_vain_until:
            return False
        if connection.value("SELECT EXISTS(SELECT FROM loose)"):
            with connection.alone():
                connection.ask(_UNNAMED)
        if too_much:
            self._in_vain_until = start + _IN_VAIN
        return False

    def _remove_old(self, connection: Connection, age: float) -> bool:
        before = _now() - int(age * 1e6)
        whole = before // DAY  # days before that one
        for (day,) in connection.rows("SELECT day FROM days WHERE day < $1 ORDER BY day", (whole,)):
            if (became := self._drop(connection, day)) != "stays":
                return became == "dropped"
        by = time.monotonic() + _PIECE
        asked = (before if age <= _BY_ROWS else whole * DAY, _now())
        if not connection.value(_ANY_OLD, *asked):
            return False
        removed = False
        with connection.alone():
            while rows := sum([connection.ask(statement, asked).rowcount for statement in (_OLD, _OLD_SESSIONS)]):
                removed = True
                connection.ask(_UNNAMED)
                if rows < _ROWS or time.monotonic() > by:
                    break
        return removed

    def _remove_oldest(self, connection: Connection, limit: int) -> bool:
        today = _now() // DAY
        for day, octets in connection.rows(
            "SELECT day, octets FROM days WHERE day < $1 ORDER BY day LIMIT 1", (today,)
        ):
            if octets <= limit // 10 and (became := self._drop(connection, day)) != "stays":
                return became == "dropped"
        by = time.monotonic() + _PIECE
        now = _now()
        removed = False
        with connection.alone():
            while (excess := connection.value(_TAKEN, self._added) - limit) > 0:
                oldest = connection.value(_OLDEST_TIME, _FOR_EVER, now)
                before = _FOR_EVER if oldest is None else oldest
                rows = connection.ask(_OLDEST_SESSIONS, (before, now, excess)).rowcount
                if not rows:
                    rows = connection.ask(_OLDEST, (_FOR_EVER, now, excess)).rowcount
                connection.ask(_UNNAMED)
                removed = removed or rows > 0
                if not rows or time.monotonic() > by:
                    break
        return removed

    def _drop(self, connection: Connection, day: int) -> Literal["dropped", "stays", "busy"]:
        """Drop a day, where all of it may go and nobody uses it just now; where somebody does, retention waits for a while."""
        if connection.value(_STAYS, day, _now()):
            return "stays"
        try:
            with connection.alone():
                if connection.value(_STAYS, day, _now()):  # asked again: nobody writes now
                    return "stays"
                connection.ask(f"SET LOCAL lock_timeout = {_PATIENCE}")
                connection.ask("SELECT pg_advisory_xact_lock($1)", (LOCK_TABLES,))
                connection.ask(lock_day(day))
                connection.ask(drop_day(day))
        except psycopg.errors.LockNotAvailable:
            self._in_vain_until = time.monotonic() + _IN_VAIN
            return "busy"
        return "dropped"


def make_days(connection: Connection, days: set[int]) -> set[int]:
    """Make the tables of those days that have none yet; all days that have some."""
    with connection.transaction():
        connection.ask("SELECT pg_advisory_xact_lock($1)", (LOCK_TABLES,))
        there = {day for (day,) in connection.ask("SELECT day FROM days")}
        for day in sorted(days - there):
            connection.ask(make_day(day))
    return there | days


def _now() -> int:
    return int(time.time() * 1e6)
