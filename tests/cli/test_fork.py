"""`relayproxy replay SELECT --until N --then ...`: the same session, up to a command, and what follows: typed, piped in, or read of a dialog."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_server import SILENCE, scripted
from stored import BEGAN, kept_in, message, record, session, wire

from relayproxy.cli import main
from relayproxy.record.store.interface import TransactionWrite

if TYPE_CHECKING:
    from collections.abc import Iterator

DIALOG = """relayproxy dialog 1
C< 220 relay
C> EHLO app-1
C< 250 relay
C> MAIL FROM:<a@example.com>
& C> RCPT TO:<jane@customer.example>
& C> DATA
C< 250 2.1.0 ok
C< 250 2.1.5 ok
C< 354 go
C> |Subject: hi
C> |
C> |.
C< 250 2.0.0 queued
C> QUIT
C< 221 2.0.0 bye
"""
TO_RCPT, TO_DATA, TO_MESSAGE = 3, 4, 5
#: A process of its own, but for the server.
BY_HAND = [sys.executable, "-m", "relayproxy", "replay", "one.dialog", "--until", str(TO_RCPT), "--then", "interactive"]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)
    Path("one.dialog").write_text(DIALOG, encoding="utf-8")
    Path("relayproxy.toml").write_text('hostname = "relay.test"\nstate = "state"\n', encoding="utf-8")


@contextmanager
def typed(octets: bytes, *, stays: bool = False) -> Iterator[None]:
    """On standard input; which ends then, unless it `stays` open."""
    reads, writes = os.pipe()
    before = os.dup(0)
    os.dup2(reads, 0)
    os.close(reads)
    os.write(writes, octets)
    if not stays:
        os.close(writes)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        if stays:
            os.close(writes)


def forked(to: str, until: int, then: str = "interactive", *more: str) -> int:
    return main(["replay", "one.dialog", "--to", to, "--until", str(until), "--then", then, *more])


def goes_on(*lines: str) -> str:
    """The name of a dialog that has these lines."""
    Path("on.dialog").write_text("\n".join(["relayproxy dialog 1", *lines, ""]), encoding="utf-8")
    return "on.dialog"


def test_what_is_piped_in_is_said_where_the_session_stood(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server, typed(b"RCPT TO:<joe@customer.example>\nDATA\nX: y\n\n.hidden\n.\n"):
        assert forked(server.url, TO_RCPT) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "one.dialog  same: 4 replies",
        "C< 250 2.1.5 ok",
        "C> RCPT TO:<joe@customer.example>",
        "C< 250 2.1.5 ok",
        "C> DATA",
        "C< 354 go on",
        "C> |X: y",
        "C> |",
        "C> |..hidden",
        "C> |.",
        "C< 250 2.0.0 queued as 42",
        "C> QUIT",
        "C< 221 2.0.0 Closing connection",
    ]
    assert "handed over behind 3 (RCPT TO:<jane@customer.example>)" in told.err
    assert "a line each (the relay in between answers EHLO, RSET without a MAIL, and what is no command)" in told.err
    assert [line for line in server.lines if line.startswith(b"RCPT")] == [
        b"RCPT TO:<jane@customer.example>\r\n",
        b"RCPT TO:<joe@customer.example>\r\n",
    ]
    assert server.messages[0].endswith(b"X: y\r\n\r\n..hidden\r\n")


def test_behind_data_what_comes_is_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server, typed(b"Subject: typed\r\n\r\n.\r\nQUIT"):
        assert forked(server.url, TO_DATA) == 0
    assert server.messages[0].endswith(b"Subject: typed\r\n\r\n")
    assert "what you type is the message" in capsys.readouterr().err


def test_who_stops_in_the_middle_of_a_message_sends_none(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server, typed(b"Subject: half\n"):
        assert forked(server.url, TO_DATA) == 0
    assert server.messages == []
    assert "relayproxy: the message was not ended with a dot, and is not sent\n" in capsys.readouterr().err


def test_a_file_is_as_good_as_a_pipe() -> None:
    Path("typed").write_bytes(b"NOOP\n")
    before = os.dup(0)
    file = os.open("typed", os.O_RDONLY)
    os.dup2(file, 0)
    try:
        with scripted({"NOOP": "250 2.0.0 ok"}) as server:
            assert forked(server.url, TO_MESSAGE) == 0
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(file)
    assert [line.split()[0] for line in server.lines][-2:] == [b"NOOP", b"QUIT"]


def test_a_stored_session_forks_too() -> None:
    kept_in(
        Path("relayproxy.db"),
        session(wire("01T1"), "01S1", began=BEGAN),
        TransactionWrite(record("01S1", "01T1"), message(), final=True),
    )
    with scripted() as server, typed(b""):
        assert main(["replay", "latest", "--to", server.url, "--until", "2", "--then", "interactive"]) == 0
    assert [line.split()[0] for line in server.lines] == [b"EHLO", b"MAIL", b"RSET", b"QUIT"]


def test_what_was_never_answered_then_is_answered_before_anybody_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.dialog").write_text(DIALOG.partition("& C> RCPT")[0] + "C close\n", encoding="utf-8")
    with scripted() as server, typed(b""):
        assert forked(server.url, 2) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["one.dialog  same: 2 replies", "C< 250 2.1.0 ok"]


def test_the_guard_holds_for_what_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("relayproxy.toml").open("a", encoding="utf-8") as file:
        file.write('[guard]\nallow = ["*@customer.example"]\n')
    with scripted() as server, typed(b"RCPT TO:<joe@elsewhere.example>\n"):
        assert forked(server.url, TO_RCPT) == 0
    assert b"elsewhere" not in b"".join(server.lines)
    assert "C< 550 5.7.1 This relay sends no mail to that address" in capsys.readouterr().out


def test_what_was_different_on_the_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({"RCPT": "550 5.1.1 nobody"}) as server, typed(b""):
        assert forked(server.url, TO_RCPT) == 1
    told = capsys.readouterr()
    assert "    - 250 2.1.5 ok\n    + 550 5.1.1 nobody\n" in told.out
    assert "handed over behind 3" in told.err


@pytest.mark.parametrize(
    ("replies", "until", "why"),
    [
        ({"DATA": "554 5.0.0 no"}, TO_DATA, "4 (DATA) was not reached: DATA was refused: 554 5.0.0 no"),
        (
            {"DATA": "554 5.0.0 no"},
            TO_MESSAGE,
            "5 (the message (18 octets)) was not reached: DATA was refused, so that the message was not sent",
        ),
        ({"MAIL": ""}, TO_RCPT, "3 (RCPT TO:<jane@customer.example>) was not reached: the server would not go on: 421"),
    ],
)
@pytest.mark.parametrize("then", ["interactive", "on.dialog"])
def test_where_it_does_not_get_there_nobody_goes_on(
    replies: dict[str, str], until: int, why: str, then: str, capsys: pytest.CaptureFixture[str]
) -> None:
    goes_on(*(["C> |.", "C< 250 2.0.0 *"] if until == TO_DATA else ["C> NOOP", "C< 250 2.0.0 *"]))
    with scripted(replies) as server, typed(b"NOOP\n"):
        assert forked(server.url, until, then) == 1
    told = capsys.readouterr()
    assert f"relayproxy: not handed over, {why}" in told.err
    assert "NOOP" not in told.out


# A dialog goes on.


def test_a_dialog_goes_on_and_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    then = goes_on(
        "C> RCPT TO:<joe@x.test>", "C< 550 5.1.1 no", "C> DATA", "C< 354 *", "C> |hi", "C> |.", "C< 250 2.0.0 *"
    )
    with scripted() as server:
        assert forked(server.url, TO_RCPT, then) == 1
    told = capsys.readouterr()
    assert told.out == ("one.dialog  1 difference\n  RCPT TO:<joe@x.test>\n    - 550 5.1.1 no\n    + 250 2.1.5 ok\n")
    assert told.err == "relayproxy: no guard: mail goes to whom it was recorded for\n"
    assert server.messages[0].endswith(b"hi\r\n")


def test_a_dialog_goes_on_behind_354_with_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({".": "554 5.7.1 no"}) as server:
        assert forked(server.url, TO_DATA, goes_on("C> |hi", "C> |.", "C< 554 5.7.1 never"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["session"], told["same"], told["replies"]) == ("one.dialog", True, 6)
    assert server.messages[0].endswith(b"hi\r\n")


# What was asked for.

LISTED = "".join(
    f"    {number}  {what}\n"
    for number, what in enumerate(
        ["the connection", "EHLO app-1", "MAIL FROM:<a@example.com>", "RCPT TO:<jane@customer.example>", "DATA"]
    )
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--until", "7", "--then", "interactive"], f"relayproxy: --until: expected a number of 0 to 6, got 7\n{LISTED}"),
        (["--until=-1", "--then", "interactive"], f"relayproxy: --until: expected a number of 0 to 6, got -1\n{LISTED}"),
        (["--then", "interactive"], f"relayproxy: expected --until with --then: the number of a command\n{LISTED}"),
        (["--until", "3"], "expected --then with --until: interactive, or a .dialog file"),
        (["--until", "3", "--then", "cat"], "--then: expected interactive or a .dialog file, got 'cat'"),
        (["--until", "3", "--then", "no.dialog"], "no.dialog: No such file or directory"),
        (["--until", "4", "--then", "one.dialog"], "--then: one.dialog: expected mail data (C> |...) behind DATA, found EHLO"),
        (["--until", "3", "--then", "empty.dialog"], "--then: empty.dialog: expected a session, found none"),
        (["--until", "3", "--then", "interactive", "--json"], "expected --json with --then FILE"),
        (["--until", "3", "--then", "interactive", "--loop", "2"], "expected one session with --until, got --loop"),
        (["--until", "3", "--then", "interactive", "--concurrency", "2"], "expected one session with --until"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.dialog").write_text("relayproxy dialog 1\n", encoding="utf-8")
    assert main(["replay", "one.dialog", "--to", "smtp://127.0.0.1:1", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_it_is_one_session_that_forks(capsys: pytest.CaptureFixture[str]) -> None:
    two = f"{DIALOG}@ session 01S2\n{DIALOG.partition(chr(10))[2]}"
    Path("one.dialog").write_text(two, encoding="utf-8")
    assert forked("smtp://127.0.0.1:1", 1) == 2
    assert capsys.readouterr().err == "relayproxy: expected one session with --until, got 2: one.dialog, 01S2\n"


# Whole processes.


@pytest.mark.slow
def test_on_a_terminal() -> None:
    ours, its = pty.openpty()
    shown = bytearray()

    def read_until(*words: bytes) -> None:
        while not all(word in shown for word in words):
            try:
                shown.extend(os.read(ours, 65536))
            except OSError:  # the terminal has gone
                return

    with (
        scripted({"DATA": "354 go\x1b[5m on"}) as server,
        subprocess.Popen([*BY_HAND, "--to", server.url], stdin=its, stdout=its, stderr=its) as process,
    ):
        os.close(its)
        read_until(b"Ctrl-D ends with QUIT", b"C< 250 2.1.5 ok")
        os.write(ours, b"DATA\n")
        read_until(b"C< 354 go?[5m on")
        os.write(ours, b"hello\n.\n")
        read_until(b"C< 250 2.0.0 queued as 42")
        os.write(ours, b"\x04")
        read_until(b"C< 221 2.0.0 bye", b"never")
        assert process.wait(30) == 0
    os.close(ours)
    assert b"C> " not in shown  # the terminal shows what is typed
    assert server.messages[0].endswith(b"hello\r\n")


@pytest.mark.slow
def test_a_signal_gives_it_up() -> None:
    with (
        scripted({"DATA": SILENCE}) as server,
        subprocess.Popen([*BY_HAND, "--to", server.url], stdin=-1, stdout=-1, stderr=-1) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b"DATA\n")
        process.stdin.flush()
        assert server.silent.wait(30)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)  # not even what the server has not answered is waited for
        _, err = process.communicate(timeout=30)
    assert process.returncode in {128 + signal.SIGINT, 128 + signal.SIGTERM}
    assert re.search(rb"^relayproxy: stopped; the session was given up$", err, re.MULTILINE)


def test_what_is_not_said_since_the_server_ended_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({"NOOP": "421 4.3.2 bye"}) as server, typed(b"NOOP\nRCPT TO:<joe@x.test>\nRSET\nDATA"):
        assert forked(server.url, TO_MESSAGE) == 1
    assert "relayproxy: the server ended it; 3 lines were not said\n" in capsys.readouterr().err
    assert not [line for line in server.lines if line.startswith(b"RCPT TO:<joe")]


def test_nor_is_anything_behind_quit(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server, typed(b"QUIT\nRCPT TO:<joe@x.test>\nNOOP\n"):
        assert forked(server.url, TO_MESSAGE) == 1
    told = capsys.readouterr()
    assert "relayproxy: QUIT ended it; 2 lines were not said\n" in told.err
    assert told.out.splitlines()[-2:] == ["C> QUIT", "C< 221 2.0.0 Closing connection"]


def test_nor_behind_a_message_that_ended_it(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({".": "421 4.3.2 bye"}) as server, typed(b"DATA\nX: y\n\n.\nNOOP\n"):
        assert forked(server.url, TO_RCPT) == 1
    told = capsys.readouterr()
    assert "relayproxy: the server ended it; 1 line was not said\n" in told.err
    assert told.out.splitlines()[-2:] == ["C> |.", "C< 421 4.3.2 bye"]


def test_a_message_behind_a_refused_data_is_not_said_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    message = b"Subject: hi\n\nQUIT\nRCPT TO:<joe@x.test>\n.\n"
    with scripted({"DATA": "451 4.3.0 later"}) as server, typed(b"DATA\n" + message + b"RSET\n"):
        assert forked(server.url, TO_RCPT) == 1
    told = capsys.readouterr()
    assert "relayproxy: DATA was refused; of what was to be its message, 5 lines were not said\n" in told.err
    assert told.out.splitlines()[-5:] == [
        "C< 451 4.3.0 later",
        "C> RSET",
        "C< 250 2.0.0 ok",
        "C> QUIT",
        "C< 221 2.0.0 Closing connection",
    ]


def test_a_command_behind_a_refused_data_is_one() -> None:
    with scripted({"DATA": "451 4.3.0 later"}) as server, typed(b"DATA\nRSET\nFROB\n"):
        assert forked(server.url, TO_RCPT) == 0
    assert b"RSET\r\n" in server.lines


@pytest.mark.parametrize("login", ["AUTH PLAIN AGFwcABPcGVuLlNlc2FtZQ==", "auht plain AGFwcABPcGVuLlNlc2FtZQ=="])
def test_no_secret_of_a_login_is_shown(login: str, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server, typed(f"{login}\n".encode()):
        forked(server.url, TO_MESSAGE)
    told = capsys.readouterr()
    assert f"C> {login[:11]}<redacted 24>" in told.out.splitlines()
    assert "AGFwc" not in told.out + told.err
