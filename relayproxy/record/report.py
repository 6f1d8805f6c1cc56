r"""What is told of the traffic: one JSON object a line (DESIGN §7).

The transaction line is the log line and the stored document; the other lines share its ids. `"v": 1`, additive only: a reader
ignores keys that it does not know, and no key changes its meaning.

Theory of operation: the structs below *are* the format. report_lines.py's `schema()` is derived from them, so a key that is written and one that is
promised cannot differ; the `..._of` functions make them of what was parsed, and `encode` gives the line.

Invariants: octets become text in one way only (`text`), so that nothing is lost and nothing on the wire can pass for a line of ours
(attack 22): no line break, control or bidirectional character leaves `encode` unescaped. What may carry a secret is redacted before it gets
here (redact.py), but for MAIL's AUTH= (RFC 4954 §5), which `parameters_of` blanks. Pure: no clock, no I/O.
Writing lines does not belong here (log.py), nor how they look on a terminal (console.py), nor when something is told (relay/).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relayproxy.record.redact import is_identity
from relayproxy.record.report_tls import ClientTlsRecord, UpstreamTlsRecord  # noqa: TC001 - as Origin
from relayproxy.record.text import json_line, text
from relayproxy.smtp.replies import Origin  # noqa: TC001 - msgspec reads annotations when it runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.mail.envelope import Envelope
    from relayproxy.smtp.commands import Parameters, Rcpt
    from relayproxy.smtp.replies import Reply

#: DESIGN §2.
Outcome = Literal["accepted", "rejected", "tempfailed", "discarded", "held", "aborted", "unknown"]
#: Of a try to release what is held. aborted: given up before its end left; unknown: its end may have left, and nobody has seen what it was answered.
ReleaseOutcome = Literal["accepted", "rejected", "tempfailed", "aborted", "unknown"]
Level = Literal["debug", "info", "warning", "error"]
Leg = Literal["client", "upstream"]
#: accepted: 2yz; refused: 5yz to what was said; cancelled: "*", or a line that had no place; failed: 4yz, or somebody left.
AuthOutcome = Literal["accepted", "refused", "cancelled", "failed"]

Version = Annotated[Literal[1], Meta(description="of this format; additive only")]
Time = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        description="UTC, always with six decimals, so that the order of texts is the order of times",
    ),
]
SessionId = Annotated[str, Meta(description="the session's id; it selects all of the session's transactions")]
TransactionId = Annotated[str, Meta(description="the transaction's id; it is in our Received field too")]
Octets = Annotated[int, Meta(ge=0, description="octets")]
Seconds = Annotated[float, Meta(ge=0, description="seconds")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Address = Annotated[str, Meta(description="an IP address, or the path of a Unix socket")]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of unstuffed octets, in hexadecimal")]
ParametersRecord = Annotated[
    dict[str, str | None],
    Meta(description="ESMTP parameters by their keywords in upper case; null for one without a value"),
]


class Part(msgspec.Struct, frozen=True, gc=False):
    """A piece of a line. Nothing in it refers to itself, so the garbage collector need not look (PERFORMANCE.md)."""


# What was said.


class ReplyRecord(Part, frozen=True, gc=False):
    r"""An SMTP reply; lines of a multi-line one are joined by "\n", the enhanced code is not in the text."""

    code: Annotated[int, Meta(ge=200, le=599)]
    enhanced: Annotated[str | None, Meta(description="enhanced status code (RFC 3463)")]
    text: str
    origin: Annotated[Origin, Meta(description="who made it: the upstream server, relayproxy itself, or a rule")]


class AuthRecord(Part, frozen=True, gc=False):
    """Who the client says it is (RFC 4954); never with what."""

    mechanism: str
    user: str | None


class ClientRecord(Part, frozen=True, gc=False):
    """Who speaks to us."""

    address: Address
    port: Port | None
    helo: Annotated[str | None, Meta(description="the name given in EHLO or HELO")] = None
    tls: ClientTlsRecord | None = None
    auth: AuthRecord | None = None


class UpstreamRecord(Part, frozen=True, gc=False):
    """Whom we speak to; `capture` where the message stays with us."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    host: str | None = None
    address: Address | None = None
    port: Port | None = None
    tls: UpstreamTlsRecord | None = None


class AddressRecord(Part, frozen=True, gc=False):
    """A forward-path, and what its RCPT carried (RFC 3461)."""

    address: str
    parameters: ParametersRecord


class EnvelopeRecord(Part, frozen=True, gc=False):
    """MAIL and every RCPT (RFC 5321 §2.3.1)."""

    sender: Annotated[str, Meta(description='the reverse-path; "" is the null sender')]
    parameters: ParametersRecord
    recipients: tuple[AddressRecord, ...]


class EnvelopesRecord(Part, frozen=True, gc=False):
    """Before and after us."""

    received: EnvelopeRecord
    sent: Annotated[EnvelopeRecord | None, Meta(description="null where no MAIL went upstream")]


class RecipientRecord(Part, frozen=True, gc=False):
    """What became of one recipient: of the client's, or one that a rule added and of which the guard kept the copy."""

    received: str
    sent: Annotated[tuple[str, ...], Meta(description="the addresses that went upstream in its place")]
    reply: Annotated[ReplyRecord | None, Meta(description="what the client heard; null where it heard nothing")]
    captured: Annotated[bool, Meta(description="the guard kept its copy")] | UnsetType = UNSET


class SizeRecord(Part, frozen=True, gc=False):
    """The message as RFC 1870 counts it."""

    received: Octets
    sent: Annotated[Octets | None, Meta(description="null where the message never left as a whole")]


class DigestRecord(Part, frozen=True, gc=False):
    """Header section and body, each without the empty line between them."""

    header: Sha256
    body: Sha256


class DigestsRecord(Part, frozen=True, gc=False):
    """An untouched body has the same digest on both sides."""

    received: Annotated[DigestRecord | None, Meta(description="null where it did not come as a whole")]
    sent: Annotated[DigestRecord | None, Meta(description="null where it never left as a whole")]


class MessageRecord(Part, frozen=True, gc=False):
    """The message, as far as it was received."""

    id: Annotated[str | None, Meta(description="Message-ID")]
    subject: Annotated[str | None, Meta(description="decoded (RFC 2047)")]
    size: SizeRecord
    digest: DigestsRecord
    headers_changed: Annotated[
        tuple[str, ...], Meta(description="fields that rules touched; our Received is not listed")
    ] = ()
    malformed: (
        Annotated[bool, Meta(description="the header section breaks the grammar; it passed as it came")] | UnsetType
    ) = UNSET
    truncated: Annotated[bool, Meta(description="it could not all be recorded")] | UnsetType = UNSET


class RuleRecord(Part, frozen=True, gc=False):
    """A rule that did something."""

    name: str
    actions: tuple[str, ...]


class ReleaseRecord(Part, frozen=True, gc=False):
    """A try to send on what is held. It is written before anything is sent, as unknown, and again when it is over."""

    time: Annotated[Time, Meta(description="when it began")]
    upstream: Annotated[str, Meta(description="the server's name in the configuration")]
    to: Annotated[tuple[str, ...], Meta(description="its recipients")]
    outcome: Annotated[ReleaseOutcome, Meta(description='"unknown": it may have left; it goes again only if asked to')]
    reply: Annotated[ReplyRecord | None, Meta(description="the server's: to the message, or what stopped it")] = None
    why: Annotated[str | None, Meta(description="why it did not go, in words")] = None


class HeldRecord(Part, frozen=True, gc=False):
    """What a rule keeps until somebody releases it."""

    reason: str
    envelope: Annotated[EnvelopeRecord, Meta(description="as it would have left")]
    released: Annotated[tuple[ReleaseRecord, ...], Meta(description="the tries to send it on, in order")] = ()
    upstream: Annotated[
        str | None, Meta(description="where a rule routes it, by name; null: to the listener's own upstream")
    ] = None
    guarded: Annotated[bool, Meta(description="a guard was in force: it is released behind one, too")] = False

    @property
    def waits(self) -> bool:
        """Whether nobody has taken it yet, as far as is known."""
        return all(release.outcome != "accepted" for release in self.released)


class SecondsRecord(Part, frozen=True, gc=False):
    """How long it took."""

    total: Annotated[Seconds, Meta(description="from MAIL to the last reply")]
    upstream: Annotated[Seconds, Meta(description="of that, waiting for upstream")]


# The line.


class TransactionRecord(Part, frozen=True, gc=False, kw_only=True):
    """One transaction: MAIL up to the reply to end of data, or as far as it came."""

    v: Version = 1
    event: Literal["transaction"] = "transaction"
    time: Annotated[Time, Meta(description="when MAIL came")]
    session: SessionId
    transaction: TransactionId
    listener: str
    worker: int = 0
    client: ClientRecord
    upstream: Annotated[UpstreamRecord | None, Meta(description="null where none was reached")]
    envelope: EnvelopesRecord
    recipients: tuple[RecipientRecord, ...]
    message: Annotated[MessageRecord | None, Meta(description="null where no message was sent")]
    rules: tuple[RuleRecord, ...] = ()
    tags: tuple[str, ...] = ()
    held: Annotated[HeldRecord, Meta(description="of a message that a rule holds")] | UnsetType = UNSET
    reply: Annotated[ReplyRecord | None, Meta(description="the last that the client heard of it, or was to hear")]
    outcome: Annotated[Outcome, Meta(description='"unknown": the final dot left, the reply was never seen')]
    acknowledged: Annotated[bool, Meta(description="whether that reply was written to the client")]
    seconds: SecondsRecord

    @property
    def waits(self) -> bool:
        """Whether it is held, and nobody has taken it yet, as far as is known."""
        return self.outcome == "held" and (self.held is UNSET or self.held.waits)


# Of what was parsed.


def timestamp(nanoseconds: int) -> str:
    """A `time` of nanoseconds since 1970 (what `time.time_ns` gives)."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=4)  # a busy relay writes thousands of lines in one second
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def duration(seconds: float) -> float:
    """To the microsecond: clocks know no more, and 0.1 + 0.2 is no reading."""
    return int(seconds * 1e6 + 0.5) / 1e6 if seconds > 0 else 0.0


def reply_of(reply: Reply) -> ReplyRecord:
    # "250 2.1.5 ok" is most of what there is; a long one is not kept.
    return _one_line(reply) if len(reply.lines) == 1 else _any(reply)


def _any(reply: Reply) -> ReplyRecord:
    enhanced, said = reply.parted
    return ReplyRecord(reply.code, None if enhanced is None else enhanced.decode("ascii"), text(said), reply.origin)


_one_line = lru_cache(maxsize=256)(_any)


_KEYWORDS: Final = {
    name.encode("ascii"): name for name in ("SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "NOTIFY", "ORCPT", "AUTH")
}


def parameters_of(parameters: Parameters) -> dict[str, str | None]:
    """Parameters by keyword; the value of AUTH= (RFC 4954 §5: an identity) is blanked, unless it says that there is none."""
    if not parameters:
        return {}
    record: dict[str, str | None] = {}
    for keyword, value in parameters:
        name = (known := _KEYWORDS.get(keyword)) or text(keyword.upper())
        if value is None:
            record[name] = None
        elif known in (None, "AUTH") and is_identity(keyword) and value != b"<>":
            record[name] = f"<redacted {len(value)}>"
        else:
            record[name] = text(value)
    return record


def address_of(rcpt: Rcpt) -> AddressRecord:
    return AddressRecord(text(rcpt.path.address), parameters_of(rcpt.parameters))


def envelope_of(envelope: Envelope) -> EnvelopeRecord:
    mail = envelope.mail
    return EnvelopeRecord(
        text(mail.path.address),
        parameters_of(mail.parameters),
        tuple([address_of(rcpt) for rcpt in envelope.recipients]),
    )


def outcome(mail: Reply, recipients: Iterable[Reply], message: Reply | None, *, unknown: bool = False) -> Outcome:
    """What became of a transaction (DESIGN §2), of the replies that the client heard.

    `message` is the reply to DATA where that refused, else the one to end of data; None where neither came (RSET, QUIT, gone).
    `unknown`: the final dot left and upstream's reply was never seen; what we then told the client proves nothing.
    """
    if unknown:
        return "unknown"
    if mail.code // 100 != 2:
        return _refused((mail.code,))
    if message is not None and message.code // 100 == 2:
        return "accepted"
    heard = tuple([reply.code for reply in recipients])
    if heard and not any(code // 100 == 2 for code in heard):
        return _refused(heard)  # stays the outcome when RSET or QUIT follows, and whatever DATA was told
    return "aborted" if message is None else _refused((message.code,))


def _refused(codes: tuple[int, ...]) -> Outcome:
    """By severity, never by code (PROTOCOL §1.6); a mix may be tried again."""
    return "rejected" if all(code // 100 == 5 for code in codes) else "tempfailed"


def encode(record: Part) -> bytes:
    """The line, without its newline."""
    return json_line(record)
