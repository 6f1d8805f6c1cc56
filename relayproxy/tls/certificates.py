"""What a certificate tells of itself.

Invariant: what a peer shows is never trusted to be well-formed; a name that cannot be read is no name.
Who believes which certificate does not belong here (verification.py), nor the files of our own (files.py).
"""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from relayproxy.tls.facts import CertificateFacts


@lru_cache(maxsize=256)
def facts_of(certificate: x509.Certificate) -> CertificateFacts:
    """What a record tells of a certificate. Upstreams show the same one again and again."""
    try:
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        subject = ""
    return CertificateFacts(subject, names_of(certificate), digest_of(certificate))


def digest_of(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses it is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)
