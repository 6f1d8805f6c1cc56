"""`relayproxy replay SELECT --to URL`: say recorded sessions again to a server, and compare every reply (DESIGN §4, §8).

Theory of operation: each session is made a script (replay/script.py) when its turn comes, and played (replay/player.py) to a relay in this process (replay/between.py), which has the
rules and the guard of the configuration and the target as its only upstream.

Invariants: nothing goes anywhere but to --to. Without a guard nothing is said at all where rules or a guard stood between one of the transactions and those whom its client named. A replay is not recorded, but where the guard or a rule keeps mail: the store is then what makes that true. Here stands what is asked for; playing
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

    from relayproxy.cli.config import Flags
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
    redirect_all: Annotated[str | None, Parameter(metavar="ADDRESS")] = None,
    allow: Annotated[list[str] | None, Parameter(negative="", metavar="PATTERN")] = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Send recorded sessions again, and compare every reply. Exit status 0: code and enhanced code of all were the same.

    What a client said is said again, as it was pipelined, but for AUTH and STARTTLS: TLS and credentials are the target's. On the way rules and guard of the configuration apply.
    Without a guard what did not go to whom its client named (it was redirected, held, discarded, or refused by rules or a guard) is not sent, nor anything else: --allow says whom mail may go to.

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
    redirect_all
        an address that all mail is sent to, but for that to whom --allow allows; without --allow to nobody else
    allow
        whom mail may go to at most, whatever the rules: an address, or a pattern such as *@example.test; again for another
    json
        a JSON line for each session
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store, rules, guard and upstreams; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import in_words, say
    from relayproxy.cli.config import Flags
    from relayproxy.cli.config_rules import guarded
    from relayproxy.cli.recordings import NOTHING, dialog_file, reading, selected
    from relayproxy.cli.replaying import Pace, Replays, reporting, shown

    pace = Pace(_speed(timing, speed), _count("--concurrency", concurrency), _count("--loop", loop), _name(ehlo))
    fork = None
    if until is not None or then is not None:
        from relayproxy.cli.fork import fork_of

        fork = fork_of(until, then, pace, json=json)
    named = selected(select)
    flags = Flags(
        rules=tuple(rules) if rules else None,
        redirect_all=redirect_all,
        allow=tuple(allow) if allow else None,
        store=store,
    )
    loaded, book, keeps = _between(to, pace, flags, config, new_message_id=new_message_id)
    whom = guarded(loaded)
    with ExitStack() as stack:
        if (file := dialog_file(named)) is not None:
            sources = _of_file(file)
        else:
            sources = _of_store(stack.enter_context(reading(store, config)), named, is_guarded=whom is not None)
        if not sources:
            raise Failed("nothing matched", NOTHING)
        playing = (
            fork(sources)
            if fork
            else Replays(sources, pace, stack.enter_context(shown(len(sources) * loop, json=json)))
        )
        say(f"relayproxy: {whom or 'no guard: mail goes to whom it was recorded for'}")
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
    to: str, pace: Pace, flags: Flags, config: Path | None, *, new_message_id: bool
) -> tuple[Config, Rulebook, bool]:
    """The configuration of the relay in between, its rules and guard, and whether they keep mail."""
    import msgspec

    from relayproxy.cli.config import ConfigError, load_with_rules
    from relayproxy.cli.config_rules import fitted
    from relayproxy.cli.rulebook import rulebook
    from relayproxy.cli.server import server
    from relayproxy.replay.between import aimed
    from relayproxy.replay.message_id import new_message_id as with_new_id
    from relayproxy.rules.load import RuleError
    from relayproxy.rules.ruleset import RuleSet

    whole, read = load_with_rules(config, flags)
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


def _of_store(reader: Reader, named: Named, *, is_guarded: bool) -> Sequence[Source]:
    """Of the sessions whose transactions are named no more is kept than their ids. Raises Failed."""
    from relayproxy.cli.recordings import session_ids, stored_dialog

    ids = session_ids(reader, named)
    if not is_guarded:
        _check_recipients(reader, ids)
    return [(id_, partial(stored_dialog, reader, id_)) for id_ in ids]


def _check_recipients(reader: Reader, ids: Sequence[str]) -> None:
    """What was kept from those whom its client named must not reach them now, since no guard is here to see to that. Raises Failed."""
    from relayproxy.replay.effects import went_as_named

    kept: list[tuple[str, list[str]]] = []
    for id_ in ids:
        records = [stored.record for stored in reader.of_session(id_)]
        named = [(record, [one.address for one in record.envelope.received.recipients]) for record in records]
        kept += [(record.transaction, addresses) for record, addresses in named if not went_as_named(record)]
        known = {address for _, addresses in named for address in addresses}
        if unknown := [address for address in _said_in(reader, id_) if address not in known]:
            kept.append((id_, unknown))  # refused before there was a transaction
    if not kept:
        return
    (first, addresses), more = kept[0], ""
    if len(addresses) > 1:
        more = f" and {len(addresses) - 1} more"
    raise Failed(
        "nothing was sent, for want of a guard: transactions that went to others than their clients had named, or were kept or refused on the way: "
        f"{len(kept)}; the first: {first}, for {addresses[0] if addresses else 'nobody'}{more}\n"
        "expected --allow, as '*@example.test' (or '*' where mail is to go to whom it was recorded for), RELAYPROXY_ALLOW, or a configuration with [guard]"
    )


def _said_in(reader: Reader, id_: str) -> list[str]:
    """Whom a session's client named, with or without a transaction."""
    from relayproxy.cli.recordings import stored_dialog
    from relayproxy.record.text import text
    from relayproxy.replay.script import ScriptError, script_of
    from relayproxy.smtp.commands import Rcpt

    try:
        steps = script_of(stored_dialog(reader, id_)).steps
    except ScriptError:
        return []  # it is not said again
    return [text(step.what.path.address) for step in steps if isinstance(step.what, Rcpt)]
