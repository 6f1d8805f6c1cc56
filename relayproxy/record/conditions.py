"""Conditions on a recorded transaction: what an expression of SELECT (select.py) is made of, and whether they hold.

A condition on what a transaction does not have does not hold, and its opposite does: `!sent.sender:*` selects what was never sent on.
Pure. How conditions are written does not belong here (select_fields.py), nor how a store looks for them (store/).
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from relayproxy.mail.header import HeaderSection, decode
from relayproxy.mail.ip import is_in
from relayproxy.record.full_text import summary, words
from relayproxy.record.times import microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Network, IPv6Network

    from relayproxy.mail.pattern import AddressPattern, Pattern
    from relayproxy.record.report import Outcome, TransactionRecord


class Facts(Protocol):
    """A transaction, and of its message what a condition may ask for."""

    @property
    def record(self) -> TransactionRecord: ...

    def header_section(self) -> bytes | None:
        """As received; None where it was not kept."""

    def body_text(self) -> str:
        """mail/body_text.py's, as received; "" where the body was not kept."""


TextField = Literal["subject", "message", "client", "listener", "upstream", "helo", "auth", "tls", "code", "tag"]
Leg = Literal["received", "sent"]
Comparison = Literal["<", "<=", "=", ">=", ">"]

_COMPARED: Final[dict[Comparison, Callable[[int, int], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
}


class Part(msgspec.Struct, frozen=True):
    """A piece of an expression."""


class All(Part, frozen=True):
    """Each of them holds."""

    of: tuple[Condition, ...]

    def matches(self, facts: Facts) -> bool:
        return all(condition.matches(facts) for condition in self.of)


class AnyOf(Part, frozen=True):
    """One of them holds, or more."""

    of: tuple[Condition, ...]

    def matches(self, facts: Facts) -> bool:
        return any(condition.matches(facts) for condition in self.of)


class Not(Part, frozen=True):
    """It does not hold."""

    of: Condition

    def matches(self, facts: Facts) -> bool:
        return not self.of.matches(facts)


class Text(Part, frozen=True):
    """A text of the record is as a pattern has it; of tags, one."""

    field: TextField
    pattern: Pattern

    def matches(self, facts: Facts) -> bool:
        return any(text is not None and self.pattern.matches(text) for text in _TEXTS[self.field](facts.record))


class Sender(Part, frozen=True):
    """The reverse-path."""

    leg: Leg
    pattern: AddressPattern

    def matches(self, facts: Facts) -> bool:
        envelopes = facts.record.envelope
        envelope = envelopes.received if self.leg == "received" else envelopes.sent
        return envelope is not None and address_matches(self.pattern, envelope.sender)


class Recipient(Part, frozen=True):
    """Any forward-path."""

    leg: Leg
    pattern: AddressPattern

    def matches(self, facts: Facts) -> bool:
        envelopes = facts.record.envelope
        envelope = envelopes.received if self.leg == "received" else envelopes.sent
        return envelope is not None and any(address_matches(self.pattern, one.address) for one in envelope.recipients)


class Header(Part, frozen=True):
    """Any field of that name, decoded and unfolded."""

    name: bytes
    pattern: Pattern

    def matches(self, facts: Facts) -> bool:
        section = facts.header_section()
        if section is None:
            return False
        return any(self.pattern.matches(decode(field.value)) for field in HeaderSection(section).get_all(self.name))


class OutcomeIs(Part, frozen=True):
    """What became of it."""

    outcome: Outcome

    def matches(self, facts: Facts) -> bool:
        return facts.record.outcome == self.outcome


class Waiting(Part, frozen=True):
    """Whether it is held, and nobody has taken it yet as far as is known."""

    wanted: bool

    def matches(self, facts: Facts) -> bool:
        return facts.record.waits == self.wanted


class Captured(Part, frozen=True):
    """Whether the guard kept a recipient's copy."""

    wanted: bool

    def matches(self, facts: Facts) -> bool:
        return any(one.captured is True for one in facts.record.recipients) == self.wanted


class Acknowledged(Part, frozen=True):
    """Whether the client was told."""

    wanted: bool

    def matches(self, facts: Facts) -> bool:
        return facts.record.acknowledged == self.wanted


class Encrypted(Part, frozen=True):
    """Whether there was TLS with the client."""

    wanted: bool

    def matches(self, facts: Facts) -> bool:
        return (facts.record.client.tls is not None) == self.wanted


class Anonymous(Part, frozen=True):
    """The client had not logged in."""

    def matches(self, facts: Facts) -> bool:
        return facts.record.client.auth is None


class Size(Part, frozen=True):
    """Of the message as received, in octets."""

    comparison: Comparison
    octets: int

    def matches(self, facts: Facts) -> bool:
        message = facts.record.message
        return message is not None and _COMPARED[self.comparison](message.size.received, self.octets)


class Time(Part, frozen=True):
    """Of MAIL, in microseconds since 1970."""

    comparison: Comparison
    microseconds: int

    def matches(self, facts: Facts) -> bool:
        return _COMPARED[self.comparison](microseconds(facts.record.time), self.microseconds)


class ClientIn(Part, frozen=True):
    """The client's address is in that network; an address is a network of one."""

    network: IPv4Network | IPv6Network

    def matches(self, facts: Facts) -> bool:
        return is_in(facts.record.client.address, (self.network,))


class Id(Part, frozen=True):
    """An id begins with this, in any case of letters."""

    of: Literal["session", "transaction"]
    prefix: str

    def matches(self, facts: Facts) -> bool:
        return str(getattr(facts.record, self.of)).upper().startswith(self.prefix.upper())


class Words(Part, frozen=True):
    """Subject, addresses and body have all of these words between them."""

    words: frozenset[str]

    def matches(self, facts: Facts) -> bool:
        missing = self.words.difference(words(summary(facts.record)))
        return not missing or missing.issubset(words(facts.body_text()))


Condition = (
    All
    | AnyOf
    | Not
    | Text
    | Sender
    | Recipient
    | Header
    | OutcomeIs
    | Waiting
    | Captured
    | Acknowledged
    | Encrypted
    | Anonymous
    | Size
    | Time
    | ClientIn
    | Id
    | Words
)


#: What each says, nothing where the record has nothing.
_TEXTS: Final[dict[TextField, Callable[[TransactionRecord], Iterable[str | None]]]] = {
    "subject": lambda record: () if record.message is None else (record.message.subject,),
    "message": lambda record: () if record.message is None else (record.message.id,),
    "client": lambda record: (record.client.address,),
    "listener": lambda record: (record.listener,),
    "upstream": lambda record: () if record.upstream is None else (record.upstream.name,),
    "helo": lambda record: (record.client.helo,),
    "auth": lambda record: () if record.client.auth is None else (record.client.auth.user,),
    "tls": lambda record: () if record.client.tls is None else (record.client.tls.version,),
    "code": lambda record: () if record.reply is None else (str(record.reply.code),),
    "tag": lambda record: record.tags,
}


def address_matches(pattern: AddressPattern, recorded: str) -> bool:
    """Whether an address as it stands in a record is as a pattern has it."""
    return pattern.matches(recorded.replace(r"\\", "\\") if "\\" in recorded else recorded)
