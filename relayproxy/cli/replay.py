"""`relayproxy replay SELECT --to URL`: say recorded sessions again to a server, and compare every reply (DESIGN §4, §8).

Theory of operation: each session is made a script (replay/script.py) when its turn comes, and played (replay/player.py) to a relay in this process (replay/between.py), which has the
rules and the guard of the configuration and the target as its only upstream.

Invariants: nothing goes anywhere but to --to. A replay is not recorded, but where the guard or a rule keeps mail: the store is then what makes that true. Here stands what is asked for; playing
does not belong here (replaying.py, and up to a command fork.py), nor comparing (replay/).
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from relayproxy.cli import Failed
from relayproxy.cli.recordings import StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.cli.recordings import Named
    from relayproxy.cli.replaying import Pace, Source
    from relayproxy.record.dialog import Session
    from relayproxy.record.store.interface import Reader
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.settings import Config


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
    until: Annotated[int | None, Parameter(metavar="N")] = None,
    then: Annotated[str | None, Parameter(metavar="interactive|FILE")] = None,
    new_message_id: Annotated[bool, Parameter(negative="")] = False,
    rules: Annotated[list[str] | None, Parameter(negative="", metavar="PATH")] = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Send recorded sessions again, and compare every reply. Exit status 0: code and enhanced code of all were the same.

    What a client said is said again, as it was pipelined, but for AUTH and STARTTLS: TLS and credentials are the target's. On the way rules and guard of the configuration apply.

    With --until and --then one session is played up to a command, and then it is yours: what you type is said, a line each, but for EHLO, RSET without a MAIL, and what is no command,
    which the relay in between answers; behind DATA it is the message, up to a line that is a dot alone (other dots are doubled for you). Ctrl-D ends with QUIT, or, in the middle of a message, without sending it.

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
    until
        the number of the command, 0 for the connection alone; each message counts as one; a number that there is not lists them
    then
        interactive: your terminal, or what is piped in, goes on; or a .dialog file, whose first session's C> lines are said next, and its C< lines compared
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
    from relayproxy.cli.replaying import Pace, Replays, reporting, shown

    pace = Pace(_speed(timing, speed), _count("--concurrency", concurrency), _count("--loop", loop), _name(ehlo))
    fork = None
    if until is not None or then is not None:
        from relayproxy.cli.fork import fork_of

        fork = fork_of(until, then, pace, json=json)
    named = selected(select)
    loaded, book, keeps = _between(to, pace, rules, store, config, new_message_id=new_message_id)
    with ExitStack() as stack:
        if (file := dialog_file(named)) is not None:
            sources = _of_file(file)
        else:
            sources = _of_store(stack.enter_context(reading(store, config)), named)
        if not sources:
            raise Failed("nothing matched", NOTHING)
        playing = (
            fork(sources)
            if fork
            else Replays(sources, pace, stack.enter_context(shown(len(sources) * loop, json=json)))
        )
        reporter = stack.enter_context(reporting())
        stack.enter_context(in_words())
        recorder = None
        if keeps:
            from relayproxy.cli.recording import recording

            stack.callback(os.umask, os.umask(0o077))  # it holds other people's mail
            recorder = stack.enter_context(recording(loaded, reporter))
        from relayproxy.replay.between import Between

        await playing.run(Between(loaded, book, reporter, recorder))
    return playing.tell()


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
    to: str, pace: Pace, rules: list[str] | None, store: str | None, config: Path | None, *, new_message_id: bool
) -> tuple[Config, Rulebook, bool]:
    """The configuration of the relay in between, its rules and guard, and whether they keep mail."""
    import msgspec

    from relayproxy.cli.config import ConfigError, Flags, load_with_rules
    from relayproxy.cli.config_rules import fitted
    from relayproxy.cli.rulebook import rulebook
    from relayproxy.cli.server import server
    from relayproxy.replay.between import aimed
    from relayproxy.replay.message_id import new_message_id as with_new_id
    from relayproxy.rules.load import RuleError
    from relayproxy.rules.ruleset import RuleSet

    whole, read = load_with_rules(config, Flags(rules=tuple(rules) if rules else None, store=store))
    loaded = aimed(whole, server("--to", to, whole), pace.concurrency, pace.ehlo)
    try:
        read = fitted(read, loaded)  # again, since no rule may route elsewhere
    except RuleError as error:
        raise ConfigError(error.lines) from error
    if new_message_id:
        read = msgspec.structs.replace(read, rules=RuleSet((with_new_id(loaded.hostname), *read.rules.rules)))
    book = rulebook(loaded, read)
    return loaded, book, book.captures or book.rules.may_hold


def _of_file(file: Path) -> Sequence[Source]:
    from relayproxy.cli.recordings import parsed

    return [(session.id or file.name, partial(_itself, session)) for session in parsed(file)]


def _itself(session: Session) -> Session:
    return session


def _of_store(reader: Reader, named: Named) -> Sequence[Source]:
    """Of the sessions whose transactions are named no more is kept than their ids."""
    from relayproxy.cli.recordings import session_ids, stored_dialog

    return [(id_, partial(stored_dialog, reader, id_)) for id_ in session_ids(reader, named)]
