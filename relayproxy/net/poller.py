"""Waits for all sockets of one worker: one epoll, which trio waits for.

trio's own waits cost an epoll_ctl each (its registrations are one-shot). Here a task waits, by trio, for our epoll to have something, asks it once for all
sockets and wakes the tasks that can go on (edge.py). Where there is no epoll, the same `Poller` gives streams that wait as trio does.

Invariants:
- it is not asked again before those that were woken have run: there would be nothing to see, and asking costs a lone session a twentieth.
- deadlines are swept, four times a second, over the waits that have begun: they are attributes and cost nothing to move. They end
  waits up to a quarter of a second late, which the minutes of RFC 5321 §4.5.3.2 do not notice.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, wait_readable

from relayproxy.net.edge import EdgeStream, Turn
from relayproxy.net.stream import TrioStream

if TYPE_CHECKING:
    import socket

    from relayproxy.net.stream import DeadlineStream

#: Seconds between two looks at the deadlines.
SWEEP: Final = 0.25
#: Sockets served in one look at epoll; the rest is served in the next.
BATCH: Final = 512

EDGE_TRIGGERED: Final = hasattr(select, "epoll")
if EDGE_TRIGGERED:
    _ALL = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Poller:
    """All sockets of one worker: `adopt` makes them streams, which live while `run` does."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if EDGE_TRIGGERED else None
        self._streams: dict[int, EdgeStream] = {}
        self._turn = Turn()
        self._forget = self._streams.pop  # the kernel drops a registration with its socket
        self._first = trio.Event()  # set while there are streams: nobody wakes four times a second for nothing

    def adopt(self, sock: socket.socket) -> DeadlineStream:
        """Take a connected socket over; nobody else may use it, or a duplicate of it, from now on."""
        if self._epoll is None:
            return TrioStream.of_socket(sock)
        if sock.getblocking():
            sock.setblocking(False)
        stream = EdgeStream(sock, self._turn, self._forget)
        descriptor = sock.fileno()
        self._epoll.register(descriptor, _ALL)
        self._streams[descriptor] = stream
        self._first.set()
        return stream

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake the streams' tasks, until cancelled. The streams that are left can then only be closed."""
        if self._epoll is None:
            task_status.started()
            await trio.sleep_forever()
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                task_status.started()
                await self._poll(self._epoll)
        finally:
            self._epoll.close()

    async def _poll(self, epoll: select.epoll) -> None:
        streams, turn = self._streams, self._turn
        descriptor = epoll.fileno()
        while True:
            await wait_readable(descriptor)
            # While there is something it is asked once a turn, without the detour over trio's wait: a fifth less for a lone session.
            while events_of := epoll.poll(0, BATCH):
                for number, events in events_of:
                    if (stream := streams.get(number)) is not None:
                        stream.notify(events)
                await checkpoint()
                if turn.due:
                    await cancel_shielded_checkpoint()  # trio had us go first: there is nothing to see yet

    async def _sweep(self) -> None:
        while True:
            if not self._streams:
                self._first = trio.Event()
            await self._first.wait()
            await trio.sleep(SWEEP)
            now = trio.current_time()
            for stream in self._streams.values():
                stream.sweep(now)
