"""Records, messages and bodies for the tests of stores."""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import trio

from relayproxy.record.report import (
    AddressRecord,
    AuthRecord,
    ClientRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    HeldRecord,
    MessageRecord,
    ReleaseRecord,
    ReplyRecord,
    SecondsRecord,
    SizeRecord,
    TransactionRecord,
    UpstreamRecord,
    timestamp,
)
from relayproxy.record.store.interface import Body, Message, SessionWrite, TransactionWrite

if TYPE_CHECKING:
    from relayproxy.record.report import Outcome, ReleaseOutcome
    from relayproxy.record.store.interface import Reader, RecordError, Stored

NOW = time.time_ns()
SECOND = 1_000_000_000
HEADER = b"From: a@example.com\r\nSubject: hi\r\n"
RECEIVED = b"Received: from app-1 by relay.example.test\r\n"
REPLY = ReplyRecord(250, "2.0.0", "queued", "upstream")


SOON = 10.0  # a bound for what happens at once, on a machine that is busy


class Alarm:
    """What was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.told: list[RecordError | None] = []
        self.fails: list[str] = []
        self._heard = threading.Semaphore(0)

    def __call__(self, what: str, error: RecordError | None) -> None:
        self.told.append(error)
        self.fails.append(what)
        self._heard.release()

    async def wait(self) -> None:
        assert await trio.to_thread.run_sync(lambda: self._heard.acquire(timeout=SOON))


def record(
    id_: str = "T1",
    *,
    session: str = "S1",
    at: int = NOW,
    outcome: Outcome = "accepted",
    subject: str | None = "hi",
    size: int = 100,
    sent: bool = True,
) -> TransactionRecord:
    """`at`: MAIL's time, nanoseconds since 1970."""
    envelope = EnvelopeRecord(
        "a@example.com", {"SIZE": "100"}, (AddressRecord("jane@customer.example", {}), AddressRecord("b@x", {}))
    )
    return TransactionRecord(
        time=timestamp(at),
        session=session,
        transaction=id_,
        listener="submission",
        client=ClientRecord("10.0.0.5", 53122, "app-1", None, AuthRecord("PLAIN", "app")),
        upstream=UpstreamRecord("provider"),
        envelope=EnvelopesRecord(envelope, envelope if sent else None),
        recipients=(),
        message=MessageRecord("<1@x>", subject, SizeRecord(size, size if sent else None), DigestsRecord(None, None)),
        reply=REPLY,
        outcome=outcome,
        acknowledged=True,
        seconds=SecondsRecord(0.0123, 0.0091),
    )


def body(octets: bytes) -> Body:
    return Body(sha256(octets).digest(), len(octets), octets)


def message(octets: bytes = b"hello\r\n", header: bytes = HEADER) -> Message:
    """As the relay has it: Received on top of what came."""
    return Message(header, b"\r\n", body(octets), RECEIVED + header)


def transaction(
    id_: str = "T1", octets: bytes | None = b"hello\r\n", *, final: bool = True, **facts: object
) -> TransactionWrite:
    """`facts`: of `record`."""
    made = msgspec.structs.replace(record(id_, **facts))  # type: ignore[arg-type]
    return TransactionWrite(made, None if octets is None else message(octets), final)


def held(id_: str = "T1", octets: bytes = b"held", *, final: bool = True, at: int = NOW) -> TransactionWrite:
    """What a rule holds: it never left."""
    made = record(id_, outcome="held", sent=False, at=at)
    made = msgspec.structs.replace(made, held=HeldRecord("let me see", made.envelope.received))
    return TransactionWrite(made, message(octets), final)


def release(outcome: ReleaseOutcome = "unknown") -> ReleaseRecord:
    reply = REPLY if outcome == "accepted" else None
    return ReleaseRecord(timestamp(NOW), "provider", ("jane@customer.example",), outcome, reply)


def session(
    id_: str = "S1", *, began: int = NOW, part: int = 0, wire: bytes | None = None, ended: int | None = None
) -> SessionWrite:
    return SessionWrite(id_, "submission", "10.0.0.5", began, part, wire, ended, None if ended is None else "QUIT")


def whole(reader: Reader, stored: Stored | None, *, sent: bool = False) -> bytes | None:
    """The message as one."""
    assert stored is not None
    pieces = reader.message(stored, sent=sent)
    return None if pieces is None else b"".join(pieces)


def ids(reader: Reader, **asked: object) -> list[str]:
    return [stored.record.transaction for stored in reader.transactions(**asked)]  # type: ignore[arg-type]
