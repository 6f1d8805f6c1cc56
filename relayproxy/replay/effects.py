"""What became of a transaction, by its record or by rules that were tried on it, and how two of these differ.

    before = recorded(stored)
    after = trial.effect(stored)                            # backtest.py
    difference(before, after)                               # None: nobody would notice

Invariants: pure; what a record does not say is not guessed: it is no difference, and who tries rules says what he did not see (`Effect.unseen`).
Rules by other names that do the same are the same: `rules` tells why, and is not compared. Running rules does not belong here (backtest.py), nor how this looks (cli/).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.mail.canonical import canonical
from relayproxy.mail.header import HeaderSection, decode
from relayproxy.record.report import HeldRecord, Outcome, reply_of
from relayproxy.record.text import octets
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relayproxy.record.report import AddressRecord, EnvelopeRecord, ReplyRecord, TransactionRecord
    from relayproxy.record.store.interface import Stored

#: Replies of ours that rules or the guard are the reason of. What is refused by limits stays refused.
_RULED: Final = frozenset(
    map(
        reply_of,
        (
            local_replies.GUARDED,
            local_replies.RULE_FAILED,
            local_replies.NO_RECIPIENTS,
            local_replies.INTERNAL_ERROR,
        ),
    )
)
_BODY_EDITS: Final = frozenset({"replace_body", "strip_attachment"})


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """None: nothing of the kind, or nobody knows."""

    outcome: Outcome
    #: What rules or the guard refused it with.
    reply: str | None = None
    #: As it leaves, or is held to leave.
    sender: str | None = None
    recipients: tuple[str, ...] | None = None
    #: Without our Received.
    header: HeaderSection | None = None
    #: Fields that rules touched, where that is all that is known of them.
    fields: tuple[str, ...] | None = None
    #: SHA-256 of a body that rules made another of.
    body: bytes | None = None
    #: Whether it is known that rules made no other, or which.
    knows_body: bool = True
    #: The upstream that a rule chose; `is_stored`: a store, and nobody knows by which name.
    route: str | None = None
    is_stored: bool = False
    tags: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    #: Recipients outside of the guard that it would reach, if that were not there.
    leaks: tuple[str, ...] = ()
    #: What went wrong with a rule.
    failure: str | None = None
    #: What of it rules would have had to see, and nobody knows.
    unseen: tuple[str, ...] = ()


class Both(msgspec.Struct, frozen=True):
    """Of something that is not the same."""

    before: str | None
    after: str | None


class Field(msgspec.Struct, frozen=True):
    """All that the fields of a name say, decoded; nothing on either side where only the name is known."""

    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Moved(msgspec.Struct, frozen=True):
    """Of a set of things."""

    removed: tuple[str, ...]
    added: tuple[str, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is not the same."""

    outcome: Both | None = None
    reply: Both | None = None
    sender: Both | None = None
    recipients: Moved | None = None
    headers: tuple[Field, ...] = ()
    body: bool = False
    route: Both | None = None
    tags: Moved | None = None

    @property
    def kinds(self) -> list[str]:
        """Of what there is."""
        return [name for name in self.__struct_fields__ if getattr(self, name)]


def difference(before: Effect, after: Effect) -> Difference | None:
    """None: there is none."""
    both_leave = before.recipients is not None and after.recipients is not None
    leaves = bool(before.recipients and after.recipients)
    found = Difference(
        outcome=_both(before.outcome, after.outcome),
        reply=_both(before.reply, after.reply) if before.outcome == after.outcome else None,
        sender=_both(before.sender, after.sender) if before.sender is not None and after.sender is not None else None,
        recipients=_moved(before.recipients or (), after.recipients or (), canonical) if both_leave else None,
        headers=_fields(before, after),
        body=before.body != after.body and before.knows_body and after.knows_body and leaves,
        route=_both(before.route, after.route) if leaves and not _are_stores(before, after) else None,
        tags=_moved(before.tags, after.tags, str),
    )
    return found if found.kinds else None


def _both(before: str | None, after: str | None) -> Both | None:
    return None if before == after else Both(before, after)


def _are_stores(before: Effect, after: Effect) -> bool:
    """Whether both are routed, and of one it is not known which store to: the record says `capture`, whatever its name."""
    return before.route is not None and after.route is not None and (before.is_stored or after.is_stored)


def _moved(before: tuple[str, ...], after: tuple[str, ...], alike: Callable[[str], str]) -> Moved | None:
    if before == after:
        return None
    was, now = {alike(one): one for one in before}, {alike(one): one for one in after}
    removed = tuple([one for key, one in was.items() if key not in now])
    added = tuple([one for key, one in now.items() if key not in was])
    return Moved(removed, added) if removed or added else None


def _fields(before: Effect, after: Effect) -> tuple[Field, ...]:
    was, now = before.header, after.header
    if was is None or now is None:
        if before.fields is None or after.fields is None:
            return ()
        names = dict.fromkeys((*before.fields, *after.fields))
        return tuple([Field(name) for name in names if (name in before.fields) != (name in after.fields)])
    if bytes(was) == bytes(now):
        return ()
    left, right = _values(was), _values(now)
    spelled = {field.name.lower(): field.name.decode("ascii") for field in (*now.fields, *was.fields) if field.name}
    return tuple(
        [
            Field(name, tuple(map(decode, left.get(key, ()))), tuple(map(decode, right.get(key, ()))))
            for key, name in spelled.items()
            if left.get(key) != right.get(key)
        ]
    )


def _values(section: HeaderSection) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for field in section.fields:
        found.setdefault(field.name.lower(), []).append(field.value)
    return found


# By the record.


def recorded(stored: Stored) -> Effect:
    """What became of it when it was recorded."""
    record = stored.record
    decided = is_ruled(record)
    refused = decided and record.outcome in ("rejected", "tempfailed")
    envelope, recipients = _left(record, decided=decided)
    leaves = bool(recipients)
    body, knows_body = _body(stored)
    route, is_stored = _route(record)
    return Effect(
        outcome=record.outcome,
        reply=_reply(record) if refused else None,
        sender=words(envelope.sender) if envelope is not None and leaves else None,
        recipients=recipients,
        header=_header(stored) if leaves else None,
        fields=record.message.headers_changed if record.message is not None and leaves else None,
        body=body,
        knows_body=knows_body,
        route=route,
        is_stored=is_stored,
        tags=record.tags,
        rules=tuple(dict.fromkeys([rule.name for rule in record.rules])),
    )


def is_ruled(record: TransactionRecord) -> bool:
    """Whether rules or the guard are the reason of its outcome."""
    match record.outcome:
        case "held" | "discarded":
            return True
        case "accepted" | "unknown":
            return False
        case "aborted":
            return _did(record, "disconnect")
        case "rejected" | "tempfailed":
            return any(reply is not None and _is_ours(reply) for reply in _refusals(record))


def went_as_named(record: TransactionRecord) -> bool:
    """Whether it went to all of those whom its client named, or was refused by upstream, and to nobody else: no rule and no guard stood in between, as far as is known."""
    sent = () if record.envelope.sent is None else record.envelope.sent.recipients
    named = {one.address for one in record.envelope.received.recipients}
    refused = any(one.reply is not None and _is_ours(one.reply) for one in record.recipients)
    return named == {one.address for one in sent} and not refused and not is_ruled(record) and not _did(record, "route")


def is_refused_by_limits(record: TransactionRecord) -> bool:
    """Whether the relay refused it for what no rule says: limits, broken protocol, a store that is full."""
    if record.outcome not in ("rejected", "tempfailed") or is_ruled(record):
        return False
    return record.reply is not None and record.reply.origin == "proxy"


def _refusals(record: TransactionRecord) -> Iterable[ReplyRecord | None]:
    heard = [one.reply for one in record.recipients]
    if record.message is not None or not heard or any(reply is not None and reply.code < 400 for reply in heard):
        return (record.reply,)
    return heard  # nobody is left: whatever DATA was told


def _is_ours(reply: ReplyRecord) -> bool:
    return reply.origin == "rule" or reply in _RULED


def _reply(record: TransactionRecord) -> str | None:
    found = [reply for reply in _refusals(record) if reply is not None and _is_ours(reply)]
    return reply_text(min(found, key=lambda reply: reply.code // 100)) if found else None


def reply_text(reply: ReplyRecord) -> str:
    """On one line."""
    return " ".join(part for part in (str(reply.code), reply.enhanced, reply.text.replace("\n", " ")) if part)


def _left(record: TransactionRecord, *, decided: bool) -> tuple[EnvelopeRecord | None, tuple[str, ...] | None]:
    """What left, or is held, and to whom; of what others refused before a message came nobody knows whom it would have reached."""
    if record.outcome == "held" and isinstance(record.held, HeldRecord):
        envelope = record.held.envelope
        return envelope, tuple([words(one.address) for one in envelope.recipients])
    if record.outcome == "aborted" or decided:
        return None, ()
    sent = record.envelope.sent
    if record.outcome in ("rejected", "tempfailed") and (sent is None or record.message is None):
        return None, None
    if sent is None:
        return None, ()
    refused = refused_by_upstream(record)
    return sent, tuple([address for one in sent.recipients if (address := words(one.address)) not in refused])


def named_to_rules(record: TransactionRecord) -> list[AddressRecord]:
    """The recipients that rules were asked about: those that a limit refused are none, nor those that a rule added and the guard kept."""
    return [
        one
        for one, told in zip_longest(record.envelope.received.recipients, record.recipients)
        if one is not None and (told is None or told.reply is None or told.reply.code < 400 or told.reply.origin != "proxy" or told.reply in _RULED)
    ]  # fmt: skip


def refused_by_upstream(record: TransactionRecord) -> frozenset[str]:
    """Recipients that upstream did not take when they were named. Of several for one RCPT it may have taken some before, for another."""
    refused: set[str] = set()
    taken: set[str] = set()
    for one in record.recipients:
        if one.reply is not None and (one.reply.code < 400 or one.reply.origin == "upstream"):
            (taken if one.reply.code < 400 else refused).update(map(words, one.sent))
    return frozenset(refused - taken)


def _header(stored: Stored) -> HeaderSection | None:
    """As it left, without our Received."""
    left = stored.left
    if left is None or left.header is None:
        return None
    raw = left.header
    # relay/transaction.py puts it on top of everything.
    if raw[:9].lower() == b"received:":
        field = HeaderSection(raw).fields[0]
        below, came = raw[field.end :], None if stored.message is None else stored.message.header
        if below == came or b"\tid %b@" % stored.record.session.encode() in field.value:
            raw = below
    return HeaderSection(raw)


def _body(stored: Stored) -> tuple[bytes | None, bool]:
    """What rules made of it, if that is another, and whether that is known."""
    record = stored.record
    if not any(_did(record, action) for action in _BODY_EDITS):
        return None, True
    came = left = None
    if (message := record.message) is not None and message.digest.sent is not None:
        left = bytes.fromhex(message.digest.sent.body)
        came = None if message.digest.received is None else bytes.fromhex(message.digest.received.body)
    elif stored.message is not None and stored.left is not None:  # it is held
        came, left = stored.message.body, stored.left.body
    return None if came == left else left, left is not None


def _route(record: TransactionRecord) -> tuple[str | None, bool]:
    """The upstream that a rule chose, and whether it is a store."""
    if isinstance(record.held, HeldRecord):
        return record.held.upstream, False
    upstream = record.upstream
    if upstream is None or not _did(record, "route"):
        return None, False
    return upstream.name, upstream.host is None


def _did(record: TransactionRecord, action: str) -> bool:
    return any(action in rule.actions for rule in record.rules)


def words(told: str) -> str:
    """A path in a record, as rules see it."""
    return octets(told).decode("utf-8", "replace") if "\\" in told else told
