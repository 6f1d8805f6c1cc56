"""Reading a SQLite store beside those who write to it: what `Reader` promises (interface.py).

Pages of a few rows, each a query of its own (reading.py), also mean that who reads slowly keeps nobody's write-ahead log from being emptied.

Invariants: a body is given whole or with a StoreError at its end, also while it is removed: a row that was read is there as a whole, and a file that was opened stays,
whoever unlinks it. Writing does not belong here (backend.py), nor how things look (cli/).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import apsw

from relayproxy.record.store import releases
from relayproxy.record.store.connection import file_at, is_empty, open_to_read, still_at, store_error
from relayproxy.record.store.contents import pieces
from relayproxy.record.store.interface import StoreAwayError, StoreError
from relayproxy.record.store.reading import Row, RowReader, is_read
from relayproxy.record.store.sql_patterns import FUNCTIONS, SqliteDialect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from relayproxy.record.store.interface import Stored, StoredSession
    from relayproxy.record.store.sql_text import Parameter

#: Seconds to wait where SQLite wants to be alone for a moment.
_PATIENCE: Final = 5.0
#: Seconds between looks whether something was written.
_PERIOD: Final = 0.2

_COLUMNS: Final = f"""
SELECT t.number, t.time, t.id, t.revision, t.final, d.document, d.header, d.separator, body.digest, d.body_size, d.header_sent, d.header_follows, sent.digest,
    d.whole, d.exact, {releases.OF_TRANSACTION}
  FROM ({{numbers}}) AS page JOIN transactions t USING (number) JOIN documents d USING (number)
  LEFT JOIN contents body ON body.number = d.body LEFT JOIN contents sent ON sent.number = d.body_sent
  ORDER BY t.time {{order}}, t.number {{order}}
"""


class SqliteReader(RowReader):
    """The reading end of a SQLite store."""

    dialect = SqliteDialect()

    def __init__(self, path: Path, bodies: Path) -> None:
        """Raises StoreError."""
        self._path = path
        self._bodies = bodies
        self._open()

    def _open(self) -> None:
        file = file_at(self._path)  # before it is opened: another may come in its place meanwhile
        self._connection, self._still = open_to_read(self._path, patience=_PATIENCE)
        self._file = file
        self._log = file_at(self._log_path)  # there is none where nobody writes
        for name, function in FUNCTIONS.items():
            self._connection.create_scalar_function(name, function, deterministic=True)

    @property
    def name(self) -> str:
        return str(self._path)

    def ids(self, prefix: str, *, limit: int = 2) -> list[str]:
        of = "SELECT id FROM {} WHERE id >= ? AND id < ?"
        query = f"SELECT id FROM ({of.format('transactions')} UNION {of.format('sessions')}) ORDER BY id LIMIT ?"
        bounds = (prefix, prefix + "\U0010ffff")
        with self._speaking() as connection:
            return [id_ for (id_,) in connection.execute(query, (*bounds, *bounds, limit))]

    def transaction(self, id_: str) -> Stored | None:
        return self.one(self.rows("id = ?", (id_,)))

    def of_session(self, id_: str) -> list[Stored]:
        return self.all(self.rows("session = ?", (id_,)))

    def session(self, id_: str) -> StoredSession | None:
        with self._speaking() as connection:
            query = "SELECT number, id, listener, client, began, ended, why FROM sessions WHERE id = ?"
            row = connection.execute(query, (id_,)).get
            if row is None:
                return None
            parts = list(connection.execute("SELECT form, octets FROM wire WHERE session = ? ORDER BY part", row[:1]))
        return self.session_of(row[1:], parts)

    def body(self, digest: bytes) -> Iterator[bytes]:
        with self._speaking() as connection:
            row = connection.execute("SELECT size, form, octets, file FROM contents WHERE digest = ?", (digest,)).get
        if row is None:
            raise StoreError(f"{self._path}: the body {digest.hex()} is not there any more")
        size, form, octets, name = row
        try:
            yield from pieces(form, self._bodies / name if octets is None else octets, size=size, digest=digest)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self._bodies / name} is not there any more, and with it the body {digest.hex()}"
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._path}: the body {digest.hex()} cannot be read: {error}") from error

    def revision(self) -> int:
        with self._speaking() as connection:
            number: int = connection.execute("SELECT revision FROM counters").get
            return number

    def wait(self, seconds: float, output: int) -> bool:
        if self._is_gone:
            moved = StoreAwayError(f"{self._path} or its write-ahead log was moved, removed or emptied", replaced=True)
            self._connection.close()  # first: who writes cannot make it anew while we have the old one
            try:
                self._open()
            except StoreError as error:
                raise moved from error
            raise moved
        return is_read(output, min(seconds, _PERIOD))  # SQLite tells nobody that something was written

    def close(self) -> None:
        self._connection.close()

    # Below.

    @property
    def _log_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}-wal")

    @property
    def _is_gone(self) -> bool:
        """Whether what was opened is not what is there: SQLite reads on in it, and keeps others from it."""
        has_other_log = self._log is not None and file_at(self._log_path) != self._log
        return file_at(self._path) != self._file or has_other_log or is_empty(self._path)

    def rows(
        self, condition: str, parameters: Sequence[Parameter], *, newest_first: bool = False, limit: int | None = None
    ) -> list[Row]:
        order = "DESC" if newest_first else "ASC"
        bound = "" if limit is None else f"LIMIT {limit}"
        numbers = f"SELECT number FROM transactions WHERE {condition} ORDER BY time {order}, number {order} {bound}"
        query = _COLUMNS.format(numbers=numbers, order=order)
        with self._speaking() as connection:
            return [Row(*row) for row in connection.execute(query, tuple(parameters))]

    @contextmanager
    def _speaking(self) -> Iterator[apsw.Connection]:
        """The connection; what it says, as a StoreError."""
        try:
            yield self._connection
        except apsw.ConnectionClosedError:
            raise
        except apsw.Error as error:
            self._check_still()  # what was half read may look damaged
            raise store_error(error, self._connection, self._path) from error
        self._check_still()

    def _check_still(self) -> None:
        if self._still is not None and still_at(self._path) != self._still:
            raise StoreError(f"{self._path} was opened by somebody else who writes while it was read: try again")
