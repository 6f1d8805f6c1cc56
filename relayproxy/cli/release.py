"""`relayproxy release SELECT`: send held messages on, each once, the oldest first (DESIGN §4, §8).

Theory of operation: a message is read once to its end, then claimed in the store, then sent (relay/releasing.py), then the store is told how it went. Of two who would release the same,
one has the claim. Cut off at any moment, what stands in the store is true: a claim that nobody settled reads `unknown`, and goes again only with --again.
A relay that writes to the same store goes on. Looking at what is held does not belong here (listing.py, show.py).
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from relayproxy.cli.recordings import StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import trio

    from relayproxy.cli.recordings import Named
    from relayproxy.record.report import HeldRecord, ReleaseRecord
    from relayproxy.record.store.interface import Reader, Releasing, Stored
    from relayproxy.relay.releasing import Release, Went
    from relayproxy.relay.sending import Whole
    from relayproxy.relay.settings import Config
    from relayproxy.smtp.commands import Path as Mailbox

#: The exit status where one did not go.
UNSENT: Final = 1


async def release(
    select: Annotated[str, Parameter(show_default=False)],
    /,
    *,
    to: Annotated[list[str] | None, Parameter(negative="", metavar="ADDRESS")] = None,
    again: Annotated[bool, Parameter(negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Send held messages on. Exit status 0: upstream took each for all of its recipients.

    Each leaves as the rules left it, by the upstream that it was for, with that one's TLS and credentials, and within the guard. Nobody gets it unless
    every recipient is taken. What was taken once is not sent again.

    Parameters
    ----------
    select
        which: an id or the beginning of one, latest, or an expression such as 'held:true & since:1h'; what else it matches stays as it is
    to
        a recipient in place of those that it has, in the envelope alone; again for another
    again
        also what a try that was cut off may have sent already
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store, upstreams and guard; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import in_words, path_of
    from relayproxy.cli.config import load
    from relayproxy.cli.recordings import reading, recorded
    from relayproxy.cli.store_url import store_url
    from relayproxy.record.store.opening import open_store

    named = recorded(select)
    recipients = [path_of("--to", one) for one in to or ()]
    loaded = load(config)
    with reading(store, config) as reader:
        ids = _ids(reader, named)
        with in_words(), closing(open_store(store_url(store, config)).backend()) as writer:
            releases = _Releases(loaded, reader, writer, recipients, again=again)
            for id_ in ids:
                await releases.release(id_)
                if releases.stopped:
                    break
    if releases.stopped:
        return 128 + releases.stopped
    return UNSENT if releases.failed else 0


def _ids(reader: Reader, named: Named) -> list[str]:
    """The ids of those that are meant, the oldest first. Raises Failed where there are none."""
    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import NOTHING, expression, transactions
    from relayproxy.record.conditions import All, Waiting
    from relayproxy.record.select import Select

    if (select := expression(named)) is not None:
        waiting = Select(select.text, All((select.condition, Waiting(wanted=True))))
        ids = [stored.record.transaction for stored in reader.transactions(waiting)]
        if not ids:
            raise Failed("nothing matched that is held and was not released", NOTHING)
        return ids
    found = list(transactions(reader, named))
    ids = [stored.record.transaction for stored in found if stored.record.waits]
    if not ids:
        told = [f"{stored.record.transaction} {_why_not(stored)}" for stored in found]
        raise Failed("\n".join(told) or "nothing matched", NOTHING)
    return ids


def _held_record(stored: Stored) -> HeldRecord | None:
    from relayproxy.record.report import HeldRecord

    return stored.record.held if isinstance(stored.record.held, HeldRecord) else None


def _why_not(stored: Stored) -> str:
    """Why it cannot be released."""
    held = _held_record(stored)
    if stored.record.outcome != "held" or held is None:
        return f"is not held: its outcome is {stored.record.outcome}"
    taken = next(one for one in held.released if one.outcome == "accepted")
    return f"was released already, {_when(taken)}"


def _when(release: ReleaseRecord) -> str:
    from relayproxy.record.text import printable

    return printable(f"{release.time} to {', '.join(release.to)}")


class _Releases:
    """One after another. `failed`: one did not go; `stopped`: the signal that ended it, or 0."""

    def __init__(
        self, config: Config, reader: Reader, writer: Releasing, to: Sequence[Mailbox], *, again: bool
    ) -> None:
        self.failed = False
        self.stopped = 0
        self._config = config
        self._reader = reader
        self._writer = writer
        self._to = to
        self._again = again

    async def release(self, id_: str) -> None:
        """Send one on, and tell what came of it."""
        from relayproxy.record.store.interface import RecordError, StoreError

        try:
            attempt, release, content = self._prepared(id_)
            record = self._record(release)
            claimed = self._writer.claim(id_, attempt, record)
        except (ValueError, StoreError, RecordError) as error:
            self._unsent(id_, str(error))
            return
        if not claimed:
            self._unsent(id_, "somebody else is releasing it, or has just done so")
            return
        try:
            await self._until_stopped(partial(release.send, content))
        finally:
            went = release.went
            self._settle(id_, attempt, record, went)
            self._tell(id_, release, went)

    def _prepared(self, id_: str) -> tuple[int, Release, Whole]:
        """Everything that can be known beforehand. Raises ValueError, StoreError."""
        from relayproxy.relay.releasing import Release

        stored = self._reader.transaction(id_)  # as it is now, and not when all were looked for
        if stored is None:
            raise ValueError("it is not there any more")
        if not stored.record.waits:
            raise ValueError(_why_not(stored))
        held = _held_record(stored)
        tries = () if held is None else held.released
        if not self._again and (unknown := [one for one in tries if one.outcome == "unknown"]):
            raise ValueError(
                f"a try of {_when(unknown[-1])} was cut off, or goes on, and may have reached them: --again sends it once more"
            )
        release = Release(self._config, stored.record, self._to, lambda what: _say(f"{id_}: {what}"))
        return len(tries), release, self._content(stored)

    def _content(self, stored: Stored) -> Whole:
        from relayproxy.relay.sending import Whole

        kept = stored.message
        if kept is None or not kept.whole or not kept.exact or kept.body is None:
            raise ValueError("its message was not kept whole, or something in it was redacted")
        return Whole.of(lambda: self._reader.message(stored, sent=True) or ())

    def _record(self, release: Release) -> ReleaseRecord:
        """As it stands in the store until more is known."""
        from relayproxy.record.report import ReleaseRecord, timestamp
        from relayproxy.relay.sending import shown

        to = tuple([shown(rcpt.path) for rcpt in release.envelope.recipients])
        made = ReleaseRecord(timestamp(time.time_ns()), release.upstream, to, "unknown")
        return self._config.record.privacy.release(made)

    async def _until_stopped(self, sending: Callable[[], Awaitable[None]]) -> None:
        """Send, unless a signal ends it: then it is given up where it is."""
        import trio

        async with trio.open_nursery() as nursery:

            async def obey(*, task_status: trio.TaskStatus[None]) -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    task_status.started()
                    async for number in signals:
                        self.stopped = number
                        nursery.cancel_scope.cancel()

            await nursery.start(obey)
            await sending()
            nursery.cancel_scope.cancel()

    def _settle(self, id_: str, attempt: int, record: ReleaseRecord, went: Went) -> None:
        """Note how it went."""
        import msgspec

        from relayproxy.record.report import reply_of
        from relayproxy.record.store.interface import RecordError

        reply = None if went.reply is None else reply_of(went.reply)
        settled = msgspec.structs.replace(record, outcome=went.outcome, reply=reply, why=went.why)
        try:
            self._writer.released(id_, attempt, self._config.record.privacy.release(settled))
        except RecordError as error:
            self.failed = True
            _say(f"{id_}: what became of it could not be noted, so that it reads unknown: {error}")

    def _tell(self, id_: str, release: Release, went: Went) -> None:
        from relayproxy.record.text import printable
        from relayproxy.relay.sending import shown, words

        if went.outcome == "accepted" and went.reply is not None:
            to = ", ".join([shown(rcpt.path) for rcpt in release.envelope.recipients])
            sys.stdout.write(printable(f"{id_}  released to {to}: {words(went.reply)}") + "\n")
            sys.stdout.flush()
        else:
            self._unsent(id_, went.why or went.outcome, unknown=went.outcome == "unknown")

    def _unsent(self, id_: str, why: str, *, unknown: bool = False) -> None:
        self.failed = True
        _say(f"{id_} {'may have been' if unknown else 'was not'} released: {why}")


def _say(what: str) -> None:
    from relayproxy.cli import say

    say(f"relayproxy: {what}")
