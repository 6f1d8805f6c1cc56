"""Room that a SQLite store keeps for itself on its disk, so that what is old can still be removed when nothing else fits there.

Theory of operation: what removes rows goes through the write-ahead log, and before the log can begin anew what is in it has to have room in the database. So a file beside the store
takes as much as the log does, and a little more. It is given up when retention finds no room, and nothing else is written until it is back.

Invariants: where a file cannot be that large for another reason than want of space, the store goes on without it.
What is removed does not belong here (upkeep.py).
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: Octets besides those of the log: what a batch adds to it, and what a piece of retention writes.
_BESIDE: Final = 2 << 20
#: It grows by so many octets at once.
_STEP: Final = 1 << 20
#: Octets that must be free before a store that was full counts as having room again: what a few messages take, so that it does not go to and fro.
ROOM: Final = 1 << 20
#: No larger a part of the disk than this.
_PART: Final = 8


class Reserve:
    """Of one store, whose every process may give it up or take it."""

    def __init__(self, store: Path) -> None:
        self._log = store.with_name(f"{store.name}-wal")
        self._path = store.with_name(f"{store.name}-reserve")
        self._most = 0
        self._possible = True

    @property
    def is_held(self) -> bool:
        """Whether it has all that it should."""
        return not self._possible or _size(self._path) >= self._wanted()

    @property
    def is_tight(self) -> bool:
        """Whether there is hardly any room, or less. Raises OSError."""
        return not self.is_held or shutil.disk_usage(self._path.parent).free < ROOM

    def hold(self) -> None:
        """Take what is not held of it. Raises OSError where there is no room."""
        if self.is_held:
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        before = os.fstat(file).st_size
        try:
            os.posix_fallocate(file, 0, self._wanted())
        except OSError as error:
            os.ftruncate(file, before)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._possible = False
        finally:
            os.close(file)

    def give_up(self) -> None:
        """Leave its room to who removes what is old."""
        with suppress(OSError):
            self._path.unlink()

    def _wanted(self) -> int:
        if not self._most:
            self._most = disk_size(self._path) // _PART
        wanted = _size(self._log) + _BESIDE
        return min(-(-wanted // _STEP) * _STEP, self._most)


def disk_size(path: Path) -> int:
    """Octets of the file system that it is on, or is to be on."""
    disk = os.statvfs(path.parent)
    return disk.f_blocks * disk.f_frsize


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - on the way of every batch
    except FileNotFoundError:
        return 0
