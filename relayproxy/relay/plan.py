"""What rules and guard want of one transaction, as far as they have said: kept from MAIL to the verdict, and told with it (DESIGN §6, §7).

Invariants: what is to leave is only here until it leaves; what has left is marked in `leaving`. Deciding does not belong here (ruling.py), nor doing it (gated.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relayproxy.mail.canonical import canonical
from relayproxy.record.text import text
from relayproxy.relay.delivery import Passed
from relayproxy.smtp import local_replies
from relayproxy.smtp.parameters import get

if TYPE_CHECKING:
    from relayproxy.mail.envelope import Envelope
    from relayproxy.relay.upstream import Upstream
    from relayproxy.rules.decision import Decision, Fired
    from relayproxy.rules.facts import Facts
    from relayproxy.rules.ruleset import RuleSet
    from relayproxy.smtp.commands import Command, Mail, Rcpt
    from relayproxy.smtp.replies import Reply


class Leaving:
    """A command that is to leave, or has: several of the client's recipients may come to the same one. `reply`: upstream's, once it was asked; `left`: whether it was."""

    __slots__ = ("command", "left", "reply")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.reply: Reply | None = None
        self.left = False


class Plan:
    """One transaction's."""

    __slots__ = (
        "_may_capture", "added", "captured", "doom", "facts", "fired", "held", "id", "kept", "leaving", "mail_left", "mail_route", "named", "passed", "received", "rules", "size", "throttle",
        "upstream",
    )  # fmt: skip

    def __init__(self, id_: str, rules: RuleSet, facts: Facts, received: Mail, *, captures: bool = False) -> None:
        """`captures`: the guard keeps what it does not let leave."""
        self.id = id_
        # Whom, is known when they leave; and a rule may yet route it to the store itself.
        self._may_capture = captures or rules.may_route
        #: What MAIL's rules said of it: each recipient is judged from there (PROTOCOL §1.10).
        self.mail_route: str | None = None
        #: Recipients of rules' that the guard keeps the copy of.
        self.kept: list[Rcpt] = []
        #: MAIL as it came, and what became of it.
        self.received = received
        self.passed = Passed(received, (), local_replies.SENDER_OK, self)
        #: Those that held when it began.
        self.rules = rules
        #: The mail as the rules left it; recipients are those that stand.
        self.facts = facts
        self.mail_left = False
        #: Of the client's RCPTs those that were not refused here, upstream's refusals included: `Recipient.origin` counts them.
        self.named: list[Passed] = []
        #: RCPTs that leave or have left, by their canonical addresses.
        self.leaving: dict[str, Leaving] = {}
        #: Of those, what no RCPT of the client's stands for.
        self.added: list[Command] = []
        #: Whether the guard keeps a recipient's copy.
        self.captured = False
        self.fired: list[Fired] = []
        #: Octets a second.
        self.throttle: int | None = None
        #: Octets of the message as it leaves, where that is known before its envelope leaves.
        self.size: int | None = None
        #: What all that follows is answered: something has left that must not become a message.
        self.doom: Reply | None = None
        self.upstream: Upstream | None = None
        #: Of what is held, as it would have left.
        self.held: Envelope | None = None

    def take(self, decision: Decision, *, one: bool = False) -> None:
        """What a stage decided, of the message or, at rcpt, of one more recipient that is not yet among the others."""
        self.facts = (
            msgspec.structs.replace(decision.facts, recipients=self.facts.recipients) if one else decision.facts
        )
        self.fired += [fired for fired in decision.fired if fired not in self.fired]
        if decision.faults is not None and decision.faults.throttle is not None:
            self.throttle = min(self.throttle or decision.faults.throttle, decision.faults.throttle)

    @property
    def may_stay(self) -> bool:
        """Whether it may yet come to that, so that all of it has to be kept."""
        return self.stays or self.captured or self._may_capture or self.rules.may_hold

    @property
    def refusal(self) -> Reply | None:
        """What a recipient is answered: of a MAIL that the client has heard 250 to, what became of it since."""
        return self.doom if self.doom is None or self.passed.reply.severity == 2 else local_replies.BAD_SEQUENCE

    @property
    def stays(self) -> bool:
        """Whether nothing of it goes upstream: a rule keeps it, or all that is left is the guard's."""
        return self.facts.fate is not None or (self.captured and not self.facts.recipients)

    def leaves(self, rcpt: Rcpt) -> Leaving:
        """The RCPT as it leaves: identical recipients are one (PROTOCOL §1.11)."""
        key = canonical(text(rcpt.path.address))
        leaving = self.leaving.get(key)
        if leaving is None or (leaving.reply is not None and leaving.reply.severity != 2):
            leaving = self.leaving[key] = Leaving(rcpt)
        return leaving

    def has_left(self, rcpt: Rcpt) -> bool:
        """Whether upstream has accepted it already: a guard that came since cannot keep it any more."""
        leaving = self.leaving.get(canonical(text(rcpt.path.address)))
        return leaving is not None and leaving.left and leaving.reply is not None and leaving.reply.severity == 2

    @property
    def utf8(self) -> bool:
        """Whether addresses need not be ASCII (RFC 6531)."""
        return get(self.received.parameters, b"SMTPUTF8") is not None
