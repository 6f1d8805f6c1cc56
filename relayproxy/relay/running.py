"""Transactions that take their time: what there is of them is put into the store while they run, so that a kill leaves them there, `aborted` (PROTOCOL §4, S4 to S6).

Theory of operation: most transactions are committed, or end, within milliseconds, and their record then has all of it: to write each twice would be dear, so one that
is over in time costs a place in a table. What stays there for LAG to twice as long is written, and comes again when there is more to tell of it.

Invariants: a transaction leaves the table before its record is committed, so nothing that is written here follows that. Nothing waits for what is written here.
What is written does not belong here (transaction.py), nor what becomes of it (record/store/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from relayproxy.relay.transaction import Transaction

#: Seconds.
LAG: Final = 0.05


class Running:
    """All sessions'."""

    def __init__(self) -> None:
        self._new: dict[Transaction, None] = {}
        self._waiting: dict[Transaction, None] = {}  # of the turn before
        self._some = trio.Event()

    def note(self, transaction: Transaction) -> None:
        """It has begun, or there is more to tell of it."""
        if transaction not in self._waiting:
            self._new[transaction] = None
            self._some.set()

    def over(self, transaction: Transaction) -> None:
        """Its record is written otherwise."""
        self._new.pop(transaction, None)
        self._waiting.pop(transaction, None)

    async def watch(self) -> None:
        """Have those written that take their time, until cancelled."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._new or self._waiting:
                await trio.sleep(LAG)
                self._turn()

    def _turn(self) -> None:  # of its own, so that nothing here holds a transaction that is over
        for transaction in self._waiting:
            transaction.put_so_far()
        self._waiting, self._new = self._new, {}
