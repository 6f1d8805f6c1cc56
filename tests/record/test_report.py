"""Records: DESIGN §7's line to the letter, a schema that holds for every line, and no octets that get lost or loose (attack 22)."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from relayproxy.mail.envelope import Envelope
from relayproxy.record.report import (
    AddressRecord,
    AuthRecord,
    ClientRecord,
    DigestRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    MessageRecord,
    RecipientRecord,
    ReleaseRecord,
    ReplyRecord,
    RuleRecord,
    SecondsRecord,
    SizeRecord,
    TransactionRecord,
    UpstreamRecord,
    duration,
    encode,
    envelope_of,
    outcome,
    parameters_of,
    reply_of,
    timestamp,
)
from relayproxy.record.report_lines import (
    ErrorRecord,
    FaultRecord,
    LimitRecord,
    ListeningRecord,
    ReloadRecord,
    SessionRecord,
    TlsRecord,
    ViolationRecord,
    schema,
)
from relayproxy.record.report_tls import CertificateRecord, ClientTlsRecord, UpstreamTlsRecord
from relayproxy.record.text import octets, printable, text
from relayproxy.smtp.commands import Mail, Path, Rcpt
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from relayproxy.record.report_lines import Record
    from relayproxy.smtp.parameters import Parameters

H = "a" * 64
B = "b" * 64
TIME = "2026-01-02T03:04:05.123456Z"

# DESIGN §7, with what it leaves out filled in.
DESIGN = f"""
{{"v":1,"event":"transaction","time":"{TIME}","session":"S","transaction":"T","listener":"submission","worker":0,
 "client":{{"address":"10.0.0.5","port":53122,"helo":"app-1","tls":{{"version":"TLSv1.3","cipher":"C","sni":"N",
  "certificate":{{"subject":"CN=app-1","names":["app-1"],"digest":"{H}"}},"verified":true,"why":null,"resumed":true}},"auth":{{"mechanism":"PLAIN","user":"app"}}}},
 "upstream":{{"name":"provider","host":"smtp.example.com","address":"203.0.113.5","port":587,"tls":{{"version":"TLSv1.3","cipher":"C","verified":false,
  "sni":"smtp.example.com","certificate":null,"why":"verify is none","resumed":false}}}},
 "envelope":{{"received":{{"sender":"a@example.com","parameters":{{"SIZE":"328"}},"recipients":[{{"address":"jane@customer.example","parameters":{{}}}}]}},
             "sent":{{"sender":"a@example.com","parameters":{{"SIZE":"512"}},"recipients":[{{"address":"qa@example.test","parameters":{{}}}}]}}}},
 "recipients":[{{"received":"jane@customer.example","sent":["qa@example.test"],"reply":{{"code":250,"enhanced":"2.1.5","text":"ok","origin":"upstream"}}}}],
 "message":{{"id":"<i>","subject":"hi","size":{{"received":328,"sent":512}},"headers_changed":["To","X-Original-To"],
            "digest":{{"received":{{"header":"{H}","body":"{B}"}},"sent":{{"header":"{B}","body":"{B}"}}}}}},
 "rules":[{{"name":"staging","actions":["redirect_recipient","add_header"]}}],"tags":[],
 "reply":{{"code":250,"enhanced":"2.0.0","text":"queued","origin":"upstream"}},"outcome":"accepted","acknowledged":true,
 "seconds":{{"total":0.0123,"upstream":0.0091}}}}
"""

CLIENT_TLS = ClientTlsRecord(
    "TLSv1.3", "C", "N", CertificateRecord("CN=app-1", ("app-1",), H), verified=True, resumed=True
)
UPSTREAM_TLS = UpstreamTlsRecord("TLSv1.3", "C", verified=False, sni="smtp.example.com", why="verify is none")
FULL = TransactionRecord(
    time=TIME,
    session="S",
    transaction="T",
    listener="submission",
    client=ClientRecord("10.0.0.5", 53122, "app-1", CLIENT_TLS, AuthRecord("PLAIN", "app")),
    upstream=UpstreamRecord("provider", "smtp.example.com", "203.0.113.5", 587, UPSTREAM_TLS),
    envelope=EnvelopesRecord(
        EnvelopeRecord("a@example.com", {"SIZE": "328"}, (AddressRecord("jane@customer.example", {}),)),
        EnvelopeRecord("a@example.com", {"SIZE": "512"}, (AddressRecord("qa@example.test", {}),)),
    ),
    recipients=(
        RecipientRecord("jane@customer.example", ("qa@example.test",), ReplyRecord(250, "2.1.5", "ok", "upstream")),
    ),
    message=MessageRecord(
        "<i>",
        "hi",
        SizeRecord(328, 512),
        DigestsRecord(DigestRecord(H, B), DigestRecord(B, B)),
        ("To", "X-Original-To"),
    ),
    rules=(RuleRecord("staging", ("redirect_recipient", "add_header")),),
    reply=ReplyRecord(250, "2.0.0", "queued", "upstream"),
    outcome="accepted",
    acknowledged=True,
    seconds=SecondsRecord(0.0123, 0.0091),
)
BARE = TransactionRecord(
    time=TIME,
    session="S",
    transaction="T",
    listener="default",
    client=ClientRecord("unix:/run/x", None),
    upstream=None,
    envelope=EnvelopesRecord(EnvelopeRecord("", {"SMTPUTF8": None}, ()), None),
    recipients=(RecipientRecord("b@y", (), None, captured=True),),
    message=MessageRecord(None, None, SizeRecord(0, None), DigestsRecord(None, None), malformed=True),
    reply=None,
    outcome="aborted",
    acknowledged=False,
    seconds=SecondsRecord(0.0, 0.0),
)
REPLY = ReplyRecord(500, "5.5.2", "no\nno", "proxy")
HELD = HeldRecord(
    "let me see",
    EnvelopeRecord("a@x", {}, (AddressRecord("b@y", {"NOTIFY": "NEVER"}),)),
    (
        ReleaseRecord(TIME, "provider", ("b@y", "c@z"), "tempfailed", None, "connection refused"),
        ReleaseRecord(TIME, "provider", ("b@y",), "rejected", REPLY),
    ),
)
ALL = [
    FULL,
    BARE,
    msgspec.structs.replace(BARE, message=None),
    msgspec.structs.replace(BARE, outcome="held", held=HELD),
    ListeningRecord(time=TIME, listener="default", address="127.0.0.1:2525"),
    SessionRecord(time=TIME, session="S", listener="default", state="opened", client=ClientRecord("::1", 0)),
    SessionRecord(time=TIME, session="S", listener="default", state="closed", client=None, why="QUIT", transactions=2, seconds=0.1),
    TlsRecord(time=TIME, session="S", leg="client", state="started", client=CLIENT_TLS),
    TlsRecord(time=TIME, session="S", leg="upstream", state="started", host="smtp.example.com", upstream=UPSTREAM_TLS),
    TlsRecord(time=TIME, session="S", leg="upstream", state="failed", host="smtp.example.com", why="it has expired"),
    ViolationRecord(time=TIME, session="S", transaction=None, leg="client", what="w", line="l", reply=REPLY),
    LimitRecord(time=TIME, limit="errors", session="S", transaction="T", reply=REPLY),
    LimitRecord(time=TIME, limit="log_bytes", session=None, transaction=None, dropped=3),
    ErrorRecord(time=TIME, where="upstream", what="w"),
    ErrorRecord(time=TIME, where="session", what="w", faults=(FaultRecord("KeyError", ("a:1",)),)),
    ReloadRecord(time=TIME, what="log"),
    ReloadRecord(time=TIME, level="warning", what="rules and guard", guard="mail may go to a@b.test", restart=("drain",)),
    ReloadRecord(time=TIME, level="error", what="log", error="No such file or directory"),
]  # fmt: skip
VALIDATOR = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


def test_the_transaction_line_is_that_of_the_design() -> None:
    assert json.loads(encode(FULL)) == json.loads(DESIGN)
    assert encode(FULL).startswith(b'{"v":1,"event":"transaction","time":"2026-01-02T03:04:05.123456Z","session":"S",')


def test_the_schema_is_one_itself() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema()["$id"]


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.event)
def test_every_line_fits_the_schema(record: Record) -> None:
    VALIDATOR.validate(json.loads(encode(record)))


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.event)
def test_every_key_that_is_written_is_in_the_schema_and_described_by_its_line(record: Record) -> None:
    line = json.loads(encode(record))
    definition = schema()["$defs"][type(record).__name__]
    assert set(line) <= set(definition["properties"])
    assert set(definition["required"]) <= set(line)
    assert definition["description"]


@pytest.mark.parametrize(
    "key",
    ["v", "event", "time", "session", "worker", "client", "upstream", "message", "rules", "tags", "reply", "outcome"],
)
def test_the_schema_requires_what_is_always_written(key: str) -> None:
    line = json.loads(encode(FULL))
    del line[key]
    assert not VALIDATOR.is_valid(line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("v", 2), ("event", "x"), ("time", "2026-01-02T03:04:05Z"), ("outcome", "delivered"), ("acknowledged", None),
        ("worker", "0"), ("recipients", {}), ("reply", {"code": 250}),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_we_never_write(key: str, value: Any) -> None:
    line = json.loads(encode(FULL))
    line[key] = value
    assert not VALIDATOR.is_valid(line)


def test_readers_may_meet_new_keys() -> None:
    line = json.loads(encode(FULL))
    line["new"] = 1
    line["client"]["new"] = 1
    VALIDATOR.validate(line)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", ""),
        (b"a@example.com", "a@example.com"),
        ("jürgen@例え.test".encode(), "jürgen@例え.test"),
        (b"j\xfcrgen", r"j\xfcrgen"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),  # a surrogate is no UTF-8
        (b"\xc0\xaf", r"\xc0\xaf"),  # overlong
        (b"\xc3", r"\xc3"),  # cut off
        (b"a\\b", r"a\\b"),
        (rb"a\xff", r"a\\xff"),  # not mistaken for an octet
        (b"\\\xff", r"\\\xff"),
        (b"\x00\x1b\x7f", "\x00\x1b\x7f"),
    ],
)
def test_octets_as_text(sent: bytes, told: str) -> None:
    assert text(sent) == told
    assert octets(told) == sent


@given(st.one_of(st.binary(), st.text(alphabet="\\x0f\u00ffé").map(str.encode), st.binary().map(lambda b: b"\\x" + b)))
def test_no_octet_is_lost(sent: bytes) -> None:
    assert octets(text(sent)) == sent


# Attack 22: (what a peer sends, what must not be in the line).
INJECTIONS = [
    ("x\n2026 INFO ok", b"\n"),
    ("x\r\n{}", b"\r"),
    ("\x1b]0;owned\x07", b"\x1b"),
    ("\x7f", b"\x7f"),
    ("\u0085", "\u0085".encode()),
    ("\u009b31m", "\u009b".encode()),
    ("\u061c", "\u061c".encode()),
    ("\u200b\u200d\u200f", "\u200b".encode()),
    ("\u2028", "\u2028".encode()),
    ("\u2029", "\u2029".encode()),
    ("\u202e", "\u202e".encode()),
    ("\u2066\u2069", "\u2066".encode()),
    ("\ufeff", "\ufeff".encode()),
    ("\U000e0041", "\U000e0041".encode()),
    ('","admin":true,"x":"', b'"admin":true'),
    ("\\", b'"\\"'),
]


@pytest.mark.parametrize(("sent", "forbidden"), INJECTIONS)
def test_attack_22_nothing_hides_in_a_line_and_nothing_is_lost(sent: str, forbidden: bytes) -> None:
    record = msgspec.structs.replace(FULL, client=ClientRecord("10.0.0.5", 1, sent))
    line = encode(record)
    assert forbidden not in line
    assert json.loads(line)["client"]["helo"] == sent
    assert len(line.decode().splitlines()) == 1


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_attack_22_a_line_is_one_line_whatever_the_text(sent: str) -> None:
    line = encode(ErrorRecord(time=TIME, where=sent, what=sent))
    assert json.loads(line)["what"] == sent
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", line.decode())


@given(st.text(alphabet=st.characters()))
def test_attack_22_a_terminal_gets_nothing_to_obey(sent: str) -> None:
    shown = printable(sent)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", shown)
    shown.encode()


def test_a_file_name_that_is_not_utf_8_is_shown_by_its_octets() -> None:
    assert printable(os.fsdecode(b"r\xff\x80\xc3\xbc.toml")) == r"r\xff\x80ü.toml"
    assert printable("\ud800\udc7f\udd00") == r"\ud800\udc7f\udd00"


def test_a_lone_surrogate_loses_no_line() -> None:
    """A subject in UTF-7 may decode to one."""
    subject = b"+2AA-".decode("utf-7")
    message = MessageRecord(None, subject, SizeRecord(328, 512), DigestsRecord(None, None))
    line = json.loads(encode(msgspec.structs.replace(FULL, message=message)))
    assert line["message"]["subject"] == r"\xed\xa0\x80"
    assert line["recipients"] == json.loads(encode(FULL))["recipients"]
    VALIDATOR.validate(line)


@pytest.mark.parametrize(
    ("reply", "record"),
    [
        (Reply(250, (b"2.1.5 ok",)), ReplyRecord(250, "2.1.5", "ok", "upstream")),
        (Reply(250, (b"ok",)), ReplyRecord(250, None, "ok", "upstream")),
        (Reply(250, (b"",)), ReplyRecord(250, None, "", "upstream")),
        (Reply(250, (b"2.0.0   x  ",)), ReplyRecord(250, "2.0.0", "  x  ", "upstream")),
        (Reply(250, (b"2.0.0   x", b"2.0.0  y")), ReplyRecord(250, "2.0.0", "  x\n y", "upstream")),
        (Reply(550, (b"5.1.1",), "rule"), ReplyRecord(550, "5.1.1", "", "rule")),
        (Reply(550, (b"2.1.5 wrong class",)), ReplyRecord(550, None, "2.1.5 wrong class", "upstream")),
        (Reply(550, (b"5.1.1 no", b"5.1.1 such user")), ReplyRecord(550, "5.1.1", "no\nsuch user", "upstream")),
        (Reply(451, (b"4.3.0 gr\xfc\xdfe",), "proxy"), ReplyRecord(451, "4.3.0", r"gr\xfc\xdfe", "proxy")),
    ],
)
def test_replies(reply: Reply, record: ReplyRecord) -> None:
    assert reply_of(reply) == record


@pytest.mark.parametrize(
    ("parameters", "record"),
    [
        ((), {}),
        (((b"SIZE", b"328"),), {"SIZE": "328"}),
        (((b"size", b"1"), (b"smtputf8", None), (b"x-Y", b"z")), {"SIZE": "1", "SMTPUTF8": None, "X-Y": "z"}),
        (((b"AUTH", b"<>"),), {"AUTH": "<>"}),
        (((b"auth", b"e+3Dmc2@example.com"),), {"AUTH": "<redacted 19>"}),
        (((b"ORCPT", b"rfc822;a\xff"),), {"ORCPT": r"rfc822;a\xff"}),
    ],
)
def test_parameters(parameters: Parameters, record: dict[str, str | None]) -> None:
    assert parameters_of(parameters) == record


def test_the_envelope_is_told_as_it_was_written() -> None:
    mail = Mail(Path(b"", b""), ((b"SIZE", b"1"),))
    rcpt = Rcpt(Path(b'"a\\ b"', b"y"), ((b"NOTIFY", b"success,failure"),))
    assert envelope_of(Envelope(mail, (rcpt,))) == EnvelopeRecord(
        "", {"SIZE": "1"}, (AddressRecord(r'"a\\ b"@y', {"NOTIFY": "success,failure"}),)
    )


@pytest.mark.parametrize(
    ("nanoseconds", "told"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_767_323_045_123_456_789, "2026-01-02T03:04:05.123456Z"),
        (1_767_323_045_000_000_999, "2026-01-02T03:04:05.000000Z"),
        (1_767_323_045_999_999_999, "2026-01-02T03:04:05.999999Z"),
    ],
)
def test_times(nanoseconds: int, told: str) -> None:
    assert timestamp(nanoseconds) == told


@given(st.integers(0, 4 * 10**18), st.integers(0, 4 * 10**18))
def test_times_sort_as_texts(one: int, other: int) -> None:
    assert (timestamp(one) < timestamp(other)) == (one // 1000 < other // 1000)


@pytest.mark.parametrize(("seconds", "told"), [(0.1 + 0.2, 0.3), (0.0, 0.0), (-1e-9, 0.0), (1e-7, 0.0), (2.0, 2.0)])
def test_durations(seconds: float, told: float) -> None:
    assert duration(seconds) == told


def replies(*codes: int) -> list[Reply]:
    return [Reply(code) for code in codes]


# DESIGN §2: (MAIL, each RCPT, DATA's refusal or the reply to end of data, whether the reply was never seen, outcome).
OUTCOMES = [
    (250, [250], 250, False, "accepted"),
    (250, [250, 550], 250, False, "accepted"),
    (251, [252], 259, False, "accepted"),  # by severity, never by code
    (250, [250], 554, False, "rejected"),
    (250, [250], 599, False, "rejected"),
    (250, [250], 451, False, "tempfailed"),
    (250, [250], 421, False, "tempfailed"),
    (250, [250], 354, False, "tempfailed"),  # no answer to a message
    (550, [], None, False, "rejected"),
    (421, [], None, False, "tempfailed"),
    (250, [550, 553], None, False, "rejected"),  # and RSET or QUIT
    (250, [450, 452], None, False, "tempfailed"),
    (250, [450, 550], None, False, "tempfailed"),  # a mix
    (250, [550], 554, False, "rejected"),  # DATA all the same
    (250, [450], 554, False, "tempfailed"),
    (250, [450, 550], 451, False, "tempfailed"),
    (250, [], None, False, "aborted"),
    (250, [250], None, False, "aborted"),
    (250, [250, 550], None, False, "aborted"),
    (250, [250], None, True, "unknown"),
    (250, [250], 451, True, "unknown"),  # our own 451 proves nothing
    (250, [250], 421, True, "unknown"),
]


@pytest.mark.parametrize(("mail", "recipients", "message", "unknown", "expected"), OUTCOMES)
def test_outcome(mail: int, recipients: list[int], message: int | None, unknown: bool, expected: str) -> None:
    last = None if message is None else Reply(message)
    assert outcome(Reply(mail), replies(*recipients), last, unknown=unknown) == expected
