"""Recorded sessions to be played by a server in their place, and what of them is used (DESIGN §8).

    cassette = Cassette([recorded_of(script), ...])
    conversation = converse(cassette)                 # of a connection (conversation.py)
    cassette.unexpected, cassette.unused, cassette.failed(strict=True)

Theory of operation: a connection has the next recorded session that is not used up for its own. Transactions are taken from all of them, so that a client which shares connections
otherwise still finds its own, in the order in which they were recorded: so "refused, then accepted" is what happens to a client that tries twice. While one answers it is held, for no other
connection. Where used ones may answer again (`repeats`) they come last, the latest of them first.
What is in none is unexpected, and `otherwise` says what becomes of it: refused, or taken as by a server that is glad of it, or passed to the server behind.
Invariants: pure; nothing is used twice unless it `repeats`. What a recording means does not belong here (recorded.py), nor which answer follows which (conversation.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from relayproxy.record.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from relayproxy.replay.recorded import RecordedSession, RecordedTransaction

#: Of what is unexpected, so much is remembered; and of what is recorded so much is looked at to find what is nearest to it.
MOST_REMEMBERED: Final = 1000
_LOOKED_AT: Final = 200
#: Characters of a transaction that are told.
_QUOTED: Final = 300

#: Behind what is recorded and was used.
_PLAYED: Final = "played already (--repeats, repeats=True: it answers again)"

#: What becomes of what was not recorded.
Otherwise = Literal["refuse", "take", "pass"]


@dataclass(frozen=True, slots=True)
class Unexpected:
    """`said`: what the client said, with what it belongs to; `nearest`: what was recorded that is most like it."""

    said: str
    nearest: str | None = None

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"unexpected: {self.said}"
        yield f"  recorded: {self.nearest or 'nothing that is left'}"


@dataclass(slots=True, eq=False)
class Transaction:
    """The one that is open in a connection. `candidates`: those that fit so far; `current`: of these the one that answers; None: it is none of the recording's."""

    sender: str
    candidates: list[RecordedTransaction]
    current: RecordedTransaction | None = None
    named: list[str] = field(default_factory=list)
    turns: Counter[str] = field(default_factory=Counter)
    begun: bool = False  # DATA was answered 354
    told: bool = False  # one of its recipients was, as unexpected: what follows of that is nothing new

    @property
    def said(self) -> str:
        return " ".join([f"MAIL FROM:<{self.sender}>", *[f"RCPT TO:<{one}>" for one in self.named]])

    def is_named_by(self, recorded: RecordedTransaction) -> bool:
        """Whether those are its recipients, all of them and no others."""
        found = [recorded.recipient(one) for one in self.named]
        return all(known.unasked or any(one is known for one in found) for known in recorded.recipients)

    def ended_like(self, recorded: RecordedTransaction) -> bool:
        """Whether that one came no further than this has."""
        if self.begun:
            return recorded.takes_message and recorded.verdict is None
        if recorded.is_refused:
            return True
        return not recorded.takes_message and self.is_named_by(recorded)


class Cassette:
    """Recorded sessions, and what of them is used. `count_unexpected`: all there were; of `unexpected`, the first."""

    def __init__(
        self,
        sessions: Iterable[RecordedSession],
        *,
        otherwise: Otherwise = "refuse",
        repeats: bool = False,
        tell: Callable[[Unexpected], None] | None = None,
    ) -> None:
        """`repeats`: what was used answers again where nothing else is left; `tell` hears at once of what is unexpected."""
        self.sessions = [*sessions]
        self.otherwise = otherwise
        self.repeats = repeats
        self.unexpected: list[Unexpected] = []
        self.count_unexpected = 0
        #: Connections and transactions that were answered from the recording.
        self.played_sessions = 0
        self.played_transactions = 0
        self._tell = tell
        self._opened: set[RecordedSession] = set()
        self._used: dict[RecordedTransaction, None] = {}  # in the order of use
        self._played: dict[str | None, list[RecordedTransaction]] = {}  # the same, by sender; None: by a pattern
        self._holders: dict[RecordedTransaction, Transaction] = {}
        self._by_sender: dict[str, dict[RecordedTransaction, None]] = {}  # in order, and soon without what is used
        self._by_pattern: dict[RecordedTransaction, None] = {}
        self._order: dict[RecordedTransaction, int] = {}
        for session in self.sessions:
            for one in session.transactions:
                self._order[one] = len(self._order)
                self._alike(one)[one] = None
        self._unasked = frozenset(one for one in self._order if one.unasked)
        self._left = len(self._order) - len(self._unasked)
        self._next = 0  # of the sessions, the first that may still be unused

    def _alike(self, one: RecordedTransaction) -> dict[RecordedTransaction, None]:
        """Those that are found as this one is."""
        return self._by_sender.setdefault(one.sender.address, {}) if one.sender.pattern is None else self._by_pattern

    # What became of it.

    @property
    def used_up(self) -> bool:
        """Whether all that is recorded was played."""
        return not self._left and self._next_session() is None

    @property
    def unused(self) -> Iterator[str]:
        """What was recorded and not played, in words, a line each."""
        for session in self.sessions:
            if session not in self._opened and self._unasked.issuperset(session.transactions):
                yield f"{session.id}: a session without a transaction"
            for one in session.transactions:
                if one not in self._used and one not in self._unasked:
                    yield f"{session.id}: {shown(one.said)}"

    def failed(self, *, strict: bool) -> bool:
        """Whether something came that was not recorded, or, where that counts, something recorded did not."""
        return (self.count_unexpected > 0 and self.otherwise == "refuse") or (strict and not self.used_up)

    # A connection.

    def admit(self) -> tuple[bool, RecordedSession | None]:
        """A new connection: whether it is let in, and the recorded session that is its own, where there is one."""
        session = self._next_session()
        if session is not None:
            self._opened.add(session)
        elif self.repeats and not self._left:
            session = next(reversed(self.sessions), None)
        elif self._left or self.otherwise == "take":
            session = next((one for one in reversed(self.sessions) if one.lets_in), None)
        self.played_sessions += session is not None
        return session is not None or self.otherwise == "take", session

    def _next_session(self) -> RecordedSession | None:
        while self._next < len(self.sessions) and not self._is_open(self.sessions[self._next]):
            self._next += 1
        return self.sessions[self._next] if self._next < len(self.sessions) else None

    def _is_open(self, session: RecordedSession) -> bool:
        """Whether a connection may still have it for its own."""
        asked = [one for one in session.transactions if one not in self._unasked]
        return session not in self._opened and (not asked or any(one not in self._used for one in asked))

    # Transactions.

    def candidates(self, sender: str, parameters: frozenset[tuple[bytes, bytes]]) -> list[RecordedTransaction]:
        """Those that began with such a MAIL, in the order in which they may answer."""
        found: Iterable[RecordedTransaction] = self._by_sender.get(sender, {})
        if self._by_pattern:
            patterns = [one for one in self._by_pattern if one.sender.is_for(sender)]
            found = sorted([*found, *patterns], key=self._order.__getitem__)
        fitting = [one for one in found if one.parameters == parameters]
        unused = [one for one in fitting if one not in self._used]
        # What no server was asked for is asked for only where the recorded relay judged otherwise than this one.
        asked = [one for one in unused if one not in self._unasked]
        if len(asked) < len(unused):
            asked += [one for one in unused if one in self._unasked]
        return asked if not self.repeats else [*asked, *reversed([one for one in fitting if one in self._used])]

    def choose(self, transaction: Transaction, candidates: list[RecordedTransaction]) -> RecordedTransaction | None:
        """Of these the one that answers from here on, for no other connection meanwhile; None, and all is as it was, where there is none."""
        before = transaction.candidates, transaction.current
        self.give_back(transaction)
        transaction.candidates = candidates
        if self._assign(transaction, set()):
            return transaction.current
        transaction.candidates, transaction.current = before
        if transaction.current is not None:
            self._holders[transaction.current] = transaction
        return None

    def _assign(self, transaction: Transaction, tried: set[RecordedTransaction]) -> bool:
        """The first that is free; else one whose holder can do with another (Kuhn's way to match): which of two that began alike is whose shows later."""
        for held in (False, True):
            for one in transaction.candidates:
                holder = self._holders.get(one)
                if one in tried or held is (holder is None) or (one in self._used and not self.repeats):
                    continue
                tried.add(one)
                if holder is None or self._assign(holder, tried):
                    transaction.current = one
                    if one not in self._used:
                        self._holders[one] = transaction
                    return True
        return False

    def give_back(self, transaction: Transaction) -> None:
        """It answers to nobody now."""
        if transaction.current is not None and self._holders.get(transaction.current) is transaction:
            del self._holders[transaction.current]
        transaction.current = None

    def use(self, recorded: RecordedTransaction) -> None:
        """It was played to its end."""
        self._holders.pop(recorded, None)
        self._left -= recorded not in self._used and recorded not in self._unasked
        if recorded not in self._used:
            self._used[recorded] = None
            sender = recorded.sender
            self._played.setdefault(sender.address if sender.pattern is None else None, []).append(recorded)
        if not self.repeats:
            self._alike(recorded).pop(recorded, None)
        self.played_transactions += 1

    def tell(self, unexpected: Unexpected) -> None:
        self.count_unexpected += 1
        if len(self.unexpected) < MOST_REMEMBERED:
            self.unexpected.append(unexpected)
        if self._tell is not None:
            self._tell(unexpected)

    def nearest(self, said: str, among: Sequence[RecordedTransaction]) -> str | None:
        """What was recorded that is most like it, of these, or of all; what is left goes before what was played, which is told."""
        left = [*islice(among or (one for one in self._order if one not in self._used), _LOOKED_AT)]
        played = [] if among else [*islice(self._used, _LOOKED_AT)]
        matcher = SequenceMatcher(b=said[:_LOOKED_AT], autojunk=False)

        def likeness(one: RecordedTransaction) -> float:
            matcher.set_seq1(one.said[:_LOOKED_AT])
            return matcher.ratio()

        if (found := max([*left, *played], key=likeness, default=None)) is None:
            return None
        return f"{shown(found.said)}, {_PLAYED}" if found in self._used else shown(found.said)

    def played_already(self, transaction: Transaction, address: str | None, *, whole: bool) -> str | None:
        """Where what came, with this recipient, is recorded and was used: so, and how often. `whole`: it names no others."""
        named = [*transaction.named, *([] if address is None else [address])]
        found = [
            one
            for one in [*self._played.get(transaction.sender, ()), *self._played.get(None, ())]
            if one.sender.is_for(transaction.sender)
            and all(one.recipient(each) for each in named)
            and (not whole or transaction.is_named_by(one))
        ]
        if not found:
            return None
        first = min(found, key=self._order.__getitem__)
        times = sum(one.said == first.said for one in found)
        what = "the same" if len(first.recipients) == len(named) else shown(first.said)
        return f"{what}, {times} time{'' if times == 1 else 's'}, and {_PLAYED}"

    def played_up(self) -> str | None:
        """What there was for connections, where none is left."""
        if not (number := len(self.sessions)):
            return None
        return f"{number} session{'' if number == 1 else 's'}, {_PLAYED}"


def shown(said: str) -> str:
    return printable(said if len(said) <= _QUOTED else said[:_QUOTED] + "...")
