"""One turn of the event loop, as the sockets of a worker share it: tasks that were woken together, and what they say, which leaves together.

A send wakes the program at the other end, mostly on another core, and that costs three times what the send itself does. So while tasks that were woken
have still to run, what a task sends "soon" is kept, and leaves when the last of them waits again, or GATHER streams have something: whoever is at the
other end is woken once for all of it. Where one session runs alone, what it sends leaves at once.

Invariant: nothing stays behind: a task that waits to receive, and the poller before it waits itself, see off what is late.
How a socket is sent on does not belong here (edge.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Generator

#: So many streams that have something to say leave together: more would wait for longer than they gain.
GATHER: Final = 16
#: Octets up to which what is sent may wait for others: a line or a few.
SMALL: Final = 4 * 1024


class Speaker(Protocol):
    """A stream with something to say."""

    def depart(self) -> None:
        """Send what is late, should it not have left yet. Does not raise."""


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
    """One worker's."""

    __slots__ = ("_leaving", "due")

    def __init__(self) -> None:
        #: Tasks that were woken and have not run yet.
        self.due = 0
        self._leaving: list[Speaker] = []

    def leave(self, speaker: Speaker) -> None:
        """It has something to say that may wait for others."""
        self._leaving.append(speaker)
        if len(self._leaving) >= GATHER:
            self.see_off()

    def see_off(self) -> None:
        """Send all that is late."""
        if self._leaving:
            leaving, self._leaving = self._leaving, []
            for speaker in leaving:
                speaker.depart()
