"""Plays a script over a stream, as the client that it was (DESIGN §8): what it said, pipelined as it was, and hears what is answered.

    played = await play(script, stream)              # one session, whole
    player = Player(stream)                          # or piece by piece, and then somebody else goes on (fork.py)
    played = await player.play(steps, whole=True)

Invariants: nothing is said that is not in the script, but for RSET where DATA is refused this time: then the message did end the transaction, and what comes behind it belongs to none.
Mail data leaves only behind 3yz. A DATA that is answered 354 this time, and was not then, ends the session: there is nothing to send, and a dot alone would be a message. Whoever is at the other end has deadlines for everything, as a relay has (between.py): there are none here.
What replies mean does not belong here (compare.py).
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.replay.compare import Played
from relayproxy.replay.script import Chunk, Message, Opening
from relayproxy.smtp.commands import Data, Rset
from relayproxy.smtp.errors import RemoteProtocolError
from relayproxy.smtp.replies import ReplyReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.replay.script import Script, Step
    from relayproxy.smtp.replies import Reply

#: Octets, and lines, of a reply.
_MOST: Final = 1 << 20


class _Over(Exception):  # noqa: N818  it is a fact, and reads as one
    """The session is over, and why."""


async def play(script: Script, stream: trio.abc.Stream, *, speed: float | None = None) -> Played:
    """Play it once; the stream is closed then. `speed`: how many times as fast as it was; None: without its pauses."""
    async with stream:
        return await Player(stream, speed).play(script.steps)


class Player:
    """A client in one session. `replies`: what came so far and is none yet, for who goes on when this one has ended."""

    def __init__(self, stream: trio.abc.Stream, speed: float | None = None) -> None:
        self._steps: list[Step] = []
        self._stream = stream
        self._speed = speed
        self._heard: list[Reply | None] = []
        self._asked: deque[int | None] = deque()  # None: RSET of our own
        self._unsent: set[int] = set()
        self._waiting = bytearray()  # to be sent
        self.replies = ReplyReader(_MOST, _MOST)

    async def play(self, steps: Sequence[Step], *, whole: bool = False) -> Played:
        """Play these, behind those that were played; what came of all of them. `whole`: wait for what was never answered then, too."""
        first = len(self._steps)
        self._steps += steps
        self._heard += [None] * len(steps)
        cut = None
        try:
            for number, step in enumerate(steps, first):
                await self._take(number, step)
            await self._send()
            while any(
                number is not None and (whole or self._steps[number].reply is not None) for number in self._asked
            ):
                await self._hear()
        except _Over as over:
            cut = str(over)
        return Played(tuple(self._heard), frozenset(self._unsent), cut)

    async def _take(self, number: int, step: Step) -> None:
        before = number - 1
        behind_data = number > 0 and isinstance(self._steps[before].what, Data)
        if step.waits or behind_data:
            await self._hear_all()
        if behind_data:
            self._judge(number, step, self._heard[before])
        if self._speed is not None and step.pause and not isinstance(step.what, Opening):
            await self._send()
            await trio.sleep(step.pause / self._speed)
        match step.what:
            case Opening():
                self._asked.append(number)
            case Message(wire, ended):
                if number not in self._unsent:
                    self._say(number, wire, asks=ended)
            case Chunk() as chunk:
                self._say(number, chunk.command.wire() + chunk.octets, asks=chunk.whole)
            case command:
                self._say(number, command.wire())

    def _judge(self, number: int, step: Step, reply: Reply | None) -> None:
        """Whether mail data may leave, and does. Raises _Over."""
        goes_on = reply is not None and reply.severity == 3
        if isinstance(step.what, Message):
            if not goes_on:
                self._unsent.add(number)
                self._say(None, Rset().wire())
        elif goes_on:
            raise _Over("DATA was refused then, so that there is no message to send now")

    def _say(self, number: int | None, octets: bytes, *, asks: bool = True) -> None:
        self._waiting += octets
        if asks:
            self._asked.append(number)

    async def _send(self) -> None:
        if not self._waiting:
            return
        octets = bytes(self._waiting)
        self._waiting.clear()
        with suppress(trio.BrokenResourceError):  # what was said last is still to be heard
            await self._stream.send_all(octets)

    async def _hear_all(self) -> None:
        await self._send()
        while self._asked:
            await self._hear()

    async def _hear(self) -> None:
        """The reply to the oldest that has none. Raises _Over."""
        try:
            while (reply := self.replies.next_reply()) is None:
                octets = await self._receive()
                if not octets:
                    raise _Over("the connection was closed")
                self.replies.feed(octets)
        except RemoteProtocolError as error:
            raise _Over(error.what) from error
        if (number := self._asked.popleft()) is not None:
            self._heard[number] = reply

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except trio.BrokenResourceError:
            return b""
