"""Records on a terminal: one line each, the same for everybody, and harmless (attack 22)."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.record.console import console_line
from relayproxy.record.report import (
    ClientRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    MessageRecord,
    RecipientRecord,
    ReplyRecord,
    SecondsRecord,
    SizeRecord,
    TransactionRecord,
)
from relayproxy.record.report_lines import (
    ErrorRecord,
    FaultRecord,
    GuardRecord,
    LimitRecord,
    ListeningRecord,
    Record,
    ReloadRecord,
    RuleErrorRecord,
    SessionRecord,
    TlsRecord,
    ViolationRecord,
)
from relayproxy.record.report_tls import ClientTlsRecord, UpstreamTlsRecord

T = "2026-01-02T03:04:05.123456Z"
REPLY = ReplyRecord(550, "5.1.1", "no such user", "upstream")


def transaction(
    sender: str = "a@x", recipients: tuple[str, ...] = ("b@y",), subject: str | None = "hi"
) -> TransactionRecord:
    return TransactionRecord(
        time=T,
        session="S",
        transaction="T",
        listener="default",
        client=ClientRecord("10.0.0.5", 1),
        upstream=None,
        envelope=EnvelopesRecord(EnvelopeRecord(sender, {}, ()), None),
        recipients=tuple(RecipientRecord(recipient, (), None) for recipient in recipients),
        message=MessageRecord(None, subject, SizeRecord(328, None), DigestsRecord(None, None)),
        reply=REPLY,
        outcome="rejected",
        acknowledged=True,
        seconds=SecondsRecord(0.0123, 0.0),
    )


LINES: list[tuple[Record, str]] = [
    (transaction(), '03:04:05 rejected   a@x > b@y  "hi"  328 B  550 5.1.1 no such user  12 ms  T'),
    (transaction("", ("b@y", "c@z", "d@z")), '03:04:05 rejected   <> > b@y +2  "hi"  328 B  550 5.1.1 no such user  12 ms  T'),
    (transaction(recipients=(), subject=None), "03:04:05 rejected   a@x > nobody  328 B  550 5.1.1 no such user  12 ms  T"),
    (msgspec.structs.replace(transaction(), message=None, reply=None), "03:04:05 rejected   a@x > b@y  12 ms  T"),
    (transaction(subject="x" * 50), f'03:04:05 rejected   a@x > b@y  "{"x" * 39}…"  328 B  550 5.1.1 no such user  12 ms  T'),
    (
        msgspec.structs.replace(transaction(), recipients=(RecipientRecord("b@y", ("qa@z",), None), RecipientRecord("c@y", (), None))),
        '03:04:05 rejected   a@x > b@y → qa@z +1  "hi"  328 B  550 5.1.1 no such user  12 ms  T',
    ),
    (
        msgspec.structs.replace(transaction(), recipients=(RecipientRecord("b@y", (), None, captured=True),), outcome="accepted", acknowledged=False),
        '03:04:05 accepted   a@x > b@y → captured  "hi"  328 B  550 5.1.1 no such user  not acknowledged  12 ms  T',
    ),
    (
        msgspec.structs.replace(transaction(), outcome="held", held=HeldRecord("look at it", EnvelopeRecord("a@x", {}, ()))),
        '03:04:05 held       a@x > b@y  held: look at it  "hi"  328 B  550 5.1.1 no such user  12 ms  T',
    ),
    (GuardRecord(time=T, session="S", transaction="T", recipient="b@y", captured=False), "03:04:05 guard      b@y  refused  T"),
    (RuleErrorRecord(time=T, session="S", transaction="T", what="rule 'x': no", reply=REPLY), "03:04:05 rule-error rule 'x': no  550 5.1.1 no such user  T"),
    (ListeningRecord(time=T, listener="default", address="[::1]:25"), "03:04:05 listening  on [::1]:25 (default)"),
    (SessionRecord(time=T, session="S", listener="d", state="opened", client=ClientRecord("::1", 9)), "03:04:05 opened     ::1  S"),
    (SessionRecord(time=T, session="S", listener="d", state="closed", client=None, why="QUIT"), "03:04:05 closed     QUIT  S"),
    (
        TlsRecord(time=T, session="S", leg="client", state="started", client=ClientTlsRecord("TLSv1.3", "C", None)),
        "03:04:05 tls        with client: TLSv1.3 C  S",
    ),
    (
        TlsRecord(time=T, session="S", leg="upstream", state="started", host="h", upstream=UpstreamTlsRecord("TLSv1.3", "C", verified=False)),
        "03:04:05 tls        with upstream h: TLSv1.3 C  not verified  S",
    ),
    (
        TlsRecord(time=T, session="S", leg="upstream", state="failed", host="h", why="it is not for " + "h" * 99),
        f"03:04:05 tls        with upstream h: it is not for {'h' * 99}  S",
    ),
    (
        ViolationRecord(time=T, session="S", transaction=None, leg="client", what="bad", line="FOO", reply=REPLY),
        "03:04:05 violation  by client: bad  [FOO]  550 5.1.1 no such user  S",
    ),
    (LimitRecord(time=T, limit="sessions", session=None, transaction=None, client="::1"), "03:04:05 limit      sessions  ::1"),
    (LimitRecord(time=T, limit="log_bytes", session=None, transaction=None, dropped=3), "03:04:05 limit      log_bytes  3 lines dropped"),
    (
        ErrorRecord(time=T, where="session", what="ours", session="S", faults=(FaultRecord("KeyError", ("a:1", "b:2")),)),
        "03:04:05 error      session: ours  KeyError at b:2  S",
    ),
    (ErrorRecord(time=T, level="warning", where="tls", what="x" * 301), f"03:04:05 warning    tls: {'x' * 299}…"),
    (
        ReloadRecord(time=T, level="warning", what="rules and guard", guard="mail may go to nobody", restart=("drain", "limits.sessions")),
        "03:04:05 reload     rules and guard  mail may go to nobody  changed, and takes a restart: drain, limits.sessions",
    ),
    (ReloadRecord(time=T, what="log", error="Permission denied"), "03:04:05 reload     log: failed, what was in force stays:  Permission denied"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "line"), LINES, ids=[record.event for record, _ in LINES])
def test_lines(record: Record, line: str) -> None:
    assert console_line(record) == line


@pytest.mark.parametrize(("record", "line"), LINES, ids=[record.event for record, _ in LINES])
def test_colour_adds_nothing_but_colour(record: Record, line: str) -> None:
    assert re.sub("\x1b\\[[0-9]*m", "", console_line(record, colour=True)).rstrip() == line


def test_sizes_and_colours_tell_outcomes_apart() -> None:
    message = MessageRecord(None, None, SizeRecord(5 << 20, None), DigestsRecord(None, None))
    assert "5.0 MiB" in console_line(msgspec.structs.replace(transaction(), message=message))
    coloured = {outcome: console_line(msgspec.structs.replace(transaction(), outcome=outcome), colour=True) for outcome in ("accepted", "rejected", "tempfailed", "unknown")}  # fmt: skip
    assert len({line[: line.index(outcome)] for outcome, line in coloured.items()}) == 4


@given(st.text(alphabet=st.characters()))
def test_attack_22_whatever_a_peer_sent_is_one_harmless_line(sent: str) -> None:
    for record in (
        msgspec.structs.replace(transaction(sent, (sent,), sent), reply=ReplyRecord(250, None, sent, "upstream")),
        ViolationRecord(time=T, session="S", transaction=None, leg="client", what=sent, line=sent, reply=None),
        SessionRecord(time=T, session="S", listener="d", state="closed", client=ClientRecord("::1", 9, sent), why=sent),
        TlsRecord(time=T, session="S", leg="upstream", state="failed", host=sent, why=sent),
    ):
        line = console_line(record)
        assert not re.search(
            "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", line
        )
        line.encode()
