"""`relayproxy replay SELECT --until N --then interactive|FILE.dialog`: a recorded session up to one of its commands, and what follows (DESIGN §8).

Theory of operation: the first part is played as any replay (replay/player.py), to a relay in between. Where it got to N (replay/fork.py), the same connection goes on: as the client side of a dialog file says,
compared with what is written there; or in the hands of whoever is at standard input (replay/interactive.py), a terminal or a pipe, which is read by the event loop itself, so that nothing is left behind.

Invariants: nobody goes on with a session that stands elsewhere than it stood then: that is told, with status 1. What was asked for besides does not belong here (replay.py).
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.cli import Failed, say
from relayproxy.cli.recordings import parsed
from relayproxy.cli.replaying import DIFFERENT, read_script, tell_one, with_relay
from relayproxy.record.store.interface import StoreError
from relayproxy.replay.compare import compare
from relayproxy.replay.fork import NoSuchPlace, asks_for_mail, astray, going_on, joined, listed, upto
from relayproxy.replay.interactive import Interaction, show_reply
from relayproxy.replay.player import Player
from relayproxy.replay.script import Script, ScriptError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.cli.replaying import Pace, Source
    from relayproxy.record.dialog import Session
    from relayproxy.replay.between import Between
    from relayproxy.replay.compare import Played

INTERACTIVE: Final = "interactive"
#: Octets of a line that is typed or piped in, and how many are read at once.
_LONGEST: Final = 1 << 20
_BLOCK: Final = 1 << 16
_IDS: Final = 5
#: What the server does not hear, as it would without a relay.
_OURS: Final = "the relay in between answers EHLO, RSET without a MAIL, and what is no command"


def fork_of(until: int | None, then: str | None, pace: Pace, *, json: bool) -> Callable[[Sequence[Source]], Fork]:
    """What makes the fork, once it is known of which sessions. Raises Failed where what was asked for does not fit."""
    if then is None:
        raise Failed("expected --then with --until: interactive, or a .dialog file that goes on there")
    if pace.loop > 1 or pace.concurrency > 1:
        raise Failed("expected one session with --until, got --loop or --concurrency, which play several")
    dialog = None
    if then == INTERACTIVE:
        if json:
            raise Failed("expected --json with --then FILE, got it with interactive, which shows a dialog")
    elif not then.endswith(".dialog"):
        raise Failed(f"--then: expected {INTERACTIVE} or a .dialog file, got {then!r}")
    else:
        sessions = parsed(Path(then))
        if not sessions:
            raise Failed(f"--then: {then}: expected a session, found none")
        dialog = sessions[0]

    def made(sources: Sequence[Source]) -> Fork:
        return Fork(_script(sources, pace), until, dialog, then, pace.speed, json=json)

    return made


def _script(sources: Sequence[Source], pace: Pace) -> Script:
    """Of the one session."""
    if len(sources) > 1:
        more = ", ..." if len(sources) > _IDS else ""
        raise Failed(
            f"expected one session with --until, got {len(sources)}: {', '.join([id_ or '' for id_, _ in sources[:_IDS]])}{more}"
        )
    ((id_, source),) = sources
    try:
        return read_script(source, id_, pace.ehlo)
    except (ScriptError, StoreError) as error:
        raise Failed(f"{id_}: not replayed: {error}", DIFFERENT) from error


class Fork:
    """One session and what follows it; what came of it."""

    def __init__(
        self, whole: Script, until: int | None, dialog: Session | None, then: str, speed: float | None, *, json: bool
    ) -> None:
        """Without `dialog` whoever is at standard input goes on. Raises Failed."""
        if until is None:
            raise Failed("\n".join(["expected --until with --then: the number of a command", *listed(whole)]))
        try:
            self._script = upto(whole, until)
        except NoSuchPlace as error:
            raise Failed(f"--until: {error}") from error
        self._then: Script | None = None
        if dialog is not None:
            try:
                self._then = going_on(dialog, self._script)
            except ScriptError as error:
                raise Failed(f"--then: {then}: {error}") from error
        self._number = until
        self._speed = speed
        self._json = json
        self._holds = False  # all that was compared was the same, to the end
        self._stopped = 0

    async def run(self, between: Between) -> None:
        """Play, and hand over, unless a signal ends it."""

        async def play() -> None:
            stream = between.connect(self._script.client, self._script.listener)
            async with stream:
                await self._play(stream)

        self._stopped = await with_relay(between, play)

    async def _play(self, stream: trio.abc.Stream) -> None:
        player = Player(stream, self._speed)
        played = await player.play(self._script.steps, whole=True)
        if (why := astray(self._script, played)) is not None:
            self._compare(self._script, played)
            self._holds = False
            say(f"relayproxy: not handed over, {self._step} was not reached: {why}")
        elif self._then is None:
            self._compare(self._script, played)
            await self._hand_over(stream, player, played)
        else:
            self._compare(joined(self._script, self._then), await player.play(self._then.steps))

    @property
    def _step(self) -> str:
        return f"{self._number} ({self._script.steps[-1].said})"

    def _compare(self, script: Script, played: Played) -> None:
        comparison = compare(script, played)
        self._holds = comparison.same
        tell_one(comparison, json=self._json)

    async def _hand_over(self, stream: trio.abc.Stream, player: Player, played: Played) -> None:
        """To whoever is at standard input."""
        last = played.heard[-1]
        mail = asks_for_mail(self._script.steps[-1], last)
        lines = (
            "the message, up to a line that is a dot alone" if mail else f"said to the server, a line each ({_OURS})"
        )
        end = "without sending it" if mail else "with QUIT"
        say(f"relayproxy: handed over behind {self._step}: what you type is {lines}; Ctrl-D ends {end}")
        if last is not None:
            show_reply(_show, last)
        typed = Typed(None if sys.stdin is None else 0)
        interaction = Interaction(stream, player.replies, typed.line, _show, echo=not typed.is_terminal, mail=mail)
        troubles = [await interaction.run(), typed.trouble]
        if interaction.withheld:
            troubles.append(f"DATA was refused; of what was to be its message, {_lines(interaction.withheld)} not said")
        unsaid = typed.left()
        if interaction.cut_off or unsaid:
            what = "the server ended it" if interaction.cut_off else "QUIT ended it"
            troubles.append(f"{what}; {_lines(unsaid)} not said" if unsaid else what)
        for trouble in troubles:
            if trouble is not None:
                say(f"relayproxy: {trouble}")
        if not typed.is_terminal and (unsaid or interaction.withheld):
            self._holds = False

    def tell(self) -> int:
        """The exit status."""
        if self._stopped:
            say("relayproxy: stopped; the session was given up")
            return 128 + self._stopped
        return 0 if self._holds else DIFFERENT


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _lines(number: int) -> str:
    return "1 line was" if number == 1 else f"{number} lines were"


class Typed:
    """Lines of a descriptor that others may have, too: its flags are left alone. `trouble`: why there were no more than those."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._waits = True  # False: a file, which is never waited for
        self._octets = bytearray()
        self._ended = descriptor is None
        self.trouble: str | None = None

    @property
    def is_terminal(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    async def line(self) -> bytes | None:
        """The next one without its end, which the last may lack; None where there is none."""
        while (end := self._octets.find(b"\n")) < 0 and self._descriptor is not None and not self._ended:
            await self._read(self._descriptor)
        if end < 0 and not self._octets:
            return None
        line = bytes(self._octets[:end] if end >= 0 else self._octets)
        del self._octets[: len(line) + 1]
        return line.removesuffix(b"\r")

    def left(self) -> int:
        """How many lines have come that nobody asked for, where they are counted: what is typed at a terminal is not."""
        count, rest = self._octets.count(b"\n"), not self._octets.endswith(b"\n") and bool(self._octets)
        total = 0
        while self._descriptor is not None and not self.is_terminal and not self._ended and total < _LONGEST:
            if not select.select([self._descriptor], [], [], 0)[0]:
                break
            octets = os.read(self._descriptor, _BLOCK)
            self._ended = not octets
            count += octets.count(b"\n")
            rest = not octets.endswith(b"\n") if octets else rest
            total += len(octets)
        return count + rest

    async def _read(self, descriptor: int) -> None:
        try:
            if self._waits:
                await trio.lowlevel.wait_readable(descriptor)
            else:
                await trio.lowlevel.checkpoint()
            octets = os.read(descriptor, _BLOCK)
        except BlockingIOError:  # somebody else was quicker
            return
        except PermissionError:
            self._waits = False
            return
        except OSError as error:
            self._end(f"standard input: {error.strerror}")
            return
        self._ended = not octets
        self._octets += octets
        if len(self._octets) > _LONGEST and b"\n" not in self._octets:
            self._end(f"standard input: expected lines of at most {_LONGEST} octets")

    def _end(self, trouble: str) -> None:
        self.trouble = trouble
        self._ended = True
        self._octets.clear()
