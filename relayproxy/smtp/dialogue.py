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
#: "BDAT LAST" is the chunk with LAST; RESPONSE and CANCEL are lines of a SASL exchange (RFC 4954 §4: base64, "*"). XCLIENT and XFORWARD are
#: said to upstream only (carriers.py).
Event = Literal[
    "GREETING", "TLS", "END",
    "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "BDAT LAST", "RSET", "NOOP", "VRFY", "HELP", "QUIT", "STARTTLS", "AUTH", "RESPONSE", "CANCEL",
    "XCLIENT", "XFORWARD",
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
    **{("extended", line): {**_stays("extended"), 3: "extended"} for line in ("AUTH", "RESPONSE")},
    ("extended", "CANCEL"): {4: "extended", 5: "extended"},
    # PROTOCOL §1.10: behind XCLIENT the server has forgotten us, and the session begins again with EHLO.
    ("extended", "XCLIENT"): _becomes("greeted", "extended"),
    ("extended", "XFORWARD"): _stays("extended"),
    **{(state, "QUIT"): _stays("closing") for state in ("refused", *_SESSION)},
}

_OPEN: Final = ("none", "mail", "rcpt", "bdat", "failed")

TRANSACTION: Final[Table] = {
    ("none", "MAIL"): _becomes("mail", "none"),
    ("mail", "RCPT"): _becomes("rcpt", "mail"),
    ("rcpt", "RCPT"): _stays("rcpt"),
    ("rcpt", "DATA"): {3: "data", 4: "rcpt", 5: "rcpt"},
    ("data", "END"): _stays("none"),
    # RFC 3030 §2: after a refused chunk all others fail too, up to LAST or RSET. So does one that no recipient was accepted for.
    ("mail", "BDAT"): {4: "failed", 5: "failed"},
    ("mail", "BDAT LAST"): {4: "none", 5: "none"},
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
    **{("none", line): {**_stays("none"), 3: "none"} for line in ("AUTH", "RESPONSE")},
    ("none", "CANCEL"): {4: "none", 5: "none"},
    # PROTOCOL §1.10: who the client is changes between transactions only.
    **{("none", carrier): _stays("none") for carrier in ("XCLIENT", "XFORWARD")},
    ("none", "GREETING"): _stays("none"),
    ("none", "TLS"): _stays("none"),
}

FRAMING: Final[Table] = {
    ("command", "DATA"): {3: "data", 4: "command", 5: "command"},
    ("data", "END"): _stays("command"),
    ("command", "AUTH"): {**_stays("command"), 3: "sasl"},
    ("sasl", "RESPONSE"): {**_stays("command"), 3: "sasl"},
    # Who answers "*" with 235 has not understood it.
    ("sasl", "CANCEL"): {4: "command", 5: "command"},
    ("command", "STARTTLS"): _becomes("tls", "command"),
    ("tls", "TLS"): _stays("command"),
    **{
        ("command", verb): _stays("command")
        for verb in (
            "GREETING",
            "EHLO",
            "HELO",
            "MAIL",
            "RCPT",
            "BDAT",
            "BDAT LAST",
            "RSET",
            "NOOP",
            "VRFY",
            "HELP",
            "QUIT",
            "XCLIENT",
            "XFORWARD",
        )
    },
}


class Place:
    """A state of all three machines at once, with the ways that lead on: event -> severity of the reply -> place. One object a state: moving is one look-up."""

    __slots__ = ("channel", "framing", "transaction", "ways")

    def __init__(self, channel: str, transaction: str, framing: str) -> None:
        self.channel = channel
        self.transaction = transaction
        self.framing = framing
        self.ways: dict[str, dict[int, Place]] = {}


def _connect(places: dict[tuple[str, str, str], Place], state: tuple[str, str, str]) -> Place:
    """The place of a state, with all that can be reached from it."""
    if (place := places.get(state)) is not None:
        return place
    place = places[state] = Place(*state)
    channel, transaction, framing = state
    for event in EVENTS:
        rows = CHANNEL.get((channel, event)), TRANSACTION.get((transaction, event)), FRAMING.get((framing, event))
        if rows[0] is None or rows[1] is None or rows[2] is None:
            continue
        common = rows[0].keys() & rows[1].keys() & rows[2].keys()
        place.ways[event] = {
            severity: _connect(places, (rows[0][severity], rows[1][severity], rows[2][severity])) for severity in common
        }
    return place


_START: Final = _connect({}, ("connected", "none", "command"))


class Dialogue:
    """Where a leg's conversation stands: `place`. `advance` takes one command and the severity of its reply."""

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = _START

    @property
    def channel(self) -> str:
        return self.place.channel

    @property
    def transaction(self) -> str:
        return self.place.transaction

    @property
    def framing(self) -> str:
        return self.place.framing

    def close(self) -> None:
        """Nothing has a place any more: 421 was said, or the peer broke the protocol for good."""
        self.place = Place("closing", self.place.transaction, self.place.framing)

    def admits(self, event: str) -> bool:
        """Whether the event has a place now."""
        return event in self.place.ways

    def take(self, event: str, severity: int) -> bool:
        """Take the event with its reply, if they have a place here; whether they had one."""
        row = self.place.ways.get(event)
        if row is None or (place := row.get(severity)) is None:
            return False
        self.place = place
        return True

    def advance(self, event: str, severity: int) -> None:
        """Take the event with its reply. What has no place raises LocalProtocolError and changes nothing."""
        if not self.take(event, severity):
            place = self.place
            raise LocalProtocolError(
                f"{event} answered {severity}yz has no place in {place.channel}/{place.transaction}/{place.framing}"
            )
