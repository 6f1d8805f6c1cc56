"""The envelope: who sends a message and who is to have it (RFC 5321 §2.3.1, §3.3), as one value.

Made of what MAIL and RCPT said, and turned into them again. Invariants: addresses, the order of recipients and the octets and order of parameters
stay as they came; nothing here is checked twice (smtp/commands.py parses, and parses again what it writes).
Replies to recipients do not belong here, nor what rules make of an envelope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relayproxy.smtp.commands import Mail, Parameters, Path, Rcpt

if TYPE_CHECKING:
    from collections.abc import Iterable


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """A forward-path and the parameters that came with it."""

    path: Path
    parameters: Parameters = ()

    @classmethod
    def of(cls, command: Rcpt) -> Recipient:
        return cls(command.path, command.parameters)

    @property
    def command(self) -> Rcpt:
        return Rcpt(self.path, self.parameters)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A reverse-path (both parts empty: the null one) with MAIL's parameters, and the recipients in order."""

    sender: Path
    parameters: Parameters = ()
    recipients: tuple[Recipient, ...] = ()

    @classmethod
    def of(cls, mail: Mail, recipients: Iterable[Rcpt]) -> Envelope:
        return cls(mail.path, mail.parameters, tuple([Recipient.of(command) for command in recipients]))

    @property
    def commands(self) -> tuple[Mail | Rcpt, ...]:
        """MAIL and one RCPT for each recipient."""
        return (Mail(self.sender, self.parameters), *[recipient.command for recipient in self.recipients])

    @property
    def is_ascii(self) -> bool:
        """Whether all addresses may travel without SMTPUTF8 (RFC 6531 §3.1)."""
        return self.sender.is_ascii and all(recipient.path.is_ascii for recipient in self.recipients)
