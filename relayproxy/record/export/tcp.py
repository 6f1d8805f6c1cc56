"""Packets of TCP connections that nobody saw in this form: IPv4 and IPv6, handshakes, sequence numbers, valid checksums (RFC 791, 8200, 9293).

Invariants: what each side sends is one sequence of octets without a hole; a connection is opened before octets go over it and closed once; checksums are right,
so that no reader has to be told to look away. Pure: packets are bytes, times are the caller's. What stands in the octets does not belong here (pcapng.py).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

    Ip = IPv4Address | IPv6Address

#: Which side sends: 0 who opened the connection, 1 who was called.
Side = Literal[0, 1]

#: Octets of one packet; a packet has at most 65,535 with its headers.
SEGMENT: Final = 32 * 1024

_FIN: Final = 0x01
_SYN: Final = 0x02
_RST: Final = 0x04
_PSH: Final = 0x08
_ACK: Final = 0x10
_TCP: Final = 6
_WINDOW: Final = 0xFFFF
_HOPS: Final = 64


class Connection:
    """One connection between two ends, each an address and a port; both addresses are of one family."""

    def __init__(self, ends: tuple[tuple[Ip, int], tuple[Ip, int]], number: int) -> None:
        """`number` tells connections of the same ends apart: it makes their first sequence numbers."""
        self._ends = ends
        self._next = [number * 0x01000193 & 0x7FFFFFFF, (number * 0x01000193 ^ 0x5A5A5A5A) & 0x7FFFFFFF]
        self._ended = [False, False]
        self.is_open = False
        self.has_spoken = False

    def open(self) -> Iterator[bytes]:
        yield self.call()
        yield self._packet(1, _SYN | _ACK)
        yield self._packet(0, _ACK)
        self.is_open = True

    def call(self) -> bytes:
        """The packet that asks for a connection; there may be no answer."""
        return self._packet(0, _SYN)

    def refuse(self) -> bytes:
        """The answer that there is nobody."""
        return self._packet(1, _RST | _ACK)

    def send(self, side: Side, octets: bytes) -> Iterator[bytes]:
        self.has_spoken = True
        for start in range(0, len(octets), SEGMENT):
            yield self._packet(side, _PSH | _ACK, octets[start : start + SEGMENT])

    def end(self, side: Side) -> Iterator[bytes]:
        """That side sends no more."""
        if self.is_open and not self._ended[side]:
            self._ended[side] = True
            yield self._packet(side, _FIN | _ACK)

    def close(self, side: Side) -> Iterator[bytes]:
        """That side begins to close, the other does likewise."""
        other: Side = 1 if side == 0 else 0
        if self.is_open:
            yield from self.end(side)
            yield from self.end(other)
            yield self._packet(side, _ACK)
        self.is_open = False

    def reset(self, side: Side) -> Iterator[bytes]:
        if self.is_open:
            yield self._packet(side, _RST | _ACK)
        self.is_open = False

    def _packet(self, side: Side, flags: int, octets: bytes = b"") -> bytes:
        (source, source_port), (target, target_port) = self._ends if side == 0 else self._ends[::-1]
        at = self._next[side]
        acknowledged = self._next[1 - side] if flags & _ACK else 0
        self._next[side] = at + len(octets) + bool(flags & (_SYN | _FIN)) & 0xFFFFFFFF
        size = 20 + len(octets)
        head = struct.pack("!HHIIBBHHH", source_port, target_port, at, acknowledged, 5 << 4, flags, _WINDOW, 0, 0)
        # RFC 9293 §3.1: the sum goes over the addresses too; IPv6's longer words add up to the same.
        about = source.packed + target.packed + struct.pack("!HH", _TCP, size)
        head = head[:16] + _checksum(about, head, octets) + head[18:]
        if source.version == 6:
            return struct.pack("!IHBB", 6 << 28, size, _TCP, _HOPS) + source.packed + target.packed + head + octets
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, _HOPS, _TCP, 0) + source.packed + target.packed
        return ip[:10] + _checksum(ip) + ip[12:] + head + octets


def _checksum(*parts: bytes) -> bytes:
    """RFC 1071: the complement of the ones' complement sum; all parts but the last are even. 2**16 is 1 modulo 65,535, so a remainder is that sum."""
    octets = b"".join(parts)
    if len(octets) % 2:
        octets += b"\0"
    total = int.from_bytes(octets, "big") % 0xFFFF
    return struct.pack("!H", 0xFFFF - total)
