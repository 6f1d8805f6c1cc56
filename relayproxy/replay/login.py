"""AUTH as a recorded server's place takes it: any credentials that have their mechanism's form, or one user's alone (RFC 4954; PLAIN RFC 4616, CRAM-MD5 RFC 2195).

Sans-IO. Invariants: what a client says is kept no longer than its exchange, and nowhere told; whether it is right takes as long as whether it is wrong.
What the last reply is does not belong here (conversation.py), nor watching an exchange for the record (smtp/sasl.py).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relayproxy.smtp import local_replies, sasl
from relayproxy.smtp.commands import SaslCancel, SaslResponse

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Auth
    from relayproxy.smtp.replies import Reply

#: By which credentials can be told right from wrong.
CHECKED: Final = b"PLAIN LOGIN CRAM-MD5"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The only right ones."""

    user: bytes
    password: bytes = field(repr=False)


class Exchange:
    """One AUTH. `reply`: what is to be said next; None once all was heard, and has its form: then `right` says whether it is right."""

    def __init__(self, command: Auth, nonce: bytes, credentials: Credentials | None) -> None:
        """`nonce`: unique, in angle brackets."""
        self.mechanism = command.mechanism
        self._credentials = credentials
        self._nonce = nonce
        self._witness = sasl.Witness(command.mechanism)
        self._prompts = [*sasl.prompts(command.mechanism, nonce)]
        self._heard: list[bytes] = []
        self.reply: Reply | None = None
        if command.initial is None:
            self._go_on()
        elif command.mechanism == b"CRAM-MD5":
            self.reply = local_replies.BAD_RESPONSE  # RFC 4954 §4: there is nothing yet to respond to
        else:
            self._prompts.pop(0)
            self._take(command.initial)

    def take(self, response: SaslResponse | SaslCancel) -> None:
        """What the client answered."""
        if isinstance(response, SaslCancel):
            self.reply = local_replies.AUTH_CANCELLED
        else:
            self._take(response.octets)

    def _take(self, line: bytes) -> None:
        self._witness.hear(line)
        self._heard.append(line)
        self._go_on()

    def _go_on(self) -> None:
        if self._prompts:
            self.reply = local_replies.challenge(sasl.encode(self._prompts.pop(0)))
        else:
            self.reply = None if self._witness.fits else local_replies.BAD_RESPONSE

    @property
    def right(self) -> bool:
        """Where none are given, any are."""
        if self._credentials is None:
            return True
        given, (user, password) = [sasl.decode(line) for line in self._heard], self._expected(self._credentials)
        match self.mechanism, given:
            case b"PLAIN", [message]:
                _, said_user, said_password = message.split(b"\0")
            case b"LOGIN", [said_user, said_password]:
                pass
            case b"CRAM-MD5", [response]:
                said_user, _, said_password = response.rpartition(b" ")
                said_password = said_password.lower()
            case _:
                return False
        # Both, whatever the first says: which of them is wrong is nobody's to measure.
        return bool(hmac.compare_digest(said_user, user) & hmac.compare_digest(said_password, password))

    def _expected(self, credentials: Credentials) -> tuple[bytes, bytes]:
        if self.mechanism != b"CRAM-MD5":
            return credentials.user, credentials.password
        digest = hmac.new(credentials.password, self._nonce, hashlib.md5).hexdigest()
        return credentials.user, digest.encode("ascii")
