"""Recorded transactions in their order, found by sender and recipients without a look at all of them.

    shelf = Shelf(sessions, repeats=False)
    shelf.found("a@x.test", ["b@x.test"])             # those of this sender that may name these recipients, in the order in which they answer
    shelf.use(one)

Theory of operation: each is kept under its sender with each of its recipients, once among all and once among those of its session; of the recipients that are asked for, the one that the fewest have leads to
them. What is used is taken out, so that the first that is left is found at once. A pattern, as a dialog that was written by hand may have it, has a place of its own, and may fit or not.
Invariants: pure. What fits otherwise, and what is held, does not belong here (cassette.py).
"""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from relayproxy.replay.recorded import RecordedSession, RecordedTransaction

    #: Whose, or all; the sender, and a recipient, None where it is a pattern; "": whoever they are.
    Key = tuple[RecordedSession | None, str | None, str | None]
    Some = TypeVar("Some", dict[RecordedTransaction, None], list[RecordedTransaction])


class Shelf:
    """`order`: all of them, with their numbers; `used`: in the order of use; `unasked`: what no server was asked for; `left`: how many others are not used; `owner`: the session of each."""

    def __init__(self, sessions: Iterable[RecordedSession], *, repeats: bool) -> None:
        """`repeats`: those that were used are found too, behind the others, the latest first."""
        self.owner: dict[RecordedTransaction, RecordedSession] = {
            one: session for session in sessions for one in session.transactions
        }
        self.order: dict[RecordedTransaction, int] = {one: number for number, one in enumerate(self.owner)}
        self.used: dict[RecordedTransaction, None] = {}
        self.unasked = frozenset(one for one in self.order if one.unasked)
        self.left = len(self.order) - len(self.unasked)
        self._unused: dict[Key, dict[RecordedTransaction, None]] = {}
        self._all: dict[Key, list[RecordedTransaction]] = {}  # where they repeat
        self._repeats = repeats
        for one in self.order:
            for key in self._keys(one):
                self._unused.setdefault(key, {})[one] = None
                if repeats:
                    self._all.setdefault(key, []).append(one)

    def _keys(self, one: RecordedTransaction) -> Iterator[Key]:
        sender = None if one.sender.pattern is not None else one.sender.address
        recipients = {None if known.pattern is not None else known.address for known in one.recipients.values()}
        for whose in (None, self.owner[one]):
            for address in ("", *recipients):
                yield whose, sender, address

    def use(self, one: RecordedTransaction) -> None:
        if one in self.used:
            return
        self.used[one] = None
        self.left -= one not in self.unasked
        for key in self._keys(one):
            del self._unused[key][one]

    def found(
        self, sender: str, recipients: Sequence[str], whose: RecordedSession | None = None
    ) -> Iterator[RecordedTransaction]:
        """`whose`: of this session's alone. What no server was asked for comes last of the unused: it is asked for only where the recorded relay judged otherwise than this one."""
        unused = self._fewest(self._unused, sender, recipients, whose)
        number = self.order.__getitem__
        yield from (one for one in merge(*unused, key=number) if one not in self.unasked)
        if self.unasked:
            yield from (one for one in merge(*unused, key=number) if one in self.unasked)
        if self._repeats:
            every = self._fewest(self._all, sender, recipients, whose)
            latest = merge(*[reversed(some) for some in every], key=number, reverse=True)
            yield from (one for one in latest if one in self.used)

    @staticmethod
    def _fewest(
        places: dict[Key, Some], sender: str, recipients: Sequence[str], whose: RecordedSession | None
    ) -> list[Some]:
        """Of the recipients, one whom the fewest have: where those are."""
        found: list[list[Some]] = []
        for address in recipients or [""]:
            keys: list[Key] = [(whose, sender, address), (whose, None, address)]
            if address:
                keys += [(whose, sender, None), (whose, None, None)]
            found.append([places[key] for key in keys if key in places])
        return min(found, key=lambda some: sum(map(len, some)))
