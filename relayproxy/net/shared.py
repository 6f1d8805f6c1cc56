"""Work whose result many may wait for at once: it is done once, and by none of them, so that who waits no longer takes it from nobody."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class _Going(Generic[T]):
    """Once it is over there is a `failure`, or a `value`."""

    __slots__ = ("failure", "over", "value")

    value: T

    def __init__(self) -> None:
        self.over = trio.Event()
        self.failure: Exception | None = None


class Shared(Generic[T]):
    """`work` ends by itself, at the latest when trio does."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._going: _Going[T] | None = None

    async def result(self) -> T:
        """Of what goes on, or else begins now. Raises what that raises."""
        if (going := self._going) is None:
            going = self._going = _Going()
            trio.lowlevel.spawn_system_task(self._do, going)
        await going.over.wait()
        if going.failure is not None:
            raise copy(going.failure)  # each its own: where it was raised is kept in it, with all that was there
        return going.value

    async def _do(self, going: _Going[T]) -> None:
        try:
            going.value = await self._work()
        except Exception as error:  # noqa: BLE001  it is for those who wait, and would end trio
            going.failure = error
        finally:
            self._going = None
            going.over.set()
