"""Opening a SQLite file as a store, and what SQLite says in words: for the user who opens it, and for those who write.

Invariants: a store is readable by its owner alone. A file of another program, of a newer relayproxy, or a damaged one is never written to.
Tables do not belong here (schema.py).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

import apsw

from relayproxy.record.store.bodies import is_full
from relayproxy.record.store.interface import RecordError, StoreAwayError, StoreError
from relayproxy.record.store.reserve import disk_size
from relayproxy.record.store.schema import APPLICATION, PROGRAMS, STEPS, migrate, version

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.interface import Sync

#: Pages in the write-ahead log before they are carried into the database, at most and at least, and what part they may be of all that there is to be.
_CHECKPOINT: Final = 4000
_CHECKPOINT_SMALL: Final = 64
_CHECKPOINT_PART: Final = 16
_PAGE: Final = 4096
#: The smallest that SQLite knows.
SMALLEST_PAGE: Final = 512
_FRAME: Final = _PAGE + 24
_A_FOLDER: Final = "{}: expected a file, found a folder"

#: What says that nothing can be written now; any other error is about what was to be written.
_TROUBLE: Final = (
    apsw.BusyError, apsw.CantOpenError, apsw.CorruptError, apsw.FullError, apsw.InterruptError, apsw.IOError, apsw.LockedError,
    apsw.NoMemError, apsw.NotADBError, apsw.PermissionsError, apsw.ProtocolError, apsw.ReadOnlyError,
)  # fmt: skip


def open_to_write(path: Path, *, sync: Sync, patience: float, most: int | None) -> apsw.Connection:
    """Open a store, or make it; `patience`: seconds to wait for others who write; `most`: octets that are kept. Raises StoreError; StoreAwayError for want of space."""
    connection = None
    try:
        _create(path)
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE, patience)
        _check(connection, path, new_is_fine=True)
        _set_up(connection, path, sync, patience)
        _bound_log(connection, disk_size(path) if most is None else min(most, disk_size(path)))
        migrate(connection)
        connection.execute(PROGRAMS)
    except (OSError, apsw.Error) as error:
        refused = store_error(error, connection, path)
        if is_for_want_of_room(error, connection):
            refused = StoreAwayError(str(refused), full=True)
        if connection is not None:
            connection.close()
        raise refused from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """Make the file, so that nobody else can ever read it; one that is there is not touched: to close it would take away SQLite's locks."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if path.is_dir():
        raise StoreError(_A_FOLDER.format(path))
    if not _can_be_written(path):
        raise StoreError(f"{path} cannot be written: it, or its folder, is read-only")


def _can_be_written(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _connect(path: Path, flags: int, patience: float, query: str = "") -> apsw.Connection:
    connection = apsw.Connection(f"file:{quote(str(path))}{query}", flags=flags | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(int(patience * 1000))
    return connection


def _check(connection: apsw.Connection, path: Path, *, new_is_fine: bool) -> None:
    """Whether it is a store that we know. Raises StoreError, apsw.Error."""
    made = version(connection)
    used = made or connection.execute("SELECT EXISTS(SELECT 1 FROM sqlite_schema)").get
    # Asked last: another process may be making it just now, and whose it is comes with the tables.
    if connection.pragma("application_id") != APPLICATION:
        if used:
            raise StoreError(
                f"{path} is a database of another program: expected a store of relayproxy, or a path where nothing is"
            )
        if not new_is_fine:
            raise StoreError(f"{path} is empty: nothing was recorded there yet")
    if made > len(STEPS):
        raise StoreError(
            f"{path} was written by a newer relayproxy (its tables are version {made}, this one knows {len(STEPS)}): use that one"
        )
    if made < len(STEPS) and not new_is_fine:
        raise StoreError(
            f"{path} was written by an older relayproxy (its tables are version {made}): `relayproxy run` brings it up to {len(STEPS)}"
        )


def _set_up(connection: apsw.Connection, path: Path, sync: Sync, patience: float) -> None:
    connection.pragma("auto_vacuum", 2)  # incremental; takes effect in a new file alone
    by = time.monotonic() + patience
    while True:
        # SQLite does not wait for others here: two processes that make the store at once.
        try:
            mode = connection.pragma("journal_mode", "wal")
            break
        except apsw.BusyError:
            if time.monotonic() > by:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise StoreError(f"{path}: SQLite cannot keep a write-ahead log there: expected a local file system")
    connection.pragma("synchronous", sync)
    connection.pragma("temp_store", "memory")
    connection.pragma("secure_delete", True)


def _bound_log(connection: apsw.Connection, room: int) -> None:
    """The log is to be a small part of the room that there is: it is not counted, and what is in it takes room twice until the database has it."""
    pages = max(_CHECKPOINT_SMALL, min(room // _CHECKPOINT_PART // _PAGE, _CHECKPOINT))
    connection.pragma("journal_size_limit", pages * _FRAME)
    connection.wal_autocheckpoint(pages)


def open_to_read(path: Path, *, patience: float) -> tuple[apsw.Connection, Still | None]:
    """Open a store that is there, and as what, where it was taken for one that nobody changes. Raises StoreError."""
    connection, still = None, None
    try:
        _check_readable(path)
        try:
            connection = _connect(path, apsw.SQLITE_OPEN_READONLY, patience)
            _check(connection, path, new_is_fine=False)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            if (still := still_at(path)) is None:
                raise
            if connection is not None:
                connection.close()
            connection = _connect(path, apsw.SQLITE_OPEN_READONLY, patience, "?immutable=1")
            _check(connection, path, new_is_fine=False)
    except (OSError, apsw.Error) as error:
        refused = store_error(error, connection, path)
        if connection is not None:
            connection.close()
        raise refused from error
    except StoreError:
        if connection is not None:
            connection.close()
        raise
    return connection, still


def _check_readable(path: Path) -> None:
    """Without opening it: to close it would take away SQLite's locks. Raises StoreError, OSError."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{path} does not exist: nothing was recorded there") from None
    if stat.S_ISDIR(mode):
        raise StoreError(_A_FOLDER.format(path))
    if not os.access(path, os.R_OK):
        raise StoreError(f"{path}: {os.strerror(errno.EACCES)}")


def file_at(path: Path) -> tuple[int, int] | None:
    """Which file is there, whatever is in it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_empty(path: Path) -> bool:
    """Whether there is less than a page of any size."""
    with suppress(OSError):
        return path.stat().st_size < SMALLEST_PAGE
    return False


class Still(NamedTuple):
    """A file that nobody writes to, as it is."""

    inode: int
    size: int
    modified: int


def still_at(path: Path) -> Still | None:
    """What is there where it may be read without locks and without its write-ahead log, and for as long as it stays the same.

    Nothing can be written there (the file system, the folder or the file is read-only), and no log is there: whoever writes all the same (it may be read-only for us alone) has one.
    """
    if _can_be_written(path):
        return None
    with suppress(FileNotFoundError):
        if path.with_name(f"{path.name}-wal").stat().st_size:
            return None
    found = path.stat()
    return Still(found.st_ino, found.st_size, found.st_mtime_ns)


def roll_back(connection: apsw.Connection) -> None:
    """End what has begun, whatever state it is in."""
    with suppress(apsw.Error):  # after some errors SQLite has done so by itself
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _say(error: OSError | apsw.Error, connection: apsw.Connection | None, path: Path) -> str:
    match error:
        case apsw.CorruptError() | apsw.NotADBError():
            return f"{path} is damaged, or no database"
        case apsw.BusyError() | apsw.LockedError():
            return f"{path} is locked by another process"
        case apsw.ReadOnlyError():
            return f"{path} cannot be written: it is read-only"
        case apsw.FullError():
            return f"{path}: no space left"
        case OSError():
            return f"{error.filename or path}: {error.strerror or error}"
    number = connection.system_errno if connection is not None else 0
    return f"{path}: {error}" + (f" ({os.strerror(number)})" if number else "")


def store_error(error: OSError | apsw.Error, connection: apsw.Connection | None, path: Path) -> StoreError:
    """In words for the user."""
    said = _say(error, connection, path)
    match error:
        case apsw.CorruptError() | apsw.NotADBError():
            said += (
                f": move it away with {path.name}-wal, {path.name}-shm and {path.name}-bodies, and a new one is made;"
                f" what can be saved of it, `sqlite3 {path} .recover` prints"
            )
        case apsw.CantOpenError() if path.exists() and path.with_name(f"{path.name}-wal").exists():
            said += ": it was not closed, and its write-ahead log cannot be read where nothing can be written: copy both to where it can"
        case apsw.CantOpenError() if not path.parent.is_dir():
            said = f"{path}: there is no folder {path.parent}"
    return StoreError(said)


def record_error_of(error: apsw.Error, connection: apsw.Connection, path: Path) -> RecordError | None:
    """What keeps things from being written; None where it is what was to be written."""
    if not isinstance(error, _TROUBLE):
        return None
    full = is_for_want_of_room(error, connection)
    return RecordError(f"{path}: {os.strerror(errno.ENOSPC)}" if full else _say(error, connection, path), full=full)


def is_for_want_of_room(error: OSError | apsw.Error, connection: apsw.Connection | None) -> bool:
    """Whether it would pass if there were space."""
    match error:
        case apsw.FullError():
            return True
        case apsw.IOError() | apsw.CantOpenError():
            number = 0 if connection is None else connection.system_errno
            return getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE or is_full(number)
    return isinstance(error, OSError) and is_full(error.errno)
