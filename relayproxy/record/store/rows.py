"""What is written, as the rows that the store's programs take (schema.py). No I/O.

The columns of `transactions` are for finding: they hold what SELECT asks for (DESIGN §4). The document is the record itself, as in the log.
Bodies do not belong here: who has them makes columns of them (backend.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from relayproxy.record.report import encode
from relayproxy.record.times import microseconds

if TYPE_CHECKING:
    from relayproxy.record.report import EnvelopeRecord
    from relayproxy.record.store.interface import Message, SessionWrite, TransactionWrite

    Value = str | bytes | int | None


def transaction_columns(write: TransactionWrite) -> list[Value]:
    """The columns of schema.LIGHT, in order."""
    record = write.record
    client, received, sent, message = record.client, record.envelope.received, record.envelope.sent, record.message
    return [
        record.transaction,
        record.session,
        microseconds(record.time),
        write.final,
        record.outcome,
        record.acknowledged,
        record.listener,
        _storable(client.address),
        _storable(client.helo),
        None if client.auth is None else _storable(client.auth.user),
        None if record.upstream is None else record.upstream.name,
        _storable(received.sender),
        _recipients(received),
        None if sent is None else _storable(sent.sender),
        None if sent is None else _recipients(sent),
        None if record.reply is None else record.reply.code,
        None if message is None else message.size.received,
        None if message is None else _storable(message.subject),
        None if message is None else _storable(message.id),
    ]


def message_columns(write: TransactionWrite) -> list[Value]:
    """The document, and of the message what is not a body."""
    document = encode(write.record)
    message = write.message
    if message is None:
        return [document, None, None, None, None, None, None]
    sent, follows = _header_sent(message)
    return [document, message.header, message.separator, sent, follows, message.whole, message.exact]


def session_columns(write: SessionWrite) -> list[Value]:
    """All but the wire."""
    return [
        write.id,
        write.listener,
        _storable(write.client),
        write.began,
        write.ended,
        _storable(write.why),
        write.part,
    ]


def _header_sent(message: Message) -> tuple[bytes | None, int | None]:
    """What left is mostly our Received and what came: that is not kept twice."""
    sent = message.header_sent
    if sent is None or not message.header or not sent.endswith(message.header):
        return sent, None if sent is None else 0
    return sent[: -len(message.header)], 1


def header_sent(kept: bytes | None, follows: int | None, header: bytes) -> bytes | None:
    """The header section that left, of its two columns and the one that came."""
    return kept + header if kept is not None and follows else kept


def _recipients(envelope: EnvelopeRecord) -> str:
    recipients = envelope.recipients
    if not recipients:
        return ""
    if len(recipients) == 1:
        return f"\n{_storable(recipients[0].address)}\n"
    return _storable("\n".join(["", *[recipient.address for recipient in recipients], ""]))


@overload
def _storable(value: str) -> str: ...


@overload
def _storable(value: str | None) -> str | None: ...


def _storable(value: str | None) -> str | None:
    """A lone surrogate as the octets that it would have been, as in the document: decoded header fields may hold one."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
