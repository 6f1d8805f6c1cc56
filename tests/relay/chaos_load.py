"""Clients that send numbered mail over a wire that nobody can trust, in every way there is, and keep account of what they heard."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from chaos import dice

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from chaos_tls import Security

#: For a greeting, or for all of an attempt: longer than the relay waits for anything (test_chaos.py), and no longer than the test can.
PATIENCE: Final = 5.0
ATTEMPTS: Final = 5


class Reply(NamedTuple):
    code: int
    lines: tuple[bytes, ...]


class Attempt:
    """One MAIL; its name is the sender's local part, and in the subject."""

    def __init__(self, message: int, number: int) -> None:
        self.message = message
        self.name = f"m{message}.a{number}"
        #: Of its content: of all, and of header section and body.
        self.digest = ""
        self.parts = ("", "")
        #: What MAIL was answered.
        self.mail: int | None = None
        #: The answer to the message, or what kept it from being sent; None: nobody told.
        self.heard: int | None = None
        #: The last answer of all: behind a refusal others may follow.
        self.last: int | None = None
        #: The session ended before all was answered.
        self.cut = False


class Lost(Exception):  # noqa: N818  for a client it is no error, but the end of the session
    """The connection ended, or 421 was heard."""


class Line:
    """A connection to the relay, reply by reply."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._octets = b""

    async def send(self, octets: bytes) -> None:
        try:
            await self._stream.send_all(octets)
        except trio.BrokenResourceError:
            raise Lost from None

    async def reply(self) -> Reply:
        lines: list[bytes] = []
        while True:
            line, crlf, rest = self._octets.partition(b"\r\n")
            if crlf:
                self._octets = rest
                lines.append(line)
                if line[3:4] != b"-":
                    return Reply(int(line[:3]), tuple(lines))
                continue
            try:
                data = await self._stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                raise Lost from None
            if not data:
                raise Lost
            self._octets += data


class Load:
    """What was sent, and what was heard of it."""

    def __init__(self, seed: str, connect: Callable[[], Awaitable[trio.abc.Stream]], security: Security) -> None:
        self.attempts: list[Attempt] = []
        self.sessions = 0
        #: No new message is begun.
        self.over = False
        self._messages = 0
        self._seed = seed
        self._connect = connect
        self._security = security

    async def client(self, number: int) -> None:
        """Send message after message, some of them until they are taken or refused for good."""
        its = dice(self._seed, "client", number)
        waiting: list[tuple[int, int]] = []
        while not self.over:
            self.sessions += 1
            stream = await self._connect()
            try:
                await self._session(stream, its, waiting)
            except (Lost, trio.TooSlowError):
                pass
            finally:
                await trio.aclose_forcefully(stream)
            await trio.sleep(its.expovariate(20))

    async def _arrive(self, stream: trio.abc.Stream) -> Line:
        """Up to where EHLO may be said, under TLS where there is some."""
        mode, tls = self._security.mode, self._security.client
        line = Line(tls(stream) if mode == "implicit" else stream)
        if (await line.reply()).code != 220:
            raise Lost
        if mode == "starttls":
            await line.send(b"EHLO client.test\r\n")
            await line.reply()
            await line.send(b"STARTTLS\r\n")
            if (await line.reply()).code != 220:
                raise Lost
            line = Line(tls(stream))
        return line

    async def _session(self, stream: trio.abc.Stream, its: random.Random, waiting: list[tuple[int, int]]) -> None:
        with trio.fail_after(PATIENCE):
            line = await self._arrive(stream)
            await line.send(b"EHLO client.test\r\n")
            offered = (await line.reply()).lines
        pipelining = any(one.endswith(b"PIPELINING") for one in offered)
        for _ in range(its.randint(1, 8)):
            if self.over:
                return
            message, number = waiting.pop() if waiting else (self._next(), 1)
            attempt = Attempt(message, number)
            self.attempts.append(attempt)
            try:
                await self._send(line, attempt, its, pipelining=pipelining and its.random() < 0.5)
            except (Lost, trio.TooSlowError):
                attempt.cut = True
                raise
            finally:
                again = attempt.heard is None or 400 <= attempt.heard < 500
                if again and number < ATTEMPTS and its.random() < 0.7:
                    waiting.append((message, number + 1))
            if attempt.heard == 421:
                return
        if its.random() < 0.8:
            with trio.fail_after(PATIENCE):
                await line.send(b"QUIT\r\n")
                await line.reply()

    def _next(self) -> int:
        self._messages += 1
        return self._messages

    async def _send(self, line: Line, attempt: Attempt, its: random.Random, *, pipelining: bool) -> None:
        content = _content(attempt, its)
        header, _, body = content.partition(b"\r\n\r\n")
        attempt.digest = sha256(content).hexdigest()
        attempt.parts = (sha256(header + b"\r\n").hexdigest(), sha256(body).hexdigest())
        envelope = [b"MAIL FROM:<%b@client.test>\r\n" % attempt.name.encode(), b"RCPT TO:<b@sink.test>\r\n"]
        dialogue = _Dialogue(line, attempt)
        with trio.fail_after(PATIENCE):
            if its.random() < 0.5:
                await dialogue.by_data(envelope, content, pipelining=pipelining)
            else:
                await dialogue.by_chunks(envelope, _chunks(content, its), pipelining=pipelining)


class _Dialogue:
    """One attempt. Raises Lost."""

    def __init__(self, line: Line, attempt: Attempt) -> None:
        self._line = line
        self._attempt = attempt

    async def _hear(self, commands: int) -> list[int]:
        codes: list[int] = []
        for _ in range(commands):
            code = (await self._line.reply()).code
            codes.append(code)
            self._attempt.last = code
            if self._attempt.mail is None:
                self._attempt.mail = code
            if code >= 400 and self._attempt.heard is None:
                self._attempt.heard = code  # the first counts: what was sent behind it could not know
            if code == 421:
                raise Lost
        return codes

    async def _say(self, commands: list[bytes], *, pipelining: bool) -> list[int]:
        """Say them, all at once or up to the first that is refused; their answers."""
        if pipelining:
            await self._line.send(b"".join(commands))
            return await self._hear(len(commands))
        codes: list[int] = []
        for command in commands:
            await self._line.send(command)
            codes += await self._hear(1)
            if codes[-1] >= 400:
                break
        return codes

    async def _refused(self) -> bool:
        """Whether there was a refusal; the transaction is reset."""
        if self._attempt.heard is None:
            return False
        if self._attempt.mail == 250:
            await self._line.send(b"RSET\r\n")
            if (await self._line.reply()).code != 250:
                raise Lost  # 451 and, at whatever comes next, 421: upstream is gone
        return True

    async def by_data(self, envelope: list[bytes], content: bytes, *, pipelining: bool) -> None:
        await self._say([*envelope, b"DATA\r\n"], pipelining=pipelining)
        if not await self._refused():
            await self._line.send((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
            (self._attempt.heard,) = await self._hear(1)

    async def by_chunks(self, envelope: list[bytes], chunks: list[bytes], *, pipelining: bool) -> None:
        if pipelining:
            codes = await self._say([*envelope, *chunks], pipelining=True)
            if not await self._refused():
                self._attempt.heard = codes[-1]
            return
        await self._say([*envelope, *chunks[:-1]], pipelining=False)
        if not await self._refused():
            await self._line.send(chunks[-1])
            (self._attempt.heard,) = await self._hear(1)


def _content(attempt: Attempt, its: random.Random) -> bytes:
    """Most messages are small, a few are larger than any buffer."""
    size = 2 ** its.uniform(19, 20) if its.random() < 0.02 else 2 ** its.uniform(0, 14)
    line = its.choice([b"some words\r\n", b".\r\n", b"..\r\n", b"x" * 900 + b"\r\n", b"\r\n", b".hidden\r\n"])
    return b"Subject: %b\r\n\r\n%b" % (attempt.name.encode(), line * math.ceil(size / len(line)))


def _chunks(content: bytes, its: random.Random) -> list[bytes]:
    cuts = sorted({0, *(its.randrange(len(content)) for _ in range(its.randint(0, 4)))})
    parts = [content[start:end] for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True)]
    if its.random() < 0.3:
        parts.append(b"")
    return [
        b"BDAT %d%b\r\n%b" % (len(part), b" LAST" if number == len(parts) else b"", part)
        for number, part in enumerate(parts, 1)
    ]
