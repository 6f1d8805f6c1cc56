"""Sessions, transactions and messages as a recorder writes them, and stores of them, for tests of what reads recordings."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from relayproxy.record.report import (
    AddressRecord,
    ClientRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    MessageRecord,
    RecipientRecord,
    ReplyRecord,
    SecondsRecord,
    SizeRecord,
    TransactionRecord,
    UpstreamRecord,
    timestamp,
)
from relayproxy.record.store.interface import Body, Message, SessionWrite
from relayproxy.record.store.opening import open_store
from relayproxy.record.wire import WireData, WireEntry, WireEvent, WireOctets
from relayproxy.record.wire import encode as encode_wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relayproxy.record.store.interface import Backend, Reader, Write
    from relayproxy.record.wire import WireEntry

#: 2026-01-02T03:04:05.100000Z
BEGAN = 1_767_323_045_100_000_000
HEADER = b"From: a@example.com\r\nTo: jane@customer.example\r\nSubject: hi\r\n"
BODY = b"hello\r\n.a dot\r\n"
TRACED = b"Received: by relay.test\r\n" + HEADER


def body(octets: bytes) -> Body:
    return Body(hashlib.sha256(octets).digest(), len(octets), octets)


def message(header: bytes = HEADER, content: bytes = BODY, **more: Any) -> Message:
    return Message(**{"header": header, "separator": b"\r\n", "body": body(content), **more})


def record(session: str = "S1", transaction: str = "T1", **more: Any) -> TransactionRecord:
    reply = ReplyRecord(250, "2.0.0", "queued", "upstream")
    envelope = EnvelopeRecord("a@example.com", {}, (AddressRecord("jane@customer.example", {}),))
    made = TransactionRecord(
        time=timestamp(BEGAN + 20_000_000),
        session=session,
        transaction=transaction,
        listener="submission",
        client=ClientRecord("10.0.0.5", 53122, "app-1"),
        upstream=UpstreamRecord("provider", "smtp.example.com", "203.0.113.5", 587),
        envelope=EnvelopesRecord(envelope, envelope),
        recipients=(RecipientRecord("jane@customer.example", ("jane@customer.example",), reply),),
        message=MessageRecord(
            None, "hi", SizeRecord(len(HEADER) + 2 + len(BODY), len(TRACED) + 2 + len(BODY)), DigestsRecord(None, None)
        ),
        reply=reply,
        outcome="accepted",
        acknowledged=True,
        seconds=SecondsRecord(0.042, 0.03),
    )
    return msgspec.structs.replace(made, **more)


def session(wire: Sequence[WireEntry], id_: str = "S1", **more: Any) -> SessionWrite:
    told = {"listener": "submission", "client": "10.0.0.5", "began": BEGAN, "ended": BEGAN + 62_000_000, "why": "QUIT"}
    return SessionWrite(**{"id": id_, **told, "wire": encode_wire(wire), **more})


def on_the_wire(octets: bytes) -> int:
    """How many octets of mail data a message is, with its stuffing and its end."""
    return len(octets) + octets.count(b"\r\n.") + octets.startswith(b".") + 3


def wire(transaction: str = "T1", header_sent: bytes = TRACED, header: bytes = HEADER, content: bytes = BODY) -> list[WireEntry]:  # fmt: skip
    """What a session is, from both connections to both ends."""
    received, sent = (on_the_wire(one + b"\r\n" + content) for one in (header, header_sent))
    return [
        WireEvent(0, "C", "open", ("10.0.0.5:53122",)),
        WireEvent(4000, "U", "open", ("203.0.113.5:587",)),
        WireOctets(12000, "U", "<", b"220 smtp.example.com ESMTP\r\n"),
        WireOctets(13000, "C", "<", b"220 relay.example.test ESMTP\r\n"),
        WireOctets(14000, "C", ">", b"EHLO app-1\r\n"),
        WireOctets(15000, "U", ">", b"EHLO relay.example.test\r\n"),
        WireOctets(16000, "U", "<", b"250 smtp.example.com\r\n"),
        WireOctets(17000, "C", "<", b"250-relay.example.test\r\n250 8BITMIME\r\n"),
        WireOctets(20000, "C", ">", b"MAIL FROM:<a@example.com>\r\nRCPT TO:<jane@customer.example>\r\nDATA\r\n"),
        WireOctets(21000, "U", ">", b"MAIL FROM:<a@example.com>\r\nRCPT TO:<jane@customer.example>\r\nDATA\r\n"),
        WireOctets(30000, "U", "<", b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n"),
        WireOctets(31000, "C", "<", b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n"),
        WireData(50000, "C", received, transaction),
        WireData(51000, "U", sent, transaction),
        WireOctets(61000, "U", "<", b"250 2.0.0 queued\r\n"),
        WireOctets(61500, "C", "<", b"250 2.0.0 queued\r\n"),
        WireOctets(61600, "C", ">", b"QUIT\r\n"),
        WireOctets(61700, "C", "<", b"221 2.0.0 bye\r\n"),
        WireEvent(61800, "U", "close", (), by_us=True),
        WireEvent(62000, "C", "close"),
    ]


@contextmanager
def reopened(path: Path) -> Iterator[Backend]:
    """The writing end of the store there, which is made where there is none."""
    backend = open_store(f"sqlite:{path}").backend()
    try:
        yield backend
    finally:
        backend.close()


def kept_in(path: Path, *writes: Write) -> None:
    """The store there gets that, from a relay that ends then."""
    with reopened(path) as backend:
        backend.write(writes, durable=False)


def reader_of(*writes: Write) -> Reader:
    """Of a store of its own with that in it, which goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="relayproxy-"))
    kept_in(folder / "relayproxy.db", *writes)
    reader = open_store(f"sqlite:{folder / 'relayproxy.db'}").reader()
    weakref.finalize(reader, _forget, folder)
    return reader


def _forget(folder: Path) -> None:
    shutil.rmtree(folder)
