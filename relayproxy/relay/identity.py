"""Names for sessions, transactions and this installation.

Ids are ULIDs: 48 bits of milliseconds and 80 more in Crockford's base 32, 26 characters, sorted by time, and made here only, never of
anything that a peer said (attack 25). They are names, not secrets: of the 80 bits 50 are chance, once a process, and 30 count.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from relayproxy.record.state import unusable

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
#: A thousand million ids before the count begins anew: no millisecond is that long.
_COUNTS = (1 << 30) - 1
_INSTANCE = re.compile(rb"([0-9a-z]{10})\r?\n?")
#: Octets of the instance file that are looked at.
_LONGEST = 64


class Ids:
    """A source of ULIDs: the millisecond, ten characters that are this source's own, six that count."""

    def __init__(self) -> None:
        self._next = 0  # nanoseconds at which the next millisecond begins, and with it another front
        self._front = ""
        self._own = "".join(secrets.choice(_DIGITS) for _ in range(10))
        self._count = secrets.randbits(20)

    def new(self) -> str:
        # Where the clock was set back the old millisecond goes on: order matters more than the exact time.
        now = time.time_ns()
        if now >= self._next:
            millisecond = now // 1_000_000
            self._next = (millisecond + 1) * 1_000_000
            self._front = "".join([_PAIRS[millisecond >> shift & 1023] for shift in range(40, -1, -10)]) + self._own
        count = self._count = (self._count + 1) & _COUNTS
        return self._front + _PAIRS[count >> 20] + _PAIRS[count >> 10 & 1023] + _PAIRS[count & 1023]


def new_name() -> str:
    """Of what has no other, for as long as this process is there."""
    return "".join(secrets.choice(_DIGITS) for _ in range(10)).lower()


def instance(state: Path) -> str:
    """The installation's name, made at the first start and kept under `state`. Raises OSError."""
    path = state / "instance"
    try:
        found = _read(path)
        if found is None:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _new_instance(path)
    except OSError as error:
        raise OSError(unusable(state, error)) from error
    match = _INSTANCE.fullmatch(found)
    if match is None:
        raise OSError(
            f"{path}: expected 10 characters of 0-9 and a-z, found {_shown(found)}; remove the file and start again"
        )
    return match[1].decode("ascii")


def instance_at(instance: str, hostname: str, addresses: Iterable[str]) -> str:
    """The name of what listens there, which is the same after a restart; of two relays of one installation each has its own, since they cannot share an address."""
    digest = sha256("\n".join([instance, hostname, *sorted(addresses)]).encode("utf-8", "surrogateescape")).digest()
    return "".join(_DIGITS[octet % len(_DIGITS)] for octet in digest[:10]).lower()


def _read(path: Path) -> bytes | None:
    """What is there; None: nothing."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except FileNotFoundError:
        return None


def _new_instance(path: Path) -> str:
    """Written elsewhere and put in its place whole: a crash in between leaves no half of a name to stumble over at the next start."""
    name = new_name()
    descriptor, temporary = tempfile.mkstemp(prefix=".instance-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(name.encode("ascii") + b"\n")
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    return name


def _shown(found: bytes) -> str:
    return repr(found.decode("ascii", "backslashreplace")) if found else "nothing"
