"""`relayproxy ca`: what is shown and exported of the authority, and that its key is not."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

import pytest

from relayproxy.cli import main
from relayproxy.cli.ca import TRUST


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relayproxy.toml").write_text('state = "state"\n')


def test_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ca", "show"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"relayproxy: there is no authority in {tmp_path}/state/ca yet: ")
    assert (told.out, Path("state").exists()) == ("", False), "to look makes nothing"
    assert main(["ca", "export"]) == 0
    capsys.readouterr()
    assert main(["ca", "show"]) == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(
        r"subject    CN=relayproxy CA .*\ndigest     sha256:[0-9a-f]{64}\nvalid      until 20\d\d-\d\d-\d\d\nfile       (.*)\n",
        shown,
    )
    assert shown.endswith(f"file       {tmp_path}/state/ca/certificate.pem\n")
    assert main(["ca", "show"]) == 0
    assert capsys.readouterr().out == shown, "it is made once"


def test_export(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = f"relayproxy: made a new authority in {tmp_path}/state/ca\n"
    assert main(["ca", "export"]) == 0
    exported = capsys.readouterr()
    assert exported.err.startswith(made)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=exported.out)
    assert exported.out == Path("state/ca/certificate.pem").read_text()
    assert "PRIVATE" not in exported.out + exported.err
    for who, line in TRUST:
        assert f"{who}:" in exported.err
        assert line.format(file="relayproxy-ca.pem") in exported.err
    assert main(["ca", "export", "--output", "a b.pem"]) == 0
    again = capsys.readouterr()
    assert (again.out, Path("a b.pem").read_text(), made in again.err) == ("", exported.out, False)
    assert main(["ca", "export", "--output", "missing/ca.pem"]) == 2
    assert capsys.readouterr().err == "relayproxy: missing/ca.pem: No such file or directory\n"


def test_the_authority_of_another_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("other.toml").write_text('state = "other"\n')
    assert main(["ca", "export", "--config", "other.toml"]) == 0
    assert main(["ca", "show", "--config", "other.toml"]) == 0
    assert f"{tmp_path}/other/ca/" in capsys.readouterr().out
    assert not Path("state").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_sees_and_exports_what_belongs_to_the_service(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ca", "export"]) == 0
    exported = capsys.readouterr().out
    for path in (Path("state"), *Path("state").rglob("*")):
        os.chown(path, 65534, 65534)
    assert main(["ca", "export"]) == 0
    assert capsys.readouterr().out == exported
    assert main(["ca", "show"]) == 0
    assert f"file       {tmp_path}/state/ca/certificate.pem\n" in capsys.readouterr().out
    assert main(["run", "--listen", "127.0.0.1:0"]) == 2
    assert "state/ca: expected a folder of user 0, who runs this, got one of user 65534" in capsys.readouterr().err


def test_a_key_that_others_can_read_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """PROTOCOL attack 26."""
    assert main(["ca", "export"]) == 0
    Path("state/ca/key.pem").chmod(0o640)
    capsys.readouterr()
    for arguments in (["ca", "export"], ["run", "--listen", "127.0.0.1:0"]):
        assert main(arguments) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "key.pem: expected a file that nobody else can get at" in told.err
