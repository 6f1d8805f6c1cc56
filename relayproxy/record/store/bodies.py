"""The folder beside the store where large bodies are: names that are nobody else's, and what is left behind is found.

Theory of operation: each process has a name of its own and holds a lock on the file `NAME.lock` for as long as it lives; its files are `NAME-COUNT.zst`. So a
file without a row is known to be left behind once its process is gone, whatever machine's pid it had (PROTOCOL §4, SIGKILL).

Invariants: a file belongs to one row, or to one body on its way in, never to two: whoever removes what no row names can take nobody else's.
What is in the files does not belong here (contents.py), nor which rows there are (backend.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from itertools import count, islice
from typing import TYPE_CHECKING, Final

from relayproxy.record.store.interface import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Seconds that a file is left alone, whoever made it.
PATIENCE: Final = 3600.0
#: Files that are looked at in one piece of a sweep.
_FILES: Final = 256

_NAME: Final = re.compile(r"([0-9a-f]{16})(?:-[0-9]+\.zst|\.lock)")
#: No space, quota, over the limit of a file's size.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(number: int | None) -> bool:
    """Whether this error number means that there is no room."""
    return number in _FULL


def record_error(error: OSError, path: Path) -> RecordError:
    """What the system said, as the writer's callers know it."""
    return RecordError(f"{path}: {error.strerror or error}", full=is_full(error.errno))


class Bodies:
    """The folder, for one process. Any thread may ask for a name. All raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = count()
        self._name = ""
        self._lock = -1
        # The writer's thread opens and closes; those who spool ask for names in threads of trio's.
        self._guard = threading.RLock()

    def new(self) -> Path:
        """A path where nothing is, and nobody but the caller will make anything."""
        with self._guard:
            if self._lock < 0:
                self.open()
            return self.folder / f"{self._name}-{next(self._count)}.zst"

    def open(self) -> None:
        """Make the folder and this process's lock where they are not there (any more)."""
        with self._guard:
            if self._lock >= 0 and (self.folder / f"{self._name}.lock").exists():
                return
            self.close()
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = secrets.token_hex(8)
            lock = os.open(self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._name, self._lock = name, lock

    def create(self) -> tuple[Path, int]:
        """A new file, and its descriptor to write to it; the folder may have been removed."""
        try:
            return self._create()
        except FileNotFoundError:
            self.open()
            return self._create()

    def _create(self) -> tuple[Path, int]:
        path = self.new()
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def left_behind(self, is_known: Callable[[str], bool]) -> Iterator[Path | None]:
        """What processes that are gone left behind and no row names; None for each other file, so that one can stop in between."""
        before = time.time() - PATIENCE
        gone: dict[str, bool] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                yield self._left_behind(entry, before, gone, is_known)

    def _left_behind(
        self, entry: os.DirEntry[str], before: float, gone: dict[str, bool], is_known: Callable[[str], bool]
    ) -> Path | None:
        if (match := _NAME.fullmatch(entry.name)) is None or match[1] == self._name:
            return None
        with suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_mtime < before and not is_known(entry.name):
                if match[1] not in gone:
                    gone[match[1]] = self._is_gone(match[1])
                if gone[match[1]]:
                    return self.folder / entry.name
        return None

    def _is_gone(self, process: str) -> bool:
        """Nobody holds its lock. One that was made just now may not be held yet, but nothing of its process is old enough to matter."""
        try:
            lock = os.open(self.folder / f"{process}.lock", os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def close(self) -> None:
        """Let go of the lock, and of the folder where there is nothing in it."""
        if self._lock < 0:
            return
        with suppress(OSError):
            (self.folder / f"{self._name}.lock").unlink()
        os.close(self._lock)
        self._lock = -1


class Sweep:
    """Once, of what processes that are gone left behind. Raises OSError."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._looked_at: Iterator[Path | None] | None = None
        self._swept = False

    def piece(self, is_known: Callable[[str], bool]) -> bool:
        """A piece; whether there is more to look at."""
        if self._swept:
            return False
        if self._looked_at is None:
            self._looked_at = self._bodies.left_behind(is_known)
        seen = 0
        for path in islice(self._looked_at, _FILES):
            seen += 1
            if path is not None:
                path.unlink(missing_ok=True)
        self._swept = seen < _FILES
        return not self._swept
