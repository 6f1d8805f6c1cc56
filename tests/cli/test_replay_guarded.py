"""`relayproxy replay`: whom it may reach. Without a guard nothing is sent again that did not go to whom its client had named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from scripted_server import scripted
from stored import kept_in, message, record, session, wire

from relayproxy.cli import main
from relayproxy.record.report import (
    AddressRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    RecipientRecord,
    ReplyRecord,
    RuleRecord,
    UpstreamRecord,
    reply_of,
)
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.wire import WireOctets
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from collections.abc import Iterator

JANE: Final = "jane@customer.example"
#: Nobody listens there, and it would be told.
NOWHERE: Final = "smtp://127.0.0.1:1"
ADVICE: Final = "expected --allow, as '*@example.test' (or '*' where mail is to go to whom it was recorded for), RELAYPROXY_ALLOW, or a configuration with [guard]"
UNGUARDED: Final = "relayproxy: no guard: mail goes to whom it was recorded for\n"
TAKEN: Final = ReplyRecord(250, "2.1.5", "ok", "upstream")
GUARDED: Final = reply_of(local_replies.GUARDED)
BY_RULE: Final = ReplyRecord(550, "5.7.1", "no", "rule")
NOBODY: Final = ReplyRecord(550, "5.1.1", "nobody", "upstream")


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM", "ALLOW", "REDIRECT_ALL"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)


def envelope(*recipients: str) -> EnvelopeRecord:
    return EnvelopeRecord("a@example.com", {}, tuple([AddressRecord(one, {}) for one in recipients]))


def told(sent: tuple[str, ...] | None = (JANE,), heard: ReplyRecord = TAKEN, **more: Any) -> dict[str, Any]:
    """What a record says of mail for Jane."""
    became = RecipientRecord(JANE, sent or (), heard)
    left = None if sent is None else envelope(*sent)
    return {"envelope": EnvelopesRecord(envelope(JANE), left), "recipients": (became,), **more}


def kept(number: int = 1, **more: Any) -> None:
    """A session in the store that names Jane, with its transaction."""
    id_, transaction = f"01S{number}", f"01T{number}"
    whole = TransactionWrite(record(id_, transaction, **more), message(), final=True)
    kept_in(Path("relayproxy.db"), session(wire(transaction), id_), whole)


REDIRECTED: Final = told(("qa@example.test",))


#: What a relay tells of such mail.
OTHERWISE: Final = {
    "redirected": REDIRECTED,
    "copied": told((JANE, "qa@example.test")),
    "refused by a guard": told((), GUARDED, outcome="rejected"),
    "refused by a guard of capture:": told((JANE,), GUARDED, outcome="rejected", upstream=UpstreamRecord("capture")),
    "refused by that, and others not": told((JANE,), GUARDED, upstream=UpstreamRecord("capture")),
    "refused by that at the end": told(reply=GUARDED, outcome="rejected", upstream=UpstreamRecord("capture")),
    "captured by a guard": told(()),
    "aborted before it left": told(None, outcome="aborted"),
    "discarded": told(outcome="discarded"),
    "held": told(outcome="held", held=HeldRecord("why", envelope(JANE))),
    "refused by a rule": told(reply=BY_RULE, outcome="rejected"),
    "routed elsewhere": told(rules=(RuleRecord("sandbox", ("route",)),)),
}
AS_NAMED: Final = {
    "accepted": told(),
    "refused by upstream": told(heard=NOBODY, outcome="rejected"),
    "refused by upstream at the end": told(reply=NOBODY, outcome="rejected"),
    "aborted": told(outcome="aborted"),
    "capture:": told(upstream=UpstreamRecord("capture"), reply=ReplyRecord(250, "2.0.0", "Captured", "proxy")),
}


@pytest.mark.parametrize("how", OTHERWISE)
def test_what_went_otherwise_is_not_sent_without_a_guard(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept(1)
    kept(2, **OTHERWISE[how])
    assert main(["replay", "sender:*", "--to", NOWHERE]) == 2
    assert capsys.readouterr().err == (
        "relayproxy: nothing was sent, for want of a guard: transactions that went to others than their clients had named, or were kept or refused on the way: 1; "
        f"the first: 01T2, for {JANE}\n{ADVICE}\n"
    )


@pytest.mark.parametrize("how", AS_NAMED)
def test_what_went_to_whom_its_client_named_needs_none(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept(1, **AS_NAMED[how])
    with scripted() as server:
        main(["replay", "latest", "--to", server.url])
    assert b"RCPT TO:<jane@customer.example>\r\n" in server.lines
    assert capsys.readouterr().err.startswith(UNGUARDED)


def test_all_transactions_of_its_session_count(capsys: pytest.CaptureFixture[str]) -> None:
    kept(1, **REDIRECTED)
    kept_in(Path("relayproxy.db"), TransactionWrite(record("01S1", "01T9"), message(), final=True))
    kept(2, **REDIRECTED)
    assert main(["replay", "01T9", "--to", NOWHERE]) == 2
    assert main(["replay", "sender:*", "--to", NOWHERE]) == 2
    one, _, both, _ = capsys.readouterr().err.splitlines()
    assert "on the way: 1; the first: 01T1" in one
    assert "on the way: 2; the first: 01T1" in both


def test_who_was_named_before_there_was_a_transaction_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Behind a refused EHLO, say, which the target may take."""
    *all_but_the_end, quit_, goodbye, left, gone = wire("01T1")
    refused = [
        WireOctets(61510, "C", ">", b"MAIL FROM:<a@example.com>\r\nRCPT TO:<joe@customer.example>\r\n"),
        WireOctets(61520, "C", "<", b"503 5.5.1 first EHLO\r\n503 5.5.1 first EHLO\r\n"),
    ]
    said = [*all_but_the_end, *refused, quit_, goodbye, left, gone]
    written = TransactionWrite(record("01S1", "01T1", **told()), message(), final=True)
    kept_in(Path("relayproxy.db"), session(said, "01S1"), written)
    assert main(["replay", "latest", "--to", NOWHERE]) == 2
    assert "on the way: 1; the first: 01S1, for joe@customer.example\n" in capsys.readouterr().err


def test_nor_does_anybody_go_on_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    kept(1, **REDIRECTED)
    assert main(["replay", "latest", "--to", NOWHERE, "--until", "3", "--then", "interactive"]) == 2
    assert "the first: 01T1" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["flag", "variable", "file"])
def test_a_guard_lets_go_whom_it_allows(
    how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(1, **REDIRECTED)
    allowed, other = "*@example.test", "nobody@x.test"
    guard = f'[guard]\nallow = ["{allowed if how == "file" else other}"]\n'
    Path("relayproxy.toml").write_text(guard, encoding="utf-8")
    if how != "file":
        monkeypatch.setenv("RELAYPROXY_ALLOW", allowed if how == "variable" else other)
    with scripted() as server:
        flags = ["--allow", allowed] if how == "flag" else []
        assert main(["replay", "latest", "--to", server.url, *flags]) == 1
    assert not [line for line in server.lines if line.startswith(b"RCPT")]
    said = capsys.readouterr()
    assert said.err.startswith(
        "relayproxy: guard: mail may go to *@example.test; what is for others is refused (550)\n"
    )
    assert "+ 550 5.7.1 This relay sends no mail to that address" in said.out


def test_where_all_are_allowed_it_goes_to_whom_it_was_recorded_for() -> None:
    kept(1, **REDIRECTED)
    with scripted() as server:
        assert main(["replay", "latest", "--to", server.url, "--allow", "*"]) == 0
    assert b"RCPT TO:<jane@customer.example>\r\n" in server.lines


@contextmanager
def relaying(*flags: str) -> Iterator[str]:
    """A relay of its own, which records here; its URL."""
    command = [sys.executable, "-m", "relayproxy", "run", "--listen", "127.0.0.1:0", "--log-format", "json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as relay:
        assert relay.stdout is not None
        yield f"smtp://{json.loads(relay.stdout.readline())['address']}"
        relay.send_signal(signal.SIGTERM)


@pytest.mark.slow
def test_what_a_staging_relay_redirected_reaches_no_customer(capsys: pytest.CaptureFixture[str]) -> None:
    staging = ["--redirect-all", "qa@example.test", "--allow", "*@example.test"]
    with scripted(sessions=1) as server, relaying("--upstream", server.url, *staging) as url:
        assert main(["send", "--server", url, "--from", "app@example.test", "--to", JANE]) == 0
    assert main(["replay", "latest", "--to", NOWHERE]) == 2
    assert f"for {JANE}" in capsys.readouterr().err
    with scripted(sessions=1) as server:
        assert main(["replay", "latest", "--to", server.url, *staging]) == 0
    assert [line for line in server.lines if line.startswith(b"RCPT")] == [b"RCPT TO:<qa@example.test>\r\n"]
    assert "what is for others is sent to qa@example.test\n" in capsys.readouterr().err
