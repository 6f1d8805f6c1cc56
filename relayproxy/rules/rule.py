"""A rule as it was read: the types between the loader (load.py) and who places and runs it (stages.py, gates.py, ruleset.py, evaluation.py).

    rule.when.holds(facts, recipient, draws, groups)       # True, and named groups of its patterns are in `groups`
    template.render(facts, recipient, groups)              # text

Invariants: what a rule reads and writes is known before it runs (`reads`, `writes`), by the words of `Subject`: its stage and the gates are computed
from that and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from relayproxy.rules.facts import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relayproxy.rules.facts import Draws, Facts, Recipient

#: What can be read or written: one of KNOWN_AT, or "header:NAME" with the field's name in lower case.
Subject = str
#: From which stage on it is known (DESIGN §6).
KNOWN_AT: Final[Mapping[Subject, Stage]] = {
    "listener": Stage.CONNECT,
    "client": Stage.CONNECT,
    "session": Stage.CONNECT,
    "helo": Stage.HELO,
    "tls": Stage.MAIL,
    "auth": Stage.MAIL,
    "sender": Stage.MAIL,
    "parameters": Stage.MAIL,  # of MAIL
    "transaction": Stage.MAIL,
    "recipient": Stage.RCPT,  # one, with its parameters
    "recipients": Stage.DATA,  # how many there are
    "size": Stage.EOM,
    "body": Stage.EOM,
    "attachment": Stage.EOM,
}
HEADER: Final = "header:"
#: Written where nobody knows which fields are.
ANY_HEADER: Final = HEADER + "*"


def header(name: str) -> Subject:
    """The fields of that name."""
    return HEADER + name.lower()


def known_at(subject: Subject) -> Stage:
    return Stage.EOH if subject.startswith(HEADER) else KNOWN_AT[subject]


class Key(NamedTuple):
    """What may be so: a subject has this address, or is of this domain (pattern_list.keys_of); or `is_part`: it has a text in which this stands (mail.pattern.folded)."""

    subject: Subject
    text: str
    is_part: bool = False


class Condition(Protocol):
    """Whether a rule applies."""

    @property
    def reads(self) -> frozenset[Subject]: ...

    @property
    def keys(self) -> frozenset[Key] | None:
        """One of these must be so, or it does not hold; None where that cannot be said so simply."""

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:
        """`recipient`: the one that the rule runs for. Named groups of patterns that matched are put into `groups`."""


class Template(Protocol):
    """A text with `{...}` in it."""

    @property
    def reads(self) -> frozenset[Subject]: ...

    def render(self, facts: Facts, recipient: Recipient | None, groups: Mapping[str, str]) -> str:
        """Raises BadAddress where it is to give an address and gives none."""


class BadAddress(ValueError):  # noqa: N818  what the template gave
    """A template gave no valid address: the message's fault (550 5.1.3). In words: what it gave, and what was expected."""


class Action(Protocol):
    """One of actions.py's, or function.py's call of a user's function."""

    @property
    def name(self) -> str:
        """As DESIGN §6 writes it."""

    @property
    def reads(self) -> frozenset[Subject]:
        """Of its templates; and "recipient" where it is about the recipient that the rule runs for."""

    @property
    def writes(self) -> frozenset[Subject]: ...

    @property
    def stops(self) -> bool:
        """Whether later rules may not run because of it."""

    @property
    def ends(self) -> bool:
        """Whether no later rule at all may run because of it: nothing of the message leaves."""


class Rule(msgspec.Struct, frozen=True):
    """`at`: not before that stage; `pinned`: at that one, whatever it reads. `where`: file and line, for messages.

    `always`: also behind `accept`, and behind a `disconnect`, which at eom does not keep the message from leaving.
    """

    name: str
    when: Condition
    then: tuple[Action, ...]
    at: Stage | None = None
    where: str = ""
    pinned: bool = False
    always: bool = False

    @property
    def reads(self) -> frozenset[Subject]:
        return self.when.reads.union(*[action.reads for action in self.then])

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset().union(*[action.writes for action in self.then])

    @property
    def per_recipient(self) -> bool:
        """Whether it runs once for each recipient."""
        return "recipient" in self.reads
