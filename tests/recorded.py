"""Recorded transactions for tests that judge them, said in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

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
)
from relayproxy.record.report_tls import ClientTlsRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.report import Outcome

#: What a rule holds, and the same once somebody has taken it.
HELD = HeldRecord("let me see", EnvelopeRecord("a@example.com", {}, ()))
_TRY = ReleaseRecord("2026-01-02T03:05:00.000000Z", "provider", ("jane@customer.example",), "tempfailed")
RELEASED = HeldRecord("let me see", HELD.envelope, (_TRY, msgspec.structs.replace(_TRY, outcome="accepted")))


def recorded(
    *,
    id_: str = "01JABCDEFGHJKMNPQRSTVWXYZ0",
    session: str = "01JABCDEFGHJKMNPQRSTVWXYZS",
    time: str = "2026-01-02T03:04:05.123456Z",
    listener: str = "submission",
    client: str = "10.0.0.5",
    helo: str | None = "app-1",
    tls: str | None = "TLSv1.3",
    auth: AuthRecord | None = None,
    upstream: str | None = "provider",
    sender: str = "a@example.com",
    recipients: Sequence[str] = ("jane@customer.example",),
    sent: tuple[str, Sequence[str]] | None = ("a@example.com", ("qa@example.test",)),
    message: tuple[str | None, str | None, int] | None = ("<1@example.com>", "Your invoice", 328),
    code: int | None = 250,
    outcome: Outcome = "accepted",
    acknowledged: bool = True,
    tags: tuple[str, ...] = (),
    held: HeldRecord | UnsetType = UNSET,
) -> TransactionRecord:
    """A transaction; `sent`: sender and recipients; `message`: Message-ID, subject and size."""
    return TransactionRecord(
        time=time,
        session=session,
        transaction=id_,
        listener=listener,
        client=ClientRecord(client, 53122, helo, None if tls is None else ClientTlsRecord(tls, "c", None), auth),
        upstream=None if upstream is None else UpstreamRecord(upstream),
        envelope=EnvelopesRecord(
            _envelope(sender, recipients),
            None if sent is None else _envelope(*sent),
        ),
        recipients=(),
        message=None
        if message is None
        else MessageRecord(message[0], message[1], SizeRecord(message[2], None), DigestsRecord(None, None)),
        tags=tags,
        held=held,
        reply=None if code is None else ReplyRecord(code, None, "", "upstream"),
        outcome=outcome,
        acknowledged=acknowledged,
        seconds=SecondsRecord(0.1, 0.1),
    )


def _envelope(sender: str, recipients: Sequence[str]) -> EnvelopeRecord:
    return EnvelopeRecord(sender, {}, tuple([AddressRecord(address, {}) for address in recipients]))


class Given(NamedTuple):
    """A transaction, and what of its message is kept."""

    record: TransactionRecord
    header: bytes | None = None
    text: str = ""

    def header_section(self) -> bytes | None:
        return self.header

    def body_text(self) -> str:
        return self.text
