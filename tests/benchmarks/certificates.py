"""The certificates of one run: an authority of its own, and a server certificate for 127.0.0.1 that it signed.

Their keys are of the curve P-256, as those of most servers are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Certificates(NamedTuple):
    """Files, all PEM."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """New ones, written into the folder."""
        made = cls(folder / "certificate.pem", folder / "key.pem", folder / "authority.pem")
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        server = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
        authority.cert_pem.write_to_path(made.authority)
        server.cert_chain_pems[0].write_to_path(made.certificate)
        server.private_key_pem.write_to_path(made.key)
        return made
