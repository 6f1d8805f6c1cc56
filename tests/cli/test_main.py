"""The command line as users meet it: help, wrong usage, and that no traceback ever shows."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from outputs import full, unread

from relayproxy import __version__
from relayproxy.cli import VERBS, main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ./relayproxy.toml but what a test writes."""
    monkeypatch.chdir(tmp_path)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown and line in shown for verb, line in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert VERBS[verb].partition(",")[0].rstrip(".") in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"relayproxy {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum"], 'Unknown command "rum". Did you mean "run"?'),
        (["rum"], "\nrelayproxy --help shows what there is.\n"),
        (["bounce", "latest", "--to", "smtp://x"], 'Unknown command "bounce".'),
        (["run", "--lisen", "x"], "Unknown option: --lisen. Did you mean --listen?"),
        (["run", "--redirect-all", "qa"], "--redirect-all: expected an address such as qa@example.test"),
        (["run", "--workers", "4"], "Unknown option: --workers."),
        (["run", "a.toml", "b.toml"], "run: expected no more arguments, got b.toml\nrelayproxy run --help shows what there is.\n"),
        (["list", "a", "b", "c"], "list: expected no more arguments, got b c\nrelayproxy list --help shows"),
        (["list", "--limit", "x"], "relayproxy: --limit: expected an integer, got 'x'\nrelayproxy list --help shows"),
        (["replay", "latest", "--to", "smtp://x", "--speed", "x"], "relayproxy: --speed: expected a number, got 'x'\n"),
        (["run", "--store", "none"], "relayproxy: --store: expected an upstream beside it (--upstream, or [upstream.NAME])"),
        (["run", "--upstream", "capture:", "--store", "none"], "--store: expected sqlite:PATH or postgresql://..., or another upstream"),
        (["send", "--server", "smtps://x", "--from", "a@x", "--to", "b@x", "--verify", "x"], "relayproxy: --verify: expected full, ca"),
        (["run", "a.toml", "--config", "b.toml"], "expected one configuration, got a.toml and --config b.toml"),
        (["check", "a.toml", "--config", "b.toml"], "expected one configuration, got a.toml and --config b.toml"),
        (["run", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
        (["run", "--listen", "nowhere"], "relayproxy: --listen: expected host:port, [v6]:port, unix:/path or fd:NAME, got 'nowhere'"),
        (["run", "--upstream", "http://x"], "--upstream: expected smtp://"),
        (["run", "--log-format", "yaml"], "--log-format: expected 'json' or 'text', got 'yaml'"),
        (["run", "--log", "missing/log"], "the log cannot be opened: "),
        (["run", "--log", "--listen", "x"], 'expected a file or "-", got --listen'),
        (["schema", "rule"], 'Choose from: "config", "rules", "record".'),
        (["schema"], "schema: WHAT is required"),
        (["ca"], "ca: WHAT is required"),
        (["replay", "latest"], "replay: --to is required"),
        (["replay", "latest", "--to"], '"replay" parameter --to requires an argument'),
        (["ca", "show", "--output", "x"], "expected --output with export, got it with show"),
        (["send", "--server", "smtp://x", "--from", "a@x"], "send: --to is required"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_in_a_line_and_is_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert said in streams.err
    assert (streams.out, streams.err.count("Traceback")) == ("", 0)


def test_all_errors_of_a_file_are_shown_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text('drain = 3\ntrce = true\n[log]\nlevel = "loud"\n')
    for verb in ("run", "check"):
        assert main([verb]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [f"relayproxy.toml:{number}" for number in (1, 2, 4)]


def test_what_a_file_says_is_not_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text('"\\u001b[31m" = 1\n')
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith("relayproxy.toml:1: \\x1b[31m: unknown key")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--listen", "smtp://app:hunter2@mail.test"],
        ["run", "smtp://app:hunter2@mail.test"],
        ["list", "smtp://app:hun@ter2@mail.test/"],
        ["run", "--listen", "smtp://app@mail.test:hunter2@mail.test"],
        ["run", "--listen", "postgresql:///db?user=/app:x@y&password=hunter2"],
        ["list", "--limit", "smtp://app:hunter2@mail.test"],
        ["check", "--stroe=postgresql://app:hunter2@db/mail"],
    ],
)
def test_a_password_in_a_url_is_shown_nowhere(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) != 0
    said = capsys.readouterr().err
    assert "hun" not in said
    assert "***" in said


def test_a_place_that_is_taken_is_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("no socket")
    Path("relayproxy.toml").write_text(f'state = "state"\n[[listener]]\naddress = "unix:{tmp_path}/taken"\n')
    assert main(["run"]) == 2
    streams = capsys.readouterr()
    assert f"cannot listen on unix:{tmp_path}/taken" in streams.err
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["run", "--listen", "127.0.0.1:0"], ["ca", "export"]])
def test_a_state_folder_that_cannot_be_used_is_told_as_such(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"relayproxy: the state folder {tmp_path}/home/.local/state/relayproxy cannot be used: ")
    assert said.endswith(": Not a directory; state in the configuration moves it\n")


def test_so_is_one_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text('state = "/proc/nothing/state"\n[[listener]]\naddress = "127.0.0.1:0"\n')
    assert main(["run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("relayproxy: the state folder /proc/nothing/state cannot be used: ")
    assert said.endswith("; state in the configuration moves it\n")


def test_a_fault_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ExceptionGroup("a nursery's", [ValueError("hunter2")])

    monkeypatch.setattr("relayproxy.cli.schema._SCHEMAS", {"rules": fail})
    assert main(["schema", "rules"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"relayproxy: a fault in relayproxy, please report it: ValueError \(test_main:[0-9]+\)\n", said)


@pytest.mark.slow
def test_a_dependency_that_is_not_installed_is_no_fault_of_the_code() -> None:
    script = "import sys; sys.modules['re2'] = None; from relayproxy.cli import main; sys.exit(main(['check']))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )  # as after an update
    assert done.returncode == 1
    assert re.fullmatch(
        r"relayproxy: the installation is not whole: .*re2.*; install relayproxy again .*\n", done.stderr
    )


@pytest.mark.slow
def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    script = "import sys; from relayproxy.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"trio", "pydantic", "structlog", "msgspec"} & set(done.stdout.split()) == set()


def test_a_reader_that_goes_away_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with unread():
        assert main(["schema", "record"]) == 0
    assert capsys.readouterr().err == ""


def test_an_output_that_cannot_be_written_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with full():
        assert main(["schema", "record"]) == 1
    assert capsys.readouterr().err == "relayproxy: standard output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["relayproxy.cli", "cyclopts", "relayproxy.cli.listing", "apsw"])
def test_an_interrupt_while_modules_are_imported_is_quiet(module: str) -> None:
    script = f"""
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
from relayproxy.__main__ import main
sys.exit(main())
"""
    Path("relayproxy.db").touch()
    done = subprocess.run([sys.executable, "-c", script, "list"], capture_output=True, text=True, check=False)
    assert done.returncode in {-signal.SIGINT, 128 + signal.SIGINT}
    assert done.stderr == ""


def test_a_working_folder_that_is_gone_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path.cwd().rmdir()
    try:
        assert main(["check"]) == 1
    finally:
        tmp_path.mkdir()
    assert capsys.readouterr().err == "relayproxy: the working folder: No such file or directory\n"


def test_a_standard_output_that_was_closed_is_told_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["schema", "config"]) == 1
    assert capsys.readouterr().err == "relayproxy: standard output is closed\n"
