"""Threads in which the functions of Python rules run (DESIGN §6 "When a rule goes wrong"): a bounded number, and each stage of a session within a bounded time.

    turn = workers.turn()                                   # one a session
    decision = await workers.decide(evaluation, turn)

Invariants: nothing waits for ever: what has not ended in its time is given up and the client is answered, whether it runs or still waits for a thread. A thread cannot be
ended: one that was given up stays taken until it ends by itself; of one session none begins before that, so that its functions never run at the same time, and no client
takes more than one. What is decided does not belong here (rules/evaluation.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.evaluation import Evaluation


class Turn:
    """One session's, among all: what trio asks before it begins a thread."""

    __slots__ = ("_of_all", "_own")

    def __init__(self, of_all: trio.CapacityLimiter) -> None:
        self._own = trio.CapacityLimiter(1)
        self._of_all = of_all

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._own.acquire_on_behalf_of(borrower)
        try:
            await self._of_all.acquire_on_behalf_of(borrower)
        except BaseException:
            self._own.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._of_all.release_on_behalf_of(borrower)
        self._own.release_on_behalf_of(borrower)


class Workers:
    """Of a process. `threads`: how many; `seconds`: for one stage of a session."""

    def __init__(self, threads: int, seconds: float) -> None:
        self._threads = trio.CapacityLimiter(threads)
        self._seconds = seconds

    def turn(self) -> Turn:
        return Turn(self._threads)

    async def decide(self, evaluation: Evaluation, turn: Turn) -> Decision:
        with trio.move_on_after(self._seconds):
            return await trio.to_thread.run_sync(
                evaluation.run,
                abandon_on_cancel=True,
                limiter=turn,  # type: ignore[arg-type]  # any object with its two methods will do, says trio
            )
        return evaluation.gave_up(self._seconds)
