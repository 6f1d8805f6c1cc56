"""The lines that are told beside transactions, and the JSON Schema of all (DESIGN §7): listeners, sessions, TLS, AUTH, and what went wrong.

They keep to what report.py says. Writing them does not belong here (log.py), nor how they look on a terminal (console.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relayproxy.record.report import (
    AuthOutcome,
    ClientRecord,
    Leg,
    Level,
    Part,
    ReplyRecord,
    SessionId,
    Time,
    TransactionId,
    TransactionRecord,
    Version,
)
from relayproxy.record.report_tls import ClientTlsRecord, UpstreamTlsRecord  # noqa: TC001 - msgspec reads annotations when it runs

SCHEMA_ID: Final = "urn:relayproxy:schema:record:1"


class ListeningRecord(Part, frozen=True, gc=False, kw_only=True):
    """A listener is ready; written before any session."""

    v: Version = 1
    event: Literal["listening"] = "listening"
    time: Time
    level: Level = "info"
    listener: str
    address: Annotated[str, Meta(description="as bound: with the port that port 0 became")]


class SessionRecord(Part, frozen=True, gc=False, kw_only=True):
    """A session was opened or closed."""

    v: Version = 1
    event: Literal["session"] = "session"
    time: Time
    level: Level = "info"
    session: SessionId
    listener: str
    worker: int = 0
    state: Literal["opened", "closed"]
    client: ClientRecord | None
    why: Annotated[str | None, Meta(description="why it was closed")] = None
    transactions: (
        Annotated[int, Meta(ge=0, description="how many there were; written when it is closed")] | UnsetType
    ) = UNSET
    seconds: Annotated[float, Meta(ge=0, description="how long it was open; written when it is closed")] | UnsetType = (
        UNSET
    )


class AuthenticationRecord(Part, frozen=True, gc=False, kw_only=True):
    """An AUTH exchange has ended (RFC 4954). What was said in it is nowhere."""

    v: Version = 1
    event: Literal["auth"] = "auth"
    time: Time
    level: Level
    session: SessionId | None
    leg: Annotated[Leg, Meta(description="client: the client's own; upstream: ours, with our credentials")]
    mechanism: str
    user: Annotated[str | None, Meta(description="who was named; null where the mechanism does not show it")]
    outcome: AuthOutcome
    reply: Annotated[ReplyRecord | None, Meta(description="the last; what repeats a secret is cut out of it")]


class TlsRecord(Part, frozen=True, gc=False, kw_only=True):
    """TLS began on a leg, or did not."""

    v: Version = 1
    event: Literal["tls"] = "tls"
    time: Time
    level: Level = "info"
    session: SessionId
    leg: Leg
    state: Literal["started", "failed"]
    client: Annotated[ClientTlsRecord | None, Meta(description="what TLS with the client is")] = None
    upstream: Annotated[UpstreamTlsRecord | None, Meta(description="what TLS with upstream is")] = None
    host: Annotated[str | None, Meta(description="upstream's, as its url has it")] = None
    why: Annotated[str | None, Meta(description="why it failed, in words")] = None


class ViolationRecord(Part, frozen=True, gc=False, kw_only=True):
    """A peer broke the protocol."""

    v: Version = 1
    event: Literal["violation"] = "violation"
    time: Time
    level: Level = "warning"
    session: SessionId | None
    transaction: TransactionId | None
    leg: Annotated[Leg, Meta(description="the leg whose peer did it")]
    what: str
    line: Annotated[str | None, Meta(description="its line, redacted and cut; null where there is none")]
    reply: Annotated[ReplyRecord | None, Meta(description="what the client heard for it")]


class LimitRecord(Part, frozen=True, gc=False, kw_only=True):
    """A limit was reached."""

    v: Version = 1
    event: Literal["limit"] = "limit"
    time: Time
    level: Level = "warning"
    limit: Annotated[str, Meta(description="its name in the configuration; log_bytes: diagnostics waiting for the log")]
    session: SessionId | None
    transaction: TransactionId | None
    client: Annotated[str, Meta(description="the client's address")] | None = None
    reply: Annotated[ReplyRecord | None, Meta(description="what the client heard for it")] = None
    dropped: Annotated[int, Meta(ge=1, description="diagnostic lines that were not written")] | UnsetType = UNSET


class FaultRecord(Part, frozen=True, gc=False):
    """An exception that nobody expected. Its message and values are left out: they may hold what a client sent (attack 21)."""

    type: str
    where: Annotated[tuple[str, ...], Meta(description="module:line, the innermost last")]


class ErrorRecord(Part, frozen=True, gc=False, kw_only=True):
    """Something on our side, or behind us, did not work."""

    v: Version = 1
    event: Literal["error"] = "error"
    time: Time
    level: Level = "error"
    where: Annotated[str, Meta(description="the part that it befell: upstream, log, session, ...")]
    what: str
    session: SessionId | None = None
    transaction: TransactionId | None = None
    faults: tuple[FaultRecord, ...] | UnsetType = UNSET


class RuleErrorRecord(Part, frozen=True, gc=False, kw_only=True):
    """A rule went wrong: its stage's edits were not made."""

    v: Version = 1
    event: Literal["rule-error"] = "rule-error"
    time: Time
    level: Level = "warning"
    session: SessionId | None
    transaction: TransactionId | None
    what: Annotated[str, Meta(description="which rule, and how")]
    reply: Annotated[ReplyRecord | None, Meta(description="what the client heard for it")]


class GuardRecord(Part, frozen=True, gc=False, kw_only=True):
    """The guard kept a recipient from being reached."""

    v: Version = 1
    event: Literal["guard"] = "guard"
    time: Time
    level: Level = "warning"
    session: SessionId | None
    transaction: TransactionId | None
    recipient: str
    captured: Annotated[bool, Meta(description="its copy is in the store; else it was refused")]


class ReloadRecord(Part, frozen=True, gc=False, kw_only=True):
    """Something was read or opened anew."""

    v: Version = 1
    event: Literal["reload"] = "reload"
    time: Time
    level: Level = "info"
    what: str
    error: Annotated[str | None, Meta(description="why the old one is kept; null where the new one is in use")] = None
    guard: Annotated[str, Meta(description="whom mail may go to from here on")] | UnsetType = UNSET
    restart: (
        Annotated[tuple[str, ...], Meta(description="settings that are others now, and take a restart")] | UnsetType
    ) = UNSET


Record = TransactionRecord | ListeningRecord | SessionRecord | TlsRecord | AuthenticationRecord | ViolationRecord | LimitRecord | ErrorRecord | RuleErrorRecord | GuardRecord | ReloadRecord  # fmt: skip


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of every line."""
    references, definitions = msgspec.json.schema_components(get_args(Record), ref_template="#/$defs/{name}")
    for definition in definitions.values():
        properties = definition.get("properties", {})
        # What msgspec could leave out when it reads, we never leave out when we write.
        always = [name for name, value in properties.items() if value.pop("default", UNSET) is not UNSET]
        required = {*definition.get("required", ()), *always}
        definition["required"] = [name for name in properties if name in required]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "relayproxy record",
        "description": "One line of relayproxy's log, one JSON object a line; a transaction's is also what the store keeps. Additive: ignore keys that you do not know.",
        "oneOf": list(references),
        "$defs": definitions,
    }
