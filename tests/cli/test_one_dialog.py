"""One file in the dialog format is all that takes one: a test, what is shown, replayed and mocked, and exported again without loss."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dialog_runner import play
from scripted_server import scripted

from relayproxy.cli import main

pytestmark = pytest.mark.slow

DIALOG = Path(__file__).parent.parent / "dialogs" / "sessions" / "a-dialog-in-full.dialog"


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relayproxy.toml").write_text('hostname = "relay.test"\nstate = "state"\n', encoding="ascii")


def test_it_is_run_as_a_test() -> None:
    play(DIALOG.read_text(encoding="utf-8"))


@pytest.mark.parametrize("verb", [["show"], ["export", "--format", "dialog"]])
def test_it_is_shown_and_exported_without_loss(verb: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main([verb[0], str(DIALOG), *verb[1:]]) == 0
    assert capfdbinary.readouterr().out == DIALOG.read_bytes()


def test_it_is_replayed() -> None:
    with scripted({"RCPT TO:<nobody": "550 5.1.1 nobody"}) as server:
        assert main(["replay", str(DIALOG), "--to", server.url]) == 0
    assert server.data.endswith(b"Subject: caf\xe9\r\n\r\n..with a dot\r\n")


def test_it_is_replayed_to_its_own_mock() -> None:
    mock = [sys.executable, "-m", "relayproxy", "mock", str(DIALOG), "--strict", "--until-used"]
    with subprocess.Popen([*mock, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        address = json.loads(served.stdout.readline())["address"]
        try:
            assert main(["replay", str(DIALOG), "--to", f"smtp://{address}"]) == 0
            assert served.wait(20) == 0
        finally:
            served.kill()
