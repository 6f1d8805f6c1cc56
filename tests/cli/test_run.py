"""`relayproxy run` as a process: where it says that it listens, what signals do, and the tools of deploy/ against it."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from kept_mail import kept
from scripted_server import scripted

from relayproxy.cli.logged import LAST_LINES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'state = "state"\nhostname = "relay.test"\n[[listener]]\naddress = "127.0.0.1:0"\n'


@contextmanager
def running(
    work: Path,
    *arguments: str,
    under: tuple[str, ...] = (),
    program: tuple[str, ...] = ("-m", "relayproxy"),
    **environ: str,
) -> Iterator[subprocess.Popen[str]]:
    """A relay that is ended, whatever happens; what it writes is a pipe. `under`: a command that becomes it."""
    (work / "relayproxy.toml").write_text(CONFIG)
    with subprocess.Popen(
        [*under, sys.executable, *program, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=work,
        env={**os.environ, **environ},
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def send_to(url: str) -> list[str]:
    return [sys.executable, "-m", "relayproxy", "send", "--server", url, "--from", "a@x.test", "--to", "b@x.test"]


def line(output: IO[str] | None) -> dict[str, Any]:
    assert output
    record = json.loads(output.readline())
    assert isinstance(record, dict)
    return record


def port(listening: dict[str, Any]) -> int:
    assert listening["event"] == "listening"
    return int(listening["address"].rpartition(":")[2])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_in_order(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        listening = line(relay.stdout)
        address = listening["address"]
        with smtplib.SMTP("127.0.0.1", port(listening), timeout=20) as smtp:
            smtp.sendmail("a@example.test", ["b@example.test"], b"Subject: hi\r\n\r\nhello\r\n")
        relay.send_signal(number)
        out, err = relay.communicate(timeout=20)
    assert relay.returncode == 0
    assert err.splitlines() == [
        f"relayproxy: configuration: {tmp_path}/relayproxy.toml",
        f"relayproxy: listening on {address} (default, STARTTLS): mail is kept in {tmp_path}/relayproxy.db",
        "relayproxy: ending; open sessions: 0, transactions may go on for 30 s",
    ]
    assert [json.loads(text)["outcome"] for text in out.splitlines() if '"transaction"' in text[:30]] == ["accepted"]
    ((_, captured),) = kept(tmp_path / "relayproxy.db")
    assert captured.endswith(b"Subject: hi\r\n\r\nhello\r\n")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("relayproxy.db*") if path.is_file()} == {0o600}


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told_when_it_serves_and_when_it_ends(abstract: bool, tmp_path: Path) -> None:
    place = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + place if abstract else place)
        manager.settimeout(20)
        with running(tmp_path, NOTIFY_SOCKET=("@" if abstract else "") + place) as relay:
            assert manager.recv(100) == b"READY=1"
            with socket.create_connection(("127.0.0.1", port(line(relay.stdout))), 20) as client:
                assert client.recv(100).startswith(b"220 ")
            relay.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert relay.wait(20) == 0


@pytest.mark.parametrize("place", ["/nowhere/notify", "vsock:2:1", ""])
def test_one_that_cannot_be_told_is_no_reason_to_end(place: str, tmp_path: Path) -> None:
    with running(tmp_path, NOTIFY_SOCKET=place) as relay:
        assert port(line(relay.stdout))
        relay.terminate()
        assert relay.wait(20) == 0


def test_it_says_whom_it_guards(tmp_path: Path) -> None:
    with running(tmp_path, "--redirect-all", "qa@example.test", "--allow", "*@example.test") as relay:
        line(relay.stdout)
        relay.terminate()
        _, err = relay.communicate(timeout=20)
    said = "relayproxy: guard: mail may go to *@example.test; what is for others is sent to qa@example.test"
    assert said in err.splitlines()


def test_a_low_soft_limit_on_descriptors_limits_no_sessions(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -Sn 40 && exec "$@"', "sh")
    with running(tmp_path, under=limited) as relay, ExitStack() as clients:
        address = ("127.0.0.1", port(line(relay.stdout)))
        for _ in range(60):
            client = clients.enter_context(socket.create_connection(address, 20))
            assert client.recv(1000).startswith(b"220 ")
        relay.terminate()


def test_flags_and_variables_replace_the_file(tmp_path: Path) -> None:
    more = ["--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/s", "--log", "-", "--log-format", "json"]
    with running(tmp_path, *more, RELAYPROXY_LISTEN="127.0.0.1:1", RELAYPROXY_LOG="not-this") as relay:
        assert port(line(relay.stdout)) > 1
        assert line(relay.stdout)["address"] == f"unix:{tmp_path}/s"
        relay.terminate()
        assert relay.wait(20) == 0
    assert not (tmp_path / "not-this").exists()


def test_it_says_that_it_cannot_log_in(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(
        CONFIG + "[upstream.a]\nurl = 'smtp://127.0.0.1'\ncredentials = { user = 'app', password_file = 'secret' }\n"
    )
    with running(tmp_path, "other.toml") as relay:
        line(relay.stdout)
        relay.terminate()
        _, told = relay.communicate(timeout=20)
    assert f"relayproxy: warning: upstream.a.credentials: password_file {tmp_path}/secret: cannot be read: " in told


def test_the_store_may_be_in_the_folder_of_state(tmp_path: Path) -> None:
    with running(tmp_path, "--store", "sqlite:state/relayproxy.db") as relay:
        line(relay.stdout)
        relay.terminate()
        assert relay.wait(20) == 0
    assert (tmp_path / "state/relayproxy.db").exists()


def test_it_says_whom_it_waits_for_and_leaves_no_socket(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", f"unix:{tmp_path}/s") as relay:
        assert relay.stderr
        assert "configuration: " in relay.stderr.readline()
        assert f"listening on unix:{tmp_path}/s (" in relay.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as replies:
            client.settimeout(20)
            client.connect(f"{tmp_path}/s")
            replies.readline()
            client.sendall(b"EHLO client.test\r\nMAIL FROM:<a@example.test>\r\n")
            while not replies.readline().startswith(b"250 2.1.0"):
                pass
            relay.terminate()
            first = "relayproxy: ending; open sessions: 1, transactions may go on for 30 s\n"
            assert relay.stderr.readline() == first
            relay.terminate()
            assert relay.stderr.readline() == "relayproxy: ending at once\n"
            assert replies.readline().startswith(b"421 ")
        assert relay.wait(20) == 0
    assert not (tmp_path / "s").exists()


def test_sighup_opens_the_log_anew(tmp_path: Path) -> None:
    log = tmp_path / "relay.jsonl"
    with running(tmp_path, "--log", "relay.jsonl", "--listen", f"unix:{tmp_path}/s") as relay:
        while not log.exists() or not log.read_text().endswith("\n"):
            assert relay.poll() is None, relay.communicate()
        log.rename(tmp_path / "relay.jsonl.1")
        relay.send_signal(signal.SIGHUP)
        while not log.exists() or not log.read_text().endswith("\n"):
            assert relay.poll() is None, relay.communicate()
        relay.terminate()
        assert relay.wait(20) == 0
    assert json.loads((tmp_path / "relay.jsonl.1").read_text())["event"] == "listening"
    assert json.loads(log.read_text().splitlines()[0])["event"] == "reload"
    assert log.stat().st_mode & 0o077 == 0


def test_a_port_that_is_taken_is_one_line_and_status_2(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        address = line(first.stdout)["address"]
        (tmp_path / "second").mkdir()
        with running(tmp_path / "second", "--listen", address) as second:
            out, err = second.communicate(timeout=20)
        assert (second.returncode, out) == (2, "")
        assert err == f"relayproxy: cannot listen on {address}: Address already in use\n"
        first.terminate()
        assert first.wait(20) == 0


def test_the_health_check_of_the_image(tmp_path: Path) -> None:
    check = [sys.executable, str(ROOT / "deploy/healthcheck.py")]
    with running(tmp_path) as relay:
        address = line(relay.stdout)["address"]
        healthy = subprocess.run([*check, address], capture_output=True, text=True, check=True, timeout=20)
        assert healthy.stdout.startswith("220 relay.test")
        relay.terminate()
        assert relay.wait(20) == 0
    gone = subprocess.run([*check, address], capture_output=True, text=True, check=False, timeout=20)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)


def test_for_the_health_check_an_upstream_that_says_nothing_is_no_fault_of_the_relay(tmp_path: Path) -> None:
    program = f"import runpy, sys; main = runpy.run_path({str(ROOT / 'deploy/healthcheck.py')!r})['main']; main.__globals__['SECONDS'] = 0.5; sys.exit(main())"
    check = [sys.executable, "-c", program]
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running(tmp_path, "--upstream", f"smtp://127.0.0.1:{silent.getsockname()[1]}") as relay,
    ):
        address = line(relay.stdout)["address"]
        healthy = subprocess.run([*check, address], capture_output=True, text=True, check=False, timeout=20)
        assert (healthy.returncode, healthy.stdout) == (0, "no greeting yet: it waits for upstream\n")


def test_the_health_check_fails_where_nobody_answers() -> None:
    check = [sys.executable, str(ROOT / "deploy/healthcheck.py")]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for said in (b"", b"554 5.7.1 no\r\n"):
            with subprocess.Popen([*check, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
                taken, _ = server.accept()
                with taken:
                    taken.sendall(said)
                assert asking.wait(20) == 1


def test_send_and_run_go_together(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        url = f"smtp://127.0.0.1:{port(line(relay.stdout))}"
        command = send_to(url)
        sent = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=20)
        assert sent.stdout.startswith("250 2.0.0 ")
        relay.terminate()
        assert relay.wait(20) == 0


def test_send_and_run_go_together_under_tls(tmp_path: Path) -> None:
    """Two relays and a sender: TLS on every leg, each of another kind; what weakens it is told on standard error too."""
    with running(tmp_path, RELAYPROXY_LISTEN="localhost:0") as last:
        behind = f"smtp+starttls://localhost:{port(line(last.stdout))}"
        (tmp_path / "front").mkdir()
        (tmp_path / "front/front.toml").write_text(
            f"""state = "state"
hostname = "front.test"
[[listener]]
address = "127.0.0.1:0"
tls = "implicit"
[upstream.last]
url = "{behind}"
verify = "ca"
ca = "{tmp_path}/state/ca/certificate.pem"
[tls]
keylog = "keys.log"
"""
        )
        with running(tmp_path / "front", "front.toml") as front:
            url = f"smtps://127.0.0.1:{port(line(front.stdout))}"
            command = send_to(url)
            trusting = ["--ca", str(tmp_path / "front/state/ca/certificate.pem")]
            sent = subprocess.run([*command, *trusting], capture_output=True, text=True, check=True, timeout=20)
            assert sent.stdout.startswith("250 2.0.0 ")
            distrusting = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
            assert (distrusting.returncode, distrusting.stdout) == (1, "")
            assert "its issuer is unknown to us" in distrusting.stderr
            assert "; --ca FILE says whose certificates to trust, --verify how much to ask of one" in distrusting.stderr
            front.terminate()
            out, err = front.communicate(timeout=20)
        assert f"(default, implicit TLS): mail goes to last ({behind})\n" in err
        assert f"keylog: whoever can read {tmp_path}/front/keys.log can read" in err
        (record,) = [json.loads(text) for text in out.splitlines() if '"transaction"' in text[:30]]
        assert record["client"]["tls"]["version"] == record["upstream"]["tls"]["version"] == "TLSv1.3"
        assert record["upstream"]["tls"]["verified"] is True
        assert (tmp_path / "front/keys.log").read_text().count("CLIENT_TRAFFIC_SECRET_0") == 2, "of both legs"
        last.terminate()
        assert last.wait(20) == 0
    ((_, captured),) = kept(tmp_path / "relayproxy.db")
    assert captured.count(b" with ESMTPS\r\n") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_log_that_cannot_be_written_is_said_at_once_and_is_status_1(tmp_path: Path) -> None:
    with running(tmp_path, "--log", "/dev/full") as relay:
        assert relay.stderr
        trouble = "the log cannot be written: No space left on device\n"
        while trouble not in (said := relay.stderr.readline()):
            assert said, "it has ended"
        relay.terminate()
        began = time.monotonic()
        _, err = relay.communicate(timeout=20)
        assert relay.returncode == 1
        assert time.monotonic() - began < LAST_LINES / 2, "what fails is not waited for"
    assert trouble not in err, "it is said once"
    assert err.endswith("relayproxy: the log could not be written to its end\n")


#: A hangup while each of these is imported: what starts is in the middle of it.
HANGUPS = """
import os, signal, sys

class Hangup:
    def find_spec(self, name, path=None, target=None):
        if name in ("cyclopts", "relayproxy.cli.run", "relayproxy.relay.service", "trio"):
            os.kill(os.getpid(), signal.SIGHUP)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have it ignored
sys.meta_path.insert(0, Hangup())
from relayproxy.cli import main
sys.exit(main())
"""
SIGNAL_OF_CHILDREN = (
    "import pathlib, signal; pathlib.Path('hangup').write_text(str(signal.getsignal(signal.SIGHUP))); print('token')"
)


def test_a_hangup_while_it_starts_is_obeyed_when_it_serves_and_not_ignored_by_children(tmp_path: Path) -> None:
    with scripted({"EHLO": "250-server.test\r\n250 AUTH XOAUTH2", "AUTH": "235 ok", "NOOP": "250 ok"}) as server:
        (tmp_path / "front.toml").write_text(
            f"{CONFIG}[upstream.server]\nurl = '{server.url}'\n"
            f"credentials = {{ user = 'a', token_command = {json.dumps([sys.executable, '-c', SIGNAL_OF_CHILDREN])} }}\n"
        )
        with running(tmp_path, "front.toml", program=("-c", HANGUPS)) as relay:
            with smtplib.SMTP("127.0.0.1", port(line(relay.stdout)), timeout=20) as smtp:
                assert smtp.noop()[0] == 250
            while (told := line(relay.stdout))["event"] != "reload" or told["what"] != "rules and guard":
                pass
            relay.terminate()
            assert relay.wait(20) == 0
    assert b"AUTH XOAUTH2" in b"".join(server.lines)
    assert (tmp_path / "hangup").read_text() == str(signal.SIG_DFL)


#: Files that are written without a buffer, as bodies are, never are to their end.
HUNG_DISK = """
import os, sys, threading

def hang(*_):
    print("it hangs", file=sys.stderr)
    threading.Event().wait()

os.pwrite = hang
from relayproxy.cli import main
sys.exit(main())
"""


def test_a_second_sigterm_ends_a_relay_that_waits_for_a_disk(tmp_path: Path) -> None:
    """A message that a rule holds back while it is looked at."""
    (tmp_path / "rules.toml").write_text('[[rule]]\nwhen = { body = "*x*" }\nthen = [{ replace_body = "y" }]\n')
    (tmp_path / "small.toml").write_text(f'{CONFIG}[limits]\nspool_memory = "1KiB"\n[rules]\nfiles = ["rules.toml"]\n')
    with running(tmp_path, "small.toml", program=("-c", HUNG_DISK)) as relay:
        assert relay.stderr
        with smtplib.SMTP("127.0.0.1", port(line(relay.stdout)), timeout=20) as smtp:
            smtp.ehlo()
            smtp.mail("a@x.test")
            smtp.rcpt("b@x.test")
            assert smtp.docmd("DATA")[0] == 354
            smtp.send(b"Subject: hi\r\n\r\n" + 100 * (b"x" * 70 + b"\r\n") + b".\r\n")
            for said in ("it hangs", "relayproxy: ending; open sessions: 1"):
                while not (heard := relay.stderr.readline()).startswith(said):
                    assert heard
                relay.terminate()
            assert relay.wait(20) == 1
        assert relay.stderr.read().splitlines() == [
            "relayproxy: ending at once",
            "relayproxy: ending all the same; sessions that wait for a disk, and are not told to their end: 1",
        ]
