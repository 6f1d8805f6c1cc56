"""Addresses: as they are configured, and what they reach."""

from __future__ import annotations

import pytest

from relayproxy.net.address import is_loopback, parse_address

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
    # of a peer, of loopback
    ("127.0.0.1", True),
    ("::ffff:127.0.0.1", True),
    ("::1", True),
    ("unix:/run/relay.sock", True),
    ("192.0.2.1", False),
    ("fe80::1%eth0", False),
]


@pytest.mark.parametrize(("address", "loopback"), PEERS)
def test_addresses_of_peers(address: str, loopback: bool) -> None:
    assert is_loopback(address) == loopback
