"""Files that verbs write: there whole or not at all, and the owner's alone, for they hold mail; but one that is there keeps its mode."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def path_or_none(output: str | None) -> Path | None:
    """What a flag names; None: standard output."""
    return None if output in (None, "-") else Path(output)


@contextmanager
def written(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Where octets go: standard output, or a file beside `path` that becomes it when all is written."""
    if path is None:
        yield sys.stdout.buffer.write
        return
    path = path.resolve()  # a link stays one
    try:
        descriptor, name = tempfile.mkstemp(prefix=".relayproxy-", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    waiting = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
            yield file.write
            file.flush()
            os.fsync(descriptor)
        waiting.replace(path)
    except BaseException:
        with suppress(OSError):
            waiting.unlink()
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is that asks for the same, where the file system has locks. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # NFS locks no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
