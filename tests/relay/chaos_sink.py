"""An upstream that takes numbered mail and keeps account of it, and that has its moods: it refuses at any stage, hangs up, answers too late."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from chaos import dice

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable

    from chaos import Wire
    from chaos_tls import Security

#: Behind the relay's patience (test_chaos.py).
TOO_LATE: Final = 3.0
_REFUSALS: Final = {
    "refused": b"554 5.6.0 no\r\n",
    "later": b"451 4.3.0 later\r\n",
    "closing": b"421 4.3.2 closing\r\n",
}
_ATTEMPT = re.compile(rb"MAIL FROM:<(m[0-9]+\.a[0-9]+)@", re.IGNORECASE)
_RECEIVED = re.compile(rb"Received: (?:[^\r]|\r(?!\n)|\r\n[ \t])*\r\n")


class Taken(NamedTuple):
    """A message that the sink decided to take; `digest` is of its content without our Received."""

    digest: str
    #: The answer was 250, and went out at once and whole.
    said: bool
    wire: Wire


class Sink:
    def __init__(self, seed: str, security: Security) -> None:
        self.security = security
        self.port = 0
        #: By attempt, all that were taken.
        self.taken: defaultdict[str, list[Taken]] = defaultdict(list)
        #: How many MAIL came without TLS where there should be some.
        self.in_clear = 0
        self.moods: Counter[str] = Counter()
        self._connections = 0
        self._seed = seed
        self._wires: Callable[[int], Wire] | None = None

    def behind(self, wires: Callable[[int], Wire]) -> None:
        """Where the connections come from."""
        self._wires = wires

    async def serve(self, transport: trio.SocketStream) -> None:
        self._connections += 1
        assert self._wires is not None
        port: int = transport.socket.getpeername()[1]
        stream = self.security.server(transport) if self.security.mode == "implicit" else transport
        conversation = _Conversation(self, stream, port, self._wires, dice(self._seed, "sink", self._connections))
        try:
            await conversation.run()
        except trio.BrokenResourceError:
            pass  # that is what the wire is for
        finally:
            await trio.aclose_forcefully(transport)


class _Conversation:
    def __init__(
        self, sink: Sink, stream: trio.abc.Stream, port: int, wires: Callable[[int], Wire], dice: random.Random
    ) -> None:
        self._sink = sink
        self._stream = stream
        self._port = port
        self._wires = wires
        self._dice = dice
        self._octets = bytearray()
        self._attempt = ""
        self._recipient = False
        self._secure = sink.security.mode != "starttls"
        self._refused_early = False

    async def run(self) -> None:
        await self._stream.send_all(b"220 sink.test ESMTP\r\n")
        while (line := await self._line()) is not None:
            if (answer := await self._answer(line)) is None:
                return
            await self._stream.send_all(answer)

    async def _more(self) -> bool:
        data = await self._stream.receive_some(1 << 16)
        self._octets += data
        return bool(data)

    async def _line(self) -> bytes | None:
        while (end := self._octets.find(b"\r\n")) < 0:
            if not await self._more():
                return None
        line = bytes(self._octets[:end])
        del self._octets[: end + 2]
        return line

    def _mood(self, **chances: float) -> str:
        """What it is up to; "" is what a good server does."""
        at = self._dice.random()
        for mood, chance in chances.items():
            if (at := at - chance) < 0:
                self._sink.moods[mood] += 1
                return mood
        return ""

    async def _answer(self, line: bytes) -> bytes | None:
        """None: it hangs up."""
        match line[:4].upper():
            case b"EHLO":
                return self._offer()
            case b"STAR":
                await self._stream.send_all(b"220 2.0.0 go on\r\n")
                self._stream = self._sink.security.server(self._stream)
                self._secure = True
                answer: bytes | None = b""
            case b"MAIL":
                self._sink.in_clear += not self._secure
                found = _ATTEMPT.match(line)
                self._attempt = found[1].decode() if found else line.decode()
                answer = self._envelope_answer()
            case b"RCPT":
                answer = self._envelope_answer()
                self._recipient = answer is not None and answer.startswith(b"250")
            case b"DATA":
                answer = await self._data()
            case b"QUIT":
                await self._stream.send_all(b"221 2.0.0 bye\r\n")
                answer = None
            case _:
                answer = b"250 2.0.0 ok\r\n"
        return answer

    def _offer(self) -> bytes:
        pipelining = b"250-PIPELINING\r\n" if self._dice.random() < 0.8 else b""
        starttls = b"" if self._secure else b"250-STARTTLS\r\n"
        return b"250-sink.test\r\n%b%b250-8BITMIME\r\n250 SIZE\r\n" % (pipelining, starttls)

    def _envelope_answer(self) -> bytes | None:
        match self._mood(envelope_later=0.01, envelope_never=0.01, envelope_closing=0.003, envelope_hangup=0.003):
            case "envelope_later":
                return b"450 4.2.0 later\r\n"
            case "envelope_never":
                return b"550 5.7.1 never\r\n"
            case "envelope_closing":
                return b"421 4.3.2 closing\r\n"
            case "envelope_hangup":
                return None
        return b"250 2.1.0 ok\r\n"

    async def _data(self) -> bytes | None:
        if not self._recipient:
            return b"554 5.5.1 no valid recipients\r\n"
        self._recipient = False
        match self._mood(data_refused=0.01, data_hangup=0.005):
            case "data_refused":
                return b"451 4.3.0 no room\r\n"
            case "data_hangup":
                return None
        await self._stream.send_all(b"354 go on\r\n")
        content = await self._content()
        return None if content is None else await self._verdict(content)

    async def _verdict(self, content: bytes) -> bytes | None:
        """Decide; behind a refusal that came early, nothing is said to its dot."""
        if self._refused_early:
            self._refused_early = False
            return b""
        mood = self._mood(refused=0.03, later=0.03, closing=0.01, took_and_hung_up=0.01, took_and_dawdled=0.005)
        if mood in _REFUSALS:
            return _REFUSALS[mood]
        self._take(content, said=not mood)
        if mood == "took_and_hung_up":
            return None
        if mood == "took_and_dawdled":
            await trio.sleep(TOO_LATE)
        return b"250 2.0.0 taken\r\n"

    async def _content(self) -> bytes | None:
        """The message as on the wire, without its dot; None: the connection ended."""
        searched = 0
        while True:
            end = self._octets.find(b"\r\n.\r\n", max(0, searched - 4))
            if end >= 0:
                content = bytes(self._octets[: end + 2])
                del self._octets[: end + 5]
                return content
            searched = len(self._octets)
            if searched and not self._refused_early and self._mood(refused_early=0.004):
                self._refused_early = True
                await self._stream.send_all(b"554 5.6.0 enough\r\n")
            if not await self._more():
                return None

    def _take(self, stuffed: bytes, *, said: bool) -> None:
        content = (b"\r\n" + stuffed).replace(b"\r\n..", b"\r\n.")[2:]
        received = _RECEIVED.match(content)
        digest = sha256(content[received.end() :] if received else content).hexdigest()
        self._sink.taken[self._attempt].append(Taken(digest, said, self._wires(self._port)))


@asynccontextmanager
async def sink_server(seed: str, security: Security) -> AsyncIterator[Sink]:
    sink = Sink(seed, security)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        sink.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, sink.serve, [listener])
        yield sink
        nursery.cancel_scope.cancel()
