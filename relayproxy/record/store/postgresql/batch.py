"""A batch as the store's function takes it (schema.py): lists in JSON, and one piece of octets into which they point.

Invariants: of what is written twice in a batch only the last counts, with the message of the last that has one: one statement cannot change a row twice.
Where bodies are on their way does not belong here (backend.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from relayproxy.record.store.contents import RAW
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.postgresql.schema import DAY, LIGHT
from relayproxy.record.store.rows import message_columns, session_columns, transaction_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.store.contents import Packer
    from relayproxy.record.store.interface import Body, SessionWrite, Write
    from relayproxy.record.store.rows import Value

    #: A day, and the digest of a body that is kept there.
    Place = tuple[int, bytes]

#: Octets of a session's wire from which on it is worth to compress it.
_PACK_FROM: Final = 512

_encode: Final = msgspec.json.Encoder().encode


def merged(writes: Sequence[Write]) -> tuple[list[TransactionWrite], list[SessionWrite]]:
    """Each transaction, and each part of a session, once."""
    transactions: dict[str, TransactionWrite] = {}
    sessions: dict[tuple[str, int | None], SessionWrite] = {}
    for write in writes:
        if isinstance(write, TransactionWrite):
            before = transactions.pop(write.record.transaction, None)
            kept = write.message if write.message is not None or before is None else before.message
            transactions[write.record.transaction] = write._replace(message=kept)
        else:
            sessions[write.id, None if write.wire is None else write.part] = write
    return [*transactions.values()], [*sessions.values()]


def bodies_of(write: TransactionWrite) -> list[Body]:
    """As received, and as it left where that is another."""
    message = write.message
    return [] if message is None else [body for body in (message.body, message.body_sent) if body is not None]


class Batch:
    """One on its way. Each method takes some more; `parameters` are those of schema.CALL but the last."""

    def __init__(self, packer: Packer) -> None:
        self.days: set[int] = set()
        self._packer = packer
        self._transactions: list[dict[str, Value]] = []
        self._bodies: list[dict[str, Value]] = []
        self._sessions: dict[str, dict[str, Value]] = {}
        self._parts: list[dict[str, Value]] = []
        self._pieces: list[bytes] = []
        self._octets = 0

    def transaction(self, write: TransactionWrite) -> int:
        """Its day; the bodies come by themselves."""
        light = dict(zip(LIGHT, map(_storable, transaction_columns(write)), strict=True))
        document, header, separator, sent, follows, whole, exact = message_columns(write)
        row: dict[str, Any] = light
        for name, octets in (
            ("document", document),
            ("header", header),
            ("separator", separator),
            ("header_sent", sent),
        ):
            self._piece(row, name, octets)
        message = write.message
        body, body_sent = (None, None) if message is None else (message.body, message.body_sent)
        row["header_follows"] = None if follows is None else bool(follows)
        row["whole"], row["exact"] = whole, exact
        row["body"] = None if body is None else body.digest.hex()
        row["body_size"] = None if body is None else body.size
        row["body_sent"] = None if body_sent is None else body_sent.digest.hex()
        self._transactions.append(row)
        day = int(row["time"]) // DAY
        self.days.add(day)
        return day

    def known_body(self, place: Place) -> None:
        """One that the store has."""
        self._bodies.append({"day": place[0], "digest": place[1].hex()})

    def body(self, place: Place, size: int, form: int, octets: bytes) -> None:
        """One that comes with the batch, in its form."""
        row: dict[str, Value] = {
            "day": place[0], "digest": place[1].hex(), "size": size, "form": form, "packed": len(octets),
        }  # fmt: skip
        self._piece(row, "body", octets)
        self._bodies.append(row)

    def chunked_body(self, place: Place, size: int, form: int, number: int, packed: int) -> None:
        """One whose chunks, under that number, have gone before."""
        self._bodies.append(
            {"day": place[0], "digest": place[1].hex(), "size": size, "form": form, "number": number, "packed": packed}
        )

    def session(self, write: SessionWrite) -> None:
        """It, and a part of its wire."""
        id_, listener, client, began, ended, why, part = map(_storable, session_columns(write))
        day = write.began // (DAY * 1000)
        self.days.add(day)
        self._sessions[write.id] = {
            "day": day, "id": id_, "listener": listener, "client": client, "began": began, "ended": ended, "why": why,
        }  # fmt: skip
        if (wire := write.wire) is not None:
            form, octets = (RAW, wire) if len(wire) < _PACK_FROM else self._packer.pack(wire)
            row: dict[str, Value] = {"day": day, "session": id_, "part": part, "form": form}
            self._piece(row, "wire", octets)
            self._parts.append(row)

    def _piece(self, row: dict[str, Value], name: str, octets: Value) -> None:
        if isinstance(octets, bytes):
            row[f"{name}_at"], row[f"{name}_octets"] = self._octets, len(octets)
            self._pieces.append(octets)
            self._octets += len(octets)

    @property
    def parameters(self) -> list[str | bytes]:
        lists = (self._transactions, self._bodies, [*self._sessions.values()], self._parts)
        return [*[_encode(rows).decode() for rows in lists], b"".join(self._pieces)]


def _storable(value: Value) -> Value:
    """PostgreSQL has no text with NUL in it."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
