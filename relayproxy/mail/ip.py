"""IP addresses of peers, and the networks that they are in.

An address of a peer is text: an IP address, with its zone where it has one, or `unix:` and a path, which is nobody's network.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_in(host: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether the address of a peer is in one of these; that of a Unix socket is in none."""
    address = plain_address(host)
    return address is not None and any(address in network for network in networks)


def plain_address(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that this is: without its zone, and IPv4 where it was mapped into IPv6. None for a name and for a Unix socket."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
