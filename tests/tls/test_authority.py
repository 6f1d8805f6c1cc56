"""The installation's own authority, what it signs, and the key that nobody else may get at (attack 26)."""

from __future__ import annotations

import os
import re
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from stream_pairs import memory_pair
from tls_pairs import handshake

from relayproxy.tls.authority import LEAVES, Authority, Named
from relayproxy.tls.contexts import ClientTls, ServerTls
from relayproxy.tls.facts import TlsConfigError, TlsFailure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo
    from pathlib import Path

NOW = datetime.now(UTC)
FALLBACK = ("relay.example.test", "mx.example.test", "192.0.2.1")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(params=[0, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def authority_file(state: Path, ends: datetime, *, is_authority: bool = True) -> None:
    """Put an authority where ours would be."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=100))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = state / "ca"
    folder.mkdir(mode=0o700, parents=True)
    (folder / "key.pem").touch(mode=0o600)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.mark.usefixtures("umask")
def test_it_is_made_once_and_for_us_alone(state: Path) -> None:
    one = Authority.open(state)
    assert (state / "ca").stat().st_mode & 0o777 == 0o700
    assert (state / "ca" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (state / "ca" / "certificate.pem").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in state.iterdir()] == ["ca"]
    other = Authority.open(state)
    assert one.certificate_pem == other.certificate_pem == (state / "ca" / "certificate.pem").read_bytes()
    assert one.digest == other.digest
    assert re.fullmatch(r"[0-9a-f]{64}", one.digest)
    assert timedelta(days=3640) < one.not_after - NOW < timedelta(days=3651)
    assert "relayproxy CA" in one.subject


def test_what_it_is_stands_in_its_certificate(state: Path) -> None:
    certificate = x509.load_pem_x509_certificate(Authority.open(state).certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    other = x509.load_pem_x509_certificate(Authority.open(state / "other").certificate_pem)
    assert certificate.subject != other.subject


def test_who_is_second_takes_what_is_there(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes start at once: the other one is through between our look and our rename."""
    made: list[Authority] = []
    lexists = os.path.lexists

    def look(path: Path) -> bool:
        there = lexists(path)
        if not made:
            monkeypatch.undo()
            made.append(Authority.open(state))
        return there

    monkeypatch.setattr(os.path, "lexists", look)
    second = Authority.open(state)
    assert second.certificate_pem == made[0].certificate_pem
    assert [path.name for path in state.iterdir()] == ["ca"]


@pytest.mark.parametrize(("name", "mode"), [("ca/key.pem", 0o640), ("ca/key.pem", 0o604), ("ca", 0o750), ("ca", 0o707)])
def test_what_others_can_get_at_is_refused(state: Path, name: str, mode: int) -> None:
    Authority.open(state)
    (state / name).chmod(mode)
    with pytest.raises(
        TlsConfigError, match=rf"{name}: expected .* that nobody else can get at \(chmod .*got mode 0{mode:o}"
    ):
        Authority.open(state)


def test_links_are_not_followed(state: Path) -> None:
    Authority.open(state)
    key = state / "ca" / "key.pem"
    key.rename(state / "elsewhere.pem")
    key.symlink_to(state / "elsewhere.pem")
    with pytest.raises(TlsConfigError, match=r"key\.pem: expected a file, got a symbolic link"):
        Authority.open(state)
    (state / "ca").rename(state / "elsewhere")
    (state / "ca").symlink_to(state / "elsewhere")
    with pytest.raises(TlsConfigError, match="ca: expected a folder, got a symbolic link"):
        Authority.open(state)


def test_another_users_files_are_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Authority.open(state)
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    with pytest.raises(TlsConfigError, match=f"of user {us + 1}, who runs this, got one of user {us}"):
        Authority.open(state)


def test_damage_is_told(state: Path) -> None:
    Authority.open(state)
    key, certificate = state / "ca" / "key.pem", state / "ca" / "certificate.pem"
    octets = key.read_bytes()
    for damaged, words in (
        (b"", "an empty file"),
        (octets[:60], "a private key, or a damaged one"),
        (b"rubbish", "something else"),
    ):
        key.write_bytes(damaged)
        with pytest.raises(TlsConfigError) as error:
            Authority.open(state)
        assert str(error.value) == f"{key}: expected a private key in PEM, got {words}"
    key.write_bytes(octets)
    certificate.write_bytes(Authority.open(state / "other").certificate_pem)
    with pytest.raises(TlsConfigError, match="expected the key of the certificate in"):
        Authority.open(state)
    key.unlink()
    with pytest.raises(TlsConfigError, match=r"key\.pem: No such file or directory"):
        Authority.open(state)


def test_what_is_no_authority_or_none_any_more_is_refused(state: Path) -> None:
    authority_file(state / "leaf", NOW + timedelta(days=9), is_authority=False)
    with pytest.raises(TlsConfigError, match="expected the certificate of an authority"):
        Authority.open(state / "leaf")
    authority_file(state / "old", NOW - timedelta(days=9))
    with pytest.raises(TlsConfigError, match="it ended on"):
        Authority.open(state / "old")


def test_an_authority_whose_name_is_damaged_is_refused(state: Path) -> None:
    certificate = x509.load_pem_x509_certificate(Authority.open(state).certificate_pem)
    before, name, behind = certificate.public_bytes(Encoding.DER).rpartition(b"relayproxy CA")
    damaged = before + name.replace(b"CA", b"\xff\xff") + behind
    (state / "ca" / "certificate.pem").write_text(ssl.DER_cert_to_PEM_cert(damaged))
    for read in (Authority.open, Named.read):
        with pytest.raises(TlsConfigError, match=r"certificate\.pem: expected the certificate of an authority"):
            read(state)


# Leaves.


def test_a_leaf_is_for_servers_and_not_for_long(state: Path) -> None:
    authority = Authority.open(state)
    leaf, key = authority.leaf(FALLBACK)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["relay.example.test", "mx.example.test"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_before_utc <= NOW - timedelta(hours=23)
    assert timedelta(days=396) < leaf.not_valid_after_utc - leaf.not_valid_before_utc < timedelta(days=397)
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate_pem))
    other, other_key = authority.leaf(["other.test"])
    assert other_key is key
    assert other.serial_number != leaf.serial_number
    assert key.private_numbers() != _key_of(state).private_numbers()


def _key_of(state: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key((state / "ca" / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def test_a_leaf_does_not_outlive_its_authority(state: Path) -> None:
    ends = (NOW + timedelta(days=9)).replace(microsecond=0)
    authority_file(state, ends)
    authority = Authority.open(state)
    leaf, _ = authority.leaf(["a.test"])
    assert leaf.not_valid_after_utc == ends
    assert authority.leaf(["a.test"])[0] is leaf


def test_leaves_are_kept_and_few(state: Path) -> None:
    authority = Authority.open(state)
    first, second = authority.leaf(["first.test"])[0], authority.leaf(["second.test"])[0]
    for number in range(LEAVES - 2):
        authority.leaf([f"{number}.test"])
    assert authority.leaf(["first.test"])[0] is first
    authority.leaf(["one.more.test"])
    assert authority.leaf(["first.test"])[0] is first
    assert authority.leaf(["second.test"])[0] is not second


def test_a_leaf_is_made_anew_where_the_clock_is_set_back(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Back(datetime):
        days = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(days=cls.days)

    authority_file(state, NOW + timedelta(days=1000))
    authority = Authority.open(state)
    first, _ = authority.leaf(["a.test"])
    monkeypatch.setattr("relayproxy.tls.authority.datetime", Back)
    assert authority.leaf(["a.test"])[0] is first
    Back.days = 10
    again, _ = authority.leaf(["a.test"])
    assert again.not_valid_before_utc < NOW - timedelta(days=10)
    assert authority.leaf(["a.test"])[0] is again
    Back.days = 200  # when there was no authority
    assert authority.leaf(["a.test"])[0] is authority.leaf(["a.test"])[0]


def test_a_name_that_is_too_long_for_a_subject_stands_beside_it(state: Path) -> None:
    name = "x" * 60 + ".example.test"
    leaf, _ = Authority.open(state).leaf([name])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.DNSName) == [name]
    assert not list(leaf.subject)


def test_a_name_that_is_none_is_told(state: Path) -> None:
    with pytest.raises(TlsConfigError, match=r"expected a host name in ASCII or an address, got 'bücher\.test'"):
        Authority.open(state).leaf(["bücher.test"])


# What clients are shown.


def minted(authority: Authority) -> ServerTls:
    return ServerTls.minted(authority, FALLBACK, client_ca=None, minimum="TLSv1.2", keylog=None)


def believing(authority: Authority, tmp_path: Path, verify: str = "full") -> ClientTls:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.certificate_pem)
    return ClientTls(verify=verify, ca=path, certificate=None, key=None, minimum="TLSv1.2", keylog=None)


@pytest.mark.parametrize(("host", "names"), [
    ("mx.example.test", FALLBACK),  # one of those anyway
    ("mail.other.test", ("mail.other.test",)), ("MAIL.other.test", ("mail.other.test",)), ("x_y.test", ("x_y.test",)),
    ("192.0.2.1", FALLBACK),  # no name is asked for
])  # fmt: skip
async def test_the_name_that_a_client_asks_for_is_shown(
    state: Path, tmp_path: Path, host: str, names: tuple[str, ...]
) -> None:
    authority = Authority.open(state)
    _, stream = await handshake(minted(authority), believing(authority, tmp_path), host=host)
    assert stream.facts.verified
    assert stream.facts.certificate is not None
    assert stream.facts.certificate.names == names


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_without_a_name_the_fallback_is_shown(state: Path, tmp_path: Path, version: int) -> None:
    authority = Authority.open(state)
    server = minted(authority)
    server._context.set_max_proto_version(version)
    ours, stream = await handshake(server, believing(authority, tmp_path, "ca"), host="192.0.2.99")
    assert ours.facts.sni is None
    assert stream.facts.certificate is not None
    assert stream.facts.certificate.names == FALLBACK


@pytest.mark.parametrize("asked", [b"-.test", b"a..test", b"*.test", b"a b.test", b"a.test/x", b"\xff\xfe", b"x" * 64])
async def test_a_name_that_cannot_be_one_gets_the_fallback(state: Path, asked: bytes) -> None:
    authority = Authority.open(state)
    certificate = await shown(minted(authority), asked)
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    ) == list(FALLBACK[:2])


async def shown(server: ServerTls, asked: bytes) -> x509.Certificate:
    """The certificate that one sees who asks for a name, whatever it is."""
    one, other = memory_pair()
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    connection.set_connect_state()
    connection.set_tlsext_host_name(asked)

    async def accept() -> None:
        await server.accept(one, seconds=10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        while True:
            try:
                connection.do_handshake()
            except SSL.WantReadError:
                await other.send_all(connection.bio_read(65536))
                connection.bio_write(await other.receive_some())
            else:
                break
        await other.send_all(connection.bio_read(65536))
    certificate = connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate


async def test_a_certificate_that_cannot_be_made_is_told_and_no_session(state: Path, tmp_path: Path) -> None:
    authority = Authority.open(state)
    server, client = minted(authority), believing(authority, tmp_path)
    ended = x509.load_pem_x509_certificate(authority.certificate_pem).not_valid_before_utc
    authority._certificate = Ended(ended)  # type: ignore[assignment]
    one, other = memory_pair()

    async def accept() -> None:
        with pytest.raises(TlsFailure, match=r"no certificate could be made: the authority .* ended on"):
            await server.accept(one, seconds=10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(TlsFailure, match="alert: handshake failure"):
            await client.connect(other, host="new.test", seconds=10)


class Ended:
    """The end of an authority's life, ten years early."""

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ended")])

    def __init__(self, end: datetime) -> None:
        self.not_valid_before_utc, self.not_valid_after_utc = NOW, end
