"""What `[record] redact` leaves out: of the record, of the wire, of the message."""

from __future__ import annotations

import json
import re
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.record.privacy import Privacy
from relayproxy.record.report import HeldRecord, ReleaseRecord, TransactionRecord, encode
from relayproxy.record.store.interface import Body, Message

RECORD = {
    "time": "2026-01-02T03:04:05.123456Z",
    "session": "S",
    "transaction": "T",
    "listener": "default",
    "client": {"address": "10.0.0.5", "port": 1, "auth": {"mechanism": "PLAIN", "user": "app@example.test"}},
    "upstream": None,
    "envelope": {
        "received": {
            "sender": "a@example.test",
            "parameters": {},
            "recipients": [
                {"address": "jane@customer.example", "parameters": {"ORCPT": "rfc822;jane@customer.example"}}
            ],
        },
        "sent": None,
    },
    "recipients": [
        {
            "received": "jane@customer.example",
            "sent": [],
            "reply": {"code": 250, "enhanced": "2.1.5", "text": "<jane@customer.example> ok", "origin": "upstream"},
        }
    ],
    "message": {
        "id": "<1@example.test>",
        "subject": "hi jane@customer.example",
        "size": {"received": 10, "sent": None},
        "digest": {"received": None, "sent": None},
    },
    "reply": None,
    "outcome": "aborted",
    "acknowledged": False,
    "seconds": {"total": 0, "upstream": 0},
}


def redacted(*names: str) -> str:
    record = msgspec.convert(RECORD, TransactionRecord)
    return encode(Privacy.parse(names).record(record)).decode()


def test_addresses_go_from_the_record_and_the_message_id_stays() -> None:
    told = json.loads(redacted("addresses"))
    assert "customer" not in json.dumps(told)
    assert told["envelope"]["received"]["sender"] == "<redacted 14>"
    assert told["envelope"]["received"]["recipients"][0]["parameters"] == {"ORCPT": "rfc822;<redacted 21>"}
    assert told["recipients"][0]["reply"]["text"] == "<<redacted 21>> ok"
    assert told["client"]["auth"]["user"] == "<redacted 16>"
    assert told["message"]["subject"] == "hi <redacted 21>"
    assert told["message"]["id"] == "<1@example.test>"


def test_what_is_held_keeps_its_envelope_and_the_log_does_without() -> None:
    record = msgspec.convert(RECORD, TransactionRecord)
    held = HeldRecord("for jane@customer.example", record.envelope.received)
    record = msgspec.structs.replace(record, outcome="held", held=held)
    privacy = Privacy.parse(["addresses"])
    kept = privacy.record(record)
    assert kept.held == record.held
    assert kept.envelope != record.envelope
    assert b"customer.example" not in encode(privacy.told(kept))
    assert Privacy().told(record) is record


def test_who_gets_what_is_released_goes_too() -> None:
    release = ReleaseRecord("2026-01-02T03:04:05.123456Z", "p", ("jane@customer.example",), "unknown", None, "a@b lost")
    kept = Privacy.parse(["addresses"]).release(release)
    assert (kept.to, kept.why) == (("<redacted 21>",), "<redacted 3> lost")
    assert Privacy.parse(["subject"]).release(release) is release


def test_fields_go_from_the_record_that_it_has() -> None:
    message = json.loads(redacted("subject", "header.Message-ID"))["message"]
    assert (message["subject"], message["id"]) == ("<redacted 24>", "<redacted 16>")
    assert "jane@customer.example" in redacted("subject")


def test_nothing_goes_that_is_not_named() -> None:
    assert json.loads(redacted()) == json.loads(redacted("body"))


HEADER = (
    b"Received: from a (b [1.2.3.4])\r\n\tfor <jane@customer.example>;\r\n"
    b"From: App <app@example.test>\r\nSUBJECT: =?utf-8?q?hi?=\r\n there\r\nMessage-ID: <1@example.test>\r\nno colon\r\n"
)
BODY = Body(b"x" * 32, 1, b"x")


@pytest.mark.parametrize(
    ("names", "header"),
    [
        (("subject",), HEADER.replace(b" =?utf-8?q?hi?=\r\n there", b" <redacted 22>")),
        (("header.X-None",), HEADER),
        (
            ("addresses",),
            HEADER.replace(b"jane@customer.example", b"<redacted 21>").replace(b"app@example.test", b"<redacted 16>"),
        ),
    ],
)
def test_of_a_message_the_values_go(names: tuple[str, ...], header: bytes) -> None:
    kept = Privacy.parse(names).message(Message(HEADER, b"\r\n", BODY, b"X: y\r\n" + HEADER))
    assert kept.header == header
    assert kept.header_sent == b"X: y\r\n" + header
    assert kept.exact == (header == HEADER)
    assert kept.body == BODY


def test_a_body_goes_whole() -> None:
    kept = Privacy.parse(["body"]).message(Message(HEADER, b"\r\n", BODY))
    assert (kept.body, kept.header, kept.exact) == (None, HEADER, True)


def test_addresses_on_the_wire() -> None:
    octets = b'MAIL FROM:<"john doe"@[1.2.3.4]> SIZE=1\r\nRCPT TO:<@relay:j@x.test> ORCPT=rfc822;j@x.test\r\n'
    left = octets
    for at, length in reversed(Privacy.parse(["addresses"]).spans(octets)):
        left = left[:at] + b"*" + left[at + length :]
    assert left == b"MAIL FROM:<*> SIZE=1\r\nRCPT TO:<@relay:*> ORCPT=rfc822;*\r\n"
    assert Privacy().spans(octets) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("bounce-jane7=cust.test@list.test x", "<redacted 32> x"),
        ("ORCPT=rfc822;jane7+40cust.test", "ORCPT=rfc822;<redacted 17>"),
        (r'"jane\"7"@cust.test', "<redacted 19>"),
        (r'\"jane 7"@cust.test', r"\<redacted 18>"),
        (r'"\" jane7@cust.test', r'"\" <redacted 15>'),
        ("jane7@cust.test", "<redacted 15>"),
    ],
)
def test_addresses_of_all_sorts(text: str, left: str) -> None:
    assert Privacy.parse(["addresses"]).text(text) == left


@given(local=st.text(alphabet="abcäöü.+-_%!", min_size=1), domain=st.text(alphabet="abcü.-", min_size=1))
def test_no_address_is_left(local: str, domain: str) -> None:
    address = f"{local}@{domain}"
    assert Privacy.parse(["addresses"]).text(f"<{address}>, {address} x") == (
        f"<<redacted {len(address.encode())}>>, <redacted {len(address.encode())}> x"
    )


@pytest.mark.parametrize(
    "octets", [b"a" * 300_000, b'"' + b"\\a" * 150_000, b"a@" * 150_000, b'"a' * 150_000, b"[" * 300_000 + b"@",
     b'"' + b'\\"' * 150_000, b'"\\"@[' * 60_000, b'"@[' * 100_000 + b"]", b"a@[" * 100_000],
)  # fmt: skip
def test_long_lines_cost_little(octets: bytes) -> None:
    began = time.thread_time()
    Privacy.parse(["addresses"]).spans(octets + b" @")
    assert time.thread_time() - began < 1


# The same with no thought of what it costs.
ADDRESS = re.compile(
    rb"""(?:"(?>(?:[^"\\\r\n]|\\{1,2}[^\r\n])*)"|(?<![^\s<>()\[\],:;"@])(?>(?:(?!\+40)[^\s<>()\[\],:;"@])+))(?:@|\+40)(?:\[[^\]\s]*+\]|[^\s<>()\[\],:;"@]++)"""
)


@given(
    st.lists(
        st.sampled_from([b'"', b'"', b"\\", b"@", b"+40", b"[", b"]", b"a", b" ", b"\r", b"(", b'"@a', b'"@[']),
        max_size=16,
    ).map(b"".join)
)
def test_nothing_is_let_through_to_save_time(octets: bytes) -> None:
    assert Privacy.parse(["addresses"]).spans(octets) == [
        (match.start(), len(match[0])) for match in ADDRESS.finditer(octets)
    ]


@pytest.mark.parametrize("name", ["", "Subject:", "header.", "header.a b", "address", "header.ä"])
def test_what_is_no_such_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r'"subject", "header.NAME", "body" or "addresses"'):
        Privacy.parse([name])
