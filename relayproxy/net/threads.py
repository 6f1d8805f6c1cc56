"""Threads for what blocks, a number of its own for each kind of work: what hangs in one kind (a mount that is gone, a disk, a resolver) must stop no other.

    _FILES: Final = Threads("rules")
    rules = await _FILES.read(read, 60, "rule files")

trio's own number, which all would share, is left to the store's bodies (record/store/spool.py).
A thread cannot be ended: one that was given up stays taken until it ends by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of one kind, at once.
MOST: Final = 40

T = TypeVar("T")


class Threads:
    """Of one kind of work, whoever has it done."""

    __slots__ = ("_limiter",)

    def __init__(self, kind: str) -> None:
        #: What was given up when a run of trio ended is no business of the next.
        self._limiter = trio.lowlevel.RunVar[trio.CapacityLimiter](kind)

    async def run(self, work: Callable[[], T]) -> T:
        """What writes: who is cancelled waits for it all the same."""
        return await trio.to_thread.run_sync(work, limiter=self._of_this_run())

    async def read(self, work: Callable[[], T], seconds: float, what: str) -> T:
        """What only reads: given up by who is cancelled, and after so many seconds. Raises TimeoutError, in words: of `what`."""
        with trio.move_on_after(seconds):
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._of_this_run())
        raise TimeoutError(f"expected {what} that can be read within {seconds:g} s, and gave up")

    def _of_this_run(self) -> trio.CapacityLimiter:
        try:
            return self._limiter.get()
        except LookupError:
            self._limiter.set(limiter := trio.CapacityLimiter(MOST))
            return limiter
