"""A socket with one epoll registration for its life, edge-triggered, under trio (Linux).

A task that waits is woken by the poller (poller.py) with trio.lowlevel.reschedule; cancellation, nurseries and clocks stay trio's.

Invariants (epoll(7), "edge-triggered"):
- an edge is remembered (`readable`, `_writable`) until a system call finds nothing to take, or takes less than it asked for: what
  arrives after that is a new edge. An end that came with the octets rings only once, so from then on only EAGAIN counts (`_exact`),
  and likewise behind urgent data (TCP's receive stops short at its mark). A peer over a Unix socket that passes descriptors can make
  a receive stop short as well: it delays nobody but itself, and its deadline ends it.
- a socket is closed only by its stream, and not shared with another process while it is open: the kernel then forgets the registration.
Fairness between sessions does not belong here (peer.py): what need not wait does not, but for trio's own interface, which always
gives way once.
"""

from __future__ import annotations

import math
import select
import socket
from typing import TYPE_CHECKING, Any, Final, NoReturn

import outcome
import trio
from trio.lowlevel import Abort, checkpoint, current_task, reschedule, wait_task_rescheduled

from relayproxy.net.stream import RECEIVE_SIZE, DeadlineStream, Octets, far_end, near_end, reset_on_close

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trio.lowlevel import Task

if hasattr(select, "epoll"):
    # A broken connection wakes both sides: the system call then says what is wrong.
    _FOR_READER = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _FOR_WRITER = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
    _BROKEN = select.EPOLLHUP | select.EPOLLERR
    _RINGS_ONCE = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class _Woken(outcome.Outcome[None]):
    """What a wait ends with that ends well. outcome.Value(None) serves but once, and a line would pay for one each time that it is waited for."""

    def unwrap(self) -> None:
        pass

    def send(self, gen: Generator[Any, None, Any]) -> Any:
        return gen.send(None)

    async def asend(self, agen: object) -> NoReturn:
        raise NotImplementedError("no task is an asynchronous generator")


WOKEN: Final = _Woken()


class Turn:
    """What all streams of one poller share. `due`: tasks that were woken and have not run yet."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = 0


class EdgeStream(DeadlineStream):
    """A connected socket, registered with a Poller; made by `Poller.adopt`."""

    __slots__ = (
        "_broken", "_ended", "_exact", "_forget", "_reader", "_sending", "_sock", "_turn", "_writable", "_writer", "readable", "receive_by", "send_by",
    )  # fmt: skip

    readable: bool
    receive_by: float
    send_by: float

    def __init__(self, sock: socket.socket, turn: Turn, forget: Callable[[int], object]) -> None:
        """`forget` is told its descriptor when the socket is about to be closed."""
        self._sock = sock
        self._turn = turn
        self._forget = forget
        self._reader: Task | None = None
        self._writer: Task | None = None
        self._sending = False  # from the first octet of a send to the last, waits included
        self._ended = False  # we said that no more comes (send_eof)
        self._broken = False  # no octet can come any more but those that are here
        self._exact = False  # only EAGAIN proves that nothing is left to receive
        self._writable = True
        self.readable = True
        self.receive_by = math.inf
        self.send_by = math.inf

    # What the poller tells.

    def notify(self, events: int) -> None:
        """Take note of an edge, and wake whoever waited for it."""
        if events & _FOR_WRITER:
            self._writable = True
            if self._writer is not None:
                self._wake(self._writer, None)
        if events & _FOR_READER:
            self.readable = True
            if events & _RINGS_ONCE:
                self._exact = True
                self._broken |= bool(events & _BROKEN)
            if self._reader is not None:
                self._wake(self._reader, None)

    def sweep(self, now: float) -> None:
        """End the waits that took too long."""
        if self._reader is not None and self.receive_by <= now:
            self._wake(self._reader, trio.TooSlowError())
        if self._writer is not None and self.send_by <= now:
            self._wake(self._writer, trio.TooSlowError())

    def _wake(self, task: Task, error: Exception | None) -> None:
        """Let a task go on; it may wait as both reader and writer."""
        if self._reader is task:
            self._reader = None
        if self._writer is task:
            self._writer = None
        if error is None:
            self._turn.due += 1
            reschedule(task, WOKEN)
        else:
            reschedule(task, outcome.Error(error))

    def _wake_all(self, error: type[Exception]) -> None:
        if self._reader is not None:
            self._wake(self._reader, error())
        if self._writer is not None:
            self._wake(self._writer, error())

    # Waiting. A cancellation takes the task out again, so that nobody wakes it twice.

    async def _wait(self, stop: Callable[[object], Abort]) -> None:
        await wait_task_rescheduled(stop)
        self._turn.due -= 1  # what else ends a wait raises

    def _stop_reading(self, _: object) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def _stop_writing(self, _: object) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    def _stop_both(self, _: object) -> Abort:
        self._reader = self._writer = None
        return Abort.SUCCEEDED

    def _check_reader(self) -> None:
        if self._reader is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")

    def _check_writer(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._ended:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")

    def _check_open(self) -> None:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError("this stream was closed")

    def _failure(self, error: OSError) -> Exception:
        if self._sock.fileno() == -1:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"connection broken: {error}")

    # Receiving.

    def receive_nowait(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        self._check_reader()
        if not self.readable:
            raise trio.WouldBlock
        try:
            data = self._sock.recv(max_bytes)
        except BlockingIOError:
            self.readable = False
            raise trio.WouldBlock from None
        except OSError as error:
            raise self._failure(error) from error
        if len(data) < max_bytes and not self._exact:
            self.readable = False
        return data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        most = _checked(max_bytes)
        self._check_reader()
        if self.readable:
            await checkpoint()
        while True:
            if not self.readable:
                # As `_wait`, straight: every line that comes is waited for here.
                self._reader = current_task()
                await wait_task_rescheduled(self._stop_reading)
                self._turn.due -= 1
            try:
                data = self._sock.recv(most)
            except BlockingIOError:
                self.readable = False  # another task took it, or the edge was an old one
                continue
            except OSError as error:
                raise self._failure(error) from error
            if len(data) < most and not self._exact:
                self.readable = False
            return data

    def _something_to_hear(self) -> bool:
        """Look whether there is something to receive, or the end, and leave it there."""
        if self.readable:
            try:
                self._sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.readable = False
            except OSError as error:
                raise self._failure(error) from error
        return self.readable

    # Sending.

    def _send(self, octets: Octets) -> int:
        try:
            sent = self._sock.send(octets)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.readable = self._exact = True  # what the far side said before it closed can still be had
            raise self._failure(error) from error
        if sent < len(octets):
            self._writable = False
        return sent

    def send_nowait(self, data: Octets) -> int:
        if self._sending or self._ended:
            self._check_writer()
        return self._send(data)

    async def send_all(self, data: Octets) -> None:
        self._check_writer()
        self._check_open()
        self._sending = True
        try:
            if self._writable or not data:
                await checkpoint()
            rest = memoryview(data)
            while rest:
                if not self._writable:
                    self._writer = current_task()
                    await self._wait(self._stop_writing)
                rest = rest[self._send(rest) :]
        finally:
            self._sending = False

    async def send_or_hear(self, data: Octets) -> bool:
        self._check_reader()
        self._check_writer()
        self._sending = True
        try:
            rest = memoryview(data)
            while rest := rest[self._send(rest) :]:
                if self._something_to_hear():
                    return False
                self._reader = self._writer = current_task()
                await self._wait(self._stop_both)
        finally:
            self._sending = False
        return True

    async def wait_send_all_might_not_block(self) -> None:
        self._check_writer()
        self._check_open()
        if self._writable:
            await checkpoint()
            return
        self._sending = True
        try:
            self._writer = current_task()
            await self._wait(self._stop_writing)
        finally:
            self._sending = False

    # Ending.

    @property
    def at_end(self) -> bool:
        if self._broken or not self._exact:
            return self._broken
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def far_end(self) -> tuple[str, int | None] | None:
        return far_end(self._sock)

    @property
    def near_end(self) -> tuple[str, int | None] | None:
        return near_end(self._sock)

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_open()
        await checkpoint()
        if not self._ended:
            self._ended = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise self._failure(error) from error

    def close(self) -> None:
        if self._sock.fileno() != -1:
            self._forget(self._sock.fileno())
            self._sock.close()
            self._wake_all(trio.ClosedResourceError)
            self.readable = self._writable = True  # the next system call says that it is closed

    def reset(self) -> None:
        if self._sock.fileno() != -1:
            reset_on_close(self._sock)
            self.close()

    def expire(self) -> None:
        self._wake_all(trio.TooSlowError)


def _checked(max_bytes: int | None) -> int:
    """As trio's streams want it."""
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"expected max_bytes >= 1, got {max_bytes}")
    return max_bytes or RECEIVE_SIZE
