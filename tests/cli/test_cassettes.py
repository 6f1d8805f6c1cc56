"""What `relayproxy mock` makes of a .dialog file that it records: what is in it, and that nothing else is lost."""

from __future__ import annotations

import errno
import os
import signal
import smtplib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_server import scripted
from test_mock import LATER, PATIENCE, QUEUED, TWICE, configured, mocked, send, sent, told_of

from relayproxy.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TAKEN = [("RCPT TO:<jane@x.test>", "250 2.1.5 ok"), ("the message (25 octets)", "250 2.0.0 queued as 42")]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM", "LISTEN", "LOG"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)
    Path("kept").mkdir()
    monkeypatch.setenv("TMPDIR", str(Path("kept").absolute()))
    monkeypatch.setattr("tempfile.tempdir", None)
    Path("twice.dialog").write_text(TWICE, encoding="utf-8")
    configured()


def left_behind() -> list[str]:
    """In the folder for what is temporary, and of what was to be written."""
    return [one.name for folder in ("kept", ".") for one in Path(folder).glob("*relayproxy-*")]


def probe(port: int) -> bytes:
    """A client that says nothing; what it hears."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        return client.recv(3)


# What no server said.


def test_a_client_that_says_nothing_is_no_recording() -> None:
    with scripted() as server:
        mocked(["twice.dialog", "--mode", "all", "--upstream", server.url], probe)
    assert Path("twice.dialog").read_text(encoding="utf-8") == TWICE
    with scripted(sessions=2) as server:
        mocked(["twice.dialog", "--mode", "all", "--upstream", server.url], lambda port: [probe(port), send(port)])
    assert told_of("twice.dialog") == TAKEN
    assert Path("twice.dialog").read_text(encoding="utf-8").count("@ session") == 1


@pytest.mark.parametrize("mode", ["all", "once"])
@pytest.mark.parametrize("at", ["RCPT TO:<joe@", "."])
def test_a_server_that_dies_leaves_what_was_recorded(mode: str, at: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = "twice.dialog" if mode == "all" else "new.dialog"

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            assert sent(smtp, to="joe@x.test")[:9] == "451 4.4.2"

    with scripted({at: ""}) as server:
        assert mocked([file, "--mode", mode, "--upstream", server.url], client).status == 1
    said = capsys.readouterr().err
    assert "451 4.4.2 The connection to the mail server behind this relay was lost" in said
    assert f"relayproxy: {file} is not written, since it would not have all that came\n" in said
    assert Path("twice.dialog").read_text(encoding="utf-8") == TWICE
    assert not Path("new.dialog").exists()


def test_what_the_guard_said_is_no_answer_of_the_server_s(capsys: pytest.CaptureFixture[str]) -> None:
    configured("[guard]", 'allow = ["*@x.test"]')
    with scripted(sessions=2) as server:
        told = mocked(
            ["twice.dialog", "--mode", "new_episodes", "--upstream", server.url],
            lambda port: [send(port, "b@x.test", "jane@customer.example"), send(port, "b@x.test")],
        )
    assert told.status == 1
    assert (
        "550 5.7.1 This relay sends no mail to that address to RCPT TO:<jane@customer.example> is the relay's, not the server's"
        in capsys.readouterr().err
    )
    assert told_of("twice.dialog")[-2:] == TAKEN
    assert "customer.example" not in Path("twice.dialog").read_text(encoding="utf-8")


def test_nor_is_a_refusal_of_what_the_recording_had_taken(capsys: pytest.CaptureFixture[str]) -> None:
    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            assert sent(smtp) == LATER
            codes = smtp.mail("a@x.test"), smtp.rcpt("jane@x.test"), smtp.rcpt("jim@x.test"), smtp.docmd("DATA")
            assert [code for code, _ in codes] == [250, 250, 553, 553]

    with scripted({"RCPT TO:<jane@": "553 5.1.3 moved"}) as server:
        told = mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", server.url], client)
    assert told.status == 1
    assert "the server refused what the recording had taken" in capsys.readouterr().err
    assert Path("twice.dialog").read_text(encoding="utf-8") == TWICE


# What is not to be lost.


def test_what_could_not_be_recorded_leaves_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    def client(port: int) -> None:
        (folder,) = Path("kept").iterdir()
        (folder / "cassette.db").unlink()
        (folder / "cassette.db").mkdir()
        send(port)

    with scripted() as server:
        assert mocked(["twice.dialog", "--mode", "all", "--upstream", server.url], client).status == 1
    assert "twice.dialog is not written, since not all could be recorded" in capsys.readouterr().err
    assert Path("twice.dialog").read_text(encoding="utf-8") == TWICE
    assert left_behind() == []


@pytest.mark.parametrize("file", ["new.dialog", "twice.dialog"])
def test_what_somebody_else_wrote_meanwhile_is_not_lost(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def client(port: int) -> None:
        send(port, "b@x.test")
        Path(file).write_text("somebody else's", encoding="ascii")

    mode = "once" if file == "new.dialog" else "new_episodes"
    with scripted() as server:
        assert mocked([file, "--mode", mode, "--upstream", server.url], client).status == 1
    said = capsys.readouterr().err
    assert f"{file} is not written, since it was written by somebody else meanwhile; what was recorded is in" in said
    assert Path(file).read_text(encoding="ascii") == "somebody else's"
    assert Path(said.strip().rpartition(" ")[2]).is_file()


def test_a_disk_that_is_full_is_told_with_the_file_and_where_the_recording_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def client(port: int) -> None:
        send(port)
        monkeypatch.setattr("os.fsync", full)

    with scripted() as server:
        assert mocked(["new.dialog", "--mode", "once", "--upstream", server.url], client).status == 1
    said = capsys.readouterr().err
    assert "relayproxy: new.dialog cannot be written: No space left on device; what was recorded is in " in said
    assert Path(said.strip().rpartition(" ")[2]).is_file()
    assert not [*Path().glob(".relayproxy-*")]


@pytest.fixture
def _hangs_up() -> Iterator[None]:
    """Whoever runs the tests may be under nohup, which a mock honours."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_hangs_up")
def test_a_terminal_that_is_closed_is_the_end_and_all_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    kill: Callable[[int, int], None] = os.kill
    monkeypatch.setattr("os.kill", lambda process, _: kill(process, signal.SIGHUP))
    with scripted() as server:
        assert mocked(["new.dialog", "--mode", "once", "--upstream", server.url], send).status == 0
    assert told_of("new.dialog") == TAKEN
    assert left_behind() == []


def test_old_mail_is_recorded_too() -> None:
    """What the configuration says of how long the store keeps is said of the store."""
    configured("[record]", 'keep = { age = "1s", bytes = "1MiB" }', 'on_failure = "continue"')
    with scripted() as server:
        mocked(["new.dialog", "--mode", "once", "--upstream", server.url], send)
    assert told_of("new.dialog") == TAKEN


def test_without_addresses_nothing_could_be_played(capsys: pytest.CaptureFixture[str]) -> None:

    configured("[record]", 'redact = ["addresses"]')
    arguments = ["mock", "new.dialog", "--mode", "once", "--upstream", "smtp://127.0.0.1:1", "--listen", "127.0.0.1:0"]
    assert main(arguments) == 2
    assert '[record] redact: expected no "addresses" for new.dialog' in capsys.readouterr().err


def test_links_and_modes_stay() -> None:
    Path("there").mkdir()
    real = Path("twice.dialog").rename("there/real.dialog")
    real.chmod(0o640)
    Path("link.dialog").symlink_to("there/real.dialog")
    with scripted() as server:
        mocked(["link.dialog", "--mode", "all", "--upstream", server.url], send)
    assert Path("link.dialog").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert told_of("there/real.dialog") == TAKEN


@pytest.mark.parametrize("length", [252, 300])
def test_names_may_be_long_but_not_too_long(length: int, capsys: pytest.CaptureFixture[str]) -> None:

    name = "x" * (length - 7) + ".dialog"
    if length > 255:
        assert main(["mock", name, "--mode", "once", "--upstream", "smtp://127.0.0.1:1"]) == 2
        assert capsys.readouterr().err == f"relayproxy: {name}: File name too long\n"
        return
    with scripted() as server:
        assert mocked([name, "--mode", "once", "--upstream", server.url], send).status == 0
    assert told_of(name) == TAKEN


@pytest.mark.parametrize(
    ("line", "reply", "status"),
    [
        ("RCPT TO:<jane@@x.test>", "250 2.1.5 ok", 2),
        ("RCPT TO:<jane@@x.test>", "550 5.1.1 nobody", 2),
        ("MAIL FROM:<<redacted 8>>", "250 2.1.0 ok", 2),
        ("RCPT TO:<jane@@x.test>", "501 5.5.2 Syntax error", 0),
        ("FROB", "500 5.5.2 Command not recognized", 0),
    ],
)
def test_what_cannot_be_played_is_told(line: str, reply: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"relayproxy dialog 1\nC< 220 mx.test\nC> EHLO app-1\nC< 250 mx.test\nC> {line}\nC< {reply}\n"
    Path("odd.dialog").write_text(text, encoding="ascii")
    if status == 0:
        assert mocked(["odd.dialog"], probe).status == 0
    else:
        assert main(["mock", "odd.dialog"]) == status
        assert capsys.readouterr().err.startswith(
            f"relayproxy: odd.dialog: the session: {line.split('<<', maxsplit=1)[0]}"
        )


def test_stars_in_domains_are_played() -> None:
    Path("star.dialog").write_text(
        TWICE.replace("jane@x.test", "*@*").replace("a@x.test", "a@*.test"), encoding="utf-8"
    )
    heard: list[str] = []
    assert mocked(["star.dialog", "--strict"], lambda port: heard.extend(send(port) for _ in range(2))).status == 0
    assert heard == [LATER, QUEUED]
