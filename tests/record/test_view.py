"""A session for people: still a dialog, harmless, in the look of the log; and a transaction's part of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from stored import BEGAN, HEADER, TRACED, message, reader_of, record, session, wire

from relayproxy.record.console import console_line
from relayproxy.record.dialog import Comment, parse
from relayproxy.record.part import part
from relayproxy.record.playback import dialog_lines, dialog_of
from relayproxy.record.report import (
    AddressRecord,
    AuthRecord,
    ClientRecord,
    HeldRecord,
    ReleaseRecord,
    TransactionRecord,
    UpstreamRecord,
    timestamp,
)
from relayproxy.record.report_tls import CertificateRecord, ClientTlsRecord, UpstreamTlsRecord
from relayproxy.record.store.interface import StoredSession, TransactionWrite
from relayproxy.record.view import coloured, heading, view
from relayproxy.record.wire import WireData, WireEntry, WireOctets

if TYPE_CHECKING:
    from relayproxy.record.store.interface import Reader

CERTIFICATE = CertificateRecord("CN=smtp.example.com", (), "0" * 64)
TOLD = record(
    client=ClientRecord("10.0.0.5", 53122, "app-1", ClientTlsRecord("TLSv1.3", "AES", "relay"), AuthRecord("PLAIN", "app")),
    upstream=UpstreamRecord("p", "smtp.example.com", "203.0.113.5", 587, UpstreamTlsRecord("TLSv1.2", "GCM", verified=False, certificate=CERTIFICATE, why="expired")),
)  # fmt: skip
SENT = b"Received: by relay.test\r\nFrom: a@example.com\r\nTo: qa@example.test\r\nSubject: hi\r\n"


def seen(reader: Reader, *, colour: bool = False) -> list[str]:
    stored = reader.session("S1")
    assert stored
    own = reader.of_session("S1")
    return [heading(colour=colour), *view(stored, own, own, reader, colour=colour)]


def plain(line: str) -> str:
    return re.sub("\x1b\\[[0-9]*m", "", line)


def test_what_is_told_stands_before_the_dialog() -> None:
    reader = reader_of(session(wire(header_sent=SENT)), TransactionWrite(TOLD, message(header_sent=SENT), final=True))
    lines = seen(reader)
    assert lines[:12] == [
        "relayproxy dialog 1",
        "@ session S1 listener=submission began=2026-01-02T03:04:05.100000Z",
        f"# {console_line(TOLD)}",
        "# client 10.0.0.5:53122 (app-1): TLSv1.3 AES, for relay, PLAIN app",
        "# upstream p smtp.example.com 203.0.113.5:587: TLSv1.2 GCM, certificate CN=smtp.example.com, not verified: expired",
        "# headers received and sent:",
        "#   +Received: by relay.test",
        "#   -To: jane@customer.example",
        "#   +To: qa@example.test",
        "+0.000 C open 10.0.0.5:53122",
        "+0.004 U open 203.0.113.5:587",
        "+0.012 U< 220 smtp.example.com ESMTP",
    ]


def test_what_is_held_is_told_with_why_and_what_became_of_it() -> None:
    envelope = msgspec.structs.replace(TOLD.envelope.received, recipients=(AddressRecord("qa@example.test", {}),))
    gone = ReleaseRecord("2026-01-02T04:00:00.000000Z", "p", ("qa@example.test",), "tempfailed", None, "it closed")
    taken = ReleaseRecord("2026-01-02T05:00:00.000000Z", "p", ("a@x", "b@x"), "accepted", TOLD.reply)
    held = msgspec.structs.replace(TOLD, outcome="held", held=HeldRecord("a bill\n.", envelope, (gone, taken)))
    lines = seen(reader_of(session(wire()), TransactionWrite(held, message(header_sent=SENT), final=True)))
    assert lines[5:9] == [
        "# held for qa@example.test: a bill\\x0a.",
        "# released 2026-01-02T04:00:00.000000Z to qa@example.test by p: tempfailed, it closed",
        "# released 2026-01-02T05:00:00.000000Z to a@x, b@x by p: accepted, 250 2.0.0 queued",
        "# headers received and held:",
    ]


def test_it_is_the_dialog_and_comments() -> None:
    reader = reader_of(session(wire()), TransactionWrite(TOLD, message(header_sent=TRACED), final=True))
    (shown,) = parse("\n".join(seen(reader)))
    stored = reader.session("S1")
    assert stored
    made = dialog_of(stored, reader.of_session("S1"), reader)
    assert [entry for entry in shown.entries if not isinstance(entry, Comment)] == list(made.entries)


def test_colour_adds_nothing_but_colour() -> None:
    reader = reader_of(session(wire()), TransactionWrite(TOLD, message(header_sent=SENT), final=True))
    lines = seen(reader, colour=True)
    assert [plain(line).rstrip() for line in lines] == seen(reader)


def test_replies_are_coloured_by_their_severity() -> None:
    colours = {line: coloured(f"+0.000 C< {line}").removeprefix("\x1b[2m+0.000 \x1b[m")[:5] for line in ("250 ok", "354 go", "450 no", "550 no")}  # fmt: skip
    assert colours["250 ok"] == colours["354 go"]
    assert len(set(colours.values())) == 3


def test_a_session_without_transactions() -> None:
    reader = reader_of(session(wire()[:4]))
    stored = reader.session("S1")
    assert stored
    assert seen(reader)[1:] == list(dialog_lines(stored, [], reader))


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"), min_size=1))
@example("\u00a0\u3000", "\u00a0")
def test_attack_22_whatever_a_peer_said_is_harmless_and_a_comment(said: str, name: str) -> None:
    told = msgspec.structs.replace(
        TOLD,
        client=ClientRecord("10.0.0.5", 1, said, ClientTlsRecord("TLSv1.3", "AES", said), AuthRecord(said, said)),
        upstream=UpstreamRecord(name, said, said, 587, UpstreamTlsRecord(said, "GCM", verified=False, why=said)),
    )
    assert told.message
    told = msgspec.structs.replace(told, message=msgspec.structs.replace(told.message, subject=said))
    header = f"X: {said}\r\n".encode()
    reader = reader_of(
        session(wire(header_sent=header, header=HEADER)),
        TransactionWrite(told, message(header_sent=header), final=True),
    )
    text = "\n".join(seen(reader))
    assert text.replace("\n", "").isprintable()
    (shown,) = parse(text)
    comments = [entry for entry in shown.entries if isinstance(entry, Comment)]
    assert [comment.text for comment in comments] == [line for line in text.split("\n") if line.startswith("#")]
    for line in seen(reader, colour=True):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", plain(line))


# A transaction's part.


def three(*reads: tuple[int, bytes]) -> StoredSession:
    entries: list[WireEntry] = [WireOctets(time, "C", ">", octets) for time, octets in reads]
    stored = reader_of(session(entries)).session("S1")
    assert stored
    return stored


def at(id_: str, microseconds: int, seconds: float) -> TransactionRecord:
    took = msgspec.structs.replace(record().seconds, total=seconds)
    return record(transaction=id_, time=timestamp(BEGAN + microseconds * 1000), seconds=took)


def octets_of(found: StoredSession) -> list[bytes]:
    return [entry.octets for entry in found.wire if isinstance(entry, WireOctets)]


def test_a_part_begins_with_its_mail_and_ends_when_it_ended() -> None:
    stored = three((0, b"EHLO x\r\n"), (10_000, b"MAIL FROM:<a@x>\r\n"), (20_000, b"DATA\r\n"), (50_000, b"rset\r\nmail from:<b@x>\r\n"), (90_000, b"QUIT\r\n"))  # fmt: skip
    reader = reader_of(
        TransactionWrite(at("T1", 10_200, 0.02), None), TransactionWrite(at("T2", 50_100, 0.03), None)
    )  # fmt: skip
    own = reader.of_session("S1")
    assert octets_of(part(stored, own[0], own)) == [b"MAIL FROM:<a@x>\r\n", b"DATA\r\n"]
    assert octets_of(part(stored, own[1], own)) == [b"mail from:<b@x>\r\n"]


def test_transactions_that_came_in_one_read_are_told_apart() -> None:
    read = b"MAIL FROM:<a@x>\r\nRSET\r\nMAIL FROM:<b@x>\r\n"
    stored = three((10_000, read), (20_000, b"QUIT\r\n"))
    reader = reader_of(
        TransactionWrite(at("T1", 10_100, 0.001), None), TransactionWrite(at("T2", 10_200, 0.001), None)
    )  # fmt: skip
    own = reader.of_session("S1")
    assert [octets_of(part(stored, one, own)) for one in own] == [
        [b"MAIL FROM:<a@x>\r\nRSET\r\n"],
        [b"MAIL FROM:<b@x>\r\n"],
    ]


def test_a_part_has_its_mail_data_and_what_was_blanked_in_it() -> None:
    entries: list[WireEntry] = [
        WireOctets(0, "C", ">", b"AUTH PLAIN \r\nMAIL FROM:<a@x> AUTH=\r\n", ((11, 5), (36, 7))),
        WireData(1000, "C", 3, "T1"),
    ]
    stored = reader_of(session(entries)).session("S1")
    assert stored
    own = reader_of(TransactionWrite(at("T1", 100, 0.01), None)).of_session("S1")
    assert part(stored, own[0], own).wire == [
        WireOctets(0, "C", ">", b"MAIL FROM:<a@x> AUTH=\r\n", ((23, 7),)),
        WireData(1000, "C", 3, "T1"),
    ]
