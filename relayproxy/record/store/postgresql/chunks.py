"""Large bodies in a PostgreSQL store: in chunks, a few at a time, so that nothing grows with them at either end.

Which are large does not belong here (backend.py), nor what is in them (store/contents.py).
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relayproxy.record.store.postgresql.connection import Connection

#: Octets.
CHUNK: Final = 1 << 18
#: Chunks of one statement: it is short on a slow line, too.
_MANY: Final = 2

_COPY: Final = "COPY chunks(day, number, part, octets) FROM STDIN (FORMAT BINARY)"
_ONE: Final = "SELECT octets FROM chunks WHERE number = $1 AND part = $2 AND day = $3"


def send(connection: Connection, day: int, chunks: Iterator[bytes]) -> tuple[int, int]:
    """Write them, within a transaction of the caller's; the number that they have, and how many octets they are."""
    number = connection.value("SELECT nextval('numbers')")
    packed = part = 0
    octets = next(chunks, b"")
    while octets:
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(["int4", "int8", "int4", "bytea"])
            for _ in range(_MANY):
                copy.write_row((day, number, part, octets))
                packed += len(octets)
                part += 1
                if not (octets := next(chunks, b"")):
                    break
    return number, packed


def read(ask: Callable[[str, Sequence[object]], list[Any]], day: int, number: int) -> Iterator[bytes]:
    """Give them, as long as there are any; `ask` gives the rows of a query."""
    for part in count():
        rows = ask(_ONE, (number, part, day))
        if not rows:
            return
        yield rows[0][0]
