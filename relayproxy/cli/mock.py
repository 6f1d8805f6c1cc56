"""`relayproxy mock SELECT`: be the recorded server (DESIGN §4, §8), until a signal, or until all of it was played or something else came.

Theory of operation: what SELECT names is read whole before anything listens, without its mail; then a relay of this process, whose upstream is the recording, is the server
(replay/mocked.py). What a .dialog file does not have may be asked of a real server and recorded (cassettes.py).
Invariants: with --mode none nothing is ever connected to, nor with once where the file is there; what is unexpected is told when it comes. A mock's sessions are not recorded in the store.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from relayproxy.cli import TLS, Failed, file_or_dash, say
from relayproxy.cli.recordings import StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio

    from relayproxy.cli.cassettes import Mode, Recordings
    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.relay.settings import Config, Upstream
    from relayproxy.replay.cassette import Cassette, Unexpected
    from relayproxy.replay.login import Credentials
    from relayproxy.replay.mocked import Mocked
    from relayproxy.replay.stand_in import Manner

#: The exit status where something was not as it is recorded.
DIFFERENT: Final = 1
#: Recordings that were not used, of which it is told.
_TOLD: Final = 20


async def mock(
    select: Annotated[str, Parameter(show_default=False)],
    /,
    *,
    listen: Annotated[list[str] | None, Parameter(negative="", metavar="ADDR")] = None,
    tls: Annotated[Literal["off", "starttls", "implicit"] | None, Parameter(show_default=False)] = None,
    clients: Annotated[list[str] | None, Parameter(negative="", metavar="CIDR")] = None,
    strict: Annotated[bool, Parameter(negative="")] = False,
    lenient: Annotated[bool, Parameter(negative="")] = False,
    repeats: Annotated[bool, Parameter(negative="")] = False,
    latency: Annotated[bool, Parameter(negative="")] = False,
    until_used: Annotated[bool, Parameter(negative="")] = False,
    user: Annotated[str | None, Parameter(metavar="NAME")] = None,
    password_file: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    mode: Literal["none", "once", "new_episodes", "all"] = "none",
    upstream: Annotated[str | None, Parameter(metavar="URL|UPSTREAM")] = None,
    log: Annotated[str | None, Parameter(metavar="FILE|-", allow_leading_hyphen=True, validator=file_or_dash)] = None,
    log_format: Annotated[str | None, Parameter(metavar="json|text")] = None,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Be the recorded server, until SIGTERM. Exit status 0: nothing came that is not in the recording.

    What a client says is answered as it was, matched by command and envelope: each recorded transaction answers one with the same sender and recipients, in the order in which they were
    recorded, so that what was refused and then accepted is so again. What is not recorded is refused with 554, and told. STARTTLS and AUTH are there if they were.

    Parameters
    ----------
    select
        which sessions: those of a transaction's id or the beginning of one, of latest, of an expression such as 'listener:submission & since:1h'; or a .dialog file
    listen
        where clients connect: host:port, [v6]:port or unix:/path; again for another; default: 127.0.0.1:2525
    tls
        starttls with a certificate of relayproxy's own authority (relayproxy ca export) or the configuration's, implicit or off; default: starttls where the recorded server offered it, else off
    clients
        who may connect, where that is not loopback: an address or a network; again for another
    strict
        what is recorded and does not come is a failure too
    lenient
        what is not recorded is accepted, with 250, and is no failure; default: it is refused with 554, and the exit status is 1
    repeats
        when all that is recorded of a kind was played, the last of it answers again
    latency
        replies take as long as they did, but 5 minutes at most
    until_used
        end when all that is recorded was played, or something came that is not and was refused, and clients have left
    user
        nobody may send mail who does not log in under this name; default: any credentials are right, and are answered as they were
    password_file
        a file of one line, with the password of --user
    mode
        what becomes of what a .dialog file does not have: none: it is refused; once: likewise, but a file that is not there yet is recorded; new_episodes: --upstream is asked, and it is recorded; all: nothing is played, and all is recorded anew
    upstream
        the real server of those modes: smtp://host[:port], smtp+starttls://, smtps:// or lmtp://; or the name of an upstream of the configuration, with its TLS and credentials
    log
        where the records go: a file, or - for standard output
    log_format
        json or text; default: json, but text on a terminal
    store
        where recordings are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store, certificates, upstreams, guard and log; default: ./relayproxy.toml where there is one

    """
    from relayproxy.replay.mocked import Front, mocking
    from relayproxy.replay.stand_in import Manner

    _check(strict=strict, lenient=lenient, mode=mode, upstream=upstream)
    manner = Manner(latency=latency, credentials=_credentials(user, password_file))
    whole, behind = _configured(mode, upstream, log, log_format, store, config)
    tape = _recordings(select, mode, store, config)
    if until_used and tape.records:
        raise Failed(f"expected --until-used with a recording that is played alone, and {select} is recorded")
    if not (tape.sessions or tape.records):
        raise Failed(f"{select}: there is no session in it to be played")
    cassette = tape.cassette(lenient=lenient, repeats=repeats, tell=_tell)
    front = Front(listen or ["127.0.0.1:2525"], tls, clients)
    with _of_flags():
        loaded = mocking(whole, cassette, front, behind)
    _check_clients(loaded)
    umask = os.umask(0o077)  # the log and what is recorded hold other people's mail
    try:
        served = await _run(loaded, tape, cassette, manner, until_used=until_used)
    finally:
        os.umask(umask)
    _sum_up(cassette, tape)
    if cassette.failed(strict=strict) and (advice := tape.advice) is not None:
        say(f"relayproxy: {advice}")
    return DIFFERENT if not served or tape.left_out or cassette.failed(strict=strict) else 0


# What was asked for.


def _check(*, strict: bool, lenient: bool, mode: str, upstream: str | None) -> None:
    if strict and lenient:
        raise Failed("expected --strict or --lenient, got both")
    if lenient and mode != "none":
        raise Failed(f"expected --lenient with --mode none, got it with {mode}")
    if upstream is not None and mode == "none":
        raise Failed("expected --upstream with --mode once, new_episodes or all, got it with none, which asks nobody")


def _credentials(user: str | None, password_file: Path | None) -> Credentials | None:
    from relayproxy.relay.credentials import LoginFailed, secret_of
    from relayproxy.replay.login import Credentials

    if user is None and password_file is None:
        return None
    if user is None or password_file is None:
        raise Failed("expected --user and --password-file, got one of them")
    try:
        return Credentials(user.encode("utf-8", "surrogateescape"), secret_of(password_file).encode())
    except LoginFailed as error:
        raise Failed(f"--password-file: {error.what}") from error


def _configured(
    mode: str, upstream: str | None, log: str | None, log_format: str | None, store: str | None, config: Path | None
) -> tuple[Config, tuple[str, Upstream] | None]:
    """The configuration, and the real server with its name."""
    from relayproxy.cli.config import Flags, load
    from relayproxy.cli.server import server
    from relayproxy.relay.settings import Upstream
    from relayproxy.replay.between import TARGET

    loaded = load(config, Flags(store=store, log=log, log_format=log_format))
    if mode == "none":
        return loaded, None
    if upstream is None:
        known = [name for name, one in loaded.upstream.items() if not one.captures]
        if len(known) != 1:
            raise Failed(f"expected --upstream with --mode {mode}: the server that is recorded")
        upstream = known[0]
    found = server("--upstream", upstream, loaded)
    urls = loaded.upstream[found].url if isinstance(found, str) else (found,)
    if mode == "new_episodes" and any(url.kind == "lmtp" for url in urls):
        # Where a session goes on there, more recipients may have been taken than LMTP has one answer for.
        raise Failed(f"--upstream: expected an SMTP server with --mode new_episodes, got {upstream}")
    if isinstance(found, str):
        return loaded, (found, loaded.upstream[found])
    return loaded, (TARGET, Upstream.model_validate({"url": str(found)}))


@contextmanager
def _of_flags() -> Iterator[None]:
    """Nobody could listen so: Failed."""
    from pydantic import ValidationError

    from relayproxy.cli.config_errors import expected
    from relayproxy.relay.settings import Listener

    try:
        yield
    except ValidationError as error:
        (wrong, *_) = error.errors(include_url=False)
        flag = "--clients" if wrong["loc"][:1] == ("clients",) else "--listen"
        raise Failed(f"{flag}: {expected(Listener, wrong)}") from error


def _check_clients(config: Config) -> None:
    """An open server is never an oversight. Raises Failed."""
    for listener in config.listener:
        if listener.clients is None and not listener.address.is_loopback:
            raise Failed(
                f"--listen: expected --clients beside it (who may connect), as {listener.address} is not loopback"
            )


def _recordings(select: str, mode: Mode, store: str | None, config: Path | None) -> Recordings:
    from relayproxy.cli.cassettes import CassetteFile, recordings
    from relayproxy.cli.recordings import dialog_file, reading, selected

    named = selected(select)
    if (file := dialog_file(named)) is not None:
        return CassetteFile(file, mode)
    if mode != "none":
        raise Failed(f"expected a .dialog file with --mode {mode}, got {select}")
    with reading(store, config) as reader:
        return recordings(reader, named)


# The server.


async def _run(config: Config, tape: Recordings, cassette: Cassette, manner: Manner, *, until_used: bool) -> bool:
    """Be it until the end; False: it did not serve to its end, could not tell of it, or could not ask the real server."""
    from relayproxy.cli.logged import logged

    with logged(config, refuses=not tape.records) as log:
        served = await _serve(config, tape, cassette, log.reporter, manner, until_used=until_used)
    return served and log.told


async def _serve(
    config: Config,
    tape: Recordings,
    cassette: Cassette,
    reporter: Reporter,
    manner: Manner,
    *,
    until_used: bool,
) -> bool:
    """Raises OSError, StoreError, TlsConfigError and Failed."""
    import trio

    from relayproxy.replay.mocked import Mocked

    served = False

    def make(recorder: Recorder | None) -> Mocked:
        return Mocked(config, cassette, reporter, manner=manner, recorder=recorder, tell=_tell_of_server)

    with tape.serving(config, reporter, make) as mocked:
        for listener, address in mocked.bind():
            say(f"relayproxy: listening on {address} ({listener.name}, {TLS[listener.tls]}): {_what(cassette)}")
        for warning in mocked.warnings():
            say(f"relayproxy: warning: {warning}")
        async with trio.open_nursery() as nursery:
            await nursery.start(_obey, mocked)
            if until_used:
                nursery.start_soon(_end_when_over, mocked)
            served = await mocked.run()
            nursery.cancel_scope.cancel()
    return served and not mocked.troubles


async def _obey(mocked: Mocked, *, task_status: trio.TaskStatus[None]) -> None:
    """SIGTERM and SIGINT, and that the terminal was closed: the orderly end, at which what was recorded is written; a second one cuts it short."""
    import trio

    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *hangup) as signals:
        task_status.started()
        async for _ in signals:
            mocked.shut_down()


async def _end_when_over(mocked: Mocked) -> None:
    await mocked.over()
    mocked.shut_down()


# What is told.


def _what(cassette: Cassette) -> str:
    transactions = sum(len(session.transactions) for session in cassette.sessions)
    if not cassette.sessions:
        return "nothing is recorded yet"
    return f"{_count(len(cassette.sessions), 'session')} with {_count(transactions, 'transaction')} to be played"


def _tell(unexpected: Unexpected) -> None:
    for line in unexpected.lines():
        say(f"relayproxy: {line}")


def _tell_of_server(trouble: str) -> None:
    say(f"relayproxy: the real server was not to be had: {trouble}")


def _sum_up(cassette: Cassette, tape: Recordings) -> None:
    unused = [*cassette.unused]
    for line in unused[:_TOLD]:
        say(f"relayproxy: unused: {line}")
    if len(unused) > _TOLD:
        say(f"relayproxy: unused: {len(unused) - _TOLD} more")
    for line in tape.left_out[:_TOLD]:
        say(f"relayproxy: not recorded: {line}")
    if tape.unwritten is not None:
        say(f"relayproxy: {tape.unwritten}")
    played = f"{_count(cassette.played_sessions, 'session')}, {_count(cassette.played_transactions, 'transaction')}"
    recorded = f"; recorded: {_count(tape.recorded, 'session')}" if tape.records else ""
    say(f"relayproxy: played: {played}; unexpected: {cassette.count_unexpected}; unused: {len(unused)}{recorded}")


def _count(number: int, one: str) -> str:
    return f"{number} {one}{'' if number == 1 else 's'}"
