"""Reading a SQLite store beside those who write to it: what `Reader` promises (interface.py).

Theory of operation: `transactions` reads pages of a few rows, each a query of its own that begins behind the last row of the one before. So who reads slowly
keeps nobody's write-ahead log from being emptied. What an expression can say in SQL narrows the page; what is left is filtered by the expression itself.

Invariants: a body is given whole or with a StoreError at its end, also while it is removed: a row that was read is there as a whole, and a file that was opened stays,
whoever unlinks it. Writing does not belong here (backend.py), nor how things look (cli/).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import apsw
import msgspec

from relayproxy.record.report import TransactionRecord, encode
from relayproxy.record.store import releases
from relayproxy.record.store.connection import is_still, open_to_read, store_error
from relayproxy.record.store.contents import pieces, unpack
from relayproxy.record.store.index import text_of
from relayproxy.record.store.interface import Kept, Stored, StoredSession, StoreError
from relayproxy.record.store.rows import header_sent
from relayproxy.record.store.sql import FUNCTIONS
from relayproxy.record.store.sql import compile as compile_
from relayproxy.record.wire import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from relayproxy.record.select import Select

#: Seconds to wait where SQLite wants to be alone for a moment.
_PATIENCE: Final = 5.0
#: Transactions that are read at once.
_PAGE: Final = 64

_decode: Final = msgspec.json.Decoder(TransactionRecord).decode

_COLUMNS: Final = f"""
SELECT t.number, t.time, t.id, t.revision, t.final, d.document, d.header, d.separator, body.digest, d.body_size, d.header_sent, d.header_follows, sent.digest,
    d.whole, d.exact, {releases.OF_TRANSACTION}
  FROM ({{numbers}}) AS page JOIN transactions t USING (number) JOIN documents d USING (number)
  LEFT JOIN contents body ON body.number = d.body LEFT JOIN contents sent ON sent.number = d.body_sent
  ORDER BY t.time {{order}}, t.number {{order}}
"""


class _Row(NamedTuple):
    number: int
    time: int
    id: str
    revision: int
    final: int
    document: bytes
    header: bytes | None
    separator: bytes | None
    body: bytes | None
    body_size: int | None
    header_sent: bytes | None
    header_follows: int | None
    body_sent: bytes | None
    whole: int | None
    exact: int | None
    releases: str | None


class SqliteReader:
    """The reading end of a SQLite store."""

    def __init__(self, path: Path, bodies: Path) -> None:
        """Raises StoreError."""
        self._path = path
        self._bodies = bodies
        self._connection, self._immutable = open_to_read(path, patience=_PATIENCE)
        for name, function in FUNCTIONS.items():
            self._connection.create_scalar_function(name, function, deterministic=True)

    def transactions(
        self,
        select: Select | None = None,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        after_revision: int = 0,
    ) -> Iterator[Stored]:
        left = -1 if limit is None else limit
        if left == 0:
            return
        for stored in self._selected(select, newest_first=newest_first, after_revision=after_revision):
            yield stored
            left -= 1
            if left == 0:
                return

    def _selected(self, select: Select | None, *, newest_first: bool, after_revision: int) -> Iterator[Stored]:
        condition, parameters = ("1", ()) if select is None else compile_(select)
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        # Who asks for what is new asks again, from the newest that it was given: nothing may be given that is newer than what was passed over.
        # Else the clause would only lead the planner from the index by time, which the order is of, to the one by revision.
        revisions = (after_revision, self.revision()) if after_revision else ()
        numbers = (
            f"SELECT number FROM transactions WHERE ({condition}) {'AND revision > ? AND revision <= ?' if revisions else ''}"
            f" AND (time, number) {beyond} (?, ?) ORDER BY time {order}, number {order} LIMIT {_PAGE}"
        )
        query = _COLUMNS.format(numbers=numbers, order=order)
        place = (_NO_END, _NO_END) if newest_first else (-_NO_END, 0)
        while True:
            page = self._rows(query, (*parameters, *revisions, *place))
            for row in page:
                stored = self._stored(row)
                if select is None or select.matches(_Facts(self, stored)):
                    yield stored
            if len(page) < _PAGE:
                return
            place = page[-1].time, page[-1].number

    def ids(self, prefix: str, *, limit: int = 2) -> list[str]:
        of = "SELECT id FROM {} WHERE id >= ? AND id < ?"
        query = f"SELECT id FROM ({of.format('transactions')} UNION {of.format('sessions')}) ORDER BY id LIMIT ?"
        bounds = (prefix, prefix + "\U0010ffff")
        with self._speaking() as connection:
            return [id_ for (id_,) in connection.execute(query, (*bounds, *bounds, limit))]

    def transaction(self, id_: str) -> Stored | None:
        for row in self._rows(
            _COLUMNS.format(numbers="SELECT number FROM transactions WHERE id = ?", order="ASC"), (id_,)
        ):
            return self._stored(row)
        return None

    def session(self, id_: str) -> StoredSession | None:
        with self._speaking() as connection:
            query = "SELECT number, id, listener, client, began, ended, why FROM sessions WHERE id = ?"
            row = connection.execute(query, (id_,)).get
            if row is None:
                return None
            parts = list(connection.execute("SELECT form, octets FROM wire WHERE session = ? ORDER BY part", row[:1]))
        try:
            wire = tuple(in_order([unpack(form, octets) for form, octets in parts]))
        except ValueError as error:
            raise StoreError(f"{self._path}: the wire of session {id_} is damaged: {error}") from error
        _, id_, listener, client, began, ended, why = row
        return StoredSession(id_, listener, client, began, ended, why, wire)

    def of_session(self, id_: str) -> list[Stored]:
        rows = self._rows(
            _COLUMNS.format(numbers="SELECT number FROM transactions WHERE session = ?", order="ASC"), (id_,)
        )
        return [self._stored(row) for row in rows]

    def message(self, stored: Stored, *, sent: bool = False) -> Iterator[bytes] | None:
        kept = stored.left if sent else stored.message
        if kept is None or kept.header is None or kept.body is None:
            return None
        return self._message(kept.header, kept.separator, kept.body)

    def _message(self, header: bytes, separator: bytes, digest: bytes) -> Iterator[bytes]:
        body = self.body(digest)
        first = next(body, b"")  # before anything is given, so that what is gone is no message cut off
        yield header + separator + first
        yield from body

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

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    # Below.

    def _rows(self, query: str, parameters: tuple[str | bytes | int | None, ...]) -> list[_Row]:
        with self._speaking() as connection:
            return [_Row(*row) for row in connection.execute(query, parameters)]

    def _stored(self, row: _Row) -> Stored:
        try:
            record, document = _decode(row.document), row.document
            if row.releases is not None:
                record = releases.added(record, row.releases)
                document = encode(record)
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreError(f"{self._path}: the record of transaction {row.id} cannot be read: {error}") from error
        return Stored(row.revision, record, document, bool(row.final), _kept(row))

    @contextmanager
    def _speaking(self) -> Iterator[apsw.Connection]:
        """The connection; what it says, as a StoreError."""
        try:
            yield self._connection
        except apsw.ConnectionClosedError:
            raise
        except apsw.Error as error:
            raise store_error(error, self._connection, self._path) from error
        if self._immutable and not is_still(self._path):
            raise StoreError(f"{self._path} was opened by somebody else who writes while it was read: try again")


class _Facts:
    """A transaction, as an expression asks for it: the body is read only where it is asked for."""

    def __init__(self, reader: SqliteReader, stored: Stored) -> None:
        self.record = stored.record
        self._reader = reader
        self._kept = stored.message

    def header_section(self) -> bytes | None:
        return None if self._kept is None else self._kept.header

    def body_text(self) -> str:
        kept = self._kept
        if kept is None or kept.header is None or kept.body is None:
            return ""
        return text_of(kept.header, self._reader.body(kept.body))


#: More than any time or revision.
_NO_END: Final = (1 << 63) - 1


def _kept(row: _Row) -> Kept | None:
    if row.header is None:
        return None
    return Kept(
        header=row.header,
        separator=row.separator or b"",
        body=row.body,
        body_size=row.body_size or 0,
        header_sent=header_sent(row.header_sent, row.header_follows, row.header),
        body_sent=row.body_sent,
        whole=bool(row.whole),
        exact=bool(row.exact),
    )
