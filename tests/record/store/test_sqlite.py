"""What is SQLite's own: the file and its folder, what is no store, and what happens when disk, lock or file are not as they should be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw
import pytest
import trio
from conformance import noise
from stored_things import HEADER, NOW, SOON, Alarm, held, ids, release, session, transaction, whole

from relayproxy.record.store.interface import Keep, RecordError, StoreAwayError, StoreError
from relayproxy.record.store.opening import open_store
from relayproxy.record.store.schema import APPLICATION, STEPS, migrate, version
from relayproxy.record.store.spool import Spool
from relayproxy.record.store.sqlite import SqliteStore
from relayproxy.record.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "store.db")


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    """A small file system of its own; not in pytest's folder, which could not be removed should we be killed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    folder = Path(tempfile.mkdtemp(prefix="relayproxy-"))
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False)
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)


# Which store.


@pytest.mark.parametrize(
    "url", ["relayproxy.db", "sqlite", "sqlite:", "sqlite::memory:", "sqlite:folder/", "mysql:x", "", "sqlite:a\0b"]
)
def test_what_is_no_url_of_a_store_is_told_with_what_is(url: str) -> None:
    with pytest.raises(StoreError, match="expected sqlite:PATH"):
        open_store(url)


def test_where_nothing_is_recorded_there_is_nothing_to_read() -> None:
    with pytest.raises(StoreError, match="nothing is recorded"):
        open_store("none")


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:with space?&#.db")
    monkeypatch.chdir("/")
    store.backend().close()
    assert (tmp_path / "with space?&#.db").exists()


# Opening.


def test_only_the_owner_can_read_it(store: SqliteStore) -> None:
    before = os.umask(0)
    try:
        with closing(store.backend()) as backend:
            backend.write([transaction("T1", noise(100_000))], durable=True)
            modes = {path.name: path.stat().st_mode & 0o777 for path in store.path.parent.rglob("*")}
    finally:
        os.umask(before)
    assert modes.pop("store.db-bodies") == 0o700
    assert len(modes) == 6  # the database, its two helpers, the reserve, the body, the lock
    assert set(modes.values()) == {0o600}


def test_who_reads_makes_nothing(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        store.reader()
    assert list(store.path.parent.iterdir()) == []
    store.path.touch()
    with pytest.raises(StoreError, match="nothing was recorded"):
        store.reader()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        open_store(f"sqlite:{tmp_path}/missing/store.db").backend()


def test_another_programs_database_is_left_alone(store: SqliteStore) -> None:
    with closing(apsw.Connection(str(store.path))) as other:
        other.execute("CREATE TABLE theirs(x)")
    before = store.path.read_bytes()
    for way in (store.backend, store.reader):
        with pytest.raises(StoreError, match="another program"):
            way()
    assert store.path.read_bytes() == before


def test_a_newer_store_is_left_alone(store: SqliteStore) -> None:
    store.backend().close()
    with closing(apsw.Connection(str(store.path))) as newer:
        newer.pragma("user_version", 99)
    for way in (store.backend, store.reader):
        with pytest.raises(StoreError, match="newer relayproxy"):
            way()


def test_who_reads_an_older_store_is_told_what_to_do(store: SqliteStore) -> None:
    with closing(apsw.Connection(str(store.path))) as older:
        older.pragma("application_id", APPLICATION)
    with pytest.raises(StoreError, match="older relayproxy"):
        store.reader()
    store.backend().close()
    store.reader().close()


def test_what_an_older_relayproxy_holds_can_be_released(store: SqliteStore) -> None:
    store.backend().close()
    with closing(apsw.Connection(str(store.path))) as older:
        older.execute("DROP TRIGGER releases_gone; DROP TABLE releases; PRAGMA user_version = 1")
    with closing(store.backend()) as backend, store.reader() as reader:
        backend.write([held()], durable=False)
        assert backend.claim("T1", 0, release())
        assert whole(reader, reader.transaction("T1"), sent=True) is not None


def test_steps_are_taken_once_all_or_none(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    with closing(apsw.Connection(path)) as connection:
        migrate(connection, STEPS)
        later = [
            *STEPS,
            "ALTER TABLE transactions ADD COLUMN colour TEXT; CREATE TABLE more(x)",
            "CREATE TABLE most(x)",
        ]
        with pytest.raises(apsw.SQLError):
            migrate(connection, [*later, "CREATE TABLE more(x)"])
        assert version(connection) == len(STEPS)
        migrate(connection, later)
        migrate(connection, later)
        assert version(connection) == len(STEPS) + 2
        assert connection.execute("SELECT count(colour) FROM transactions, more, most").get == 0


@pytest.mark.parametrize("damage", ["no database", "first page", "tables"])
def test_a_damaged_file_is_told_with_what_to_do(store: SqliteStore, damage: str) -> None:
    with closing(store.backend()) as backend:
        backend.write([transaction(f"T{number}", noise(3000, number)) for number in range(100)], durable=True)
    octets = bytearray(store.path.read_bytes())
    if damage == "no database":
        octets = bytearray(b"Dear diary, ") * 1000
    elif damage == "first page":
        octets[100:4096] = noise(3996)
    else:
        octets[8192:] = noise(len(octets) - 8192)
    store.path.write_bytes(octets)
    with pytest.raises(StoreError, match=r"damaged.*move it away"), store.reader() as reader:
        ids(reader)
    with pytest.raises((StoreError, RecordError), match="damaged"), closing(store.backend()) as backend:
        backend.write([transaction("T1")], durable=False)


def test_a_body_that_was_altered_is_an_error(store: SqliteStore) -> None:
    with closing(store.backend()) as backend, store.reader() as reader:
        backend.write([transaction("T1", noise(300_000))], durable=True)
        [file] = store.bodies.folder.glob("*.zst")
        octets = file.read_bytes()
        for altered in (octets[:-1], octets[:1000] + b"x" + octets[1001:], b"", octets[: len(octets) // 2]):
            file.write_bytes(altered)
            with pytest.raises(StoreError, match="cannot be read"):
                list(reader.body(sha256(noise(300_000)).digest()))
        file.unlink()
        with pytest.raises(StoreError, match="not there any more"):
            list(reader.body(sha256(noise(300_000)).digest()))


# Where nothing can be written.


def test_a_store_on_a_read_only_file_system_is_read() -> None:
    with mounted("size=4m") as disk:
        store = SqliteStore(disk / "store.db")
        with closing(store.backend()) as backend:
            backend.write([transaction("T1", noise(100_000))], durable=True)
        read_only(disk)
        with store.reader() as reader:
            assert whole(reader, reader.transaction("T1")) == HEADER + b"\r\n" + noise(100_000)
        with pytest.raises(StoreError, match="read-only"):
            store.backend()
        with pytest.raises(StoreError, match="Read-only file system"):
            open_store(f"sqlite:{disk}/other.db").backend()


def test_a_store_that_was_not_closed_is_not_guessed_at_where_nothing_can_be_written(tmp_path: Path) -> None:
    with mounted("size=4m") as disk:
        store = SqliteStore(tmp_path / "store.db")
        with closing(store.backend()) as backend:
            backend.write([transaction("T1")], durable=True)
            for suffix in ("", "-wal"):
                (disk / f"store.db{suffix}").write_bytes(Path(f"{store.path}{suffix}").read_bytes())
        read_only(disk)
        with pytest.raises(StoreError, match="copy both"):
            open_store(f"sqlite:{disk}/store.db").reader()


@pytest.mark.parametrize("gone", [["-wal"], ["-wal", "-shm"]])
def test_what_only_a_removed_log_has_is_kept_also_while_somebody_reads(tmp_path: Path, gone: list[str]) -> None:
    store = SqliteStore(tmp_path / "store.db")
    with closing(store.backend()) as backend, store.reader() as reader, open(os.devnull, "w") as output:  # noqa: PTH123
        backend.write([transaction("T1")], durable=True)
        assert ids(reader) == ["T1"]
        for suffix in gone:
            Path(f"{store.path}{suffix}").unlink()
        with pytest.raises(RecordError, match="was moved, removed or emptied"):
            backend.write([transaction("T2")], durable=True)
        with pytest.raises(StoreAwayError):
            reader.wait(0, output.fileno())  # which lets go of it
        backend.write([transaction("T3")], durable=True)
    with store.reader() as reader:
        assert ids(reader) == ["T1", "T3"]


@contextmanager
def somebody_else(modes: Mapping[str, int]) -> Iterator[SqliteStore]:
    """A store that was closed, as those find it who may not write there; root is nobody meanwhile. `modes`: of what is there, "" the folder."""
    folder = Path(tempfile.mkdtemp(prefix="relayproxy-"))  # pytest's are root's alone
    store = SqliteStore(folder / "store.db")
    try:
        with closing(store.backend()) as backend:
            backend.write([transaction("T1", noise(100_000))], durable=True)
        for name, mode in modes.items():
            (folder / name).chmod(mode)
        if is_root := os.geteuid() == 0:
            os.setresuid(65534, 65534, 0)
        try:
            yield store
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


READABLE: Final = {"store.db": 0o644, "store.db-bodies": 0o755}


def test_a_store_in_a_folder_that_is_read_only_is_read() -> None:
    with somebody_else({"": 0o555, **READABLE}) as store:
        with store.reader() as reader:
            assert ids(reader) == ["T1"]
        with pytest.raises(StoreError, match="read-only"):
            store.backend()


def test_a_store_that_was_taken_for_still_and_is_written_to_is_not_guessed_at() -> None:
    with somebody_else({"": 0o555, **READABLE}) as store, store.reader() as reader:
        assert ids(reader) == ["T1"]
        mine, _, others = os.getresuid()
        os.setresuid(others, others, others)
        store.path.parent.chmod(0o755)
        with closing(store.backend()) as backend:
            backend.write([transaction("T2")], durable=True)
        store.path.parent.chmod(0o555)
        os.setresuid(mine, mine, others)
        with pytest.raises(StoreError, match="somebody else"):
            ids(reader)


def test_a_store_that_may_not_be_read_is_told_as_such() -> None:
    with (
        somebody_else({"": 0o755, "store.db": 0o200}) as store,
        pytest.raises(StoreError, match=r"store.db: Permission denied$"),
    ):
        store.reader()
    with somebody_else({"": 0o000}) as store, pytest.raises(StoreError, match=r"store.db: Permission denied$"):
        store.reader()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    for opened in (SqliteStore(tmp_path).reader, SqliteStore(tmp_path).backend):
        with pytest.raises(StoreError, match="expected a file, found a folder"):
            opened()


async def test_a_full_disk_is_told_as_such_and_nothing_is_left_of_what_did_not_fit() -> None:
    with mounted("size=4m") as disk:
        store = SqliteStore(disk / "store.db")
        alarm = Alarm()
        writer = Writer(store.backend(), alarm=alarm)
        await writer.commit([transaction("T0", noise(50_000))])
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(65536)) == 65536:
                pass
        for octets in (noise(50_000), noise(900_000)):  # a row, and a file
            with pytest.raises(RecordError) as raised:
                await writer.commit([transaction("T1", octets)])
            assert raised.value.full
        spool = Spool(store.bodies, 1000)
        with pytest.raises(RecordError) as raised:
            await spool.add(noise(5_000_000))
        assert raised.value.full
        spool.discard()
        writer.put(transaction("T2", noise(50_000)))
        with store.reader() as reader:
            assert ids(reader) == ["T0"]
        assert writer.trouble is not None
        assert writer.trouble.full
        await alarm.wait()
        ballast.unlink()
        await alarm.wait()
        await writer.commit([transaction("T3", noise(900_000))])
        assert writer.close(SOON)
        assert [error is None for error in alarm.told] == [False, True]
        with store.reader() as reader:
            assert ids(reader) == ["T0", "T2", "T3"]
            assert whole(reader, reader.transaction("T2")) == HEADER + b"\r\n" + noise(50_000)
        assert len(list(store.bodies.folder.glob("*.zst"))) == 1


async def test_a_file_that_may_not_grow_counts_as_full(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, in a process of its own: EFBIG."""
    program = f"""
import resource, signal
from relayproxy.record.store.interface import RecordError
from relayproxy.record.store.opening import open_store
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from stored_things import transaction
from conformance import noise
backend = open_store("sqlite:{tmp_path}/store.db").backend()
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
for octets in (noise(600_000), *[noise(60_000, seed) for seed in range(20)]):
    try:
        backend.write([transaction("T1", octets)], durable=False)
    except RecordError as error:
        print(error.full)
"""
    told = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert set(told.stdout.split()) == {b"True"}
    assert len(told.stdout.split()) >= 2


def test_a_lock_that_another_holds_for_too_long(store: SqliteStore) -> None:
    with closing(store.backend(patience=0.05)) as backend, closing(apsw.Connection(str(store.path))) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(RecordError, match="locked by another process") as raised:
                backend.write([transaction("T1", noise(100_000))], durable=False)
            assert not raised.value.full
        with pytest.raises(RecordError):
            backend.probe()
        assert list(store.bodies.folder.glob("*.zst")) == []
        with store.reader() as reader:
            assert ids(reader) == []
        other.execute("ROLLBACK")
        backend.write([transaction("T1")], durable=False)


def test_a_store_that_was_moved_away_is_not_written_to_in_silence(store: SqliteStore) -> None:
    with closing(store.backend()) as backend:
        backend.write([transaction("T1")], durable=False)
        store.path.rename(store.path.with_name("moved.db"))
        with pytest.raises(RecordError, match="was moved"):
            backend.write([transaction("T2")], durable=False)
        backend.write([transaction("T3", noise(100_000))], durable=False)
    with store.reader() as reader:
        assert ids(reader) == ["T3"]


def test_a_store_that_was_emptied_is_not_written_to_in_silence(store: SqliteStore) -> None:
    with closing(store.backend()) as backend:
        backend.write([transaction("T1")], durable=False)
        os.truncate(store.path, 0)
        with pytest.raises(RecordError, match="emptied"):
            backend.write([transaction("T2")], durable=False)
        backend.write([transaction("T3", noise(100_000))], durable=False)
        with store.reader() as reader:
            assert ids(reader) == ["T3"]
    with store.reader() as reader:
        assert ids(reader) == ["T3"]


def test_a_store_whose_log_was_removed_is_not_written_to_in_silence_and_has_what_was_in_it(store: SqliteStore) -> None:
    with closing(store.backend()) as backend:
        backend.write([transaction("T1")], durable=False)
        for name in ("wal", "shm"):
            store.path.with_name(f"{store.path.name}-{name}").unlink()
        with pytest.raises(RecordError, match="write-ahead log was moved"):
            backend.write([transaction("T2")], durable=False)
        backend.write([transaction("T3")], durable=False)
        with store.reader() as reader:
            assert ids(reader) == ["T1", "T3"]


async def test_a_folder_of_bodies_that_was_removed_is_made_again(store: SqliteStore) -> None:
    with closing(store.backend()) as backend:
        shutil.rmtree(store.bodies.folder)
        backend.write([transaction("T1", noise(100_000))], durable=False)
        shutil.rmtree(store.bodies.folder)
        spool = Spool(store.bodies, 1000)
        await spool.add(noise(100_000))
        assert (await spool.finish()).file is not None
        spool.discard()


def test_a_body_that_was_begun_is_whole_though_it_is_removed(store: SqliteStore) -> None:
    with closing(store.backend(keep=Keep(age=60))) as backend, store.reader() as reader:
        octets = noise(1_000_000)
        backend.write([transaction("T1", octets, at=NOW - 86400 * 1_000_000_000)], durable=False)
        begun = reader.body(sha256(octets).digest())
        first = next(begun)
        while backend.upkeep():
            pass
        assert ids(reader) == []
        assert first + b"".join(begun) == octets


# What takes room.


def test_the_file_shrinks_when_much_goes(store: SqliteStore) -> None:
    with closing(store.backend(keep=Keep(bytes=500_000))) as backend:
        for number in range(6):
            backend.write(
                [transaction(f"T{number}-{part}", noise(50_000, number * 20 + part)) for part in range(20)],
                durable=False,
            )
        while backend.upkeep():
            pass
    assert store.path.stat().st_size < 500_000 + (1 << 20) + 200_000


def test_bodies_of_the_same_octets_are_kept_once(store: SqliteStore) -> None:
    with closing(store.backend()) as backend:
        for _ in range(2):
            backend.write([transaction(f"T{number}", noise(100_000)) for number in range(5)], durable=False)
        assert len(list(store.bodies.folder.glob("*.zst"))) == 1


async def test_what_crashed_processes_left_is_removed_at_the_start(store: SqliteStore) -> None:
    living = SqliteStore(store.path)
    spool = Spool(living.bodies, 0)
    await spool.add(b"x" * 1000)
    with closing(store.backend()) as backend:
        backend.write([transaction("T1", noise(100_000))], durable=False)
    folder = store.bodies.folder
    kept = set(folder.iterdir())
    for name in (
        "0123456789abcdef-7.zst",
        "0123456789abcdef.lock",
        "young456789abcdef-1.zst",
        "0123456789abcdee-1.zst",
        "notes.txt",
    ):
        (folder / name).touch()
    for path in folder.iterdir():
        if path.name != "0123456789abcdee-1.zst":
            os.utime(path, (time.time() - 7200,) * 2)
    with closing(store.backend()) as backend:
        while backend.upkeep():
            pass
        left = {path.name for path in folder.iterdir() if path not in kept and not path.name.endswith(".lock")}
        assert kept <= set(folder.iterdir())
    assert left == {"young456789abcdef-1.zst", "0123456789abcdee-1.zst", "notes.txt"}
    spool.discard()


async def test_a_small_body_stays_in_memory(store: SqliteStore) -> None:
    spool = Spool(store.bodies, 1000)
    for _ in range(10):
        await spool.add(b"x" * 100)
    assert (await spool.finish())[1:] == (1000, b"x" * 1000, None)
    assert not store.bodies.folder.exists()
    spool.discard()


def test_a_store_can_be_made_by_two_at_once(store: SqliteStore) -> None:
    program = (
        f"from relayproxy.record.store.opening import open_store; open_store('sqlite:{store.path}').backend().close()"
    )
    both = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [one.wait(SOON) for one in both] == [0, 0]
    with closing(store.backend()) as backend:
        backend.write([session(), transaction(at=NOW)], durable=False)
