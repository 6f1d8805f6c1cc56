"""Tries to release what is held, as a PostgreSQL store keeps them: a claim is a row that only one can write (store/releases.py says the rest)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.record.store.postgresql.pruning import near
from relayproxy.record.store.postgresql.schema import CHANNEL, NEXT_REVISION, flushed
from relayproxy.record.text import json_line

if TYPE_CHECKING:
    from relayproxy.record.report import ReleaseRecord
    from relayproxy.record.store.postgresql.connection import Connection

#: Both change one row, or none; with the id in capitals, the try, and what is told of it.
CLAIM: Final = """
INSERT INTO releases(id, attempt, day, document)
  SELECT id, $2, day, $3 FROM transactions AS t WHERE {near} AND upper(id) = $1 AND outcome = 'held' AND NOT released
    AND $2 = (SELECT count(*) FROM releases WHERE id = t.id)
"""
SETTLE: Final = "UPDATE releases SET document = $3 WHERE upper(id) = $1 AND attempt = $2"
_RELEASED: Final = "UPDATE transactions SET revision = $2, released = released OR $3 WHERE {near} AND upper(id) = $1"
#: All of transaction `t`, divided by commas; null where there are none.
OF_TRANSACTION: Final = """
  CASE WHEN t.outcome = 'held' THEN (SELECT string_agg(document, ',' ORDER BY attempt) FROM releases WHERE id = t.id) END
"""


def note(connection: Connection, statement: str, transaction: str, attempt: int, release: ReleaseRecord) -> bool:
    """CLAIM or SETTLE, durably, and what follows from it; whether there was anything to change."""
    with connection.alone():
        connection.ask(f"SELECT {flushed(local=True)}")
        days = near(transaction, "time")
        id_, document = transaction.upper(), json_line(release).decode()
        if not connection.ask(statement.format(near=days), (id_, attempt, document)).rowcount:
            return False
        revision = connection.value(NEXT_REVISION)
        connection.ask(_RELEASED.format(near=days), (id_, revision, release.outcome == "accepted"))
        connection.ask(f"NOTIFY {CHANNEL}")
    return True
