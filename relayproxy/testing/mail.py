"""A transaction as a test looks at it: who wrote to whom, what became of it, and the message, parsed by whoever knows mail best in Python, the standard library.

How mail is found does not belong here (relay.py).
"""

from __future__ import annotations

from email import message_from_bytes, policy
from functools import cached_property
from typing import TYPE_CHECKING

from relayproxy.record.console import console_line

if TYPE_CHECKING:
    from email.message import EmailMessage

    from relayproxy.record.report import Outcome, TransactionRecord
    from relayproxy.record.store.interface import Stored
    from relayproxy.record.store.opening import Store


class Mail:
    """One that came. `record`: all that is told of it (`relayproxy schema record`)."""

    def __init__(self, stored: Stored, store: Store) -> None:
        self.record: TransactionRecord = stored.record
        self._stored = stored
        self._store = store

    @property
    def sender(self) -> str:
        """The reverse-path, as the application said it; "" is the null sender."""
        return self.record.envelope.received.sender

    @property
    def recipients(self) -> list[str]:
        """The forward-paths, as the application said them."""
        return [one.address for one in self.record.envelope.received.recipients]

    @property
    def outcome(self) -> Outcome:
        """accepted, rejected, tempfailed, held, discarded, aborted or unknown."""
        return self.record.outcome

    @cached_property
    def content(self) -> bytes:
        """The message as the application sent it, octet for octet. Raises LookupError where none came."""
        if (octets := self._read(sent=False)) is None:
            raise LookupError(f"no message is kept of {self!r}")
        return octets

    @cached_property
    def sent(self) -> bytes | None:
        """The message as it left, with what rules changed; None where it did not."""
        return self._read(sent=True)

    @cached_property
    def message(self) -> EmailMessage:
        """`content`, parsed: message["Subject"], message.get_body().get_content(), message.iter_attachments()."""
        return message_from_bytes(self.content, policy=policy.default)

    def _read(self, *, sent: bool) -> bytes | None:
        with self._store.reader() as reader:
            pieces = reader.message(self._stored, sent=sent)
            return None if pieces is None else b"".join(pieces)

    def __repr__(self) -> str:
        return f"<mail {console_line(self.record, colour=False)}>"
