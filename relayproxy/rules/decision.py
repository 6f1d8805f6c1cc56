"""What the rules of one stage want done (DESIGN §6): `RuleSet.evaluate` gives one, whoever relays (or tests, or tries rules on what was recorded) does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from relayproxy.rules.facts import Facts
    from relayproxy.smtp.replies import Reply

#: When a connection to the client is cut: instead of the reply, behind it, or at once and hard (RST).
Disconnect = Literal["before-reply", "after-reply", "reset"]


class Faults(msgspec.Struct, frozen=True, gc=False):
    """Trouble that was asked for. `delay`: seconds before the stage's reply. `throttle`: octets a second of mail data that we read from the client."""

    delay: float = 0.0
    throttle: int | None = None
    disconnect: Disconnect | None = None
    drop_reply: bool = False

    def joined(self, other: Faults) -> Faults:
        """Both: delays add up, the slower counts, the first to disconnect does."""
        rates = [rate for rate in (self.throttle, other.throttle) if rate is not None]
        return Faults(
            self.delay + other.delay,
            min(rates, default=None),
            self.disconnect or other.disconnect,
            self.drop_reply or other.drop_reply,
        )


class Fired(msgspec.Struct, frozen=True, gc=False):
    """A rule that did something, and the names of its actions."""

    rule: str
    actions: tuple[str, ...]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """`facts` are the mail as the rules left it, with what they have said of the message so far; a refused recipient or message leaves only its tags in them.
    At rcpt they are to be kept only where that RCPT is taken.

    `answer` (a 4yz or 5yz) refuses, whatever else was said: at connect the session, at helo, mail, data that command, at rcpt that recipient, at eoh and eom
    the message.

    `failure`: a rule went wrong, in words for the log; then `answer` says so to the client, and nothing that the rules of this stage did is in `facts`.
    """

    facts: Facts
    answer: Reply | None = None
    faults: Faults | None = None
    fired: tuple[Fired, ...] = ()
    failure: str | None = None

    @property
    def route(self) -> str | None:
        """To the upstream of that name."""
        return self.facts.route
