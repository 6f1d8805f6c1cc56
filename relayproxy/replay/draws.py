"""What rules cannot know by themselves, from what is recorded: chance that two rule sets share, and counts on the clock of the records (rules/facts.py `Draws`)."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

from relayproxy.relay.rulebook import Drawn


class Redrawn(Drawn):
    """Of one pass over recorded traffic, in the order of its time. Chance is a condition's and a transaction's: another rule above it makes no difference."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, lambda: self._seconds)
        self._seed = seed
        self._seconds = 0.0
        self._what = ""
        self._asked: Counter[str] = Counter()

    def begin(self, what: str, seconds: float) -> None:
        """From here on it is of this session or transaction, and of that time, in seconds since 1970."""
        self._what = what
        self._seconds = seconds
        self._asked.clear()

    def chance(self, rule: str) -> float:
        self._asked[rule] += 1
        told = f"{self._seed}\0{rule}\0{self._what}\0{self._asked[rule]}"
        return int.from_bytes(blake2b(told.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64
