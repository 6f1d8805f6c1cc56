"""Where a relay writes: what cannot be written there, as far as that is seen without making anything; `run` ends with it, `check` warns of it.

A warning there, since what is missing may be made by whoever starts the relay. What else a store or a log may be refused for is told by who opens it.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relayproxy.record.state import unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relayproxy.relay.settings import Config


def unwritable(config: Config) -> Iterator[str]:
    """What keeps a relay from starting, a line each."""
    state, store, log = config.state, config.record.store, config.log.file
    made = (state, *state.parents)
    try:
        _check_folder(made)
    except OSError as error:
        yield unusable(state, error)
    if isinstance(store, Path) and (what := _told(partial(_no_file, store, made))) is not None:
        yield f"the store cannot be opened: {what}"
    if log is not None and (what := _told(partial(_no_file, log))) is not None:
        yield f"the log cannot be opened: {what}"


def _told(ask: Callable[[], str | None]) -> str | None:
    """The answer, or why there is none."""
    try:
        return ask()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def _check_folder(made: Sequence[Path]) -> None:
    """Raises OSError where it can be none; `made`: it, and those that it is in."""
    there = next(folder for folder in made if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))


def _no_file(path: Path, made: Sequence[Path] = ()) -> str | None:
    """Why it can be no file; `made`: folders that are made where they are missing."""
    if path.is_dir():
        return f"{path}: expected a file, found a folder"
    if not path.parent.is_dir() and path.parent not in made:
        return f"{path}: there is no folder {path.parent}"
    return None
