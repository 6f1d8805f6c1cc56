"""Recorded sessions, said again: how `relayproxy replay` plays them, and what it tells of that.

Invariants: no more sessions at once than were asked for; what is different is told as soon as a session is over; a signal gives up what is under way, truthfully.
What was asked for does not belong here (replay.py), nor what one session says and hears (replay/).
"""

from __future__ import annotations

import json as json_
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from relayproxy.cli import Failed, say
from relayproxy.record.log import Reporter
from relayproxy.record.store.interface import StoreError
from relayproxy.replay.compare import compare, not_replayed
from relayproxy.replay.player import play
from relayproxy.replay.script import ScriptError, script_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from relayproxy.record.dialog import Session
    from relayproxy.replay.between import Between
    from relayproxy.replay.compare import Comparison
    from relayproxy.replay.script import Script

    #: Gives a session when its turn comes; its id.
    Source = tuple[str | None, Callable[[], Session]]

#: The exit status where something was different.
DIFFERENT: Final = 1
#: Troubles of the relay in between that are told, each once.
_MOST_TROUBLES: Final = 20
#: Seconds that what tells them has to end.
_LAST_WORDS: Final = 5.0


class Pace(NamedTuple):
    """How sessions are played. `speed`: None without their pauses; `ehlo`: None: the name that the client said."""

    speed: float | None
    concurrency: int
    loop: int
    ehlo: str | None


class _Troubles:
    """A log of which troubles alone are told, each once, on standard error (a Target of record/sink.py: its thread calls)."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def write(self, data: bytes, /) -> int:
        for line in data.splitlines():
            told = json_.loads(line)
            if (what := _trouble(told)) is not None and what not in self._told and len(self._told) < _MOST_TROUBLES:
                self._told.add(what)
                say(f"relayproxy: {what}")
        return len(data)

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass


def _trouble(told: dict[str, str]) -> str | None:
    match told["event"]:
        case "error":
            return told["what"]
        case "rule-error":
            return f"a rule failed: {told['what']}"
        case _:
            return None


@contextmanager
def reporting() -> Iterator[Reporter]:
    reporter = Reporter(_Troubles(), level="warning")
    try:
        yield reporter
    finally:
        reporter.close(_LAST_WORDS)


def tell_one(comparison: Comparison, *, json: bool) -> None:
    lines = [comparison.json().decode()] if json else comparison.lines()
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


@contextmanager
def shown(total: int, *, json: bool) -> Iterator[Callable[[Comparison], None]]:
    """What tells of one session; a bar on a terminal's standard error."""

    def tell(comparison: Comparison) -> None:
        tell_one(comparison, json=json)

    if not sys.stderr.isatty():
        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = "replaying", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    # Where both are one terminal, what is told must not run into the bar.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=total)

        def advance(comparison: Comparison) -> None:
            tell(comparison)
            progress.advance(task)

        yield advance


async def with_relay(between: Between, play: Callable[[], Awaitable[None]]) -> int:
    """Play, with the relay in between, unless a signal ends it: what is under way is given up then. The signal, or 0. Raises Failed where what is told cannot be written."""
    players = trio.CancelScope()
    stopped, over = 0, False

    async def obey(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal stopped
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if stopped or over:
                    between.cut_off()
                stopped = number
                players.cancel()

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(between.run)
            await nursery.start(obey)
            with players:
                await play()
            over = True
            await between.end()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if (unwritten := group.subgroup(Failed)) is None:
            raise
        raise _first(unwritten) from group
    return stopped


def _first(group: BaseExceptionGroup[Failed]) -> Failed:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def read_script(source: Callable[[], Session], id_: str | None, ehlo: str | None) -> Script:
    """Under that id, by a client that says that name. Raises ScriptError and StoreError."""
    script = replace(script_of(source()), id=id_)
    return script if ehlo is None else script.named(ehlo.encode("ascii"))


class Replays:
    """All of it, and what came of it. `stopped`: the signal that ended it, or 0."""

    def __init__(self, sources: Sequence[Source], pace: Pace, told: Callable[[Comparison], None]) -> None:
        self._queue = (source for _ in range(pace.loop) for source in sources)
        self._total = len(sources) * pace.loop
        self._pace = pace
        self._told = told
        self._begun = 0
        self._done = 0
        self._different = 0
        self._stopped = 0

    async def run(self, between: Between) -> None:
        """Play all of them, unless a signal ends it."""

        async def play_all() -> None:
            async with trio.open_nursery() as playing:
                for _ in range(min(self._pace.concurrency, self._total)):
                    playing.start_soon(self._play, between)

        self._stopped = await with_relay(between, play_all)

    async def _play(self, between: Between) -> None:
        """One after another, until there are none."""
        for id_, source in self._queue:
            self._begun += 1
            comparison = await self._one(between, id_, source)
            self._done += 1
            self._different += not comparison.same
            self._told(comparison)

    async def _one(self, between: Between, id_: str | None, source: Callable[[], Session]) -> Comparison:
        try:
            script = read_script(source, id_, self._pace.ehlo)
        except (ScriptError, StoreError) as error:
            return not_replayed(id_, str(error))
        stream = between.connect(script.client, script.listener)
        return compare(script, await play(script, stream, speed=self._pace.speed))

    def tell(self) -> int:
        """What came of it, for people; the exit status."""
        same = self._done - self._different
        say(
            f"relayproxy: {self._done} of {self._total} sessions replayed: {same} the same, {self._different} different"
        )
        if self._stopped:
            say(f"relayproxy: stopped; sessions that were under way: {self._begun - self._done}")
            return 128 + self._stopped
        return DIFFERENT if self._different else 0
