"""A wire that nobody can trust: it cuts octets into slices, dawdles, and at some octet resets, closes, half-closes or falls silent.

It never changes, drops from the middle or repeats an octet, as TCP does not. All is drawn from a seed, connection by connection.
"""

from __future__ import annotations

import math
import random
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

End = Literal["reset", "reset-near", "reset-far", "close", "half-close", "silence"]
ENDS: Final[tuple[End, ...]] = ("reset", "reset-near", "reset-far", "close", "half-close", "silence")
#: The linger that makes close() a reset.
RESET: Final = struct.pack("ii", 1, 0)


def dice(*seed: object) -> random.Random:
    return random.Random(" ".join(map(str, seed)))  # noqa: S311  repeatable is what it is for


class Fate(NamedTuple):
    """What becomes of a connection, behind which octet, of those that go forward or of those that come back."""

    end: End | None
    forward: bool
    after: float

    @classmethod
    def draw(cls, dice: random.Random, doomed: float) -> Fate:
        if dice.random() >= doomed:
            return cls(None, forward=True, after=math.inf)
        forward = dice.random() < 0.5
        # Commands and bodies forward, of any size; some dozen replies back, each of them a place to be lost.
        return cls(dice.choice(ENDS), forward, int(2 ** dice.uniform(0, 16)) if forward else dice.randint(1, 900))


class Wire:
    """One connection: `near` has connected to us, `far` is whom it means."""

    def __init__(self, near: trio.SocketStream, far: trio.SocketStream, dice: random.Random, doomed: float) -> None:
        #: Something was done to it that a peer can tell from slowness.
        self.harmed = False
        self._near = near
        self._far = far
        self._dice = dice
        self._fate = Fate.draw(dice, doomed)
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, self._near, self._far, self._fate.forward)
                    nursery.start_soon(self._carry, self._far, self._near, not self._fate.forward)
        except* trio.BrokenResourceError:
            self._cut(self._near, self._far)  # one side has reset: so does the other
        finally:
            self._near.socket.close()
            self._far.socket.close()

    async def _carry(self, source: trio.SocketStream, target: trio.SocketStream, fated: bool) -> None:
        left = self._fate.after if fated else math.inf
        async for data in source:
            rest = memoryview(data)
            while rest:
                size = int(min(self._slice(len(rest)), left))
                await target.send_all(rest[:size])
                rest, left = rest[size:], left - size
                if not left:
                    self.harmed = True
                    await self._meet(target)
                    return
                if self._dice.random() < 0.08:
                    await trio.sleep(self._dice.expovariate(30))
        await target.send_eof()

    def _slice(self, available: int) -> int:
        if available > 1 << 14:
            return self._dice.randint(1 << 12, 1 << 16)
        return available if self._dice.random() < 0.6 else self._dice.randint(1, available)

    async def _meet(self, target: trio.SocketStream) -> None:
        match self._fate.end:
            case "half-close":
                await target.send_eof()
            case "silence":
                pass  # nothing more passes this way; whoever waits for it gives up
            case "close":
                self._scope.cancel()
            case "reset-near":
                self._cut(self._near)
            case "reset-far":
                self._cut(self._far)
            case _:
                self._cut(self._near, self._far)

    def _cut(self, *streams: trio.SocketStream) -> None:
        for stream in streams:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.harmed = True
        self._scope.cancel()


class Chaos:
    """Listens at `port` in front of `target`, a port of this machine; `doomed` is the share of connections that come to harm."""

    def __init__(self, seed: str, target: int, doomed: float) -> None:
        self.port = 0
        self.connections = 0
        self.harmed = 0
        self._seed = seed
        self._target = target
        self._doomed = doomed
        self._wires: dict[int, Wire] = {}

    def wire(self, port: int) -> Wire:
        """The one whose far side has us at this port."""
        return self._wires[port]

    async def serve(self, near: trio.SocketStream) -> None:
        self.connections += 1
        number = self.connections
        try:
            far = await trio.open_tcp_stream("127.0.0.1", self._target, happy_eyeballs_delay=math.inf)
        except OSError:
            await trio.aclose_forcefully(near)
            return
        wire = Wire(near, far, dice(self._seed, number), self._doomed)
        port: int = far.socket.getsockname()[1]
        self._wires[port] = wire
        await wire.run()
        self.harmed += wire.harmed


@asynccontextmanager
async def chaos(seed: str, target: int, *, doomed: float) -> AsyncIterator[Chaos]:
    wires = Chaos(seed, target, doomed)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        wires.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, wires.serve, [listener])
        yield wires
        nursery.cancel_scope.cancel()
