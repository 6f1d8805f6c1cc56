"""Connections in memory for dialogs: the relay holds a `Leg`, the script is its far side.

Unlike trio's memory streams a leg can be reset, can stop taking octets (a peer that does not read), knows when each octet arrived and
tells a half-close from a close. Its far side may speak TLS; what is sent and taken there stays text. It does not know SMTP.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import ParkingLot, checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from dialog_tls import FarTls


class Leg(trio.abc.HalfCloseableStream):
    """Our end is the stream; the methods whose names begin with `far_` are what the far side does.

    `on_sent` hears everything that we send; b"" stands for our half-close or close.
    """

    def __init__(self, on_sent: Callable[[bytes], None]) -> None:
        self.unread = bytearray()
        """What we sent and the far side has not taken yet."""
        #: All that the far side has said, and all that it has heard, as text.
        self.far_said = bytearray()
        self.far_heard = bytearray()
        self.ended = False
        self.closed = False
        self.changed = trio.Event()
        self._arrivals: deque[tuple[int, float]] = deque()  # total octets after each of our writes, and when
        self._taken = 0
        self._total = 0
        self._on_sent = on_sent
        self._inbox = bytearray()
        self._far_ended = self._far_closed = self._far_reset = self._stalled = False
        self._parked = ParkingLot()
        self._tls: FarTls | None = None
        #: Whether the far side ends TLS without saying so (no close_notify).
        self.far_is_abrupt = False

    # The far side.

    def far_send(self, octets: bytes) -> None:
        self.far_said += octets
        if self._tls is None:
            self._inbox += octets
        else:
            self._tls.wrap(octets)
            self._inbox += self._tls.outgoing()
        self._parked.unpark_all()

    def far_start_tls(self, tls: FarTls) -> None:
        """From here on all is under TLS; what has come and was not taken is the beginning of the relay's handshake."""
        begun = bytes(self.unread)
        if begun:
            self.far_take(len(begun))
            del self.far_heard[-len(begun) :]
        self._tls = tls
        self._take_records(begun)

    def _take_records(self, octets: bytes) -> None:
        """Octets of TLS have come from the relay; what they say is unread, what they ask for is answered."""
        assert self._tls is not None
        text = self._tls.feed(octets)
        if answer := self._tls.outgoing():
            self._inbox += answer
            self._parked.unpark_all()
        if text:
            self._take_text(text)
        self._change()

    def far_eof(self) -> None:
        if self._tls is not None and not self.far_is_abrupt:
            self._tls.end()
            self._inbox += self._tls.outgoing()
        self._far_ended = True
        self._parked.unpark_all()

    def far_close(self) -> None:
        self._far_closed = True
        self.far_eof()

    def far_reset(self) -> None:
        self._far_reset = True
        self._inbox.clear()
        self.far_close()

    def far_stall(self, *, stalled: bool) -> None:
        """Whether the far side takes octets no more; what we send then waits."""
        self._stalled = stalled
        self._parked.unpark_all()

    def far_take(self, count: int) -> float:
        """Take octets from `unread`; when the last of them arrived."""
        self._taken += count
        del self.unread[:count]
        while self._arrivals[0][0] < self._taken:
            self._arrivals.popleft()
        return self._arrivals[0][1]

    @property
    def far_gone(self) -> bool:
        return self._far_closed

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # Our side.

    def receive_nowait(self, max_bytes: int) -> bytes:
        if self.closed:
            raise trio.ClosedResourceError
        if self._far_reset:
            raise trio.BrokenResourceError("connection reset by the dialog")
        if not self._inbox and not self._far_ended:
            raise BlockingIOError
        octets = bytes(self._inbox[:max_bytes])
        del self._inbox[:max_bytes]
        return octets

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await checkpoint()
        while True:
            try:
                return self.receive_nowait(max_bytes or 65536)
            except BlockingIOError:
                await self._parked.park()

    async def _until_taken(self) -> None:
        await checkpoint()
        while True:
            if self.closed or self.ended:
                raise trio.ClosedResourceError
            if self._far_closed:
                raise trio.BrokenResourceError("connection closed by the dialog")
            if not self._stalled:
                return
            await self._parked.park()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._until_taken()
        if data and self._tls is not None:
            self._take_records(bytes(data))
        elif data:
            self._take_text(bytes(data))

    def _take_text(self, text: bytes) -> None:
        self.unread += text
        self.far_heard += text
        self._total += len(text)
        self._arrivals.append((self._total, trio.current_time()))
        self._on_sent(text)
        self._change()

    async def wait_send_all_might_not_block(self) -> None:
        await self._until_taken()

    async def send_eof(self) -> None:
        await checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._on_sent(b"")
            self._change()

    def close(self) -> None:
        self.closed = True
        self._end()
        self._change()
        self._parked.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await checkpoint()
