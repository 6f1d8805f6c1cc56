"""Names for sessions, transactions and this installation.

Ids are ULIDs: 48 bits of milliseconds and 80 more in Crockford's base 32, 26 characters, sorted by time, and made here only, never of
anything that a peer said (attack 25). They are names, not secrets: of the 80 bits 50 are chance, once a process, and 30 count.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
#: A thousand million ids before the count begins anew: no millisecond is that long.
_COUNTS = (1 << 30) - 1


class Ids:
    """A source of ULIDs: the millisecond, ten characters that are this source's own, six that count."""

    def __init__(self) -> None:
        self._millisecond = 0
        self._front = ""
        self._own = "".join(secrets.choice(_DIGITS) for _ in range(10))
        self._count = secrets.randbits(20)

    def new(self) -> str:
        # Where the clock was set back the old millisecond goes on: order matters more than the exact time.
        millisecond = time.time_ns() // 1_000_000
        if millisecond > self._millisecond:
            self._millisecond = millisecond
            self._front = _digits(millisecond, 5) + self._own
        self._count = (self._count + 1) & _COUNTS
        return self._front + _digits(self._count, 3)


def _digits(value: int, pairs: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(10 * pairs - 10, -1, -10)])


def instance(state: Path) -> str:
    """The installation's name in Received fields, made at the first start and kept under `state`. Raises OSError."""
    path = state / "instance"
    try:
        name = path.read_text("ascii").strip()
    except FileNotFoundError:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = "".join(secrets.choice(_DIGITS) for _ in range(10)).lower()
        path.write_text(name + "\n", "ascii")
    except UnicodeDecodeError:
        name = ""
    if not name.isalnum():
        raise OSError(f"{path}: expected letters and digits, found something else; remove the file and start again")
    return name
