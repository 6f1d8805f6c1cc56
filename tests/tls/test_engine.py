"""The engine by itself: octets in, octets out, in whatever pieces they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from tls_pairs import HOST, client_of, server_of

from relayproxy.tls.engine import Engine, TlsBroken
from relayproxy.tls.facts import TlsFailure
from relayproxy.tls.verification import Findings

if TYPE_CHECKING:
    from tls_pairs import Files

    from relayproxy.tls.contexts import ClientTls, ServerTls


def engines(server: ServerTls, client: ClientTls) -> tuple[Engine, Engine]:
    return (
        Engine(SSL.Connection(server._context, None), Findings(required=False), server=True),
        Engine(SSL.Connection(client._context, None), Findings(HOST, required=True), server=False),
    )


def connected(server: ServerTls, client: ClientTls) -> tuple[Engine, Engine]:
    one, other = engines(server, client)
    while not (other.handshake() and one.handshake()):
        for here, there in ((other, one), (one, other)):
            if octets := here.take():
                there.feed(octets)
            there.handshake()
    return one, other


def test_nothing_but_an_alert_follows_a_certificate_that_was_refused(files: Files) -> None:
    """Not our own certificate, above all."""
    stranger = server_of(files, files.pair(HOST, authority=trustme.CA()))
    one, other = engines(stranger, client_of(files, pair=files.pair("client.test")))
    assert not other.handshake()
    one.feed(other.take())
    assert not one.handshake()
    other.feed(one.take())
    with pytest.raises(TlsFailure, match="was refused"):
        other.handshake()
    assert other.take() == bytes.fromhex("15 0303 0002 02 30")  # fatal: unknown_ca
    with pytest.raises(TlsBroken, match="was refused"):
        other.write(b"EHLO")
    other.close_notify()
    assert other.take() == b""


def test_nobody_is_believed_who_was_not_looked_at(files: Files) -> None:
    client = client_of(files)
    client._context.set_verify(SSL.VERIFY_NONE)  # as if OpenSSL did not ask us
    one, other = engines(server_of(files), client)
    assert not other.handshake()
    one.feed(other.take())
    assert not one.handshake()
    other.feed(one.take())
    with pytest.raises(TlsFailure, match="was not looked at"):
        other.handshake()
    assert other.take() == b""


@settings(max_examples=40, deadline=None)
@given(
    writes=st.lists(st.binary(max_size=200) | st.just(b"x" * 20_000), max_size=6),
    cuts=st.lists(st.integers(1, 30_000), min_size=1, max_size=12),
    most=st.sampled_from([1, 100, 16_384, 65_536]),
)
def test_pieces_do_not_change_what_is_read(
    server: ServerTls, client: ClientTls, writes: list[bytes], cuts: list[int], most: int
) -> None:
    one, other = connected(server, client)
    for octets in writes:
        one.write(octets)
    one.close_notify()
    ciphertext = one.take()
    heard = bytearray()
    turn = 0
    while ciphertext:
        cut = cuts[turn % len(cuts)]
        other.feed(ciphertext[:cut])
        ciphertext = ciphertext[cut:]
        turn += 1
        while other.more and (data := other.read(most)):
            assert len(data) <= most
            heard += data
    assert heard == b"".join(writes)
    assert other.more
    assert other.read(most) == b""


def test_more_is_told_as_long_as_there_is_more(server: ServerTls, client: ClientTls) -> None:
    one, other = connected(server, client)
    one.write(b"abc")
    one.write(b"def")
    assert one.owes > 0
    other.feed(one.take())
    assert one.owes == 0
    assert other.read(1) == b"a"
    assert other.more
    assert other.read(100) == b"bcdef"
    assert not other.more
    assert other.read(100) is None


def test_what_came_before_a_failure_is_read_first(server: ServerTls, client: ClientTls) -> None:
    one, other = connected(server, client)
    one.write(b"250 ok")
    other.feed(one.take() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert other.read(100) == b"250 ok"
    for _ in range(2):
        assert other.more
        with pytest.raises(TlsBroken, match="bad record mac"):
            other.read(100)


def test_hearing_takes_nothing_away(server: ServerTls, client: ClientTls) -> None:
    one, other = connected(server, client)
    assert other.more  # the tickets
    assert not other.hear()
    assert not other.more
    one.write(b"250 ok")
    other.feed(one.take())
    assert other.hear()
    assert other.hear()
    assert other.read(100) == b"250 ok"
    other.feed_eof()
    assert other.hear()
    with pytest.raises(TlsBroken, match="closed without close_notify"):
        other.read(100)
