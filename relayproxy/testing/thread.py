"""trio in a thread of its own, so that the test in front of it may be plain, asyncio's or trio's.

Invariants: who starts it has it ready, or hears why not; nothing is raised in the thread, and what went wrong there is told to who ends it. What runs there does not belong here (relay.py).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Ready = TypeVar("Ready")


class Trouble(Exception):  # noqa: N818  it is a fact, and reads as one
    """What went wrong within, in words for who wrote the test."""


class TrioThread(Generic[Ready]):
    """`serve` runs from `start` until it returns; it gives what it is handed to when it is ready."""

    def __init__(self, serve: Callable[[Callable[[Ready], None]], Awaitable[None]], name: str) -> None:
        self._serve = serve
        self._started = threading.Event()
        self._ready: list[Ready] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        #: What ended it, where it did not return.
        self.error: BaseException | None = None

    def start(self) -> Ready:
        """What is ready. Raises what went wrong before it was."""
        self._thread.start()
        self._started.wait()
        if self._ready:
            return self._ready[0]
        self._thread.join()
        raise self.error or Trouble("it ended before it was ready")

    def call(self, function: Callable[[], object]) -> None:
        """There, soon; never, where it has ended."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function)

    @property
    def is_there(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001  there is nobody here to hear it
            self.error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        await self._serve(self._is_ready)

    def _is_ready(self, ready: Ready) -> None:
        self._ready.append(ready)
        self._started.set()
