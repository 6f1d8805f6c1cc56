"""A session's transactions: the one that is open, and those that have ended and wait to be told.

A transaction is told once: when its last reply has been written to the client, or when that never will be. What goes into a transaction
does not belong here (session.py), nor what is told of it (transaction.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.relay.parties import Parties
from relayproxy.relay.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.record.recorder import Recording
    from relayproxy.record.report import AuthRecord
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.context import Context
    from relayproxy.relay.delivery import Passed
    from relayproxy.relay.upstream import Upstream
    from relayproxy.smtp.commands import Ehlo, Helo, Mail


class Transactions:
    """`open`: from MAIL to the reply to the message; None in between. `told`: how many were told."""

    __slots__ = (
        "_client",
        "_context",
        "_ended",
        "_parties",
        "_recording",
        "_unheard",
        "mail_refused",
        "new_id",
        "open",
        "owes",
        "session",
        "told",
    )

    def __init__(
        self,
        session: str,
        new_id: Callable[[], str],
        context: Context,
        client: ClientLeg,
        recording: Recording | None,
    ) -> None:
        self.open: Transaction | None = None
        self.told = 0
        #: Whether there was one whose wire is not recorded yet.
        self.owes = False
        #: Whether the last MAIL was: what the client sent behind it, before it could know, is no fault of its (RFC 2920).
        self.mail_refused = False
        self.session = session
        self.new_id = new_id
        self._context = context
        self._client = client
        self._recording = recording
        self._ended: list[Transaction] = []
        self._parties: Parties | None = None  # of the last
        self._unheard: Transaction | None = None  # the open one, if a rule had its last replies not written

    def begin(
        self,
        mail: Mail,
        passed: Passed,
        *,
        upstream: Upstream | None,
        helo: Ehlo | Helo | None,
        auth: AuthRecord | None,
        came: float,
        waited: float,
    ) -> None:
        """MAIL, and what became of it; when it came, and how long upstream took to answer it."""
        if self.open is not None:
            self.end()  # one that RSET in its group should have ended, and did not
        parties = self._parties
        if parties is None or not parties.fits(self._client, helo, auth, upstream):
            parties = self._parties = Parties(self.session, self._context, self._client, helo, auth, upstream)
        self.mail_refused = passed.reply.severity != 2
        id_ = self.new_id() if passed.plan is None else passed.plan.id
        self.open = Transaction(id_, self.session, self._context, parties, mail, passed, came, self._recording)
        self.open.upstream_seconds = waited
        if self.mail_refused:
            self.end()

    def end(self) -> None:
        """The open one is over, if there is one."""
        transaction, self.open = self.open, None
        if transaction is not None:
            transaction.over()
            self._ended.append(transaction)
            if transaction.acknowledged or transaction is self._unheard:
                self.tell()

    def said(self) -> None:
        """All replies so far were written to the client."""
        if self._recording is not None:
            self._recording.spill()
        self._unheard = None
        if self.open is not None:
            self.open.acknowledged = True
        if self._ended:
            for transaction in self._ended:
                transaction.acknowledged = True
            self.tell()

    def unsaid(self) -> None:
        """The replies so far never will be: a rule had them not written."""
        self._unheard = self.open
        self.tell()

    def spill(self) -> None:
        """Have it recorded what was said so far."""
        self.owes = False
        if self._recording is not None:
            self._recording.spill(-1)

    async def settle(self) -> None:
        """No message goes on: what there is of each can be told."""
        for transaction in (*self._ended, self.open):
            if transaction is not None:
                await transaction.settle()

    async def close(self) -> None:
        """The session is over: all that there was is told."""
        try:
            await self.settle()
        finally:
            self.end()
            self.tell()

    def tell(self) -> None:
        """Tell what became of those that have ended."""
        while self._ended:
            transaction = self._ended.pop(0)
            self.told += 1
            record = transaction.record()
            if self._recording is not None:
                self._recording.told(record, transaction.left_to_keep())
                self.owes = True
            self._context.reporter.transaction(record)
