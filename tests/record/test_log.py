"""The log: nobody waits for it, no transaction line is lost, and it says so when it cannot write (DESIGN §7, PROTOCOL §4 column DF)."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from relayproxy.record.log import Reporter, open_log
from relayproxy.record.report import (
    ClientRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    ReplyRecord,
    SecondsRecord,
    TransactionRecord,
)
from relayproxy.record.report_lines import schema
from relayproxy.record.sink import FileTarget, StreamTarget
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


TIME = "2026-01-02T03:04:05.123456Z"
NOW = 1_767_323_045_123_456_789
SOON = 5.0  # a bound for what happens at once, on a machine that is busy


def transaction(number: int, *, subject: str = "") -> TransactionRecord:
    return TransactionRecord(
        time=TIME,
        session="S",
        transaction=str(number),
        listener="default",
        client=ClientRecord("10.0.0.5", 1, subject),
        upstream=None,
        envelope=EnvelopesRecord(EnvelopeRecord("a@x", {}, ()), None),
        recipients=(),
        message=None,
        reply=ReplyRecord(250, "2.0.0", "ok", "upstream"),
        outcome="accepted",
        acknowledged=True,
        seconds=SecondsRecord(0.012, 0.009),
    )


class Paper:
    """A log in memory. `hold()` stalls it, `fails` are errors that writes give before they succeed, `bite` is the most octets that it takes."""

    def __init__(self, *fails: int, bite: int = 1 << 30) -> None:
        self.text = b""
        self.sheets: list[bytes] = []
        self.tried = threading.Event()
        self.failed = threading.Event()
        self.closed = False
        self._fails = list(fails)
        self._bite = bite
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def write(self, data: bytes, /) -> int:
        self.tried.set()
        self._free.wait()
        if self._fails and (error := self._fails.pop(0)):
            self.failed.set()
            raise OSError(error, os.strerror(error))
        taken = data[: self._bite]
        self.text += taken
        return len(taken)

    def reopen(self) -> bool:
        self.sheets.append(self.text)
        self.text = b""
        return True

    def close(self) -> None:
        self.closed = True

    def lines(self) -> list[dict[str, Any]]:
        assert not self.text or self.text.endswith(b"\n")
        return [json.loads(line) for line in self.text.splitlines()]


def numbers(lines: list[dict[str, Any]]) -> list[int]:
    return [int(line["transaction"]) for line in lines if line["event"] == "transaction"]


# What is told.


def tell_all(reporter: Reporter) -> None:
    reporter.listening("default", "127.0.0.1:2525")
    reporter.session_opened("S", listener="default", address="10.0.0.5", port=1)
    reporter.violation("client", "no", session="S", line=b"AUTH PLAIN c2VjcmV0", reply=local_replies.UNKNOWN_COMMAND)
    reporter.limit("errors", session="S", reply=local_replies.TOO_MANY_ERRORS)
    reporter.error("upstream", "gone", session="S", transaction="1")
    reporter.transaction(transaction(1))
    reporter.session_closed(
        "S", listener="default", why="QUIT", client=ClientRecord("10.0.0.5", 1), transactions=1, seconds=0.1 + 0.2
    )


def test_every_line_fits_the_schema_and_comes_in_order() -> None:
    paper = Paper()
    reporter = Reporter(paper, now=lambda: NOW)
    tell_all(reporter)
    assert reporter.close(SOON)
    assert paper.closed
    validator = Draft202012Validator(schema())
    for line in paper.lines():
        validator.validate(line)
        assert line["time"] == TIME
    assert [line["event"] for line in paper.lines()] == [
        "listening", "session", "violation", "limit", "error", "transaction", "session",
    ]  # fmt: skip
    violation, closed = (paper.lines()[at] for at in (2, 6))
    assert violation["line"] == "AUTH PLAIN <redacted 8>"
    assert violation["reply"]["code"] == 500
    assert (closed["why"], closed["transactions"], closed["seconds"]) == ("QUIT", 1, 0.3)


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("info", {"listening", "session", "violation", "limit", "error", "transaction"}),
        ("warning", {"listening", "violation", "limit", "error", "transaction"}),
        ("error", {"listening", "error", "transaction"}),
    ],
)
def test_a_level_hides_diagnostics_never_transactions(level: Any, events: set[str]) -> None:
    paper = Paper()
    reporter = Reporter(paper, level=level)
    tell_all(reporter)
    assert reporter.close(SOON)
    assert {line["event"] for line in paper.lines()} == events


@pytest.mark.parametrize("level", ["info", "debug"])
def test_text_is_one_line_a_transaction(level: Any) -> None:
    paper = Paper()
    reporter = Reporter(paper, format_="text", level=level, now=lambda: NOW)
    tell_all(reporter)
    assert reporter.close(SOON)
    lines = paper.text.decode().splitlines()
    assert "03:04:05 accepted   a@x > nobody  250 2.0.0 ok  12 ms  1" in lines
    assert any("opened" in line for line in lines) == (level == "debug")
    assert b"\x1b" not in paper.text


def test_a_quotation_is_cut() -> None:
    paper = Paper()
    reporter = Reporter(paper)
    reporter.violation("client", "long", line=b"EHLO " + b"x" * 100_000)
    assert reporter.close(SOON)
    assert len(paper.lines()[0]["line"]) == 512


def fail(error: Exception) -> NoReturn:
    raise error


def test_attack_21_an_exception_tells_its_type_and_place_not_what_it_holds() -> None:
    paper = Paper()
    reporter = Reporter(paper)
    try:
        fail(ExceptionGroup("hunter2", [KeyError("hunter2"), ValueError("hunter2")]))
    except ExceptionGroup as error:
        reporter.error("session", "a fault of ours", exception=error)
    try:
        fail(KeyError("hunter2"))
    except KeyError as error:
        reporter.error("session", "a fault of ours", exception=error)
    assert reporter.close(SOON)
    assert b"hunter2" not in paper.text
    group, single = paper.lines()
    assert [fault["type"] for fault in group["faults"]] == ["KeyError", "ValueError"]
    assert re.fullmatch(rf"{__name__}:[0-9]+", single["faults"][0]["where"][-1])


# Who tells never waits, and nothing is lost.


def test_a_stalled_pipe_stops_nobody_and_loses_no_transaction() -> None:
    reading, writing = os.pipe()
    now = [0.0]
    reporter = Reporter(StreamTarget(writing), clock=lambda: now[0])
    for number in range(2000):  # 700 KiB; the pipe takes 64
        reporter.transaction(transaction(number))
    assert reporter.healthy
    now[0] = 10.1
    assert not reporter.healthy  # the next MAIL hears 451

    got = bytearray()
    while got.count(b"\n") < 2000:
        got += os.read(reading, 1 << 16)
    assert numbers([json.loads(line) for line in got.splitlines()]) == list(range(2000))
    assert reporter.close(SOON)
    assert reporter.healthy
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    reporter = Reporter(StreamTarget(writing))
    for number in range(1000):
        reporter.transaction(transaction(number))
    got = bytearray()
    while got.count(b"\n") < 1000:
        got += os.read(reading, 1 << 16)
        assert reporter.healthy
    assert reporter.close(SOON)
    assert numbers([json.loads(line) for line in got.splitlines()]) == list(range(1000))
    os.close(reading)
    os.close(writing)


def test_diagnostics_are_dropped_and_counted_transactions_never() -> None:
    paper = Paper()
    paper.hold()
    reporter = Reporter(paper, max_waiting=5000)
    for number in range(100):
        reporter.error("test", "x" * 100)
        reporter.transaction(transaction(number))
    paper.release()
    assert reporter.close(SOON)
    lines = paper.lines()
    assert numbers(lines) == list(range(100))
    kept = sum(line["event"] == "error" for line in lines)
    limits = [line for line in lines if line["event"] == "limit"]  # two, where the writer came between
    assert {limit["limit"] for limit in limits} == {"log_bytes"}
    assert sum(limit["dropped"] for limit in limits) == 100 - kept > 0
    Draft202012Validator(schema()).validate(limits[0])


def test_where_a_store_has_them_too_no_more_lines_wait_than_are_to() -> None:
    paper = Paper()
    paper.hold()
    reporter = Reporter(paper, max_kept=5000)
    for number in range(100):
        reporter.transaction(transaction(number))
    paper.release()
    eventually(lambda: b"log_bytes" in paper.text)
    lines = paper.lines()
    kept = numbers(lines)
    assert kept == list(range(len(kept)))
    assert 0 < len(kept) < 20
    assert (lines[-1]["limit"], lines[-1]["dropped"]) == ("log_bytes", 100 - len(kept))
    reporter.transaction(transaction(100))
    assert reporter.close(SOON)
    assert numbers(paper.lines())[-1] == 100


def test_one_line_that_is_longer_than_what_may_wait_is_written() -> None:
    paper = Paper()
    reporter = Reporter(paper, max_kept=10)
    reporter.transaction(transaction(0))
    assert reporter.close(SOON)
    assert numbers(paper.lines()) == [0]


def test_that_nobody_reads_is_told_once() -> None:
    paper = Paper()
    paper.hold()
    now = [0.0]
    alarms: list[str | None] = []
    reporter = Reporter(paper, alarm=alarms.append, clock=lambda: now[0])
    reporter.transaction(transaction(0))
    assert paper.tried.wait(SOON)
    now[0] = 9.9
    reporter.look()
    now[0] = 10.1
    reporter.look()
    reporter.look()
    eventually(lambda: alarms == ["lines have waited for more than 10 s"])
    paper.release()
    eventually(lambda: reporter.healthy)
    reporter.look()
    eventually(lambda: len(alarms) == 2)
    assert reporter.close(SOON)
    assert alarms[1] is None


@pytest.mark.parametrize("bite", [1, 7, 1000])
def test_short_writes_tear_and_double_nothing(bite: int) -> None:
    paper = Paper(bite=bite)
    reporter = Reporter(paper)
    for number in range(20):
        reporter.transaction(transaction(number))
    assert reporter.close(SOON)
    assert numbers(paper.lines()) == list(range(20))


# Where it cannot be written.


def test_a_write_that_fails_is_known_at_once_and_forgotten_once_all_is_written() -> None:
    paper = Paper(0, errno.ENOSPC, errno.EIO, bite=100)  # in the middle of a line
    alarms: list[str | None] = []
    reporter = Reporter(paper, alarm=alarms.append)
    reporter.transaction(transaction(0))
    assert paper.failed.wait(SOON)
    eventually(lambda: not reporter.healthy)
    reporter.transaction(transaction(1))
    eventually(lambda: reporter.healthy)  # by itself
    assert reporter.close(SOON)
    assert numbers(paper.lines()) == [0, 1]
    assert alarms == ["No space left on device", None], "once, however often it is tried"


def eventually(holds: Callable[[], bool]) -> None:
    """The other thread is a step behind its last call of ours."""
    gave_up = threading.Event()
    timer = threading.Timer(SOON, gave_up.set)
    timer.start()
    while not holds():
        assert not gave_up.wait(0.001)
    timer.cancel()


class Watched(FileTarget):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.wrote = threading.Event()

    def write(self, data: bytes, /) -> int:
        try:
            return super().write(data)
        finally:
            self.wrote.set()


def test_a_full_disk(tmp_path: Path) -> None:
    link = tmp_path / "log"
    link.symlink_to("/dev/full")
    reporter = Reporter(FileTarget(link))
    assert reporter.healthy
    reporter.transaction(transaction(0))
    eventually(lambda: not reporter.healthy)
    link.unlink()
    reporter.reopen()  # the administrator made room elsewhere
    eventually(lambda: reporter.healthy)
    assert reporter.close(SOON)
    events = [json.loads(line)["event"] for line in link.read_bytes().splitlines()]
    assert events == ["reload", "transaction"]


def test_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    reporter = Reporter(StreamTarget(writing))
    reporter.transaction(transaction(0))
    eventually(lambda: not reporter.healthy)
    began = time.monotonic()
    assert not reporter.close(10 * SOON)
    assert time.monotonic() - began < SOON, "it fails, it is not slow"
    os.close(writing)


def test_closing_does_not_wait_for_ever() -> None:
    paper = Paper()
    paper.hold()
    reporter = Reporter(paper)
    reporter.transaction(transaction(0))
    assert paper.tried.wait(SOON)
    assert not reporter.close(0.01)
    paper.release()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_ours_in_the_thread_lets_nothing_pass() -> None:
    class Broken(Paper):
        def write(self, data: bytes, /) -> int:
            raise RuntimeError(f"a fault at {len(data)} octets")

    reporter = Reporter(Broken())
    reporter.transaction(transaction(0))
    eventually(lambda: not reporter.healthy)
    assert not reporter.close(SOON)


# Files.


def test_a_file_is_its_owners_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for number in range(2):
        reporter = open_log(path)
        reporter.transaction(transaction(number))
        assert reporter.close(SOON)
    assert path.stat().st_mode & 0o777 == 0o600
    assert numbers([json.loads(line) for line in path.read_bytes().splitlines()]) == [0, 1]


def test_rotation_loses_nothing(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    target = Watched(path)
    reporter = Reporter(target)
    reporter.transaction(transaction(0))
    assert target.wrote.wait(SOON)
    path.rename(old)
    reporter.transaction(transaction(1))
    reporter.reopen()
    reporter.transaction(transaction(2))
    assert reporter.close(SOON)
    before, after = ([json.loads(line) for line in file.read_bytes().splitlines()] for file in (old, path))
    assert numbers(before) + numbers(after) == [0, 1, 2]
    assert [line["what"] for line in after if line["event"] == "reload"] == ["log"]


def test_a_line_that_the_old_file_has_half_of_stands_whole_in_the_new_one() -> None:
    paper = Paper(0, 0, errno.ENOSPC, bite=500)
    paper.hold()
    reporter = Reporter(paper)
    reporter.error("test", "the first batch is this line")
    assert paper.tried.wait(SOON)
    for number in range(3):
        reporter.transaction(transaction(number))
    paper.release()
    assert paper.failed.wait(SOON)
    reporter.reopen()
    assert reporter.close(SOON)
    (old,) = paper.sheets
    whole = [json.loads(line) for line in old.splitlines(keepends=True) if line.endswith(b"\n")]
    assert paper.lines()[0]["event"] == "reload"
    assert numbers(whole) + numbers(paper.lines()) == [0, 1, 2]
    assert not old.endswith(b"\n")  # the test did tear one


def test_a_file_that_cannot_be_opened_anew_keeps_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    target = Watched(folder / "log")
    reporter = Reporter(target)
    reporter.transaction(transaction(0))
    assert target.wrote.wait(SOON)
    folder.rename(tmp_path / "elsewhere")
    reporter.reopen()
    reporter.transaction(transaction(1))
    assert reporter.close(SOON)
    lines = [json.loads(line) for line in (tmp_path / "elsewhere" / "log").read_bytes().splitlines()]
    assert numbers(lines) == [0, 1]
    assert [line["error"] for line in lines if line["event"] == "reload"] == ["No such file or directory"]


def test_what_cannot_be_a_log_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_log(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):  # ENXIO: nobody reads it
        open_log(tmp_path / "fifo")


def test_standard_output_that_is_no_terminal_gets_json(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = open_log(None)
    reporter.listening("default", "127.0.0.1:2525")
    assert reporter.close(SOON)
    assert json.loads(capfd.readouterr().out)["address"] == "127.0.0.1:2525"


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_text_in_colour(environment: dict[str, str], *, coloured: bool) -> None:
    program = "from relayproxy.record.log import open_log; r = open_log(None); r.listening('default', '[::1]:25'); assert r.close(5)"
    outer, inner = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", program], stdout=inner, check=True, env={**clean, **environment})
    shown = os.read(outer, 4096)
    os.close(outer)
    os.close(inner)
    assert b"on [::1]:25 (default)" in shown
    assert (b"\x1b[" in shown) == coloured


def test_a_record_that_json_cannot_hold_is_still_told() -> None:
    paper = Paper()
    reporter = Reporter(paper)
    record = msgspec.structs.replace(transaction(0), client=ClientRecord("10.0.0.5", 1, "\ud800"))
    reporter.transaction(record)
    assert reporter.close(SOON)
    assert paper.lines()[0]["client"]["helo"] == r"\xed\xa0\x80"
