"""A standard output that cannot be written."""

from __future__ import annotations

import os
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def unread() -> Iterator[None]:
    """A pipe whose reader has gone away."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as output, redirect_stdout(output):
        yield


@contextmanager
def full() -> Iterator[None]:
    """A file for which there is no space."""
    with open("/dev/full", "w", encoding="utf-8") as output, redirect_stdout(output):  # noqa: PTH123 - a device
        yield
