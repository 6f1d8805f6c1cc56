"""Addresses: as they are configured, and what they reach."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from relayproxy.net.address import is_in, is_loopback, parse_address

ADDRESSES = [
    # text, kind, host, port, reached only from this machine
    ("127.0.0.1:2525", "tcp", "127.0.0.1", 2525, True),
    ("127.8.9.1:0", "tcp", "127.8.9.1", 0, True),
    ("0.0.0.0:25", "tcp", "0.0.0.0", 25, False),
    ("[::1]:2525", "tcp", "::1", 2525, True),
    ("[::]:2525", "tcp", "::", 2525, False),
    ("[2001:db8::1]:65535", "tcp", "2001:db8::1", 65535, False),
    ("localhost:2525", "tcp", "localhost", 2525, True),
    ("LocalHost:2525", "tcp", "LocalHost", 2525, True),
    ("mx.example.test:25", "tcp", "mx.example.test", 25, False),
    ("unix:/run/relay.sock", "unix", "/run/relay.sock", 0, True),
    ("fd:submission", "fd", "submission", 0, False),
]


@pytest.mark.parametrize(("text", "kind", "host", "port", "loopback"), ADDRESSES)
def test_addresses(text: str, kind: str, host: str, port: int, loopback: bool) -> None:
    address = parse_address(text)
    assert (address.kind, address.host, address.port, address.is_loopback) == (kind, host, port, loopback)
    assert str(address) == text


WRONG = [
    ("", "expected host:port"),
    ("2525", "expected host:port"),
    (":2525", "expected host:port"),
    ("127.0.0.1", "expected host:port"),
    ("127.0.0.1:", "expected host:port"),
    ("127.0.0.1:٢٥", "expected host:port"),
    ("127.0.0.1:+5", "expected host:port"),
    ("127.0.0.1:70000", "up to 65535"),
    ("127.0.0.300:25", "expected an IP address"),
    ("[127.0.0.1:25", "expected host:port"),
    ("[:::1]:25", "expected an IP address"),
    ("::1:25", "expected host:port"),
    ("unix:relay.sock", "absolute path"),
    ("fd:", "LISTEN_FDNAMES"),
    ("fd:a:b", "LISTEN_FDNAMES"),
    ("a b:25", "expected host:port"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_no_address_is_told_so(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_address(text)


PEERS = [
    # of a peer, of loopback, in 192.0.2.0/24 or fe80::/10
    ("127.0.0.1", True, False),
    ("::ffff:127.0.0.1", True, False),
    ("::1", True, False),
    ("unix:/run/relay.sock", True, False),
    ("192.0.2.1", False, True),
    ("::ffff:192.0.2.1", False, True),
    ("fe80::1%eth0", False, True),
    ("2001:db8::1", False, False),
]


@pytest.mark.parametrize(("address", "loopback", "listed"), PEERS)
def test_addresses_of_peers(address: str, loopback: bool, listed: bool) -> None:
    assert is_loopback(address) == loopback
    assert is_in(address, (ip_network("192.0.2.0/24"), ip_network("fe80::/10"))) == listed
