"""Names for sessions, transactions and this installation.

Ids are ULIDs: 48 bits of milliseconds and 80 of chance in Crockford's base 32, 26 characters, sorted by time, and made here only, never
of anything that a peer said (attack 25). The chance part counts up within a millisecond, so ids of one process are in order.
"""

from __future__ import annotations

import random
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
_RANDOM_BITS = 80


class Ids:
    """A source of ULIDs."""

    def __init__(self) -> None:
        self._millisecond = 0
        self._random = 0
        # Ids are names, not secrets: chance keeps those of two processes apart, and need not cost a system call each.
        self._chance = random.Random()  # noqa: S311  seeded by the system

    def new(self) -> str:
        millisecond = time.time_ns() // 1_000_000
        if millisecond > self._millisecond:
            self._millisecond = millisecond
            self._random = self._chance.getrandbits(_RANDOM_BITS - 1)
        else:
            self._random += 1  # also where the clock was set back: order matters more than the exact time
        value = self._millisecond << _RANDOM_BITS | self._random
        return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])


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
