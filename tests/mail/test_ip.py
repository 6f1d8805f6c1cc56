"""Whose network an address is in."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from relayproxy.mail.ip import is_in

PEERS = [
    # of a peer, in 192.0.2.0/24 or fe80::/10
    ("127.0.0.1", False),
    ("::1", False),
    ("unix:/run/relay.sock", False),
    ("192.0.2.1", True),
    ("::ffff:192.0.2.1", True),
    ("fe80::1%eth0", True),
    ("2001:db8::1", False),
]


@pytest.mark.parametrize(("address", "listed"), PEERS)
def test_a_zone_and_a_mapping_into_ipv6_do_not_matter(address: str, listed: bool) -> None:
    assert is_in(address, (ip_network("192.0.2.0/24"), ip_network("fe80::/10"))) == listed
