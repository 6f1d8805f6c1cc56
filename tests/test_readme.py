"""What the README files say is true: their examples are run, their diagrams drawn again, their flags looked up."""

from __future__ import annotations

import json
import os
import re
import shlex
import smtplib
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from dialog_runner import play
from real_aiosmtpd import aiosmtpd
from stored import kept_in, message, record, session, wire

from relayproxy.cli.config import load
from relayproxy.cli.config_rules import read
from relayproxy.record.dialog import parse, print_dialog
from relayproxy.record.report import AddressRecord, EnvelopeRecord, EnvelopesRecord, timestamp
from relayproxy.record.report_lines import schema
from relayproxy.record.store.interface import TransactionWrite

HERE = Path(__file__).parent
ROOT = HERE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", blocks(README, "toml"))
def test_configurations_are_right(text: str, tmp_path: Path) -> None:
    path = tmp_path / "relayproxy.toml"
    path.write_text(text, encoding="utf-8")
    config = load(path, environ={})
    assert [str(listener.address) for listener in config.listener] == ["127.0.0.1:2525"]
    assert len(read(config).rules.rules) >= len(config.rules.files)


def test_staging_guards_what_the_readme_says_by_flags_and_by_file(tmp_path: Path) -> None:
    (section,) = re.findall(r"^## Staging\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^    \S*relayproxy (run .*)$", section, re.MULTILINE)
    path = tmp_path / "relayproxy.toml"
    path.write_text(blocks(section, "toml")[0], encoding="utf-8")
    _, *flags = shlex.split(command.replace("--upstream smtp://mail.example.test:25 ", ""))
    for arguments in ([str(path)], flags):
        argv = [sys.executable, "-m", "relayproxy", "check", *arguments]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30, cwd=tmp_path).stdout
        assert re.findall(r"`(guard: .*?)`", section) == [
            line[2:] for line in said.splitlines() if line.startswith("# guard: ")
        ]
        assert re.findall(r"^# \w+ +(redirect-all.*?) \(", said, re.MULTILINE)


def test_the_step_for_ci_lets_a_change_pass_that_keeps_mail_in_and_fails_one_that_does_not(tmp_path: Path) -> None:
    (section,) = re.findall(r"^## Trying rules on recorded traffic\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^  run: relayproxy (.*)$", section, re.MULTILINE)
    (leak,) = blocks(section, "text")
    header = b"To: jane@customer.example\r\nSubject: hello\r\n"
    envelope = EnvelopeRecord("app@example.test", {}, (AddressRecord("jane@customer.example", {}),))
    told = record(
        transaction="01M85AS4VX107RG5FJ1H77ZHRZ",
        time="2026-01-02T03:04:05.000000Z",
        envelope=EnvelopesRecord(envelope, envelope),
    )
    kept_in(tmp_path / "traffic.db", TransactionWrite(told, message(header), final=True))
    rules = '[[rule]]\nname = "{}"\nwhen = {{ {} }}\nthen = [{{ redirect_recipient = "qa@example.test" }}]\n'
    for name, when, status in (
        ("all go to QA", 'not = { recipient = "*@example.test" }', 0),
        ("invoices go to QA", 'header.Subject = "*invoice*"', 1),
    ):
        (tmp_path / "staging.toml").write_text(rules.format(name, when))
        argv = [sys.executable, "-m", "relayproxy", *shlex.split(command)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout == leak


def test_the_examples_of_tests_are_run() -> None:
    example = (HERE / "testing" / "example" / "test_plain_code.py").read_text(encoding="utf-8")
    assert [text for text in blocks(README, "python") if text not in example] == []


RECORDED = """relayproxy dialog 1
C< 220 mx.test ESMTP
C> EHLO app
C< 250 mx.test
C> MAIL FROM:<a@example.com>
C< 250 2.1.0 ok
C> RCPT TO:<jane@customer.example>
C< 250 2.1.5 ok
C> DATA
C< 354 go
C> |.
C< 250 2.0.0 queued
C> QUIT
C< 221 2.0.0 bye
"""
CLIENT = """import json, smtplib
port = int(json.loads(open("mock.log").readline())["address"].rpartition(":")[2])
with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
    try:
        smtp.sendmail("a@example.com", "{to}", "Subject: hi")
    except smtplib.SMTPException:
        pass
raise SystemExit({status})
"""


class Taking:
    """What aiosmtpd asks."""

    async def handle_DATA(self, _server: object, _session: object, _envelope: object) -> str:  # noqa: N802
        return "250 2.0.0 taken"


def mock_commands() -> list[list[str]]:
    (section,) = re.findall(r"^## Be the recorded server\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    return [
        shlex.split(line, comments=True) for line in re.findall(r"^    relayproxy (mock .*)$", section, re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ("number", "to", "status"),
    [(0, "joe@customer.example", 1), (1, "jane@customer.example", 0), (2, "jane@customer.example", 0)],
)
def test_the_recorded_server_is_what_it_says(number: int, to: str, status: int, tmp_path: Path) -> None:
    (section,) = re.findall(r"^## Be the recorded server\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "relayproxy.toml").write_text('state = "state"\n', encoding="ascii")
    recorded_at = time.time_ns() - 10**9
    told = record("01S1", "01T1", time=timestamp(recorded_at))
    write = session(wire("01T1"), "01S1", began=recorded_at, ended=recorded_at)
    kept_in(tmp_path / "relayproxy.db", write, TransactionWrite(told, message(), final=True))
    argv = [sys.executable, "-m", "relayproxy"]
    export = [*argv, "export", "01T1", "--format", "dialog", "--output", "session.dialog"]
    subprocess.run(export, check=True, timeout=30, cwd=tmp_path)
    with aiosmtpd(Taking()) if number == 2 else nullcontext("") as url:
        command = [url if word.startswith("smtp:") else word for word in mock_commands()[number]]
        if "--listen" in command:
            command[command.index("--listen") + 1] = "127.0.0.1:0"
        else:
            command += ["--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            [*argv, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        ) as mock:
            assert mock.stdout is not None
            port = int(json.loads(mock.stdout.readline())["address"].rpartition(":")[2])
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp, suppress(smtplib.SMTPRecipientsRefused):
                smtp.sendmail("a@example.com", to, "Subject: hi\r\n\r\nhello\r\n")
            if "--until-used" not in command:
                mock.terminate()
            _, said = mock.communicate(timeout=30)
    assert mock.returncode == status
    assert (blocks(section, "text")[0] in said) == (status == 1)
    assert (tmp_path / "signup.dialog").exists() == (number == 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "tests", "status"),
    [("jane@customer.example", 0, 0), ("joe@customer.example", 0, 1), ("jane@customer.example", 1, 1), (None, 0, 1)],
)
def test_the_step_for_ci_of_a_mock_has_the_status_of_both(
    to: str | None, tests: int, status: int, tmp_path: Path
) -> None:
    (section,) = re.findall(r"^## Be the recorded server\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    (step,) = blocks(section, "yaml")
    script = textwrap.dedent(step.partition("run: |\n")[2])
    (tmp_path / "relayproxy.toml").write_text('state = "state"\n', encoding="ascii")
    (tmp_path / "session.dialog").write_text(RECORDED, encoding="ascii")
    client = CLIENT.format(to=to, status=tests) if to else "raise SystemExit(0)"
    (tmp_path / "client.py").write_text(client, encoding="ascii")
    for name, what in (("relayproxy", "-m relayproxy"), ("pytest", "client.py")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} {what} "$@"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace(":2526 >", ":0 >")],  # as CI runs it
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert "relayproxy: played: " in done.stderr
    if to is None:
        assert "relayproxy: unused: " in done.stderr


def test_the_record_fits_its_schema() -> None:
    (text,) = blocks(README, "json")
    record = json.loads(text.replace('"…"', json.dumps("0" * 64)))
    jsonschema.Draft202012Validator(schema()).validate(record)


def command_lines() -> list[str]:
    section = README.split("## Command line\n")[1].split("\n## ")[0]
    recordings = (ROOT / "relayproxy" / "record" / "README.md").read_text(encoding="utf-8")
    lines = [*section.splitlines(), *recordings.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("    relayproxy ")]


@pytest.mark.parametrize("line", command_lines())
def test_verbs_and_flags_exist(line: str) -> None:
    _, verb, *_ = shlex.split(line.replace("[", " ").replace("]", " "))
    done = subprocess.run(
        [sys.executable, "-m", "relayproxy", verb, "--help"], capture_output=True, text=True, check=True, timeout=30
    )
    for flag in re.findall(r"--[a-z-]+", line):
        assert flag in done.stdout


def test_commands_of_make_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for readme in ROOT.glob("**/README.md"):
        if ".venv" not in readme.parts:
            for target in re.findall(r"^ +(?:\w+=\d )?make ([a-z]+)", readme.read_text(encoding="utf-8"), re.MULTILINE):
                assert target in targets, readme


def test_the_diagrams_are_the_tables() -> None:
    drawn = subprocess.run(
        [sys.executable, HERE / "smtp" / "diagram.py"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    house = (ROOT / "relayproxy" / "README.md").read_text(encoding="utf-8")
    assert drawn.strip() in house


@pytest.mark.parametrize("room", ["testing", "cli", "replay", "relay", "tls", "net", "record", "rules", "mail", "smtp"])
def test_the_house_names_its_modules(room: str) -> None:
    house = (ROOT / "relayproxy" / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{room}/` \|(.*)\|$", house, re.MULTILINE)
    modules = {path.stem for path in (ROOT / "relayproxy" / room).glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`(\w+)`", row)) == modules


def test_the_example_of_a_dialog_passes() -> None:
    (text,) = [block for block in blocks((HERE / "README.md").read_text(encoding="utf-8"), "") if "dialog 1" in block]
    play(text)


def test_the_example_of_a_recorded_dialog_is_one() -> None:
    (text,) = blocks((ROOT / "relayproxy" / "record" / "README.md").read_text(encoding="utf-8"), "")
    assert print_dialog(parse(text)) == text
