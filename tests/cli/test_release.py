"""`relayproxy release`: what leaves of what is held, once, and what is told and kept of it whatever goes wrong."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from scripted_server import SILENCE, scripted
from stored import BEGAN, BODY, HEADER, TRACED, body, kept_in, message, record, reopened, session

from relayproxy.cli import main
from relayproxy.record.report import (
    AddressRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    MessageRecord,
    ReleaseRecord,
    SizeRecord,
    UpstreamRecord,
    timestamp,
)
from relayproxy.record.store.interface import Keep, TransactionWrite
from relayproxy.record.store.opening import open_store
from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_server import Server

    from relayproxy.record.store.interface import Message

NOWHERE = "smtp://127.0.0.1:1"
DSN = "250-server.test\r\n250-SIZE\r\n250-8BITMIME\r\n250 DSN"
#: As it is on the wire.
LEFT = TRACED + b"\r\n" + BODY.replace(b"\r\n.", b"\r\n..")


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)


def held(
    id_: str = "01BT1",
    *to: str,
    sender: str = "a@example.com",
    parameters: dict[str, str | None] | None = None,
    of_recipients: dict[str, str | None] | None = None,
    kept: Message | None = None,
    seconds: int = 0,
    upstream: str | None = "provider",
    **more: Any,
) -> TransactionWrite:
    """Written when the relay said 250, as the relay writes it."""
    recipients = tuple([AddressRecord(one, of_recipients or {}) for one in to or ("jane@customer.example",)])
    envelope = EnvelopeRecord(sender, parameters or {}, recipients)
    made = record(
        transaction=id_,
        time=timestamp(BEGAN + seconds * 1_000_000_000),
        envelope=EnvelopesRecord(envelope, None),
        upstream=None if upstream is None else UpstreamRecord(upstream),
        message=MessageRecord(None, "hi", SizeRecord(100, None), DigestsRecord(None, None)),
        outcome="held",
        held=HeldRecord("let me see", envelope),
        **more,
    )
    return TransactionWrite(made, kept or message(header_sent=TRACED), final=True)


def configured(url: str, *more: str) -> None:
    """./relayproxy.toml with that one upstream."""
    lines = "\n".join(["[upstream.provider]", f'url = "{url}"', *more, ""])
    Path("relayproxy.toml").write_text(lines, encoding="utf-8")


@contextmanager
def upstream(replies: dict[str, str] | None = None, *more: str, sessions: int = 1) -> Iterator[Server]:
    with scripted(replies or {}, sessions=sessions) as server:
        configured(server.url, *more)
        yield server


def tries(id_: str = "01BT1") -> list[ReleaseRecord]:
    with open_store("sqlite:relayproxy.db").reader() as reader:
        stored = reader.transaction(id_)
        assert stored is not None
        assert isinstance(stored.record.held, HeldRecord)
        assert stored.record.outcome == "held"
        return list(stored.record.held.released)


def outcomes(id_: str = "01BT1") -> list[str]:
    return [one.outcome for one in tries(id_)]


def kept(*writes: TransactionWrite) -> None:
    kept_in(Path("relayproxy.db"), *writes)


def test_it_leaves_as_the_rules_left_it_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held())
    with upstream() as server:
        assert main(["release", "01BT1"]) == 0
    assert server.messages == [LEFT]
    assert [line.partition(b" SIZE=")[0].strip() for line in server.lines][1:] == [
        b"MAIL FROM:<a@example.com>",
        b"RCPT TO:<jane@customer.example>",
        b"DATA",
        b"QUIT",
    ]
    assert f"SIZE={len(TRACED) + 2 + len(BODY)}".encode() in server.lines[1]
    assert capsys.readouterr().out == "01BT1  released to jane@customer.example: 250 2.0.0 queued as 42\n"
    (release,) = tries()
    assert (release.outcome, release.upstream, release.to) == ("accepted", "provider", ("jane@customer.example",))
    assert release.reply is not None
    assert release.reply.text == "queued as 42"
    for arguments in (["01BT1"], ["01BT1", "--again"], ["latest"]):
        assert main(["release", *arguments]) == 1
        assert f"01BT1 was released already, {release.time} to jane@customer.example" in capsys.readouterr().err
    assert outcomes() == ["accepted"]


def test_the_envelope_leaves_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, str | None] = {
        "SIZE": "9",
        "AUTH": "<redacted 5>",
        "BODY": "8BITMIME",
        "RET": "HDRS",
        "ENVID": "x+2By",
    }
    kept(
        held("01BT1", "jane@x.test", r'"a\\"b"@x.test', sender="", parameters=given, of_recipients={"NOTIFY": "NEVER"})
    )
    with upstream({"EHLO": DSN}) as server:
        assert main(["release", "01BT1"]) == 0
    size = len(TRACED) + 2 + len(BODY)
    assert server.lines[1:4] == [
        b"MAIL FROM:<> SIZE=%d BODY=8BITMIME RET=HDRS ENVID=x+2By\r\n" % size,
        b"RCPT TO:<jane@x.test> NOTIFY=NEVER\r\n",
        b'RCPT TO:<"a\\"b"@x.test> NOTIFY=NEVER\r\n',
    ]
    assert "released to jane@x.test, " in capsys.readouterr().out


def test_a_large_message_leaves_whole() -> None:
    content = (b"." * 70 + b"\r\n" + os.urandom(30).hex().encode() + b"\r\n") * 4000
    kept(held(kept=message(content=content, body_sent=body(content[:400_000] + b"\r\n"), header_sent=TRACED)))
    with upstream() as server:
        assert main(["release", "01BT1"]) == 0
    assert server.data == TRACED + b"\r\n." + (content[:400_000] + b"\r\n").replace(b"\r\n.", b"\r\n..")


def test_to_replaces_the_recipients_in_the_envelope_alone() -> None:
    kept(held(of_recipients={"ORCPT": "rfc822;jane@customer.example"}))
    with upstream({"EHLO": DSN}) as server:
        assert main(["release", "01BT1", "--to", "qa@x.test", "--to", "qa2@x.test", "--to", "qa@x.test"]) == 0
    assert server.lines[2:4] == [b"RCPT TO:<qa@x.test>\r\n", b"RCPT TO:<qa2@x.test>\r\n"]
    assert b"To: jane@customer.example" in server.data
    assert tries()[0].to == ("qa@x.test", "qa2@x.test")


def test_several_go_one_by_one_the_oldest_first_and_one_that_does_not_go_stops_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept(
        held("01BT3", "c@x.test", seconds=3),
        held("01BT1", "a@x.test", seconds=1),
        held("01BT2", "b@x.test", seconds=2),
        TransactionWrite(record(transaction="01BT0"), message(), final=True),
    )
    with upstream({"RCPT TO:<b@": "550 5.1.1 who?"}, sessions=3) as server:
        assert main(["release", "sender:a@example.com"]) == 1
    assert [line for line in server.lines if line.startswith(b"RCPT")] == [
        b"RCPT TO:<a@x.test>\r\n",
        b"RCPT TO:<b@x.test>\r\n",
        b"RCPT TO:<c@x.test>\r\n",
    ]
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["01BT1", "01BT3"]
    assert "01BT2 was not released: RCPT TO:<b@x.test>: 550 5.1.1 who?" in told.err
    with upstream() as server:
        assert main(["release", "held:true"]) == 0
    assert server.messages == [LEFT]
    assert main(["release", "held:true"]) == 1
    assert "nothing matched that is held and was not released" in capsys.readouterr().err


def test_a_sessions_id_means_what_is_held_of_it() -> None:
    kept_in(
        Path("relayproxy.db"),
        session([]),
        held(),
        TransactionWrite(record(transaction="01BT0"), message(), final=True),
    )
    with upstream() as server:
        assert main(["release", "S1"]) == 0
    assert server.messages == [LEFT]


def test_nobody_gets_it_unless_all_do(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held("01BT1", "a@x.test", "b@x.test", "c@x.test"))
    with upstream({"RCPT TO:<b": "550 5.1.1 who?", "RCPT TO:<c": "450 4.2.2 full"}) as server:
        assert main(["release", "01BT1"]) == 1
    assert [line[:4] for line in server.lines][-2:] == [b"RSET", b"QUIT"]
    assert server.messages == []
    err = capsys.readouterr().err
    assert "RCPT TO:<b@x.test>: 550 5.1.1 who?; RCPT TO:<c@x.test>: 450 4.2.2 full; nothing was sent" in err
    assert outcomes() == ["tempfailed"]
    assert tries()[0].reply is not None
    with upstream() as server:
        assert main(["release", "01BT1"]) == 0, "it may be tried again"
    assert outcomes() == ["tempfailed", "accepted"]


# (what the server answers, what stands in the store, what is told)
REFUSALS = [
    ({"GREETING": "554 5.7.1 no\x1b[31m"}, "rejected", "554 5.7.1 no\\x1b[31m"),
    ({"GREETING": "421 4.3.2 later"}, "tempfailed", "421 4.3.2 later"),
    ({"GREETING": ""}, "tempfailed", "the server closed the connection"),
    ({"MAIL": "452 4.3.1 full"}, "tempfailed", "MAIL FROM:<a@example.com>: 452 4.3.1 full"),
    ({"MAIL": ""}, "tempfailed", "the server closed the connection"),
    ({"DATA": "550 5.7.1 no"}, "rejected", "DATA: 550 5.7.1 no"),
    ({".": "554 5.6.0 spam"}, "rejected", "end of data: 554 5.6.0 spam"),
    ({".": "451 4.3.0 later"}, "tempfailed", "end of data: 451 4.3.0 later"),
]


@pytest.mark.parametrize(("replies", "outcome", "told"), REFUSALS, ids=str)
def test_what_was_refused_is_told_and_may_be_tried_again(
    replies: dict[str, str], outcome: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(held())
    with upstream(replies):
        assert main(["release", "01BT1"]) == 1
    err = capsys.readouterr().err
    assert "01BT1 was not released: " in err
    assert told in err
    assert "\x1b" not in err
    assert outcomes() == [outcome]
    with upstream() as server:
        assert main(["release", "01BT1"]) == 0
    assert server.messages == [LEFT]


def test_where_the_server_never_answered_it_is_unknown_and_goes_only_with_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept(held())
    with upstream({".": ""}):
        assert main(["release", "01BT1"]) == 1
    assert "01BT1 may have been released: " in capsys.readouterr().err
    assert outcomes() == ["unknown"]
    configured(NOWHERE)
    assert main(["release", "held:true"]) == 1
    assert f"a try of {tries()[0].time} to jane@customer.example was cut off, or goes on" in capsys.readouterr().err
    assert outcomes() == ["unknown"]
    assert main(["release", "01BT1", "--again"]) == 1
    capsys.readouterr()
    assert main(["release", "01BT1"]) == 1
    assert "--again sends it once more" in capsys.readouterr().err, "what came behind it makes it no more certain"
    with upstream() as server:
        assert main(["release", "01BT1", "--again"]) == 0
    assert server.messages == [LEFT]
    assert outcomes() == ["unknown", "tempfailed", "accepted"]


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held())
    configured(NOWHERE)
    assert main(["release", "01BT1"]) == 1
    assert "01BT1 was not released: smtp://127.0.0.1:1: connection refused" in capsys.readouterr().err
    assert outcomes() == ["tempfailed"]


# Cut off.


def releasing(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "relayproxy", "release", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_kill_behind_the_claim_leaves_it_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held())
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        mute.settimeout(30)
        configured(f"smtp://127.0.0.1:{mute.getsockname()[1]}")
        process = releasing("01BT1")
        with mute.accept()[0]:  # from here on it waits for a greeting
            assert outcomes() == ["unknown"]
            assert main(["release", "01BT1"]) == 1, "nor does another go on meanwhile"
            process.kill()
            process.communicate()
    assert outcomes() == ["unknown"]
    assert main(["release", "01BT1"]) == 1
    assert "--again sends it once more" in capsys.readouterr().err
    with upstream() as server:
        assert main(["release", "01BT1", "--again"]) == 0
    assert server.messages == [LEFT]


@pytest.mark.slow
def test_of_two_at_once_one_sends_it() -> None:
    kept(*[held(f"01BT{number}") for number in range(5)])
    with upstream(sessions=5) as server:
        processes = [releasing("held:true") for _ in range(2)]
        told = [process.communicate()[0] for process in processes]
    assert len(server.messages) == 5
    assert sorted(line.split()[0] for out in told for line in out.splitlines()) == [f"01BT{n}" for n in range(5)]
    assert [outcomes(f"01BT{number}") for number in range(5)] == [["accepted"]] * 5


INTERRUPTED = [
    ({"GREETING": SILENCE}, "aborted", "was not released: it was interrupted: nothing was sent"),
    ({"RCPT": SILENCE}, "aborted", "was not released: it was interrupted: nothing was sent"),
    ({".": SILENCE}, "unknown", "may have been released: it was interrupted behind its end"),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(("replies", "outcome", "told"), INTERRUPTED, ids=str)
def test_interrupted_it_leaves_the_truth(
    replies: dict[str, str], outcome: str, told: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(held("01BT1"), held("01BT2", seconds=1))
    with upstream(replies) as server:

        def interrupt() -> None:
            if server.silent.wait(30):
                os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert main(["release", "held:true"]) == 128 + number
        thread.join()
    assert told in capsys.readouterr().err
    assert outcomes() == [outcome]
    assert outcomes("01BT2") == [], "those behind it stay as they are"
    assert [line[:4] for line in server.lines][-1:] != [b"."]


# The guard.

GUARD = ["[guard]", "allow = ['*@example.test']"]


def test_who_is_outside_the_guard_is_told_to_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held("01BT1", "qa@example.test", "jane@customer.example", '"x@example.test"@evil.test'))
    configured(NOWHERE, *GUARD)
    assert main(["release", "01BT1"]) == 1
    err = capsys.readouterr().err
    assert 'the guard does not allow jane@customer.example, "x@example.test"@evil.test: mail may go to *@ex' in err
    assert main(["release", "01BT1", "--to", "jane@customer.example"]) == 1
    assert outcomes() == [], "nothing was claimed"
    with scripted() as server:
        configured(server.url, *GUARD)
        assert main(["release", "01BT1", "--to", "qa@example.test"]) == 0
    assert [line for line in server.lines if line.startswith(b"RCPT")] == [b"RCPT TO:<qa@example.test>\r\n"]


def test_an_orcpt_that_names_somebody_outside_stays_here() -> None:
    kept(held("01BT1", "qa@example.test", of_recipients={"ORCPT": "rfc822;jane@customer.example", "NOTIFY": "NEVER"}))
    with scripted({"EHLO": DSN}) as server:
        configured(server.url, *GUARD)
        assert main(["release", "01BT1"]) == 0
    assert server.lines[2] == b"RCPT TO:<qa@example.test> NOTIFY=NEVER\r\n"


# As the relay meets that upstream.


def test_it_logs_in_and_tells_who_the_client_was() -> None:
    kept(held())
    Path("secret").write_text("hunter2\n", encoding="utf-8")
    ehlo = "250-server.test\r\n250-AUTH PLAIN\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
    settings = ('credentials = { user = "app", password_file = "secret" }', 'identity = "xforward"', 'ehlo = "client"')
    with upstream({"EHLO": ehlo, "AUTH": "235 2.7.0 ok", "XFORWARD": "250 ok"}, *settings) as server:
        assert main(["release", "01BT1"]) == 0
    assert server.lines[:2] == [b"EHLO app-1\r\n", b"AUTH PLAIN AGFwcABodW50ZXIy\r\n"]
    assert b" ADDR=10.0.0.5 " in server.lines[2]
    assert server.lines[3] == b"MAIL FROM:<a@example.com>\r\n"


def test_where_tls_is_asked_for_nothing_goes_in_clear(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held())
    with scripted() as server:
        configured(server.url.replace("smtp:", "smtp+starttls:"))
        assert main(["release", "01BT1"]) == 1
    assert "does not offer STARTTLS" in capsys.readouterr().err
    assert [line[:4] for line in server.lines] == [b"EHLO"]


LACKING = [
    ({"parameters": {"RET": "FULL"}}, "MAIL FROM:<a@example.com> RET=FULL: the server does not offer what that needs"),
    ({"of_recipients": {"NOTIFY": "NEVER"}}, "RCPT TO:<jane@customer.example> NOTIFY=NEVER: the server does not"),
    ({"kept": message(content=b"\xe4\r\n")}, "its content is 8-bit, and the server does not offer 8BITMIME"),
    ({"sender": "jürgen@x.test"}, "an address is not ASCII, and the server does not offer SMTPUTF8"),
]


@pytest.mark.parametrize(("facts", "told"), LACKING, ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_server_cannot_carry_does_not_go(
    facts: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(held(**facts))
    with upstream({"EHLO": "250 server.test"}) as server:
        assert main(["release", "01BT1"]) == 1
    assert told in capsys.readouterr().err
    assert [line[:4] for line in server.lines] == [b"EHLO", b"QUIT"]
    assert outcomes() == ["aborted"]


def test_which_upstream_it_goes_to() -> None:
    config = """
        [[listener]]
        name = "submission"
        upstream = "second"
        [upstream.first]
        url = "{first}"
        [upstream.second]
        url = "{second}"
    """
    kept(held("01BT1", upstream="first"), held("01BT2", upstream="gone"), held("01BT3", upstream=None))
    with scripted() as first, scripted(sessions=2) as second:
        Path("relayproxy.toml").write_text(config.format(first=first.url, second=second.url), encoding="utf-8")
        assert main(["release", "01BT1"]) == 0
        assert main(["release", "upstream:gone | !upstream:*"]) == 0
    assert (len(first.messages), len(second.messages)) == (1, 2)
    assert tries("01BT2")[0].upstream == "second"


# What cannot go.


def test_without_a_server_there_is_nowhere_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    kept(held())
    assert main(["release", "01BT1"]) == 1
    assert "its upstream, capture, is capture:, which is no server" in capsys.readouterr().err
    configured("lmtp://127.0.0.1:1")
    assert main(["release", "01BT1", "--to", "a@x", "--to", "b@x"]) == 1
    assert "provider speaks LMTP, which answers for each recipient: expected one" in capsys.readouterr().err
    assert outcomes() == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"outcome": "accepted"}, "01BT1 is not held: its outcome is accepted"),
        ({"kept": message(whole=False)}, "its message was not kept whole, or something in it was redacted"),
        ({"kept": message(exact=False)}, "its message was not kept whole"),
        ({"kept": message(content=b"a\nb\r\n")}, "it has a bare LF at octet"),
    ],
    ids=["not held", "cut off", "redacted", "no mail data"],
)
def test_what_is_not_held_or_not_whole(changed: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    configured(NOWHERE)
    outcome = changed.pop("outcome", "held")
    write = held(**changed)
    if outcome != "held":
        write = TransactionWrite(record(transaction="01BT1", outcome=outcome), message(), final=True)
    kept(write)
    assert main(["release", "01BT1"]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "release: SELECT is required"),
        (["01X"], 1, "there is no transaction or session whose id begins with 01X"),
        (["subject:none"], 1, "nothing matched that is held and was not released"),
        (["heldd:true"], 2, "the nearest known is held"),
        (["x.dialog"], 2, "expected recorded transactions, got the file x.dialog"),
        (["01BT1", "--to", "a b"], 2, "--to: expected an address such as user@example.com, got 'a b'"),
        (["01BT1", "--store", "sqlite:none.db"], 2, "none.db does not exist"),
        (["01BT1", "--config", "none.toml"], 2, "none.toml: cannot be read"),
    ],
    ids=str,
)
def test_wrong_usage(arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept(held())
    configured(NOWHERE)
    assert main(["release", *arguments]) == status
    err = capsys.readouterr().err
    assert told in err
    assert "fault" not in err
    assert not Path("none.db").exists()


# What is seen of it, and how long it is kept.


def test_it_is_found_shown_and_exported(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    kept(held("01BT1", seconds=1), TransactionWrite(record(transaction="01BT0"), message(), final=True))

    def out(*arguments: str) -> bytes:
        assert main(list(arguments)) == 0
        return capsysbinary.readouterr().out

    assert json.loads(out("list", "held:true"))["held"]["reason"] == "let me see"
    assert out("list", "outcome:held") == out("list", "held:true")
    assert out("export", "01BT1", "--format", "eml") == HEADER + b"\r\n" + BODY
    assert out("export", "01BT1", "--format", "eml", "--sent") == TRACED + b"\r\n" + BODY
    assert out("export", "01BT1", "--format", "mbox", "--sent").startswith(b"From a@example.com ")
    assert out("show", "01BT1", "--headers", "--sent") == TRACED
    assert b"# held for jane@customer.example: let me see" in out("show", "01BT1", "--only")
    with upstream():
        out("release", "held:true")
    assert b"by provider: accepted, 250 2.0.0 queued as 42" in out("show", "01BT1", "--only")
    assert out("list", "held:true") == b""
    assert b'"outcome":"accepted"' in out("list", "outcome:held & held:false")


def test_retention_takes_what_was_released_and_nothing_else() -> None:
    kept(held("01BT1", "a@x.test"), held("01BT2", "b@x.test"))
    with upstream({"RCPT TO:<b@": "450 4.2.2 full"}, sessions=2):
        assert main(["release", "held:true"]) == 1
    with closing(SqliteStore(Path("relayproxy.db").absolute()).backend(keep=Keep(age=60))) as backend:
        while backend.upkeep():
            pass
    with open_store("sqlite:relayproxy.db").reader() as reader:
        assert [stored.record.transaction for stored in reader.transactions()] == ["01BT2"]


def test_a_relay_that_writes_to_the_same_store_goes_on() -> None:
    kept(held())
    with reopened(Path("relayproxy.db")) as relay, upstream():
        relay.write([held("01BT2", seconds=1)], durable=True)
        assert main(["release", "01BT1"]) == 0
        relay.write([held()._replace(message=None)], durable=False)
    assert outcomes() == ["accepted"]
    assert outcomes("01BT2") == []


RELAY = """
state = "state"
[[listener]]
name = "submission"
address = "127.0.0.1:0"
tls = "off"
[rules]
files = ["rules.toml"]
"""
RULES = """
[[rule]]
name = "bills wait"
when = { header.Subject = "*bill*" }
then = [{ hold = "a bill" }, { add_header = ["X-Seen", "yes"] }, { replace_body = "pay later" }]
"""


@contextmanager
def relaying(server: Server) -> Iterator[tuple[str, int]]:
    """A relay in a process of its own in front of that server; its address."""
    Path("relayproxy.toml").write_text(f'{RELAY}[upstream.provider]\nurl = "{server.url}"\n', encoding="utf-8")
    command = [sys.executable, "-m", "relayproxy", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as relay:
        try:
            assert relay.stdout is not None
            host, _, port = json.loads(relay.stdout.readline())["address"].rpartition(":")
            yield host, int(port)
        finally:
            relay.terminate()
            relay.communicate()
    assert relay.returncode == 0


@pytest.mark.slow
def test_what_a_relay_holds_is_released_while_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rules.toml").write_text(RULES, encoding="utf-8")
    with scripted(sessions=3) as server, relaying(server) as address:
        for subject in ("a bill", "no"):
            with smtplib.SMTP(*address, timeout=30) as client:
                client.sendmail("a@x.test", ["b@x.test"], f"Subject: {subject}\r\n\r\npay\r\n".encode())
        assert len(server.messages) == 1
        assert main(["release", "held:true"]) == 0
    passed, released = server.messages
    assert passed.endswith(b"Subject: no\r\n\r\npay\r\n")
    assert released.startswith(b"Received: from ")
    assert b"\r\nSubject: a bill\r\nX-Seen: yes\r\n" in released
    assert released.endswith(b"\r\n\r\npay later\r\n")
    assert "released to b@x.test: 250 2.0.0 queued as 42" in capsys.readouterr().out


EDITED = """\
[[rule]]
name = "another body"
when = { sender = "*" }
then = [{ replace_body = "{header.X-Body}" }]
[[rule]]
name = "hold"
when = { body = "*" }
then = [{ hold = "look" }]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "fields", "body"),
    [
        (b"Subject: x\r\n\r\nsecret\r\n", b"Subject: x", b""),
        (b"Subject: x\r\nX-Body: Bcc: a@b.test\r\n", b"X-Body: Bcc: a@b.test", b"Bcc: a@b.test\r\n"),
    ],
    ids=["to an empty one", "where there was no empty line"],
)
def test_what_is_held_with_another_body_leaves_with_that_body(message: bytes, fields: bytes, body: bytes) -> None:
    Path("rules.toml").write_text(EDITED, encoding="utf-8")
    with scripted(sessions=2) as server, relaying(server) as address:
        with smtplib.SMTP(*address, timeout=30) as client:
            client.sendmail("a@x.test", ["b@x.test"], message)
        assert main(["release", "held:true"]) == 0
    (released,) = server.messages
    header, empty, rest = released.partition(b"\r\n\r\n")
    assert fields in header
    assert (empty, rest) == (b"\r\n\r\n", body)


def test_what_was_held_behind_a_guard_is_not_released_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    write = held()
    assert isinstance(write.record.held, HeldRecord)
    guarded = msgspec.structs.replace(write.record.held, guarded=True)
    kept(write._replace(record=msgspec.structs.replace(write.record, held=guarded)))
    configured(NOWHERE)
    assert main(["release", "01BT1"]) == 1
    assert "it was held behind a guard, and this configuration has none" in capsys.readouterr().err
    with upstream({}, "[guard]", "allow = ['*@customer.example']"):
        assert main(["release", "01BT1"]) == 0


def test_addresses_that_the_configuration_leaves_out_are_left_out_of_the_store(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept(held())
    with scripted({".": "250 2.0.0 for jane@customer.example"}) as server:
        configured(server.url, "[record]", 'redact = ["addresses"]')
        assert main(["release", "01BT1"]) == 0
    assert capsys.readouterr().out.startswith("01BT1  released to jane@customer.example: ")
    (release,) = tries()
    assert release.to == ("<redacted 21>",)
    assert release.reply is not None
    assert release.reply.text == "for <redacted 21>"
