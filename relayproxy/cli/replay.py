"""`relayproxy replay SELECT --to URL`: say recorded sessions again to a server, and compare every reply (DESIGN §4, §8).

Theory of operation: each session is made a script (replay/script.py) when its turn comes, and played (replay/player.py) to a relay in this process (replay/between.py), which has the
rules and the guard of the configuration and the target as its only upstream. What is different is told as soon as a session is over.

Invariants: no more sessions at once than --concurrency says; nothing goes anywhere but to --to. A replay is not recorded, but where the guard or a rule keeps mail: the store is then
what makes that true. Playing and comparing do not belong here (replay/).
"""

from __future__ import annotations

import json as json_
import math
import os
import signal
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from cyclopts import Parameter

from relayproxy.cli import Failed
from relayproxy.cli.recordings import StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import trio

    from relayproxy.cli.recordings import Named
    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.record.dialog import Session
    from relayproxy.record.log import Reporter
    from relayproxy.record.store.interface import Reader
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.settings import Config
    from relayproxy.replay.between import Between
    from relayproxy.replay.compare import Comparison

    #: Gives a session when its turn comes; its id.
    Source = tuple[str | None, Callable[[], Session]]

#: The exit status where something was different.
DIFFERENT: Final = 1
#: Troubles of the relay in between that are told, each once.
_MOST_TROUBLES: Final = 20
#: Seconds that what tells them has to end.
_LAST_WORDS: Final = 5.0


class _Manner(NamedTuple):
    """How sessions are played. `speed`: None without their pauses; `ehlo`: None: the name that the client said."""

    speed: float | None
    concurrency: int
    loop: int
    ehlo: str | None


async def replay(
    select: Annotated[str, Parameter(show_default=False)],
    /,
    *,
    to: Annotated[str, Parameter(metavar="URL|UPSTREAM")],
    timing: Annotated[Literal["recorded", "fast"] | None, Parameter(show_default=False)] = None,
    speed: Annotated[float | None, Parameter(metavar="FACTOR")] = None,
    concurrency: Annotated[int, Parameter(metavar="N")] = 1,
    loop: Annotated[int, Parameter(metavar="N")] = 1,
    ehlo: Annotated[str | None, Parameter(metavar="NAME")] = None,
    new_message_id: Annotated[bool, Parameter(negative="")] = False,
    rules: Annotated[list[str] | None, Parameter(negative="", metavar="PATH")] = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Send recorded sessions again, and compare every reply. Exit status 0: code and enhanced code of all were the same.

    What a client said is said again, as it was pipelined, but for AUTH and STARTTLS: TLS and credentials are the target's. On the way rules and guard of the configuration apply.

    Parameters
    ----------
    select
        which sessions: those of a transaction's id or the beginning of one, of latest, of an expression such as 'outcome:accepted & since:1h'; or a .dialog file
    to
        the server: smtp://host[:port], smtp+starttls://, smtps:// or lmtp://; or the name of an upstream of the configuration, with its TLS and credentials
    timing
        recorded: with the pauses that the client made; fast, the default: without
    speed
        with those pauses, so many times as fast
    concurrency
        how many sessions at once
    loop
        how many times all of them
    ehlo
        the client's name, to rules and to the server; default: the recorded one to rules, and the configuration's hostname to the server, as a relay has it
    new_message_id
        give each message a Message-ID of its own
    rules
        a file of rules, or relayproxy:NAME, in place of those of the configuration; again for another
    json
        a JSON line for each session
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store, rules, guard and upstreams; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import in_words
    from relayproxy.cli.recordings import NOTHING, dialog_file, reading, selected

    manner = _Manner(_speed(timing, speed), _count("--concurrency", concurrency), _count("--loop", loop), _name(ehlo))
    named = selected(select)
    loaded, book, keeps = _between(to, manner, rules, store, config, new_message_id=new_message_id)
    with ExitStack() as stack:
        if (file := dialog_file(named)) is not None:
            sources = _of_file(file)
        else:
            sources = _of_store(stack.enter_context(reading(store, config)), named)
        if not sources:
            raise Failed("nothing matched", NOTHING)
        replays = _Replays(sources, manner, stack.enter_context(_shown(len(sources) * loop, json=json)))
        reporter = stack.enter_context(_reporting())
        stack.enter_context(in_words())
        recorder = None
        if keeps:
            from relayproxy.cli.recording import recording

            stack.callback(os.umask, os.umask(0o077))  # it holds other people's mail
            recorder = stack.enter_context(recording(loaded, reporter))
        from relayproxy.replay.between import Between

        await replays.run(Between(loaded, book, reporter, recorder))
    return replays.tell()


# What was asked for.


def _speed(timing: str | None, speed: float | None) -> float | None:
    if speed is not None and not (math.isfinite(speed) and speed > 0):
        raise Failed(f"--speed: expected a number greater than 0, such as 2 or 0.5, got {speed:g}")
    if speed is not None and timing == "fast":
        raise Failed("expected --speed with --timing recorded, got it with fast, which makes no pauses")
    return speed if timing is None or speed is not None else {"recorded": 1.0}.get(timing)


def _count(flag: str, number: int) -> int:
    if number < 1:
        raise Failed(f"{flag}: expected a number of at least 1, got {number}")
    return number


def _name(ehlo: str | None) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from relayproxy.relay.values import Hostname

    try:
        return None if ehlo is None else TypeAdapter(Hostname).validate_python(ehlo)
    except ValidationError as error:
        raise Failed(
            f'--ehlo: expected a host name such as "app.example.test", or an address such as "[192.0.2.1]", got {ehlo!r}'
        ) from error


def _between(
    to: str, manner: _Manner, rules: list[str] | None, store: str | None, config: Path | None, *, new_message_id: bool
) -> tuple[Config, Rulebook, bool]:
    """The configuration of the relay in between, its rules and guard, and whether they keep mail."""
    import msgspec

    from relayproxy.cli.config import ConfigError, Flags, load_with_rules
    from relayproxy.cli.config_rules import fitted
    from relayproxy.cli.rulebook import rulebook
    from relayproxy.replay.between import aimed
    from relayproxy.replay.message_id import new_message_id as with_new_id
    from relayproxy.rules.load import RuleError
    from relayproxy.rules.ruleset import RuleSet

    whole, read = load_with_rules(config, Flags(rules=tuple(rules) if rules else None, store=store))
    loaded = aimed(whole, _target(to, whole), manner.concurrency, manner.ehlo)
    try:
        read = fitted(read, loaded)  # again, since no rule may route elsewhere
    except RuleError as error:
        raise ConfigError(error.lines) from error
    if new_message_id:
        read = msgspec.structs.replace(read, rules=RuleSet((with_new_id(loaded.hostname), *read.rules.rules)))
    book = rulebook(loaded, read)
    return loaded, book, book.captures or book.rules.may_hold


def _target(to: str, config: Config) -> str | UpstreamUrl:
    """The name of an upstream, or a url."""
    from relayproxy.net.dial import UpstreamUrl

    if to in config.upstream:
        if config.upstream[to].captures:
            raise Failed(f"--to: expected a server, got {to}, which is capture:")
        return to
    try:
        url = UpstreamUrl.parse(to)
    except ValueError as error:
        known = ", ".join(sorted(config.upstream))
        raise Failed(f"--to: {error}; or the name of an upstream of the configuration ({known})") from error
    if url.kind == "capture":
        raise Failed("--to: expected a server, got capture:")
    return url


def _of_file(file: Path) -> Sequence[Source]:
    from relayproxy.cli.recordings import parsed

    return [(session.id or file.name, partial(_itself, session)) for session in parsed(file)]


def _itself(session: Session) -> Session:
    return session


def _of_store(reader: Reader, named: Named) -> Sequence[Source]:
    """Of the sessions whose transactions are named no more is kept than their ids."""
    from relayproxy.cli.recordings import session_ids

    return [(id_, partial(_read, reader, id_)) for id_ in session_ids(reader, named)]


def _read(reader: Reader, id_: str) -> Session:
    from relayproxy.record.playback import dialog_of
    from relayproxy.replay.script import ScriptError

    session = reader.session(id_)
    if session is None:
        raise ScriptError("nothing is kept of what was said on the wire")
    return dialog_of(session, reader.of_session(id_), reader)


# What is told.


class _Troubles:
    """A log of which troubles alone are told, each once, on standard error (a Target of record/sink.py: its thread calls)."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def write(self, data: bytes, /) -> int:
        from relayproxy.cli import say

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
def _reporting() -> Iterator[Reporter]:
    from relayproxy.record.log import Reporter

    reporter = Reporter(_Troubles(), level="warning")
    try:
        yield reporter
    finally:
        reporter.close(_LAST_WORDS)


@contextmanager
def _shown(total: int, *, json: bool) -> Iterator[Callable[[Comparison], None]]:
    """What tells of one session; a bar on a terminal's standard error."""

    def tell(comparison: Comparison) -> None:
        lines = [comparison.json().decode()] if json else comparison.lines()
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

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


class _Replays:
    """All of it, and what came of it. `stopped`: the signal that ended it, or 0."""

    def __init__(self, sources: Sequence[Source], manner: _Manner, told: Callable[[Comparison], None]) -> None:
        self._queue = (source for _ in range(manner.loop) for source in sources)
        self._total = len(sources) * manner.loop
        self._manner = manner
        self._told = told
        self._begun = 0
        self._done = 0
        self._different = 0
        self._stopped = 0

    async def run(self, between: Between) -> None:
        """Play all of them, unless a signal ends it: what is under way is given up then, truthfully."""
        import trio

        players = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            await nursery.start(between.run)
            await nursery.start(self._obey, players, between)
            with players:
                async with trio.open_nursery() as playing:
                    for _ in range(min(self._manner.concurrency, self._total)):
                        playing.start_soon(self._play, between)
            await between.end()
            nursery.cancel_scope.cancel()

    async def _obey(self, players: trio.CancelScope, between: Between, *, task_status: trio.TaskStatus[None]) -> None:
        import trio

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if self._stopped or self._done == self._total:
                    between.cut_off()
                self._stopped = number
                players.cancel()

    async def _play(self, between: Between) -> None:
        """One after another, until there are none."""
        for id_, source in self._queue:
            self._begun += 1
            comparison = await self._one(between, id_, source)
            self._done += 1
            self._different += not comparison.same
            self._told(comparison)

    async def _one(self, between: Between, id_: str | None, source: Callable[[], Session]) -> Comparison:
        from relayproxy.record.store.interface import StoreError
        from relayproxy.replay.compare import compare, not_replayed
        from relayproxy.replay.player import play
        from relayproxy.replay.script import ScriptError, script_of

        try:
            script = replace(script_of(source()), id=id_)
        except (ScriptError, StoreError) as error:
            return not_replayed(id_, str(error))
        if self._manner.ehlo is not None:
            script = script.named(self._manner.ehlo.encode("ascii"))
        stream = between.connect(script.client, script.listener)
        return compare(script, await play(script, stream, speed=self._manner.speed))

    def tell(self) -> int:
        """What came of it, for people; the exit status."""
        from relayproxy.cli import say

        same = self._done - self._different
        say(
            f"relayproxy: {self._done} of {self._total} sessions replayed: {same} the same, {self._different} different"
        )
        if self._stopped:
            say(f"relayproxy: stopped; sessions that were under way: {self._begun - self._done}")
            return 128 + self._stopped
        return DIFFERENT if self._different else 0
