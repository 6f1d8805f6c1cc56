"""`relayproxy mock`: what clients hear of it, what is told of what came, and what each mode plays, asks for and records."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from scripted_server import SILENCE, scripted
from stored import BEGAN, kept_in, message, record, session, wire

from relayproxy.cli import main
from relayproxy.record.dialog import parse
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.opening import open_store
from relayproxy.replay.script import script_of
from relayproxy.tls.authority import CERTIFICATE, FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from scripted_server import Server

PATIENCE: Final = 20.0
SENT: Final = """C> MAIL FROM:<a@x.test>
C< 250 2.1.0 ok
C> RCPT TO:<jane@x.test>
C< {rcpt}
"""
TAKEN: Final = """C> DATA
C< 354 go
C> |Subject: hi
C> |
C> |hello
C> |.
C< 250 2.0.0 queued as 77
"""
GREETED: Final = """C< 220 mx.test ESMTP
C> EHLO app-1
C< 250-mx.test
& C< 250 SIZE 100000
"""
BYE: Final = """C> QUIT
C< 221 2.0.0 bye
"""
TWICE: Final = "\n".join(
    [
        "relayproxy dialog 1",
        "# Refused, and then accepted.",
        "@ session one",
        GREETED + SENT.format(rcpt="451 4.7.1 later") + BYE,
        "@ session two",
        GREETED + SENT.format(rcpt="250 2.1.5 ok") + TAKEN + BYE,
    ]
)
BODY: Final = "Subject: hi\r\n\r\nhello\r\n"


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM", "LISTEN", "LOG"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)
    Path("twice.dialog").write_text(TWICE, encoding="utf-8")
    configured()


def configured(*lines: str) -> None:
    """./relayproxy.toml."""
    Path("relayproxy.toml").write_text("\n".join(['hostname = "relay.test"', 'state = "state"', *lines, ""]))


@dataclass
class Mock:
    """`status`: of the process, once it has ended; `lines`: of its log."""

    status: int = -1
    lines: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def transactions(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "transaction"]


def mocked(arguments: list[str], clients: Callable[[int], object], *, ends: bool = False) -> Mock:
    """Run the verb; `clients` run in a thread, with the port where it listens. `ends`: by itself, and not by SIGTERM."""
    told = Mock()
    os.mkfifo("log")
    log = os.fdopen(os.open("log", os.O_RDWR), "rb", buffering=0)  # so that there is always a reader

    def run() -> None:
        try:
            listening = json.loads(log.readline())
            clients(int(listening["address"].rpartition(":")[2]))
        except BaseException as error:  # noqa: BLE001  it is raised where the test is
            told.error = error
        if not ends or told.error is not None:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    told.status = main(["mock", *arguments, "--listen", "127.0.0.1:0", "--log", "log"])
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it never listened"
    os.set_blocking(log.fileno(), False)
    written = b""
    while (more := log.read(1 << 16)) is not None:
        written += more
    told.lines = [json.loads(line) for line in written.splitlines()]
    log.close()
    Path("log").unlink()
    if told.error is not None:
        raise told.error
    return told


def send(port: int, sender: str = "a@x.test", to: str = "jane@x.test", text: str = BODY) -> str:
    """The reply that counts."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
        smtp.ehlo("app-1")
        return sent(smtp, sender, to, text)


def sent(smtp: smtplib.SMTP, sender: str = "a@x.test", to: str = "jane@x.test", text: str = BODY) -> str:
    for reply in (smtp.mail(sender), smtp.rcpt(to)):
        if reply[0] >= 400:
            smtp.rset()
            return f"{reply[0]} {reply[1].decode()}"
    code, words = smtp.data(text)
    return f"{code} {words.decode()}"


QUEUED: Final = "250 2.0.0 queued as 77"
LATER: Final = "451 4.7.1 later"


def test_what_was_recorded_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            heard.append(smtp.ehlo("app-1")[1].decode())
        heard.extend(send(port) for _ in range(2))

    told = mocked(["twice.dialog", "--until-used"], client, ends=True)
    assert heard == ["mx.test\nSIZE 100000", LATER, QUEUED]
    assert told.status == 0
    assert [(one["outcome"], one["upstream"]["name"]) for one in told.transactions] == [
        ("tempfailed", "recording"),
        ("accepted", "recording"),
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(" (mock, no TLS): 2 sessions with 2 transactions to be played")
    assert said[1:] == ["relayproxy: played: 3 sessions, 2 transactions; unexpected: 0; unused: 0"]


def test_it_needs_no_state_folder() -> None:
    Path("state").touch()  # as good as a home that is read-only
    told = mocked(["twice.dialog"], send)
    assert (told.status, len(told.transactions)) == (0, 1)


@pytest.mark.parametrize(("log", "status"), [("mock.log", 0), ("/dev/full", 1)])
def test_its_socket_and_its_log_are_the_owner_s_alone_and_a_log_that_lacks_something_is_a_failure(
    log: str, status: int
) -> None:
    Path("refused.dialog").write_text("relayproxy dialog 1\nC< 554 5.7.1 no\n", encoding="utf-8")

    def client() -> None:
        with socket.socket(socket.AF_UNIX) as stream:
            while stream.connect_ex("mock.sock"):
                gone.wait(0.01)  # until it listens
            modes.append(Path("mock.sock").stat().st_mode)
            stream.recv(1 << 12)

    modes: list[int] = []
    gone, thread = threading.Event(), threading.Thread(target=client, daemon=True)
    thread.start()
    listening = ["--until-used", "--listen", f"unix:{Path('mock.sock').absolute()}"]
    assert main(["mock", "refused.dialog", *listening, "--log", log]) == status
    thread.join(PATIENCE)
    if log == "mock.log":
        modes.append(Path(log).stat().st_mode)
    assert {mode & 0o077 for mode in modes} == {0}


def test_what_weakens_tls_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    configured("[tls]", 'keylog = "keys.log"')
    mocked(["twice.dialog"], lambda _: None)
    keys = Path("keys.log").absolute()
    told = f"relayproxy: warning: tls: keylog: whoever can read {keys} can read all that TLS protects"
    assert told in capsys.readouterr().err.splitlines()


def test_it_ends_when_all_was_played() -> None:
    told = mocked(["twice.dialog", "--until-used"], lambda port: [send(port) for _ in range(2)], ends=True)
    assert (told.status, len(told.transactions)) == (0, 2)


def test_it_waits_for_its_clients_then() -> None:
    heard: list[int] = []

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as stays:
            stays.ehlo("app-1")
            heard.extend([int(send(port)[:3]) for _ in range(2)])
            heard.extend([stays.noop()[0] for _ in range(50)])

    assert mocked(["twice.dialog", "--until-used"], client, ends=True).status == 0
    assert heard == [451, 250, *[250] * 50]


def test_a_second_signal_ends_what_waits_for_the_real_server() -> None:
    configured('drain = "1m"')
    began: list[float] = []

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            smtp.putcmd("mail", "FROM:<other@x.test>")
            assert server.silent.wait(PATIENCE)
            began.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            with suppress(smtplib.SMTPServerDisconnected):
                smtp.getreply()

    with real(1, {"MAIL": SILENCE}) as server:
        mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", server.url], client, ends=True)
    assert time.monotonic() - began[0] < 1


def test_it_ends_too_when_something_else_came() -> None:
    told = mocked(["twice.dialog", "--until-used"], lambda port: send(port, "b@x.test"), ends=True)
    assert told.status == 1


def test_what_is_stored_is_what_a_server_was(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        id_, transaction = f"01S{number}", f"01T{number}"
        whole = TransactionWrite(record(id_, transaction), message(), final=True)
        kept_in(Path("relayproxy.db"), session(wire(transaction), id_, began=BEGAN + number), whole)
    heard: list[str] = []

    def client(port: int) -> None:
        heard.extend(send(port, "a@example.com", "jane@customer.example") for _ in range(2))

    assert mocked(["sender:a@example.com"], client).status == 0
    assert heard == 2 * ["250 2.0.0 queued"]
    assert "2 sessions with 2 transactions" in capsys.readouterr().err
    with open_store("sqlite:relayproxy.db").reader() as reader:
        assert len(reader.ids("", limit=99)) == 4  # a mock is no recording


ADVICE: Final = "if what came is right: --mode all (or new_episodes) --upstream URL records it, or delete twice.dialog and record it with --mode once"


@pytest.mark.parametrize(
    ("flags", "status", "heard"),
    [
        ([], 1, "554 5.5.0 Not in the recording; nearest to it: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>"),
        (["--lenient"], 0, "250 2.0.0 OK, although it is not in the recording"),
    ],
)
def test_what_is_unexpected(flags: list[str], status: int, heard: str, capsys: pytest.CaptureFixture[str]) -> None:
    replies: list[str] = []
    told = mocked(["twice.dialog", *flags], lambda port: replies.append(send(port, to="joe@x.test")))
    assert (told.status, replies) == (status, [heard])
    said = capsys.readouterr().err.splitlines()
    assert said[1:3] == [
        "relayproxy: unexpected: MAIL FROM:<a@x.test> RCPT TO:<joe@x.test>",
        "relayproxy:   recorded: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>",
    ]
    assert said[3:] == [
        "relayproxy: unused: one: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>",
        "relayproxy: unused: two: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>",
        "relayproxy: played: 1 session, 0 transactions; unexpected: 1; unused: 2",
        *([f"relayproxy: {ADVICE}"] if status else []),
    ]


@pytest.mark.parametrize(("flags", "times", "status"), [([], 1, 0), (["--strict"], 1, 1), (["--strict"], 2, 0)])
def test_what_did_not_come_is_a_failure_where_that_is_asked_for(flags: list[str], times: int, status: int) -> None:
    told = mocked(["twice.dialog", *flags], lambda port: [send(port) for _ in range(times)])
    assert told.status == status


def test_repeats() -> None:
    heard: list[str] = []
    told = mocked(["twice.dialog", "--repeats"], lambda port: heard.extend(send(port) for _ in range(4)))
    assert (told.status, heard) == (0, [LATER, QUEUED, QUEUED, QUEUED])


SECURE: Final = (
    """relayproxy dialog 1
C< 220 mx.test ESMTP
C> EHLO app-1
C< 250-mx.test
& C< 250 STARTTLS
C> STARTTLS
C< 220 go
C> EHLO app-1
C< 250-mx.test
& C< 250 AUTH PLAIN
C> AUTH PLAIN <redacted 20>
C< 235 2.7.0 welcome back
"""
    + SENT.format(rcpt="250 2.1.5 ok")
    + TAKEN
)


@pytest.mark.parametrize("flags", [[], ["--user", "app", "--password-file", "secret"]])
def test_tls_and_a_login_are_there_if_they_were(flags: list[str]) -> None:
    Path("secure.dialog").write_text(SECURE, encoding="utf-8")
    Path("secret").write_text("Open.Sesame\n", encoding="ascii")
    heard: list[str] = []

    def client(port: int) -> None:
        trusted = ssl.create_default_context(cafile=str(Path("state", FOLDER, CERTIFICATE)))
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp._host = "mx.test"  # type: ignore[attr-defined]
            smtp.ehlo("app-1")
            assert "auth" not in smtp.esmtp_features or flags
            smtp.starttls(context=trusted)
            try:
                smtp.login("app", "wrong" if flags else "whatever")
            except smtplib.SMTPAuthenticationError as error:
                heard.append(str(error.smtp_code))
                smtp.login("app", "Open.Sesame")
            heard.append(sent(smtp))

    told = mocked(["secure.dialog", *flags], client)
    assert (told.status, heard) == (0, [*(["535"] if flags else []), QUEUED])
    assert told.transactions[0]["client"]["tls"]["version"] == "TLSv1.3"
    assert told.transactions[0]["client"]["auth"] == {"mechanism": "PLAIN", "user": "app"}
    assert "Sesame" not in json.dumps(told.lines)


def test_implicit_tls() -> None:
    heard: list[str] = []

    def client(port: int) -> None:
        trusted = ssl.create_default_context(cafile=str(Path("state", FOLDER, CERTIFICATE)))
        trusted.check_hostname = False
        with smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=trusted) as smtp:
            smtp.ehlo("app-1")
            heard.extend(sent(smtp) for _ in range(2))

    assert mocked(["twice.dialog", "--tls", "implicit", "--strict"], client).status == 0
    assert heard == [LATER, QUEUED]


# Modes.


def told_of(path: str) -> list[tuple[str, str | None]]:
    """What the cassette's clients said of transactions, and heard."""
    found: list[tuple[str, str | None]] = []
    for one in parse(Path(path).read_text(encoding="utf-8")):
        if one.id is None and not one.entries[1:]:
            continue
        for step in script_of(one).steps:
            if step.said.startswith(("RCPT", "the message")):
                reply = step.reply
                found.append((step.said, None if reply is None else f"{reply.code} {reply.lines[0].decode()}"))
    return found


@contextmanager
def real(sessions: int = 1, replies: Mapping[str, str] = {}) -> Iterator[Server]:
    with scripted({"RCPT TO:<joe@": "550 5.1.1 nobody", **replies}, sessions=sessions) as server:
        yield server


def test_once_records_what_is_not_there_and_plays_it_then() -> None:
    heard: list[str] = []

    def client(port: int) -> None:
        heard.extend([send(port), send(port, to="joe@x.test")])

    with real(2) as server:
        first = mocked(["new.dialog", "--mode", "once", "--upstream", server.url], client)
    assert [line.split(b" SIZE")[0].strip() for line in server.lines[:3]] == [
        b"EHLO relay.test",
        b"MAIL FROM:<a@x.test>",
        b"RCPT TO:<jane@x.test>",
    ]
    assert Path("new.dialog").stat().st_mode & 0o777 == 0o600
    second = mocked(["new.dialog", "--mode", "once", "--upstream", server.url, "--strict"], client)
    assert (first.status, second.status) == (0, 0)
    assert heard == 2 * ["250 2.0.0 queued as 42", "550 5.1.1 nobody"]


def test_a_mode_that_records_asks_for_what_is_not_there_and_keeps_what_was(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []

    def client(port: int) -> None:
        heard.extend([send(port, to="joe@x.test"), send(port), send(port)])
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            heard.append(sent(smtp, "b@x.test"))

    with real(2) as server:
        told = mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", server.url], client)
    assert (told.status, heard) == (0, ["550 5.1.1 nobody", LATER, QUEUED, "250 2.0.0 queued as 42"])
    assert [line for line in server.lines if line.startswith((b"EHLO", b"RCPT"))] == [
        b"EHLO relay.test\r\n",
        b"RCPT TO:<joe@x.test>\r\n",
        b"EHLO relay.test\r\n",
        b"RCPT TO:<jane@x.test>\r\n",
    ]
    assert [one["upstream"]["name"] for one in told.transactions] == ["target", "recording", "recording", "target"]
    assert told_of("twice.dialog") == [
        ("RCPT TO:<jane@x.test>", LATER),
        ("RCPT TO:<jane@x.test>", "250 2.1.5 ok"),
        ("the message (25 octets)", QUEUED),
        ("RCPT TO:<joe@x.test>", "550 5.1.1 nobody"),
        ("RCPT TO:<jane@x.test>", "250 2.1.5 ok"),
        ("the message (25 octets)", "250 2.0.0 queued as 42"),
    ]
    assert Path("twice.dialog").read_text(encoding="utf-8").startswith(TWICE.rstrip())
    assert "unused: 0; recorded: 2 sessions" in capsys.readouterr().err


def test_what_was_played_in_a_session_that_went_on_stands_in_its_recording_alone() -> None:
    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            assert [sent(smtp), sent(smtp), sent(smtp, "b@x.test")] == [LATER, QUEUED, "250 2.0.0 queued as 42"]

    with real() as server:
        mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", server.url], client)
    sessions = [one for one in parse(Path("twice.dialog").read_text(encoding="utf-8")) if one.id is not None]
    assert len(sessions) == 1
    assert len(told_of("twice.dialog")) == 5


def test_a_refusal_behind_what_the_recording_took_is_the_answer_to_all_of_it() -> None:
    heard: list[str] = []

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            sent(smtp)
            heard.extend(
                f"{code}" for code, _ in (smtp.mail("a@x.test"), smtp.rcpt("jane@x.test"), smtp.rcpt("jim@x.test"))
            )
            heard.extend(f"{code}" for code, _ in (smtp.docmd("DATA"), smtp.rset()))
            heard.append(sent(smtp, to="jim@x.test"))

    with real(replies={"RCPT TO:<jane@": "553 5.1.3 moved"}) as server:
        mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", server.url], client)
    assert heard == ["250", "250", "553", "553", "250", "250 2.0.0 queued as 42"]
    assert server.lines.count(b"DATA\r\n") == 1


def test_all_records_all_anew() -> None:
    with real() as server:
        told = mocked(["twice.dialog", "--mode", "all", "--upstream", server.url], send)
    assert told.status == 0
    assert [reply for _, reply in told_of("twice.dialog")] == ["250 2.1.5 ok", "250 2.0.0 queued as 42"]


@pytest.mark.parametrize("mode", ["new_episodes", "once", "all"])
def test_nobody_outside_of_the_guard_is_named(mode: str) -> None:
    configured("[guard]", 'allow = ["*@example.test"]')
    heard: list[str] = []
    with real() as server:
        told = mocked(
            ["guarded.dialog", "--mode", mode, "--upstream", server.url],
            lambda port: heard.extend([send(port, to="jane@customer.example")]),
        )
    assert heard == ["550 5.7.1 This relay sends no mail to that address"]
    assert not [line for line in server.lines if line.startswith(b"RCPT")]
    assert [line["recipient"] for line in told.lines if line["event"] == "guard"] == ["jane@customer.example"]


def test_what_is_played_is_no_affair_of_the_guard() -> None:
    configured("[guard]", 'allow = ["*@example.test"]')
    heard: list[str] = []
    assert mocked(["twice.dialog"], lambda port: heard.extend(send(port) for _ in range(2))).status == 0
    assert heard == [LATER, QUEUED]


def test_who_was_refused_by_the_recording_is_not_named_to_the_server_behind() -> None:
    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            assert [code for code, _ in (smtp.mail("a@x.test"), smtp.rcpt("jane@x.test"), smtp.rcpt("jim@x.test"))] == [
                250,
                451,
                250,
            ]
            assert smtp.data(BODY)[0] == 250

    with real() as server:
        mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", server.url], client)
    assert [line for line in server.lines if line.startswith(b"RCPT")] == [b"RCPT TO:<jim@x.test>\r\n"]


def test_an_upstream_of_the_configuration_is_logged_in_at_and_no_password_is_recorded() -> None:
    offers = {"EHLO": "250-server.test\r\n250 AUTH PLAIN", "AUTH": "235 2.7.0 ok"}
    Path("secret").write_text("Open.Sesame\n", encoding="ascii")

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            smtp.login("anybody", "Client.Secret")
            assert sent(smtp) == "250 2.0.0 queued as 42"

    with scripted(offers) as server:
        configured("[upstream.mx]", f'url = "{server.url}"', 'credentials = { user = "app", password_file = "secret" }')
        assert mocked(["new.dialog", "--mode", "once"], client).status == 0
    assert [line.split()[0] for line in server.lines] == [b"EHLO", b"AUTH", b"MAIL", b"RCPT", b"DATA", b"QUIT"]
    text = Path("new.dialog").read_text(encoding="utf-8")
    assert "AUTH PLAIN <redacted" in text
    assert "Secret" not in text
    assert "Sesame" not in text
    assert "Q2xpZW50" not in text


NOBODY: Final = "smtp://127.0.0.1:1"
NOT_THERE: Final = f"relayproxy: the real server was not to be had: {NOBODY}: connection refused"


def test_a_server_that_is_not_there_is_told_once_and_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []

    def client(port: int) -> None:
        for _ in range(2):
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
                smtp.ehlo("app-1")
                heard.append(f"{smtp.mail('b@x.test')}")

    told = mocked(["twice.dialog", "--mode", "new_episodes", "--upstream", NOBODY], client)
    assert all("421" in one and "cannot be reached" in one for one in heard)
    assert told.status == 1
    assert [line["what"] for line in told.lines if line["event"] == "error"] == 2 * [f"{NOBODY}: connection refused"]
    assert capsys.readouterr().err.splitlines().count(NOT_THERE) == 1
    assert Path("twice.dialog").read_text(encoding="utf-8") == TWICE


def test_a_server_that_is_not_there_to_be_recorded_is_a_failure_too(capsys: pytest.CaptureFixture[str]) -> None:
    def client(port: int) -> None:
        with pytest.raises(smtplib.SMTPConnectError):
            send(port)

    assert mocked(["new.dialog", "--mode", "once", "--upstream", NOBODY], client).status == 1
    assert capsys.readouterr().err.splitlines().count(NOT_THERE) == 1
    assert not Path("new.dialog").exists()


# What is no use.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["twice.dialog", "--strict", "--lenient"], "expected --strict or --lenient, got both"),
        (["new.dialog"], "new.dialog: there is no such file; with --mode once it is recorded"),
        (["latest", "--mode", "all", "--upstream", "smtp://x"], "expected a .dialog file with --mode all, got latest"),
        (["new.dialog", "--mode", "once"], "expected --upstream with --mode once: the server that is recorded"),
        (["twice.dialog", "--upstream", "smtp://x"], "expected --upstream with --mode once, new_episodes or all"),
        (
            ["twice.dialog", "--mode", "all", "--lenient", "--upstream", "smtp://x"],
            "expected --lenient with --mode none",
        ),
        (["twice.dialog", "--mode", "all", "--upstream", "capture:"], "--upstream: expected a server, got capture:"),
        (
            ["twice.dialog", "--mode", "new_episodes", "--upstream", "lmtp://x"],
            "--upstream: expected an SMTP server with --mode new_episodes, got lmtp://x",
        ),
        (["no/new.dialog", "--mode", "once", "--upstream", "smtp://x"], "no/new.dialog: there is no folder"),
        (
            ["new.dialog", "--mode", "once", "--upstream", "smtp://x", "--until-used"],
            "expected --until-used with a recording that is played alone, and new.dialog is recorded",
        ),
        (["twice.dialog", "--user", "app"], "expected --user and --password-file, got one of them"),
        (
            ["twice.dialog", "--user", "app", "--password-file", "none"],
            "--password-file: password_file none: cannot be read",
        ),
        (["twice.dialog", "--listen", "nowhere"], "--listen: expected"),
        (["twice.dialog", "--listen", "0.0.0.0:0"], "--listen: expected --clients beside it"),
        (["twice.dialog", "--listen", "127.0.0.1:0", "--clients", "everybody"], "--clients: expected"),
        (["empty.dialog"], "empty.dialog: there is no session in it to be played"),
        (["odd.dialog"], "odd.dialog: the session cannot be played: its client heard 354 to NOOP"),
        (["x:y:z"], "this is no SELECT"),
    ],
)
def test_what_was_asked_for_is_no_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.dialog").write_text("relayproxy dialog 1\n# Nothing yet.\n", encoding="utf-8")
    Path("odd.dialog").write_text("relayproxy dialog 1\nC< 220 x\nC> NOOP\nC< 354 no\n", encoding="utf-8")
    assert main(["mock", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"relayproxy: {said}")


def test_nothing_matched(capsys: pytest.CaptureFixture[str]) -> None:
    kept_in(
        Path("relayproxy.db"), session(wire("01T1"), "01S1"), TransactionWrite(record("01S1", "01T1"), None, final=True)
    )
    assert main(["mock", "sender:nobody@x.test"]) == 1
    assert capsys.readouterr().err == "relayproxy: nothing matched\n"
