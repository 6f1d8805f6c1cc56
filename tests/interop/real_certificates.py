"""Certificates for the real servers: an authority of the tests' own, and what it signs, as files.

The files are open to all, since each server reads them as another user; they are good for nothing else.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: good: for localhost and 127.0.0.1; the others are what a client must not take: out of date, another's, nobody's.
Kind = Literal["good", "expired", "other-name", "unknown-issuer"]
NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Files:
    """A certificate with its chain, and its key."""

    certificate: Path
    key: Path


class Certificates:
    """Whom everybody here trusts (`ca`), and certificates that are made when a test wants them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA(organization_name="tests of relayproxy")
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def server(self, kind: Kind = "good") -> Files:
        past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        issue: dict[Kind, Callable[[], trustme.LeafCert]] = {
            "good": lambda: self._authority.issue_cert(*NAMES),
            "expired": lambda: self._authority.issue_cert(
                *NAMES, not_before=past, not_after=past + dt.timedelta(days=90)
            ),
            "other-name": lambda: self._authority.issue_cert("elsewhere.test"),
            "unknown-issuer": lambda: trustme.CA().issue_cert(*NAMES),
        }
        return self._write(kind, issue[kind])

    def client(self, name: str) -> Files:
        """For who must show one."""
        return self._write(name, lambda: self._authority.issue_cert(common_name=name))

    def _write(self, name: str, issue: Callable[[], trustme.LeafCert]) -> Files:
        files = Files(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        if not files.key.exists():
            leaf = issue()
            leaf.private_key_pem.write_to_path(str(files.key))
            for pem in leaf.cert_chain_pems:
                pem.write_to_path(str(files.certificate), append=True)
        return files
