"""A TLS session as a stream with deadlines, over any other such stream.

Sending has one subtlety. What is encrypted must go out whole and in order, so when a transport takes only a part of it, the octets that
it stands for are not said to have gone, and are not encrypted again when they come a second time: the rest that the caller sends next
begins with them (the rule is DeadlineStream.send_nowait's; OpenSSL's own moving write buffer has the same).
Invariants: those of relayproxy/net/stream.py; one write of the caller is one record where it fits; the peer's close_notify is b"", an end
without it is an error (PROTOCOL §1.9: a truncated command or body must not pass for a whole one); what TLS itself wants to say (a new
key, an alert, tickets) goes out without a wait, or ahead of what is sent next (RFC 8446 §4.6.3 allows it), and cannot pile up.
Whom to believe does not belong here (contexts.py), nor OpenSSL (engine.py).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import checkpoint

from relayproxy.net.stream import RECEIVE_SIZE, DeadlineStream, Octets, send_unless_heard
from relayproxy.tls.engine import RECORD_SIZE, Engine, TlsBroken
from relayproxy.tls.facts import TlsFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.tls.facts import TlsFacts

#: Plaintext encrypted at a time.
SLICE: Final = 4 * RECORD_SIZE
#: Octets that may wait for the peer while it does not take them but makes TLS itself say more (it may ask for new keys without end).
MOST_OWED: Final = 4 * SLICE
#: Seconds that our last words, an alert or close_notify, may wait to be taken.
LAST_WORDS: Final = 2.0

_NOBODY_HEARS: Final = (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError)


async def shake_hands(transport: DeadlineStream, engine: Engine, seconds: float) -> None:
    """Make a session within so many seconds. Raises TlsFailure."""
    receive_by, send_by = transport.receive_by, transport.send_by
    transport.receive_by = transport.send_by = trio.current_time() + seconds
    try:
        while not engine.handshake():
            await _send_out(transport, engine)
            if octets := await transport.receive_some():
                engine.feed(octets)
            else:
                engine.feed_eof()
        if engine.peer_waits:
            await _send_out(transport, engine)
    except TlsFailure:
        await _say_why(transport, engine)
        raise
    except trio.TooSlowError:
        raise TlsFailure("timeout", f"the handshake did not end within {seconds:g} seconds") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise TlsFailure("closed", f"the connection was lost during the handshake: {error}") from error
    finally:
        transport.receive_by, transport.send_by = receive_by, send_by


async def _say_why(transport: DeadlineStream, engine: Engine) -> None:
    """Send the alert of a handshake that failed, if it can be sent."""
    transport.send_by = min(transport.send_by, trio.current_time() + LAST_WORDS)
    with suppress(trio.TooSlowError, *_NOBODY_HEARS):
        await _send_out(transport, engine)


async def _send_out(transport: DeadlineStream, engine: Engine) -> None:
    octets = engine.take()
    if octets and (sent := transport.send_nowait(octets)) < len(octets):
        await transport.send_all(memoryview(octets)[sent:])


class TlsStream(DeadlineStream):
    """One leg under TLS; made by ServerTls.accept and ClientTls.connect."""

    __slots__ = (
        "_ahead",
        "_clogged",
        "_closed",
        "_cut",
        "_ended",
        "_engine",
        "_leaving",
        "_receiving",
        "_sending",
        "_transport",
        "_unsent",
        "facts",
    )

    def __init__(
        self, transport: DeadlineStream, engine: Engine, facts: TlsFacts, leaving: Callable[[], None] | None = None
    ) -> None:
        """`leaving` is called once, before the session ends by us closing it."""
        self._leaving = leaving
        self._transport = transport
        self._engine = engine
        self.facts = facts
        # Encrypted, and not gone yet. A server's tickets are the first: they go with its first reply, which costs no send of their own.
        self._unsent: bytes | memoryview = engine.take()
        self._clogged = False  # the transport did not take all
        self._ahead = 0  # so many octets of what is sent next are encrypted already
        self._sending = False
        self._receiving = False
        self._cut = False  # a send did not end: what was encrypted cannot go out whole any more
        self._ended = False  # we said close_notify
        self._closed = False

    @property
    def receive_by(self) -> float:
        return self._transport.receive_by

    @receive_by.setter
    def receive_by(self, deadline: float) -> None:
        self._transport.receive_by = deadline

    @property
    def send_by(self) -> float:
        return self._transport.send_by

    @send_by.setter
    def send_by(self, deadline: float) -> None:
        self._transport.send_by = deadline

    @property
    def readable(self) -> bool:
        return self._engine.more or self._transport.readable

    @property
    def at_end(self) -> bool:
        """The end of a session is in octets of its own: what has come is taken in, one receive of it at most, and stays to be read."""
        if self._receiving or self._closed:
            return False
        try:
            if not (self._engine.more and self._engine.hear()):
                self._check_owed()
                self._feed(self._transport.receive_nowait())
        except trio.WouldBlock:
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        return self._engine.at_end

    @property
    def far_end(self) -> tuple[str, int | None] | None:
        return self._transport.far_end

    @property
    def near_end(self) -> tuple[str, int | None] | None:
        return self._transport.near_end

    # Receiving.

    def _check_reader(self) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _feed(self, octets: bytes) -> None:
        if octets:
            self._engine.feed(octets)
        else:
            self._engine.feed_eof()

    def _read(self, max_bytes: int) -> bytes | None:
        """What can be decrypted, None where the transport must give more first."""
        engine = self._engine
        try:
            data = engine.read(max_bytes)
        except TlsBroken as error:
            self._answer()
            raise trio.BrokenResourceError(str(error)) from error
        if engine.owes:
            self._answer()
        return data

    def _answer(self) -> None:
        """Send what TLS itself has to say, as far as it goes without waiting."""
        self._check_owed()
        if self._sending or self._cut:
            return  # whoever sends takes it along
        with suppress(
            trio.BrokenResourceError, trio.ClosedResourceError
        ):  # what the peer said before it went can still be had
            self._push()

    def _check_owed(self) -> None:
        if len(self._unsent) + self._engine.owes > MOST_OWED:
            self._cut = True
            raise trio.BrokenResourceError("the peer makes TLS answer, and does not take the answers")

    def receive_nowait(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        if self._receiving or self._closed:
            self._check_reader()
        engine = self._engine
        while True:
            if engine.more and (data := self._read(max_bytes)) is not None:
                return data
            self._feed(self._transport.receive_nowait())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is None:
            max_bytes = RECEIVE_SIZE
        elif index(max_bytes) < 1:
            raise ValueError(f"expected max_bytes >= 1, got {max_bytes}")
        self._check_reader()
        self._receiving = True
        try:
            if self._engine.more:
                await checkpoint()
            while True:
                if self._engine.more and (data := self._read(max_bytes)) is not None:
                    return data
                self._feed(await self._transport.receive_some())
                if self._closed:
                    raise trio.ClosedResourceError("this stream was closed")
        finally:
            self._receiving = False

    # Sending.

    def _check_writer(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed or self._ended:
            raise trio.ClosedResourceError(
                "this stream was closed" if self._closed else "nothing can be sent after send_eof"
            )
        if self._cut:
            raise trio.BrokenResourceError("an earlier send was cut short")

    def _encrypt(self, data: Octets) -> None:
        try:
            self._engine.write(data)
        except TlsBroken as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _take(self) -> bytes | memoryview:
        """All that is encrypted and has not gone."""
        octets = self._engine.take()
        if not self._unsent:
            return octets
        unsent, self._unsent = self._unsent, b""
        return bytes(unsent) + octets if octets else unsent

    def _push(self) -> bool:
        """Send what is encrypted, as far as it goes without waiting; whether all of it went."""
        octets = self._take()
        sent = self._transport.send_nowait(octets) if octets else 0
        self._clogged = sent < len(octets)
        if self._clogged:
            self._unsent = memoryview(octets)[sent:]
        return not self._clogged

    def _unknown(self, data: Octets) -> memoryview:
        """What is not encrypted yet, of octets that may go on with an earlier send."""
        known = min(self._ahead, len(data))
        self._ahead -= known
        return memoryview(data)[known:]

    def send_nowait(self, data: Octets) -> int:
        if self._sending or self._cut or self._ended or self._closed:
            self._check_writer()
        if self._clogged and not self._push():
            return 0
        rest = self._unknown(data) if self._ahead else data
        while rest:
            piece = rest if len(rest) <= SLICE else memoryview(rest)[:SLICE]
            self._encrypt(piece)
            if not self._push():
                self._ahead = len(piece)
                break
            if piece is rest:
                return len(data)
            rest = memoryview(rest)[SLICE:]
        return len(data) - len(rest)

    async def send_all(self, data: Octets) -> None:
        self._check_writer()
        self._sending = self._cut = True
        try:
            await self._send(data)
            self._cut = False
        finally:
            self._sending = False

    async def _send(self, data: Octets) -> None:
        rest = self._unknown(data)
        while True:
            if rest:
                self._encrypt(rest[:SLICE])
                rest = rest[SLICE:]
            await self._transport.send_all(self._take())
            self._clogged = False
            if not rest and not self._engine.owes:
                return

    async def send_or_hear(self, data: Octets) -> bool:
        self._check_reader()
        sent = self.send_nowait(data)
        if sent == len(data):
            return True
        self._sending = self._receiving = self._cut = True
        try:
            rest = memoryview(data)[sent:]
            self._cut = not await send_unless_heard(partial(self._send, rest), self._hear)
        finally:
            self._sending = self._receiving = False
        return not self._cut

    async def _hear(self) -> None:
        """The transport's own send_or_hear will not do: what it hears may be TLS talking to itself."""
        while not (self._engine.more and self._engine.hear()):
            self._check_owed()
            self._feed(await self._transport.receive_some())

    async def wait_send_all_might_not_block(self) -> None:
        self._check_writer()
        self._sending = True
        try:
            await self._transport.wait_send_all_might_not_block()
        finally:
            self._sending = False

    # Ending.

    def _goodbye(self) -> bytes | memoryview:
        """close_notify and what goes ahead of it; b"" where it would make a whole of what was cut short."""
        if self._cut or self._ahead or self._sending:
            return b""
        self._engine.close_notify()
        return self._take()

    async def send_eof(self) -> None:
        """Send close_notify, and half-close the transport behind it.

        Receiving goes on. So it does for a peer under TLS 1.3; one under TLS 1.2 may drop what it has to say and close (RFC 5246 §7.2.1).
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._ended:
            await checkpoint()
            return
        octets = self._goodbye()
        self._ended = self._sending = True
        try:
            await self._say_last(octets)
            await self._transport.send_eof()
        finally:
            self._sending = False

    async def _say_last(self, octets: Octets) -> None:
        if not octets:
            return
        send_by = self._transport.send_by
        self._transport.send_by = min(send_by, trio.current_time() + LAST_WORDS)
        try:
            await self._transport.send_all(octets)
        except trio.TooSlowError:
            raise trio.BrokenResourceError("the peer does not take what we send") from None
        finally:
            self._transport.send_by = send_by

    def _close(self) -> bytes | memoryview:
        """The session is over for us; the last octets of it."""
        self._closed = True
        if self._leaving is not None:
            self._leaving()
        return self._goodbye()

    def close(self) -> None:
        if not self._closed:
            octets = self._close()
            with suppress(*_NOBODY_HEARS):
                if octets:
                    self._transport.send_nowait(octets)
        self._transport.close()

    async def aclose(self) -> None:
        """As close(), but close_notify may wait a little to be taken."""
        if not self._closed:
            octets = self._close()
            try:
                with suppress(*_NOBODY_HEARS):
                    await self._say_last(octets)
            finally:
                self._transport.close()
        self._transport.close()
        await checkpoint()

    def reset(self) -> None:
        self._closed = True
        self._transport.reset()

    def expire(self) -> None:
        self._transport.expire()
