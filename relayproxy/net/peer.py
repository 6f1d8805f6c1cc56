"""One leg of a session as those see it who speak SMTP on it: octets, patience in seconds, and two ways to lose it.

trio's errors are mapped here, once (STYLE): `PeerLost` is a leg that is gone, whatever ended it; `PeerStalled` one that did not move in
time (PROTOCOL §1.7, attack 17) and is as good as gone. The end of what the peer sends is no error (RFC 5321 has half-closed clients,
PROTOCOL §1.1.7): it is b"".
Invariants: a send that was cut short, cancelled or out of time leaves the leg dead for sending; what need not wait does not give
way, but every STREAK-th time, so that a peer that is always ready cannot keep the others from their turn.
What the octets mean does not belong here (smtp/), nor does what to do about a loss (relay/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NoReturn

import trio
from trio.lowlevel import checkpoint

if TYPE_CHECKING:
    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.tape import LegTape

Leg = Literal["client", "upstream"]

#: Operations that did not wait before one gives way.
STREAK: Final = 32
#: Seconds that each of our last words may wait to be taken once the peer's time is over.
LAST_WORDS: Final = 2.0
#: Lingering close: closing with unread input makes the kernel reset the connection, which eats our last reply (PROTOCOL §1.1.8).
LINGER_SECONDS: Final = 5.0
LINGER_BYTES: Final = 64 * 1024


def endpoint(address: str, port: int | None) -> str:
    """Both in one word."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class PeerLost(Exception):  # noqa: N818  it is a fact, and reads as one
    """The connection is gone: closed, reset, or closed by us."""

    def __init__(self, leg: Leg, why: str = "the connection was lost") -> None:
        super().__init__(f"{leg}: {why}")
        self.leg = leg
        self.why = why


class PeerStalled(PeerLost):
    """The peer sent nothing, or took nothing, for too long."""

    def __init__(self, leg: Leg, why: str = "nothing moved in time") -> None:
        super().__init__(leg, why)


class Peer:
    """The client's or the upstream's end of a connection."""

    __slots__ = ("_cut", "_rest", "_streak", "_tape", "address", "expired", "leg", "now", "port", "stream")

    def __init__(
        self, stream: DeadlineStream, leg: Leg, address: str, port: int | None, tape: LegTape | None = None
    ) -> None:
        """`tape` hears what happens to the connection; what passes on it the protocols tell."""
        self.stream = stream
        self.leg: Leg = leg
        self.address = address
        self.port = port
        self._streak = 0
        self._rest: bytes | memoryview = b""  # of what is being said
        self._cut = False  # a send did not end: what is next on the wire would be anybody's guess
        #: Its time is over (see expire).
        self.expired = False
        #: trio's clock, without the detour over the running task.
        self.now = trio.lowlevel.current_clock().current_time
        self._tape = tape
        if tape is not None:
            tape.event("open", endpoint(address, port))

    @classmethod
    def of(cls, stream: DeadlineStream, leg: Leg, url: UpstreamUrl, tape: LegTape | None = None) -> Peer:
        """The peer behind a url; its address is where the stream leads, which a name alone does not say."""
        if url.path:
            return cls(stream, leg, f"unix:{url.path}", None, tape)
        if url.family is None and (far_end := stream.far_end) is not None:
            return cls(stream, leg, *far_end, tape)
        return cls(stream, leg, url.host, url.port, tape)

    @property
    def readable(self) -> bool:
        """Whether receive_now may have something; False is certain."""
        return self.stream.readable

    @property
    def gone(self) -> bool:
        """Whether it is certain that the peer says nothing more, without receiving."""
        return self.stream.at_end

    def receive_now(self) -> bytes | None:
        """What has come, b"" at the end, None where nothing has come yet; PeerLost."""
        try:
            self._streak += 1
            return self.stream.receive_nowait() or self._end()
        except trio.WouldBlock:
            return None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._loss(error) from error

    async def receive_by(self, deadline: float) -> bytes:
        """What has come, or comes until that time on trio's clock (`now`), since units come in pieces; b"" at the end. PeerLost, PeerStalled."""
        stream = self.stream
        try:
            if stream.readable:
                if self._streak >= STREAK:
                    self._streak = 0
                    await checkpoint()
                self._streak += 1
                try:
                    return stream.receive_nowait() or self._end()
                except trio.WouldBlock:
                    pass
            if self.expired:
                raise PeerStalled(self.leg, "its time was over")
            self._streak = 0
            stream.receive_by = deadline
            return await stream.receive_some() or self._end()
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._loss(error) from error

    def _end(self) -> bytes:
        """The peer says no more."""
        if self._tape is not None:
            self._tape.event("eof")
        return b""

    def _loss(self, error: trio.TooSlowError | trio.BrokenResourceError | trio.ClosedResourceError) -> PeerLost:
        """Of trio's errors one of ours."""
        if isinstance(error, trio.TooSlowError):
            return PeerStalled(self.leg)
        if self._tape is not None and isinstance(error, trio.BrokenResourceError):
            self._tape.event("reset")
        return PeerLost(self.leg, str(error))

    def _not_sent(self, octets: int) -> None:
        """So many, at the end of what was said, have not left."""
        if self._tape is not None:
            self._tape.unsay(octets)

    async def send(self, data: bytes, seconds: float) -> None:
        """Send all within seconds. PeerLost, PeerStalled."""
        if not self.say(data):
            await self.say_rest(seconds)

    def say(self, data: bytes) -> bool:
        """Send all, if that need not wait; else `say_rest` has to follow. PeerLost."""
        if self._cut:
            self._not_sent(len(data))
            self._refuse_to_send()
        self._streak += 1
        try:
            sent = self.stream.send_nowait(data) if self._streak <= STREAK else 0
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._not_sent(len(data))
            raise self._loss(error) from error
        if sent == len(data):
            return True
        self._rest = memoryview(data)[sent:]
        return False

    async def say_rest(self, seconds: float) -> None:
        """Send what `say` left, within seconds. PeerLost, PeerStalled."""
        rest, self._rest = self._rest, b""
        sent = 0
        gives_way = self._streak > STREAK
        deadline = self._start_to_wait(seconds, len(rest))
        try:
            if gives_way:
                await checkpoint()
                sent = self.stream.send_nowait(rest)
            if sent < len(rest):
                self.stream.send_by = deadline
                await self.stream.send_all(memoryview(rest)[sent:])
            self._sent()
        except BaseException as error:
            self._not_sent(len(rest) - sent)
            if not isinstance(error, trio.TooSlowError | trio.BrokenResourceError | trio.ClosedResourceError):
                raise
            raise self._loss(error) from error

    async def send_or_hear(self, data: bytes, seconds: float) -> bool:
        """Send all within seconds, True; or give up, False, as soon as the peer says something while it does not take what we send.

        That is how a server refuses in the middle of mail data (PROTOCOL §1.6). After False only receiving is left.
        """
        sent = 0
        try:
            if self._cut:
                self._refuse_to_send()
            if self._streak >= STREAK:
                self._start_to_wait(seconds, len(data))
                await checkpoint()
                self._sent()
            self._streak += 1
            sent = self.stream.send_nowait(data)
            if sent < len(data):
                self.stream.receive_by = self.stream.send_by = self._start_to_wait(seconds, len(data) - sent)
                if not await self.stream.send_or_hear(memoryview(data)[sent:]):
                    self._not_sent(len(data) - sent)
                    return False
                self._sent()
        except BaseException as error:
            self._not_sent(len(data) - sent)
            if not isinstance(error, trio.TooSlowError | trio.BrokenResourceError | trio.ClosedResourceError):
                raise
            raise self._loss(error) from error
        return True

    def _refuse_to_send(self) -> NoReturn:
        raise PeerLost(self.leg, "an earlier send was cut short")

    def _start_to_wait(self, seconds: float, octets: int) -> float:
        """The deadline of a send that waits with so many octets. Until it has ended well, it counts as cut."""
        self._cut = True
        self._streak = 0
        if self._tape is not None:
            self._tape.on_its_way = octets
        return self.now() + (min(seconds, LAST_WORDS) if self.expired else seconds)

    def _sent(self) -> None:
        """A send that waited has ended well."""
        self._cut = False
        if self._tape is not None:
            self._tape.on_its_way = 0

    async def send_eof(self) -> None:
        """Say that we send no more; what the peer sends still comes. PeerLost."""
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerLost(self.leg, str(error)) from error

    async def close(self, *, agreed: bool = False) -> None:
        """Close so that what we said last arrives: half-close, let the peer finish (bounded in time and octets), close.

        `agreed`: the peer asked for it and sends no more, so that there is nothing to wait for unless something has come.
        """
        if agreed and not self.stream.readable:
            self.drop()
            return
        deadline = self.now() + (LAST_WORDS if self.expired else LINGER_SECONDS)
        self.expired = False  # the linger has an end of its own
        heard = 0
        try:
            await self.send_eof()
            while heard < LINGER_BYTES:
                octets = await self.receive_by(deadline)
                if not octets:
                    break
                heard += len(octets)
        except PeerLost:
            pass  # nobody is there to hear our last words
        finally:
            self.drop()

    def drop(self) -> None:
        """Close at once. What the peer sends from now on is answered by a reset."""
        tape, self._tape = self._tape, None
        if tape is not None:
            tape.event("close", by_us=True)
        self.stream.close()

    def reset(self) -> None:
        """Close so that the peer sees a reset."""
        tape, self._tape = self._tape, None
        if tape is not None:
            tape.event("reset", by_us=True)
        self.stream.reset()

    def expire(self) -> None:
        """The grace of a shutdown is over: waits that have begun raise PeerStalled, and so do later ones, but for last words."""
        self.expired = True
        self.stream.expire()
