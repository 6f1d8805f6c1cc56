"""What may wait a moment on its way into the store, so that most of it need not be written by itself.

A transaction that takes its time: what there is of it, and of its wire, is put there while it runs, so that a kill leaves it `aborted` (PROTOCOL §4, S4 to S6). Most are committed, or
over, within milliseconds, and their record then has all of it. And the wire of a session that goes on: one part for what it said within the moment, not one a message.

Theory of operation: who has something notes itself, and is asked to `catch_up` LAG to twice as long after it did; who is over by then costs a place in a table.

Invariants: a transaction is out of the table before its record is committed, so nothing that is written here follows that. Nothing waits for what is written here.
What is written does not belong here (transaction.py, session.py), nor what becomes of it (record/store/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds.
LAG: Final = 0.2


class Noted(Protocol):
    """Who has something to write."""

    def catch_up(self) -> None:
        """Have it written."""


class Late:
    """All sessions'."""

    def __init__(self, tell: Callable[[Exception], None]) -> None:
        """`tell` hears of faults of ours: they are nobody else's trouble."""
        self._tell = tell
        self._new: dict[Noted, None] = {}
        self._waiting: dict[Noted, None] = {}  # of the turn before
        self._some = trio.Event()

    def note(self, one: Noted) -> None:
        """It has something, or more."""
        if one not in self._waiting:
            self._new[one] = None
            self._some.set()

    def over(self, one: Noted) -> None:
        """What it has is written otherwise."""
        self._new.pop(one, None)
        self._waiting.pop(one, None)

    async def watch(self) -> None:
        """Have them catch up, until cancelled."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._new or self._waiting:
                await trio.sleep(LAG)
                self._turn()

    def _turn(self) -> None:  # of its own, so that nothing here holds what is over
        for one in self._waiting:
            try:
                one.catch_up()
            except Exception as error:  # noqa: BLE001
                self._tell(error)
        self._waiting, self._new = self._new, {}
