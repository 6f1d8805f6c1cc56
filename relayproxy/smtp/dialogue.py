"""The SMTP dialogue as data: three small machines, each a table `(state, event) -> {severity of the reply -> state}`.

* **channel**: greeting, EHLO, TLS, AUTH, QUIT: what kind of session this is (RFC 5321 §3.1, §3.2, RFC 3207, RFC 4954).
* **transaction**: MAIL, RCPT, DATA or BDAT, the reply to the message (RFC 5321 §3.3, §4.1.4, RFC 3030).
* **framing**: whether the client's next octets are a command line, mail data, a SASL response or TLS. (A chunk's octets are
  part of its command: they follow at once, whatever the reply.)

Both legs use the same tables: facing the client an event is a command that it sent and the reply that we wrote, facing upstream one
that we sent and the reply that came. Replies count by severity (the first digit), so that codes nobody knows relay (RFC 5321 §4.2.1).

Invariants: a command without a row in the present states is out of sequence (503). A severity without a column is a
reply that the protocol does not have at that place: the peer is broken. Reset is total: RSET, EHLO, HELO, STARTTLS and every reply to
the message, refusals included, lead to the transaction "none" (PROTOCOL I12).
What a line means does not belong here (commands.py), nor what is answered (the relay decides).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from relayproxy.smtp.errors import LocalProtocolError

Channel = Literal["connected", "refused", "greeted", "basic", "extended", "handshake", "closing"]
Transaction = Literal["none", "mail", "rcpt", "data", "bdat", "failed"]
Framing = Literal["command", "data", "sasl", "tls"]
#: A command, or one of the three moments that are no command: the greeting, the end of the TLS handshake, the end of mail data.
#: "BDAT LAST" is the chunk with LAST.
Event = Literal[
    "GREETING", "TLS", "END",
    "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "BDAT LAST", "RSET", "NOOP", "VRFY", "HELP", "QUIT", "STARTTLS", "AUTH",
]  # fmt: skip

EVENTS: Final[tuple[str, ...]] = get_args(Event)
Row = dict[int, str]
Table = dict[tuple[str, str], Row]


def _stays(state: str) -> Row:
    return {2: state, 4: state, 5: state}


def _becomes(done: str, refused: str) -> Row:
    return {2: done, 4: refused, 5: refused}


_SESSION: Final = ("greeted", "basic", "extended")

CHANNEL: Final[Table] = {
    # A greeting of 5yz (521, 554: RFC 7504) leaves nothing but QUIT; one of 4yz closes.
    ("connected", "GREETING"): {2: "greeted", 4: "closing", 5: "refused"},
    **{(state, "EHLO"): _becomes("extended", state) for state in _SESSION},
    **{(state, "HELO"): _becomes("basic", state) for state in _SESSION},
    **{(state, verb): _stays(state) for state in _SESSION for verb in ("RSET", "NOOP", "VRFY", "HELP")},
    **{
        (state, verb): {**_stays(state), 3: state} if verb == "DATA" else _stays(state)
        for state in ("basic", "extended")
        for verb in ("MAIL", "RCPT", "DATA", "END", "BDAT", "BDAT LAST")
    },
    # RFC 3207 §4.2: after the handshake the session begins again, but for the greeting.
    ("extended", "STARTTLS"): _becomes("handshake", "extended"),
    ("handshake", "TLS"): {2: "greeted"},
    ("extended", "AUTH"): {**_stays("extended"), 3: "extended"},
    **{(state, "QUIT"): _stays("closing") for state in ("refused", *_SESSION)},
}

_OPEN: Final = ("none", "mail", "rcpt", "bdat", "failed")

TRANSACTION: Final[Table] = {
    ("none", "MAIL"): _becomes("mail", "none"),
    ("mail", "RCPT"): _becomes("rcpt", "mail"),
    ("rcpt", "RCPT"): _stays("rcpt"),
    ("rcpt", "DATA"): {3: "data", 4: "rcpt", 5: "rcpt"},
    ("data", "END"): _stays("none"),
    # RFC 3030 §2: after a refused chunk all others fail too, up to LAST or RSET.
    ("rcpt", "BDAT"): _becomes("bdat", "failed"),
    ("bdat", "BDAT"): _becomes("bdat", "failed"),
    ("failed", "BDAT"): {4: "failed", 5: "failed"},
    ("rcpt", "BDAT LAST"): _stays("none"),
    ("bdat", "BDAT LAST"): _stays("none"),
    ("failed", "BDAT LAST"): {4: "none", 5: "none"},
    **{(state, verb): _becomes("none", state) for state in _OPEN for verb in ("RSET", "EHLO", "HELO", "STARTTLS")},
    **{(state, verb): _stays(state) for state in _OPEN for verb in ("NOOP", "VRFY", "HELP")},
    **{(state, "QUIT"): _stays("none") for state in _OPEN},
    # RFC 4954 §4: no AUTH inside a transaction.
    ("none", "AUTH"): {**_stays("none"), 3: "none"},
    ("none", "GREETING"): _stays("none"),
    ("none", "TLS"): _stays("none"),
}

FRAMING: Final[Table] = {
    ("command", "DATA"): {3: "data", 4: "command", 5: "command"},
    ("data", "END"): _stays("command"),
    ("command", "AUTH"): {**_stays("command"), 3: "sasl"},
    ("sasl", "AUTH"): {**_stays("command"), 3: "sasl"},
    ("command", "STARTTLS"): _becomes("tls", "command"),
    ("tls", "TLS"): _stays("command"),
    **{
        ("command", verb): _stays("command")
        for verb in ("GREETING", "EHLO", "HELO", "MAIL", "RCPT", "BDAT", "BDAT LAST", "RSET", "NOOP", "VRFY", "HELP", "QUIT")
    },
}


class Dialogue:
    """Where a leg's conversation stands. `advance` takes one command and the severity of its reply."""

    __slots__ = ("channel", "framing", "transaction")

    def __init__(self) -> None:
        self.channel: str = "connected"
        self.transaction: str = "none"
        self.framing: str = "command"

    def admits(self, event: str, transaction: str | None = None) -> bool:
        """Whether the event has a place now; `transaction` is where the commands still unanswered will have led."""
        return (
            (self.transaction if transaction is None else transaction, event) in TRANSACTION
            and (self.channel, event) in CHANNEL
            and (self.framing, event) in FRAMING
        )

    def allows(self, event: str, severity: int) -> bool:
        """Whether the protocol has a reply of this severity to the event, here."""
        row = TRANSACTION.get((self.transaction, event))
        return row is not None and severity in row and severity in CHANNEL.get((self.channel, event), ())

    def advance(self, event: str, severity: int) -> None:
        """Take the event with its reply. An event or a severity without a place raises LocalProtocolError: check first."""
        try:
            channel = CHANNEL[self.channel, event][severity]
            transaction = TRANSACTION[self.transaction, event][severity]
            framing = FRAMING[self.framing, event][severity]
        except KeyError:
            raise LocalProtocolError(
                f"{event} answered {severity}yz has no place in {self.channel}/{self.transaction}/{self.framing}"
            ) from None
        self.channel, self.transaction, self.framing = channel, transaction, framing
