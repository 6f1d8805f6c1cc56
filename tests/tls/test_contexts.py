"""Whom we believe and what we say of it; what the contexts offer, ask for and refuse."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trustme
from OpenSSL import SSL
from stream_pairs import memory_pair
from tls_pairs import HOST, client_of, handshake, server_of

from relayproxy.tls.contexts import ClientTls, ServerTls
from relayproxy.tls.engine import Engine
from relayproxy.tls.facts import TlsConfigError, TlsFacts, TlsFailure
from relayproxy.tls.stream import shake_hands
from relayproxy.tls.verification import Findings

if TYPE_CHECKING:
    from pathlib import Path

    from tls_pairs import Files
    from trio.testing import MockClock

    from relayproxy.tls.contexts import Minimum

NOW = datetime.now(UTC)
YESTERDAY, TOMORROW = NOW - timedelta(days=1), NOW + timedelta(days=1)


async def refused(server: ServerTls, client: ClientTls, host: str = HOST) -> tuple[TlsFailure, TlsFailure]:
    """What the two sides say, the server's word first, of a handshake that does not come to an end."""
    one, other = memory_pair()
    said: dict[str, TlsFailure] = {}

    async def accept() -> None:
        with pytest.raises(TlsFailure) as failure:
            await server.accept(one, seconds=10)
        said["server"] = failure.value
        one.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(TlsFailure) as failure:
            await client.connect(other, host=host, seconds=10)
        said["client"] = failure.value
        other.close()
    return said["server"], said["client"]


# Whether an upstream is believed.


async def test_full_is_a_chain_and_the_name(server: ServerTls, client: ClientTls) -> None:
    ours, facts = (stream.facts for stream in await handshake(server, client))
    assert facts.verified
    assert facts.why is None
    assert facts.certificate is not None
    assert facts.certificate.names == (HOST,)
    assert facts.sni == ours.sni == HOST
    assert facts.version == ours.version == "TLSv1.3"
    assert facts.cipher == ours.cipher
    assert "AES_256_GCM" in facts.cipher
    assert ours.certificate is None
    assert not ours.verified


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
async def test_an_address_is_looked_for_among_the_addresses(files: Files, client: ClientTls, address: str) -> None:
    server = server_of(files, files.pair(address))
    _, stream = await handshake(server, client, host=address)
    assert stream.facts.verified
    assert stream.facts.sni is None
    assert stream.facts.certificate is not None
    assert stream.facts.certificate.names == (address,)
    _, failure = await refused(server, client, "192.0.2.8")
    assert f"it is not for 192.0.2.8 but for {address}" in failure.what


async def test_a_dot_at_the_end_of_the_host_means_nothing(server: ServerTls, client: ClientTls) -> None:
    _, stream = await handshake(server, client, host=HOST + ".")
    assert stream.facts.sni == HOST


async def test_a_wrong_name_is_told_with_the_names_found(files: Files, client: ClientTls) -> None:
    server = server_of(files, files.pair("a.example.test", "*.b.example.test"))
    theirs, failure = await refused(server, client)
    assert failure.reason == "certificate"
    assert failure.what == (
        "the peer's certificate was refused: it is not for mx.example.test but for a.example.test, *.b.example.test"
    )
    assert theirs.reason == "certificate"
    assert theirs.what == "the peer refused our certificate, or that there was none (alert: bad certificate)"
    await handshake(server, client, host="mx.b.example.test")
    await refused(server, client, "b.example.test")
    await refused(server, client, "mx.mx.b.example.test")
    part = files.self_signed("m*.example.test")  # RFC 6125 §6.4.3: nobody has to take it
    _, failure = await refused(server_of(files, part), client_of(files, ca=part[0]))
    assert failure.what.endswith("it is not for mx.example.test but for m*.example.test")


async def test_what_is_out_of_date_is_told_with_the_date(files: Files, client: ClientTls) -> None:
    leaf = files.authority.issue_cert(HOST, not_before=NOW - timedelta(days=9), not_after=YESTERDAY)
    theirs, failure = await refused(server_of(files, files.keep(leaf)), client)
    assert failure.reason == "certificate"
    assert failure.what == f"the peer's certificate was refused: it expired on {YESTERDAY:%Y-%m-%d}"
    assert theirs.what.endswith("(alert: certificate expired)")
    leaf = files.authority.issue_cert(HOST, not_before=TOMORROW, not_after=TOMORROW + timedelta(days=1))
    _, failure = await refused(server_of(files, files.keep(leaf)), client)
    assert failure.what == f"the peer's certificate was refused: it is not valid before {TOMORROW:%Y-%m-%d}"


async def test_all_that_is_wrong_is_told_at_once(files: Files, client: ClientTls) -> None:
    stranger = trustme.CA(organization_name="Strangers")
    leaf = stranger.issue_cert("other.test", not_before=NOW - timedelta(days=9), not_after=YESTERDAY)
    theirs, failure = await refused(server_of(files, files.keep(leaf)), client)
    first, second, third = failure.what.removeprefix("the peer's certificate was refused: ").split("; ")
    assert first.startswith("its issuer is unknown to us (")
    assert "O=Strangers" in first
    assert second == "it is not for mx.example.test but for other.test"
    assert third == f"it expired on {YESTERDAY:%Y-%m-%d}"
    assert "alert: unknown ca" in theirs.what


async def test_self_signed_is_told_as_such(files: Files, client: ClientTls) -> None:
    self_signed = files.self_signed()
    server = server_of(files, self_signed)
    _, failure = await refused(server, client)
    assert failure.what == "the peer's certificate was refused: it is self-signed, and not one that we trust"
    _, stream = await handshake(server, client_of(files, ca=self_signed[0]))
    assert stream.facts.verified


async def test_an_authority_that_another_one_signed_can_be_trusted_by_itself(files: Files, tmp_path: Path) -> None:
    middle = files.authority.create_child_ca()
    alone = tmp_path / "middle.pem"
    alone.write_bytes(middle.cert_pem.bytes())
    server = server_of(files, files.pair(HOST, authority=middle))
    _, stream = await handshake(server, client_of(files, ca=alone))
    assert stream.facts.verified
    _, stream = await handshake(server, client_of(files))  # the chain is sent
    assert stream.facts.verified


async def test_ca_is_the_chain_alone(files: Files) -> None:
    client = client_of(files, "ca")
    _, stream = await handshake(server_of(files, files.pair("other.test")), client)
    assert stream.facts.verified
    stranger = server_of(files, files.pair(HOST, authority=trustme.CA()))
    _, failure = await refused(stranger, client)
    assert "unknown to us" in failure.what


async def test_a_pin_is_that_certificate_and_nothing_else(files: Files) -> None:
    self_signed = files.self_signed()
    der = ssl.PEM_cert_to_DER_cert(self_signed[0].read_text())
    digest = hashlib.sha256(der).hexdigest()
    client = client_of(files, f"pin:sha256:{digest.upper()}")
    _, stream = await handshake(server_of(files, self_signed), client, host="whatever.test")
    assert stream.facts.verified
    assert stream.facts.certificate is not None
    assert stream.facts.certificate.digest == digest
    _, failure = await refused(server_of(files), client)
    assert failure.reason == "certificate"
    assert "it is not the pinned one: its digest is " in failure.what
    assert digest not in failure.what


async def test_none_believes_everybody_and_says_so(files: Files, server: ServerTls) -> None:
    client = client_of(files, "none")
    _, stream = await handshake(server, client)
    assert not stream.facts.verified
    assert stream.facts.why == "verify is none"
    _, stream = await handshake(server_of(files, files.pair("other.test", authority=trustme.CA())), client)
    assert not stream.facts.verified
    assert stream.facts.why is not None
    assert "; it is not for mx.example.test but for other.test" in stream.facts.why


# What clients must show.


async def test_a_client_shows_a_certificate_where_it_must(files: Files) -> None:
    server = server_of(files, client_ca=files.ca)
    ours, _ = await handshake(server, client_of(files, pair=files.pair("app@example.test")))
    assert ours.facts.verified
    assert ours.facts.certificate is not None


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_a_client_without_the_right_certificate_is_refused(files: Files, version: int) -> None:
    server = server_of(files, client_ca=files.ca)
    server._context.set_max_proto_version(version)
    stranger = client_of(files, pair=files.pair("app.test", authority=trustme.CA()))
    for client, words in (
        (client_of(files), "the peer showed no certificate, and we ask for one"),
        (stranger, "its issuer is unknown to us"),
    ):
        failure = await server_refuses(server, client)
        assert failure.reason == "certificate"
        assert words in failure.what


async def server_refuses(server: ServerTls, client: ClientTls) -> TlsFailure:
    """Under TLS 1.3 a client is through before the server has looked at its certificate: it hears of it with the first octets."""
    one, other = memory_pair()
    failures: list[TlsFailure] = []

    async def accept() -> None:
        with pytest.raises(TlsFailure) as failure:
            await server.accept(one, seconds=10)
        failures.append(failure.value)

    async def connect() -> None:
        await (await client.connect(other, host=HOST, seconds=10)).receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises((TlsFailure, trio.BrokenResourceError), match="the peer refused"):
            await connect()
    return failures[0]


# Versions, ciphers, protocols, resumption.


@pytest.mark.parametrize(("minimum", "offered", "met"), [
    ("TLSv1.2", SSL.TLS1_2_VERSION, "TLSv1.2"), ("TLSv1.2", SSL.TLS1_1_VERSION, None), ("TLSv1.3", SSL.TLS1_2_VERSION, None),
    ("TLSv1.3", SSL.TLS1_3_VERSION, "TLSv1.3"), ("TLSv1.2", SSL.TLS1_3_VERSION, "TLSv1.3"), ("TLSv1.2", SSL.TLS1_VERSION, None),
])  # fmt: skip
async def test_a_minimum_is_kept(files: Files, minimum: Minimum, offered: int, met: str | None) -> None:
    server = server_of(files, minimum=minimum)
    client = client_of(files)
    client._context.set_min_proto_version(SSL.TLS1_VERSION)
    client._context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    client._context.set_max_proto_version(offered)
    if met is None:
        ours, theirs = await refused(server, client)
        assert ours.reason == theirs.reason == "protocol"
        assert ours.what == "the peer offers no version of TLS that we take"
        assert theirs.what == "the peer refused the handshake (alert: protocol version)"
    else:
        one, other = await handshake(server, client)
        assert one.facts.version == other.facts.version == met


async def test_no_common_cipher_is_told_as_such(files: Files) -> None:
    server, client = server_of(files), client_of(files)
    for context, cipher in (
        (server._context, b"ECDHE-ECDSA-AES128-GCM-SHA256"),
        (client._context, b"ECDHE-ECDSA-AES256-GCM-SHA384"),
    ):
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(cipher)
    ours, _ = await refused(server, client)
    assert ours.what == "there is no cipher that both sides take"


@pytest.mark.parametrize("offered", [[b"smtp"], [b"http/1.1", b"esmtp"]])
async def test_smtp_may_be_asked_for(files: Files, server: ServerTls, offered: list[bytes]) -> None:
    client = client_of(files)
    client._context.set_alpn_protos(offered)
    _, stream = await handshake(server, client)
    assert stream._engine._connection.get_alpn_proto_negotiated() == offered[-1]


async def test_another_protocol_is_refused(files: Files, server: ServerTls) -> None:
    """Attack 29: a browser is made to speak to a mail server."""
    client = client_of(files)
    client._context.set_alpn_protos([b"h2", b"http/1.1"])
    ours, theirs = await refused(server, client)
    assert ours.what == "the client wants to speak h2, http/1.1, and not SMTP"
    assert theirs.what == "the peer refused the handshake (alert: no application protocol)"


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_a_session_is_resumed_where_it_was_made(files: Files, version: int) -> None:
    """PROTOCOL §1.9: a ticket of one listener is worth nothing at another."""
    pair = files.pair(HOST)
    here, elsewhere = server_of(files, pair), server_of(files, pair)
    client = client_of(files, "none")
    for server in (here, elsewhere):
        server._context.set_max_proto_version(version)
    context = client._context
    first, second = await handshake(here, client)
    assert not first.facts.resumed
    await first.send_all(b"220 ready")  # the tickets go with it
    assert await second.receive_some() == b"220 ready"
    session = second._engine._connection.get_session()
    assert session is not None
    for server, resumed in ((here, True), (elsewhere, False)):
        assert (await resume(server, context, session)).resumed is resumed


async def test_a_session_is_resumed_with_the_clients_certificate(files: Files) -> None:
    server = server_of(files, client_ca=files.ca)
    client = client_of(files, "none", pair=files.pair("app.test"))
    one, other = await handshake(server, client)
    await one.send_all(b"220 ready")
    assert await other.receive_some() == b"220 ready"
    session = other._engine._connection.get_session()
    assert session is not None
    facts = await resume(server, client._context, session)
    assert facts.resumed
    assert facts.verified
    assert facts.certificate == one.facts.certificate


async def test_no_session_is_kept_for_clients_without_tickets(files: Files, server: ServerTls) -> None:
    client = client_of(files, "none")
    client._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client._context.set_options(SSL.OP_NO_TICKET)
    _, other = await handshake(server, client)
    session = other._engine._connection.get_session()
    assert session is not None
    assert not (await resume(server, client._context, session)).resumed


def test_idle_sessions_give_their_buffers_back(files: Files) -> None:
    for context in (server_of(files)._context, client_of(files)._context):
        assert context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS


async def resume(server: ServerTls, context: SSL.Context, session: SSL.Session) -> TlsFacts:
    one, other = memory_pair()
    connection = SSL.Connection(context, None)
    connection.set_session(session)
    engine = Engine(connection, Findings(required=False), server=False)
    facts: list[TlsFacts] = []

    async def accept() -> None:
        facts.append((await server.accept(one, seconds=10)).facts)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await shake_hands(other, engine, 10)
    assert engine.facts().resumed is facts[0].resumed
    return facts[0]


# Sessions with upstreams that are gone on with.


async def twice(server: ServerTls, client: ClientTls, host: str = HOST) -> tuple[TlsFacts, TlsFacts]:
    """What two sessions with a server are, one after the other."""
    one, other = await once(server, client, host), await once(server, client, host)
    return one, other


async def once(server: ServerTls, client: ClientTls, host: str = HOST) -> TlsFacts:
    ours, theirs = await handshake(server, client, host=host)
    await ours.send_all(b"220 ready")  # the tickets go with it
    assert await theirs.receive_some() == b"220 ready"
    theirs.close()
    ours.close()
    return theirs.facts


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("verify", ["full", "ca", "none"])
async def test_a_session_with_an_upstream_is_gone_on_with(files: Files, version: int, verify: str) -> None:
    server, client = server_of(files), client_of(files, verify)
    server._context.set_max_proto_version(version)
    one, other = await twice(server, client)
    assert not one.resumed
    assert other == msgspec.structs.replace(one, resumed=True), "all else is told as it was found out"


async def test_what_was_wrong_is_told_of_a_session_that_is_gone_on_with(files: Files) -> None:
    server, client = server_of(files, files.self_signed("other.test")), client_of(files, "none")
    one, other = await twice(server, client)
    assert other.resumed
    assert (other.verified, other.why) == (False, one.why)
    assert one.why is not None
    assert "self-signed" in one.why


async def test_a_session_is_not_gone_on_with_under_another_name(files: Files) -> None:
    """PROTOCOL §1.9: what was looked at was looked at for a name."""
    server, client = server_of(files, files.pair(HOST, "mx2.example.test")), client_of(files)
    assert not (await once(server, client)).resumed
    assert not (await once(server, client, "mx2.example.test")).resumed
    await refused(server, client, "mx3.example.test")


async def test_another_server_of_that_name_is_looked_at(files: Files) -> None:
    client = client_of(files)
    assert not (await once(server_of(files), client)).resumed
    assert not (await once(server_of(files), client)).resumed
    _, failure = await refused(server_of(files, files.self_signed(HOST)), client)
    assert "self-signed" in failure.what


async def test_a_certificate_is_looked_at_again_after_ten_minutes(files: Files, autojump_clock: MockClock) -> None:
    server, client = server_of(files), client_of(files)
    seen = []
    for _ in range(8):
        seen.append((await once(server, client)).resumed)
        autojump_clock.jump(200)
    assert seen == [False, True, True, False, True, True, False, True], "however often it was gone on with"


async def test_where_going_on_fails_it_is_not_tried_again(files: Files, client: ClientTls) -> None:
    server = server_of(files)
    assert [facts.resumed for facts in await twice(server, client)] == [False, True]
    one, other = memory_pair()
    one.close()
    with pytest.raises(TlsFailure):
        await client.connect(other, host=HOST, seconds=10)
    assert [facts.resumed for facts in await twice(server, client)] == [False, True], "that may have been anything"
    one, other = memory_pair()
    await one.send_all(b"\x15\x03\x03\x00\x02\x02\x50")  # the alert internal_error
    with pytest.raises(TlsFailure):
        await client.connect(other, host=HOST, seconds=10)
    assert [facts.resumed for facts in await twice(server, client)] == [False, False]


# Who does not speak TLS, or not in time.


@pytest.mark.parametrize(("said", "words"), [
    (b"220 mx.example.test ESMTP\r\n", ("something else in clear", "'220 mx.example.test ESMTP'")),
    (b"EHLO \xff\x1b[31m\r\nMAIL", ("EHLO in clear", r"'EHLO \\xff\x1b[31m'")),
    (b"get / HTTP/1.1\r\n", ("GET in clear", "'get / HTTP/1.1'")),
    (b"AUTH PLAIN AGpvZQBodW50ZXIy\r\n", ("something else in clear", "'AUTH PLAIN AGpvZQBodW50ZXIy'")),
    (b"\r\n", ("something else in clear", "an empty line")),
    (b"\x00\x01\x02\x03\x04\x05", "what the peer sent is no TLS"),
    (b"\x16\x03\x01\x00\x05hello", "unexpected message"),
])  # fmt: skip
async def test_plaintext_is_told_as_such(
    client: ClientTls, server: ServerTls, said: bytes, words: str | tuple[str, str]
) -> None:
    """Of a client only what is sure to be no secret is quoted (attack 21); a server has heard none yet."""
    for side in ("server", "client"):
        one, other = memory_pair()
        await other.send_all(said)
        meeting = server.accept(one, seconds=10) if side == "server" else client.connect(one, host=HOST, seconds=10)
        with pytest.raises(TlsFailure) as failure:
            await meeting
        assert failure.value.reason == "protocol"
        expected = words if isinstance(words, str) else f"expected TLS, got {words[side == 'client']}"
        assert failure.value.what == expected


async def test_who_goes_away_is_told_as_such(server: ServerTls, client: ClientTls) -> None:
    one, other = memory_pair()
    other.close()
    with pytest.raises(TlsFailure) as failure:
        await server.accept(one, seconds=10)
    assert failure.value.reason == "closed"
    one, other = memory_pair()
    await other.send_eof()
    with pytest.raises(TlsFailure) as failure:
        await client.connect(one, host=HOST, seconds=10)
    assert failure.value.reason == "closed"


async def test_a_handshake_ends_in_time(autojump_clock: trio.testing.MockClock, server: ServerTls) -> None:
    """Attack 17: the whole of it, however slowly octets come."""
    one, other = memory_pair()

    async def drip() -> None:
        for octet in b"\x16\x03\x01\x02\x00" + b"x" * 512:
            await other.send_all(bytes([octet]))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(TlsFailure) as failure:
            await server.accept(one, seconds=30)
        nursery.cancel_scope.cancel()
    assert failure.value.reason == "timeout"
    assert failure.value.what == "the handshake did not end within 30 seconds"
    assert 30 <= autojump_clock.current_time() <= 31


# Files.


@pytest.mark.parametrize(("text", "words"), [
    ("pin:sha256:12", "verify: expected full, ca, none or pin:sha256:"),
    ("Full", "verify: expected full, ca, none or pin:sha256:"),
])  # fmt: skip
def test_a_wrong_verify_is_told(files: Files, text: str, words: str) -> None:
    with pytest.raises(TlsConfigError, match=words):
        client_of(files, text)


def test_files_that_will_not_do_are_told(files: Files, tmp_path: Path) -> None:
    certificate, key = files.pair(HOST)
    _, other_key = files.pair(HOST)
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for pair, words in (
        ((missing, key), f"{missing}: cannot be read: No such file or directory"),
        ((empty, key), f"{empty}: expected certificates in PEM, got an empty file"),
        ((key, key), f"{key}: expected certificates in PEM, got a private key, or a damaged one"),
        (
            (certificate, certificate),
            f"{certificate}: expected a private key in PEM, got a certificate, or a damaged one",
        ),
        (
            (certificate, other_key),
            f"{other_key}: expected the key of the certificate in {certificate}, got another key",
        ),
    ):
        with pytest.raises(TlsConfigError) as error:
            server_of(files, pair)
        assert str(error.value) == words
        with pytest.raises(TlsConfigError) as error:
            client_of(files, pair=pair)
        assert str(error.value) == words
    with pytest.raises(TlsConfigError, match="expected certificates in PEM"):
        server_of(files, client_ca=key)
    with pytest.raises(TlsConfigError, match="without the other"):
        ClientTls(verify="full", ca=None, certificate=certificate, key=None, minimum="TLSv1.2", keylog=None)


#: On secp160r1, which `cryptography` has no name for.
ODD_KEY = """-----BEGIN PRIVATE KEY-----
MGECAQAwEAYHKoZIzj0CAQYFK4EEAAgESjBIAgEBBBUA+alON1Xy0qt9cvsfgsk6
cT3+1QahLAMqAARSRCRKmCNV4/Ok3ljJDmAqA/M4FeeUxoeGtJAtVDuNyYq8LWPe
rMV0
-----END PRIVATE KEY-----
"""
UNUSABLE = "expected a certificate with a key that is supported, got a damaged one, or one of another kind"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # Its version; the kind and the octets of its key; the kind of text of a name (RFC 5280 §4.1).
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x2e", "expected certificates in PEM, got a certificate, or a damaged"),
        (b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x09", UNUSABLE),
        (b"\x03\x42\x00\x04", b"\x03\x42\x00\x05", UNUSABLE),
        (b"\x06\x03\x55\x04\x03\x0c", b"\x06\x03\x55\x04\x03\x8c", "mstring not universal"),
    ],
)  # fmt: skip
def test_a_certificate_with_one_octet_that_is_wrong_is_told(
    files: Files, tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    whole, key = files.self_signed()
    octets = ssl.PEM_cert_to_DER_cert(whole.read_text())
    assert old in octets
    torn = tmp_path / "torn.pem"
    torn.write_text(ssl.DER_cert_to_PEM_cert(octets.replace(old, new, 1)))
    for make in (server_of, client_of):
        with pytest.raises(TlsConfigError) as error:
            make(files, pair=(torn, key))
        assert str(error.value).startswith(f"{torn}: {words}")


def test_a_key_that_nobody_can_use_is_told(files: Files, tmp_path: Path) -> None:
    certificate, _ = files.pair(HOST)
    key = tmp_path / "odd.key"
    key.write_text(ODD_KEY)
    with pytest.raises(
        TlsConfigError, match="expected a key for EC, RSA or Ed25519, got one of a kind or on a curve that"
    ):
        server_of(files, (certificate, key))
