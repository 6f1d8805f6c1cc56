"""Writing to a PostgreSQL store: what `Backend` and `Releasing` promise (interface.py), by one thread, beside other processes on any host.

Theory of operation: a batch is one statement (schema.py). Large bodies go before it, in chunks, within the same transaction, a few chunks at a time whatever their size.
Where the connection is lost in the middle nobody knows whether the batch is in; it is written once more, which changes nothing where it was. Only where that fails
too it is said not to be in; should it be there all the same, it is replaced by what is told of it later.

Invariants: what was written twice is there once. No statement is waited for without end, and while a batch locks others out it does not wait for the network.
When things are written does not belong here (writer.py), nor what is removed and when (upkeep.py).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

import psycopg

from relayproxy.record.store.bodies import record_error as file_error
from relayproxy.record.store.contents import RAW, ZSTD, Packer
from relayproxy.record.store.interface import RecordError, StoreError
from relayproxy.record.store.postgresql import chunks, releases
from relayproxy.record.store.postgresql.batch import Batch, bodies_of, merged
from relayproxy.record.store.postgresql.connection import end_peer, is_lost, is_undone, open_to_write, record_error
from relayproxy.record.store.postgresql.schema import BODY_GONE, CALL, NEWER, NO_DAY, PROBE, TRY_ROOM
from relayproxy.record.store.postgresql.upkeep import Upkeep, make_days

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from relayproxy.record.report import ReleaseRecord
    from relayproxy.record.store.bodies import Bodies
    from relayproxy.record.store.interface import Body, Keep, Sync, Write
    from relayproxy.record.store.location import PostgresqlUrl
    from relayproxy.record.store.postgresql.batch import Place
    from relayproxy.record.store.postgresql.connection import Connection

#: Octets from which on it is worth to ask whether a body is there before it is sent.
_ASK_FROM: Final = 4096
#: Tries to write what somebody takes the ground from under.
_ROUNDS: Final = 3


class PostgresqlBackend:
    """The writing end of a PostgreSQL store."""

    def __init__(
        self, url: PostgresqlUrl, bodies: Bodies, *, sync: Sync, keep: Keep, patience: float, later: bool
    ) -> None:
        """`patience`: seconds to wait for others who write; `later`: it connects when it is first asked for something. Raises StoreError."""
        self._url = url
        self._packer = Packer()
        self._days: set[int] = set()
        self._open = partial(open_to_write, url, sync=sync, patience=patience)
        self._connection: Connection | None = None if later else self._open()
        self._lost: Connection | None = None  # and not known to have ended at the other end
        self._bodies = bodies
        self._upkeep = Upkeep(bodies, keep)

    def write(self, writes: Sequence[Write], *, durable: bool) -> None:
        with self._speaking():
            self._once_more(partial(self._write, writes, durable=durable))

    def _once_more(self, do: Callable[[], object]) -> None:
        """Do what changes nothing where it was done already; once more where it was undone, or the connection is lost meanwhile, then by another."""
        try:
            do()
        except psycopg.Error as error:
            if self._is_lost(error):
                self._drop()
            elif not is_undone(error):
                raise
            do()

    def _write(self, writes: Sequence[Write], *, durable: bool) -> None:
        transactions, sessions = merged(writes)
        knows = True  # which bodies are there
        for attempt in count(1):
            connection = self._connected()
            batch = Batch(self._packer)
            for session in sessions:
                batch.session(session)
            wanted: dict[Place, Body] = {}
            for transaction in transactions:
                day = batch.transaction(transaction)
                wanted |= {(day, body.digest): body for body in bodies_of(transaction)}
            try:
                self._make_days(connection, batch.days)
                known = self._known(connection, wanted) if knows else set()
                self._send(connection, batch, wanted, known, durable=durable)
            except psycopg.Error as error:
                # Somebody's retention has taken a body, or a day, in between: all is brought again.
                if error.sqlstate not in (BODY_GONE, NO_DAY) or attempt == _ROUNDS:
                    raise
                self._days -= batch.days
                knows = False
            else:
                return

    def _send(
        self, connection: Connection, batch: Batch, wanted: dict[Place, Body], known: set[Place], *, durable: bool
    ) -> None:
        large: list[tuple[Place, Body, bytes | Path]] = []
        for place, body in wanted.items():
            if place in known:
                batch.known_body(place)
            elif body.octets is None:
                if body.file is None or not body.file.exists():
                    raise ValueError("a body has neither octets nor a file")
                large.append((place, body, body.file))
            elif len(octets := self._packer.compress(body.octets)) >= chunks.CHUNK:
                large.append((place, body, octets))
            elif len(octets) < len(body.octets):
                batch.body(place, body.size, ZSTD, octets)
            else:
                batch.body(place, body.size, RAW, body.octets)
        if not large:
            connection.ask(CALL, (*batch.parameters, durable), often=True)
            return
        try:
            connection.ask("BEGIN")
            for place, body, packed in large:
                number, packed_octets = chunks.send(connection, place[0], _cut(packed))
                batch.chunked_body(place, body.size, ZSTD, number, packed_octets)
            with connection.pipeline():  # once others are locked out, nobody waits for the network
                connection.ask(CALL, (*batch.parameters, durable), often=True)
                connection.ask("COMMIT")
        except BaseException:
            with suppress(psycopg.Error):
                connection.rollback()
            raise

    def _known(self, connection: Connection, wanted: dict[Place, Body]) -> set[Place]:
        """Those bodies that the store has; nothing is asked about small ones."""
        places = [place for place, body in wanted.items() if body.octets is None or len(body.octets) >= _ASK_FROM]
        if not places:
            return set()
        days = ", ".join(map(str, sorted({day for day, _ in places})))  # written out: no other day is locked
        rows = connection.ask(
            f"SELECT day, digest FROM contents WHERE day IN ({days}) AND digest = ANY($1)",
            ([digest for _, digest in places],),
            often=True,
        )
        return {(day, digest) for day, digest in rows} & wanted.keys()

    def _make_days(self, connection: Connection, days: set[int]) -> None:
        """Make the tables of those days that have none yet."""
        if days <= self._days:
            return
        self._days = make_days(connection, days)

    def claim(self, transaction: str, attempt: int, release: ReleaseRecord) -> bool:
        with self._speaking():
            return releases.note(self._connected(), releases.CLAIM, transaction, attempt, release)

    def released(self, transaction: str, attempt: int, release: ReleaseRecord) -> None:
        def settle() -> None:
            releases.note(self._connected(), releases.SETTLE, transaction, attempt, release)

        with self._speaking():
            self._once_more(settle)

    def probe(self) -> None:
        with self._speaking():
            connection = self._connected()
            with connection.transaction():
                if not connection.ask(PROBE).rowcount:
                    raise RecordError(f"{self._url}: {NEWER}")
                connection.ask(TRY_ROOM)  # where the disk is full there may be room for a small row

    def upkeep(self, *, busy: bool = False) -> bool:
        with self._speaking():
            return self._upkeep.piece(self._connected(), busy=busy)

    def close(self) -> None:
        self._drop()
        self._bodies.close()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """What goes wrong meanwhile as RecordError where the store is at fault."""
        try:
            yield
        except psycopg.Error as error:
            told = record_error(error, self._url)
            if self._is_lost(error):
                self._drop()
            if told is None:
                raise
            raise told from error
        except OSError as error:
            with suppress(OSError):
                self._bodies.open()  # the folder may have been removed
            raise file_error(error, self._bodies.folder) from error

    def _connected(self) -> Connection:
        """The connection, made anew where it was dropped. Raises RecordError."""
        if self._connection is None:
            try:
                self._connection = self._open()
            except StoreError as error:
                raise RecordError(str(error)) from error
            self._days = set()
            if self._lost is not None:
                end_peer(self._connection, self._lost)
                self._lost = None
        return self._connection

    def _is_lost(self, error: psycopg.Error) -> bool:
        return self._connection is not None and is_lost(error, self._connection)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._lost = connection
            connection.close()


def _cut(packed: bytes | Path) -> Iterator[bytes]:
    """In chunks."""
    if isinstance(packed, bytes):
        yield from (packed[at : at + chunks.CHUNK] for at in range(0, len(packed), chunks.CHUNK))
        return
    with packed.open("rb") as file:
        yield from iter(partial(file.read, chunks.CHUNK), b"")
