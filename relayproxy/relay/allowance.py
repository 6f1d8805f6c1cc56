"""What a client has used up of its limits (PROTOCOL §1.13, attack 16): counted and told here; when that is asked, the session decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Auth, Ehlo, Helo, Help, Noop, Rset, Vrfy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.log import Reporter
    from relayproxy.relay.settings import Limits
    from relayproxy.relay.transaction import Transaction
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

#: What MAIL is answered where a limit speaks against it.
LIMITS: Final = {
    local_replies.TOO_MANY_MESSAGES: "messages_per_session",
    local_replies.MESSAGE_TOO_BIG: "message_bytes",
}
#: Commands that bring no message on; too many in a row end the session.
JUNK: Final = frozenset({Ehlo, Helo, Auth, Rset, Noop, Vrfy, Help})
#: A transaction may have so many times its limit of recipients, refused ones included, before they are not even passed on.
REFUSED_RECIPIENTS: Final = 2


class Allowance:
    """One session's."""

    __slots__ = ("_errors", "_junk", "_limits", "_messages", "_recipients_told", "_reporter", "_session")

    def __init__(self, limits: Limits, reporter: Reporter, session: str) -> None:
        self._limits = limits
        self._reporter = reporter
        self._session = session
        self._errors = 0
        self._junk = 0
        self._messages = 0
        self._recipients_told = False

    def covers_junk(self) -> bool:
        """Count a command that is JUNK; whether it may still be answered."""
        self._junk += 1
        return self._junk <= self._limits.junk_commands

    def counted(self, reply: Reply) -> Reply:
        """The reply, or 421 where there were too many of ours to faults of the client's."""
        if reply.severity != 5 or reply.origin != "proxy":
            return reply
        self._errors += 1
        return reply if self._errors <= self._limits.errors else self.over("errors", local_replies.TOO_MANY_ERRORS)

    def tell_limit(self, reply: Reply) -> None:
        """Of MAIL, should that be one for a limit."""
        if (limit := LIMITS.get(reply)) is not None:
            self.over(limit, reply)

    def over(self, limit: str, reply: Reply) -> Reply:
        """Told: that limit was reached."""
        self._reporter.limit(limit, session=self._session, reply=reply)
        return reply

    def covers_message(self, ahead: int = 0) -> bool:
        """`ahead` others are on their way and were not answered yet."""
        return self._messages + ahead < self._limits.messages_per_session

    def begin_message(self) -> None:
        self._messages += 1
        self._recipients_told = False

    def message_accepted(self) -> None:
        self._junk = 0

    def covers_recipient(self, transaction: Transaction | None, asked: Sequence[Command], most: int | None) -> bool:
        """Whether RCPT behind `asked` may be passed on, of which a MAIL or RSET begins the count anew.

        `most`: how many recipients upstream may be given at once, None: as many as our own limit says. Those that upstream refuses count too, past
        a point: the record keeps them all (PROTOCOL I11).
        """
        ahead = 0
        for other in reversed(asked):
            if other.verb != "RCPT":
                transaction = None
                break
            ahead += 1
        accepted = named = ahead
        if transaction is not None:
            accepted += transaction.accepted
            named += transaction.asked
        limit = self._limits.recipients
        return accepted < (limit if most is None else min(most, limit)) and named < REFUSED_RECIPIENTS * limit

    def covers_refused_recipient(self, transaction: Transaction) -> bool:
        """Whether the record may keep another one that we refused."""
        return transaction.asked < REFUSED_RECIPIENTS * self._limits.recipients

    def tells_recipients(self) -> bool:
        """Whether to tell that there are too many recipients: once a transaction, not once a recipient."""
        told, self._recipients_told = self._recipients_told, True
        return not told
