"""Reading a PostgreSQL store beside those who write to it: what `Reader` promises (interface.py).

Each query is a transaction of its own, so who reads slowly keeps no old row alive. A connection that was lost is made anew, once a query.

Invariants: a body is given whole or with a StoreError at its end, also while it is removed. Writing does not belong here (backend.py), nor how things look (cli/).
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import psycopg

from relayproxy.record.store.contents import pieces
from relayproxy.record.store.interface import PATIENCE, StoreError
from relayproxy.record.store.postgresql import chunks, releases
from relayproxy.record.store.postgresql.connection import failed, is_lost, open_to_read
from relayproxy.record.store.postgresql.patterns import PostgresqlDialect
from relayproxy.record.store.postgresql.pruning import near
from relayproxy.record.store.postgresql.schema import CHANNEL, REVISION
from relayproxy.record.store.reading import Row, RowReader, is_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relayproxy.record.store.interface import Stored, StoredSession
    from relayproxy.record.store.location import PostgresqlUrl
    from relayproxy.record.store.postgresql.connection import Connection
    from relayproxy.record.store.sql_text import Parameter

#: Seconds between looks whether something was written, where nobody tells.
_PERIOD: Final = 0.5

_COLUMNS: Final = f"""
SELECT t.number, t.time, t.id, t.revision, t.final, t.document, t.header, t.separator, t.body, t.body_size, t.header_sent, t.header_follows, t.body_sent,
    t.whole, t.exact, {releases.OF_TRANSACTION}
  FROM transactions t WHERE {{condition}} ORDER BY t.time {{order}}, t.number {{order}} {{limit}}
"""


class PostgresqlReader(RowReader):
    """The reading end of a PostgreSQL store."""

    dialect = PostgresqlDialect()
    page = 256  # there and back takes its time

    def __init__(self, url: PostgresqlUrl) -> None:
        """Raises StoreError."""
        self._url = url
        self._listens = False
        self._told = False  # that something was written, since it was asked
        self._connection: Connection | None = self._open()

    @property
    def name(self) -> str:
        return str(self._url)

    def ids(self, prefix: str, *, limit: int = 2) -> list[str]:
        of = "SELECT id FROM {} WHERE {} AND upper(id) >= $1 AND upper(id) < $2"
        query = f"SELECT id FROM ({of.format('transactions', near(prefix, 'time'))} UNION {of.format('sessions', near(prefix, 'day'))}) AS ids ORDER BY id LIMIT $3"
        upper = prefix.upper().replace("\0", "\ufffd")
        return [id_ for (id_,) in self._ask(query, (upper, upper + "\U0010ffff", limit))]

    def transaction(self, id_: str) -> Stored | None:
        return self.one(self.rows(f"{near(id_, 'time')} AND upper(id) = ?", (id_.upper(),)))

    def of_session(self, id_: str) -> list[Stored]:
        return self.all(self.rows(f"{near(id_, 'time', later=True)} AND upper(session) = ?", (id_.upper(),)))

    def session(self, id_: str) -> StoredSession | None:
        query = f"SELECT day, id, listener, client, began, ended, why FROM sessions WHERE {near(id_, 'day')} AND upper(id) = $1"
        for day, *row in self._ask(query, (id_.upper(),)):
            parts = self._ask(
                "SELECT form, octets FROM wire WHERE session = $1 AND day = $2 ORDER BY part", (row[0], day)
            )
            return self.session_of((row[0], row[1], row[2], row[3], row[4], row[5]), parts)
        return None

    def body(self, digest: bytes) -> Iterator[bytes]:
        rows = self._ask(
            "SELECT day, size, form, octets, number FROM contents WHERE digest = $1 ORDER BY day DESC LIMIT 1",
            (digest,),
        )
        if not rows:
            raise StoreError(f"{self._url}: the body {digest.hex()} is not there any more")
        day, size, form, octets, number = rows[0]
        source = iter((octets,)) if number is None else chunks.read(self._ask, day, number)
        try:
            yield from pieces(form, source, size=size, digest=digest)
        except ValueError as error:
            raise StoreError(f"{self._url}: the body {digest.hex()} cannot be read: {error}") from error

    def revision(self) -> int:
        self._told = False
        rows = self._ask(REVISION)
        number: int = rows[0][0] if rows else 0
        return number

    def wait(self, seconds: float, output: int) -> bool:
        """Whoever has written tells, which `revision` takes note of. What was written before we listened was not told."""
        connection = self._connection
        if connection is None or not self._listens:
            if self._ask("SELECT pg_is_in_recovery()") == [(True,)]:
                return is_read(output, min(seconds, _PERIOD))  # a standby tells nobody
            self._ask(f"LISTEN {CHANNEL}")
            self._listens = True
            return is_read(output, 0)
        return is_read(output, 0 if self._told else seconds, connection.fileno())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # Below.

    def rows(
        self, condition: str, parameters: Sequence[Parameter], *, newest_first: bool = False, limit: int | None = None
    ) -> list[Row]:
        query = _COLUMNS.format(
            condition=numbered(condition),
            order="DESC" if newest_first else "ASC",
            limit="" if limit is None else f"LIMIT {limit}",
        )
        return [Row(*row) for row in self._ask(query, parameters)]

    def _ask(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows; asked again where the connection was lost. Raises StoreError."""
        for again in (True, False):
            if self._connection is None:
                self._connection = self._open()
            connection = self._connection
            try:
                cursor = connection.ask(query, parameters)
                return cursor.fetchall() if cursor.description is not None else []
            except psycopg.Error as error:
                self._lose(error, connection)
                if self._connection is not None or not again:
                    raise failed(error, self._url) from error
        return []

    def _open(self) -> Connection:
        connection = open_to_read(self._url, patience=PATIENCE)
        connection.add_notify_handler(self._hear)
        return connection

    def _lose(self, error: psycopg.Error, connection: Connection) -> None:
        """Drop the connection where it is of no use any more."""
        if is_lost(error, connection):
            connection.close()
            self._connection, self._listens = None, False

    def _hear(self, _: object) -> None:
        self._told = True


def numbered(condition: str) -> str:
    """With $1, $2, ... for its question marks."""
    numbers = count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", condition)
