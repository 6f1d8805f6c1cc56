"""A recorded session as a server sees it: its greeting, what it answered to what is the session's own, and its transactions (DESIGN §8).

    session = recorded_of(script)                # raises ScriptError

Theory of operation: of a script's steps those that end up at a server are kept, each with its answer; what any relay says by itself to what has no place (RCPT without MAIL, a MAIL in
a transaction) is not. A transaction goes from MAIL to what ended it: the reply to the message, RSET, EHLO, or the end of the session.
Invariants: pure; mail data is not kept; no answer is one that no server could give (354 to RCPT, attack 32), nor takes longer than `LONGEST`.
Which of them answers does not belong here (cassette.py, conversation.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

from relayproxy.mail.canonical import canonical_again
from relayproxy.mail.pattern import AddressPattern, PatternError
from relayproxy.replay.script import Chunk, Message, Opening, ScriptError
from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.commands import Data, Ehlo, Helo, Mail, Noop, Rcpt, Rset, Vrfy
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relayproxy.replay.script import Ending, Script, Step
    from relayproxy.smtp.commands import Command, Path

#: Seconds that a recorded reply takes at most.
LONGEST: Final = 300.0
#: Octets of a recorded reply, as of any server's (PROTOCOL §1.13).
_MOST: Final = 64 * 1024
#: What a relay says by itself to MAIL and RCPT, for what they are.
_OURS: Final = frozenset(
    (reply.code, reply.lines)
    for reply in (
        local_replies.SYNTAX_ERROR,
        local_replies.PARAMETER_SYNTAX,
        local_replies.UNKNOWN_PARAMETER,
        local_replies.BAD_SEQUENCE,
        local_replies.LOGIN_REQUIRED,
        local_replies.MESSAGE_TOO_BIG,
        local_replies.UTF8_SENDER_REFUSED,
        local_replies.UTF8_RECIPIENT_REFUSED,
        local_replies.SYNC_VIOLATION,
    )
)
#: Replies that judge the form of a command, or that it has no place, and not who it was.
_OF_FORM: Final = frozenset({421, 500, 501, 502, 503, 504, 530, 538, 555})
#: The same of AUTH.
_OF_LOGIN: Final = frozenset({500, 501, 503, 504, 538})


@dataclass(slots=True, eq=False)
class Answer:
    """`reply` None: the server ended the connection instead. `ends`: how it ended it behind that.

    `then`: what it said to the next thing that no server is asked, being gone; `between`: so many of the like were answered before that.
    """

    reply: Reply | None
    latency: float = 0.0
    ends: Ending | None = None
    then: Reply | None = None
    between: int = 0

    @property
    def accepts(self) -> bool:
        return self.reply is not None and self.reply.severity == 2

    @property
    def offers_tls(self) -> bool:
        """Where it is to EHLO."""
        return self.reply is not None and self.accepts and b"STARTTLS" in Capabilities.parse(self.reply)

    @property
    def is_ours(self) -> bool:
        """Whether a relay says it before it asks any server."""
        return self.reply is not None and (self.reply.code, self.reply.lines) in _OURS


def welcome() -> Answer:
    """The greeting where none is recorded: to whom did not wait for it."""
    return Answer(Reply(220))


@dataclass(frozen=True, slots=True)
class Recipient:
    """`address` is canonical; one with `*` in it, as a dialog that was written by hand may have it, is a pattern. `written`: the same as it stands there."""

    address: str
    written: str
    answers: list[Answer]
    pattern: AddressPattern | None = None

    @property
    def unasked(self) -> bool:
        """Whether no server was asked for it."""
        return bool(self.answers) and all(answer.is_ours for answer in self.answers)

    def is_for(self, address: str) -> bool:
        return address == self.address if self.pattern is None else self.pattern.matches(address)


@dataclass(slots=True, eq=False)
class RecordedTransaction:
    """`recipients`: by their addresses; `data`: to each DATA, by those that were named by then; `verdict` None: it never came to the end of the message; `reset`: to the RSET that ended it."""

    session: str
    sender: Recipient
    recipients: dict[str, Recipient] = field(default_factory=dict)
    data: dict[frozenset[str], list[Answer]] = field(default_factory=dict)
    verdict: Answer | None = None
    reset: Answer | None = None

    @property
    def takes_message(self) -> bool:
        """Whether DATA was answered 354."""
        answers = chain.from_iterable(self.data.values())
        return any(answer.reply is not None and answer.reply.severity == 3 for answer in answers)

    @property
    def is_refused(self) -> bool:
        """At MAIL."""
        return any(answer.reply is not None and not answer.accepts for answer in self.sender.answers)

    @property
    def takes_recipients(self) -> bool:
        """Whether one was taken, or may have been."""
        return any(not one.answers or any(answer.accepts for answer in one.answers) for one in self.recipients.values())

    @property
    def unasked(self) -> bool:
        """Whether it was refused before any server was asked: so it may be again, and nobody knows here that it was."""
        return self.sender.unasked

    def recipient(self, address: str) -> Recipient | None:
        """The one that this canonical address is."""
        if (known := self.recipients.get(address)) is not None:
            return known
        return next((one for one in self.recipients.values() if one.pattern and one.is_for(address)), None)

    def answers(self, verb: str, *addresses: str) -> Sequence[Answer]:
        """To MAIL, to RCPT with this canonical address, or to DATA behind just these recipients; of those that no server was asked for each may be missing."""
        if verb == "MAIL":
            return self.sender.answers
        if verb == "RCPT":
            return () if (known := self.recipient(*addresses)) is None else known.answers
        found = {known.address for one in addresses if (known := self.recipient(one)) is not None}
        return [
            answer
            for named, answers in self.data.items()
            if found <= named and all(one in found or self.recipients[one].unasked for one in named)
            for answer in answers
        ]

    def take_data(self, answer: Answer) -> None:
        """To one more DATA."""
        self.data.setdefault(frozenset(self.recipients), []).append(answer)

    @property
    def said(self) -> str:
        """As it is compared."""
        return in_words([self.sender.address, *self.recipients])

    @property
    def written(self) -> str:
        """As the client said it."""
        return in_words([self.sender.written, *[one.written for one in self.recipients.values()]])


@dataclass(slots=True, eq=False)
class RecordedSession:
    """`hellos`: what EHLO was answered, and HELO where that is all there was; `asked`: what else was, by verb and argument, or by verb alone."""

    id: str
    greeting: Answer
    hellos: list[Answer]
    logins: list[tuple[bytes, Answer]]
    asked: dict[tuple[str, bytes], list[Answer]]
    transactions: list[RecordedTransaction]

    @property
    def speaks(self) -> bool:
        """Whether its client said something that is answered here."""
        return bool(self.hellos or self.asked or self.transactions)

    @property
    def lets_in(self) -> bool:
        return self.greeting.accepts


def recorded_of(script: Script) -> RecordedSession:
    """Raises ScriptError where a server could not say what its client heard."""
    return _Reading(script).read()


def written(path: Path) -> str:
    """An address as the client said it."""
    return path.address.decode("utf-8", "backslashreplace")


def compared(path: Path) -> str:
    """An address as it is compared."""
    return canonical_again(written(path))


def in_words(addresses: Sequence[str], then: str = "") -> str:
    """A transaction with this sender and these recipients, up to what was said `then`, on one line."""
    sender, *recipients = addresses
    return " ".join([f"MAIL FROM:<{sender}>", *[f"RCPT TO:<{one}>" for one in recipients], *([then] if then else [])])


class _Reading:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._last = _last_said(script)
        self._session = RecordedSession(script.id or "the dialog", welcome(), [], [], {}, [])
        self._open: RecordedTransaction | None = None
        self._greeted = False  # EHLO or HELO was accepted
        self._helos: list[Answer] = []

    def read(self) -> RecordedSession:
        before: Answer | None = None
        between = 0
        for number, step in enumerate(self._script.steps):
            answer = self._answer(number, step)
            is_asked = self._take(step, answer)
            if not is_asked and before is not None and answer is not None and _is_code(answer, 421):
                before.then, before.between = answer.reply, between
            before, between = (answer, 0) if is_asked else (before, between + 1)
            if _is_code(answer, 421):
                break  # what was said behind it was never done
        self._session.hellos = self._session.hellos or self._helos
        self._session.logins += self._logins()
        return self._session

    def _logins(self) -> Iterator[tuple[bytes, Answer]]:
        for login in self._script.logins:
            if login.reply.code not in _OF_LOGIN:
                _check(login.reply, "AUTH", (2, 4, 5))
                yield login.mechanism, Answer(login.reply, min(login.latency, LONGEST))

    def _answer(self, number: int, step: Step) -> Answer | None:
        """None: its client did not wait for one."""
        ends = self._script.ended if number == self._last else None
        if step.reply is None and ends is None:
            return None
        if step.reply is not None:
            _check(step.reply, step.said, _severities(step))
        return Answer(step.reply, min(step.latency, LONGEST), ends)

    def _take(self, step: Step, answer: Answer | None) -> bool:  # noqa: C901  a table of commands
        """Whether a server is asked."""
        transaction = self._open
        match step.what:
            case Opening():
                self._session.greeting = answer or welcome()
            case Message() | Chunk():
                return self._take_message(step.what, answer)
            case Ehlo() | Helo():
                self._open = None
                if answer is not None:
                    (self._session.hellos if isinstance(step.what, Ehlo) else self._helos).append(answer)
                    self._greeted |= answer.accepts
            case Mail():
                return self._take_mail(step.what, answer)
            case Rcpt() if transaction is not None:
                self._take_recipient(transaction, step.what, answer)
                return not transaction.is_refused
            case Data() if transaction is not None and transaction.takes_recipients:
                transaction.take_data(answer or Answer(local_replies.START_MAIL))
            case Rset() if transaction is not None:
                transaction.reset = answer
                self._open = None
                return not transaction.is_refused
            case Noop() | Vrfy() if answer is not None:
                for key in {key_of(step.what), (step.what.verb, b"")}:
                    self._session.asked.setdefault(key, []).append(answer)
            case _:
                return False
        return True

    def _take_mail(self, mail: Mail, answer: Answer | None) -> bool:
        """Not one that has no place: that is answered without asking the server."""
        is_open = self._open is not None and not self._open.is_refused
        if not self._greeted or not self._session.lets_in or (is_open and _is_code(answer, 503)):
            return False
        sender = _recipient(mail.path, [] if answer is None else [answer])
        self._open = RecordedTransaction(self._session.id, sender)
        self._session.transactions.append(self._open)
        return True

    @staticmethod
    def _take_recipient(transaction: RecordedTransaction, rcpt: Rcpt, answer: Answer | None) -> None:
        address = compared(rcpt.path)
        if address not in transaction.recipients:
            transaction.recipients[address] = _recipient(rcpt.path, [])
        if answer is not None:
            transaction.recipients[address].answers.append(answer)

    def _take_message(self, what: Message | Chunk, answer: Answer | None) -> bool:
        """The end of a transaction, or a chunk of one that goes on."""
        transaction = self._open
        if transaction is None:
            return False
        if isinstance(what, Chunk):
            if not transaction.data:
                refused = answer is not None and answer.reply is not None and not answer.accepts
                transaction.take_data(answer if refused and answer else Answer(local_replies.START_MAIL))
            if (what.whole or answer is not None) and not what.command.last:
                return True
        ended = what.whole if isinstance(what, Chunk) else what.ended
        transaction.verdict = answer or (Answer(local_replies.UNRECORDED_OK) if ended else None)
        self._open = None
        return True


def is_of_form(reply: Reply | None) -> bool:
    """Whether it judges what was said for its form alone, as any relay does by itself; or there is none."""
    return reply is None or reply.code in _OF_FORM or (reply.code, reply.lines) in _OURS


def key_of(command: Command) -> tuple[str, bytes]:
    """By what a command that is no transaction's is known again."""
    return command.verb, command.argument if isinstance(command, Vrfy) else b""


def _recipient(path: Path, answers: list[Answer]) -> Recipient:
    address = compared(path)
    try:
        pattern = AddressPattern.parse(address) if "*" in address else None
    except PatternError:  # too long to be meant as one
        pattern = None
    return Recipient(address, written(path), answers, pattern)


def _is_code(answer: Answer | None, code: int) -> bool:
    return answer is not None and answer.reply is not None and answer.reply.code == code


def _last_said(script: Script) -> int:
    """The number of the step behind which the server ended the session: the first that it did not answer, or the last of all."""
    unanswered = [number for number, step in enumerate(script.steps) if step.reply is None and _is_asked(step)]
    return unanswered[0] if unanswered else len(script.steps) - 1


def _is_asked(step: Step) -> bool:
    match step.what:
        case Message(ended=ended):
            return ended
        case Chunk() as chunk:
            return chunk.whole
        case _:
            return True


def _severities(step: Step) -> tuple[int, ...]:
    """What a server may answer to it."""
    return (3, 4, 5) if isinstance(step.what, Data) else (2, 4, 5)


def _check(reply: Reply, said: str, severities: tuple[int, ...]) -> None:
    """Raises ScriptError."""
    if reply.severity not in severities:
        expected = ", ".join(f"{severity}yz" for severity in severities)
        raise ScriptError(f"its client heard {reply.code} to {said}, where a server says {expected}")
    if sum(map(len, reply.lines)) > _MOST:
        raise ScriptError(f"its client heard more than {_MOST} octets to {said}")
