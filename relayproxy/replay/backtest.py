"""Rules tried on recorded traffic: what they would have made of a transaction (DESIGN §4, §6).

    trial = Trial(rules, reader.body, draws, guard=guard)
    effect = trial.effect(stored)                           # by the time of MAIL, since rules may count what came before

Theory of operation: what came is given to the rules stage by stage, as a relay does (rules/playing.py). Upstream is thought to do as it did: it refuses whom it refused, and what rules
let pass has the outcome that it had; what rules or the guard stopped then, and would let pass now, is thought to be accepted. The guard is looked at last: whom it would refuse is a leak.
Invariants: pure, given what is drawn; bodies are read only where rules look at them or edit them; what was not kept, or was redacted, is said to be unseen and never guessed: until then the mail is
as the rules before left it, so that a leak which can only be feared is one. How that differs from something else does not belong here (effects.py).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from relayproxy.mail.body_edit import Stripper, plain_body
from relayproxy.mail.edits import edited
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.ip import plain_address
from relayproxy.mail.mime import scanned
from relayproxy.record.report import reply_of
from relayproxy.record.times import microseconds
from relayproxy.replay.effects import (
    Effect,
    is_refused_by_limits,
    is_ruled,
    named_to_rules,
    refused_by_upstream,
    reply_text,
    words,
)
from relayproxy.rules import facts as known
from relayproxy.rules.facts import Content, Facts, Stage
from relayproxy.rules.gates import EnvelopeGate
from relayproxy.rules.playing import Coming, begin
from relayproxy.rules.ruleset import RuleSet
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from relayproxy.record.report import Outcome, TransactionRecord
    from relayproxy.record.store.interface import Kept, Stored
    from relayproxy.rules.facts import BodyEdit
    from relayproxy.rules.guard import Guard
    from relayproxy.rules.playing import Begun, Decide, Played
    from relayproxy.smtp.replies import Reply

    #: A kept body in pieces, by its digest.
    ReadBody = Callable[[bytes], Iterator[bytes]]

#: Sessions that are remembered, so that each connects once.
_SESSIONS: Final = 10_000
#: Outcomes of which a message came, whether or not anything of it was kept.
_WITH_MESSAGE: Final = frozenset({"accepted", "discarded", "held", "unknown"})
_REDACTED: Final = re.compile(r"<redacted [0-9]+>")
#: What was not kept.
RECIPIENTS: Final = "recipients"
HEADER: Final = "header section"
BODY: Final = "body"
MESSAGE: Final = "message"
ADDRESSES: Final = "addresses"
#: What was kept with something else in its place.
REDACTED: Final = "what was redacted in the header section"


class Draws(known.Draws, Protocol):
    """What rules draw, from what is recorded."""

    def begin(self, what: str, seconds: float) -> None:
        """From here on it is of this session or transaction, and of that time, in seconds since 1970."""


class Trial:
    """Of a rule set."""

    def __init__(
        self,
        rules: RuleSet,
        read_body: ReadBody,
        draws: Draws,
        *,
        guard: Guard | None = None,
        captures: bool = False,
        decide: Decide = RuleSet.evaluate,
    ) -> None:
        """`captures`: the guard keeps what it does not let pass."""
        self.rules = rules
        self._read_body = read_body
        self._draws = draws
        self._guard = guard
        self._captures = captures
        self._decide = decide
        self._begun: OrderedDict[tuple[str, str], Begun] = OrderedDict()
        self._looks_at_message = rules.edits_header or not {Stage.EOH, Stage.EOM}.isdisjoint(rules.stages)

    def effect(self, stored: Stored) -> Effect:
        """What these rules would have made of it."""
        record = stored.record
        if _has_no_addresses(record):
            return Effect(outcome=record.outcome, unseen=(ADDRESSES,))
        message = _Kept(stored, self._read_body)
        played = self._played(record, message)
        verdict = self._verdict(record, played)
        facts, left = played.facts, verdict.recipients
        header, body = self._edited(played, message) if left else (None, None)
        return Effect(
            outcome=verdict.outcome,
            reply=None if verdict.reply is None else reply_text(reply_of(verdict.reply)),
            sender=facts.sender if left else None,
            recipients=left,
            header=header,
            fields=() if left and header is None and not self.rules.edits_header and not facts.body else None,
            body=body,
            knows_body=played.unplayed is None or not self.rules.edits_body,
            route=facts.route,
            tags=facts.tags,
            rules=played.rules,
            leaks=verdict.outside,
            failure=played.failure,
            unseen=self._unseen(record, played, message),
        )

    def _verdict(self, record: TransactionRecord, played: Played) -> _Verdict:
        found = played.ruled
        is_refused = found in ("rejected", "tempfailed")
        limited = not is_refused and is_refused_by_limits(record)
        if limited:
            found = None
        outcome: Outcome = found or ("accepted" if is_ruled(record) else record.outcome)
        addresses = tuple([one.address for one in played.facts.recipients])
        if found == "held":
            return _Verdict(outcome, None, addresses, ())
        if played.ruled is not None or outcome == "aborted":
            return _Verdict(outcome, played.reply if is_refused else None, None if limited else (), ())
        outside = self._outside(addresses)
        left = tuple([one for one in addresses if one not in outside])
        if outside and not self._captures and (not left or self.rules.gates.envelope > EnvelopeGate.RCPT):
            return _Verdict("rejected", local_replies.GUARDED, (), outside)
        stopped = outcome in ("rejected", "tempfailed") and (record.message is None or record.envelope.sent is None)
        return _Verdict(outcome, None, None if stopped else left, outside)

    def _played(self, record: TransactionRecord, message: _Kept) -> Played:
        received, client = record.envelope.received, record.client
        begun = self._session(record)
        self._draws.begin(record.transaction, _seconds(record))
        refused = refused_by_upstream(record)
        return begun.play(
            Coming(
                tls=None if client.tls is None else client.tls.version,
                user=None if client.auth is None else client.auth.user or "",
                transaction=record.transaction,
                sender=words(received.sender),
                parameters=received.parameters,
                recipients=tuple([(words(one.address), one.parameters) for one in named_to_rules(record)]),
                takes=None if not refused else lambda address: address not in refused,
                until=_until(record, came=message.came),
                header=message.header,
                content=lambda: message.content(reads=self.rules.reads_content, edits=self.rules.edits_body),
            )
        )

    def _session(self, record: TransactionRecord) -> Begun:
        key = (record.session, record.client.helo or "")
        begun = self._begun.get(key)
        if begun is None:
            self._draws.begin(record.session, _seconds(record))
            address = plain_address(record.client.address)
            facts = Facts(
                listener=record.listener, client="" if address is None else str(address), session=record.session
            )
            begun = self._begun[key] = begin(self.rules, facts, key[1], self._draws, self._decide)
            if len(self._begun) > _SESSIONS:
                self._begun.popitem(last=False)
        return begun

    def _outside(self, addresses: Iterable[str]) -> tuple[str, ...]:
        guard = self._guard
        if guard is None:
            return ()
        return tuple([one for one in addresses if not guard.allows(one.encode("utf-8", "replace"))])

    def _edited(self, played: Played, message: _Kept) -> tuple[HeaderSection | None, bytes | None]:
        """Header section and, where that is another, the digest of the body."""
        facts = played.facts
        if played.unplayed is not None or facts.header is None:
            return None, None
        if not facts.body:
            return facts.header, None
        return _with_body(facts.header, message.body(), facts.body)

    def _unseen(self, record: TransactionRecord, played: Played, message: _Kept) -> tuple[str, ...]:
        found: list[str] = []
        if played.unplayed is not None:
            found.append(HEADER if played.unplayed is Stage.EOH else BODY)
        elif message.is_redacted and self._looks_at_message:
            found.append(REDACTED)
        if is_ruled(record) and played.ruled is None:  # rules stopped what would now go on
            if not record.envelope.received.recipients:
                found.append(RECIPIENTS)
            if not message.came:
                found.append(MESSAGE)
        return tuple(found)


class _Verdict(NamedTuple):
    """Whom it leaves to, or is held for (None: what others refused it for leaves that open), and whom the guard keeps it from."""

    outcome: Outcome
    reply: Reply | None
    recipients: tuple[str, ...] | None
    outside: tuple[str, ...]


class _Kept:
    """What is kept of a message, as rules saw it."""

    def __init__(self, stored: Stored, read_body: ReadBody) -> None:
        record, kept = stored.record, stored.message
        self.came = record.message is not None or record.outcome in _WITH_MESSAGE
        self._size = None if record.message is None else record.message.size.received
        self._kept: Kept | None = kept
        self._read_body = read_body
        self.header: HeaderSection | None = None
        self.is_redacted = kept is not None and not kept.exact
        if kept is not None and kept.header is not None and (kept.whole or kept.body is not None):
            self.header = HeaderSection(b"".join(_repaired((kept.header,))))

    def content(self, *, reads: bool, edits: bool) -> Content | None:
        kept = self._kept
        if self._size is None or not (reads or edits):
            return None if self._size is None else Content(self._size)
        if kept is None or kept.body is None or self.header is None or not kept.whole:
            return None
        return Content.of(self._size, scanned(self.header, self.body())) if reads else Content(self._size)

    def body(self) -> Iterator[bytes]:
        """In pieces."""
        kept = self._kept
        return iter(()) if kept is None or kept.body is None else _repaired(self._read_body(kept.body))


class _Edited(NamedTuple):
    header: HeaderSection
    pieces: Iterable[bytes]


def _with_body(
    header: HeaderSection, body: Iterable[bytes], edits: Sequence[BodyEdit]
) -> tuple[HeaderSection, bytes | None]:
    """As relay/rewriting.py edits what waits; all of it is in memory. No digest where it stays as it was."""
    came = list(body)
    message = _Edited(header, came)
    for edit in edits:
        if edit.text is not None:
            of_header, octets = plain_body(message.header, edit.text)
            pieces = [octets]
        elif edit.strip is not None:
            stripper = Stripper(message.header, edit.strip)
            pieces = [*map(stripper.feed, message.pieces), stripper.finish()]
            of_header = stripper.edits
        else:
            continue
        message = _Edited(edited(message.header, of_header) if of_header else message.header, pieces)
    digest = _digest(message.pieces)
    return message.header, None if digest == _digest(came) else digest


def _digest(pieces: Iterable[bytes]) -> bytes:
    hashed = sha256()
    for piece in pieces:
        hashed.update(piece)
    return hashed.digest()


def _repaired(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What came with bare CR or LF, where a listener takes that, rules see with CRLF (smtp/line_endings.py)."""
    waiting = b""
    for piece in pieces:
        octets = waiting + piece
        waiting = b"\r" if octets.endswith(b"\r") else b""
        octets = octets[:-1] if waiting else octets
        if octets.count(b"\r") != octets.count(b"\n") or octets.count(b"\r\n") != octets.count(b"\n"):
            octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        yield octets
    if waiting:
        yield b"\r\n"


def _until(record: TransactionRecord, *, came: bool) -> Stage:
    """How far it came. That DATA was said is known where rules answered it."""
    if came:
        return Stage.EOM
    taken = any(one.reply is not None and one.reply.code < 400 for one in record.recipients)
    return Stage.DATA if taken and is_ruled(record) else Stage.RCPT


def _has_no_addresses(record: TransactionRecord) -> bool:
    received = record.envelope.received
    addresses = (received.sender, *[one.address for one in received.recipients])
    return any("<redacted " in address and _REDACTED.search(address) for address in addresses)


def _seconds(record: TransactionRecord) -> float:
    return microseconds(record.time) / 1e6
