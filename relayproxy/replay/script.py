"""From a session's dialog to what it means: what the client said, one thing after the other, and what it heard to each (DESIGN §8).

    script = script_of(dialog_of(session, transactions, reader))      # of the store (record/playback.py)
    script = script_of(parse(text)[0])                                # of a .dialog file; raises ScriptError
    script = script_of(parse(text)[0], behind=step)                   # of one that goes on where another session's step was the last

Theory of operation: of a dialog only the client's leg counts. Its lines are read by what reads them off the wire (smtp/commands.py, smtp/data.py), for a recording
is as little to be trusted as a client (attack 32); replies are matched to what asked for them by count, as everywhere (PROTOCOL I6). Time is kept as pauses: how long the client
took since it last said or heard something.

What is not said again: AUTH and all that belongs to it, MAIL's AUTH= too (it is redacted, and stale anyway); STARTTLS, since TLS is as the target wants it. A line that is no command
is never sent: it is `LeftOut`, and told; it is no difference, since no server ever saw it or answered it, but the relay. A session that ended in the middle is one here too: without its final dot, or its last octets of a chunk.
What a server in its place needs besides is kept with it: how long each reply took, what each AUTH came to (nothing of what was said in it), and whether the server ended the session.
Where a message was not kept whole, or a reply has no question, there is no script: ScriptError says why.

Pure. Saying it again does not belong here (player.py), nor what replies mean (compare.py).
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from relayproxy.record.dialog import Event, Line, Note
from relayproxy.record.text import printable, text
from relayproxy.replay.patterns import parse_pattern
from relayproxy.smtp.commands import Auth, Bdat, Command, Data, Ehlo, Helo, Mail, Quit, Rcpt, StartTls, parse_command
from relayproxy.smtp.data import DataReader
from relayproxy.smtp.errors import RemoteProtocolError
from relayproxy.smtp.parameters import written
from relayproxy.smtp.replies import Reply, ReplyReader

if TYPE_CHECKING:
    from relayproxy.record.dialog import Entry, Session

#: Octets, and lines, of a recorded reply.
_MOST: Final = 1 << 20
#: Characters of a line that are quoted.
_QUOTED: Final = 200


class ScriptError(ValueError):
    """A session cannot be said again: why, in words."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The connection itself, which is answered by the greeting."""


@dataclass(frozen=True, slots=True)
class Message:
    """What followed DATA, as on the wire: with its stuffing and, where it has `ended`, the final dot's line."""

    wire: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """BDAT and its octets; fewer than it says where the client was gone before they were all there."""

    command: Bdat
    octets: bytes

    @property
    def whole(self) -> bool:
        return len(self.octets) == self.command.size


What = Opening | Command | Message | Chunk


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the client said. `reply`: what it heard to it, None where it never did.

    `waits`: it had heard everything before it said this, which else was pipelined. `pause`: seconds since it last said or heard something.
    `latency`: seconds from the end of what it had said to the reply.
    """

    what: What
    reply: Reply | None = None
    waits: bool = True
    pause: float = 0.0
    latency: float = 0.0

    @property
    def said(self) -> str:
        """In words, on one line."""
        match self.what:
            case Opening():
                return "the connection"
            case Message(wire, ended):
                return f"the message ({len(wire)} octets{'' if ended else ', without its end'})"
            case Mail(path, parameters) | Rcpt(path, parameters):  # which may be a pattern
                verb = "MAIL FROM" if isinstance(self.what, Mail) else "RCPT TO"
                return printable(f"{verb}:<{text(path.address)}>{text(written(parameters))}")
            case Chunk(command, _) | (Command() as command):
                return printable(text(command.wire().removesuffix(b"\r\n")))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line of the client's that is not said again, and why; `reply`: what it heard to it."""

    line: str
    why: str
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """An AUTH, and its last reply."""

    mechanism: bytes
    reply: Reply
    latency: float = 0.0


#: How a connection ends.
Ending = Literal["close", "reset"]


@dataclass(frozen=True, slots=True)
class Script:
    """One session. `client`: its address and port; the first step is the `Opening`. `ended`: by the server, and how, None: the client left, or was told goodbye."""

    id: str | None
    listener: str | None
    client: tuple[str, int | None]
    steps: tuple[Step, ...]
    left_out: tuple[LeftOut, ...] = ()
    logins: tuple[Login, ...] = ()
    ended: Ending | None = None

    def named(self, name: bytes) -> Script:
        """The same by a client that says this name in EHLO and HELO."""
        steps = [
            replace(step, what=type(step.what)(name)) if isinstance(step.what, Ehlo | Helo) else step
            for step in self.steps
        ]
        return replace(self, steps=tuple(steps))


def script_of(session: Session, behind: Step | None = None, *, needs_messages: bool = True) -> Script:
    """`behind`: what another session said last, where this one goes on: then it has no `Opening`, and a greeting that it begins with counts for nothing.

    `needs_messages`: one that was not kept is no hindrance where nobody says it again; it is empty then, and `*` in a domain is what it is in a pattern. Raises ScriptError.
    """
    reading = _Reading(needs_messages=needs_messages)
    if behind is not None:
        reading.go_on(behind, greeted=_is_greeted(session))
    for entry in session.entries:
        reading.take(entry)
    reading.end_data()
    steps = tuple([Step(one.what, one.reply, one.waits, one.pause, one.latency) for one in reading.steps])
    if behind is not None:
        steps = steps[1:]
        if not steps:
            raise ScriptError("nothing is said in it that could be said again")
    elif len(steps) == 1 and steps[0].reply is None and reading.ended is None:
        raise ScriptError("nothing is kept of what its client said and heard")
    listener = dict(session.attributes).get("listener")
    left_out = tuple([LeftOut(one.line, one.why, one.reply) for one in reading.left_out])
    return Script(session.id, listener, reading.client, steps, left_out, tuple(reading.logins), reading.ended)


def _is_greeted(session: Session) -> bool:
    """Whether the first that its client did was to hear."""
    heard = [entry.arrow == "<" for entry in session.entries if isinstance(entry, Line) and entry.leg == "C"]
    return heard[:1] == [True]


@dataclass(slots=True)
class _Step:
    """One that may still be answered."""

    what: What
    waits: bool = True
    pause: float = 0.0
    reply: Reply | None = None
    latency: float = 0.0


@dataclass(slots=True)
class _Unsaid:
    """What will be answered and is not said again; `sasl`: of an AUTH by this mechanism, so that behind 334 a response follows; `line`: one that is left out, and `why`."""

    sasl: bytes | None = None
    line: str = ""
    why: str = ""
    reply: Reply | None = None


@dataclass(slots=True)
class _Reading:
    """As far as the dialog was read."""

    needs_messages: bool = True
    steps: list[_Step] = field(default_factory=lambda: [_Step(Opening())])
    left_out: list[_Unsaid] = field(default_factory=list)
    logins: list[Login] = field(default_factory=list)
    ended: Ending | None = None
    client: tuple[str, int | None] = ("127.0.0.1", None)
    _asked: deque[_Step | _Unsaid] = field(default_factory=deque)
    _replies: ReplyReader = field(default_factory=lambda: ReplyReader(_MOST, _MOST, _MOST))
    _line: bytearray = field(default_factory=bytearray)  # of which the end has not come
    _blanked: int | None = None  # how many octets were taken out of it
    _sasl: bytes | None = None  # 334 was heard: a response comes, by this mechanism
    _data: bytearray | None = None  # of the message, or the chunk, that is coming
    _reader: DataReader | None = None
    _bdat: Bdat | None = None
    _now: int = 0  # the time of the last entry of the leg, in microseconds
    _pause: float = 0.0
    _said: int = 0  # when the client last said something, in microseconds
    _data_step: _Step | None = None
    _gone: bool = False  # the client, or the server with a word that nothing asked for
    _unkept: bool = False  # mail data is missing: no matter where it never came to its end

    def __post_init__(self) -> None:
        self._asked.append(self.steps[0])

    def go_on(self, behind: Step, *, greeted: bool) -> None:
        """Begin where that was said and answered."""
        self.steps = [_Step(behind.what, reply=behind.reply)]
        self._asked = deque([_Unsaid()] if greeted else [])

    def take(self, entry: Entry) -> None:
        match entry:
            case Line(leg="C"):
                self._pass(entry.time)
                if entry.arrow == "<":
                    self._hear(entry.octets)
                    return
                self._said = self._now
                if entry.data:
                    self._take_data(entry.octets)
                else:
                    self.end_data()
                    self._take_line(entry)
            case Event(leg="C", name="open", arguments=(address,)):
                self.client = _endpoint(address)
            case Event(leg="C", name="eof" | "close" | "reset" as name, by_us=True):
                self._end("reset" if name == "reset" else "close")
            case Event(leg="C", name="eof" | "close" | "reset"):
                self._gone = True
            case Note(key="redacted" | "unkept" as key) if entry.text.startswith("C>"):
                self._miss(key)
            case _:
                pass

    def _miss(self, key: str) -> None:
        """Mail data was not kept, or not as it came."""
        if not self.needs_messages:
            self._said = self._now
            self._unkept = isinstance(self.steps[-1].what, Data | Message)
            if self._unkept and self._data is None:
                self._begin_data()
        elif key == "redacted":
            raise ScriptError("the message was not kept as it came: something in it was redacted")
        else:
            self._unkept = True

    def _pass(self, time: int | None) -> None:
        """Time goes by. What has none, or was joined, comes at once."""
        self._pause = 0.0 if time is None else max(0, time - self._now) / 1e6
        self._now = self._now if time is None else max(self._now, time)

    def _hear(self, octets: bytes) -> None:
        self._replies.feed(octets)
        try:
            while (reply := self._replies.next_reply()) is not None:
                self._answer(reply)
        except RemoteProtocolError as error:
            raise ScriptError(f"what its client heard is no SMTP: {error.what}") from error

    def _end(self, how: Ending) -> None:
        """The server has ended it, unless it had said why, or was asked to."""
        last = self.steps[-1]
        over = isinstance(last.what, Quit) or (last.reply is not None and last.reply.code == 421)
        if not (self._gone or over):
            self.ended = how
        self._gone = True

    def _answer(self, reply: Reply) -> None:
        if not self._asked and self._unkept and not self.needs_messages:
            self.end_data()
        if not self._asked:
            if reply.code == 421:  # RFC 5321 §3.8: at any time, and then it is over
                self._gone = True
                return
            self._check_kept()
            raise ScriptError(f"its client heard {reply.code} to nothing that it said")
        asked = self._asked.popleft()
        latency = (self._now - self._said) / 1e6
        if isinstance(asked, _Step):
            asked.reply, asked.latency = reply, latency
        elif asked.sasl is None:
            asked.reply = reply
        else:
            self._sasl = asked.sasl if reply.code == 334 else None
            if self._sasl is None:
                self.logins.append(Login(asked.sasl, reply, latency))

    def _check_kept(self) -> None:
        """Where something stands behind a message, all of it must be there."""
        if self._unkept and self.needs_messages:
            raise ScriptError("the message was not kept")

    def _take_line(self, line: Line) -> None:
        self._check_kept()
        self._line += line.octets
        if line.redacted:
            self._blanked = (self._blanked or 0) + sum(gap.length for gap in line.redacted)
        if not self._line.endswith(b"\r\n"):
            return
        octets, blanked, sasl = bytes(self._line[:-2]), self._blanked, self._sasl
        self._line.clear()
        self._blanked, self._sasl = None, None
        if sasl is not None:
            self._asked.append(_Unsaid(sasl))
        elif blanked is not None and octets[:4].upper() == b"AUTH":
            self._asked.append(_Unsaid(b"".join(octets.split()[1:2]).upper()))
        elif blanked is not None:  # no command, which a recording tells by its length alone (record/redact.py)
            self._leave_out(octets + b"<redacted %d>" % blanked, "octets of it were not kept")
        else:
            self._take_command(octets)

    def _leave_out(self, line: bytes, why: str) -> None:
        shown = printable(text(line[:_QUOTED])) + ("..." if len(line) > _QUOTED else "")
        self.left_out.append(_Unsaid(line=shown, why=why))
        self._asked.append(self.left_out[-1])

    def _take_command(self, line: bytes) -> None:
        try:
            command = parse_command(line) if self.needs_messages else parse_pattern(line)
        except RemoteProtocolError as error:
            self._leave_out(line, error.what)
            return
        match command:
            case Auth(mechanism=mechanism):
                self._asked.append(_Unsaid(mechanism))
            case StartTls():
                self._asked.append(_Unsaid())
            case Bdat() if not self.needs_messages:
                self._say(Chunk(command, b""))
            case Bdat(size=size):
                self._bdat, self._data = command, bytearray()
                self._data_step = self._say(Chunk(command, b""), asks=size == 0)
                if size == 0:
                    self._bdat = self._data = None
            case Mail(path, parameters):
                self._say(Mail(path, tuple([one for one in parameters if one[0].upper() != b"AUTH"])))
            case _:
                self._say(command)

    def _say(self, what: What, *, asks: bool = True) -> _Step:
        step = _Step(what, not self._asked, self._pause)
        self.steps.append(step)
        if asks:
            self._asked.append(step)
        return step

    def _take_data(self, octets: bytes) -> None:
        if self._bdat is not None and self._data is not None:
            self._take_chunk(self._bdat, self._data, octets)
            return
        if not self.needs_messages and isinstance(self.steps[-1].what, Chunk):
            return
        if self._data is None or self._reader is None:
            self._data, self._reader = self._begin_data()
        self._data += octets
        part = self._reader.feed(octets)
        if part.ended:
            if part.rest:
                raise ScriptError("there is mail data behind its end")
            self._finish(Message(bytes(self._data), ended=True))

    def _begin_data(self) -> tuple[bytearray, DataReader]:
        """Raises ScriptError."""
        if not isinstance(self.steps[-1].what, Data):
            raise ScriptError("there is mail data where no DATA or BDAT is")
        self._data, self._reader = bytearray(), DataReader(sys.maxsize)
        self._data_step = self._say(Message(b"", ended=False), asks=False)
        return self._data, self._reader

    def _take_chunk(self, command: Bdat, data: bytearray, octets: bytes) -> None:
        data += octets
        if len(data) > command.size:
            raise ScriptError(f"a chunk has more octets than the {command.size} that BDAT says")
        if len(data) == command.size:
            self._finish(Chunk(command, bytes(data)))

    def _finish(self, what: Message | Chunk) -> None:
        """All of it is there; it will be answered."""
        self._unkept &= self.needs_messages
        if self._data_step is not None:
            self._data_step.what = what
            self._asked.append(self._data_step)
        self._data = self._reader = self._bdat = self._data_step = None

    def end_data(self) -> None:
        """No more of it comes: what has not ended stays so."""
        if self._data is None or self._data_step is None:
            return
        octets = bytes(self._data)
        if self._unkept and not self.needs_messages:  # what ended it is not there
            self._finish(Message(octets, ended=True))
            return
        self._data_step.what = Message(octets, ended=False) if self._bdat is None else Chunk(self._bdat, octets)
        self._data = self._reader = self._bdat = self._data_step = None


def _endpoint(address: str) -> tuple[str, int | None]:
    """Address and port, as `open` has them; a Unix socket has no port."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or not (port.isascii() and port.isdigit()):
        return address, None
    return host.removeprefix("[").removesuffix("]"), int(port)
