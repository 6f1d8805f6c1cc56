"""One turn of the event loop, as the sockets of a worker share it: how many tasks were woken and have still to run, and what they are woken with.

The poller (poller.py) asks for nothing new before they have run: it would find nothing, and a session that is alone pays for each time that it is asked.
How a socket is waited for does not belong here (edge.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Generator


class _Woken(Outcome[None]):
    """What a wait ends with that ends well. outcome.Value(None) serves but once, and a line would pay for one each time that it is waited for."""

    def unwrap(self) -> None:
        pass

    def send(self, gen: Generator[Any, None, Any]) -> Any:
        return gen.send(None)

    async def asend(self, agen: object) -> NoReturn:
        raise NotImplementedError("no task is an asynchronous generator")


WOKEN: Final = _Woken()


class Turn:
    """One worker's. `due`: tasks that were woken and have not run yet."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = 0
