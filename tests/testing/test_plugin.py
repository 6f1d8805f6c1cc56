"""The plugin as pytest loads it, in runs of their own: what it costs, what is told where tests fail, and that the example project passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from real_aiosmtpd import aiosmtpd

from relayproxy.testing.marker import KEYWORDS

EXAMPLE: Final = Path(__file__).parent / "example"
#: What a run that does not use it must not load.
COSTS: Final = ("trio", "asyncio", "OpenSSL", "cryptography", "apsw", "pydantic", "structlog", "re2", "relayproxy.cli")


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--tb=short", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYPROXY_", "PYTEST_", "CI"))}
    return subprocess.run(
        argv, cwd=folder, env={**kept, **environ}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.slow
def test_the_example_passes() -> None:
    done = run(EXAMPLE, "-q")
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE), done.stdout
    assert done.returncode == 0


@pytest.mark.slow
def test_a_run_that_does_not_use_it_pays_nothing(tmp_path: Path) -> None:
    test = f"import sys\n\ndef test_it():\n    assert 'relayproxy.testing.plugin' in sys.modules\n    assert not set({COSTS}) & set(sys.modules)\n"
    (tmp_path / "test_other.py").write_text(test)
    done = run(tmp_path, "-p", "relayproxy.testing.plugin", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout


FAILING: Final = """
import smtplib
import threading
import pytest

def test_no_mail(relayproxy):
    relayproxy.wait_for("subject:x", timeout=0.01)

@pytest.mark.relayproxy(tls="maybe", upstream="x")
def test_wrong_settings(relayproxy):
    raise AssertionError("never")

@pytest.mark.relayproxy(upstraem="x")
def test_wrong_keyword(relayproxy):
    raise AssertionError("never")

def test_that_breaks_the_relay(relayproxy):
    relayproxy._served.thread.call(lambda: 1 / 0)

@pytest.mark.smtp_cassette(path="one.dialog", strict=True)
def test_that_is_recorded_otherwise(smtp_cassette):
    assert smtp_cassette.mode == "none"
    with smtplib.SMTP(smtp_cassette.host, smtp_cassette.port) as server, pytest.raises(smtplib.SMTPException):
        server.sendmail("a@x.test", "other@x.test", "Subject: hi")

@pytest.mark.smtp_cassette(upstream="smtp://127.0.0.1:1")
def test_that_has_no_cassette(smtp_cassette):
    raise AssertionError("never")

@pytest.mark.relayproxy(upstream="smtp://127.0.0.1:1")
def test_that_fails_before_it_waits(relayproxy):
    smtplib.SMTP(relayproxy.host, relayproxy.port)

def test_wrong_select(relayproxy):
    relayproxy.wait_for("subjct:x")

def test_that_passes(relayproxy):
    assert [one.name for one in threading.enumerate() if one.name.startswith("relayproxy-")] == ["relayproxy-log", "relayproxy-store"]

def test_nothing_is_left():
    assert threading.enumerate() == [threading.main_thread()]
"""

CASSETTE: Final = """relayproxy dialog 1
@ session one
C< 220 mail.example.test ESMTP
C> EHLO app
C< 250 mail.example.test
C> MAIL FROM:<a@x.test>
C< 250 2.1.0 ok
C> RCPT TO:<jane@x.test>
C< 550 5.1.1 nobody
C> QUIT
C< 221 2.0.0 bye
"""
RECORDING: Final = """
import pytest

@pytest.mark.smtp_cassette(path="one.dialog", mode="none", upstream="smtp://127.0.0.1:1")
def test_it(smtp_cassette):
    assert smtp_cassette.mode == "new_episodes"
"""


@pytest.mark.slow
def test_what_is_told_where_tests_fail(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING)
    (tmp_path / "one.dialog").write_text(CASSETTE)
    done = run(tmp_path, CI="true")
    assert done.returncode == 1
    assert re.search(r"^=+ 3 failed, 4 passed, 5 errors in ", done.stdout, re.MULTILINE), done.stdout
    assert "E   AssertionError: no mail that is subject:x within 0.01 s\nE     nobody connected\n" in done.stdout
    setup = done.stdout.partition("ERROR at setup of test_wrong_settings ")[2].split("\n____")[0]
    assert setup.splitlines()[1:] == [
        "@pytest.mark.relayproxy: listener[0].tls: expected 'off', 'starttls' or 'implicit', got 'maybe'",
        "@pytest.mark.relayproxy: upstream.default.url[0]: expected smtp://, smtp+starttls://, smtps:// or lmtp://, then host[:port] or [v6][:port]; or lmtp+unix:/path, or capture:, got 'x'",
    ]
    assert "\n@pytest.mark.relayproxy: upstraem: unknown keyword; the nearest known is upstream\n" in done.stdout
    teardown = done.stdout.partition("ERROR at teardown of test_that_breaks_the_relay ")[2].split("\n====")[0]
    assert teardown.splitlines()[1] == "relayproxy went wrong:"
    assert "Internal" in teardown
    recorded = done.stdout.partition("ERROR at teardown of test_that_is_recorded_otherwise ")[2].split("\n____")[0]
    assert recorded.splitlines()[1:] == [
        f"not as in the cassette {tmp_path / 'one.dialog'} (mode none):",
        "unexpected: MAIL FROM:<a@x.test> RCPT TO:<other@x.test>",
        "  recorded: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>",
        "unused: one: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>",
        'if the application is right now: --smtp-cassette-mode all (or new_episodes) with the server there, and with upstream="smtp://..." in the marker, or delete the file',
    ]
    missing = done.stdout.partition("ERROR at setup of test_that_has_no_cassette ")[2].splitlines()[1]
    assert missing.endswith(
        "nothing is recorded here, since CI is set: run the test once without it, and commit the file"
    )
    beside = done.stdout.partition("Captured relayproxy call ")[2].splitlines()[1]
    assert beside == "smtp://127.0.0.1:1: connection refused"
    select = done.stdout.partition("____ test_wrong_select ____")[2].split("\n____")[0]
    assert len([line for line in select.splitlines() if line.startswith("test_failing.py:")]) == 1
    assert "relay.py" not in select
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "cassettes").exists()


TWO: Final = """
import smtplib
import pytest

def send(server, to):
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@x.test", to, "Subject: hi\\r\\n\\r\\nhello\\r\\n")

@pytest.mark.smtp_cassette(upstream="{url}")
class TestA:
    class TestIn:
        def test_x(self, smtp_cassette):
            send(smtp_cassette, "a@x.test")

@pytest.mark.smtp_cassette(upstream="{url}")
class TestB:
    class TestIn:
        def test_x(self, smtp_cassette):
            send(smtp_cassette, "b@x.test")

    def test_no_mail(self, smtp_cassette):
        pass

    def test_that_fails(self, smtp_cassette):
        send(smtp_cassette, "c@x.test")
        assert not {fails}

    @pytest.mark.smtp_cassette(path="one.dialog")
    @pytest.mark.parametrize("number", [1, 2])
    def test_two_of_one(self, smtp_cassette, number):
        send(smtp_cassette, "d@x.test")
"""


class Taking:
    """A server."""

    async def handle_DATA(self, _server: object, _session: object, _envelope: object) -> str:  # noqa: N802
        return "250 2.0.0 taken"


@pytest.mark.slow
def test_what_is_recorded_by_a_run_is_played_by_the_next(tmp_path: Path) -> None:
    with aiosmtpd(Taking()) as url:
        (tmp_path / "test_two.py").write_text(TWO.format(url=url, fails=True))
        done = run(tmp_path)
    assert re.search(r"^=+ 1 failed, 5 passed in ", done.stdout, re.MULTILINE), done.stdout
    folder = tmp_path / "cassettes" / "test_two"
    note = done.stdout.partition("Captured smtp_cassette teardown ")[2].splitlines()[1]
    assert note == f"{folder / 'TestB.test_that_fails.dialog'} is not written, since the test did not pass"
    assert sorted(path.name for path in folder.iterdir()) == [
        "TestA.TestIn.test_x.dialog",
        "TestB.TestIn.test_x.dialog",
        "TestB.test_no_mail.dialog",
    ]
    (tmp_path / "test_two.py").write_text(TWO.format(url=url, fails=False))
    done = run(tmp_path, CI="true")
    assert re.search(r"^=+ 5 passed, 1 error in ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_the_command_line_has_the_last_word_on_modes(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(RECORDING)
    (tmp_path / "one.dialog").write_text(CASSETTE)
    done = run(tmp_path, "--smtp-cassette-mode", "new_episodes", CI="true")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "one.dialog").read_text() == CASSETTE


def test_it_says_what_there_is(request: pytest.FixtureRequest) -> None:
    for name, keywords in KEYWORDS.items():
        (line,) = [line for line in request.config.getini("markers") if line.startswith(f"{name}(")]
        assert line.startswith(f"{name}({'=, '.join(keywords)}=): ")
