"""TLS facts as they stand in records. A leg has its facts from its handshake on, and each of its transactions tells them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from relayproxy.record.report_tls import CertificateRecord, ClientTlsRecord, UpstreamTlsRecord

if TYPE_CHECKING:
    from relayproxy.tls.facts import CertificateFacts, TlsFacts


@lru_cache(maxsize=256)  # facts are few, and told with every message
def client_record(facts: TlsFacts) -> ClientTlsRecord:
    return ClientTlsRecord(
        facts.version,
        facts.cipher,
        facts.sni,
        _certificate(facts.certificate),
        facts.verified,
        facts.why,
        facts.resumed,
    )


@lru_cache(maxsize=256)
def upstream_record(facts: TlsFacts) -> UpstreamTlsRecord:
    return UpstreamTlsRecord(
        facts.version,
        facts.cipher,
        facts.verified,
        facts.sni,
        _certificate(facts.certificate),
        facts.why,
        facts.resumed,
    )


def _certificate(facts: CertificateFacts | None) -> CertificateRecord | None:
    return None if facts is None else CertificateRecord(facts.subject, facts.names, facts.digest)
