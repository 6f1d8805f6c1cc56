"""A certificate authority of the installation's own, and the certificates that it signs for whatever name a client asks for (attack 26).

It lives in `ca` in the state folder: key.pem (0600) and certificate.pem, in a folder that is ours alone (0700). Both are made at once, in a
folder that then gets its name: a crash leaves none or both, and of two processes that start together one finds what the other made.
Invariants: the key is never shown, and refused where others can get at it; a leaf is for servers only, for at most 397 days (browsers
and Apple's systems take no more), and never beyond the authority's own end; leaves are few (an LRU) and have one key, of this process.
Who is shown which leaf does not belong here (contexts.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tempfile
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from relayproxy.record.state import unusable
from relayproxy.tls.certificates import digest_of
from relayproxy.tls.facts import TlsConfigError
from relayproxy.tls.files import check_pair, key_of, read_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FOLDER: Final = "ca"
KEY: Final = "key.pem"
CERTIFICATE: Final = "certificate.pem"

#: How long the authority lives.
LIFE: Final = timedelta(days=3650)
#: How long a leaf lives, both ends included.
LEAF_LIFE: Final = timedelta(days=397) - timedelta(seconds=1)
#: A leaf that ends sooner is made anew, where the authority lives longer.
RENEWAL: Final = timedelta(days=30)
#: What we make is valid a day ago already: clocks of clients go wrong.
SKEW: Final = timedelta(days=1)
#: Leaves that are kept.
LEAVES: Final = 256

_COMMON_NAME_LENGTH: Final = 64  # RFC 5280's ub-common-name


class Named:
    """What may be known of an authority, whoever asks."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._certificate = certificate

    @classmethod
    def read(cls, state: Path) -> Named:
        """Of the authority of a state folder, whosever it is: its key is looked at, and not read. Raises TlsConfigError."""
        folder = state / FOLDER
        try:
            _check(folder, os.lstat(folder), stat.S_ISDIR, "a folder", 0o700)
            _check(folder / KEY, os.lstat(folder / KEY), stat.S_ISREG, "a file", 0o600)
        except OSError as error:
            raise TlsConfigError(f"{error.filename or folder}: {error.strerror}") from None
        return cls(_certificate_in(folder))

    @property
    def certificate_pem(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def subject(self) -> str:
        return self._certificate.subject.rfc4514_string()

    @property
    def digest(self) -> str:
        """SHA-256 of its certificate's DER form, in hexadecimal."""
        return digest_of(self._certificate)

    @property
    def not_after(self) -> datetime:
        return self._certificate.not_valid_after_utc


class Authority(Named):
    """It signs leaves."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__(certificate)
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaves: OrderedDict[tuple[str, ...], x509.Certificate] = OrderedDict()
        self._key_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())

    @classmethod
    def open(cls, state: Path) -> Authority:
        """The authority of a state folder, made where there is none. Raises TlsConfigError."""
        folder = state / FOLDER
        try:
            if not os.path.lexists(folder):
                _made(state, folder)
            _check(folder, os.lstat(folder), stat.S_ISDIR, "a folder", 0o700, owner=os.geteuid())
            octets = _read_private(folder / KEY)
        except OSError as error:
            raise TlsConfigError(f"{error.filename or folder}: {error.strerror}") from None
        certificate = _certificate_in(folder)
        key = key_of(octets, folder / KEY)
        check_pair(certificate, folder / CERTIFICATE, key, folder / KEY)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TlsConfigError(f"{folder / KEY}: expected a key on an elliptic curve, got {type(key).__name__}")
        return cls(certificate, key)

    def leaf(self, names: Sequence[str]) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A certificate for names and addresses, one at least, and its key. Raises TlsConfigError."""
        wanted = tuple(names)
        now = datetime.now(UTC)
        begins, ends = max(now, self._certificate.not_valid_before_utc), min(now + RENEWAL, self.not_after)
        leaf = self._leaves.get(wanted)
        if leaf is None or leaf.not_valid_before_utc > begins or leaf.not_valid_after_utc < ends:
            leaf = self._leaves[wanted] = self._sign(wanted, now)
            if len(self._leaves) > LEAVES:
                self._leaves.popitem(last=False)
        self._leaves.move_to_end(wanted)
        return leaf, self._leaf_key

    def _sign(self, names: tuple[str, ...], now: datetime) -> x509.Certificate:
        if now > self.not_after:
            raise TlsConfigError(f"the authority {self.subject} ended on {self.not_after:%Y-%m-%d}")
        start = max(now - SKEW, self._certificate.not_valid_before_utc)
        # A name that is too long for a subject stands in the extension alone, which is then critical (RFC 5280 §4.2.1.6).
        fits = len(names[0]) <= _COMMON_NAME_LENGTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])] if fits else [])
        builder = _builder(subject, self._certificate.subject, self._leaf_key.public_key(), start)
        builder = builder.not_valid_after(min(start + LEAF_LIFE, self.not_after))
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=not fits)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(self._key_identifier, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise TlsConfigError(f"expected a host name in ASCII or an address, got {name!r}") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _made(state: Path, folder: Path) -> None:
    """A new one, or that of another process that was quicker. Raises TlsConfigError."""
    try:
        _make(state, folder)
    except OSError as error:
        raise TlsConfigError(unusable(state, error)) from None


def _make(state: Path, folder: Path) -> None:
    """Make a new authority, unless another process is quicker."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = _self_signed(key).public_bytes(Encoding.PEM)
    unnamed = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=state))
    try:
        unnamed.chmod(0o700)
        _write(unnamed / KEY, private, 0o600)
        _write(unnamed / CERTIFICATE, public, 0o644)
        _sync(unnamed)
        unnamed.rename(folder)  # not onto a folder that holds something
        _sync(state)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unnamed, ignore_errors=True)


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two installations on machines of one name must not be taken for each other in a trust store.
    name = f"relayproxy CA {socket.gethostname()[:32]} {identifier.digest[:4].hex()}"
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "relayproxy"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    start = datetime.now(UTC) - SKEW
    builder = _builder(subject, subject, key.public_key(), start).not_valid_after(start + LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _write(path: Path, octets: bytes, mode: int) -> None:
    """Write a new file, durably, with this mode whatever the umask is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(octets)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TlsConfigError(f"{path}: expected a file, got a symbolic link") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor), stat.S_ISREG, "a file", 0o600, owner=os.geteuid())
        return file.read()


def _check(
    path: Path,
    status: os.stat_result,
    is_kind: Callable[[int], bool],
    kind: str,
    mode: int,
    *,
    owner: int | None = None,
) -> None:
    """That a file or folder is one, and nobody's business but its owner's; and whose that is, where it has to be this one."""
    if not is_kind(status.st_mode):
        got = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "something else"
        raise TlsConfigError(f"{path}: expected {kind}, got {got}")
    if owner is not None and status.st_uid != owner:
        raise TlsConfigError(f"{path}: expected {kind} of user {owner}, who runs this, got one of user {status.st_uid}")
    if status.st_mode & 0o077:
        raise TlsConfigError(
            f"{path}: expected {kind} that nobody else can get at (chmod {mode:o}), got mode {stat.S_IMODE(status.st_mode):04o}"
        )


def _certificate_in(folder: Path) -> x509.Certificate:
    path = folder / CERTIFICATE
    certificate = read_certificates(path)[0]
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_authority = constraints.ca and len(certificate.subject) > 0  # RFC 5280 §4.1.2.6; and it can be read
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        is_authority = False
    if not is_authority:
        raise TlsConfigError(f"{path}: expected the certificate of an authority, got one that may not sign others")
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise TlsConfigError(
            f"{path}: it ended on {certificate.not_valid_after_utc:%Y-%m-%d}; move the folder away to have a new one made"
        )
    return certificate
