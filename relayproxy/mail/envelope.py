"""The envelope: who sends a message and who is to have it (RFC 5321 §2.3.1, §3.3), as one value.

It is the commands that make it up: addresses, parameters, their order and their octets stay as they came or as they leave. Replies to
recipients do not belong here (relay/transaction.py), nor how it is told (record/report.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Mail, Rcpt


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A MAIL and its RCPTs in order."""

    mail: Mail
    recipients: tuple[Rcpt, ...] = ()
