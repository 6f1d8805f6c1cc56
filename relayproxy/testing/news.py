"""That something has come, told from one thread to those that wait for it: in plain code, under trio or under asyncio.

    with news.told_to(ear := Ear()):
        while True:
            ear.clear()                                   # in this order: nothing that comes between is missed
            if (found := look()) is not None:
                return found
            if not ear.wait(seconds):
                raise AssertionError

The only place that knows of asyncio: a relay never does, and a test of an application may. What has come does not belong here (relay.py).
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class News:
    """Told in any thread, heard in any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ears: list[Callable[[], None]] = []

    def tell(self) -> None:
        with self._lock:
            ears = [*self._ears]
        for ear in ears:
            ear()

    @contextmanager
    def told_to(self, ear: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._ears.append(ear)
        try:
            yield
        finally:
            with self._lock:
                self._ears.remove(ear)


class Ear:
    """For plain code."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.clear = self._event.clear

    def __call__(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Whether it was told within so many seconds."""
        return self._event.wait(max(0.0, seconds))


class AsyncEar(Protocol):
    """For a task."""

    def __call__(self) -> None: ...

    def clear(self) -> None: ...

    async def wait(self, seconds: float) -> bool:
        """Whether it was told within so many seconds."""


def async_ear() -> AsyncEar:
    """For the task that calls."""
    return _TrioEar() if trio.lowlevel.in_trio_run() else _AsyncioEar()


def in_loop() -> bool:
    """Whether the thread that calls runs an event loop, which stands still until it returns."""
    if trio.lowlevel.in_trio_run():
        return True
    if (asyncio := sys.modules.get("asyncio")) is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _TrioEar:
    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def __call__(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._set)

    def _set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        self._event = trio.Event()

    async def wait(self, seconds: float) -> bool:
        with trio.move_on_after(max(0.0, seconds)) as scope:
            await self._event.wait()
        return not scope.cancelled_caught


class _AsyncioEar:
    def __init__(self) -> None:
        import asyncio  # noqa: PLC0415 - it is there already, or this is no task

        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._timeout = asyncio.timeout
        self.clear = self._event.clear

    def __call__(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        try:
            async with self._timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
