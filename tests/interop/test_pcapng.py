"""tshark reads what we export as packets: as SMTP, with the envelope and the message, and finds nothing wrong with the packets."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from real_cast import took_part
from real_process import program
from stored import TRACED, message, reader_of, record, session, wire

from relayproxy.record.export.pcapng import blocks, heading
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.wire import WireEntry, WireEvent, WireOctets

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.interface import Reader

pytestmark = [pytest.mark.interop, pytest.mark.slow]

#: Both legs, TLS and a login on the client's.
SECURE: list[WireEntry] = [
    WireOctets(13100, "C", ">", b"EHLO app-1\r\n"),
    WireOctets(13200, "C", "<", b"250-relay.example.test\r\n250 STARTTLS\r\n"),
    WireOctets(13300, "C", ">", b"STARTTLS\r\n"),
    WireOctets(13400, "C", "<", b"220 2.0.0 go\r\n"),
    WireEvent(13500, "C", "tls", ("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
    WireOctets(14100, "C", ">", b"AUTH PLAIN \r\n", ((11, 24),)),
    WireOctets(14200, "C", "<", b"235 2.7.0 ok\r\n"),
]


def read(tmp_path: Path, reader: Reader, *fields: str, only: str = "frame") -> list[list[str]]:
    """Those fields of each packet that `only` lets through."""
    stored = reader.session("S1")
    assert stored
    path = tmp_path / "session.pcapng"
    path.write_bytes(heading() + b"".join(blocks(stored, reader.of_session("S1"), reader, 0)))
    told = [argument for field in fields for argument in ("-e", field)]
    took_part("tshark", "reader")
    argv = [program("tshark"), "-r", str(path), "-n", "-Y", only, "-T", "fields", *told]
    argv += ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    return [line.split("\t") for line in done.stdout.splitlines()]


def whole(**kept: Any) -> Reader:
    entries = sorted([*wire(), *SECURE], key=lambda entry: entry.time)
    return reader_of(session(entries), TransactionWrite(record(), message(header_sent=TRACED, **kept), final=True))


def test_it_is_smtp_with_envelope_and_message(tmp_path: Path) -> None:
    commands = [one for one, _ in read(tmp_path, whole(), "smtp.req.command", "ip.src", only="smtp.req.command")]
    # tshark takes the first four letters for the command.
    assert commands == ["EHLO", "STAR", "EHLO", "AUTH", "EHLO", "MAIL,RCPT,DATA", "MAIL,RCPT,DATA", "QUIT"]
    parameters = read(tmp_path, whole(), "smtp.req.parameter", "ip.dst", only='smtp.req.command == "MAIL"')
    assert [one.split(",") for one, _ in parameters] == [["FROM:<a@example.com>", "TO:<jane@customer.example>"]] * 2
    messages = read(
        tmp_path, whole(), "imf.subject", "imf.from", "imf.to", "ip.src", "ip.dst", "tcp.dstport", only="imf"
    )
    told = ["hi", "a@example.com", "jane@customer.example"]
    assert messages == [[*told, "10.0.0.5", "192.0.2.1", "25"], [*told, "192.0.2.1", "203.0.113.5", "587"]]
    replies = {code for (code,) in read(tmp_path, whole(), "smtp.response.code", only="smtp.response.code")}
    assert {"220", "250", "235", "250,250,354", "221"} <= replies


def test_the_packets_are_sound(tmp_path: Path) -> None:
    sums = {tuple(told) for told in read(tmp_path, whole(), "tcp.checksum.status", "ip.checksum.status")}
    assert sums == {("1", "1")}
    wrong = "tcp.analysis.lost_segment || tcp.analysis.retransmission || tcp.analysis.out_of_order || tcp.analysis.ack_lost_segment || _ws.malformed"
    assert read(tmp_path, whole(), "frame.number", "_ws.expert.message", only=wrong) == []


def test_a_message_whose_body_was_not_kept_is_still_one(tmp_path: Path) -> None:
    messages = read(tmp_path, whole(body=None), "imf.subject", "ip.src", only="imf")
    assert [subject for subject, _ in messages] == ["hi", "hi"]
    commands = read(tmp_path, whole(body=None), "smtp.req.command", only="smtp.req.command")
    assert commands[-1] == ["QUIT"]
