"""Which recorded transaction is most like what a client said: for people who look for what differs.

Theory of operation: words that both have are like each other; of all others characters are compared, in full only for those that promise most.
Invariants: pure, and bounded in time, as it is done while a client waits. Of which it is the nearest does not belong here (cassette.py).
"""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from heapq import nlargest
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.replay.recorded import RecordedTransaction

#: Transactions that are compared in full.
_COMPARED: Final = 10
#: Characters that are compared at most, of what two do not have in common.
_CHARACTERS: Final = 400


class _Pair(NamedTuple):
    """`shared`: characters of words that both have; `others`: of those that either has alone; `matcher`: of what is said in these."""

    one: RecordedTransaction
    shared: int
    others: int
    matcher: SequenceMatcher[str]

    def likeness(self, ratio: float) -> float:
        """0 to 1, as SequenceMatcher's ratio; that of what is not shared is known."""
        whole = 2 * self.shared + self.others
        return (2 * self.shared + ratio * self.others) / whole if whole else 1.0

    @property
    def promise(self) -> float:
        return self.likeness(self.matcher.quick_ratio())


def most_like(said: str, among: Sequence[RecordedTransaction]) -> RecordedTransaction | None:
    """The first of those that are."""
    words = Counter(said.split(" "))
    promising = nlargest(_COMPARED, [_pair(words, one) for one in among], key=lambda pair: pair.promise)
    best = max(promising, key=lambda pair: pair.likeness(pair.matcher.ratio()), default=None)
    return None if best is None else best.one


def _pair(words: Counter[str], one: RecordedTransaction) -> _Pair:
    recorded = Counter(one.said.split(" "))
    shared = words & recorded
    said, known = (" ".join((all_ - shared).elements()) for all_ in (words, recorded))
    matcher = SequenceMatcher(None, known[:_CHARACTERS], said[:_CHARACTERS], autojunk=False)
    return _Pair(one, sum(map(len, shared.elements())), len(said) + len(known), matcher)
