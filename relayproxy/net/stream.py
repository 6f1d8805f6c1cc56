"""A stream with deadlines: what every leg of a session is, whatever carries it.

trio's streams say how to wait; ours also say what can be had without waiting (a receive or a send that need not wait costs little
more than its system call) and until when a wait may last, as two attributes that move at will (Go's SetReadDeadline): no cancel
scope is made for an operation. trio's own interface stays whole, so that all that is written for it works: TLS, its stream tests.

Invariants: whatever waits can be cancelled; nothing received is lost to a cancellation; two tasks that receive, or send, at once are
an error (trio.BusyResourceError), never a mix of their octets; a stream that is closed wakes whoever waits on it.
Meaning (protocol, legs, SMTP's timeouts) does not belong here (peer.py), nor does the epoll that Linux has (poller.py, edge.py).
"""

from __future__ import annotations

import math
import socket
import struct
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Octets asked of one receive: a whole SMTP dialogue fits, and bodies come in few system calls.
RECEIVE_SIZE = 65536

Octets = bytes | bytearray | memoryview


class DeadlineStream(trio.abc.HalfCloseableStream):
    """A two-way stream that can be tried without waiting, and whose waits end in time."""

    __slots__ = ()

    @property
    @abstractmethod
    def receive_by(self) -> float:
        """Until when a wait to receive may last, on trio's clock; trio.TooSlowError after that. Setting it moves a wait that has begun."""

    @receive_by.setter
    @abstractmethod
    def receive_by(self, deadline: float) -> None: ...

    @property
    @abstractmethod
    def send_by(self) -> float:
        """The same for waits to send."""

    @send_by.setter
    @abstractmethod
    def send_by(self, deadline: float) -> None: ...

    @property
    @abstractmethod
    def readable(self) -> bool:
        """Whether receive_nowait may give something; False is certain, True is not. Costs no system call."""

    @property
    def at_end(self) -> bool:
        """Whether it is certain that all has been received: the far side has closed, or the connection is broken. Takes nothing away. False of one that we closed."""
        return False

    @property
    def far_end(self) -> tuple[str, int | None] | None:
        """Address and port of who is at the other end; None where that means nothing, or is no longer known."""
        return None

    @property
    def near_end(self) -> tuple[str, int | None] | None:
        """Our own address and port, that which the other end sees; None likewise."""
        return None

    @abstractmethod
    def receive_nowait(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """What is there, at most max_bytes; b"" at the end; trio.WouldBlock where there is nothing yet."""

    @abstractmethod
    def send_nowait(self, data: Octets) -> int:
        """Send as much as goes without waiting; how many octets went, 0 where none can.

        Whoever sends next sends the rest, from the first octet that did not go: a stream over this one may have encrypted it already.
        """

    @abstractmethod
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio's, under `receive_by`."""

    @abstractmethod
    async def send_all(self, data: Octets) -> None:
        """As trio's, under `send_by`, which is for all of the data. Cut short, the stream is dead for sending."""

    @abstractmethod
    async def send_or_hear(self, data: Octets) -> bool:
        """Send all; or, as soon as something is to be received while the send waits, give up and return False.

        Both deadlines apply. After False an unknown part was sent: the stream is dead for sending.
        """

    @abstractmethod
    def close(self) -> None:
        """Close without waiting; again and again if you like. Tasks that wait here get trio.ClosedResourceError."""

    @abstractmethod
    def reset(self) -> None:
        """Close so that the far side sees a connection reset, where the transport can."""

    @abstractmethod
    def expire(self) -> None:
        """End the waits that have begun with trio.TooSlowError, now."""

    async def aclose(self) -> None:
        self.close()
        await checkpoint()


def far_end(sock: socket.socket) -> tuple[str, int | None] | None:
    """Who is at the other end of a socket, None where it has no address or is gone."""
    return _name(sock, sock.getpeername)


def near_end(sock: socket.socket) -> tuple[str, int | None] | None:
    """A socket's own address, None likewise."""
    return _name(sock, sock.getsockname)


def _name(sock: socket.socket, name_of: Callable[[], tuple[str, int]]) -> tuple[str, int | None] | None:
    if sock.family == socket.AF_UNIX:
        return None
    try:
        name = name_of()
    except OSError:
        return None
    return name[0], name[1]


def reset_on_close(sock: socket.socket) -> None:
    """Make close() send RST and forget what was not sent yet (SO_LINGER, zero seconds)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def send_unless_heard(send: Callable[[], Awaitable[None]], hear: Callable[[], Awaitable[None]]) -> bool:
    """Send, until the peer is heard; whether all was sent. Raises what either raises, out of the nursery and its groups, unless it was."""
    sent = False
    failures: list[Exception] = []

    async def hear_first() -> None:
        await checkpoint()  # a send that need not wait is done by the time we go on
        try:
            await hear()
        except Exception as error:  # noqa: BLE001  raised again below
            failures.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_first)
        try:
            await send()
            sent = True
        except Exception as error:  # noqa: BLE001  raised again below
            failures.append(error)
        nursery.cancel_scope.cancel()
    if failures and not sent:
        raise failures[0]
    return sent


class TrioStream(DeadlineStream):
    """Any half-closeable stream of trio's as a DeadlineStream: memory streams, sockets where there is no epoll.

    `receive_nowait` is what gives octets without waiting, where there is such a thing: it raises trio.WouldBlock or BlockingIOError.
    Without one, nothing is ever there without waiting.
    """

    __slots__ = (
        "_closed",
        "_closers",
        "_heard",
        "_receive_by",
        "_receive_now",
        "_receive_scope",
        "_send_by",
        "_send_scope",
        "_socket",
        "_stream",
    )

    def __init__(
        self, stream: trio.abc.HalfCloseableStream, receive_nowait: Callable[[int], bytes | bytearray] | None = None
    ) -> None:
        self._stream = stream
        self._socket: socket.socket | None = None
        self._closed = False
        self._receive_now = receive_nowait
        self._closers = _closers(stream)
        self._receive_by = self._send_by = math.inf
        self._receive_scope: trio.CancelScope | None = None
        self._send_scope: trio.CancelScope | None = None
        self._heard: bytes | None = None  # by send_or_hear, not received yet; b"" is the end, for good

    @classmethod
    def of_socket(cls, sock: socket.socket) -> TrioStream:
        """Take a connected socket over; it may not be used in any other way."""
        sock.setblocking(False)
        stream = cls(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), sock.recv)
        stream._socket = sock
        return stream

    @property
    def readable(self) -> bool:
        return self._heard is not None or self._receive_now is not None

    @property
    def at_end(self) -> bool:
        if self._closed:
            return False
        if self._heard is None and self._receive_now is not None and self._receive_scope is None:
            try:
                self._heard = bytes(self._receive_now(RECEIVE_SIZE))
            except (BlockingIOError, trio.WouldBlock):
                return False
            except (OSError, trio.BrokenResourceError):
                return True
        return self._heard == b""

    @property
    def far_end(self) -> tuple[str, int | None] | None:
        if self._socket is None:
            return None
        return far_end(self._socket)

    @property
    def near_end(self) -> tuple[str, int | None] | None:
        if self._socket is None:
            return None
        return near_end(self._socket)

    @property
    def receive_by(self) -> float:
        return self._receive_by

    @receive_by.setter
    def receive_by(self, deadline: float) -> None:
        self._receive_by = deadline
        if self._receive_scope is not None:
            self._receive_scope.deadline = deadline

    @property
    def send_by(self) -> float:
        return self._send_by

    @send_by.setter
    def send_by(self, deadline: float) -> None:
        self._send_by = deadline
        if self._send_scope is not None:
            self._send_scope.deadline = deadline

    def _take_heard(self, heard: bytes, max_bytes: int) -> bytes:
        data, rest = heard[:max_bytes], heard[max_bytes:]
        if heard:
            self._heard = rest or None
        return data

    def receive_nowait(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        if self._receive_scope is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._heard is not None:
            return self._take_heard(self._heard, max_bytes)
        if self._receive_now is None:
            raise trio.WouldBlock
        try:
            return bytes(self._receive_now(max_bytes))
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    def send_nowait(self, data: Octets) -> int:
        if self._send_scope is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._socket is None:
            return 0  # trio's streams cannot tell
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._receive_scope is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if self._heard is not None:
            await checkpoint()
            return self.receive_nowait(max_bytes or RECEIVE_SIZE)
        self._receive_scope = trio.CancelScope(deadline=self._receive_by)
        with self._receive_scope:
            try:
                return bytes(await self._stream.receive_some(max_bytes))
            finally:
                self._receive_scope = None
        raise trio.TooSlowError

    async def send_all(self, data: Octets) -> None:
        if self._send_scope is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._send_scope = trio.CancelScope(deadline=self._send_by)
        with self._send_scope:
            try:
                return await self._stream.send_all(data)
            finally:
                self._send_scope = None
        raise trio.TooSlowError

    async def wait_send_all_might_not_block(self) -> None:
        if self._send_scope is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._send_scope = trio.CancelScope(deadline=self._send_by)
        with self._send_scope:
            try:
                return await self._stream.wait_send_all_might_not_block()
            finally:
                self._send_scope = None
        raise trio.TooSlowError

    async def send_or_hear(self, data: Octets) -> bool:
        if self._heard is not None:
            # A trio stream does not say whether a send will wait: what was heard stays, and the send goes on alone.
            await self.send_all(data)
            return True

        async def hear() -> None:
            self._heard = await self.receive_some()

        return await send_unless_heard(partial(self.send_all, data), hear)

    async def send_eof(self) -> None:
        if self._send_scope is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")  # trio's in memory does not say so
        await self._stream.send_eof()

    def close(self) -> None:
        self._closed = True
        for close in self._closers:
            close()

    def reset(self) -> None:
        if self._socket is not None and self._socket.fileno() != -1:
            reset_on_close(self._socket)
        self.close()

    def expire(self) -> None:
        for scope in (self._receive_scope, self._send_scope):
            if scope is not None:
                scope.cancel()


def _closers(stream: trio.abc.AsyncResource) -> tuple[Callable[[], object], ...]:
    """How to close a stream of trio's at once: its abstract classes only know how to wait for it."""
    match stream:
        case trio.SocketStream():
            return (stream.socket.close,)
        case trio.StapledStream():
            return _closers(stream.send_stream) + _closers(stream.receive_stream)
    if callable(close := getattr(stream, "close", None)):
        return (close,)
    raise TypeError(f"expected a stream that can be closed without waiting, got {stream!r}")
