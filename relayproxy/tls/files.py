"""Certificates and keys out of files.

Invariant: what is wrong with one of our own files is said in words, with the file's name and never with what it holds.
Which file is used for what does not belong here (contexts.py, authority.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from relayproxy.tls.facts import TlsConfigError

if TYPE_CHECKING:
    from pathlib import Path

#: What a private key is to be.
_KINDS: Final = "expected a key for EC, RSA or Ed25519"

PrivateKey = ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def octets_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsConfigError(f"{path}: cannot be read: {error.strerror}") from None


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, one at least."""
    octets = octets_of(path)
    try:
        return x509.load_pem_x509_certificates(octets)
    except (ValueError, x509.InvalidVersion):
        raise TlsConfigError(f"{path}: expected certificates in PEM, got {_what(octets)}") from None


def read_key(path: Path) -> PrivateKey:
    """The private key of a PEM file."""
    return key_of(octets_of(path), path)


def key_of(octets: bytes, path: Path) -> PrivateKey:
    """The private key in what a file holds."""
    try:
        key = load_pem_private_key(octets, None)
    except TypeError:
        raise TlsConfigError(f"{path}: expected a private key without a password, got one with a password") from None
    except ValueError:
        raise TlsConfigError(f"{path}: expected a private key in PEM, got {_what(octets)}") from None
    except UnsupportedAlgorithm:
        raise TlsConfigError(f"{path}: {_KINDS}, got one of a kind or on a curve that is not supported") from None
    if not isinstance(key, PrivateKey):
        raise TlsConfigError(f"{path}: {_KINDS}, got {type(key).__name__}")
    return key


def check_pair(certificate: x509.Certificate, certificate_path: Path, key: PrivateKey, key_path: Path) -> None:
    """That a key is the certificate's."""
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        what = "expected a certificate with a key that is supported, got a damaged one, or one of another kind"
        raise TlsConfigError(f"{certificate_path}: {what}") from None
    if public.public_bytes(*form) != key.public_key().public_bytes(*form):
        raise TlsConfigError(f"{key_path}: expected the key of the certificate in {certificate_path}, got another key")


def _what(octets: bytes) -> str:
    """What a file holds that is not what was looked for; never its content, which may be a secret."""
    if not octets:
        return "an empty file"
    for label, words in ((b"PRIVATE KEY-----", "a private key"), (b"BEGIN CERTIFICATE-----", "a certificate")):
        if label in octets:
            return words + ", or a damaged one"
    return "something else"
