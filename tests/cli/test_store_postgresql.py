"""A store in PostgreSQL, as who runs a relay and who looks at recordings meets it; and that its password is shown nowhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from postgresql import name_of, server
from scripted_server import scripted
from stored import BODY, HEADER, TRACED, message, record, session, wire

from relayproxy.cli import main
from relayproxy.cli.store_url import store_url
from relayproxy.record.report import EnvelopesRecord, HeldRecord
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postgresql import Server

SECRET = "hunter2"  # noqa: S105 - of nobody
NOWHERE = f"postgresql://app:{SECRET}@127.0.0.1:1/mail"


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)


@pytest.fixture
def url(postgresql: Server) -> Iterator[str]:
    """With a password, which this server does not ask for."""
    with postgresql.database() as made:
        yield made.url.replace("relay@", f"relay:{SECRET}@")


def test_check_shows_it_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text(f'[record]\nstore = "{NOWHERE}"\n')
    assert main(["check"]) == 0
    told = capsys.readouterr()
    assert 'store = "postgresql://app:***@127.0.0.1:1/mail"' in told.out
    assert SECRET not in told.out + told.err


@pytest.mark.parametrize("written", [f"postgres://app:{SECRET}@db/mail", f"postgresql://app:{SECRET}@db/ mail"])
@pytest.mark.parametrize("verb", ["check", "run", "list"])
def test_what_is_wrong_with_it_is_told_without(written: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text(f'[record]\nstore = "{written}"\n')
    assert main([verb]) == 2
    told = capsys.readouterr()
    assert "expected sqlite:PATH" in told.err
    assert "***" in told.err
    assert SECRET not in told.out + told.err


def test_it_is_no_path() -> None:
    Path("relayproxy.toml").write_text(f'[record]\nstore = "{NOWHERE}"\n')
    assert store_url(None, None, {}) == NOWHERE


@pytest.mark.parametrize("verb", [["list"], ["show"], ["tail"], ["release", "latest"], ["backtest", "x"]])
def test_nobody_is_there(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb, "--store", NOWHERE]) == 1
    told = capsys.readouterr().err
    assert told.startswith("relayproxy: postgresql://app:***@127.0.0.1:1/mail: ")
    assert "Connection refused" in told
    assert SECRET not in told


@pytest.mark.interop
def test_what_stays_wrong_ends_a_relay_for_good(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    start, _, host = url.partition("?")
    for wrong in (f"{start}_not?{host}", url.replace("relay:", "nobody:")):
        assert main(["run", "--listen", "127.0.0.1:0", "--store", wrong]) == 2
        told = capsys.readouterr().err
        assert "does not exist" in told
        assert SECRET not in told


@pytest.mark.interop
def test_a_relay_shows_its_password_nowhere(url: str) -> None:
    flags = ["--listen", "127.0.0.1:0", "--upstream", "capture:", "--log", "-", "--log-format", "json"]
    Path("relayproxy.toml").write_text(f'state = "state"\n[record]\nstore = "{url}"\n')
    with subprocess.Popen(
        [sys.executable, "-m", "relayproxy", "run", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "mail is kept in postgresql://relay:***@/test" in err
    assert SECRET not in first + out + err


@pytest.mark.interop
def test_recordings_are_read_from_it(url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    backend = open_store(url).backend()
    backend.write([session(wire()), TransactionWrite(record(), message(), final=True)], durable=False)
    backend.close()
    assert main(["list", "--json", "sender:*@example.com", "--store", url]) == 0
    assert json.loads(capfdbinary.readouterr().out)["transaction"] == "T1"
    assert main(["show", "latest", "--message", "--store", url]) == 0
    assert capfdbinary.readouterr().out == HEADER + b"\r\n" + BODY
    assert main(["show", "t1", "--store", url]) == 0
    assert b"C> MAIL FROM:<a@example.com>" in capfdbinary.readouterr().out
    assert main(["export", "--format", "mbox", "--store", url]) == 0
    assert b"Subject: hi" in capfdbinary.readouterr().out


@pytest.mark.interop
def test_what_is_held_there_is_released_once(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = record()
    envelope = made.envelope.received
    held = msgspec.structs.replace(
        made, outcome="held", held=HeldRecord("let me see", envelope), envelope=EnvelopesRecord(envelope, None)
    )
    content = b"line\r\n" + noise(400_000) + b"\r\n"
    with closing(open_store(url).backend()) as backend:
        kept = message(content=content, header_sent=TRACED)
        backend.write([TransactionWrite(held, kept, final=True)], durable=True)
    with scripted({}) as server:
        Path("relayproxy.toml").write_text(f'[record]\nstore = "{url}"\n[upstream.provider]\nurl = "{server.url}"\n')
        assert main(["release", "held:true"]) == 0
    assert server.data == TRACED + b"\r\n" + content
    assert main(["release", "t1"]) == 1
    assert "T1 was released already" in capsys.readouterr().err


def noise(octets: int) -> bytes:
    """Lines that nothing makes much smaller."""
    return b"\r\n".join([os.urandom(35).hex().encode() for _ in range(octets // 72)])


def next_id(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return str(json.loads(process.stdout.readline())["transaction"])


@contextmanager
def tailing(url: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "relayproxy", "tail", "--store", url, "-n", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.interop
@pytest.mark.slow
def test_tail_follows_whoever_writes(url: str, postgresql: Server) -> None:
    ends = [open_store(url).backend() for _ in range(2)]
    ends[0].write([TransactionWrite(record("S1", "T0"), None, final=True)], durable=False)
    with tailing(url) as process:
        assert next_id(process) == "T0"
        for number in range(1, 7):
            if number == 4:  # its own connection is cut, too
                postgresql.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%' AND pid <> pg_backend_pid()"
                )
            write = TransactionWrite(record("S1", f"T{number}", outcome="unknown"), message())
            ends[number % 2].write([write], durable=False)
            ends[number % 2].write([write._replace(record=record("S1", f"T{number}"), final=True)], durable=False)
            assert next_id(process) == f"T{number}"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == 0
    for end in ends:
        end.close()


@pytest.mark.interop
@pytest.mark.slow
def test_tail_outlives_the_server_and_follows_it_back() -> None:
    """As where a standby takes over that had not heard of all: what was told is told no more, and all that is new."""

    def told(name: str) -> TransactionWrite:
        return TransactionWrite(record("S1", name), None, final=True)

    with server() as own, own.database() as made, closing(open_store(made.url).backend()) as backend:
        backend.write([told(f"T{number}") for number in range(4)], durable=False)
        with tailing(made.url) as process:
            assert next_id(process) == "T3"
            backend.write([told("T4"), told("T5")], durable=False)
            assert [next_id(process), next_id(process)] == ["T4", "T5"]
            own.ask(
                "DELETE FROM relayproxy.revisions WHERE number = (SELECT max(number) FROM relayproxy.revisions)",
                name_of(made),
            )
            backend.write([told("T6")], durable=False)
            assert next_id(process) == "T6"
            own.stop()
            assert process.stderr
            assert "tried again each second" in process.stderr.readline()
            own.start()
            assert "there again" in process.stderr.readline()
            backend.write([told("T8")], durable=False)
            assert next_id(process) == "T8"
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=20)[1] == ""
            assert process.returncode == 0
