"""Writing to a SQLite store: what `Backend` promises (interface.py), by one thread, beside other processes.

Theory of operation: bodies are compressed, and large ones put into files, before the transaction begins; then the whole batch is a few
statements (schema.py), and a commit. A connection that is not sure any more (an input/output error, a file or its log that was moved away or emptied) is dropped, and
made anew at the next try.

Invariants: what RecordError says was not written is not: neither rows nor files are left of it. Nobody else's file is ever removed: a row's
file has a name of its own, a link to the one that came (spool.py), which stays the caller's.
When things are written does not belong here (writer.py), nor what is removed and when (upkeep.py).
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import apsw

from relayproxy.record.store import releases
from relayproxy.record.store.bodies import Bodies, record_error
from relayproxy.record.store.connection import (
    SMALLEST_PAGE,
    is_empty,
    is_for_want_of_room,
    open_to_write,
    record_error_of,
    roll_back,
)
from relayproxy.record.store.contents import RAW, ZSTD, Packer
from relayproxy.record.store.interface import RecordError, StoreAwayError, StoreError, TransactionWrite
from relayproxy.record.store.reserve import ROOM, Reserve
from relayproxy.record.store.rows import message_columns, session_columns, transaction_columns
from relayproxy.record.store.schema import ROWS, arrive, arrive_session
from relayproxy.record.store.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from relayproxy.record.report import ReleaseRecord
    from relayproxy.record.store.interface import Body, Keep, Sync, Write
    from relayproxy.record.store.rows import Value

#: Octets, compressed, from which on a body is a file.
_FILE_FROM: Final = 1 << 16
#: Octets of a session's wire from which on it is worth to compress it.
_PACK_FROM: Final = 512

_NO_BODY: Final = (None,) * 6


class _Prepared(NamedTuple):
    """A batch, ready to be written, and the files that were made for it."""

    transactions: list[list[Value]]
    sessions: list[list[Value]]
    files: list[Path]


class SqliteBackend:
    """The writing end of a SQLite store."""

    def __init__(self, path: Path, bodies: Bodies, *, sync: Sync, keep: Keep, patience: float, later: bool) -> None:
        """`patience`: seconds to wait for others who write; `later`: where there is no space to open it, that is tried again by whatever is asked. Raises StoreError."""
        self._path = path
        self._sync: Sync = sync
        self._patience = patience
        self._most = keep.bytes
        self._bodies = bodies
        self._packer = Packer()
        self._flushes = sync == "full"  # whether `synchronous` is FULL just now
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int, int, int] | None = None
        self._reserve = Reserve(path)
        self._upkeep = Upkeep(bodies, keep, self._reserve)
        try:
            self._open()
        except StoreAwayError:
            if not later:
                raise

    def _open(self) -> apsw.Connection:
        """Raises StoreError."""
        try:
            connection = self._connect()
        except StoreAwayError:
            self._reserve.give_up()  # to read the log takes a little, too
            connection = self._connect()
        try:
            self._bodies.open()
        except OSError as error:
            connection.close()
            said = f"{error.filename or self._bodies.folder}: {error.strerror or error}"
            raise (StoreAwayError(said, full=True) if is_for_want_of_room(error, None) else StoreError(said)) from error
        self._connection, self._flushes = connection, self._sync == "full"
        self._file = _identity(self._path, connection)
        return connection

    def _connect(self) -> apsw.Connection:
        return open_to_write(self._path, sync=self._sync, patience=self._patience, most=self._most)

    def write(self, writes: Sequence[Write], *, durable: bool) -> None:
        with self._connected() as connection:
            self._reserve.hold()
            try:
                self._write(connection, writes, self._known(connection, writes), durable=durable)
            except apsw.ConstraintError:
                # A body that was there has gone in between: somebody's retention. It is brought again, and so is any other.
                self._write(connection, writes, frozenset(), durable=durable)

    def _write(
        self, connection: apsw.Connection, writes: Sequence[Write], known: frozenset[bytes], *, durable: bool
    ) -> None:
        files: list[Path] = []
        try:
            prepared = self._prepare(writes, set(known), files)
            if files and (durable or self._sync == "full"):
                _flush(files, self._bodies.folder)
            self._begin(connection, durable=durable)
            _insert(connection, prepared.transactions, arrive)
            _insert(connection, prepared.sessions, arrive_session)
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            for file in files:
                with suppress(OSError):
                    file.unlink()
            raise

    def _begin(self, connection: apsw.Connection, *, durable: bool) -> None:
        if durable is not self._flushes and self._sync == "normal":
            connection.pragma("synchronous", "full" if durable else "normal")
            self._flushes = durable
        connection.execute("BEGIN IMMEDIATE")

    def claim(self, transaction: str, attempt: int, release: ReleaseRecord) -> bool:
        return self._note(releases.CLAIM, transaction, attempt, release)

    def released(self, transaction: str, attempt: int, release: ReleaseRecord) -> None:
        self._note(releases.SETTLE, transaction, attempt, release)

    def _note(self, statement: str, transaction: str, attempt: int, release: ReleaseRecord) -> bool:
        """Whether it was noted."""
        with self._connected() as connection:
            try:
                self._begin(connection, durable=True)
                noted = releases.note(connection, statement, transaction, attempt, release)
                connection.execute("COMMIT")
            except BaseException:
                roll_back(connection)
                raise
            return noted

    def _known(self, connection: apsw.Connection, writes: Sequence[Write]) -> frozenset[bytes]:
        """The digests of those bodies that the store has."""
        digests = {
            body.digest
            for write in writes
            if isinstance(write, TransactionWrite) and (message := write.message) is not None
            for body in (message.body, message.body_sent)
            if body is not None
        }
        if not digests:
            return frozenset()
        # One row: the GIL is asked for once.
        found: str | None = connection.execute(
            "SELECT group_concat(hex(digest), '') FROM contents WHERE digest IN (SELECT value FROM carray(?))",
            (apsw.carray(tuple(digests)),),
        ).get
        octets = bytes.fromhex(found or "")
        return frozenset(octets[at : at + 32] for at in range(0, len(octets), 32))

    def _prepare(self, writes: Sequence[Write], known: set[bytes], files: list[Path]) -> _Prepared:
        transactions: list[list[Value]] = []
        sessions: list[list[Value]] = []
        for write in writes:
            if isinstance(write, TransactionWrite):
                row = transaction_columns(write)
                row += message_columns(write)
                message = write.message
                row += _NO_BODY if message is None else self._body(message.body, known, files)
                row += _NO_BODY if message is None else self._body(message.body_sent, known, files)
                transactions.append(row)
            else:
                row = session_columns(write)
                wire = write.wire
                row += (RAW, wire) if wire is None or len(wire) < _PACK_FROM else self._packer.pack(wire)
                sessions.append(row)
        return _Prepared(transactions, sessions, files)

    def _body(self, body: Body | None, known: set[bytes], files: list[Path]) -> tuple[Value, ...]:
        if body is None:
            return _NO_BODY
        if body.digest in known:
            return (body.digest, body.size, None, None, None, None)
        known.add(body.digest)
        if body.octets is None:
            if body.file is None or not body.file.exists():
                raise ValueError("a body has neither octets nor a file")
            path = self._bodies.new()
            os.link(body.file, path)
            files.append(path)
            return (body.digest, body.size, ZSTD, None, path.name, path.stat().st_size)
        packed = self._packer.compress(body.octets)
        if len(packed) >= _FILE_FROM:
            path, descriptor = self._bodies.create()
            files.append(path)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(packed)
            return (body.digest, body.size, ZSTD, None, path.name, len(packed))
        if len(packed) < len(body.octets):
            return (body.digest, body.size, ZSTD, packed, None, None)
        return (body.digest, body.size, RAW, body.octets, None, None)

    def probe(self) -> None:
        with self._connected() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE counters SET probes = probes + 1")
                connection.execute("COMMIT")
            except BaseException:
                roll_back(connection)
                raise
            self._reserve.hold()
            if self._reserve.is_tight:
                raise RecordError(f"{self._path}: less than {ROOM >> 20} MiB are free", full=True)

    def upkeep(self, *, busy: bool = False) -> bool:
        with self._connected() as connection:
            try:
                return self._upkeep.piece(connection, busy=busy)
            except BaseException:
                roll_back(connection)
                raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._bodies.close()

    @contextmanager
    def _connected(self) -> Iterator[apsw.Connection]:
        """The connection, made anew where it was dropped; what goes wrong with it as RecordError where the store is at fault."""
        connection = self._connection
        if connection is None:
            connection = self._reopen()
        elif self._file is None or _identity(self._path, connection) != self._file:
            # What the log has is carried over, also where somebody reads; without the rest of it that is no database.
            if is_empty(self._path):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            else:
                with suppress(apsw.Error):
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._drop()
            raise RecordError(f"{self._path} or its write-ahead log was moved, removed or emptied")
        try:
            yield connection
        except apsw.Error as error:
            told = record_error_of(error, connection, self._path)
            if told is None:
                raise
            if (
                isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NotADBError | apsw.CantOpenError)
                and not told.full
            ):
                self._drop()
            raise told from error
        except OSError as error:
            with suppress(OSError):
                self._bodies.open()  # the folder may have been removed
            raise record_error(error, self._bodies.folder) from error

    def _reopen(self) -> apsw.Connection:
        try:
            return self._open()
        except StoreError as error:
            raise RecordError(str(error), full=isinstance(error, StoreAwayError)) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(apsw.Error):
                connection.close(True)  # whatever state it is in


def _insert(connection: apsw.Connection, rows: list[list[Value]], statement: Callable[[int], str]) -> None:
    at, left = 0, len(rows)
    while left:
        count = ROWS
        while count > left:
            count //= 2
        connection.execute(statement(count), [value for row in rows[at : at + count] for value in row])
        at += count
        left -= count


def _flush(files: list[Path], folder: Path) -> None:
    for path in (*files, folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _identity(path: Path, connection: apsw.Connection) -> tuple[int, int, int, int] | None:
    """Which files they are that are there; None where one is not, or is empty: SQLite goes on with the ones that it has open, and nobody will find what it writes."""
    try:
        file, log = os.stat(path), os.stat(connection.filename_wal)  # noqa: PTH116 - on the way of every batch
    except OSError:
        return None
    return None if file.st_size < SMALLEST_PAGE else (file.st_dev, file.st_ino, log.st_dev, log.st_ino)
