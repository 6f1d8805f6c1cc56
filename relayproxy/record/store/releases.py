"""Tries to release what is held, in the store: claimed once, settled by who claimed, and read as a part of the record (report.py `ReleaseRecord`).

Theory of operation: a claim is a row whose key is the transaction and how many tries there were before, so that of two who have read the same only one can write it. The
rows are beside the record, which the relay may write once more while somebody releases what it holds. `transactions.released` is what retention and SELECT ask for.
Whether a message may go again does not belong here (cli/release.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.record.report import HeldRecord, ReleaseRecord
from relayproxy.record.text import json_line

if TYPE_CHECKING:
    import apsw

    from relayproxy.record.report import TransactionRecord

#: Both change one row, or none.
CLAIM: Final = """
INSERT INTO releases(number, attempt, document)
  SELECT number, :attempt, :document FROM transactions AS t WHERE id = :id AND outcome = 'held' AND NOT released
    AND :attempt = (SELECT count(*) FROM releases WHERE number = t.number)
"""
SETTLE: Final = """
UPDATE releases SET document = :document WHERE attempt = :attempt AND number = (SELECT number FROM transactions WHERE id = :id)
"""
_RELEASED: Final = """
UPDATE transactions SET revision = (SELECT revision FROM counters), released = max(released, :released) WHERE id = :id
"""
#: All of transaction `t`, divided by commas; null where there are none.
OF_TRANSACTION: Final = """
  CASE WHEN t.outcome = 'held' THEN (SELECT group_concat(document, ',' ORDER BY attempt) FROM releases WHERE number = t.number) END
"""

_decode: Final = msgspec.json.Decoder(tuple[ReleaseRecord, ...]).decode


def note(connection: apsw.Connection, statement: str, transaction: str, attempt: int, release: ReleaseRecord) -> bool:
    """Within a transaction of SQLite's: CLAIM or SETTLE, and what follows from it; whether there was anything to change."""
    named = {"id": transaction, "attempt": attempt, "document": json_line(release).decode()}
    connection.execute(statement, named)
    if not connection.changes():
        return False
    connection.execute("UPDATE counters SET revision = revision + 1")
    connection.execute(_RELEASED, {"id": transaction, "released": release.outcome == "accepted"})
    return True


def added(record: TransactionRecord, documents: str) -> TransactionRecord:
    """The record with them in it. Raises msgspec.DecodeError."""
    if not isinstance(record.held, HeldRecord):
        return record
    held = msgspec.structs.replace(record.held, released=_decode(f"[{documents}]"))
    return msgspec.structs.replace(record, held=held)
