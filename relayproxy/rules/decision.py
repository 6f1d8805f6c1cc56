"""What the rules of one stage want done (DESIGN §6): `RuleSet.evaluate` gives one, whoever relays (or tests, or tries rules on what was recorded) does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from relayproxy.mail.pattern import Pattern
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


class Fired(msgspec.Struct, frozen=True, gc=False):
    """A rule that did something, and the names of its actions."""

    rule: str
    actions: tuple[str, ...]


class BodyEdit(msgspec.Struct, frozen=True, gc=False):
    """`text`: the whole body is to be this plain text (LF or CRLF line ends); else attachments whose file name `strip` matches are to go."""

    text: str | None = None
    strip: Pattern | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """`facts` are the mail as the rules left it. `answer` (a 4yz or 5yz, origin "rule") refuses: at connect the session, at helo, mail, data that command, at rcpt that
    recipient, at eoh and eom the message. `fate`: nothing of the message goes upstream; `hold` is durable in the store. `route`: to the upstream of that name.

    `failure`: a rule went wrong, in words for the log; then `answer` says so to the client, and nothing that the rules of this stage did is to be used.
    """

    facts: Facts
    answer: Reply | None = None
    fate: Literal["discard", "hold"] | None = None
    #: Why it is held.
    reason: str = ""
    route: str | None = None
    tags: tuple[str, ...] = ()
    faults: Faults | None = None
    body: tuple[BodyEdit, ...] = ()
    fired: tuple[Fired, ...] = ()
    failure: str | None = None
