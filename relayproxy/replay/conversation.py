"""Which recorded answer a client hears: matched by command and envelope, not by the order of octets (DESIGN §8).

    conversation = converse(cassette)                 # of a connection; None: none was expected
    conversation.greeting, .hello(under_tls=False), .mail(command), .rcpt(command), .data(), .verdict(), .reset(), .close()

Theory of operation: greeting, EHLO, AUTH and what belongs to no transaction are those of the connection's recorded session. On MAIL the candidates are the transactions of its sender; each
RCPT leaves those that named it; DATA those that named just these; and each reply those that said the same. The first of them answers; what ends the transaction uses it up, and leaves alone
what would have gone on.
Invariants: pure; an answer that is None is for the server behind to give. Speaking SMTP does not belong here (mocked.py).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from relayproxy.replay.cassette import Transaction, Unexpected, in_turn, shown
from relayproxy.replay.recorded import Answer, compared, in_words, key_of, welcome, written
from relayproxy.smtp import local_replies
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.replay.cassette import Admission, Cassette, Wanted
    from relayproxy.replay.recorded import RecordedTransaction
    from relayproxy.smtp.commands import Mail, Noop, Path, Rcpt, Vrfy

#: What is answered where nothing else was recorded.
_OK: Final = {
    "MAIL": Answer(local_replies.SENDER_OK),
    "RCPT": Answer(local_replies.RECIPIENT_OK),
    "DATA": Answer(local_replies.START_MAIL),
    ".": Answer(local_replies.UNRECORDED_OK),
    "RSET": Answer(local_replies.RESET_OK),
    "NOOP": Answer(local_replies.NOOP_OK),
    "VRFY": Answer(local_replies.CANNOT_VERIFY),
    "AUTH": Answer(local_replies.AUTHENTICATED),
    "EHLO": Answer(Reply(250, (b"localhost", b"PIPELINING", b"SIZE", b"CHUNKING"))),
}
_OUT_OF_PLACE: Final = Answer(local_replies.BAD_SEQUENCE)


class Conversation:
    """One connection's. `session`: the recorded one whose own things it hears; None: there is none, or it is given back. `played`: the transactions that answered it.

    An answer that is None is for the server behind to give.
    """

    def __init__(self, cassette: Cassette, admission: Admission) -> None:
        self.session = session = admission.session
        self._is_probe = admission.is_first and session is not None and session.lets_in and session.speaks  # so far
        self.played: list[RecordedTransaction] = []
        self._cassette = cassette
        self._open: Transaction | None = None
        self._turns: Counter[tuple[str, bytes]] = Counter()
        self._closed = False

    # The session's own.

    @property
    def greeting(self) -> Answer:
        return welcome() if self.session is None else self.session.greeting

    def hello(self, *, under_tls: bool) -> Answer:
        """To EHLO or HELO: where the server had STARTTLS, what it said before that or behind it."""
        self._is_probe = False
        hellos = [] if self.session is None else self.session.hellos
        before = [one for one in hellos if one.offers_tls or not one.accepts]
        behind = [one for one in hellos if not one.offers_tls]
        if any(one.offers_tls for one in hellos):
            hellos = behind or hellos if under_tls else before
        return self._next(hellos, ("EHLO", b"TLS" if under_tls else b""))

    def login(self, mechanism: bytes) -> Answer:
        """To the end of an AUTH that has the form that it must have."""
        logins = [] if self.session is None else self.session.logins
        by_it = [answer for known, answer in logins if known == mechanism]
        return self._next(by_it or [answer for _, answer in logins], ("AUTH", mechanism))

    def asked(self, command: Noop | Vrfy) -> Answer:
        """To what belongs to no transaction."""
        self._is_probe = False
        recorded = {} if self.session is None else self.session.asked
        key = key_of(command)
        if key not in recorded:
            key = command.verb, b""
        return self._next(recorded.get(key, ()), key)

    def _next(self, answers: Sequence[Answer], key: tuple[str, bytes]) -> Answer:
        """Of these, to what is known by this verb, and by what is said with it."""
        turn = self._turns[key]
        self._turns[key] += 1
        return in_turn(answers, turn) or _OK[key[0]]

    # A transaction.

    def mail(self, command: Mail) -> Answer | None:
        self._is_probe = False
        self.reset()
        self._open = transaction = Transaction(compared(command.path), [written(command.path)], self.session)
        if self._choose() is not None:
            return transaction.hear("MAIL", (), _OK["MAIL"])
        answer = self._unexpected("MAIL", "")
        if self._cassette.otherwise == "refuse":
            self._open = None
        return answer

    def rcpt(self, command: Rcpt) -> Answer | None:
        transaction = self._open
        if transaction is None:
            return _OUT_OF_PLACE
        address = compared(command.path)
        if self._choose(lambda one: one.recipient(address) is not None, address) is not None:
            transaction.named.append(address)
            transaction.written.append(written(command.path))
            return transaction.hear("RCPT", (address,), _OK["RCPT"])
        if transaction.current is not None and transaction.current.is_refused:
            return _OUT_OF_PLACE  # said behind MAIL before its refusal could be known
        return self._unexpected("RCPT", "", command.path)

    def data(self) -> Answer | None:
        transaction = self._open
        if transaction is None:
            return _OUT_OF_PLACE
        # Where it goes on there, a message that is taken here is not there any more for the server behind.
        must_end = self._cassette.otherwise == "pass"

        named = tuple(sorted({*transaction.named}))

        def wanted(one: RecordedTransaction) -> bool:
            ends = one.verdict is not None or not (must_end and one.takes_message)
            return ends and bool(one.answers("DATA", *named))

        if self._choose(wanted) is None:
            answer = self._unexpected("DATA", "DATA")
        else:
            transaction.wants = wanted
            answer = transaction.hear("DATA", named, _OK["DATA"])
        transaction.begun = answer is not None and answer.reply is not None and answer.reply.severity == 3
        return answer

    def verdict(self) -> Answer | None:
        """On the message, whose end has come: the transaction is over."""
        if self._open is None:
            return _OUT_OF_PLACE
        chosen = self._choose(lambda one: one.verdict is not None)
        if chosen is None:
            answer = self._unexpected(".", "DATA and all of a message")
        else:
            answer = chosen.verdict
            self._use(chosen)
        self.leave()
        return answer

    def reset(self) -> Answer:
        """RSET, or what is like it: what was recorded up to there and no further is used."""
        answer = None
        if (transaction := self._open) is not None and transaction.current is not None:
            chosen = self._choose(transaction.ended_like)
            if chosen is not None:
                answer = chosen.reset
                self._use(chosen)
        self.leave()
        return answer or _OK["RSET"]

    def cut_short(self) -> None:
        """The message under way was left, or refused for itself: so one is used that came to no end either, or to a refusal."""
        if (transaction := self._open) is not None and transaction.begun:
            unended = self._choose(lambda one: one.verdict is None)
            refused = unended or self._choose(lambda one: one.verdict is not None and not one.verdict.accepts)
            if refused is not None:
                self._use(refused)
        self.leave()

    def leave(self) -> None:
        """The open transaction is none of the recording's any more: what it had chosen waits for whoever comes with it."""
        if self._open is not None:
            self._cassette.give_back(self._open)
        self._open = None

    def close(self) -> None:
        """The connection is over."""
        self.reset()
        if not self._closed:
            self._closed = True
            self._cassette.part(self.session)
        if self._is_probe and self.session is not None:
            self._cassette.take_back(self.session)
            self.session = None

    def _choose(self, wanted: Wanted = lambda _: True, recipient: str | None = None) -> RecordedTransaction | None:
        """Go on with one that is `wanted`, where one of those can be had."""
        return None if self._open is None else self._cassette.choose(self._open, wanted, recipient)

    def _use(self, transaction: RecordedTransaction) -> None:
        self._cassette.use(transaction)
        self.played.append(transaction)
        if self._open is not None:
            self._open.current = None

    def _unexpected(self, key: str, said: str, recipient: Path | None = None) -> Answer | None:
        """What is not recorded; `recipient`: the one that is named. Told once for a transaction where all is taken; where a recipient was told, what his absence brings with it is not."""
        transaction, otherwise = self._open, self._cassette.otherwise
        if otherwise == "pass" or transaction is None:
            return None
        if otherwise == "take" and transaction.current is None and key != "MAIL":
            return _OK[key]
        paths = [] if recipient is None else [recipient]
        named = [*transaction.named, *map(compared, paths)]
        played = self._cassette.played_already(transaction, named, whole=key in ("DATA", "."))
        whole = in_words([transaction.sender, *named], said)
        nearest = None if played else self._cassette.nearest(whole, transaction)
        if not transaction.told or key == "RCPT":
            came = in_words([*transaction.written, *map(written, paths)], said)
            self._cassette.tell(Unexpected(shown(came), played or nearest))
        transaction.told |= key == "RCPT"
        if otherwise == "refuse":
            return Answer(local_replies.not_recorded(nearest))
        self._cassette.give_back(transaction)
        transaction.lost = True
        return _OK[key]


def converse(cassette: Cassette) -> Conversation | None:
    """With a new connection; None: nothing is left for it, which is told, or it is for the server behind."""
    admission = cassette.admit()
    if admission.is_let_in:
        return Conversation(cassette, admission)
    if cassette.otherwise == "refuse":
        cassette.tell(Unexpected("a connection", cassette.played_up()))
    return None
