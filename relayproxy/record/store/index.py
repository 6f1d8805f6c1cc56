"""The index of words: what messages say is made searchable when there is time for it (full_text.py says which words).

Theory of operation: transactions that are final and were written since they were indexed are looked for by an index of their own. Texts are made before the
write begins, so that no other process waits for them; what was written again, or removed, meanwhile is left for the next time.
When that is does not belong here (upkeep.py), nor what a body says (mail/body_text.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from relayproxy.mail.body_text import OCTETS, body_text
from relayproxy.record.full_text import searchable
from relayproxy.record.report import TransactionRecord
from relayproxy.record.store.contents import pieces
from relayproxy.record.store.interface import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import apsw

#: Transactions that are read at once, and seconds after which no more are.
_ROWS: Final = 32
_PIECE: Final = 0.02

_NEXT: Final = f"""
SELECT t.number, t.revision, d.document, d.header, c.digest, c.size, c.form, c.octets, c.file
  FROM transactions t JOIN documents d USING (number) LEFT JOIN contents c ON c.number = d.body
  WHERE t.indexed = 0 AND t.final = 1 ORDER BY t.number LIMIT {_ROWS}
"""


class _Unindexed(NamedTuple):
    number: int
    revision: int
    document: bytes
    header: bytes
    digest: bytes | None
    size: int
    form: int
    octets: bytes | None
    file: str


_decode: Final = msgspec.json.Decoder(TransactionRecord).decode


def index_some(connection: apsw.Connection, bodies: Path) -> bool:
    """Index some that are not yet; whether there may be more. Raises apsw.Error."""
    end = time.monotonic() + _PIECE
    texts: list[tuple[int, int, str]] = []
    for one in [_Unindexed(*row) for row in connection.execute(_NEXT)]:
        said = ""
        if one.digest is not None:
            source = bodies / one.file if one.octets is None else one.octets
            said = text_of(one.header, pieces(one.form, source, size=one.size, digest=one.digest))
        texts.append((one.number, one.revision, searchable_of(one.document, said)))
        if time.monotonic() > end:
            break
    if not texts:
        return False
    connection.execute("BEGIN IMMEDIATE")
    for number, revision, text in texts:
        connection.execute("UPDATE transactions SET indexed = 1 WHERE number = ? AND revision = ?", (number, revision))
        if connection.changes():
            connection.execute("INSERT OR REPLACE INTO words(rowid, text) VALUES (?, ?)", (number, text))
    connection.execute("COMMIT")
    return True


def searchable_of(document: bytes, said: str) -> str:
    """What an index is given of a stored document, and of what its body says."""
    try:
        return searchable(_decode(document), said)
    except msgspec.DecodeError:  # damaged, or of a newer relayproxy: it is found by what it says
        return said


def text_of(header: bytes, body: Iterable[bytes]) -> str:
    """What a kept body says, for the index as for expressions; "" where it cannot be read (who reads the message hears why)."""
    try:
        return body_text(header, _beginning(body))
    except (OSError, ValueError, StoreError):
        return ""


def _beginning(given: Iterable[bytes]) -> bytes:
    """As much of it as is looked at."""
    taken: list[bytes] = []
    octets = 0
    for piece in given:
        taken.append(piece)
        octets += len(piece)
        if octets >= OCTETS:
            break
    return b"".join(taken)
