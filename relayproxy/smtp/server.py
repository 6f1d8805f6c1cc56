"""`ServerProtocol` faces the client: octets to commands, replies to octets (RFC 5321 §4, RFC 2920, PROTOCOL §1.1 to §1.3).

Sans-IO. `receive_data` takes what came, `next_command` gives what is there: a command, a `Refused` (a line that is answered with
the reply it carries), or None when more is needed or a reply must go first. `send` makes the octets of a reply and moves the dialogue on. Behind
a 334 `next_response` gives what would be read as a command elsewhere (RFC 4954).

Invariants: one reply a command, in order (I6). After a command that must be last in its group nothing more is parsed until it is
answered (RFC 2920 §3.1). Mail data is told from commands by the dialogue alone, never by looking at it.
Deciding what to answer does not belong here, nor counting errors (relay/session.py).
"""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import CHECKED, Capabilities, check
from relayproxy.smtp.commands import Bdat, Command, Mail, parse_command, parse_response
from relayproxy.smtp.data import DataReader, DataSlice
from relayproxy.smtp.dialogue import Dialogue
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.lines import LineBuffer, LineTooLongError
from relayproxy.smtp.parameters import get

if TYPE_CHECKING:
    from relayproxy.smtp.commands import SaslCancel, SaslResponse
    from relayproxy.smtp.replies import Reply
    from relayproxy.smtp.tape import Kind, Tape

#: Octets of an over-long line that are read and forgotten before we give up on the client.
MAX_DISCARD = 64 * 1024
#: RFC 2920 §3.1: only these may have others behind them in a group; all else is answered before we read on.
GROUPABLE = frozenset({"MAIL", "RCPT", "RSET"})
#: Commands that an extension brings, and what they are told where it was not offered.
EXTENSIONS = {
    "STARTTLS": (b"STARTTLS", local_replies.NOT_IMPLEMENTED),
    "AUTH": (b"AUTH", local_replies.BAD_SEQUENCE),
    "BDAT": (b"CHUNKING", local_replies.NOT_IMPLEMENTED),
}
#: RFC 3207 §4, and what resets or tells nothing: all that is carried out where TLS is asked for and has not begun.
BEFORE_TLS = frozenset({"EHLO", "HELO", "HELP", "NOOP", "QUIT", "RSET", "STARTTLS"})
#: Commands that are told as more than plain lines (tape.py).
_TOLD: Final[dict[str, Kind]] = {"AUTH": "auth", "MAIL": "mail", "NOOP": "free", "HELP": "free", "VRFY": "free"}
_SASL: Final = frozenset({"AUTH", "RESPONSE", "CANCEL"})
#: The first octet of a ClientHello (RFC 8446 §5.1), and what is told of a client that begins with it.
TLS_HANDSHAKE = 22
BEGAN_TLS = (
    'the client began a TLS handshake, and this port speaks SMTP first (STARTTLS, or tls = "implicit" on the listener)'
)

# At the beginning of a line of whoever ends lines with a bare CR or LF too.
_FRAMING_VERB = re.compile(rb"(?:\A|[\r\n])[ \t\f\v]*(?:DATA|AUTH|STARTTLS)(?![A-Za-z])", re.IGNORECASE)


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A line that was no acceptable command: what it is answered, and why in words (nothing of the line is quoted).

    `command` is its parse where it had one. `fatal`: after the reply the connection is closed.
    """

    line: bytes
    reply: Reply
    what: str
    fatal: bool
    command: Command | None = None

    @property
    def changes_framing(self) -> bool:
        """Whether what follows was meant for something else than commands, had it not been refused (attacks 5, 6, 9)."""
        return _FRAMING_VERB.search(self.line) is not None


class ServerProtocol:
    """One client session's dialogue, as its server."""

    __slots__ = (
        "_ahead", "_blocked", "_ending", "_lines", "_max_data_line", "_new_lines", "_pending", "_reader", "_smtputf8", "_tape",
        "authenticated", "chunk", "dialogue", "needs_tls", "offered", "under_tls", "unoffered_auth",
    )  # fmt: skip

    def __init__(self, *, command_bytes: int, auth_bytes: int, line_bytes: int, tape: Tape | None = None) -> None:
        self.dialogue = Dialogue()
        #: What EHLO was answered; empty before it and after HELO.
        self.offered = Capabilities()
        #: What AUTH is told where it was not offered.
        self.unoffered_auth = local_replies.BAD_SEQUENCE
        #: AUTH has succeeded; there is no other one in a session (RFC 4954 §4).
        self.authenticated = False
        #: Octets of a chunk that are still to be taken (`take_chunk`): they are part of BDAT, also where that is refused (RFC 3030 §2).
        self.chunk = 0
        #: Whether TLS has begun, with STARTTLS or before the greeting.
        self.under_tls = False
        #: Whether nothing of a message is taken before that (RFC 3207 §4).
        self.needs_tls = False
        self._new_lines = partial(LineBuffer, command_bytes, MAX_DISCARD, auth_bytes)
        self._lines = self._new_lines()
        self._pending: deque[str] = deque(("GREETING",))
        self._blocked = True  # the last that is pending must be answered before anything behind it is read
        self._ending = False  # the last that is pending is fatal: with its answer the dialogue ends
        self._ahead = self.dialogue.place  # where the commands still unanswered lead if they succeed
        self._reader: DataReader | None = None
        self._smtputf8 = False
        self._max_data_line = line_bytes
        self._tape = tape

    def receive_data(self, data: bytes) -> None:
        """Take octets that came in command framing."""
        if self._tape is not None:
            self._tape.came(data)
        self._lines.feed(data)

    @property
    def unread(self) -> int:
        """Octets that have come and were not parsed yet."""
        return self._lines.held

    def next_group(self, most: int) -> list[Command | Refused]:
        """The commands that have come and are answered together (RFC 2920 §3.1), at most so many; none: as `next_command`."""
        group: list[Command | Refused] = []
        while len(group) < most and (command := self.next_command()) is not None:
            group.append(command)
            if self._blocked or not self._lines.held:
                break
        if self._tape is not None:
            self._tape.read(self._lines.untold)
        return group

    def next_command(self) -> Command | Refused | None:
        """The next line of the group, judged by what may come here; None: receive more, or answer what was given first.

        Behind BDAT, taken or refused, its chunk must be taken before it is answered.
        """
        if self._blocked or self.chunk:
            return None
        line = None
        command = None
        ahead = 0 if self._tape is None else self._lines.untold
        try:
            line = self._lines.next_line()
            if line is None:
                self._check_first_octet()
                return None
            command = parse_command(line)
            event = "BDAT LAST" if type(command) is Bdat and command.last else command.verb
            self._judge(command, event)
        except RemoteProtocolError as error:
            if isinstance(error, LineTooLongError):
                line = error.verb
            refused = self._refuse(line or b"", command, error)
            self._tell(ahead, "refused")
            return refused
        if self._tape is not None and event in _TOLD:
            self._tell(ahead, _TOLD[event])
        self._pending.append(event)
        if event in GROUPABLE:
            self._ahead = self._ahead.ways[event][2]
        else:
            self._blocked = True
            if isinstance(command, Bdat):
                self.chunk = command.size
        return command

    def next_response(self) -> SaslResponse | SaslCancel | Refused | None:
        """What the client says to our 334; None: receive more. A `Refused` ends the exchange."""
        line = None
        ahead = self._lines.untold
        try:
            line = self._lines.next_line(sasl=True)
            if line is None:
                return None
            response = parse_response(line)
        except RemoteProtocolError as error:
            refused = self._refuse(line or b"", None, error)
            self._pending[-1] = "CANCEL"
            self._tell(ahead, "sasl")
            return refused
        self._pending.append(response.verb)
        self._tell(ahead, "sasl")
        return response

    def _tell(self, ahead: int, kind: Kind) -> None:
        """A line was read that is not simply plain; `ahead` octets were unread before it."""
        if self._tape is not None:
            self._tape.read(ahead)
            self._tape.read(self._lines.untold, kind)

    def _check_first_octet(self) -> None:
        """A line that is not whole yet, and whose end may never come: TLS at a plain port, or some other protocol (attack 29)."""
        first = self._lines.peek()
        if first is not None and not (65 <= first <= 90 or 97 <= first <= 122 or first == 13):
            what = BEGAN_TLS if first == TLS_HANDSHAKE else "the line does not begin with a letter"
            raise RemoteProtocolError(what, local_replies.NOT_SMTP, fatal=True)

    def _judge(self, command: Command, event: str) -> None:
        verb = command.verb
        if event not in self._ahead.ways:
            raise RemoteProtocolError(
                f"{verb} out of sequence (transaction: {self._ahead.transaction})", local_replies.BAD_SEQUENCE
            )
        if verb in EXTENSIONS:
            if EXTENSIONS[verb][0] not in self.offered:
                # Who sends a chunk all the same has octets behind it, and none of them may be taken for a command.
                raise RemoteProtocolError(
                    f"{verb} was not offered", self._unoffered(verb), fatal=isinstance(command, Bdat)
                )
            if self.authenticated and verb in ("AUTH", "STARTTLS"):
                # RFC 3207 §4.2 wants what was proved in clear forgotten; upstream, which heard it, would not.
                raise RemoteProtocolError(f"{verb} after an AUTH that succeeded", local_replies.BAD_SEQUENCE)
        if self.needs_tls and verb not in BEFORE_TLS and not self.under_tls:
            raise RemoteProtocolError(f"{verb} before STARTTLS", local_replies.TLS_REQUIRED)
        if verb in CHECKED:
            check(command, self.offered, smtputf8=self._smtputf8)
        if type(command) is Mail:
            self._smtputf8 = bool(command.parameters) and get(command.parameters, b"SMTPUTF8") is not None

    def _unoffered(self, verb: str) -> Reply:
        """What an extension's command is told that was not offered."""
        if verb == "AUTH":
            return self.unoffered_auth
        return local_replies.BAD_SEQUENCE if verb == "STARTTLS" and self.under_tls else EXTENSIONS[verb][1]

    def _refuse(self, line: bytes, command: Command | None, error: RemoteProtocolError) -> Refused:
        self._pending.append("")
        self._blocked = True
        reply = error.reply
        if error.fatal:
            self._lines.clear()
            self._ending = True  # whatever still comes is not read; what came before is still answered
        elif self.dialogue.channel == "refused":
            reply = local_replies.BAD_SEQUENCE  # RFC 5321 §3.1: to all but QUIT, whatever it is
        if isinstance(command, Bdat) and not error.fatal:
            self.chunk = command.size
        return Refused(line, reply, error.what, error.fatal, command)

    def send(self, reply: Reply) -> bytes:
        """Answer the oldest command that has no reply yet (first of all the greeting): the octets to write.

        A 421 may also come unasked (RFC 5321 §3.8).
        """
        wire = reply.wire
        if self._tape is not None:
            self._tape.said(wire, self._kind(reply))
        self.pass_over(reply)
        return wire

    def pass_over(self, reply: Reply) -> None:
        """As `send`, where the reply is not written: a fault that was asked for."""
        if reply.code == 421:
            self._blocked = True
            self.dialogue.close()
            self._ahead = self.dialogue.place
            return
        if not self._pending:
            raise LocalProtocolError(f"a reply to nothing: {reply.code}")
        verb = self._pending.popleft()
        severity = reply.code // 100
        if verb and not self.dialogue.take(verb, severity) and severity < 4:
            raise LocalProtocolError(f"{verb} answered {reply.code}")
        if not self._pending:
            if self._ending:
                self.dialogue.close()
            self._ahead = place = self.dialogue.place
            self._blocked = place.channel == "closing"
        if severity == 3:
            if verb == "DATA":
                self._reader = DataReader(self._max_data_line, tells_dots=self._tape is not None)
            else:
                self._blocked = True  # what comes is no command
        elif severity == 2 and verb in ("AUTH", "RESPONSE"):
            self.authenticated = True

    def _kind(self, reply: Reply) -> Kind:
        """As what a reply is told: upstream's may repeat what was said in a SASL exchange."""
        if reply.code == 334:
            return "sasl"
        answered = self._pending[0] if self._pending else ""
        return "sasl-end" if answered in _SASL and reply.origin == "upstream" else "plain"

    def tls_started(self) -> None:
        """The handshake is done, before the greeting or behind STARTTLS: the session begins anew, but for the greeting (RFC 3207 §4.2).

        Nothing that was said in clear counts, nor what was sent in clear behind STARTTLS (attack 6): it is forgotten unread.
        """
        if self.dialogue.framing == "tls":
            self.dialogue.advance("TLS", 2)
            self._ahead = self.dialogue.place
        if self._tape is not None:
            self._tape.read(0, "unread")
        self.under_tls = True
        self.offered = Capabilities()
        self._lines = self._new_lines()
        self._smtputf8 = False

    def receive_mail_data(self, data: bytes) -> DataSlice:
        """Take octets that came in data framing; `send` answers the message once a slice has ended it."""
        if self._reader is None:
            raise LocalProtocolError("no mail data is expected")
        part = self._reader.feed(data)
        if self._tape is not None:
            self._tape.came(data)
            self._tape.read_data(len(part.rest), dots=self._reader.take_dots())
        if part.ended:
            self._pending.append("END")
            self._blocked = True
            self._lines.feed(part.rest)
        return part

    def cut_mail_data_short(self) -> None:
        """Answer the message before its end: only the reply and the end of the connection may follow."""
        self._pending.append("END")
        self._blocked = True

    def take_chunk(self) -> bytes:
        """What has come of the chunk; what is behind it are commands again."""
        octets = self._lines.take(self.chunk)
        self.chunk -= len(octets)
        if self._tape is not None and octets:
            self._tape.read_data(self._lines.held, chunk=True)
        return octets

    @property
    def mail_data(self) -> DataReader:
        """The reader of the message under way: its size, its violations. It is kept until the next DATA."""
        if self._reader is None:
            raise LocalProtocolError("no mail data is expected")
        return self._reader
