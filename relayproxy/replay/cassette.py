"""Recorded sessions to be played by a server in their place, and what of them is used (DESIGN §8).

    cassette = Cassette([recorded_of(script), ...])
    conversation = converse(cassette)                 # of a connection (conversation.py)
    cassette.unexpected, cassette.unused, cassette.failed(strict=True)

Theory of operation: a connection has the next recorded session that is not used up for its own. Transactions are taken from all of them, so that a client which shares connections
otherwise still finds its own, in the order in which they were recorded: so "refused, then accepted" is what happens to a client that tries twice. But what another open connection has for its
own is left to it, where this one's own session has what fits as well and another envelope. While one answers it is held, for no other connection; where a client goes on as that one does
not, another answers that said the same so far. Where used ones may answer again (`repeats`) they come last, the latest of them first.
Invariants: pure; nothing is used twice unless it `repeats`; nobody hears of a transaction what no single recording says. What a recording means does not belong here (recorded.py), nor how
one is found (shelf.py), nor which answer follows which (conversation.py).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from relayproxy.record.text import printable
from relayproxy.replay.likeness import most_like
from relayproxy.replay.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from relayproxy.replay.recorded import Answer, RecordedSession, RecordedTransaction

    Wanted = Callable[[RecordedTransaction], bool]

#: Of what is unexpected, so much is remembered.
MOST_REMEMBERED: Final = 1000
#: Of what is recorded, so much is looked at to find what is nearest to it.
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
    """The one that is open in a connection. `written`: its sender, and behind it those who are `named`, as the client said them; `own`: the connection's session; `current`: the recorded one that answers; None: it is none of the recording's."""

    sender: str
    written: list[str]
    own: RecordedSession | None = None
    current: RecordedTransaction | None = None
    named: list[str] = field(default_factory=list)
    heard: list[tuple[str, tuple[str, ...], int, int | None]] = field(
        default_factory=list
    )  # verb, recipients, which time, code
    turns: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    wants: Wanted | None = None  # what DATA asked for besides
    begun: bool = False  # DATA was answered 354
    lost: bool = False  # no recording has it
    told: bool = False  # one of its recipients was, as unexpected: what follows of that is nothing new

    def hear(self, verb: str, addresses: tuple[str, ...], otherwise: Answer) -> Answer:
        """The next that the current one has to it, and to these recipients with it; `otherwise`: where it has none."""
        answers = () if self.current is None else self.current.answers(verb, *addresses)
        turn = self.turns[verb, addresses]
        self.turns[verb, addresses] += 1
        answer = in_turn(answers, turn) or otherwise
        self.heard.append((verb, addresses, turn, _code(answer)))
        return answer

    @property
    def state(self) -> tuple[object, ...]:
        """What decides what fits, as long as it is held."""
        return self.sender, tuple(self.heard)

    def fits(self, recorded: RecordedTransaction) -> bool:
        """Whether that one began like this, and said the same so far, in so far as it is known."""
        if self.lost or (self.wants is not None and not self.wants(recorded)):
            return False
        for verb, addresses, turn, code in self.heard:
            if verb == "RCPT" and recorded.recipient(*addresses) is None:
                return False
            known = in_turn(recorded.answers(verb, *addresses), turn)
            if known is not None and _code(known) != code:
                return False
        return True

    def is_named_by(self, recorded: RecordedTransaction) -> bool:
        """Whether those are its recipients, all of them and no others."""
        found = {known.address for one in self.named if (known := recorded.recipient(one)) is not None}
        return all(address in found or known.unasked for address, known in recorded.recipients.items())

    def ended_like(self, recorded: RecordedTransaction) -> bool:
        """Whether that one came no further than this has."""
        if self.begun:
            return recorded.takes_message and recorded.verdict is None
        if recorded.is_refused:
            return True
        return not recorded.takes_message and self.is_named_by(recorded)


class Admission(NamedTuple):
    """Whether a connection is let in, and the recorded session that is its own, where there is one; whether it is the first that has it."""

    is_let_in: bool
    session: RecordedSession | None
    is_first: bool


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
        self._connected: Counter[RecordedSession] = Counter()  # open connections, by the session that is their own
        self._shelf = Shelf(self.sessions, repeats=repeats)
        # In the order of use, by sender; None: by a pattern.
        self._played: dict[str | None, list[RecordedTransaction]] = {}
        self._holders: dict[RecordedTransaction, Transaction] = {}
        self._next = 0  # of the sessions, the first that may still be unused

    # What became of it.

    @property
    def used_up(self) -> bool:
        """Whether all that is recorded was played."""
        return not self._shelf.left and self._next_session() is None

    @property
    def unused(self) -> Iterator[str]:
        """What was recorded and not played, in words, a line each."""
        for session in self.sessions:
            if session not in self._opened and self._shelf.unasked.issuperset(session.transactions):
                yield f"{session.id}: a session without a transaction"
            for one in session.transactions:
                if one not in self._shelf.used and one not in self._shelf.unasked:
                    yield f"{session.id}: {shown(one.written)}"

    def failed(self, *, strict: bool) -> bool:
        """Whether something came that was not recorded, or, where that counts, something recorded did not."""
        return (self.count_unexpected > 0 and self.otherwise == "refuse") or (strict and not self.used_up)

    # A connection.

    def admit(self) -> Admission:
        """A new connection."""
        session = first = self._next_session()
        if session is not None:
            self._opened.add(session)
        elif self.repeats and not self._shelf.left:
            session = next(reversed(self.sessions), None)
        elif self._shelf.left or self.otherwise == "take":
            session = next((one for one in reversed(self.sessions) if one.lets_in), None)
        if session is not None:
            self.played_sessions += 1
            self._connected[session] += 1
        return Admission(session is not None or self.otherwise == "take", session, is_first=first is not None)

    def take_back(self, session: RecordedSession) -> None:
        """Its first connection said nothing, as that of a probe: the session waits for one that does."""
        self._opened.discard(session)
        self._next = 0
        self.played_sessions -= 1

    def part(self, session: RecordedSession | None) -> None:
        """A connection whose own this was has ended."""
        if session is not None:
            self._connected[session] -= 1

    def _next_session(self) -> RecordedSession | None:
        while self._next < len(self.sessions) and not self._is_open(self.sessions[self._next]):
            self._next += 1
        return self.sessions[self._next] if self._next < len(self.sessions) else None

    def _is_open(self, session: RecordedSession) -> bool:
        """Whether a connection may still have it for its own."""
        asked = [one for one in session.transactions if one not in self._shelf.unasked]
        return session not in self._opened and (not asked or any(one not in self._shelf.used for one in asked))

    # Transactions.

    def choose(
        self, transaction: Transaction, wanted: Wanted = lambda _: True, recipient: str | None = None
    ) -> RecordedTransaction | None:
        """What answers from here on, for no other connection meanwhile: of what fits so far one that is `wanted`, and has this recipient too; None, and all is as it was, where there is none.

        What answered before goes on to if it can.
        """
        before = transaction.current
        if before is not None and wanted(before):
            return before
        self.give_back(transaction)
        recipients = [*transaction.named, *([] if recipient is None else [recipient])]
        if (free := self._free(transaction, recipients, wanted)) is not None:
            self._hold(transaction, free)
        elif not self._make_room(transaction, recipients, wanted):
            if before is not None:
                self._hold(transaction, before)
            return None
        return transaction.current

    def fitting(self, transaction: Transaction) -> Iterator[RecordedTransaction]:
        """All that fit so far, held or not, in the order in which they may answer."""
        return (one for one in self._shelf.found(transaction.sender, transaction.named) if transaction.fits(one))

    def _free(self, transaction: Transaction, recipients: list[str], wanted: Wanted) -> RecordedTransaction | None:
        """The first that nobody holds; but what is another open connection's own is left to it for another envelope of this one's own."""

        def first(whose: RecordedSession | None) -> RecordedTransaction | None:
            for one in self._shelf.found(transaction.sender, recipients, whose):
                if one not in self._holders and transaction.fits(one) and wanted(one):
                    return one
            return None

        found, own, owner = first(None), transaction.own, self._shelf.owner
        if found is None or own is None or owner[found] is own or not self._connected[owner[found]]:
            return found
        ours = first(own)
        if ours is None or ours in self._shelf.used or ours.recipients.keys() == found.recipients.keys():
            return found
        return ours

    def _make_room(self, transaction: Transaction, recipients: list[str], wanted: Wanted) -> bool:
        """Have others go on with what they can do with as well, until one is free (Kuhn's way to match): which of two that began alike is whose shows later."""
        asked: dict[RecordedTransaction, Transaction] = {}  # and who asked for it
        asking = deque([transaction])
        states = set()  # of two that are in the same state, the second can do with no more
        while asking:
            who = asking.popleft()
            named = recipients if who is transaction else who.named
            for one in self._shelf.found(who.sender, named):
                if one in asked or not who.fits(one) or (who is transaction and not wanted(one)):
                    continue
                asked[one] = who
                if (holder := self._holders.get(one)) is not None:
                    if holder.state not in states:
                        states.add(holder.state)
                        asking.append(holder)
                    continue
                move: RecordedTransaction | None = one
                while move is not None:
                    who = asked[move]
                    before, who.current = who.current, None
                    self._hold(who, move)
                    move = before
                return True
        return False

    def _hold(self, transaction: Transaction, recorded: RecordedTransaction) -> None:
        transaction.current = recorded
        if recorded not in self._shelf.used:
            self._holders[recorded] = transaction

    def give_back(self, transaction: Transaction) -> None:
        """It answers to nobody now."""
        if transaction.current is not None and self._holders.get(transaction.current) is transaction:
            del self._holders[transaction.current]
        transaction.current = None

    def use(self, recorded: RecordedTransaction) -> None:
        """It was played to its end."""
        self._holders.pop(recorded, None)
        if recorded not in self._shelf.used:
            self._shelf.use(recorded)
            sender = recorded.sender
            self._played.setdefault(sender.address if sender.pattern is None else None, []).append(recorded)
        self.played_transactions += 1

    def tell(self, unexpected: Unexpected) -> None:
        self.count_unexpected += 1
        if len(self.unexpected) < MOST_REMEMBERED:
            self.unexpected.append(unexpected)
        if self._tell is not None:
            self._tell(unexpected)

    def nearest(self, said: str, transaction: Transaction) -> str | None:
        """What was recorded that is most like it, of what fits so far, or of all; what is left goes before what was played, which is told."""
        among = [*islice(self.fitting(transaction), _LOOKED_AT)]
        used = self._shelf.used
        left = among or [*islice((one for one in self._shelf.order if one not in used), _LOOKED_AT)]
        played = [] if among else [*islice(used, _LOOKED_AT)]
        if (found := most_like(said, [*left, *played])) is None:
            return None
        return f"{shown(found.written)}, {_PLAYED}" if found in used else shown(found.written)

    def played_already(self, transaction: Transaction, named: Sequence[str], *, whole: bool) -> str | None:
        """Where what came, with these recipients, is recorded and was used: so, and how often. `whole`: it names no others."""
        found = [
            one
            for one in [*self._played.get(transaction.sender, ()), *self._played.get(None, ())]
            if one.sender.is_for(transaction.sender)
            and all(one.recipient(each) for each in named)
            and (not whole or transaction.is_named_by(one))
        ]
        if not found:
            return None
        first = min(found, key=self._shelf.order.__getitem__)
        times = sum(one.said == first.said for one in found)
        what = "the same" if len(first.recipients) == len(named) else shown(first.written)
        return f"{what}, {times} time{'' if times == 1 else 's'}, and {_PLAYED}"

    def played_up(self) -> str | None:
        """What there was for connections, where none is left."""
        if not (number := len(self.sessions)):
            return None
        return f"{number} session{'' if number == 1 else 's'}, {_PLAYED}"


def shown(said: str) -> str:
    return printable(said if len(said) <= _QUOTED else said[:_QUOTED] + "...")


def in_turn(answers: Sequence[Answer], turn: int) -> Answer | None:
    """That of them whose turn it is, from 0; behind the last, the last."""
    return answers[min(turn, len(answers) - 1)] if answers else None


def _code(answer: Answer) -> int | None:
    return None if answer.reply is None else answer.reply.code
