"""Sessions as packets, for Wireshark and its kin (draft-ietf-opsawg-pcapng): each leg a TCP connection of the plaintext that was kept.

    file.write(heading())
    for block in blocks(session, transactions, reader, number):
        file.write(block)

Nobody saw these packets: they are made of the recorded octets and their times. Client's and upstream's addresses and ports are the real ones where
they are known; ours are not kept, and are the loopback address where the peer's is one, else one for documentation (RFC 5737, 3849). The server's
port is 25 unless it was 587, which Wireshark reads as SMTP too. What TLS carried stands here in clear, so where TLS begins a leg goes on in a new connection
between the same ends: behind STARTTLS Wireshark would look for TLS.

Invariants: what was blanked or not kept is as many `*`, mail data among it with its end; every packet has its time. Pure; memory: a piece of a message.
Packets themselves do not belong here (tcp.py), nor writing files.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from relayproxy.record.export.tcp import SEGMENT, Connection
from relayproxy.record.mail_data import MailData, Redacted, Unkept
from relayproxy.record.wire import WireEvent, WireOctets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.dialog import Leg
    from relayproxy.record.export.tcp import Ip, Side
    from relayproxy.record.mail_data import Piece
    from relayproxy.record.store.interface import Reader, Stored, StoredSession
    from relayproxy.record.wire import WireEntry

#: Raw IPv4 or IPv6, https://www.tcpdump.org/linktypes.html
_LINKTYPE_RAW: Final = 101
_SMTP: Final = (25, 587)
#: Of ours, towards upstream, and of a client whose port is not known: from here on.
_PORTS: Final = 40000
_END: Final = b"\r\n.\r\n"


def heading() -> bytes:
    """What a file begins with: section header and interface; times are in microseconds."""
    section = _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    return section + _block(1, struct.pack("<HHI", _LINKTYPE_RAW, 0, 0))


def blocks(session: StoredSession, transactions: Iterable[Stored], reader: Reader, number: int) -> Iterator[bytes]:
    """A block a packet. `number` tells sessions of a file apart."""
    mail = MailData(session, transactions, reader)
    legs: dict[Leg, _Leg] = {"C": _Leg("C", session, number), "U": _Leg("U", session, number)}
    began = session.began // 1000
    for entry in session.wire:
        for packet in legs[entry.leg].packets(entry, mail):
            yield _packet_block(began + entry.time, packet)


class _Leg:
    """One leg's connections, one after the other."""

    def __init__(self, leg: Leg, session: StoredSession, number: int) -> None:
        self._is_client = leg == "C"
        self._number = number
        self._count = 0
        self._place = session.client if self._is_client else ""
        self._connection: Connection | None = None

    def packets(self, entry: WireEntry, mail: MailData) -> Iterator[bytes]:
        if isinstance(entry, WireEvent):
            yield from self._event(entry)
        elif isinstance(entry, WireOctets):
            # The client opened leg C, and we leg U: `>` is always from who opened.
            yield from self._send(0 if entry.arrow == ">" else 1, _filled(entry))
        else:
            for octets in _gathered(mail.pieces(entry)):
                yield from self._send(0, octets)

    def _event(self, event: WireEvent) -> Iterator[bytes]:
        side: Side = 1 if event.by_us is self._is_client else 0
        match event.name:
            case "open":
                self._place = event.arguments[0] if event.arguments else self._place
                yield from self._opened().open()
            case "tls" if self._connection is not None and self._connection.has_spoken:
                yield from self._connection.close(0)
                yield from self._opened().open()
            case "eof" if self._connection is not None:
                yield from self._connection.end(side)
            case "close" if self._connection is not None:
                yield from self._connection.close(side)
            case "reset" if self._connection is not None:
                yield from self._connection.reset(side)
            case "refused" | "timeout" | "unreachable":
                self._place = event.arguments[0] if event.arguments else self._place
                connection = self._opened()
                yield connection.call()
                if event.name == "refused":
                    yield connection.refuse()
            case _:
                pass

    def _send(self, side: Side, octets: bytes) -> Iterator[bytes]:
        connection = self._connection
        if connection is None or not connection.is_open:  # a session whose beginning was not kept
            connection = self._opened()
            yield from connection.open()
        yield from connection.send(side, octets)

    def _opened(self) -> Connection:
        self._count += 1
        address, port = _split(self._place)
        ours = _ours(address)
        free = _PORTS + (self._number * 16 + self._count) % 20000
        if self._is_client:
            ends = (address, port or free), (ours, _SMTP[0])
        else:
            ends = (ours, free), (address, port if port in _SMTP else _SMTP[0])
        self._connection = Connection(ends, self._number * 1000 + self._count)
        return self._connection


def _split(place: str) -> tuple[Ip, int]:
    """Address and port of `10.0.0.5:25`, `[::1]:25`, a url of them, or an address; loopback for what has none (a Unix socket); port 0 where it is not known."""
    place = place.rpartition("//")[2]
    try:
        return ip_address(place.strip("[]")), 0
    except ValueError:
        host, _, port = place.rpartition(":")
    try:
        return ip_address(host.strip("[]").partition("%")[0]), int(port)
    except ValueError:
        return ip_address("127.0.0.1"), 0


def _ours(peer: Ip) -> Ip:
    if peer.is_loopback:
        return peer
    return ip_address("192.0.2.1" if peer.version == 4 else "2001:db8::1")


def _filled(entry: WireOctets) -> bytes:
    """The octets, with stars for what was taken out of them."""
    if not entry.gaps:
        return entry.octets
    parts: list[bytes] = []
    start = 0
    for offset, length in entry.gaps:
        parts += entry.octets[start:offset], b"*" * length
        start = offset
    return b"".join([*parts, entry.octets[start:]])


def _gathered(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """As many octets at a time as a packet has; stars for what was not kept."""
    held = b""
    for piece in pieces:
        if isinstance(piece, Redacted):
            continue
        for octets in _stars(piece) if isinstance(piece, Unkept) else (piece,):
            held += octets
            while len(held) >= SEGMENT:
                yield held[:SEGMENT]
                held = held[SEGMENT:]
    if held:
        yield held


def _stars(unkept: Unkept) -> Iterator[bytes]:
    end = _END[-min(unkept.octets, len(_END)) :] if unkept.ends else b""
    left = unkept.octets - len(end)
    while left > 0:
        yield b"*" * min(left, SEGMENT)
        left -= SEGMENT
    yield end


def _packet_block(microseconds: int, packet: bytes) -> bytes:
    size = len(packet)
    head = struct.pack("<IIIII", 0, microseconds >> 32, microseconds & 0xFFFFFFFF, size, size)
    return _block(6, head + packet)


def _block(type_: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", type_) + size + body + size
