"""What is PostgreSQL's own: what is no store there, what goes when, who waits for whom, and what happens when the server is not as it should be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from conformance import DAY, done, noise
from postgresql import name_of, server
from stored_things import HEADER, NOW, SECOND, SOON, held, ids, record, release, session, transaction, whole

from relayproxy.record.select import parse
from relayproxy.record.store.interface import (
    Body,
    Keep,
    Message,
    RecordError,
    StoreAwayError,
    StoreError,
    TransactionWrite,
)
from relayproxy.record.store.location import PostgresqlUrl, location, without_password
from relayproxy.record.store.opening import open_store, store_at
from relayproxy.record.store.postgresql.connection import connect, end_peer, migrate
from relayproxy.record.store.postgresql.schema import PARTED, STEPS, part_of
from relayproxy.record.store.postgresql.store import PostgresqlStore
from relayproxy.record.store.spool import Spool
from relayproxy.record.store.writer import Writer
from relayproxy.relay.identity import Ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from postgresql import Server

    from relayproxy.record.store.interface import Write

pytestmark = pytest.mark.interop


@pytest.fixture
def url(postgresql: Server) -> Iterator[PostgresqlUrl]:
    with postgresql.database() as made:
        yield made


@pytest.fixture
def empty(postgresql: Server) -> Iterator[PostgresqlUrl]:
    with postgresql.database(empty=True) as made:
        yield made


@pytest.fixture
def store(url: PostgresqlUrl, tmp_path: Path) -> PostgresqlStore:
    return PostgresqlStore(url, tmp_path / "waiting")


def ask(url: PostgresqlUrl, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url.url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


# Which store.


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("postgresql://db/mail", "postgresql://db/mail"),
        ("postgresql://app@db:5433/mail?sslmode=require", "postgresql://app@db:5433/mail?sslmode=require"),
        ("postgresql://app:hunter2@db/mail", "postgresql://app:***@db/mail"),
        ("postgresql://app:hunter2@a,b:2/mail", "postgresql://app:***@a,b:2/mail"),
        ("postgresql://:hunter2@/mail?host=/run", "postgresql://:***@/mail?host=/run"),
        ("postgresql://db/mail?user=app&password=hunter2&x=1", "postgresql://db/mail?user=app&password=***&x=1"),
        ("postgresql://db/mail?pass%77ord=hunter2", "postgresql://db/mail?pass%77ord=***"),
        ("postgresql://db/mail?sslpassword=hunter2", "postgresql://db/mail?sslpassword=***"),
        ("postgres://app:hunter2@db/mail", "postgres://app:***@db/mail"),
        ("postgresql://db/mail?pass=hunter2", "postgresql://db/mail?pass=***"),
        ("postgresql://db/mail?pasword=hunter2", "postgresql://db/mail?pasword=***"),
        ("postgresql://db/mail?scram_client_key=hunter2", "postgresql://db/mail?scram_client_key=***"),
        ("postgresql://db/mail?passfile=/run/pass", "postgresql://db/mail?passfile=/run/pass"),
        ("PostgreSQL:app:hunter2@db", "PostgreSQL:app:***@db"),
        ("app:hunter2@db/mail", "app:***@db/mail"),
        ("a@b:hunter2@db/mail", "a@b:***@db/mail"),
        (' "postgresql://app:hunter2@db/mail"', ' "postgresql://app:***@db/mail"'),
        ("postgresql+psycopg://app:hunter2@db/mail", "postgresql+psycopg://app:***@db/mail"),
        ("jdbc:postgresql://db/mail?user=a&password=hunter2", "jdbc:postgresql://db/mail?user=a&password=***"),
        ("host=db password = 'hunter 2' user=app", "host=db password =***"),
        ("sqlite:relayproxy.db", "sqlite:relayproxy.db"),
        ("smtp://mail.example.test:25", "smtp://mail.example.test:25"),
    ],
)
def test_a_password_is_never_shown(written: str, shown: str) -> None:
    assert without_password(written) == shown
    if written.startswith("postgresql://"):  # else it is none
        place = location(written)
        assert isinstance(place, PostgresqlUrl)
        assert (str(place), repr(place), f"{place}", place.url) == (shown, shown, shown, written)


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://",
        "postgresql:mail",
        "postgres://app:hunter2@db/mail",
        "postgresql://a b",
        "postgresql://a\n",
        "postgresql://app:hunter2\udcff@db/mail",
        '"postgresql://app:hunter2@db/mail"',
        "postgresql://app@srv:hunter2@db/mail",
        "postgresql://app:x@hunter2@db/mail",
        "postgresql://app:1/x@hunter2@db/mail",
        "postgresql://app:hun/ter2@db/mail",
        "postgresql+psycopg://app:hunter2@db/mail",
        "jdbc:postgresql://db/mail?user=fred&password=hunter2",
    ],
)
def test_what_is_no_url_of_a_database(written: str) -> None:
    with pytest.raises(StoreError, match=r"expected sqlite:PATH.*postgresql://\[USER@\]HOST") as raised:
        open_store(written)
    assert "ter2" not in str(raised.value)


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://app:hunter2@db:port/mail",
        "postgresql://app:hunter2@[::1/mail",
        "postgresql://app:hunter2@db/mail?nothing=1",
        "postgresql://app:hunter2%@db/mail",
        "postgresql://app:hunter2%FF@db/mail",
        "postgresql://db/mail?pass=hunter2",
    ],
)
def test_what_libpq_cannot_read_is_told_in_our_words(written: str) -> None:
    for way in (open_store(written).reader, open_store(written).backend):
        with pytest.raises(StoreError) as raised:
            way()
        assert "hunter2" not in str(raised.value)
        assert "ter2" not in str(raised.value)


def test_what_is_missing_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["psycopg"] = None
from relayproxy.cli import main
sys.exit(main(["list", "--store", "postgresql://app:hunter2@db/mail"]))
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert told.returncode == 2
    assert "pip install 'relayproxy[postgresql]'" in told.stderr
    assert "hunter2" not in told.stderr


def test_what_does_not_use_it_does_not_load_it(tmp_path: Path) -> None:
    program = f"""
import sys
import relayproxy.cli.run, relayproxy.cli.recording
from relayproxy.record.store.opening import open_store
open_store("sqlite:{tmp_path}/x.db").backend().close()
sys.exit("psycopg" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Opening.


def test_nobody_is_there(tmp_path: Path) -> None:
    store = open_store(f"postgresql://app:hunter2@/mail?host={tmp_path}")
    for way in (store.backend, store.reader):
        with pytest.raises(StoreError, match="No such file or directory") as raised:
            way()
        assert "hunter2" not in str(raised.value)


def test_a_database_that_is_not_there(postgresql: Server) -> None:
    with pytest.raises(StoreError, match='database "nothing" does not exist'):
        store_at(postgresql.url("nothing")).backend()


def test_who_reads_makes_nothing(empty: PostgresqlUrl) -> None:
    with pytest.raises(StoreError, match="nothing was recorded"):
        store_at(empty).reader()
    assert ask(empty, "SELECT to_regnamespace('relayproxy') IS NULL") == [(True,)]


def test_a_password_as_libpq_takes_it(
    empty: PostgresqlUrl, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(empty, "DROP ROLE IF EXISTS locked")
    ask(empty, f"CREATE ROLE locked LOGIN PASSWORD 'hunter2'; GRANT CREATE ON DATABASE {name_of(empty)} TO locked")
    plain = postgresql.url(name_of(empty), "locked")
    wrong = PostgresqlUrl(plain.url.replace("locked", "locked:hunter3"))
    with pytest.raises(StoreError, match="password authentication failed") as raised:
        store_at(wrong).backend()
    assert "hunter" not in str(raised.value)
    with pytest.raises(StoreError, match="no password supplied"):
        store_at(plain).backend()
    store_at(PostgresqlUrl(plain.url.replace("locked", "locked:hunter2"))).backend().close()
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    store_at(plain).backend().close()
    ask(empty, "DROP OWNED BY locked; DROP ROLE locked")


def test_a_role_that_may_not_is_told_what_it_needs(
    url: PostgresqlUrl, empty: PostgresqlUrl, postgresql: Server
) -> None:
    ask(url, "CREATE ROLE guest LOGIN")
    try:
        for way in (
            store_at(postgresql.url(name_of(empty), "guest")).backend,
            store_at(postgresql.url(name_of(url), "guest")).reader,
        ):
            with pytest.raises(StoreError, match=r"permission denied.*expected a role that owns"):
                way()
        ask(url, "GRANT USAGE ON SCHEMA relayproxy TO guest; GRANT SELECT ON ALL TABLES IN SCHEMA relayproxy TO guest")
        with (
            closing(store_at(url).backend()) as backend,
            store_at(postgresql.url(name_of(url), "guest")).reader() as reader,
        ):
            backend.write([transaction("T1", at=NOW + 5 * DAY)], durable=False)
            assert whole(reader, reader.transaction("T1")) is not None
        with (
            closing(store_at(postgresql.url(name_of(url), "guest")).backend()) as theirs,
            pytest.raises(RecordError, match="permission denied"),
        ):
            theirs.probe()
    finally:
        ask(url, "DROP OWNED BY guest; DROP ROLE guest")


def test_an_encoding_that_does_not_hold_all_texts(empty: PostgresqlUrl) -> None:
    ask(empty, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with pytest.raises(StoreError, match="expected a database whose encoding is UTF8, got LATIN1"):
            store_at(PostgresqlUrl(empty.url.replace(name_of(empty), "latin"))).backend()
    finally:
        ask(empty, "DROP DATABASE latin WITH (FORCE)")


def test_another_programs_schema_is_left_alone(empty: PostgresqlUrl) -> None:
    ask(empty, "CREATE SCHEMA relayproxy; CREATE TABLE relayproxy.theirs(x integer)")
    for way in (store_at(empty).backend, store_at(empty).reader):
        with pytest.raises(StoreError, match="another program"):
            way()


def test_a_schema_that_was_made_for_us_is_used(empty: PostgresqlUrl) -> None:
    ask(empty, "CREATE SCHEMA relayproxy")
    store_at(empty).backend().close()


def test_a_newer_store_is_left_alone(url: PostgresqlUrl) -> None:
    ask(url, "UPDATE relayproxy.counters SET version = 99")
    for way in (store_at(url).backend, store_at(url).reader):
        with pytest.raises(StoreError, match="newer relayproxy"):
            way()


def test_a_newer_one_takes_over_from_one_that_runs(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        backend.write([transaction("T1"), held("T2")], durable=False)
        ask(store.url, "UPDATE relayproxy.counters SET version = 99")
        for way in (
            partial(backend.write, [transaction("T3", noise(900_000))], durable=False),
            backend.probe,
            backend.upkeep,
        ):
            with pytest.raises(RecordError, match="a newer relayproxy has taken over"):
                way()
        assert ids(reader) == ["T1", "T2"]


def test_who_reads_an_older_store_is_told_what_to_do(url: PostgresqlUrl) -> None:
    ask(url, "UPDATE relayproxy.counters SET version = 0")
    with pytest.raises(StoreError, match="older relayproxy"):
        store_at(url).reader()


def test_steps_are_taken_once_all_or_none(url: PostgresqlUrl) -> None:
    with closing(connect(url, writing=True, patience=5)) as connection:
        later = [
            *STEPS,
            "ALTER TABLE transactions ADD COLUMN colour text; CREATE TABLE more(x integer)",
            "CREATE TABLE most(x integer)",
        ]
        with pytest.raises(psycopg.Error):
            migrate(connection, url, [*later, "CREATE TABLE more(x integer)"])
        assert connection.value("SELECT version FROM counters") == len(STEPS)
        migrate(connection, url, later)
        migrate(connection, url, later)
        assert connection.value("SELECT version FROM counters") == len(STEPS) + 2
        assert connection.value("SELECT count(colour) FROM transactions, more, most") == 0


def test_several_may_make_it_at_once(empty: PostgresqlUrl) -> None:
    failed: list[Exception] = []

    def begin(number: int) -> None:
        try:
            with closing(store_at(empty).backend()) as backend:
                backend.write([transaction(f"T{number}", at=NOW + number * DAY // 4)], durable=False)
        except (StoreError, RecordError) as error:
            failed.append(error)

    together(*[partial(begin, number) for number in range(6)])
    assert failed == []
    with store_at(empty).reader() as reader:
        assert len(ids(reader)) == 6


def together(*each: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one) for one in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("setting", ["datestyle = 'German'", "datestyle = 'SQL, DMY'", "timezone = 'UTC+3:17'"])
def test_a_role_s_own_settings_are_no_matter(setting: str, url: PostgresqlUrl, tmp_path: Path) -> None:
    ask(url, f"ALTER DATABASE {name_of(url)} SET {setting}")
    store = PostgresqlStore(url, tmp_path)
    with closing(store.backend()) as backend, store.reader() as reader:
        backend.write([transaction("T1")], durable=False)
        assert ids(reader) == ["T1"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_who_writes_at_once_is_not_undone(level: str, url: PostgresqlUrl) -> None:
    ask(url, f"ALTER DATABASE {name_of(url)} SET default_transaction_isolation = '{level}'")
    failed: list[Exception] = []

    def write(name: str) -> None:
        with closing(store_at(url).backend()) as backend:
            for number in range(20):
                try:
                    backend.write([transaction(f"{name}{number}", noise(300_000))], durable=False)
                except RecordError as error:
                    failed.append(error)

    together(partial(write, "A"), partial(write, "B"))
    assert failed == []


def test_what_the_server_undoes_for_the_sake_of_others_is_done_again(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        ask(store.url, "CREATE SEQUENCE relayproxy.tries; CREATE FUNCTION relayproxy.undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('relayproxy.tries') = 1 THEN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$; CREATE TRIGGER undo BEFORE UPDATE ON relayproxy.counters FOR EACH ROW EXECUTE FUNCTION relayproxy.undo()")  # fmt: skip
        backend.write([transaction("T1")], durable=False)
        assert ids(reader) == ["T1"]


def test_a_role_that_may_make_no_temporary_function(empty: PostgresqlUrl, postgresql: Server) -> None:
    ask(empty, "CREATE ROLE poor LOGIN; CREATE SCHEMA relayproxy AUTHORIZATION poor")
    ask(empty, f"REVOKE ALL ON DATABASE {name_of(empty)} FROM public; GRANT CONNECT ON DATABASE {name_of(empty)} TO poor")  # fmt: skip
    poor = postgresql.url(name_of(empty), "poor")
    try:
        with pytest.raises(StoreError, match="GRANT TEMPORARY ON DATABASE"):
            store_at(poor).backend()
        ask(empty, f"GRANT TEMPORARY ON DATABASE {name_of(empty)} TO poor")
        store_at(poor).backend().close()
    finally:
        ask(empty, "DROP OWNED BY poor; DROP ROLE poor")


def test_nobody_ends_himself_nor_who_has_the_same_process_by_now(url: PostgresqlUrl) -> None:
    """As behind a pooler by session, where the new connection may be the lost one's process, or somebody else's."""
    with (
        closing(connect(url, writing=True, patience=5)) as ours,
        closing(connect(url, writing=True, patience=5)) as lost,
    ):
        end_peer(ours, ours)
        ask_of = "SELECT 1"
        assert ours.value(ask_of) == 1
        lost.ask("SET application_name = 'of somebody else'")
        end_peer(ours, lost)
        assert lost.value(ask_of) == 1
        assert lost.peer is not None
        lost.ask(f"SET application_name = 'x-{lost.peer[2]}'")
        end_peer(ours, lost)
        with pytest.raises(psycopg.OperationalError):
            lost.value(ask_of)


def test_of_several_hosts_each_is_told_once() -> None:
    with pytest.raises(StoreAwayError) as raised:
        open_store("postgresql://app@127.0.0.1:1,127.0.0.1:2/mail").backend()
    assert str(raised.value) == (
        'postgresql://app@127.0.0.1:1,127.0.0.1:2/mail: connection to server at "127.0.0.1", port 1 failed: Connection refused;'
        ' connection to server at "127.0.0.1", port 2 failed: Connection refused'
    )


# What comes.


async def test_a_large_body_takes_no_memory(store: PostgresqlStore) -> None:
    """40 MiB that nothing makes smaller, in a process of its own; peak memory is that of a small one and some more."""
    spool = Spool(store.bodies, 1000)
    digest = sha256()
    for seed in range(40):
        piece = noise(1 << 20, seed)
        digest.update(piece)
        await spool.add(piece)
    large = await spool.finish()
    program = f"""
import resource, sys
from pathlib import Path
from relayproxy.record.store.interface import Body, Message, TransactionWrite
from relayproxy.record.store.location import PostgresqlUrl
from relayproxy.record.store.opening import store_at
from stored_things import record, body
store = store_at(PostgresqlUrl({store.url.url!r}))
backend, reader = store.backend(), store.reader()
def use(id_, one):
    backend.write([TransactionWrite(record(id_), Message(b"", b"", one), final=True)], durable=True)
    return sum(len(piece) for piece in reader.message(reader.transaction(id_)))
use("T0", body(b"x" * 1000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
octets = use("T1", Body(bytes.fromhex("{large.digest.hex()}"), {large.size}, None, Path({str(large.file)!r})))
print(octets, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    path = os.pathsep.join(sys.path)
    told = await trio.run_process(
        [sys.executable, "-c", program], capture_stdout=True, env={**os.environ, "PYTHONPATH": path}
    )
    octets, grown = map(int, told.stdout.split())
    assert octets == 40 << 20
    assert large.digest == digest.digest()
    assert grown < 16
    spool.discard()
    assert ask(store.url, "SELECT count(*) > 100, max(octet_length(octets)) FROM relayproxy.chunks") == [
        (True, 1 << 18)
    ]


def test_chunks_are_there_once_whoever_brings_them(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend, closing(store.backend()) as other:
        large = noise(600_000)
        ends = ((backend, "T1"), (other, "T2"))
        together(*[partial(end.write, [transaction(id_, large)], durable=False) for end, id_ in ends])
        backend.write([transaction("T3", large)], durable=False)
        assert ask(store.url, "SELECT count(*) FROM relayproxy.contents") == [(1,)]
        assert ask(store.url, "SELECT count(*) FROM relayproxy.chunks") == [(3,)]


def test_a_body_that_was_altered_is_an_error(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        backend.write([transaction("T1", noise(600_000)), transaction("T2", b"small" * 1000)], durable=False)
        ask(
            store.url,
            "UPDATE relayproxy.chunks SET octets = substr(octets, 2) WHERE part = 1; UPDATE relayproxy.contents SET octets = substr(octets, 2) WHERE octets IS NOT NULL",
        )
        for octets in (noise(600_000), b"small" * 1000):
            with pytest.raises(StoreError, match="cannot be read"):
                list(reader.body(sha256(octets).digest()))


def test_what_is_durable_is_asked_to_be_so(store: PostgresqlStore) -> None:
    """Of `synchronous_commit` as the batch's own function sees it; what database or role say is the least."""
    heard: dict[tuple[str, str, bool], str] = {}
    ask(store.url, "CREATE TABLE relayproxy.seen(setting text); CREATE FUNCTION relayproxy.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO relayproxy.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER see AFTER INSERT ON relayproxy.revisions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION relayproxy.see()")  # fmt: skip
    [(database,)] = ask(store.url, "SELECT quote_ident(current_database())")
    for said in ("off", "local", "on", "remote_apply"):
        ask(store.url, f"ALTER DATABASE {database} SET synchronous_commit = {said}")
        for sync in ("normal", "full"):
            with closing(store.backend(sync=sync)) as backend:
                for durable in (False, True):
                    backend.write([transaction()], durable=durable)
                    [(heard[said, sync, durable],)] = ask(store.url, "DELETE FROM relayproxy.seen RETURNING setting")
    for said in ("off", "local", "on", "remote_apply"):
        least = "on" if said in ("off", "local") else said
        assert [heard[said, sync, durable] for sync in ("normal", "full") for durable in (False, True)] == [
            said,
            least,
            least,
            least,
        ]


# Who sees what, and when.


def test_who_reads_what_is_new_misses_nothing_of_anybody(store: PostgresqlStore) -> None:
    """Several write as fast as they can while one asks again and again for what is after the last that it saw."""
    ends = [store.backend() for _ in range(3)]
    over = threading.Event()
    seen: list[str] = []

    def write(number: int) -> None:
        for count in range(60):
            ends[number].write(
                [transaction(f"T{number}-{count}-{part}", b"x" * (50 << count % 10)) for part in range(1 + count % 3)],
                durable=False,
            )

    def read() -> None:
        with store.reader() as reader:
            revision = 0
            last = False
            while not last:
                last = over.is_set()
                now = reader.revision()
                seen.extend(
                    one.record.transaction
                    for one in reader.transactions(after_revision=revision)
                    if one.revision <= now
                )
                revision = now

    reading = threading.Thread(target=read)
    reading.start()
    together(*[partial(write, number) for number in range(3)])
    over.set()
    reading.join()
    assert sorted(seen) == sorted(
        f"T{number}-{count}-{part}" for number in range(3) for count in range(60) for part in range(1 + count % 3)
    )
    for end in ends:
        end.close()


def test_who_waits_is_told_at_once(store: PostgresqlStore) -> None:
    ours, theirs = os.pipe()
    with closing(store.backend()) as backend, store.reader() as reader:
        assert reader.wait(10, theirs), "the first time at once: what was written before was not told"
        reader.revision()
        began = time.monotonic()
        assert reader.wait(0.05, theirs)
        assert time.monotonic() - began >= 0.05
        for _ in range(2):
            writing = threading.Timer(0.05, partial(backend.write, [transaction("T1")], durable=False))
            before = reader.revision()
            began = time.monotonic()
            writing.start()
            assert reader.wait(20, theirs)
            assert time.monotonic() - began < 10
            assert reader.revision() > before
            writing.join()
        os.close(ours)
        assert not reader.wait(20, theirs), "nobody reads any more"
    os.close(theirs)


def test_what_has_an_id_of_its_day_touches_no_other_days(store: PostgresqlStore) -> None:
    """Each table that is touched is locked, with its indexes: with a year of them the server has no room for the locks."""
    made = Ids()
    sent, kept, connected = (made.new() for _ in range(3))
    with closing(store.backend(patience=0.3)) as backend, store.reader() as reader:
        days = ask(store.url, "SELECT max(day) FROM relayproxy.days")
        backend.write([transaction("old", at=NOW - 9 * DAY), session("old", began=NOW - 9 * DAY)], durable=False)
        [(day,)] = ask(store.url, "SELECT min(day) FROM relayproxy.days")
        assert [(day,)] != days
        parts = [part_of(table, day) for table in PARTED]
        with psycopg.connect(store.url.url) as other:
            other.execute(f"SET search_path = relayproxy; LOCK TABLE {', '.join(parts)}".encode())
            for number in range(12):  # also where the server has made up its mind how to go about it
                again = transaction(sent, noise(300_000 + number % 2), session=connected)
                backend.write([again, held(kept), transaction(f"T{number}", noise(9000))], durable=False)
                backend.write([session(connected, wire=b"\x90")], durable=False)
            assert backend.claim(kept, 0, release())
            backend.released(kept, 0, release("accepted"))
            assert reader.ids(sent.lower()) == [sent]
            assert reader.transaction(sent) is not None
            assert reader.session(connected) is not None
            assert [one.record.transaction for one in reader.of_session(connected)] == [sent]
            with pytest.raises(StoreError, match="locked"):
                reader.transaction("T1")  # that is no id of ours


# What goes.


def tables(url: PostgresqlUrl) -> set[str]:
    rows = ask(
        url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'relayproxy'::regnamespace AND relname LIKE 'transactions_2%' AND relkind = 'r'",
    )
    return {str(name) for (name,) in rows}


def test_a_day_goes_as_a_whole_when_all_of_it_may(store: PostgresqlStore) -> None:
    with closing(store.backend(keep=Keep(age=3 * DAY / SECOND))) as backend, store.reader() as reader:
        before = tables(store.url)
        backend.write(
            [transaction(f"T{number}", noise(1000, number), at=NOW - 5 * DAY, session="S9") for number in range(50)],
            durable=False,
        )
        backend.write([session("S9", began=NOW - 5 * DAY, ended=NOW - 5 * DAY + 1), transaction("new")], durable=False)
        [old] = tables(store.url) - before
        done(backend)
        assert tables(store.url) == before
        assert ids(reader) == ["new"]
        assert reader.session("S9") is None
        backend.write([transaction("late", at=NOW - 5 * DAY)], durable=False)
        assert tables(store.url) == before | {old}, "who writes of that day makes it anew"


def test_a_day_stays_as_long_as_something_of_it_has_to(store: PostgresqlStore) -> None:
    with closing(store.backend(keep=Keep(age=3 * DAY / SECOND))) as backend, store.reader() as reader:
        before = tables(store.url)
        at = NOW - 5 * DAY
        backend.write([transaction("gone", at=at), held("held", at=at)], durable=False)
        done(backend)
        assert ids(reader) == ["held"]
        assert len(tables(store.url)) == len(before) + 1
        assert whole(reader, reader.transaction("held"), sent=True) is not None
        assert backend.claim("held", 0, release())
        backend.released("held", 0, release("accepted"))
        done(backend)
        assert ids(reader) == []
        assert tables(store.url) == before


def test_a_session_stays_for_its_transactions_of_the_next_day(store: PostgresqlStore) -> None:
    age = 3 * DAY
    midnight = (NOW - age) // DAY * DAY  # what is before is too old
    with closing(store.backend(keep=Keep(age=age / SECOND))) as backend, store.reader() as reader:
        backend.write(
            [
                session("S1", began=midnight - SECOND, ended=midnight + 60 * SECOND),
                transaction("T0", session="S1", at=midnight - SECOND // 2),
                transaction("T1", session="S1", at=midnight + SECOND),
            ],
            durable=False,
        )
        done(backend)
        assert ids(reader) == ["T1"]
        assert reader.session("S1") is not None


@pytest.mark.parametrize("keep", [Keep(age=3 * DAY / SECOND), Keep(bytes=130_000)])
def test_who_reads_old_days_keeps_them_and_nobody_from_writing(store: PostgresqlStore, keep: Keep) -> None:
    """As a backup does: its locks stay until it ends."""
    at = NOW - 9 * DAY
    old = [f"T{day}-{number}" for day in range(5) for number in range(5)]
    with closing(store.backend(keep=keep)) as backend, store.reader() as reader:
        writes = [transaction(id_, noise(900), at=at + int(id_[1]) * DAY + int(id_[3])) for id_ in old]
        backend.write([*writes, transaction("new", noise(100_000))], durable=False)
        with psycopg.connect(store.url.url) as slow:
            slow.execute("SELECT * FROM relayproxy.transactions")
            for _ in range(3):
                began = time.monotonic()
                backend.upkeep(busy=True)
                assert time.monotonic() - began < 0.5, "one day is tried, and none again at once"
            assert ids(reader) == [*old, "new"], "not row by row either"
            backend.write([transaction("more", at=NOW + 5 * DAY)], durable=False)
    with closing(store.backend(keep=keep)) as backend, store.reader() as reader:
        done(backend)
        assert {"new", "more"} <= set(ids(reader))
        assert len(ids(reader)) <= (2 if keep.age else 22)


def test_what_is_counted_is_what_is_there(store: PostgresqlStore) -> None:
    counted_in = ("transactions", "contents", "sessions", "wire")
    rows = " UNION ALL ".join([f"SELECT day, kept FROM relayproxy.{table}" for table in counted_in])  # noqa: S608
    with closing(store.backend(keep=Keep(age=60))) as backend:
        for outcome in ("unknown", "accepted"):
            backend.write(
                [
                    transaction(f"T{number}", noise(900, number), outcome=outcome, at=NOW - number * DAY // 2)
                    for number in range(8)
                ],
                durable=False,
            )
        backend.write(
            [
                TransactionWrite(record("T1", at=NOW - DAY // 2), None, final=True),
                transaction("T9", noise(700_000)),
                transaction("T10", noise(600_000), at=NOW - 120 * SECOND, session="S2"),  # of today, mostly
                session(wire=b"x" * 5000),
                session("S2", began=NOW - 120 * SECOND, ended=NOW - 110 * SECOND, wire=b"x" * 4000),
            ],
            durable=False,
        )
        for _ in range(2):
            counted = ask(
                store.url,
                "SELECT day, sum(octets) FROM (SELECT day, octets FROM relayproxy.days UNION ALL SELECT day, octets FROM relayproxy.growth) AS counts GROUP BY day HAVING sum(octets) <> 0 ORDER BY day",
            )
            assert counted == ask(store.url, f"SELECT day, sum(kept) FROM ({rows}) AS rows GROUP BY day ORDER BY day")  # noqa: S608
            done(backend)


def test_no_row_is_changed_by_each_batch(store: PostgresqlStore) -> None:
    """While somebody keeps a snapshot, as a backup does, each change of a row is gone through by who changes it next."""
    changed = "SELECT relname, n_tup_upd, n_tup_ins FROM pg_stat_user_tables WHERE schemaname = 'relayproxy' AND relname IN ('counters', 'days', 'revisions', 'growth')"
    with closing(store.backend()) as backend:
        backend.upkeep()
    before = {name: updated for name, updated, _ in ask(store.url, changed)}
    with closing(store.backend()) as backend:
        for number in range(20):
            backend.write([transaction(f"T{number}"), session(f"S{number}", wire=b"abc")], durable=False)
    by = time.monotonic() + SOON
    while True:  # the server tells of it when the connection has gone
        after = {name: (updated, inserted) for name, updated, inserted in ask(store.url, changed)}
        if after["growth"][1] >= 20:
            break
        assert time.monotonic() < by
    assert {name: updated for name, (updated, _) in after.items()} == before
    with closing(store.backend()) as backend:
        done(backend)
        assert ask(store.url, "SELECT * FROM relayproxy.revisions") == [(20,)]
        assert ask(store.url, "SELECT * FROM relayproxy.growth") == []


def test_several_do_upkeep_and_one_at_a_time(store: PostgresqlStore) -> None:
    ends = [store.backend(keep=Keep(bytes=400_000)) for _ in range(3)]
    ends[0].write(
        [transaction(f"T{number:03}", noise(4000, number), at=NOW + number * SECOND) for number in range(200)],
        durable=False,
    )
    together(*[partial(done, end) for end in ends])
    done(ends[0])
    with store.reader() as reader:
        left = ids(reader)
        assert 50 < len(left) < 100
        assert left == [f"T{number:03}" for number in range(200 - len(left), 200)]
        assert ids(reader, select=parse("text:hi", now=NOW)) == left
    for end in ends:
        end.close()


async def test_what_crashed_processes_left_on_its_way_in_is_removed_at_the_start(store: PostgresqlStore) -> None:
    spool = Spool(store.bodies, 0)
    await spool.add(b"x" * 1000)
    folder = store.bodies.folder
    ours = set(folder.iterdir())
    for name in ("0123456789abcdef-7.zst", "0123456789abcdee-1.zst", "notes.txt"):
        (folder / name).touch()
    for path in folder.iterdir():
        if path.name != "0123456789abcdee-1.zst":
            os.utime(path, (time.time() - 7200,) * 2)
    with closing(store_at(store.url, folder).backend()) as backend:
        while backend.upkeep():
            pass
    left = {path.name for path in folder.iterdir() if path not in ours}
    assert ours <= set(folder.iterdir())
    assert left == {"0123456789abcdee-1.zst", "notes.txt"}
    spool.discard()


# Where the server is not as it should be.


def test_a_connection_that_is_cut_is_made_anew(store: PostgresqlStore, postgresql: Server) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        for number in range(3):
            ask(store.url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(store.url)}' AND pid <> pg_backend_pid()")  # noqa: S608  # fmt: skip
            backend.write([transaction(f"T{number}", noise(300_000 * number))], durable=False)
            assert len(ids(reader)) == number + 1
        assert len(postgresql.backends(store.url)) == 2


def test_a_batch_whose_answer_is_lost_is_there_once(store: PostgresqlStore, tmp_path: Path) -> None:
    """The server has done all of it, and the connection is lost before it can say so."""
    writes: list[Write] = [
        transaction("T1", noise(1000)),
        session("S1", wire=b"\x90"),
        session("S1", part=1, wire=b"\x90"),
    ]
    with (
        between(store.url, tmp_path) as line,
        closing(PostgresqlStore(line.url, tmp_path).backend()) as backend,
        store.reader() as reader,
    ):
        backend.write([transaction("T0")], durable=False)
        line.cut = True
        backend.write(writes, durable=False)
        assert reader.revision() == 3, "it was in, and was written again"
        assert ids(reader) == ["T0", "T1"]
        assert ask(store.url, "SELECT count(*) FROM relayproxy.wire") == [(2,)]
        # Where it cannot be written again it may be in, though it was said not to be; what is told of it later replaces it.
        line.cut = line.closed = True
        with pytest.raises(RecordError):
            backend.write([transaction("T2", outcome="unknown", final=False)], durable=False)
        assert [one.record.outcome for one in reader.transactions()] == ["accepted", "accepted", "unknown"]
        line.closed = False
        backend.write([TransactionWrite(record("T2", outcome="tempfailed"), None, final=True)], durable=False)
        assert [one.record.outcome for one in reader.transactions()] == ["accepted", "accepted", "tempfailed"]


def test_what_comes_late_of_a_connection_that_was_given_up_takes_nothing_back(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend, closing(store.backend()) as late, store.reader() as reader:
        backend.write([transaction("T1", b"whole")], durable=False)
        late.write([transaction("T1", None, outcome="unknown", final=False)], durable=False)
        stored = reader.transaction("T1")
        assert stored is not None
        assert (stored.record.outcome, stored.final) == ("accepted", True)


def test_a_claim_whose_answer_is_lost_is_not_made_twice(store: PostgresqlStore, tmp_path: Path) -> None:
    with (
        between(store.url, tmp_path) as line,
        closing(PostgresqlStore(line.url, tmp_path).backend()) as backend,
        store.reader() as reader,
    ):
        backend.write([held()], durable=True)
        line.cut_at = b"COMMIT"
        with pytest.raises(RecordError):
            backend.claim("T1", 0, release())
        stored = reader.transaction("T1")
        assert stored is not None
        assert stored.record.held.released == (release("unknown"),)  # type: ignore[union-attr]
        assert not backend.claim("T1", 0, release()), "nobody knows whether it was sent"
        line.cut_at = b"COMMIT"
        backend.released("T1", 0, release("tempfailed"))
        stored = reader.transaction("T1")
        assert stored is not None
        assert stored.record.held.released == (release("tempfailed"),)  # type: ignore[union-attr]


class Between:
    """A line to a server that can be cut. `cut`: behind the next answer, which is not passed on; `cut_at`: behind the answer to what has this in it; `closed`: nobody comes through; `silent`: nor does anything; `rate`: octets a second that do, to the server."""

    def __init__(self, server: str, folder: Path) -> None:
        self.url = PostgresqlUrl("")
        self.cut = False
        self.cut_at = b""
        self.closed = self.silent = False
        self.rate: float | None = None
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._all: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.closed:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._all += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target, source is server), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while octets := source.recv(1 << 16):
                if answers and self.cut:
                    self.cut = False
                    break
                if self.silent:
                    continue
                if not answers and self.cut_at and self.cut_at in octets:
                    self.cut, self.cut_at = True, b""
                if self.rate is not None and not answers:
                    time.sleep(len(octets) / self.rate)
                target.sendall(octets)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in self._all:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def between(url: PostgresqlUrl, folder: Path) -> Iterator[Between]:
    host = url.url.rpartition("host=")[2]
    line = Between(f"{host}/.s.PGSQL.5432", folder)
    line.url = PostgresqlUrl(url.url.replace(host, str(folder)))
    try:
        yield line
    finally:
        line.close()


def test_a_server_that_does_not_answer_stops_nobody_for_long(store: PostgresqlStore, postgresql: Server) -> None:
    with closing(store.backend(patience=0.3)) as backend, store.reader() as reader:
        backend.write([transaction("T0")], durable=False)
        with postgresql.frozen(store.url):
            began = time.monotonic()
            backend.write([transaction("T1", outcome="unknown", final=False)], durable=False)  # by another connection
            backend.write([transaction("T1")], durable=False)
            assert time.monotonic() - began < 5
        by = time.monotonic() + SOON
        while len(postgresql.backends(store.url)) > 2:
            assert time.monotonic() < by, "the one that was given up is ended"
        assert [one.record.outcome for one in reader.transactions()] == ["accepted"] * 2
        assert reader.revision() == 3, "and has not done in the end what it was sent"


@pytest.mark.slow
def test_a_slow_line_takes_what_is_large_and_what_is_much(store: PostgresqlStore, tmp_path: Path) -> None:
    """For a patience of 5 seconds instead of 0.3 it were 180 KB a second."""
    with between(store.url, tmp_path) as line:
        backend = PostgresqlStore(line.url, tmp_path).backend(patience=0.3)
        writer = Writer(backend)
        with store.reader() as reader:
            line.rate = 3_000_000
            large = noise(2_000_000)
            writer.put(transaction("T0", large))
            for number in range(1, 31):
                writer.put(transaction(f"T{number}", noise(100_000, number)))
            assert writer.close(SOON)
            assert len(ids(reader)) == 31
            assert whole(reader, reader.transaction("T0")) == HEADER + b"\r\n" + large


@pytest.mark.slow
def test_a_network_that_swallows_everything_is_not_waited_for(store: PostgresqlStore, tmp_path: Path) -> None:
    with between(store.url, tmp_path) as line:
        url = PostgresqlUrl(f"{line.url.url}&connect_timeout=2")
        with closing(PostgresqlStore(url, tmp_path).backend(patience=0.3)) as backend, store.reader() as reader:
            backend.write([transaction("T0")], durable=False)
            line.silent = True
            began = time.monotonic()
            for way in (partial(backend.write, [transaction("T1")], durable=False), backend.probe):
                with pytest.raises(RecordError, match="timeout expired"):
                    way()
            assert time.monotonic() - began < 10
            line.silent = False
            backend.write([transaction("T2")], durable=False)
            assert set(ids(reader)) >= {"T0", "T2"}


def test_a_lock_that_another_holds_for_too_long(store: PostgresqlStore) -> None:
    with (
        closing(store.backend(patience=0.3)) as backend,
        psycopg.connect(store.url.url) as other,
        store.reader() as reader,
    ):
        other.execute("SELECT FROM relayproxy.counters FOR UPDATE")
        for way in (partial(backend.write, [transaction("T1", noise(300_000))], durable=False), backend.probe):
            with pytest.raises(RecordError, match="locked by another process") as raised:
                way()
            assert not raised.value.full
        other.rollback()
        assert ids(reader) == []
        backend.write([transaction("T1")], durable=False)
        assert ask(store.url, "SELECT count(*) FROM relayproxy.chunks") == [(0,)]


def test_a_store_that_is_read_only_now(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend:
        ask(store.url, "CREATE FUNCTION relayproxy.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '25006'; END $$; CREATE TRIGGER refuse BEFORE INSERT ON relayproxy.revisions EXECUTE FUNCTION relayproxy.refuse()")  # fmt: skip
        with pytest.raises(RecordError, match="read-only, or a standby"):
            backend.write([transaction("T1")], durable=False)
        ask(store.url, "DROP TRIGGER refuse ON relayproxy.revisions")
        backend.write([transaction("T1")], durable=False)


def test_a_disk_that_is_full_is_told_as_such(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        ask(store.url, "CREATE FUNCTION relayproxy.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$; CREATE TRIGGER refuse BEFORE INSERT ON relayproxy.transactions EXECUTE FUNCTION relayproxy.refuse()")  # fmt: skip
        with pytest.raises(RecordError, match="could not extend file") as raised:
            backend.write([transaction("T1")], durable=False)
        assert raised.value.full
        assert ids(reader) == []


def test_a_disk_with_room_for_small_rows_alone_counts_as_full(store: PostgresqlStore) -> None:
    """What is tried takes new pages, as a message may."""
    with closing(store.backend()) as backend:
        ask(store.url, "CREATE FUNCTION relayproxy.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$; CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION relayproxy.refuse()")  # fmt: skip
        backend.write([transaction("T1")], durable=False)
        with pytest.raises(RecordError, match="could not extend file") as raised:
            backend.probe()
        assert raised.value.full
        ask(store.url, "DROP EVENT TRIGGER refuse")
        for _ in range(2):
            backend.probe()
        assert ask(store.url, "SELECT to_regclass('relayproxy.room')") == [(None,)], "nothing is left of it"


def test_a_schema_that_was_dropped_is_not_missed_in_silence(store: PostgresqlStore) -> None:
    with closing(store.backend()) as backend:
        ask(store.url, "DROP SCHEMA relayproxy CASCADE")
        backend.write([transaction("T1")], durable=False)
        with store.reader() as reader:
            assert ids(reader) == ["T1"]


def test_a_body_that_somebody_removes_meanwhile_is_brought_again(store: PostgresqlStore) -> None:
    body = noise(50_000)
    with (
        closing(store.backend(keep=Keep(age=60))) as backend,
        closing(store.backend()) as other,
        store.reader() as reader,
    ):
        over = threading.Event()

        def remove() -> None:
            while not over.is_set():
                done(backend)

        removing = threading.Thread(target=remove)
        removing.start()
        try:
            for number in range(150):
                other.write([transaction(f"old{number}", body, at=NOW - 120 * SECOND)], durable=False)
        finally:
            over.set()
            removing.join()
        other.write([transaction("T1", body)], durable=False)
        assert whole(reader, reader.transaction("T1")) == HEADER + b"\r\n" + body


def test_a_file_that_is_missing_is_the_writes_own_fault(store: PostgresqlStore, tmp_path: Path) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        gone = Message(HEADER, b"\r\n", Body(b"x" * 32, 5, None, tmp_path / "gone"))
        with pytest.raises(ValueError, match="neither octets nor a file"):
            backend.write([transaction("T1"), TransactionWrite(record("T2"), gone)], durable=False)
        assert ids(reader) == []
        backend.write([transaction("T1")], durable=False)


@pytest.mark.slow
def test_a_standby_is_away_for_who_writes_and_there_for_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as own, own.database() as made:
        own.stop()
        standby = own.folder / "data" / "standby.signal"
        standby.touch()
        own.start()
        monkeypatch.setenv("PGHOST", str(own.folder))  # hosts are seen wherever they are named
        nameless = PostgresqlUrl(made.url.partition("?")[0])
        for url in (made, nameless):
            with pytest.raises(StoreAwayError, match="hot standby"):
                store_at(url).backend()
            with store_at(url).reader() as reader:
                assert ids(reader) == []
        own.stop()
        standby.unlink()
        own.start()
        store_at(nameless).backend().close()
