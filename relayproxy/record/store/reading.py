"""What reading is for every store: pages of rows, made into what is stored, and filtered by the expression itself.

Theory of operation: `transactions` reads pages of a few rows, each a query of its own that begins behind the last row of the one before, so that who reads slowly
keeps nobody from anything. What an expression can say in SQL narrows the page; what is left is filtered by `Select.matches`.
How a store is asked does not belong here (reader.py, postgresql/reader.py), nor how things look (cli/).
"""

from __future__ import annotations

import select as poll
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from relayproxy.record.report import TransactionRecord, encode
from relayproxy.record.store import releases
from relayproxy.record.store.contents import unpack
from relayproxy.record.store.index import text_of
from relayproxy.record.store.interface import Kept, Stored, StoredSession, StoreError
from relayproxy.record.store.rows import header_sent
from relayproxy.record.store.sql import compile as compile_
from relayproxy.record.wire import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from relayproxy.record.select import Select
    from relayproxy.record.store.sql import Dialect
    from relayproxy.record.store.sql_text import Parameter

#: Transactions that are read at once at least, also where fewer are asked for: not all of them may match.
_PAGE: Final = 64
#: More than any time or revision.
_NO_END: Final = (1 << 63) - 1

_decode: Final = msgspec.json.Decoder(TransactionRecord).decode


class Row(NamedTuple):
    """A transaction, as a store's query gives it; `releases`: ReleaseRecords, divided by commas."""

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


class RowReader(ABC):
    """What `Reader` promises (interface.py), by a store's queries."""

    dialect: Dialect
    #: Transactions that are read at once.
    page: int = _PAGE

    @property
    @abstractmethod
    def name(self) -> str:
        """What the store is called when something is wrong with it."""

    @abstractmethod
    def rows(
        self, condition: str, parameters: Sequence[Parameter], *, newest_first: bool = False, limit: int | None = None
    ) -> list[Row]:
        """Those of `transactions` for which a condition holds, by time. Raises StoreError."""

    @abstractmethod
    def body(self, digest: bytes) -> Iterator[bytes]: ...

    @abstractmethod
    def revision(self) -> int: ...

    @abstractmethod
    def close(self) -> None: ...

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
        page = self.page if limit is None else min(self.page, max(limit, _PAGE))
        for stored in self._selected(select, page, newest_first=newest_first, after_revision=after_revision):
            yield stored
            left -= 1
            if left == 0:
                return

    def _selected(
        self, select: Select | None, page: int, *, newest_first: bool, after_revision: int
    ) -> Iterator[Stored]:
        condition, parameters = ("TRUE", ()) if select is None else compile_(select, self.dialect)
        beyond = "<" if newest_first else ">"
        # Who asks for what is new asks again, from the newest that it was given: nothing may be given that is newer than what was passed over.
        # Else the clause would only lead the planner from the index by time, which the order is of, to the one by revision.
        revisions = (after_revision, self.revision()) if after_revision else ()
        since = "AND revision > ? AND revision <= ?" if revisions else ""
        asked = f"({condition}) {since} AND (time, number) {beyond} (?, ?)"
        place = (_NO_END, _NO_END) if newest_first else (-_NO_END, 0)
        while True:
            rows = self.rows(asked, (*parameters, *revisions, *place), newest_first=newest_first, limit=page)
            for row in rows:
                stored = self._stored(row)
                if select is None or select.matches(_Facts(self, stored)):
                    yield stored
            if len(rows) < page:
                return
            place = rows[-1].time, rows[-1].number

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def one(self, rows: Iterable[Row]) -> Stored | None:
        """The first of them."""
        return next((self._stored(row) for row in rows), None)

    def all(self, rows: Iterable[Row]) -> list[Stored]:
        """Every one."""
        return [self._stored(row) for row in rows]

    def _stored(self, row: Row) -> Stored:
        try:
            record, document = _decode(row.document), row.document
            if row.releases is not None:
                record = releases.added(record, row.releases)
                document = encode(record)
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreError(f"{self.name}: the record of transaction {row.id} cannot be read: {error}") from error
        return Stored(row.revision, record, document, bool(row.final), _kept(row))

    def session_of(
        self, row: tuple[str, str, str, int, int | None, str | None], parts: Iterable[tuple[int, bytes]]
    ) -> StoredSession:
        """A session of its columns, and the parts of its wire, in order. Raises StoreError."""
        try:
            wire = tuple(in_order([unpack(form, octets) for form, octets in parts]))
        except ValueError as error:
            raise StoreError(f"{self.name}: the wire of session {row[0]} is damaged: {error}") from error
        return StoredSession(*row, wire)


class _Facts:
    """A transaction, as an expression asks for it: the body is read only where it is asked for."""

    def __init__(self, reader: RowReader, stored: Stored) -> None:
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


def _kept(row: Row) -> Kept | None:
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


def is_read(output: int, seconds: float, *others: int) -> bool:
    """Wait until one of the other descriptors has something to read, or so many seconds; False as soon as nobody reads `output` any more.

    A pipe whose reader has gone says so by itself.
    """
    descriptors = poll.poll()
    descriptors.register(output, 0)
    for other in others:
        descriptors.register(other, poll.POLLIN)
    return output not in [descriptor for descriptor, _ in descriptors.poll(seconds * 1000)]
