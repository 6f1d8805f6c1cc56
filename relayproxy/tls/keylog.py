"""The secrets of the sessions in a file, for those who look at the traffic (SSLKEYLOGFILE, as Wireshark reads it).

It is the one place where a secret is written (DESIGN §9.6), so the file is ours alone, and a file that others can read is refused.
Invariant: a file that cannot be written harms no session; it is told once, until it can be written again.
"""

from __future__ import annotations

import os
import stat
import weakref
from typing import TYPE_CHECKING

from relayproxy.tls.facts import TlsConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class KeyLog:
    """A file that lines are added to. It stays open while a context knows it: one that is replaced may still have handshakes."""

    __slots__ = ("__weakref__", "_descriptor", "_failed", "_tell", "path")

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        """Make the file, or go on with it; `tell` hears why a line could not be written. Raises TlsConfigError."""
        self.path = path
        self._tell = tell
        self._failed = False
        try:
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600
            )
        except OSError as error:
            raise TlsConfigError(f"{path}: cannot be written: {error.strerror}") from None
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise TlsConfigError(f"{path}: expected a regular file for the keys")
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise TlsConfigError(
                f"{path}: expected a file of ours that nobody else can read (chmod 600), got mode {stat.S_IMODE(status.st_mode):04o} of user {status.st_uid}"
            )

    def write(self, line: bytes) -> None:
        """Add a line, in one write."""
        try:
            os.write(self._descriptor, line + b"\n")
        except OSError as error:
            if not self._failed:
                self._tell(f"{self.path}: {error.strerror}")
            self._failed = True
        else:
            self._failed = False
