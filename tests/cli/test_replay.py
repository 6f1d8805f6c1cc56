"""`relayproxy replay`: what is said to the target, what is told of its answers, and that guard and rules stand in between."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from outputs import unread
from real_aiosmtpd import aiosmtpd
from scripted_server import SILENCE, scripted
from stored import BEGAN, BODY, HEADER, kept_in, message, record, session, wire

from relayproxy.cli import main
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.opening import open_store

#: As it is on the wire.
LEFT = HEADER + b"\r\n" + BODY.replace(b"\r\n.", b"\r\n..")
#: What is said first.
UNGUARDED = "relayproxy: no guard: mail goes to whom it was recorded for\n"
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
C> |hello
C> |.
C< 250 2.0.0 queued
C> QUIT
C< 221 2.0.0 bye
"""


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)
    Path("one.dialog").write_text(DIALOG, encoding="utf-8")
    configured()


def configured(*lines: str) -> None:
    """./relayproxy.toml."""
    text = "\n".join(['hostname = "relay.test"', 'state = "state"', *lines, ""])
    Path("relayproxy.toml").write_text(text, encoding="utf-8")


def kept(*numbers: int) -> None:
    """So many sessions in the store, each with a transaction and its message."""
    for number in numbers:
        id_, transaction = f"01S{number}", f"01T{number}"
        told = record(id_, transaction)
        whole = TransactionWrite(told, message(), final=True)
        kept_in(Path("relayproxy.db"), session(wire(transaction), id_, began=BEGAN + number), whole)


def without_trace(octets: bytes) -> bytes:
    """Without the relay's Received field."""
    assert octets.startswith(b"Received:")
    return octets.partition(b"\r\nFrom:")[1][2:] + octets.partition(b"\r\nFrom:")[2]


def test_stored_sessions_are_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    kept(1, 2)
    with scripted(sessions=2) as server:
        assert main(["replay", "sender:*", "--to", server.url]) == 0
    told = capsys.readouterr()
    assert told.out == "01S1  same: 7 replies\n01S2  same: 7 replies\n"
    assert told.err == f"{UNGUARDED}relayproxy: 2 of 2 sessions replayed: 2 the same, 0 different\n"
    assert [line.split(b" SIZE")[0].strip() for line in server.lines] == 2 * [
        b"EHLO relay.test",
        b"MAIL FROM:<a@example.com>",
        b"RCPT TO:<jane@customer.example>",
        b"DATA",
        b"QUIT",
    ]
    assert [without_trace(octets) for octets in server.messages] == [LEFT, LEFT]
    with open_store("sqlite:relayproxy.db").reader() as reader:
        assert len(reader.ids("", limit=99)) == 4  # a replay is no recording


def test_a_server_that_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({"RCPT": "550 5.1.1 nobody"}) as server:
        assert main(["replay", "one.dialog", "--to", server.url]) == 1
    assert capsys.readouterr().out == (
        "one.dialog  1 difference\n  RCPT TO:<jane@customer.example>\n    - 250 2.1.5 ok\n    + 550 5.1.1 nobody\n"
    )
    assert server.messages == []


def test_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    kept(1, 2)
    with scripted({".": "554 5.7.1 no"}, sessions=2) as server:
        assert main(["replay", "01S", "--to", server.url, "--json"]) == 2  # of several
        assert main(["replay", "sender:*", "--to", server.url, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["session"], line["same"]) for line in lines] == [
        ("replay", "01S1", False),
        ("replay", "01S2", False),
    ]
    (difference,) = lines[0]["differences"]
    assert (difference["expected"]["code"], difference["got"]["code"]) == (250, 554)


def test_nobody_outside_of_the_guard_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    configured("[guard]", 'allow = ["*@example.test"]')
    with scripted() as server:
        assert main(["replay", "one.dialog", "--to", server.url]) == 1
    assert not [line for line in server.lines if line.startswith(b"RCPT")]
    assert "+ 550 5.7.1 This relay sends no mail to that address" in capsys.readouterr().out


def test_what_the_guard_captures_is_in_the_store() -> None:
    configured("[guard]", 'allow = ["*@example.test"]', 'otherwise = "capture"')
    with scripted() as server:
        main(["replay", "one.dialog", "--to", server.url])
    assert server.messages == []
    with open_store("sqlite:relayproxy.db").reader() as reader:
        (stored,) = reader.transactions()
        assert b"".join(reader.message(stored) or ()) == b"Subject: hi\r\n\r\nhello\r\n"


RULES = """
[[rule]]
name = "all mail to QA"
when = { recipient = "*" }
then = [{ redirect_recipient = "qa@example.test" }]
"""


@pytest.mark.parametrize("flag", [True, False])
def test_rules_apply_on_the_way(flag: bool) -> None:
    Path("qa.toml").write_text(RULES, encoding="utf-8")
    configured("[rules]", 'files = ["qa.toml"]') if not flag else configured()
    with scripted() as server:
        assert main(["replay", "one.dialog", "--to", server.url, *(["--rules", "qa.toml"] if flag else [])]) == 0
    assert b"RCPT TO:<qa@example.test>\r\n" in server.lines


def test_no_rule_sends_it_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    text = '[[rule]]\nname = "away"\nwhen = { sender = "*" }\nthen = [{ route = "other" }]\n'
    Path("away.toml").write_text(text, encoding="utf-8")
    upstreams = [f'[upstream.{name}]\nurl = "smtp://127.0.0.1:1"' for name in ("one", "other")]
    configured("[[listener]]", 'upstream = "one"', *upstreams, "[rules]", 'files = ["away.toml"]')
    for to in ("smtp://127.0.0.1:1", "one"):
        assert main(["replay", "one.dialog", "--to", to]) == 2
        assert "expected the name of an upstream, got 'other'" in capsys.readouterr().err


def test_a_new_message_id() -> None:
    kept(1)
    with scripted(sessions=2) as server:
        assert main(["replay", "01S1", "--to", server.url, "--new-message-id", "--loop", "2"]) == 0
    ids = [line for octets in server.messages for line in octets.split(b"\r\n") if line.startswith(b"Message-ID:")]
    assert len(set(ids)) == 2
    assert all(line.endswith(b"@relay.test>") for line in ids)


def test_an_upstream_of_the_configuration_with_its_credentials() -> None:
    offers = {"EHLO": "250-server.test\r\n250 AUTH PLAIN", "AUTH": "235 2.7.0 ok"}
    Path("secret").write_text("Open.Sesame\n", encoding="ascii")
    with scripted(offers) as server:
        configured("[upstream.mx]", f'url = "{server.url}"', 'credentials = { user = "app", password_file = "secret" }')
        assert main(["replay", "one.dialog", "--to", "mx"]) == 0
    assert [line.split()[0] for line in server.lines] == [b"EHLO", b"AUTH", b"MAIL", b"RCPT", b"DATA", b"QUIT"]


def test_another_name_in_ehlo() -> None:
    with scripted() as server:
        assert main(["replay", "one.dialog", "--to", server.url, "--ehlo", "other.test"]) == 0
    assert server.lines[0] == b"EHLO other.test\r\n"
    assert server.messages[0].startswith(b"Received: from other.test ")


def test_it_needs_no_state_folder() -> None:
    Path("state").touch()  # as good as a home that is read-only
    with scripted() as server:
        assert main(["replay", "one.dialog", "--to", server.url]) == 0
    assert len(server.messages) == 1


def test_a_session_that_ended_in_the_middle_sends_no_dot() -> None:
    cut = DIALOG.partition("C> |.")[0] + "C close\n"
    Path("cut.dialog").write_text(cut, encoding="utf-8")
    with scripted() as server:
        assert main(["replay", "cut.dialog", "--to", server.url]) == 0
    assert server.lines[-1] == b"DATA\r\n"
    assert server.messages == []
    assert server.data.endswith(b"Subject: hi\r\n\r\nhello")


def test_what_was_not_kept_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    kept_in(
        Path("relayproxy.db"), session(wire("01T1"), "01S1"), TransactionWrite(record("01S1", "01T1"), None, final=True)
    )
    kept_in(Path("relayproxy.db"), TransactionWrite(record("01S2", "01T2"), message(), final=True))
    assert main(["replay", "sender:*", "--to", "smtp://127.0.0.1:1"]) == 1
    told = capsys.readouterr().out
    assert "not replayed: the message was not kept" in told
    assert "not replayed: nothing is kept of what was said on the wire" in told


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "one.dialog", "--to", "smtp://127.0.0.1:1"]) == 1
    told = capsys.readouterr()
    assert "+ 421 4.4.1 The mail server behind this relay cannot be reached" in told.out
    assert "relayproxy: smtp://127.0.0.1:1: connection refused\n" in told.err


def test_a_server_that_hangs_up(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({".": ""}) as server:
        assert main(["replay", "one.dialog", "--to", server.url]) == 1
    told = capsys.readouterr().out
    assert "  the message (25 octets)\n    - 250 2.0.0 queued\n    + 451 4.4.2 The connection to the mail" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "nowhere"], "--to: expected smtp://"),
        (["--to", "capture:"], "expected a server, got capture:"),
        (["--to", "capture"], "expected a server, got capture, which is capture:"),
        (["--to", "smtp://x", "--speed", "0"], "--speed: expected a number greater than 0"),
        (["--to", "smtp://x", "--speed", "nan"], "--speed: expected a number greater than 0"),
        (["--to", "smtp://x", "--timing", "fast", "--speed", "2"], "--speed with --timing recorded"),
        (["--to", "smtp://x", "--concurrency", "0"], "--concurrency: expected a number of at least 1, got 0"),
        (["--to", "smtp://x", "--loop", "-1"], "--loop: expected a number of at least 1, got -1"),
        (["--to", "smtp://x", "--ehlo", "a b"], "--ehlo: expected a host name"),
        (["--to", "smtp://x", "--rules", "none.toml"], "none.toml"),
        ([], "--to"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "one.dialog", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_nothing_to_replay(capsys: pytest.CaptureFixture[str]) -> None:
    kept(1)
    assert main(["replay", "sender:nobody@*", "--to", "smtp://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == "relayproxy: nothing matched\n"


class Together:
    """Takes a message once so many sessions want to give it one; knows how many were there at most."""

    def __init__(self, sessions: int) -> None:
        self._barrier = asyncio.Barrier(sessions)
        self._there: set[int] = set()
        self.most = 0

    async def handle_EHLO(  # noqa: N802
        self, _server: Any, session: Any, _envelope: Any, name: str, replies: list[str]
    ) -> list[str]:
        session.host_name = name
        self._there.add(id(session))
        self.most = max(self.most, len(self._there))
        return replies

    async def handle_DATA(self, _server: Any, _session: Any, _envelope: Any) -> str:  # noqa: N802
        async with asyncio.timeout(20):
            await self._barrier.wait()
        return "250 2.0.0 queued"

    async def handle_QUIT(self, _server: Any, session: Any, _envelope: Any) -> str:  # noqa: N802
        self._there.discard(id(session))
        return "221 2.0.0 bye"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_sessions_at_once_than_asked_for(concurrency: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path("any.dialog").write_text(re.sub(r"(C< 250 ).*", r"\1*", DIALOG), encoding="utf-8")
    server = Together(concurrency)
    with aiosmtpd(server) as url:
        flags = ["--loop", "6", "--concurrency", str(concurrency)]
        assert main(["replay", "any.dialog", "--to", url, *flags]) in {0, 1}
    assert server.most == concurrency
    assert "6 of 6 sessions replayed" in capsys.readouterr().err


def test_pauses_as_recorded() -> None:
    Path("slow.dialog").write_text(DIALOG.replace("C> QUIT", "+0.250 C> QUIT"), encoding="utf-8")
    began = time.monotonic()
    with scripted(sessions=1) as server:
        assert main(["replay", "slow.dialog", "--to", server.url, "--speed", "2.5"]) == 0
    assert time.monotonic() - began > 0.1


@pytest.mark.slow
def test_stopped_it_says_what_was_under_way() -> None:
    kept(1, 2, 3)
    argv = [sys.executable, "-m", "relayproxy", "replay", "sender:*", "--loop", "9"]
    with (
        scripted({".": SILENCE}) as server,
        subprocess.Popen([*argv, "--to", server.url], stdout=-1, stderr=-1, text=True) as process,
    ):
        assert server.silent.wait(30)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert out == ""
    assert "relayproxy: 0 of 27 sessions replayed" in err
    assert "stopped; sessions that were under way: 1" in err
    assert process.returncode in {128 + signal.SIGINT, 128 + signal.SIGTERM}


@pytest.mark.parametrize(("answers", "status", "told"), [
    ({}, 0, "1 the same, 0 different"),
    ({".": "554 5.7.1 no"}, 1, "0 the same, 1 different"),
])  # fmt: skip
def test_a_reader_that_has_had_enough_changes_no_verdict(
    answers: dict[str, str], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(answers) as server, unread():
        assert main(["replay", "one.dialog", "--to", server.url]) == status
    assert capsys.readouterr().err == f"{UNGUARDED}relayproxy: 1 of 1 sessions replayed: {told}\n"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_standard_output_that_was_closed_is_told_in_words(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("one.dialog").write_text("relayproxy dialog 1\nC< 220 x\nC> NOOP\nC< 250 ok\n", encoding="ascii")
    monkeypatch.setattr("sys.stdout", None)
    with scripted({"NOOP": "250 ok"}) as server:
        assert main(["replay", "one.dialog", "--to", server.url, *flags]) == 1
    assert capsys.readouterr().err == f"{UNGUARDED}relayproxy: standard output is closed\n"
