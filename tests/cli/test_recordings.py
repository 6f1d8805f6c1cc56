"""`list`, `show` and `export` as users meet them: what is in the store, in the form that was asked for, or why not, in a line."""

from __future__ import annotations

import json
import mailbox
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from outputs import full, unread
from stored import BEGAN, BODY, HEADER, TRACED, kept_in, message, record, session, wire

from relayproxy.cli import main
from relayproxy.cli.listing import table
from relayproxy.record.dialog import parse
from relayproxy.record.report import timestamp
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.opening import open_store

RECEIVED, SENT = HEADER + b"\r\n" + BODY, TRACED + b"\r\n" + BODY


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./relayproxy.db with three sessions: one transaction, one without its message, and none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELAYPROXY_STORE", raising=False)
    later = timestamp(BEGAN + 3_600_000_000_000)
    kept_in(
        tmp_path / "relayproxy.db",
        session(wire("01BT1"), "01AS1"),
        TransactionWrite(record("01AS1", "01BT1"), message(header_sent=TRACED), final=True),
        session(wire("01BT2"), "01AS2"),
        TransactionWrite(record("01AS2", "01BT2", time=later, outcome="rejected"), None, final=True),
        session(wire()[:4], "01CS3"),
    )
    return tmp_path / "relayproxy.db"


def out(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str, status: int = 0) -> bytes:
    assert main(arguments) == status
    streams = capsysbinary.readouterr()
    assert (b"relayproxy: " in streams.err) == bool(status), streams.err
    return streams.out if status == 0 else streams.err


def ids(lines: bytes) -> list[str]:
    return [json.loads(line)["transaction"] for line in lines.splitlines()]


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "01BT1"), ("export", "--format", "jsonl"), ("export", "--format", "dialog")]
)
def test_an_output_that_cannot_be_written_is_status_1_and_one_that_nobody_reads_none(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with unread():
        assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    with full():
        assert main(arguments) == 1
    assert capsys.readouterr().err == "relayproxy: standard output: No space left on device\n"


def test_a_dash_is_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert out(capsysbinary, "export", "01BT1", "--format", "eml", "--output", "-") == RECEIVED
    assert not Path("-").exists()
    told = out(capsysbinary, "export", "--format", "maildir", "--output", "-", status=2)
    assert told == b"relayproxy: expected --output with maildir: a folder\n"


# list


def test_list_gives_the_records_the_newest_last(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert ids(out(capsysbinary, "list")) == ["01BT1", "01BT2"]
    assert ids(out(capsysbinary, "list", "--json", "--limit", "1")) == ["01BT2"]
    assert ids(out(capsysbinary, "list", "latest")) == ["01BT2"]
    assert ids(out(capsysbinary, "list", "01as1")) == ["01BT1"]


def test_an_expression_chooses(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert ids(out(capsysbinary, "list", "outcome:rejected | sender:nobody")) == ["01BT2"]
    assert ids(out(capsysbinary, "export", "!outcome:rejected", "--format", "jsonl")) == ["01BT1"]
    assert b"01AS2" not in out(capsysbinary, "show", "outcome:accepted")
    assert out(capsysbinary, "list", "sender:nobody") == b""
    assert out(capsysbinary, "show", "sender:nobody", status=1) == b"relayproxy: nothing matched\n"


def test_list_of_nothing_is_no_failure(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    kept_in(tmp_path / "empty.db")
    assert out(capsysbinary, "list", "--store", "sqlite:empty.db") == b""


def test_a_table_fits_the_terminal(store: Path) -> None:
    with open_store(f"sqlite:{store}").reader() as reader:
        for width in (80, 100, 150, 250):
            lines = [*table(reader.transactions(), width, colour=False)]
            assert max(map(len, lines)) <= width
            assert [line.split()[2] for line in lines[1:]] == ["accepted", "rejected"]
            assert [line.endswith(id_) for line, id_ in zip(lines[1:], ("01BT1", "01BT2"), strict=True)] == [True, True]
            coloured = table(reader.transactions(), width, colour=True)
            assert [re.sub("\x1b\\[[0-9]*m", "", line).rstrip() for line in coloured] == lines


def test_a_table_is_harmless_and_keeps_its_columns(tmp_path: Path) -> None:
    told = record()
    assert told.message
    subject = "宛先\x1b[31m\u202e" * 10
    kept_in(tmp_path / "odd.db", TransactionWrite(record(message=type(told.message)(None, subject, told.message.size, told.message.digest)), None, final=True))  # fmt: skip
    with open_store(f"sqlite:{tmp_path / 'odd.db'}").reader() as reader:
        _, line = table(reader.transactions(), 150, colour=False)
    assert line.isprintable()
    assert "宛先\\x1b[31m\\u202e" in line


# show


def test_show_is_a_dialog_of_the_latest_session(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (shown,) = parse(out(capsysbinary, "show").decode())
    assert shown.id == "01AS2"
    (shown,) = parse(out(capsysbinary, "show", "01BT1").decode())
    assert shown.id == "01AS1"


def test_a_session_without_transactions_is_shown_by_its_id(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert b"@ session 01CS3 listener=submission began=2026-01-02T03:04:05.100000Z\n+0.000 C open" in out(
        capsysbinary, "show", "01c"
    )


def test_show_of_a_message(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert out(capsysbinary, "show", "01BT1", "--message") == RECEIVED
    assert out(capsysbinary, "show", "01BT1", "--message", "--sent") == SENT
    assert out(capsysbinary, "show", "01BT1", "--headers") == HEADER
    assert out(capsysbinary, "show", "01BT1", "--headers", "--sent") == TRACED
    as_read = b"From: a@example.com\nTo: jane@customer.example\nSubject: hi\n\n[1 text/plain, 15 B]\nhello\n.a dot\n\n"
    assert out(capsysbinary, "show", "01BT1", "--text") == as_read


def test_show_only_has_the_transaction_alone(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    shown = out(capsysbinary, "show", "01BT1", "--only")
    assert b"EHLO" not in shown
    assert b"QUIT" in out(capsysbinary, "show", "01BT1")
    assert b"C> MAIL FROM:<a@example.com>\n" in shown
    assert shown.count(b"250 2.0.0 queued\n") == 2
    assert ids(out(capsysbinary, "show", "01AS1", "--json", "--only")) == ["01BT1"]


def test_a_dialog_file_is_shown_and_exported(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    dialog = out(capsysbinary, "export", "01BT1", "--format", "dialog")
    Path("a.dialog").write_bytes(dialog)
    assert out(capsysbinary, "show", "a.dialog") == dialog
    assert out(capsysbinary, "export", "a.dialog", "--format", "dialog") == dialog


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["show", "01B"], 2, "expected the beginning of one id, got 01B, which is that of 01BT1, 01BT2"),
        (["show", "02"], 1, "there is no transaction or session whose id begins with 02"),
        (["list", "sendr:x"], 2, "sendr:x\n^\nexpected a field, found 'sendr'; the nearest known is sender"),
        (["list", "a.dialog"], 2, "expected recorded transactions, got the file a.dialog"),
        (["list", "--limit", "0"], 2, "--limit: expected 1 or more, got 0"),
        (["list", "--store", "mysql:x"], 2, "expected sqlite:PATH"),
        (["list", "--store", "sqlite:none.db"], 2, "none.db"),
        (["show", "none.dialog"], 2, "none.dialog: No such file or directory"),
        (["show", "01BT2", "--message"], 1, "of 01BT2 no message is kept"),
        (["show", "01BT2", "--message", "--json"], 2, "expected one of --message, --headers, --text and --json"),
        (["show", "01BT2", "--text"], 1, "of 01BT2 no header section is kept"),
        (["show", "--sent"], 2, "expected --sent with --message, --headers or --text"),
        (["show", "01CS3", "--message"], 1, "nothing matched"),
        (["tail", "latest"], 2, "tail -n 1 begins with the latest"),
        (["tail", "-n", "-1"], 2, "-n: expected 0 or more, got -1"),
        (["export"], 2, "--format"),
        (["export", "--format", "pdf"], 2, "pdf"),
        (["export", "--format", "maildir"], 2, "expected --output with maildir: a folder"),
        (["export", "--format", "jsonl", "--sent"], 2, "expected --sent with eml, mbox or maildir, got it with jsonl"),
        (["export", "--format", "eml"], 2, "expected one transaction with eml, got several"),
        (["export", "01BT2", "--format", "eml"], 1, "1 transactions of which no message was kept"),
        (["export", "01CS3", "--format", "jsonl"], 1, "nothing matched"),
        (["export", "--format", "jsonl", "--output", "relayproxy.db"], 2, "relayproxy.db is there already"),
        (["export", "--format", "jsonl", "--output", "no/where"], 2, "No such file or directory"),
    ],
)
def test_what_cannot_be_is_told(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    streams = capsys.readouterr()
    assert said in streams.err
    assert (streams.out, "fault" in streams.err) == ("", False)


def test_a_dialog_file_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.dialog").write_bytes(b"relayproxy dialog 1\nwhat\n")
    Path("worse.dialog").write_bytes(b"\xff")
    assert main(["show", "bad.dialog"]) == 2
    assert "bad.dialog: line 2: expected C>" in capsys.readouterr().err
    assert main(["show", "worse.dialog"]) == 2
    assert "worse.dialog: expected UTF-8, found the byte 0xff" in capsys.readouterr().err


# export


def test_exports(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert out(capsysbinary, "export", "01BT1", "--format", "eml") == RECEIVED
    assert out(capsysbinary, "export", "01BT1", "--format", "eml", "--sent") == SENT
    assert out(capsysbinary, "export", "--format", "jsonl") == out(capsysbinary, "list")
    assert [one.id for one in parse(out(capsysbinary, "export", "--format", "dialog").decode())] == ["01AS1", "01AS2"]
    assert out(capsysbinary, "export", "01BT1", "--format", "pcapng").startswith(b"\x0a\x0d\x0d\x0a")
    assert out(capsysbinary, "export", "01CS3", "--format", "dialog").endswith(b"220 relay.example.test ESMTP\n")


def test_what_is_left_out_is_told(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["export", "--format", "mbox"]) == 0
    streams = capsysbinary.readouterr()
    assert streams.out.startswith(b"From a@example.com Fri Jan  2 03:04:05 2026\nFrom: a@example.com\n")
    assert streams.err == b"relayproxy: 1 transactions of which no message was kept, so that it is left out\n"


def test_a_file_is_there_whole_and_the_owner_s_alone(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert out(capsysbinary, "export", "01BT1", "--format", "eml", "--output", "a.eml") == b""
    assert Path("a.eml").read_bytes() == RECEIVED
    assert Path("a.eml").stat().st_mode & 0o777 == 0o600
    out(capsysbinary, "export", "01BT1", "--format", "eml", "--sent", "--output", "a.eml", status=2)
    assert Path("a.eml").read_bytes() == RECEIVED
    out(capsysbinary, "export", "01BT1", "--format", "eml", "--sent", "--force", "--output", "a.eml")
    assert Path("a.eml").read_bytes() == SENT
    out(capsysbinary, "export", "01BT2", "--format", "eml", "--output", "b.eml", status=1)
    assert [path.name for path in Path().iterdir() if "eml" in path.name] == ["a.eml"]


def test_a_maildir(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    out(capsysbinary, "export", "01BT1", "--format", "maildir", "--output", "mail", "--sent")
    (found,) = mailbox.Maildir("mail", create=False)
    assert found["Received"] == "by relay.test"


# The process.


def run(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "relayproxy", *arguments]


@pytest.mark.slow
def test_on_a_terminal_list_is_a_table_and_show_is_coloured_and_obeyed_by_none(store: Path) -> None:
    kept_in(store, TransactionWrite(record("01DS4", "01DT4"), message(HEADER + b"X: \x1b[5mblink\r\n"), final=True))
    for arguments, expected in ((("list",), b"\x1b[31mrejected  \x1b[m"), (("show", "01BT1"), b"\x1b[32mU< 250 2.0.0 queued\x1b[m"), (("show", "01DT4", "--message"), b"X: \\x1b[5mblink"), (("show", "01DT4", "--headers"), b"X: \\x1b[5mblink"), (("show", "01DT4", "--text"), b"\x1b[2mSubject:\x1b[m hi")):  # fmt: skip
        ours, its = pty.openpty()
        environ = {**os.environ, "NO_COLOR": ""}
        subprocess.run(run(*arguments), stdout=its, stdin=subprocess.DEVNULL, check=True, timeout=30, env=environ)
        os.close(its)
        shown = b""
        while True:
            try:
                octets = os.read(ours, 65536)
            except OSError:  # the terminal has gone
                break
            shown += octets
        os.close(ours)
        assert expected in shown
        assert b"\x1b[5m" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("line", ["list", "show", "export --format dialog", "export --format pcapng"])
def test_a_reader_that_has_had_enough_is_no_failure(line: str, tmp_path: Path) -> None:
    writes = [session(wire(f"T{number}"), f"S{number}") for number in range(300)]
    transactions = [
        TransactionWrite(record(f"S{number}", f"T{number}"), message(), final=True) for number in range(300)
    ]
    kept_in(tmp_path / "many.db", *writes, *transactions)
    shell = f"{sys.executable} -m relayproxy {line.replace('show', 'show sender:*')} --store sqlite:many.db | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["list", "show"])
def test_a_quick_look_imports_nothing_slow(verb: str) -> None:
    script = f"import sys; from relayproxy.cli import main; main(['{verb}']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    slow = {
        "trio",
        "pydantic",
        "structlog",
        "OpenSSL",
        "relayproxy.cli.config",
        "relayproxy.tls.facts",
        "rich.table",
    }
    assert slow & set(done.stderr.split()) == set()
