"""Connecting to a PostgreSQL database as a store, and what goes wrong with it in words: for the user who opens it, and for those who write.

Theory of operation: what a URL says, and the environment, ~/.pgpass and service files beside it, is libpq's. To that we add that nothing is waited for without end:
connecting, answers, locks, and peers that are gone without a word (keepalives both ways, so that a server lets go of what a relay held that is no more).

Invariants: no text that comes from here has a password in it. A schema of another program, or of a newer relayproxy, is never written to.
Tables do not belong here (schema.py).
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relayproxy.record.store.interface import PATIENCE, RecordError, StoreAwayError, StoreError
from relayproxy.record.store.location import ESCAPED
from relayproxy.record.store.postgresql.schema import ARRIVE, LOCK_TABLES, SCHEMA, STEPS, flushed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.abc import PQGen
    from psycopg.rows import TupleRow

    from relayproxy.record.store.interface import Sync
    from relayproxy.record.store.location import PostgresqlUrl

    Row = TupleRow

#: The oldest server whose SQL is spoken here.
OLDEST: Final = 14
#: Seconds for connecting.
CONNECT: Final = 5
#: How long an answer to one statement is waited for, as against what others who write may take; the server gives it up a little earlier.
_ANSWER: Final = 2.0
_GIVEN_UP: Final = 1.6
#: What a URL may say otherwise. A peer that does not answer for so long is gone.
_DEFAULTS: Final = {
    "fallback_application_name": "relayproxy",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
#: Of the session, at the server's end; milliseconds where there is no unit. Plans of many parts are not worth to be compiled.
_SETTINGS: Final = {
    "search_path": SCHEMA,
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "3s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
# Not as a time, which is written as the role is set to.
_SINCE: Final = "(extract(epoch FROM backend_start) * 1000000)::bigint"
#: Of SQLSTATE, the classes that say what is wrong with what was to be written: data, constraints, what is given twice or is too large. All else is the store's.
_OF_THE_WRITE: Final = frozenset({"21", "22", "23", "54", "RP"})
_DISK_FULL: Final = "53100"
_RIGHTS: Final = (
    f"expected a role that owns the database, or its schema {SCHEMA} (CREATE SCHEMA {SCHEMA} AUTHORIZATION ...),"
    f" or, to read alone, one that may (GRANT USAGE ON SCHEMA {SCHEMA}, GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA})"
)
_TEMPORARY: Final = "expected a role that may make functions for a connection: GRANT TEMPORARY ON DATABASE ... TO ..."
#: Of SQLSTATE, what passes by itself: connections, what is undone and may be done again, resources, others who hold it, a server that starts or ends, a standby.
_PASSES: Final = ("08", "25006", "40", "53", "55", "57")
# While connecting libpq gives no SQLSTATE. What it says in another language counts as what may pass: that is told, too, and tried again.
_STAYS: Final = re.compile(
    r"authentication failed|no password supplied|does not exist|not permitted to log in|pg_hba\.conf|permission denied|certificate|private key|not support SSL",
    re.IGNORECASE,
)
# What psycopg says of one of several hosts.
_ATTEMPT: Final = re.compile(r"^- host: '?(.*?)'?, port: .*?, hostaddr: .*?: ", re.MULTILINE)
_SAID: Final = {
    "25006": " cannot be written: it is read-only, or a standby",
    "3F000": ": its tables are not there any more",
    "42P01": ": its tables are not there any more",
    "55P03": " is locked by another process",
    "57014": " does not answer: a statement takes too long",
}


# What it would say to standard error of connections that are lost, we tell.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


class NoAnswerError(psycopg.OperationalError):
    """The server has not answered in time. What it does with what it was sent is not known."""


def _given_up(gen: PQGen[Any], by: float) -> PQGen[Any]:
    """The same, given up by then: psycopg tells its generators each `interval` that nothing has come."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > by:
                raise NoAnswerError
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value


class Connection(psycopg.Connection["Row"]):
    """One that does not wait for an answer for ever; statements have $1, $2, ... for their parameters."""

    #: Seconds; None: as long as the peer is there. Who reads may have asked for much.
    answer: float | None = _ANSWER * PATIENCE
    #: Which process at the server's end, since when in microseconds, and how this connection of it is called: behind a pooler others may have the same.
    peer: tuple[int, int, str] | None = None

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        seconds = self.answer if timeout is None else timeout
        return super().wait(gen if seconds is None else _given_up(gen, time.monotonic() + seconds), interval)

    def ask(self, statement: str, parameters: Sequence[object] = (), *, often: bool = False) -> psycopg.RawCursor[Row]:
        """A statement of ours, several where there are no parameters. `often`: worth to be prepared."""
        cursor = psycopg.RawCursor(self)
        written = cast("Any", statement)  # LiteralString: they are ours
        return cursor.execute(written, tuple(parameters) or None, prepare=often)

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """All of a query."""
        return self.ask(query, parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.ask(query, parameters).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A transaction in which nobody else writes to the store."""
        with self.transaction():
            self.ask("SELECT FROM counters FOR UPDATE")
            yield


def connect(url: PostgresqlUrl, *, writing: bool, patience: float) -> Connection:
    """A connection to a database that may be a store. Raises StoreError."""
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url.url).items()}
    except (psycopg.Error, UnicodeError):  # its words may have a piece of a password in them
        raise StoreError(
            f"{url} cannot be read: expected postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE[?NAME=VALUE&...]; {ESCAPED}"
        ) from None
    settings = _DEFAULTS | given
    if "PGCONNECT_TIMEOUT" not in os.environ:
        settings.setdefault("connect_timeout", str(CONNECT))
    if writing and "PGTARGETSESSIONATTRS" not in os.environ:
        settings.setdefault("target_session_attrs", "primary")  # of several hosts, wherever they are named
    try:
        connection = Connection.connect(make_conninfo("", **settings), autocommit=True)
    except psycopg.Error as error:
        raise failed(error, url) from error
    with _or_closed(connection, url):
        _begin(connection, url, writing=writing, patience=patience)
    return connection


@contextmanager
def _or_closed(connection: Connection, url: PostgresqlUrl) -> Iterator[None]:
    """What is done with a new connection, which is closed where that fails. Raises StoreError."""
    try:
        yield
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.Error):
            raise failed(error, url) from error
        raise


def _begin(connection: Connection, url: PostgresqlUrl, *, writing: bool, patience: float) -> None:
    connection.answer = _ANSWER * patience if writing else None
    settings = _SETTINGS | {
        "lock_timeout": f"{patience * 1000:.0f}",
        "statement_timeout": f"{_GIVEN_UP * patience * 1000:.0f}" if writing else "0",
        "default_transaction_read_only": "off" if writing else "on",
    }
    mark = secrets.token_hex(4)
    asked = ", ".join([f"set_config('{name}', '{value}', false)" for name, value in settings.items()])
    row = connection.ask(
        f"SELECT current_setting('server_version_num')::integer, current_setting('server_version'), current_setting('server_encoding'), pid, {_SINCE},"
        f" set_config('application_name', left(current_setting('application_name'), 32) || '-{mark}', false), {asked} FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    ).fetchone()
    number, version, encoding, pid, since = (0, "", "", 0, None) if row is None else row[:5]
    connection.peer = None if since is None else (pid, since, mark)
    if number < OLDEST * 10_000:
        raise StoreError(f"{url}: expected PostgreSQL {OLDEST} or newer, got {version}")
    if encoding != "UTF8":
        raise StoreError(
            f"{url}: expected a database whose encoding is UTF8, got {encoding}: createdb --encoding UTF8 --template template0"
        )


def version(connection: Connection, url: PostgresqlUrl, known: int = len(STEPS)) -> int | None:
    """How many steps its tables have taken; None where there are none. Raises StoreError, psycopg.Error."""
    row = connection.ask(
        f"SELECT to_regclass('{SCHEMA}.counters') IS NOT NULL, EXISTS(SELECT FROM pg_class WHERE relnamespace = to_regnamespace('{SCHEMA}'))"
    ).fetchone()
    ours, something = row or (False, False)
    if not ours:
        if something:
            raise StoreError(f"{url}: its schema {SCHEMA} is of another program: expected none, or an empty one")
        return None
    number: int = connection.value("SELECT version FROM counters")
    if number > known:
        raise StoreError(
            f"{url} was written by a newer relayproxy (its tables are version {number}, this one knows {known}): use that one"
        )
    return number


def open_to_write(url: PostgresqlUrl, *, sync: Sync, patience: float) -> Connection:
    """Open a store, or make it; `patience`: seconds to wait for others who write. Raises StoreError."""
    connection = connect(url, writing=True, patience=patience)
    with _or_closed(connection, url):
        if version(connection, url) != len(STEPS):
            migrate(connection, url)
        if sync == "full":
            connection.ask(f"SELECT {flushed(local=False)}")
        _prepare(connection, url)
    return connection


def _prepare(connection: Connection, url: PostgresqlUrl) -> None:
    """Make the connection's own function."""
    try:
        connection.ask(ARRIVE)
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreError(f"{url}: {_words(error)}: {_TEMPORARY}") from error


def migrate(connection: Connection, url: PostgresqlUrl, steps: Sequence[str] = STEPS) -> None:
    """Take the steps that were not taken yet, all or none; several processes may try at once. Raises StoreError, psycopg.Error."""
    with connection.transaction():
        connection.ask("SELECT pg_advisory_xact_lock($1)", (LOCK_TABLES,))
        made = version(connection, url, len(steps))  # asked again: another may just have taken them
        if made is None and not connection.value(f"SELECT to_regnamespace('{SCHEMA}') IS NOT NULL"):
            connection.ask(f"CREATE SCHEMA {SCHEMA}")
        for step in steps[made or 0 :]:
            connection.ask(step)
        connection.ask("UPDATE counters SET version = $1", (len(steps),))


def open_to_read(url: PostgresqlUrl, *, patience: float) -> Connection:
    """Open a store that is there. Raises StoreError."""
    connection = connect(url, writing=False, patience=patience)
    with _or_closed(connection, url):
        made = version(connection, url)
        if made is None:
            raise StoreError(f"{url} is empty: nothing was recorded there yet")
        if made != len(STEPS):
            raise StoreError(
                f"{url} was written by an older relayproxy (its tables are version {made}): `relayproxy run` brings it up to {len(STEPS)}"
            )
    return connection


def end_peer(connection: Connection, lost: Connection) -> None:
    """End what is left at the server's end of a connection that was given up: it may hold locks, or have more to do of ours. Raises psycopg.Error."""
    if lost.peer is not None:
        connection.ask(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND {_SINCE} = $2 AND right(application_name, 8) = $3"
            " AND pid <> pg_backend_pid() AND usename = current_user",
            lost.peer,
        )


def is_lost(error: psycopg.Error, connection: Connection) -> bool:
    """Whether the connection is of no use any more: it is gone, nobody answers, or its server cannot be written to (any more)."""
    state = error.sqlstate or ""
    return (
        connection.closed
        or (not state and isinstance(error, psycopg.OperationalError))
        or state.startswith(("08", "57P"))
        or state in ("25006", "42P01", "42883", "3F000")
    )


def is_undone(error: psycopg.Error) -> bool:
    """Whether the server has undone it for the sake of others, and it may be done again as it was."""
    return (error.sqlstate or "").startswith("40")


def failed(error: psycopg.Error, url: PostgresqlUrl) -> StoreError:
    """What opening or reading fails for; StoreAwayError where it may pass by itself."""
    state = error.sqlstate
    if state:
        passes = state.startswith(_PASSES)
    else:
        passes = isinstance(error, psycopg.OperationalError) and not all(_STAYS.search(one) for one in _attempts(error))
    return (StoreAwayError if passes else StoreError)(said(error, url))


def said(error: psycopg.Error, url: PostgresqlUrl) -> str:
    """In words for the user."""
    if isinstance(error, NoAnswerError):
        return f"{url} does not answer"
    if error.sqlstate == "42501":
        return f"{url}: {_words(error)}: {_RIGHTS}"
    return f"{url}{_SAID.get(error.sqlstate or '', f': {_words(error)}')}"


def record_error(error: psycopg.Error, url: PostgresqlUrl) -> RecordError | None:
    """What keeps things from being written; None where it is what was to be written."""
    state = error.sqlstate or ""
    if state[:2] in _OF_THE_WRITE:
        return None
    if not state and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return None  # psycopg's own: what cannot be sent at all
    return RecordError(said(error, url), full=state == _DISK_FULL)


def _words(error: psycopg.Error) -> str:
    """What the server or libpq says, on one line; of several hosts, the first line of each, once."""
    if error.diag.message_primary is None and len(each := _attempts(error)) > 1:
        return "; ".join(dict.fromkeys(" ".join(one.partition("\n")[0].split()) for one in each))
    told = error.diag.message_primary or str(error)
    return " ".join(told.removeprefix("connection failed: ").split())


def _attempts(error: psycopg.Error) -> list[str]:
    """What it says of each host that was tried."""
    told = str(error)
    first, *rest = _ATTEMPT.split(told)
    if not rest:
        return [first]
    each = zip(rest[::2], rest[1::2], strict=True)
    return [
        text if (text := what.removeprefix("connection failed: ")).startswith("connection to") else f"{host}: {text}"
        for host, what in each
    ]
