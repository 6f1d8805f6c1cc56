"""A session in memory, on virtual time: an upstream that answers as it is told to, a client that makes moves, and what both heard."""

from __future__ import annotations

import re
from binascii import crc32
from typing import TYPE_CHECKING, Any, Protocol

import trio
from dialog_relay import CONFIG, DialRefusedByDialog, start
from dialog_wire import Leg
from trio.testing import MockClock, wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a client sends, in one piece or several; a word that is no octets is what it does.
Move = bytes | str


class Body(bytes):
    """Mail data, which a client sends only if what it heard last is 354."""

    __slots__ = ()


_REPLY = re.compile(rb"(?:[2-5][0-9]{2}-[ -~]*\r\n)*[2-5][0-9]{2} [ -~]*\r\n")


class Answers(Protocol):
    """What an upstream says to its n-th line or message, where that is not the usual."""

    def get(self, n: int, usual: bytes, /) -> bytes: ...


class Envelope:
    """Of one transaction, as upstream has it: lines that it answered 2yz. `introduced`: it knows whose it is."""

    def __init__(self, sender: bytes = b"", *, introduced: bool = True) -> None:
        self.sender = sender
        self.recipients: list[bytes] = []
        self.introduced = introduced


class Server:
    """An upstream that answers as it is told to, and keeps what it was sent. It reads mail data as the standard has it."""

    def __init__(self, answers: Answers, offer: bytes, *, most_dials: int = 3, identity: str = "none") -> None:
        """`identity`: how it is to be told who the client is, as an upstream's in a configuration."""
        self.answers = answers
        self._identity = identity
        self._introduced = False
        self._header_due = False
        self.odd_headers: list[bytes] = []
        self._said = 0
        self.offer = offer
        self.commands: list[bytes] = []
        self.messages: list[bytes] = []
        self.envelope = Envelope()
        #: Messages that were answered 2yz, whole, and to whom they go.
        self.delivered: list[tuple[Envelope, bytes]] = []
        self.most_dials = most_dials
        self.taken = 0  # messages that were answered 2yz
        self._data = False
        self._octets = b""
        self.dialled = 0
        self.leg: Leg | None = None

    def connect(self) -> Leg:
        self.dialled += 1
        self.leg = Leg(self.hear)
        self._data, self._octets = False, b""
        self.envelope = Envelope()
        self._introduced = self._identity == "none"
        self._header_due = self._identity.startswith("proxy")
        self.leg.far_send(b"220 up.test\r\n")
        return self.leg

    def hear(self, octets: bytes) -> None:
        self._octets += octets
        while self._next():
            pass

    def _next(self) -> bool:
        if self._data:
            whole = b"\r\n" + self._octets
            end = whole.find(b"\r\n.\r\n")
            if end < 0:
                return False
            self.messages.append(self._octets[: max(end, 0)])
            self._octets = whole[end + 5 :]
            self._data = False
            answer = self.say(b"250 taken\r\n")
            if answer.startswith(b"2") and answer.endswith(b"\r\n"):
                self.taken += 1
                self.delivered.append((self.envelope, self.messages[-1]))
            self.envelope = Envelope()
            return True
        if self._header_due:
            return self._take_header()
        line, crlf, rest = self._octets.partition(b"\r\n")
        if not crlf:
            return False
        self._octets = rest
        self.commands.append(line)
        usual = {
            b"EHLO": self.offer,
            b"DATA": b"354 go\r\n",
            b"QUIT": b"221 bye\r\n",
            b"AUTH": b"235 in\r\n",
            b"XCLI": b"220 up.test\r\n",
        }
        answer = self.say(usual.get(line[:4], b"250 ok\r\n"))
        self._data = line == b"DATA" and answer.startswith(b"354")
        if line[:4] in (b"XCLI", b"XFOR"):
            self._introduced = answer.startswith(b"2") and b" ADDR=127.0.0.1" in line
        elif line[:4] in (b"MAIL", b"RSET", b"EHLO", b"HELO"):
            self.envelope = Envelope(line if answer.startswith(b"2") else b"", introduced=self._introduced)
            if self._identity == "xforward":  # it is said of each transaction
                self._introduced = False
        elif line[:4] == b"RCPT" and answer.startswith(b"2"):
            self.envelope.recipients.append(line)
        return True

    def _take_header(self) -> bool:
        """A PROXY header, of version 1 or 2."""
        signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
        if self._identity == "proxy-v1":
            header, end, rest = self._octets.partition(b"\r\n")
            told = re.fullmatch(rb"PROXY TCP4 127\.0\.0\.1 [0-9.]+ 50000 [0-9]+", header)
        else:
            header, end, rest = self._octets[:28], self._octets[27:28], self._octets[28:]
            told = re.fullmatch(signature + rb"\0\x0c\x7f\0\0\x01.{4}\xc3\x50..", header, re.DOTALL)
        if not end:
            return False
        self._header_due, self._introduced, self._octets = False, told is not None, rest
        self.odd_headers += [] if told else [header]
        return True

    def say(self, usual: bytes) -> bytes:
        answer = self.answers.get(self._said, usual)
        self._said += 1
        assert self.leg is not None
        match answer:
            case b"close":
                self.leg.far_close()
            case b"reset":
                self.leg.far_reset()
            case b"stall":
                self.leg.far_stall(stalled=True)
            case octets if not self.leg.far_gone:
                self.leg.far_send(octets)
        return answer


class Steady(Server):
    """An upstream that keeps to the protocol, and answers the same to the same: some senders, recipients and messages it refuses."""

    def __init__(self, offer: bytes, refuses: int) -> None:
        """`refuses`: of how many one; 0: none."""
        super().__init__({}, offer, most_dials=1000)
        self._refuses = refuses

    def say(self, usual: bytes) -> bytes:
        line = self.commands[-1]
        if usual.startswith(b"354") and not self.envelope.recipients:
            usual = b"503 5.5.1 no recipients\r\n"
        elif line.startswith(b"RCPT") and not self.envelope.sender.startswith(b"MAIL"):
            usual = b"503 5.5.1 no sender\r\n"
        elif usual.startswith((b"250 ok", b"250 taken", b"354")) and line != b"RSET":
            id_ = re.search(rb"^X-Id: .*", self.messages[-1], re.MULTILINE) if usual == b"250 taken\r\n" else None
            number = crc32(line if id_ is None else id_[0])
            if self._refuses and number % self._refuses == 0:
                usual = b"450 4.0.0 not now\r\n" if number & 64 else b"550 5.0.0 no\r\n"
        return super().say(usual)


class Talk:
    """One session: what the client heard, what upstream got, what was logged."""

    def __init__(self, moves: Sequence[Move], pieces: Sequence[int], server: Server, config: dict[str, Any]) -> None:
        self.heard = self.said = b""
        self.server = server
        self.log: list[dict[str, Any]] = []
        self.over = trio.Event()
        trio.run(self._hold, moves, pieces, config, clock=MockClock(autojump_threshold=0))

    async def _dial(self, _url: str, _seconds: float) -> Leg:
        await trio.lowlevel.checkpoint()
        if self.server.dialled == self.server.most_dials:
            raise DialRefusedByDialog("refused")
        return self.server.connect()

    def _hear(self, octets: bytes) -> None:
        self.heard += octets

    async def _hold(self, moves: Sequence[Move], pieces: Sequence[int], config: dict[str, Any]) -> None:
        driven = start({**CONFIG, **config}, self._dial)
        client = Leg(self._hear)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._session, driven, client)
                await self._act(client, moves, pieces)
                client.far_close()
                with trio.move_on_after(3600) as patience:
                    await self.over.wait()
                self.said = bytes(client.far_said)
                assert not patience.cancelled_caught, "the session goes on without a client"
        finally:
            self.log = driven.close()

    async def _session(self, driven: Any, client: Leg) -> None:
        await driven.session(client, "127.0.0.1", 50000, None)
        self.over.set()

    async def _act(self, client: Leg, moves: Sequence[Move], pieces: Sequence[int]) -> None:
        cuts = list(pieces)
        for move in moves:
            if client.far_gone or client.closed:
                return
            match move:
                case "wait":
                    await wait_all_tasks_blocked()
                case "idle":
                    await trio.sleep(100)
                case "eof":
                    client.far_eof()
                case "close":
                    client.far_close()
                case "reset":
                    client.far_reset()
                case Body() if not re.search(rb"(?:\A|\n)354 [^\n]*\n\Z", self.heard):
                    pass
                case bytes():
                    await self._send(client, move, cuts)

    async def _send(self, client: Leg, octets: bytes, cuts: list[int]) -> None:
        """In pieces, as long as there are sizes for them."""
        while cuts and octets:
            size = cuts.pop(0)
            client.far_send(octets[:size])
            octets = octets[size:]
            await wait_all_tasks_blocked()
        client.far_send(octets)


def all_replies(heard: bytes) -> bool:
    """Whether it is replies, one after the other, each line of a reply with its code."""
    while heard:
        match = _REPLY.match(heard)
        if match is None or len({line[:3] for line in match[0].splitlines()}) != 1:
            return False
        heard = heard[match.end() :]
    return True


def codes(heard: bytes) -> list[bytes]:
    """Of replies, in order."""
    return re.findall(rb"^([2-5][0-9]{2}) ", heard, re.MULTILINE)
