"""A body on its way into the store: in memory while it is small, then compressed into a file in the store's own folder (DESIGN §1.5).

Invariants: memory holds at most `memory` octets and a block, whatever comes. Nothing is written, compressed or hashed on trio's thread but what stays in memory; worker threads of trio's own number
are for this alone (net/threads.py). A file
is removed by `discard`, also after `finish` (the store has a link of its own), or by the writer once the body was `put`; what a crash leaves, bodies.py finds.
Who is cancelled, or waits for a disk that hangs, is not kept; then the body can only be discarded.
What becomes of the body does not belong here (writer.py).
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

import trio

from relayproxy.record.store.bodies import record_error
from relayproxy.record.store.contents import LEVEL, ZSTD, ZstdCompressor, digest_of
from relayproxy.record.store.interface import Body, RecordError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relayproxy.record.store.bodies import Bodies

#: Octets that are given to a worker thread at once.
BLOCK: Final = 1 << 20
#: Seconds that the disk may take for one.
PATIENCE: Final = 180.0

T = TypeVar("T")


class Spool:
    """One body. `add` what comes, then `finish`; `discard` in any case, once nobody needs the file any more."""

    def __init__(self, folder: Bodies, memory: int) -> None:
        """`memory`: octets (`[limits] spool_memory`)."""
        self._folder = folder
        self._memory = memory
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._file: _File | None = None

    async def add(self, octets: bytes) -> None:
        """Take some more of it. Raises RecordError; then it can only be discarded."""
        self._pieces.append(octets)
        self._waiting += len(octets)
        if self._waiting < BLOCK if self._file is not None else self._waiting <= self._memory:
            return
        if self._file is None:
            self._file = _File(self._folder)
        await self._write(self._file, last=False)

    async def finish(self, digest: bytes | None = None) -> Body:
        """All of it; `digest`, where somebody has made it already: SHA-256. Raises RecordError."""
        if self._file is None:
            octets = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            return Body(digest or sha256(octets).digest(), len(octets), octets)
        await self._write(self._file, last=True)
        return await self._in_thread(self._file, partial(self._file.body, digest))

    def discard(self) -> None:
        """Forget it, and remove its file where there is one; does not wait for that."""
        self._pieces.clear()
        if self._file is not None:
            trio.lowlevel.start_thread_soon(partial(self._file.alone, self._file.discard), lambda _: None)
            self._file = None

    async def _write(self, file: _File, *, last: bool) -> None:
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        await self._in_thread(file, partial(file.write, pieces, last=last))

    async def _in_thread(self, file: _File, work: Callable[[], T]) -> T:
        try:
            with trio.move_on_after(PATIENCE):
                return await trio.to_thread.run_sync(file.alone, work, abandon_on_cancel=True)
        except OSError as error:
            raise record_error(error, self._folder.folder) from error
        raise RecordError(f"{self._folder.folder}: the disk has not answered for {PATIENCE:g} s")


class _File:
    """The file of one body; all of it is called in worker threads, and through `alone`: a disk that hangs has callers leave before it returns."""

    def __init__(self, folder: Bodies) -> None:
        self._folder = folder
        self._compressor = ZstdCompressor(LEVEL)
        self._size = 0
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()

    def alone(self, work: Callable[[], T]) -> T:
        """One call at a time."""
        with self._lock:
            return work()

    def write(self, pieces: list[bytes], *, last: bool) -> None:
        if self._file is None:
            self._path, descriptor = self._folder.create()
            self._file = os.fdopen(descriptor, "wb", buffering=0)
        block = b"".join(pieces)
        for at in range(0, len(block), BLOCK):
            self._write_all(self._compressor.compress(block[at : at + BLOCK]))
        self._size += len(block)
        if last:
            self._write_all(self._compressor.flush())
            self._file.close()

    def _write_all(self, octets: bytes) -> None:
        rest = memoryview(octets)
        while rest and self._file is not None:
            rest = rest[self._file.write(rest) :]

    def body(self, digest: bytes | None) -> Body:
        """Whoever brought it all has mostly hashed it, too; what was cut off is read again."""
        if self._path is None:
            raise AssertionError("a file in which nothing was written")
        return Body(digest or digest_of(ZSTD, self._path), self._size, None, self._path)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            with suppress(OSError):  # it is found at the next start
                self._path.unlink(missing_ok=True)
