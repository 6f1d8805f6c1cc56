"""Sessions, transactions and messages as a recorder writes them, and a store of them in memory, for tests of what reads recordings."""

from __future__ import annotations

import hashlib
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
    encode,
    timestamp,
)
from relayproxy.record.store.interface import (
    Body,
    Kept,
    Message,
    SessionWrite,
    Stored,
    StoredSession,
    TransactionWrite,
)
from relayproxy.record.wire import WireData, WireEntry, WireEvent, WireOctets, in_order
from relayproxy.record.wire import encode as encode_wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from relayproxy.record.select import Select
    from relayproxy.record.store.interface import Write

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
        message=MessageRecord(None, "hi", SizeRecord(len(HEADER) + 2 + len(BODY), None), DigestsRecord(None, None)),
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


class Memory:
    """A `Reader` of what was written to it."""

    def __init__(self, *writes: Write) -> None:
        self._stored: dict[str, Stored] = {}
        self._messages: dict[str, Message] = {}
        self._sessions: dict[str, StoredSession] = {}
        self._bodies: dict[bytes, bytes] = {}
        self._revision = 0
        self.write(*writes)

    def write(self, *writes: Write) -> None:
        for write in writes:
            self._revision += 1
            if isinstance(write, SessionWrite):
                parts = [write.wire] if write.wire else []
                began = write.began, write.ended, write.why
                self._sessions[write.id] = StoredSession(write.id, write.listener, write.client, *began, list(in_order(parts)))  # fmt: skip
            else:
                self._keep(write)

    def _keep(self, write: TransactionWrite) -> None:
        kept = None
        if (given := write.message) is not None:
            for one in (given.body, given.body_sent):
                if one is not None and one.octets is not None:
                    self._bodies[one.digest] = one.octets
            digests = [None if one is None else one.digest for one in (given.body, given.body_sent)]
            size = given.body.size if given.body else 0
            kept = Kept(given.header, given.separator, digests[0], size, given.header_sent, digests[1], given.whole, given.exact)  # fmt: skip
        document = encode(write.record)
        self._stored[write.record.transaction] = Stored(self._revision, write.record, document, write.final, kept)

    def without_bodies(self) -> Self:
        """As if `messages` were "headers"."""
        for id_, stored in self._stored.items():
            if stored.message is not None:
                self._stored[id_] = stored._replace(message=stored.message._replace(body=None, body_sent=None))
        return self

    def transactions(
        self, select: Select | None = None, *, newest_first: bool = False, limit: int | None = None, after_revision: int = 0
    ) -> Iterator[Stored]:  # fmt: skip
        found = [stored for stored in self._stored.values() if stored.revision > after_revision]
        assert select is None
        return iter(sorted(found, key=lambda stored: stored.record.time, reverse=newest_first)[:limit])

    def ids(self, prefix: str, *, limit: int = 2) -> list[str]:
        known = sorted({*self._stored, *self._sessions})
        return [id_ for id_ in known if id_.upper().startswith(prefix.upper())][:limit]

    def transaction(self, id_: str) -> Stored | None:
        return self._stored.get(id_)

    def session(self, id_: str) -> StoredSession | None:
        return self._sessions.get(id_)

    def of_session(self, id_: str) -> list[Stored]:
        return [stored for stored in self.transactions() if stored.record.session == id_]

    def message(self, stored: Stored, *, sent: bool = False) -> Iterator[bytes] | None:
        kept = stored.message
        if kept is None or kept.header is None or (kept.body is None and kept.body_size):
            return None
        header = kept.header_sent if sent and kept.header_sent is not None else kept.header
        digest = kept.body_sent if sent and kept.body_sent is not None else kept.body
        return iter([header, kept.separator, *(() if digest is None else self.body(digest))])

    def body(self, digest: bytes) -> Iterator[bytes]:
        octets = self._bodies[digest]
        size = 7 if len(octets) < 1000 else 1 << 16
        return iter([octets[at : at + size] for at in range(0, len(octets), size)])

    def revision(self) -> int:
        return self._revision

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
