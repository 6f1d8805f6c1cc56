"""`relayproxy tail` as a process: what another process writes comes out once, when it is final; signals and pipes end it in good order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest
from stored import kept_in, message, record, reopened, session

from relayproxy.record.report import timestamp
from relayproxy.record.store.interface import TransactionWrite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@contextmanager
def tailing(store: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "relayproxy", "tail", "--store", f"sqlite:{store}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def next_id(output: IO[bytes] | None) -> str:
    assert output
    return str(json.loads(output.readline())["transaction"])


def test_each_comes_once_when_it_is_final(tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    kept_in(
        store,
        TransactionWrite(record("S1", "T0"), None, final=True),
        TransactionWrite(record("S1", "T1"), None, final=True),
    )
    with tailing(store, "-n", "1") as process:
        assert next_id(process.stdout) == "T1"
        with reopened(store) as backend:
            backend.write([TransactionWrite(record("S1", "T2", outcome="unknown"), message())], durable=False)
            backend.write([TransactionWrite(record("S1", "T3"), message(), final=True)], durable=False)
            assert next_id(process.stdout) == "T3"
            backend.write([TransactionWrite(record("S1", "T2"), None, final=True)], durable=False)
            assert next_id(process.stdout) == "T2"
            backend.write([TransactionWrite(record("S1", "T3"), None, final=True)], durable=False)
            backend.write([TransactionWrite(record("S1", "T4"), None, final=True)], durable=False)
            assert next_id(process.stdout) == "T4"


def test_a_session_s_alone(tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    kept_in(store, session([]), TransactionWrite(record("S1", "T1"), None, final=True))
    with tailing(store, "s1", "-n", "9") as process:
        assert next_id(process.stdout) == "T1"
        kept_in(store, TransactionWrite(record("S2", "T2"), None, final=True))
        kept_in(store, TransactionWrite(record("S1", "T3"), None, final=True))
        assert next_id(process.stdout) == "T3"


def test_what_an_expression_chooses(tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    kept_in(store, TransactionWrite(record("S1", "T1"), None, final=True))
    with tailing(store, "outcome:rejected | transaction:T1", "-n", "9") as process:
        assert next_id(process.stdout) == "T1"
        kept_in(store, TransactionWrite(record("S2", "T2"), None, final=True))
        kept_in(store, TransactionWrite(record("S2", "T3", outcome="rejected"), None, final=True))
        assert next_id(process.stdout) == "T3"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(number: signal.Signals, tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    kept_in(store, TransactionWrite(record("S1", "T1"), None, final=True))
    with tailing(store, "-n", "1") as process:
        next_id(process.stdout)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b"")


def test_it_ends_when_nobody_reads_though_nothing_comes(tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    kept_in(store, TransactionWrite(record("S1", "T1"), None, final=True))
    with tailing(store, "-n", "1") as process:
        next_id(process.stdout)
        assert process.stdout
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr
        assert process.stderr.read() == b""


def test_a_store_that_is_made_anew_in_its_place_is_followed(tmp_path: Path) -> None:
    store = tmp_path / "relayproxy.db"
    for number in range(9):
        kept_in(store, TransactionWrite(record("S1", f"T{number}"), None, final=True))
    with tailing(store, "-n", "1") as process:
        assert next_id(process.stdout) == "T8"
        now = timestamp(time.time_ns())
        for path in tmp_path.iterdir():
            path.rename(path.with_name(f"old-{path.name}"))
        assert process.stderr
        assert b"was moved, removed or emptied" in process.stderr.readline()
        kept_in(
            store,
            TransactionWrite(record("S1", "T8"), None, final=True),
            TransactionWrite(record("S2", "before it began"), None, final=True),
            TransactionWrite(record("S2", "T9", time=now), None, final=True),
        )
        assert next_id(process.stdout) == "T9"
        assert b"there again" in process.stderr.readline()
        kept_in(store, TransactionWrite(record("S2", "T10", time=now), None, final=True))
        assert next_id(process.stdout) == "T10"
