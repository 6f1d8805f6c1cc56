"""Sessions as packets: read again with the formats' own rules, each side said what was recorded. (interop/test_pcapng.py asks tshark.)"""

from __future__ import annotations

import struct
from collections import defaultdict
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

import pytest
from stored import BEGAN, BODY, HEADER, TRACED, message, reader_of, record, session, wire

from relayproxy.record.export.pcapng import blocks, heading
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.wire import WireData, WireEntry, WireEvent, WireOctets

if TYPE_CHECKING:
    from relayproxy.record.store.interface import Reader

FIN, SYN, RST, ACK = 1, 2, 4, 16


class Packet(NamedTuple):
    time: int
    source: tuple[str, int]
    target: tuple[str, int]
    sequence: int
    acknowledged: int
    flags: int
    octets: bytes


def file_of(reader: Reader) -> bytes:
    stored = reader.session("S1")
    assert stored
    return heading() + b"".join(blocks(stored, reader.of_session("S1"), reader, 0))


def packets(file: bytes) -> list[Packet]:
    assert file.startswith(struct.pack("<IIIHHq", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1))
    found = []
    at = 28
    while at < len(file):
        type_, size = struct.unpack_from("<II", file, at)
        assert struct.unpack_from("<I", file, at + size - 4) == (size,)
        assert size % 4 == 0
        if type_ == 1:
            assert struct.unpack_from("<H", file, at + 8) == (101,)
        else:
            assert type_ == 6
            _, high, low, length, whole = struct.unpack_from("<IIIII", file, at + 8)
            assert length == whole <= 65535
            found.append(packet(high << 32 | low, file[at + 28 : at + 28 + length]))
        at += size
    return found


def packet(time: int, octets: bytes) -> Packet:
    if octets[0] >> 4 == 4:
        assert struct.unpack_from("!H", octets, 2) == (len(octets),)
        assert ones_sum(octets[:20]) == 0xFFFF
        source, target, tcp = octets[12:16], octets[16:20], octets[20:]
    else:
        assert struct.unpack_from("!HB", octets, 4) == (len(octets) - 40, 6)
        source, target, tcp = octets[8:24], octets[24:40], octets[40:]
    assert ones_sum(source + target + struct.pack("!HH", 6, len(tcp)) + tcp) == 0xFFFF
    source_port, target_port, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", tcp)
    ends = (str(ip_address(source)), source_port), (str(ip_address(target)), target_port)
    return Packet(time, *ends, sequence, acknowledged, flags, tcp[(offset >> 4) * 4 :])


def ones_sum(octets: bytes) -> int:
    """RFC 1071, as written there."""
    total: int = sum(struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + b"\0" * (len(octets) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def said(found: list[Packet]) -> dict[tuple[tuple[str, int], tuple[str, int]], bytes]:
    """What each end said to each, by sequence number; a new connection begins with SYN."""
    told: defaultdict[tuple[tuple[str, int], tuple[str, int]], bytes] = defaultdict(bytes)
    expected: dict[tuple[tuple[str, int], tuple[str, int]], int] = {}
    for one in found:
        way = one.source, one.target
        if one.flags & SYN:
            expected[way] = one.sequence
        assert one.sequence == expected[way] % 2**32
        expected[way] += len(one.octets) + bool(one.flags & (SYN | FIN))
        if one.flags & ACK and way[::-1] in expected:
            assert one.acknowledged == expected[way[::-1]] % 2**32
        told[way] += one.octets
    return dict(told)


def of(entries: list[WireEntry]) -> list[Packet]:
    return packets(
        file_of(reader_of(session(entries), TransactionWrite(record(), message(header_sent=TRACED), final=True)))
    )


CLIENT, OURS, UPSTREAM = ("10.0.0.5", 53122), ("192.0.2.1", 25), ("203.0.113.5", 587)


def test_both_legs_say_what_they_said() -> None:
    found = of(wire())
    told = said(found)
    ours_to_upstream = ("192.0.2.1", 40001)
    whole = BODY.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert told[CLIENT, OURS].endswith(b"DATA\r\n" + HEADER + b"\r\n" + whole + b"QUIT\r\n")
    assert told[ours_to_upstream, UPSTREAM].endswith(b"DATA\r\n" + TRACED + b"\r\n" + whole)
    assert told[UPSTREAM, ours_to_upstream].startswith(b"220 smtp.example.com ESMTP\r\n")
    assert told[OURS, CLIENT].endswith(b"221 2.0.0 bye\r\n")
    assert found[0].time == BEGAN // 1000
    assert found[-1].time == BEGAN // 1000 + 62000


def test_connections_begin_and_end_as_connections_do() -> None:
    flags = [one.flags for one in of(wire()) if CLIENT in (one.source, one.target)]
    assert flags[:3] == [SYN, SYN | ACK, ACK]
    assert flags[-3:] == [FIN | ACK, FIN | ACK, ACK]


def test_what_was_blanked_is_stars() -> None:
    told = said(
        of([WireEvent(0, "C", "open", ("10.0.0.5:53122",)), WireOctets(1, "C", ">", b"AUTH PLAIN \r\n", ((11, 4),))])
    )
    assert told[CLIENT, OURS] == b"AUTH PLAIN ****\r\n"


def test_what_was_not_kept_is_stars_and_the_end() -> None:
    reader = reader_of(session(wire()), TransactionWrite(record(), message(body=None), final=True))
    told = said(packets(file_of(reader)))[CLIENT, OURS]
    assert told.endswith(HEADER + b"\r\n" + b"*" * (19 - 5) + b"\r\n.\r\n" + b"QUIT\r\n")


def test_behind_starttls_a_leg_goes_on_in_another_connection() -> None:
    begin: list[WireEntry] = [
        WireEvent(0, "C", "open", ("10.0.0.5:53122",)),
        WireOctets(1, "C", ">", b"STARTTLS\r\n"),
        WireEvent(2, "C", "tls", ("TLSv1.3", "AES")),
        WireOctets(3, "C", ">", b"EHLO x\r\n"),
    ]
    found = of(begin)
    assert [one.octets or one.flags for one in found] == [SYN, SYN | ACK, ACK, b"STARTTLS\r\n", FIN | ACK, FIN | ACK, ACK, SYN, SYN | ACK, ACK, b"EHLO x\r\n"]  # fmt: skip
    assert found[7].sequence != found[0].sequence
    implicit = of([begin[0], *begin[2:]])
    assert [one.octets or one.flags for one in implicit] == [SYN, SYN | ACK, ACK, b"EHLO x\r\n"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [("refused", [SYN, RST | ACK]), ("timeout", [SYN]), ("unreachable", [SYN]), ("unresolved", [])],
)
def test_dials_that_failed(name: str, flags: list[int]) -> None:
    found = of([WireEvent(0, "U", name, ("203.0.113.5:587",))])  # type: ignore[arg-type]
    assert [one.flags for one in found] == flags


@pytest.mark.parametrize(
    ("by_us", "name", "ends"),
    [
        (True, "reset", [(OURS, RST | ACK)]),
        (False, "reset", [(CLIENT, RST | ACK)]),
        (False, "eof", [(CLIENT, FIN | ACK)]),
        (True, "close", [(OURS, FIN | ACK), (CLIENT, FIN | ACK), (OURS, ACK)]),
    ],
)
def test_who_ended_a_connection(by_us: bool, name: str, ends: list[tuple[tuple[str, int], int]]) -> None:
    found = of([WireEvent(0, "C", "open", ("10.0.0.5:53122",)), WireEvent(1, "C", name, (), by_us=by_us)])  # type: ignore[arg-type]
    assert [(one.source, one.flags) for one in found[3:]] == ends


@pytest.mark.parametrize(
    ("client", "source", "target"),
    [
        ("[2001:db8::5]:53122", ("2001:db8::5", 53122), ("2001:db8::1", 25)),
        ("[::1]:53122", ("::1", 53122), ("::1", 25)),
        ("127.0.0.1:53122", ("127.0.0.1", 53122), ("127.0.0.1", 25)),
        ("/run/relay.sock", ("127.0.0.1", 40001), ("127.0.0.1", 25)),
    ],
)
def test_addresses(client: str, source: tuple[str, int], target: tuple[str, int]) -> None:
    found = of([WireEvent(0, "C", "open", (client,)), WireOctets(1, "C", ">", b"odd")])
    assert (found[0].source, found[0].target) == (source, target)


def test_a_large_message_is_many_packets_of_few_octets() -> None:
    content = b"x" * 200_000 + b"\r\n"
    size = len(HEADER) + 2 + len(content) + 3

    reader = reader_of(
        session([WireData(0, "C", size, "T1")]), TransactionWrite(record(), message(content=content), final=True)
    )
    found = packets(file_of(reader))
    assert max(len(one.octets) for one in found) <= 32 * 1024
    assert b"".join(one.octets for one in found) == HEADER + b"\r\n" + content + b".\r\n"
