"""What a store is to those who write to it and those who read it, whatever is behind (sqlite.py, postgresql/).

    store = open_store("sqlite:relayproxy.db")            # opening.py; raises StoreError
    writer = Writer(store.backend(), ...)                  # one thread a process (writer.py): group commit
    await writer.commit([TransactionWrite(record, message)])      # in the store when it returns; RecordError
    writer.put(TransactionWrite(record, message, final=True))     # behind: tried until it is in

    with store.reader() as reader:
        for stored in reader.transactions(parse("outcome:accepted & since:1h", now=time_ns()), newest_first=True):
            print(stored.record.envelope.received.sender)
            content = b"".join(reader.message(stored))
        session = reader.session(stored.record.session)

Invariants: what `Backend.write` was given is in the store whole or not at all. A transaction is known by its id: written again it replaces what was there,
but for a message, which stays where the later write has none. What stays not `final` when its writer is gone reads as it was written last: the relay writes `unknown`
before the dot, and before that `aborted` where a transaction takes its time (PROTOCOL §4). Bodies are kept once, by the SHA-256 of their octets.
Tries to release what is held are kept beside its record, so that no later write of the record takes one away; who reads gets them in it.
What is written when does not belong here (record/recorder.py), nor how things look (cli/).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from relayproxy.record.report import ReleaseRecord, TransactionRecord
    from relayproxy.record.select import Select
    from relayproxy.record.wire import WireEntry


#: The digest of no octets.
_EMPTY: Final = sha256(b"").digest()


class StoreError(Exception):
    """A store cannot be opened or read, in words for the user: what, where, and what to do about it."""


class StoreAwayError(StoreError):
    """It cannot be reached now, and may be again, without anybody changing what was asked for. `full`: for want of space; `replaced`: what is there then is another."""

    def __init__(self, what: str, *, full: bool = False, replaced: bool = False) -> None:
        super().__init__(what)
        self.full = full
        self.replaced = replaced


class RecordError(Exception):
    """Something could not be written. `full`: for want of space (no space left, quota, file too large): 452, not 451."""

    def __init__(self, what: str, *, full: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.full = full


#: What is written survives: that the relay is killed, or that the machine of the store loses its power, too.
Sync = Literal["normal", "full"]


class Keep(NamedTuple):
    """How much is kept: seconds, octets; None: without a limit."""

    age: float | None = None
    bytes: int | None = None


#: Seconds after which what is not final, or not ended, is taken for abandoned by a process that is gone.
ABANDONED_TRANSACTION: Final = 3600
ABANDONED_SESSION: Final = 86400


class Body(NamedTuple):
    """A body on its way into the store: `octets`, or for a large one `file`, where it waits zstd-compressed in the store's folder (spool.py)."""

    digest: bytes
    size: int
    octets: bytes | None
    file: Path | None = None


class Message(NamedTuple):
    """A message as it is written. What `messages` and `redact` of the configuration leave out is not in it."""

    header: bytes
    #: The empty line behind the header section as it came; b"" where there was none.
    separator: bytes
    body: Body | None
    #: None: as received.
    header_sent: bytes | None = None
    body_sent: Body | None = None
    #: Whether it came to its end: what was cut off is kept as far as it came.
    whole: bool = True
    #: Whether header section, separator and body are the octets that came: nothing was redacted.
    exact: bool = True


class TransactionWrite(NamedTuple):
    """A transaction, as far as it has come; `final`: there is nothing more to come."""

    record: TransactionRecord
    message: Message | None = None
    final: bool = False


class SessionWrite(NamedTuple):
    """A session and some more of its wire: `wire` (wire.encode) is part number `part`, from 0.

    `began`, `ended`: nanoseconds since 1970. A later write of the same id replaces all but the wire, which is added to.
    """

    id: str
    listener: str
    client: str
    began: int
    part: int = 0
    wire: bytes | None = None
    ended: int | None = None
    why: str | None = None


Write = TransactionWrite | SessionWrite


class Writing(Protocol):
    """What who records is given of a store (writer.py)."""

    @property
    def trouble(self) -> RecordError | None:
        """Why the last try to write failed, or that one does not return; None where neither is so."""

    def look(self) -> None:
        """Called now and then, so that a write that does not return is noticed."""

    def put(self, write: Write) -> None:
        """Have it written, behind: never waits, tried until it is in."""

    async def commit(self, writes: Sequence[Write], *, durable: bool = False) -> None:
        """Have them written, all or none, however long that takes; RecordError: they are not, and will not be. Cancelled, they are taken back, unless that comes too late."""


class Backend(Protocol):
    """The writing end. All of it is called by one thread, the writer's; several processes may have one each on the same store."""

    def write(self, writes: Sequence[Write], *, durable: bool) -> None:
        """All of them in one transaction; `durable`: it survives power loss when this returns. Raises RecordError, and then nothing was written."""

    def probe(self) -> None:
        """Raise RecordError where nothing can be written now."""

    def upkeep(self, *, busy: bool = False) -> bool:
        """A bounded piece of what can wait (retention, index); whether there is more to do. `busy`: only what cannot wait much longer. Raises RecordError."""

    def close(self) -> None: ...


class Releasing(Protocol):
    """The writing end for who sends on what is held; for one thread, beside those who write."""

    def claim(self, transaction: str, attempt: int, release: ReleaseRecord) -> bool:
        """Note, durably, that what is held is about to be sent on; `attempt`: how many there were before (`HeldRecord.released`).

        False, and nothing is noted: somebody else has noted that one, it was released, or it is not held. Raises RecordError.
        """

    def released(self, transaction: str, attempt: int, release: ReleaseRecord) -> None:
        """What became of one that was claimed, durably. Raises RecordError."""

    def close(self) -> None: ...


class Kept(NamedTuple):
    """A stored message: bodies by their digests, None where they were not kept."""

    header: bytes | None
    separator: bytes
    body: bytes | None
    body_size: int
    header_sent: bytes | None
    body_sent: bytes | None
    whole: bool
    exact: bool

    def as_left(self) -> Kept:
        """The same with what left in the place of what came."""
        return self._replace(
            header=self.header if self.header_sent is None else self.header_sent,
            # Line endings may have been repaired, or a body put behind a header section that had no end.
            separator=b"\r\n" if self.separator or self.body_sent not in (None, _EMPTY) else b"",
            body=self.body if self.body_sent is None else self.body_sent,
        )


class Stored(NamedTuple):
    """A stored transaction. `revision`: grows with every write to any transaction of the store; `document`: the record's JSON, as in the log."""

    revision: int
    record: TransactionRecord
    document: bytes
    final: bool
    message: Kept | None

    @property
    def left(self) -> Kept | None:
        """The message as it left, or, of what is held, as it is to leave; None where it did not, as a whole."""
        told = self.record.message
        gone = self.record.outcome == "held" or (told is not None and told.size.sent is not None)
        return self.message.as_left() if gone and self.message is not None else None


class StoredSession(NamedTuple):
    """A stored session; `wire` in order of time."""

    id: str
    listener: str
    client: str
    began: int
    ended: int | None
    why: str | None
    wire: Sequence[WireEntry]


class Reader(Protocol):
    """The reading end, for one thread, beside any number of writers. All raise StoreError."""

    def transactions(
        self,
        select: Select | None = None,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        after_revision: int = 0,
    ) -> Iterator[Stored]:
        """Those that match, by the time of their MAIL; only those written after that revision. None: all."""

    def ids(self, prefix: str, *, limit: int = 2) -> list[str]:
        """Ids of transactions and of sessions that begin so, in any case of letters."""

    def transaction(self, id_: str) -> Stored | None:
        """The one with this very id."""

    def session(self, id_: str) -> StoredSession | None:
        """The one with this very id."""

    def of_session(self, id_: str) -> list[Stored]:
        """A session's transactions, in order."""

    def message(self, stored: Stored, *, sent: bool = False) -> Iterator[bytes] | None:
        """The message in pieces, as received or as it left (`Stored.left`): header section, empty line, body. None where it was not kept (or never left)."""

    def body(self, digest: bytes) -> Iterator[bytes]:
        """A kept body in pieces."""

    def revision(self) -> int:
        """The last write's: all writes up to it can be read, and none that is to come has a smaller one."""

    def wait(self, seconds: float, output: int) -> bool:
        """Until something may have been written since `revision` was asked, or so many seconds; False as soon as nobody reads that descriptor any more.

        Raises StoreAwayError where it is not in its place any more; asked again, the reader goes on with the store that is there then.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


#: Everything.
KEEP_ALL: Final = Keep()
#: Seconds that a write waits for others who write before it fails.
PATIENCE: Final = 5.0
#: Seconds that one may take before the store counts as in trouble.
STUCK: Final = 10.0
