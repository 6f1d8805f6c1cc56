"""A session in somebody's hands: what he types is said to the server, a line each, and what comes is shown as a dialog has it (DESIGN §7, §8).

Behind a DATA that is answered 354 lines are mail data, up to one that is a dot alone. A dot that begins another is doubled (RFC 5321 §4.5.2): who types a message
types what is to arrive, and need not know of stuffing.

Invariants: a command is said when the one before it was answered, so that lines which were typed ahead, or come from a pipe, are never taken for mail data or the other way round; what the server says by itself is shown at once.
Behind a DATA that was refused, what comes from a pipe and is no command is the message, and not said; nor is any secret of AUTH shown. Where nothing more is typed a session ends with QUIT, one in the middle of a message with its connection: a dot that nobody typed would send it. What is shown is obeyed by no
terminal (attack 22). Deadlines are those of the relay in between (between.py). Where lines come from, and where they are shown, does not belong here (cli/fork.py).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import trio

from relayproxy.record.dialog import Gap, Line, print_entries
from relayproxy.record.redact import looks_like_auth, redact_sasl
from relayproxy.smtp.commands import Bdat, Data, Quit, parse_command
from relayproxy.smtp.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply, ReplyReader


#: RFC 5321 §3.8, §4.1.1.10: the server hangs up.
_CLOSING: Final = (221, 421)


class Interaction:
    """`replies`: what reads what comes from `stream`; `typed` gives the next line without its end, None where there is none."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        replies: ReplyReader,
        typed: Callable[[], Awaitable[bytes | None]],
        show: Callable[[str], None],
        *,
        echo: bool,
        mail: bool,
    ) -> None:
        """`echo`: show what is typed, too, for there is no terminal that does. `mail`: 354 was heard last."""
        self._stream = stream
        self._replies = replies
        self._typed = typed
        self._show = show
        self._echo = echo
        self._mail = mail
        #: The server hung up, before anybody said QUIT.
        self.cut_off = False
        #: Lines of messages that were not said, since DATA was refused.
        self.withheld = 0
        self._quits = False
        self._refused: Literal["no", "just now", "its message"] = "no"  # DATA
        self._sasl = False  # 334 was heard last, to an AUTH
        self._reply: Reply | None = None  # the last one
        self._heard = trio.Event()  # since something was said

    async def run(self) -> str | None:
        """Until either side ends it; what was left undone, in words."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_all, nursery.cancel_scope)
            while (line := await self._typed()) is not None:
                if not self._is_withheld(line):
                    await (self._say_mail(line) if self._mail else self._say_line(line))
            await self._end()
            nursery.cancel_scope.cancel()
        return "the message was not ended with a dot, and is not sent" if self._mail else None

    async def _end(self) -> None:
        """Nothing more is typed."""
        if self._mail:
            return
        if not self._quits:
            await self._say_line(b"QUIT")
        await trio.sleep_forever()  # the server closes behind it

    def _is_withheld(self, line: bytes) -> bool:
        """Whether it is of a message that the server would not have: nobody who pipes one in sees the refusal."""
        if self._refused == "no" or (self._refused == "just now" and _command(line) is not None):
            self._refused = "no"
            return False
        self._refused = "no" if line == b"." else "its message"
        self.withheld += 1
        return True

    async def _say_line(self, line: bytes) -> None:
        command = None if self._sasl else _command(line)
        if isinstance(command, Bdat):
            self._show("# a chunk of so many octets cannot be typed line by line: say DATA")
            return
        self._quits |= isinstance(command, Quit)
        self._heard = trio.Event()
        await self._send(line, mail=False)
        await self._be_answered()
        goes_on = self._reply is not None and self._reply.severity == 3
        self._mail = isinstance(command, Data) and goes_on
        self._sasl = (self._sasl or looks_like_auth(line)) and goes_on
        if isinstance(command, Data) and not goes_on and self._echo:
            self._refused = "just now"

    async def _say_mail(self, line: bytes) -> None:
        ends = line == b"."
        self._heard = trio.Event()
        await self._send(b"." + line if line.startswith(b".") and not ends else line, mail=True)
        if ends:
            self._mail = False
            await self._be_answered()

    async def _be_answered(self) -> None:
        await self._heard.wait()
        if self._reply is not None and self._reply.code in _CLOSING:
            await trio.sleep_forever()  # the server closes behind it, and hears no more

    async def _send(self, line: bytes, *, mail: bool) -> None:
        if self._echo:
            self._show(next(print_entries([self._shown(line, mail=mail)])))
        with suppress(trio.BrokenResourceError):  # what was said last is still to be heard
            await self._stream.send_all(line + b"\r\n")

    async def _hear_all(self, over: trio.CancelScope) -> None:
        """And that the server hangs up."""
        try:
            self._take_replies()
            while octets := await self._receive():
                self._replies.feed(octets)
                self._take_replies()
        except RemoteProtocolError as error:
            self._show(f"# {error.what}")
        self.cut_off = not self._quits
        over.cancel()

    def _take_replies(self) -> None:
        while (reply := self._replies.next_reply()) is not None:
            self._reply = reply
            show_reply(self._show, reply)
            self._heard.set()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except trio.BrokenResourceError:
            return b""

    def _shown(self, line: bytes, *, mail: bool) -> Line:
        """As a dialog has it: nothing of what AUTH says."""
        if mail or not (self._sasl or looks_like_auth(line)):
            return Line("C", ">", line + b"\r\n", data=mail)
        told = redact_sasl(line)
        kept = told[: told.rfind(b"<redacted ")] if b"<redacted " in told else told
        gaps = (Gap(len(kept), len(line) - len(kept)),) if kept != line else ()
        return Line("C", ">", kept + b"\r\n", redacted=gaps)


def show_reply(show: Callable[[str], None], reply: Reply) -> None:
    """As a dialog has it, a line each."""
    octets = reply.wire.splitlines(keepends=True)
    for line in print_entries([Line("C", "<", one, joined=number > 0) for number, one in enumerate(octets)]):
        show(line)


def _command(line: bytes) -> Command | None:
    try:
        return parse_command(line)
    except RemoteProtocolError:
        return None  # the relay in between says what is wrong with it
