"""Files that verbs write: there whole or not at all, and the owner's alone, for they hold mail."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def written(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Where octets go: standard output, or a file beside `path` that becomes it when all is written."""
    if path is None:
        yield sys.stdout.buffer.write
        return
    waiting = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(path)
    except BaseException:
        with suppress(OSError):
            waiting.unlink()
        raise
