"""A real PostgreSQL for the tests: a server of their own, started once when the first asks for it, and a database for each that is a copy of an empty store.

Nothing in it survives a crash of the machine, so that it is quick. Without PostgreSQL there is no test, and it says so; with RELAYPROXY_REQUIRE_PEERS=1 it fails.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from shutil import chown
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest

from relayproxy.record.store.location import PostgresqlUrl
from relayproxy.record.store.opening import store_at
from relayproxy.record.store.postgresql.schema import SCHEMA, drop_day

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "listen_addresses": "",
    "timezone": "UTC",
}
ROLE = "relay"
ZERO = "DELETE FROM revisions WHERE number > 0; INSERT INTO revisions VALUES (0) ON CONFLICT DO NOTHING"


def _missing(why: str) -> NoReturn:
    if os.environ.get("RELAYPROXY_REQUIRE_PEERS") == "1":
        pytest.fail(f"{why}, and RELAYPROXY_REQUIRE_PEERS=1 asks for it", pytrace=False)
    pytest.skip(why)


def _programs() -> Path:
    """Where the newest server's are; Debian keeps them off everybody's PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    found += [path.parent for path in Path("/usr/bin").glob("initdb")]
    if not found:
        _missing("PostgreSQL (initdb) is not installed")
    return max(found, key=lambda path: [int(part) for part in path.parts if part.isdigit()])


class Server:
    """One; `start`, `stop`, `freeze` as often as a test likes."""

    def __init__(self, folder: Path, port: int | None) -> None:
        """`port`: it listens there, on loopback; else on a socket in its folder alone."""
        self.folder = folder
        self._port = port
        self._bin = _programs()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count()
        self._template = self._store = ""
        if self._user is not None:
            try:
                pwd.getpwnam(self._user)
            except KeyError:
                _missing("PostgreSQL does not run as root, and there is no user postgres")
            chown(folder, self._user)
        data = folder / "data"
        self._run(
            "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            ROLE,
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        written = {**SETTINGS, "unix_socket_directories": str(folder)}
        if port is not None:
            written |= {"listen_addresses": "127.0.0.1", "port": str(port)}
        with (data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in written.items())
        access = data / "pg_hba.conf"
        access.write_text("local all locked scram-sha-256\n" + access.read_text())  # a role that needs a password

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], user=self._user, cwd="/", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        """As `pg_ctl stop -m`: immediate is a crash."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", mode, "-w", "-t", "60", "stop")

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def url(self, database: str, role: str = ROLE) -> PostgresqlUrl:
        if self._port is not None:
            return PostgresqlUrl(f"postgresql://{role}@127.0.0.1:{self._port}/{database}")
        return PostgresqlUrl(f"postgresql://{role}@/{database}?host={self.folder}")

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Whatever a test wants of it."""
        with psycopg.connect(self.url(database).url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[PostgresqlUrl]:
        """A new one: a store with today's tables in it, or nothing."""
        if not self._template and not empty:
            self._template = "template_store"
            self.ask("CREATE DATABASE template_store")
            backend = store_at(self.url("template_store"), self.folder / "waiting").backend()
            backend.upkeep()
            backend.close()
        name = f"test{next(self._names)}"
        self.ask(f"CREATE DATABASE {name}" + ("" if empty else f" TEMPLATE {self._template}"))
        try:
            yield self.url(name)
        finally:
            self.ask(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def store(self) -> Iterator[PostgresqlUrl]:
        """One that is empty: the same again, for who leaves its tables as they are. That is quicker."""
        if not self._store:
            self._store = "store"
            with self.database():
                self.ask(f"CREATE DATABASE {self._store} TEMPLATE {self._template}")
        try:
            yield self.url(self._store)
        finally:
            name = self._store
            self.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
            days = self.ask("SELECT day FROM relayproxy.days ORDER BY day DESC OFFSET 2", name)
            dropped = [drop_day(int(str(day))) for (day,) in days]
            tables = ("transactions", "contents", "chunks", "sessions", "loose", "releases")
            emptied = [f"DELETE FROM {table}" for table in tables]  # noqa: S608
            self.ask("; ".join([f"SET search_path = {SCHEMA}", *emptied, *dropped, ZERO]), name)

    def backends(self, url: PostgresqlUrl) -> list[int]:
        """The processes that serve it."""
        rows = self.ask(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name_of(url)}'")  # noqa: S608
        return [int(str(pid)) for (pid,) in rows]

    @contextmanager
    def frozen(self, url: PostgresqlUrl) -> Iterator[None]:
        """Nobody who has a connection to it gets an answer."""
        pids = self.backends(url)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def name_of(url: PostgresqlUrl) -> str:
    """The database's."""
    return urlsplit(url.url).path.removeprefix("/")


@contextmanager
def server(port: int | None = None) -> Iterator[Server]:
    """A running one of a test's own."""
    with tempfile.TemporaryDirectory(prefix="relayproxy-pg-", ignore_cleanup_errors=True) as folder:
        made = Server(Path(folder), port)
        made.start()
        try:
            yield made
        finally:
            if (made.folder / "data" / "postmaster.pid").exists():
                made.stop("immediate")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """The one that all tests share."""
    with server() as shared:
        yield shared
