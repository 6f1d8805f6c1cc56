"""`backtest` as users meet it: what rules would have done to the traffic in a store, as a diff, as JSON, and as an exit status for CI."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from outputs import full, unread
from stored import BEGAN, HEADER, kept_in, message, record

from relayproxy.cli import main
from relayproxy.record.report import AddressRecord, EnvelopeRecord, EnvelopesRecord, timestamp
from relayproxy.record.store.interface import TransactionWrite

QA = """
[[rule]]
name = "to QA"
when = { not = { recipient = "*@example.test" } }
then = [{ redirect_recipient = "qa@example.test" }]
"""
#: The same with a hole: who wrote it thought that nobody answers to what is private.
HOLE = QA.replace('when = { not = { recipient = "*@example.test" } }', 'when = { header.Subject = "*invoice*" }')
TRACE = b"Received: by relay.test\r\n"
GUARDED = ("--allow", "*@example.test")


def write(number: int, recipient: str, subject: str, **more: Any) -> TransactionWrite:
    header = f"From: a@example.com\r\nTo: {recipient}\r\nSubject: {subject}\r\n".encode()
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord(recipient, {}),))
    made = record(
        f"01AS{number}",
        f"01BT{number}",
        time=timestamp(BEGAN + number * 1_000_000_000),
        envelope=EnvelopesRecord(envelope, envelope),
        recipients=(),
        **more,
    )
    return TransactionWrite(made, message(header, header_sent=TRACE + header), final=True)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./relayproxy.db with two messages to a customer and one to QA, all sent without rules."""
    monkeypatch.chdir(tmp_path)
    for variable in ("RELAYPROXY_STORE", "RELAYPROXY_RULES", "RELAYPROXY_ALLOW", "RELAYPROXY_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    kept_in(
        tmp_path / "relayproxy.db",
        write(1, "jane@customer.example", "your invoice"),
        write(2, "joe@customer.example", "hello"),
        write(3, "qa@example.test", "hello"),
    )
    (tmp_path / "qa.toml").write_text(QA)
    (tmp_path / "hole.toml").write_text(HOLE)
    return tmp_path / "relayproxy.db"


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(["backtest", *arguments]) == status
    out, err = capsys.readouterr()
    assert bool(err) == (status != 0 and not out)
    return out or err


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_diff(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        said(capsys, "hole.toml", *GUARDED)
        == """\
3 messages, 2 changed, 1 leak
  recipients: 2
  header section: 1
  outcome: 1
  MAIL and RCPT leave at the end of the header section: to QA
  DATA leaves at the end of the header section: to QA
  the final dot leaves as it comes

01BT2  2026-01-02 03:04:07  from a@example.com
- outcome: accepted
+ outcome: rejected
- recipient: joe@customer.example
! leak: joe@customer.example: the guard (*@example.test) does not allow it

01BT1  2026-01-02 03:04:06  from a@example.com
- recipient: jane@customer.example
+ recipient: qa@example.test
- To: jane@customer.example
+ To: qa@example.test
  rules: none -> to QA
"""
    )


def test_json_is_a_line_a_message_and_one_that_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    *messages, summary = objects(said(capsys, "hole.toml", *GUARDED, "--json"))
    assert [(one["transaction"], one["changed"], one["leaks"]) for one in messages] == [
        ("01BT1", True, []), ("01BT2", True, ["joe@customer.example"]), ("01BT3", False, []),
    ]  # fmt: skip
    assert messages[0] == {
        "event": "backtest",
        "transaction": "01BT1",
        "session": "01AS1",
        "time": "2026-01-02T03:04:06.100000Z",
        "sender": "a@example.com",
        "outcome": "accepted",
        "changed": True,
        "changes": {
            "recipients": {"removed": ["jane@customer.example"], "added": ["qa@example.test"]},
            "headers": [{"name": "To", "before": ["jane@customer.example"], "after": ["qa@example.test"]}],
        },
        "leaks": [],
        "rules": {"before": [], "after": ["to QA"]},
        "unseen": [],
        "failure": None,
    }
    gates = summary.pop("gates")
    assert summary == {
        "event": "backtest-summary",
        "messages": 3,
        "changed": 2,
        "leaking": 1,
        "leaks": {"joe@customer.example": 1},
        "changes": {"recipients": 2, "headers": 1, "outcome": 1},
        "unseen": {},
        "failures": 0,
    }
    assert gates["before"] is None
    assert gates["after"][0] == "MAIL and RCPT leave at the end of the header section: to QA"


def test_without_a_guard_nobody_looks_for_leaks(capsys: pytest.CaptureFixture[str]) -> None:
    not_looked_for = "leaks were not looked for, as there is no guard (--allow says whom mail may go to)"
    assert said(capsys, "hole.toml").splitlines()[0] == f"3 messages, 1 changed, {not_looked_for}"
    *messages, summary = objects(said(capsys, "hole.toml", "--json"))
    assert [one["leaks"] for one in messages] == [None, None, None]
    assert (summary["leaking"], summary["leaks"]) == (None, None)
    assert said(capsys, "qa.toml", *GUARDED).splitlines()[0] == "3 messages, 2 changed, 0 leaks"


STATUS = [
    # arguments, exit status
    (["qa.toml", *GUARDED, "--fail-on", "leak"], 0),
    (["hole.toml", *GUARDED, "--fail-on", "leak"], 1),
    (["hole.toml", *GUARDED], 0),
    (["qa.toml", *GUARDED, "--fail-on", "change"], 1),
    (["qa.toml", *GUARDED, "--fail-on", "leak", "--fail-on", "change"], 1),
    (["qa.toml", "01BT3", *GUARDED, "--fail-on", "leak", "--fail-on", "change"], 0),
    (["hole.toml", "subject:hi & recipient:*@customer.example", *GUARDED, "--fail-on", "leak"], 1),
    (["qa.toml", "--against", "qa.toml", "--fail-on", "change"], 0),
    (["qa.toml", "--against", "relayproxy:staging-redirect", "--fail-on", "change"], 1),
    (["hole.toml", "qa.toml", *GUARDED, "--fail-on", "leak"], 2),  # two rules of one name
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status"), STATUS, ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_a_gate_for_ci(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, *arguments, status=status)


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_a_reader_that_has_had_enough_changes_no_verdict(json_: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with unread():
        assert main(["backtest", "hole.toml", *GUARDED, "--fail-on", "leak", *json_]) == 1
    with unread():
        assert main(["backtest", "qa.toml", *GUARDED, "--fail-on", "leak", *json_]) == 0
    assert capsys.readouterr().err == ""


def test_what_cannot_be_written_is_no_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with full():
        assert main(["backtest", "qa.toml"]) == 1
    assert capsys.readouterr().err == "relayproxy: standard output: No space left on device\n"


def test_gates_that_are_others_are_a_change_even_where_no_message_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("early.toml").write_text('[[rule]]\nwhen = { sender = "*@nobody.test" }\nthen = [{ reject = true }]\n')
    Path("late.toml").write_text(
        '[[rule]]\nwhen = { sender = "*@nobody.test" }\nthen = [{ reject = true }]\nat = "eom"\n'
    )
    text = said(capsys, "late.toml", "--against", "early.toml", "--fail-on", "change", status=1)
    assert text.splitlines()[0].startswith("3 messages, 0 changed, ")
    assert "- the final dot leaves as it comes" in text
    assert "+ the final dot waits for the rules: rule 1 of late.toml" in text


def test_rules_and_guard_are_the_configuration_s_where_none_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text(
        '[rules]\nfiles = ["hole.toml"]\n[guard]\nallow = ["*@example.test"]\n[upstream.x]\nurl = "smtp://127.0.0.1"\n'
    )
    said(capsys, "--fail-on", "leak", status=1)
    said(capsys, "qa.toml", "--fail-on", "leak")
    Path("other.toml").write_text('[[rule]]\nthen = [{ route = "elsewhere" }]\n')
    assert "elsewhere" in said(capsys, "other.toml", status=2)  # there is no such upstream
    Path("relayproxy.toml").unlink()
    assert "route: 3" in said(capsys, "other.toml")  # nobody knows which there are


def test_a_redirection_of_all_stays_behind_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text('[rules]\nredirect_all = "qa@example.test"\n[guard]\nallow = ["*@example.test"]\n')  # fmt: skip
    said(capsys, "hole.toml", "--fail-on", "leak")


def test_a_limit_is_of_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "hole.toml", *GUARDED, "--limit", "1")
    assert "01BT2" in text  # what leaks comes first
    assert "01BT1" not in text
    assert text.endswith("\nand 1 message more (--limit)\n")
    *messages, summary = objects(said(capsys, "qa.toml", "--json", "--limit", "1"))
    assert (len(messages), summary["messages"]) == (1, 3)


def test_what_was_not_kept_is_said_and_counted(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept_in(store, write(4, "jim@customer.example", "hi")._replace(message=None))
    text = said(capsys, "hole.toml", "01BT4", *GUARDED, "--fail-on", "leak", status=1)
    assert "\n  header section: not kept of 1 message, tried as far as that goes\n" in text
    assert "\n? not kept: header section\n" in text
    assert objects(said(capsys, "hole.toml", "--json"))[-1]["unseen"] == {"header section": 1}


def test_of_traffic_without_addresses_nothing_can_be_tried(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept_in(store, write(4, "<redacted 20>", "hi"))
    assert main(["backtest", "qa.toml", "01BT4"]) == 1
    assert capsys.readouterr().err == "relayproxy: nothing matched that could be tried: of 1 no addresses were kept\n"
    assert "addresses: not kept of 1 message, not tried" in said(capsys, "qa.toml")


def test_a_rule_that_goes_wrong_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.toml").write_text('[[rule]]\nname = "wrong"\nthen = [{ add_recipient = "a@{header.X-None}" }]\n')
    text = said(capsys, "wrong.toml", "01BT1")
    assert "\n  a rule went wrong: 1\n" in text
    assert "\n! rule 'wrong': " in text
    assert "+ outcome: rejected" in text


def test_functions_of_python_files_have_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relayproxy.toml").write_text('[limits]\nrule_time = "2s"\n')
    Path("slow.py").write_text(
        'import threading\n\nACTIONS = ["tag"]\nnever = threading.Event()\n\n'
        'def mail(mail):\n    mail.tag("seen")\n    if mail.transaction == "01BT2":\n        never.wait(30)\n'
    )
    text = said(capsys, "slow.py")
    assert "3 messages, 3 changed, " in text
    assert "tags: 2" in text
    assert "slow.py: mail': expected it to end within 2 s, and gave up" in text


WRONG = [
    # arguments, what is said
    (["qa.toml", "--fail-on", "leak"], "--fail-on leak: expected a guard: --allow, or [guard] allow in the configuration"),
    (["latest", "qa.toml"], "expected files of rules (.toml, .py, relayproxy:NAME), and behind them one SELECT, got latest in front of qa.toml"),
    (["qa.toml", "latest", "01BT1"], "one SELECT, got latest and 01BT1"),
    (["missing.toml"], "missing.toml: cannot be read: No such file or directory"),
    (["qa.toml", "--against", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
    (["relayproxy:nothing"], "expected the name of a rule file that is shipped"),
    (["qa.toml", "sender:"], "this is no SELECT"),
    (["qa.toml", "it.dialog"], "expected recorded transactions, got the file it.dialog"),
    (["qa.toml", "--limit", "-1"], "--limit: expected 0 or more, got -1"),
    (["qa.toml", "--allow", "/(/"], "--allow"),
    (["qa.toml", "--fail-on", "all"], "fail-on"),
    (["qa.toml", "--store", "sqlite:none.db"], "none.db"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "what"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_wrong_usage_is_status_2(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert what in said(capsys, *arguments, status=2)


def test_nothing_that_matches_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing matched" in said(capsys, "qa.toml", "sender:nobody@*", status=1)
    assert "no transaction or session" in said(capsys, "qa.toml", "01ZZ", status=1)


def test_what_a_client_sent_is_obeyed_by_no_terminal(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = HEADER + "X: \x1b[5mblink\u202e\r\n".encode()
    made = record("01AS5", "01BT5\x1b[31m")
    kept_in(store, TransactionWrite(made, message(header, header_sent=TRACE + header), final=True))
    Path("x.toml").write_text('[[rule]]\nthen = [{ delete_header = "X" }]\n')
    text = said(capsys, "x.toml")
    assert "- X: \\x1b[5mblink\\u202e" in text
    assert "\x1b" not in text


@pytest.mark.slow
def test_on_a_terminal_it_is_coloured(store: Path) -> None:
    ours, its = pty.openpty()
    argv = [sys.executable, "-m", "relayproxy", "backtest", "hole.toml", *GUARDED]
    environ = {**os.environ, "NO_COLOR": "", "TERM": "xterm"}
    with subprocess.Popen(argv, stdout=its, stderr=its, stdin=subprocess.DEVNULL, env=environ, cwd=store.parent) as run:
        os.close(its)
        shown = b""
        while True:
            try:
                octets = os.read(ours, 65536)
            except OSError:  # the terminal has gone
                break
            shown += octets
        os.close(ours)
    assert run.returncode == 0
    for line in (b"\x1b[31m- recipient: jane@customer.example\x1b[m", b"\x1b[32m+ recipient: qa@example.test\x1b[m"):
        assert line in shown
    assert b"trying" in shown


def test_a_hostile_subject_does_not_break_a_line_of_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write(6, "jane@customer.example", "=?utf-7?q?+2D0-?=")
    told = made.record.message
    assert told is not None
    kept_in(store, made._replace(record=msgspec.structs.replace(made.record, message=told)))
    Path("x.toml").write_text('[[rule]]\nthen = [{ delete_header = "Subject" }]\n')
    assert len(objects(said(capsys, "x.toml", "--json"))) == 5
