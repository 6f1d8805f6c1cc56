"""The built-in upstream `capture:`: the store itself takes the message, whole and durable, before it answers (DESIGN, named exception).

That is done where every message is recorded (keeping.py), before its end is said here: what is left is what a server would answer. Finding, listing and
retention do not belong here (record/store/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.relay.upstream import UNASKED
from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.commands import Rcpt
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.net.dial import Kind
    from relayproxy.relay.upstream import Progress, Violation
    from relayproxy.smtp.commands import Command
    from relayproxy.tls.facts import TlsFacts

#: What the captured can ask for: all that relayproxy offers at best.
CAPABILITIES = Capabilities.parse(
    Reply(250, (b"capture", b"PIPELINING", b"SIZE", b"8BITMIME", b"SMTPUTF8", b"DSN", b"ENHANCEDSTATUSCODES"))
)


class CaptureUpstream:
    """Takes the mail of one session."""

    kind: Kind = "capture"
    name = "capture"  # in the record: DESIGN §7
    host = None
    address = None
    port = None
    private = True
    failure: Reply | None = None
    trouble: str | None = None
    violation: Violation | None = None
    spent = False
    tls: TlsFacts | None = None
    withheld: Sequence[Command] = ()

    def __init__(self, admits: Callable[[bytes], bool] | None = None) -> None:
        """`admits`: the guard, by address: what it refuses is refused here too, so that a set-up can be tried."""
        self._admits = admits
        self.capabilities = CAPABILITIES
        self.progress: Progress = "none"
        self._id = ""

    def listen(self) -> None:
        """There is nobody to listen to."""

    async def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Reply]:
        del deadline  # nothing waits
        admits = self._admits
        return [
            local_replies.GUARDED
            if admits is not None and isinstance(command, Rcpt) and not admits(command.path.address)
            else UNASKED[command.verb]
            for command in commands
        ]

    async def start_data(self, transaction: str) -> Reply:
        self.progress = "begun"
        self._id = transaction
        return local_replies.START_MAIL

    async def send(self, data: bytes) -> Reply | None:
        del data
        return None

    async def finish(self, data: bytes) -> Reply:
        del data
        self.progress = "answered"
        return local_replies.captured(self._id)

    def drop(self) -> None:
        """There is nothing to close."""

    def expire(self) -> None:
        """Nothing waits here."""

    async def leave(self) -> None: ...
