"""What leaves of a plan: MAIL and RCPT as rules and guard left them (DESIGN §6). Asking for it does not belong here (envelopes.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Path, Rcpt

if TYPE_CHECKING:
    from relayproxy.relay.plan import Plan
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.facts import Recipient
    from relayproxy.rules.guard import Guard
    from relayproxy.smtp.commands import Mail
    from relayproxy.smtp.replies import Reply


class Refusal(Exception):  # noqa: N818  it is no error
    """What is asked for cannot be done, and that is answered."""

    what = "a rule refused the session"

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.code)
        self.reply = reply


def accept(decision: Decision) -> None:
    """Go on, unless rules refuse. Raises Refusal."""
    if decision.answer is not None:
        raise Refusal(decision.answer)


def mail_of(plan: Plan) -> Mail:
    """MAIL as rules left it. Raises Refusal."""
    received = plan.received
    path = _path(plan.facts.sender, received.path, utf8=plan.utf8)
    return received if path is received.path else msgspec.structs.replace(received, path=path)


def rcpt_of(plan: Plan, recipient: Recipient, guard: Guard | None) -> Rcpt:
    """A RCPT as rules left it; one whose address is another than the client's has no ORCPT (PROTOCOL §1.4 DSN). Raises Refusal."""
    received = plan.named[recipient.origin].received if recipient.origin >= 0 else None
    if not isinstance(received, Rcpt):
        return Rcpt(_path(recipient.address, None, utf8=plan.utf8))
    path = _path(recipient.address, received.path, utf8=plan.utf8)
    if path is received.path:
        return received if guard is None else guard.guarded(received)
    return Rcpt(path, tuple([one for one in received.parameters if one[0].upper() != b"ORCPT"]))


def _path(address: str, known: Path | None, *, utf8: bool) -> Path:
    octets = address.encode("utf-8", "replace")
    if known is not None and octets == known.address:
        return known
    try:
        path = Path.parse(octets)
    except ValueError:
        raise Refusal(local_replies.NO_VALID_ADDRESS) from None
    if not utf8 and not path.is_ascii:  # RFC 6531 §3.4: it may travel in a transaction with SMTPUTF8 only
        raise Refusal(local_replies.NO_VALID_ADDRESS)
    return path
