"""`ClientProtocol` faces upstream: commands to octets, octets to replies (RFC 5321 §4, RFC 2920, PROTOCOL §1.3, §1.6).

Sans-IO. `send` makes the octets of a command and remembers that a reply is owed; `receive_data` takes what came, `next_reply` gives the
reply to the oldest command.

Invariants: replies are matched by count, never by code (I6). A reply nobody waits for, one whose severity has no place, and one that
breaks the grammar all mean that the two sides no longer agree what has been answered: RemoteProtocolError, and the connection is dead.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from relayproxy.smtp import local_replies
from relayproxy.smtp.data import END_OF_DATA
from relayproxy.smtp.dialogue import Dialogue
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.replies import Reply, ReplyReader

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.tape import Kind, Tape

#: RFC 4954 §4: replies that have no meaning elsewhere, and what they answer. All else counts by severity.
_SASL_CODES: Final = frozenset({235, 334})
_SASL_EVENTS: Final = frozenset({"AUTH", "RESPONSE"})
#: Commands that are told as more than plain lines (tape.py).
_SAID: Final[dict[str, Kind]] = {"AUTH": "auth", "RESPONSE": "sasl", "CANCEL": "sasl", "MAIL": "mail", "VRFY": "free"}


class ClientProtocol:
    """One upstream connection's dialogue, as its client. The first reply owed is the greeting."""

    __slots__ = ("_ahead", "_broken", "_ehlo_keywords", "_new_reader", "_owed", "_replies", "_tape", "dialogue")

    def __init__(self, *, reply_bytes: int, reply_lines: int, ehlo_keywords: int, tape: Tape | None = None) -> None:
        self.dialogue = Dialogue()
        self._new_reader = partial(ReplyReader, max_bytes=reply_bytes, max_lines=reply_lines)
        self._replies = self._new_reader()
        self._owed: deque[str] = deque(("GREETING",))
        self._ahead = self.dialogue.place  # where the commands still unanswered lead if they succeed
        self._broken: RemoteProtocolError | None = None
        self._ehlo_keywords = ehlo_keywords
        self._tape = tape

    @property
    def owed(self) -> int:
        """How many replies are outstanding."""
        return len(self._owed)

    def send(self, command: Command) -> bytes:
        """The octets of a command. Several may be outstanding where the server offers PIPELINING; the caller sees to that."""
        verb = command.verb
        if verb not in self._ahead.ways:
            raise LocalProtocolError(f"{verb} out of sequence (transaction: {self._ahead.transaction})")
        octets = command.wire()
        self._owe(verb)
        if self._tape is not None:
            self._tape.said(octets, _SAID.get(verb, "plain"))
        return octets

    def mail_data(self, data: bytes) -> bytes:
        """Mail data as on the wire, about to be sent."""
        if self._tape is not None and data:
            self._tape.said_data(data)
        return data

    def end_of_data(self) -> bytes:
        """The line that ends mail data, which must have ended in CRLF (or be empty). Past this point upstream may have the message."""
        if not self.dialogue.admits("END"):
            raise LocalProtocolError("end of data outside of mail data")
        self._owe("END")
        if self._tape is not None:
            self._tape.said_data(END_OF_DATA, end=True)
        return END_OF_DATA

    def _owe(self, verb: str) -> None:
        if self._broken is not None or (self._replies.held and not self._owed):
            self.check_silence()
        self._owed.append(verb)
        self._ahead = self._ahead.ways[verb].get(2, self._ahead)

    @property
    def unread(self) -> int:
        """Octets that have come and belong to no reply that was given."""
        return self._replies.held

    def receive_data(self, data: bytes) -> None:
        if self._tape is not None:
            self._tape.came(data)
        self._replies.feed(data)

    @property
    def refusing(self) -> bool:
        """Whether octets have come that are no whole reply yet, and begin like a refusal."""
        return self._replies.begun in (b"4", b"5")

    def next_reply(self) -> Reply | None:
        """The reply to the oldest command, once it is whole.

        Raises RemoteProtocolError (always fatal) for anything that the protocol does not have here.
        """
        if not self._owed:
            self.check_silence()
            return None
        reply = self._replies.next_reply()
        if reply is None:
            return None
        verb = self._owed.popleft()
        if self._tape is not None:
            self._tape.read(self._replies.held, _kind(verb, reply))
        if verb == "EHLO" and len(reply.lines) > self._ehlo_keywords + 1:
            raise RemoteProtocolError(
                f"the server offered more than {self._ehlo_keywords} extensions",
                local_replies.UPSTREAM_VIOLATION,
                fatal=True,
            )
        severity = reply.code // 100
        if reply.code == 421:
            self.dialogue.close()
            self._ahead = self.dialogue.place
            return reply
        # In an AUTH exchange nothing else means yes, or go on; and elsewhere these mean nothing (RFC 4954 §4).
        fits = (reply.code in _SASL_CODES) == (verb in _SASL_EVENTS and severity < 4)
        taken = fits and self.dialogue.take(verb, severity)
        if not taken and (severity < 4 or self.dialogue.admits(verb)):
            # A refusal always has a place: RCPT behind a refused MAIL of the same group is out of sequence, and is told so.
            raise RemoteProtocolError(
                f"the server answered {reply.code} to {verb}", local_replies.UPSTREAM_VIOLATION, fatal=True
            )
        if not self._owed:
            self._ahead = self.dialogue.place
        return reply

    def early_reply(self) -> Reply | None:
        """A refusal that came while mail data was still being sent, once it is whole (PROTOCOL §1.6).

        An early 2yz or 3yz is never believed: RemoteProtocolError.
        """
        reply = self._replies.next_reply()
        if reply is not None and self._tape is not None:
            self._tape.read(self._replies.held)
        if reply is not None and reply.severity not in (4, 5):
            raise RemoteProtocolError(
                f"the server answered {reply.code} before the end of data", local_replies.UPSTREAM_VIOLATION, fatal=True
            )
        return reply

    def tls_started(self) -> None:
        """The handshake behind STARTTLS is done: nothing heard in clear counts any more (RFC 3207 §4.2, attack 7).

        What came behind the 220 must have been refused before the handshake (`check_silence`).
        """
        self.dialogue.advance("TLS", 2)
        self._ahead = self.dialogue.place
        self._replies = self._new_reader()
        if self._tape is not None:
            self._tape.read(0, "unread")

    def check_silence(self) -> None:
        """Raise RemoteProtocolError where something has come that no command asked for; from then on it is always raised."""
        if not self._owed and self._replies.held:
            self._broken = self._broken or self._surplus()
        if self._broken is not None:
            raise self._broken

    def _surplus(self) -> RemoteProtocolError:
        """Octets that no command asked for; where they are a 421 the client is told just that (RFC 5321 §3.8)."""
        try:
            reply = self._replies.next_reply()
        except RemoteProtocolError as error:
            return error
        if reply is not None and reply.code == 421:
            return RemoteProtocolError("the server closed the session", reply, fatal=True)
        return RemoteProtocolError(
            "the server sent a reply that nothing asked for", local_replies.UPSTREAM_VIOLATION, fatal=True
        )


def _kind(verb: str, reply: Reply) -> Kind:
    """As what a reply is told: one to a SASL exchange may repeat what was said in it."""
    if verb not in _SASL_EVENTS and verb != "CANCEL":
        return "plain"
    return "sasl" if reply.code == 334 else "sasl-end"
