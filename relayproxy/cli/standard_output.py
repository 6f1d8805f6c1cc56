"""Standard output, as the verbs write to it: what cannot be written there is told in words, and nothing more is tried.

Invariants: a reader that has gone away (`| head`) is no failure, and changes no verdict: a verb that has one goes on to it, unread.
What is written does not belong here, nor the log, which is written all the while (record/sink.py).
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO

from relayproxy.cli import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The exit status where standard output cannot be written.
UNWRITTEN: Final = 1
_OUTPUT: Final = 1


class ReaderGone(Exception):  # noqa: N818  it is no failure
    """Who read our output has had enough."""


class _Output(io.RawIOBase):
    def __init__(self, below: BinaryIO | None, *, goes_on: bool) -> None:
        self._below = below
        self._goes_on = goes_on
        self._ended = False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._below is not None and self._below.isatty()

    def fileno(self) -> int:
        return self._there().fileno()

    def _there(self) -> BinaryIO:
        if self._below is None:
            self._ended = True
            raise Failed("standard output is closed", UNWRITTEN)
        return self._below

    def write(self, octets: Any, /) -> int | None:
        if self._ended:  # Python flushes what is left in buffers when it ends
            return len(octets)
        try:
            return self._there().write(octets)
        except BrokenPipeError:
            self._ended = True
            if self._goes_on:
                return len(octets)
            raise ReaderGone from None
        except OSError as error:
            self._ended = True
            raise Failed(f"standard output: {error.strerror}", UNWRITTEN) from error


@contextmanager
def standard_output(*, goes_on: bool) -> Iterator[None]:
    """`goes_on`: where nobody reads any more. Raises Failed where it cannot be written, and ReaderGone."""
    given: TextIO | None = sys.stdout
    if given is None:  # it was closed for us: nothing that is opened later must be taken for it
        _take_the_place_of_output()
        shown = io.TextIOWrapper(io.BufferedWriter(_Output(None, goes_on=goes_on)), write_through=True)
    else:
        below: BinaryIO = getattr(given.buffer, "raw", given.buffer)
        shown = io.TextIOWrapper(
            io.BufferedWriter(_Output(below, goes_on=goes_on)),
            given.encoding,
            given.errors,
            line_buffering=bool(given.line_buffering),
        )
    with redirect_stdout(shown):
        try:
            yield
        except BaseException:
            with suppress(Failed, ReaderGone):
                shown.flush()
            raise
        shown.flush()


def _take_the_place_of_output() -> None:
    """By a descriptor that cannot be written."""
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) < _OUTPUT:
        pass  # standard input was closed as well
    if descriptor > _OUTPUT:
        os.close(descriptor)
