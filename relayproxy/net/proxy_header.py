"""The PROXY header, versions 1 and 2: who the client is, said by a load balancer in front of us, or by us to an upstream.

The PROXY protocol, §2.1 and §2.2; PROTOCOL §1.10.

It is required of the peers that are listed for it and unknown to all others; it is never sniffed. It comes before all else, TLS included.
Invariants: not one octet behind the header is read; a header has an end in time and in octets; what is not a header of the
standard's form is none, and there is no answer to it. A header that we write never leaves out a client whose address is known.
Who must send one does not belong here, nor what the address it gives may do (relay/service.py), nor to whom we send one (relay/connect.py).
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import trio

from relayproxy.mail.ip import plain_address

if TYPE_CHECKING:
    from relayproxy.net.address import Peername
    from relayproxy.net.stream import DeadlineStream

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
#: §2.1: "the maximum line lengths the receiver must support including the CRLF".
_LONGEST_LINE: Final = 107
_LINE: Final = re.compile(
    rb"PROXY TCP(?:4 (?P<v4>[0-9.]{7,15}) (?P<to_v4>[0-9.]{7,15})|6 (?P<v6>[0-9A-Fa-f:.]{2,45}) (?P<to_v6>[0-9A-Fa-f:.]{2,45}))"
    rb" (?P<port>0|[1-9][0-9]{0,4}) (?P<to_port>0|[1-9][0-9]{0,4})\r\n"
)
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [!-~ ]*)?\r\n")
#: §2.2: what follows the signature: version and command, family and protocol, octets that follow.
_FIXED: Final = struct.Struct("!BBH")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_ADDRESSES: Final = {_TCP4: struct.Struct("!4s4sHH"), _TCP6: struct.Struct("!16s16sHH")}


class ProxyHeaderError(Exception):
    """There was none, or none that we understand; in words for the log."""


class Ends(NamedTuple):
    """Who connected, and to what; `destination` is None where that is not known."""

    source: Peername
    destination: Peername | None


async def receive_proxy_header(stream: DeadlineStream, *, seconds: float, most: int) -> Ends | None:
    """The client, and where it went; None where the peer speaks for itself (LOCAL), or does not know (UNKNOWN).

    `most`: octets that a header of version 2 may have. Raises ProxyHeaderError.
    """
    stream.receive_by = trio.current_time() + seconds
    try:
        start = await _exactly(stream, len(_SIGNATURE))
        if start == _SIGNATURE:
            return await _version_2(stream, most)
        if start.startswith(b"PROXY "):
            return _version_1(await _line(stream, start))
    except trio.TooSlowError:
        raise ProxyHeaderError(f"no PROXY header within {seconds:g} seconds") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise ProxyHeaderError("the connection was lost in front of a PROXY header") from None
    raise ProxyHeaderError("expected a PROXY header, got something else")


async def _exactly(stream: DeadlineStream, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        more = await stream.receive_some(count - len(octets))
        if not more:
            raise ProxyHeaderError("the connection ended in front of a PROXY header, or inside of it")
        octets += more
    return octets


async def _line(stream: DeadlineStream, line: bytes) -> bytes:
    """Octet by octet: nothing says how long it is but its end, and what follows that is not ours to read."""
    while not line.endswith(b"\r\n"):
        if len(line) >= _LONGEST_LINE:
            raise ProxyHeaderError(f"a PROXY header of more than {_LONGEST_LINE} octets")
        line += await _exactly(stream, 1)
    return line


def _version_1(line: bytes) -> Ends | None:
    if _UNKNOWN.fullmatch(line):
        return None
    match = _LINE.fullmatch(line)
    if match is not None and (port := int(match["port"])) <= 0xFFFF and (to_port := int(match["to_port"])) <= 0xFFFF:
        kind = IPv4Address if match["v4"] else IPv6Address
        try:
            source, destination = (
                kind((match["v4"] or match["v6"]).decode()),
                kind((match["to_v4"] or match["to_v6"]).decode()),
            )
        except ValueError:
            pass
        else:
            return Ends((_plain(source), port), (_plain(destination), to_port))
    raise ProxyHeaderError("expected PROXY TCP4|TCP6|UNKNOWN with two addresses and two ports")


async def _version_2(stream: DeadlineStream, most: int) -> Ends | None:
    command, family, length = _FIXED.unpack(await _exactly(stream, _FIXED.size))
    if len(_SIGNATURE) + _FIXED.size + length > most:
        raise ProxyHeaderError(f"a PROXY header of more than {most} octets")
    rest = await _exactly(stream, length)
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise ProxyHeaderError(f"expected version 2 with the command LOCAL or PROXY, got 0x{command:02x}")
    if family == _UNSPECIFIED:
        return None
    addresses = _ADDRESSES.get(family)
    if addresses is None or length < addresses.size:
        raise ProxyHeaderError(f"expected the addresses of TCP over IPv4 or IPv6, got family 0x{family:02x}")
    source, destination, port, to_port = addresses.unpack_from(rest)
    kind = IPv4Address if family == _TCP4 else IPv6Address
    return Ends((_plain(kind(source)), port), (_plain(kind(destination)), to_port))


def _plain(address: IPv4Address | IPv6Address) -> str:
    """An IPv4 client is that in whatever form a balancer on IPv6 tells it: else it would count as two."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def proxy_header(version: Literal[1, 2], source: Peername, *destinations: Peername | None) -> bytes:
    """What we say of a client that came from `source`; of `destinations`, where it may be said to have gone, the first of its own family counts.

    A client without an IP address came through a Unix socket, from this machine: then we speak for ourselves (UNKNOWN, LOCAL).
    """
    client = plain_address(source[0])
    if client is None or source[1] is None:
        return b"PROXY UNKNOWN\r\n" if version == 1 else _SIGNATURE + _FIXED.pack(_LOCAL, _UNSPECIFIED, 0)
    server, to_port = _of_the_family(client, destinations)
    if version == 1:
        return f"PROXY TCP{client.version} {client} {server} {source[1]} {to_port}\r\n".encode("ascii")
    family = _TCP4 if client.version == 4 else _TCP6
    addresses = _ADDRESSES[family].pack(client.packed, server.packed, source[1], to_port)
    return _SIGNATURE + _FIXED.pack(_PROXY, family, len(addresses)) + addresses


def _of_the_family(
    client: IPv4Address | IPv6Address, destinations: tuple[Peername | None, ...]
) -> tuple[IPv4Address | IPv6Address, int]:
    """Both addresses of a header are of one family. Where there is none of the client's it is the unspecified one: a receiver that was told
    UNKNOWN would take us for the client, and we may be somebody whom it lets do more (attack 27).
    """
    for destination in destinations:
        if destination is not None and destination[1] is not None:
            address = plain_address(destination[0])
            if address is not None and address.version == client.version:
                return address, destination[1]
    return type(client)(0), 0
