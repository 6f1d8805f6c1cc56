"""What transactions are found by: their words, made when there is time for it (full_text.py says which; an index over the arrays is PostgreSQL's).

Words are made before the write begins, so that nobody waits for them; what was written again, or removed, meanwhile is left for the next time.
When that is does not belong here (upkeep.py), nor what a body says (mail/body_text.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.record.store.contents import pieces
from relayproxy.record.store.index import searchable_of, text_of
from relayproxy.record.store.postgresql import chunks
from relayproxy.record.store.postgresql.schema import WORD

if TYPE_CHECKING:
    from relayproxy.record.store.postgresql.connection import Connection

#: Transactions that are read at once, and seconds after which no more are.
_ROWS: Final = 128
_PIECE: Final = 0.02

_NEXT: Final = f"""
SELECT t.id, t.time, t.revision, t.document, t.header, c.digest, c.size, c.form, c.octets, c.day, c.number
  FROM transactions t LEFT JOIN contents c ON c.digest = t.body AND c.day = t.day
  WHERE t.words IS NULL AND t.final ORDER BY t.number LIMIT {_ROWS}
"""
_FOUND_BY: Final = """
UPDATE transactions t SET words = ARRAY(SELECT json_array_elements_text(made.words))
  FROM json_to_recordset($1) AS made(id text, time bigint, revision bigint, words json)
  WHERE t.id = made.id AND t.time = made.time AND t.revision = made.revision
"""


def index_some(connection: Connection) -> bool:
    """Index some that are not yet; whether there may be more. Raises psycopg.Error."""
    end = time.monotonic() + _PIECE
    made: list[dict[str, object]] = []
    for id_, at, revision, document, header, digest, size, form, octets, day, number in connection.rows(_NEXT):
        said = ""
        if digest is not None:
            source = iter((octets,)) if number is None else chunks.read(connection.rows, day, number)
            said = text_of(header, pieces(form, source, size=size, digest=digest))
        words = {word[:WORD] for word in searchable_of(document, said).split()}
        made.append({"id": id_, "time": at, "revision": revision, "words": sorted(words)})
        if time.monotonic() > end:
            break
    if made:
        with connection.alone():
            connection.ask(_FOUND_BY, (msgspec.json.encode(made).decode(),))
    return bool(made)
