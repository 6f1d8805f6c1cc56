"""`relayproxy run`: from a configuration to a relay, and what signals mean to it.

SIGTERM and SIGINT: the orderly end (DESIGN §9); a second one cuts it short. Neither waits for ever for a disk: what hangs there is left behind, with status 1. SIGHUP: open the log's file anew, and read certificates, rules and guard again.
That it listens is told to programs by the relay, on the log (`listening`), to people on standard error, with where mail goes, and to the service manager.
What the relay does does not belong here.
"""

from __future__ import annotations

import gc
import os
import signal
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from relayproxy.cli import TLS, file_or_dash
from relayproxy.cli.notify import READY, STOPPING, notify

if TYPE_CHECKING:
    import trio

    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.service import Relay
    from relayproxy.relay.settings import Config, Listener


#: More than Linux lets anybody open unless told otherwise (fs.nr_open).
MOST_FILES: Final = 1 << 20
#: Seconds that threads have for what they do on a disk when nobody waits for sessions any more, but for who is in a hurry, ...
LAST_WORK: Final = 10.0
#: ... and those that they have in any case.
LAST_MOMENT: Final = 2.0


async def run(
    file: Path | None = None,
    /,
    *,
    listen: Annotated[list[str] | None, Parameter(negative="", metavar="ADDR")] = None,
    upstream: Annotated[str | None, Parameter(metavar="URL")] = None,
    rules: Annotated[list[str] | None, Parameter(negative="", metavar="PATH")] = None,
    redirect_all: Annotated[str | None, Parameter(metavar="ADDRESS")] = None,
    allow: Annotated[list[str] | None, Parameter(negative="", metavar="PATTERN")] = None,
    clients: Annotated[list[str] | None, Parameter(negative="", metavar="CIDR")] = None,
    store: Annotated[str | None, Parameter(metavar="URL")] = None,
    log: Annotated[str | None, Parameter(metavar="FILE|-", allow_leading_hyphen=True, validator=file_or_dash)] = None,
    log_format: Annotated[str | None, Parameter(metavar="json|text")] = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Relay mail, until SIGTERM.

    Without any argument it listens on 127.0.0.1:2525, offers STARTTLS with a certificate of its own authority (relayproxy ca export), and
    keeps what comes (capture:) in ./relayproxy.db, where list, show and export find it. Flags replace the environment
    (RELAYPROXY_LISTEN and so on, lists with commas), which replaces the file, which replaces defaults.

    Parameters
    ----------
    file
        the configuration; default: ./relayproxy.toml where there is one
    listen
        where clients connect: host:port, [v6]:port, unix:/path or fd:NAME; again for another
    upstream
        where the mail goes, of all listeners: smtp://host[:port], smtp+starttls://, smtps://, lmtp://,
        lmtp+unix:/path or capture:
    rules
        a file of rules, TOML or Python, or relayproxy:NAME for one that comes with relayproxy; again for another
    redirect_all
        an address that all mail is sent to, but for that to whom --allow allows; without --allow to nobody else
    allow
        whom mail may go to at most, whatever the rules: an address, or a pattern such as *@example.test; again for another
    clients
        who may connect to any listener: an address or a network; again for another
    store
        where everything is recorded: sqlite:PATH, postgresql://[USER@]HOST[:PORT]/DATABASE, or none; default: sqlite:relayproxy.db
    log
        where the records go: a file, or - for standard output
    log_format
        json or text; default: json, but text on a terminal
    config
        the configuration, likewise

    """
    from relayproxy.cli import one_config
    from relayproxy.cli.config import Flags, default_file, load_with_rules
    from relayproxy.cli.rulebook import rulebook

    flags = Flags(
        listen=tuple(listen) if listen else None,
        upstream=upstream,
        rules=tuple(rules) if rules else None,
        redirect_all=redirect_all,
        allow=tuple(allow) if allow else None,
        clients=tuple(clients) if clients else None,
        store=store,
        log=log,
        log_format=log_format,
    )
    path = one_config(file, config) or default_file()
    loaded, read = load_with_rules(path, flags)
    umask = os.umask(0o077)  # captures and logs hold other people's mail
    try:
        return await _run(loaded, path, rulebook(loaded, read, path, flags))
    finally:
        os.umask(umask)


async def _run(loaded: Config, path: Path | None, book: Rulebook) -> int:
    """Relay, with a log; the exit status."""
    from relayproxy.cli import Failed
    from relayproxy.cli.logged import logged
    from relayproxy.cli.places import unwritable

    if (what := next(unwritable(loaded), None)) is not None:
        raise Failed(what)
    with ExitStack() as opened:
        log = opened.enter_context(logged(loaded, refuses=loaded.record.store is None))
        served, recorder = await _serve(loaded, path, book, log.reporter, opened)
    return 0 if served and log.told and (recorder is None or recorder.complete) else 1


async def _serve(
    config: Config, path: Path | None, book: Rulebook, reporter: Reporter, opened: ExitStack
) -> tuple[bool, Recorder | None]:
    """Run a relay until it is told to end and has ended; whether all went well, and what recorded it, which `opened` closes.

    Raises OSError, StoreError and TlsConfigError where it cannot begin, and only then.
    """
    from relayproxy.cli import Failed
    from relayproxy.cli.recording import recording
    from relayproxy.net.descriptors import make_room
    from relayproxy.record.state import unusable

    make_room(MOST_FILES)  # the usual limit is a thousand, for select(), which nobody uses here
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # the store may be there
    except OSError as error:
        raise Failed(unusable(config.state, error)) from error
    recorder = opened.enter_context(recording(config, reporter))
    return await _relay(config, path, book, reporter, recorder, opened), recorder


async def _relay(
    config: Config, path: Path | None, book: Rulebook, reporter: Reporter, recorder: Recorder | None, opened: ExitStack
) -> bool:
    """Relay into what was opened; whether all went well. Raises OSError and TlsConfigError where it cannot begin, and only then."""
    import trio

    from relayproxy.cli import say
    from relayproxy.net.dial import dial
    from relayproxy.net.poller import Poller
    from relayproxy.relay.service import Relay

    poller = Poller()
    relay = Relay(
        config,
        reporter,
        dial=partial(dial, adopt=poller.adopt),
        adopt=poller.adopt,
        recorder=recorder,
        rulebook=book,
    )
    relay.bind()
    _say_where(relay, config, path)
    for warning in relay.warnings():
        say(f"relayproxy: warning: {warning}")
    # All that was made so far stays until the end: it need not be looked at in each collection. What sessions make hardly ever refers to itself, so
    # that there is little to find; with Python's own threshold, looking for it costs a busy relay a twentieth of its time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    async with trio.open_nursery() as nursery:
        await nursery.start(poller.run)
        hurry = trio.Event()
        await nursery.start(_obey, relay, reporter, config.drain, nursery, hurry)
        nursery.start_soon(_end_all_the_same, relay, hurry, opened)
        notify(READY)
        served = await relay.serve()
        nursery.cancel_scope.cancel()
    return served


def _say_where(relay: Relay, config: Config, path: Path | None) -> None:
    """What whoever started it wants to see: which file was read, and where mail comes from and goes to."""
    from relayproxy.cli import say
    from relayproxy.cli.config_rules import guarded
    from relayproxy.rules.allow_patterns import doubt

    say("relayproxy: no configuration file" if path is None else f"relayproxy: configuration: {path.absolute()}")
    for listener, address in relay.bound:
        say(f"relayproxy: listening on {address} ({listener.name}, {TLS[listener.tls]}): {_whither(config, listener)}")
    if config.rules.files:
        say(f"relayproxy: rules: {', '.join(map(str, config.rules.files))}")
    if config.guard is not None and (whom := guarded(config)) is not None:
        say(f"relayproxy: {whom}")
        for entry in config.guard.allow:
            if (what := doubt(entry)) is not None:
                say(f"relayproxy: warning: guard: {entry} {what}")


def _whither(config: Config, listener: Listener) -> str:
    """Where mail goes that comes in there."""
    name = config.upstream_of(listener)
    urls = config.upstream[name].url
    if urls[0].kind == "capture":
        return f"mail is kept in {config.record.store}"
    return f"mail goes to {name} ({', else '.join(map(str, urls))})"


async def _end_all_the_same(relay: Relay, hurry: trio.Event, opened: ExitStack) -> None:
    """A thread that waits for a disk ends nowhere but there, and until then neither would we: with what was opened closed as far as it can be."""
    import trio

    from relayproxy.cli import say

    await relay.given_up.wait()
    with trio.move_on_after(LAST_WORK):
        await hurry.wait()
    await trio.sleep(LAST_MOMENT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # who says it again need not wait for what comes now, either
    say(
        f"relayproxy: ending all the same; sessions that wait for a disk, and are not told to their end: {relay.open_sessions}"
    )
    opened.close()
    os._exit(1)


async def _obey(
    relay: Relay,
    reporter: Reporter,
    drain: float,
    nursery: trio.Nursery,
    hurry: trio.Event,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Do what signals say; what takes its time in the `nursery`. `hurry`: set by the second that says to end."""
    import trio

    from relayproxy.cli import hung_up, say

    ending = False
    ask, asked = trio.open_memory_channel[None](1)

    async def reload() -> None:
        async for _ in asked:
            await relay.reload()

    def renew() -> None:
        reporter.reopen()
        with suppress(trio.WouldBlock):  # one is to come that reads all that is new
            ask.send_nowait(None)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        nursery.start_soon(reload)  # Python files may do anything while they are read: no other signal waits for that
        if hung_up():
            renew()
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                renew()
                continue
            if ending:
                say("relayproxy: ending at once")
                hurry.set()
            else:
                say(f"relayproxy: ending; open sessions: {relay.open_sessions}, transactions may go on for {drain:g} s")
            ending = True
            notify(STOPPING)
            relay.shut_down()
