"""The store of a running relay: opened before anything listens, written to its end when all else has ended.

What is recorded does not belong here (record/recorder.py), nor how it is kept (record/store/).
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.cli import say
from relayproxy.record.recorder import Policy, Recorder
from relayproxy.record.store.interface import Keep, RecordError, StoreAwayError
from relayproxy.record.store.opening import store_at
from relayproxy.record.store.spool import Spool
from relayproxy.record.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.record.log import Reporter
    from relayproxy.record.store.writer import Fails
    from relayproxy.relay.settings import Config, Record

#: Seconds that the store has to write what waits when everything else has ended.
LAST_WRITES: Final = 10.0


def policy(record: Record) -> Policy:
    """What is written when."""
    return Policy(record.commit == "before-dot", record.on_failure == "refuse", record.messages, record.privacy)


@contextmanager
def recording(config: Config, reporter: Reporter) -> Iterator[Recorder | None]:
    """What records, as long as the relay runs; None where nothing is to be recorded. What cannot be reached yet is waited for meanwhile. Raises StoreError."""
    record = config.record
    if record.store is None:
        yield None
        return
    store = store_at(record.store, config.state / "waiting")
    opened = partial(store.backend, sync=record.sync, keep=Keep(record.keep.age, record.keep.bytes))
    away = None
    try:
        backend = opened()
    except StoreAwayError as error:  # as if it went away later: a relay must not be down for that
        backend, away = opened(later=True), RecordError(str(error), full=error.full)
    loop = trio.lowlevel.current_trio_token()
    alarm = partial(_tell, loop, reporter, refused=record.on_failure == "refuse")
    writer = Writer(backend, alarm=alarm, trouble=away)
    recorder = Recorder(writer, policy(record), partial(Spool, store.bodies, config.limits.spool_memory))
    try:
        yield recorder
    finally:
        # Nothing else runs any more, so that it may block.
        recorder.complete = writer.close(LAST_WRITES) and not writer.dropped
        if not recorder.complete:
            say("relayproxy: the store could not be written to its end")
        if writer.dropped:
            say(f"relayproxy: what was not written to the store: {writer.dropped} records or parts of sessions")


def _tell(
    loop: trio.lowlevel.TrioToken, reporter: Reporter, what: Fails, trouble: RecordError | None, *, refused: bool
) -> None:
    """The store's thread says what fails, and that it goes on."""
    if trouble is None:
        say(
            "relayproxy: the store can be written again"
            if what == "writing"
            else "relayproxy: the store's upkeep goes on"
        )
        return
    say(f"relayproxy: {_in_words(what, trouble, refused=refused)}")
    with suppress(trio.RunFinishedError):  # then nobody listens any more
        loop.run_sync_soon(partial(reporter.error, "record", trouble.what))


def _in_words(what: Fails, trouble: RecordError, *, refused: bool) -> str:
    match what:
        case "writing":
            return f"{trouble.what}; {'mail is refused' if refused else 'nothing is recorded'} until it can be written"
        case "upkeep":
            return f"{trouble.what}; the store is neither indexed nor kept small"
        case "one":
            return f"a record cannot be written, and is in the log alone: {trouble.what}"
