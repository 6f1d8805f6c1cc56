"""A message that waits: in memory while it is small, then in a file without a name (DESIGN §1.5, §6 "whole message").

    spool = Spool(memory=1 << 20)
    await spool.add(octets)                      # SpoolError
    async for piece in spool.pieces(): ...       # any number of times, once all is there
    spool.close()

Invariants: memory holds at most `memory` octets, or a block where that is more, whatever comes and however it is cut; the disk is touched in worker threads only; nobody else
can open the file, and it is gone with us, also after SIGKILL. What an `add` that was cancelled or failed has taken stays, and is written with the next.
It is not the store's spool (record/store/spool.py): what that makes is compressed, has a digest and a name that others find, and cannot be read from here.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.net.threads import Threads
from relayproxy.record.store.bodies import is_full

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from io import FileIO
    from pathlib import Path

#: Octets that a worker thread writes or reads at once.
BLOCK: Final = 256 * 1024

_DISK: Final = Threads("spools")


class SpoolError(Exception):
    """The disk could not be written or read, in words. `full`: for want of space (no space left, quota, file too large): 452, not 451."""

    def __init__(self, what: str, *, full: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.full = full


class Spool:
    """One message. One task at a time may `add`, and none meanwhile read."""

    def __init__(self, memory: int, folder: Path | None = None) -> None:
        """`memory`: octets (`[limits] spool_memory`). `folder`: where the file is made; None: the system's for temporary files."""
        self._memory = memory
        self._folder = folder
        self._waiting = bytearray()
        self._file: FileIO | None = None
        self._written = 0

    @property
    def size(self) -> int:
        """Octets."""
        return self._written + len(self._waiting)

    async def add(self, octets: bytes) -> None:
        """Take some more. Raises SpoolError."""
        self._waiting += octets
        if len(self._waiting) >= (self._memory + 1 if self._file is None else BLOCK):
            try:
                await _DISK.run(self._write)
            except OSError as error:
                raise self._told(error) from error

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it from the beginning, at most BLOCK octets at a time. Raises SpoolError."""
        at = 0
        while self._file is not None and at < self._written:
            read = partial(os.pread, self._file.fileno(), min(BLOCK, self._written - at), at)
            try:
                piece = await _DISK.run(read)
            except OSError as error:
                raise self._told(error) from error
            if not piece:
                raise SpoolError(f"{self._where}: expected {self._written} octets, found {at}")
            at += len(piece)
            yield piece
        for start in range(0, len(self._waiting), BLOCK):
            yield bytes(self._waiting[start : start + BLOCK])

    def close(self) -> None:
        """Forget it all, now or later: freeing a large file takes time, which nobody waits for."""
        self._waiting = bytearray()
        self._written = 0
        if self._file is not None:
            trio.lowlevel.start_thread_soon(self._file.close, lambda _: None)
            self._file = None

    def _write(self) -> None:
        """In a worker thread, which a cancelled task waits for. What is waiting is let go of once it is all written."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115 - close() closes it
        with memoryview(self._waiting) as octets:
            done = 0
            while done < len(octets):
                done += os.pwrite(self._file.fileno(), octets[done : done + BLOCK], self._written + done)
        self._written += done
        self._waiting = bytearray()

    @property
    def _where(self) -> str:
        return str(self._folder or tempfile.gettempdir())

    def _told(self, error: OSError) -> SpoolError:
        return SpoolError(f"{self._where}: {error.strerror or error}", full=is_full(error.errno))
