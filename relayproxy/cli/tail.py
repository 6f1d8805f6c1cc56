"""`relayproxy tail [SELECT]`: recorded transactions as they come, from every process that writes to the store, each once, when nothing more of it will come.

Ends in good order at SIGINT and SIGTERM, and when nobody reads any more. A store that is away is waited for, and one that has gone back (a standby that had not heard of all,
a backup) is followed from where it is: what was told is looked through once more, and told no more. Of one that was made anew in the place of another (SQLite) all since tail began is told. What has been does not belong here (listing.py), but for the last few with -n.
"""

from __future__ import annotations

import signal
import sys
import time
from itertools import takewhile
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from relayproxy.cli.recordings import SelectText, StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.cli.recordings import Named
    from relayproxy.record.store.interface import Reader, Stored

#: Seconds until the store is looked at all the same, where it tells when something was written.
PERIOD: Final = 10.0
#: Ids of those that were told that are remembered: one may be written once more.
REMEMBERED: Final = 10_000
#: Seconds between tries to reach a store that is away.
AGAIN: Final = 1.0


def tail(
    select: SelectText = None,
    /,
    *,
    last: Annotated[int, Parameter(name=["--last", "-n"], metavar="N")] = 0,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Show recorded transactions as they come, until Ctrl-C.

    Parameters
    ----------
    select
        which: an expression such as 'sender:*@example.test & !outcome:accepted', or a session's id; default: all
    last
        first the last N that there are
    json
        JSON lines, as they are where the output is no terminal
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import has_colour, is_terminal, reading, recorded, write_documents, write_lines
    from relayproxy.record.console import console_line

    if last < 0:
        raise Failed(f"-n: expected 0 or more, got {last}")
    named = recorded(select)
    if named == "latest":
        raise Failed("expected an expression or an id, got latest; tail -n 1 begins with the latest")
    as_json = json or not is_terminal()
    colour = has_colour()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with the first ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with reading(store, config) as reader:
            for news in _news(reader, named, last):
                if as_json:
                    write_documents(news)
                else:
                    write_lines(console_line(stored.record, colour=colour) for stored in news)
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 0
    return 0


def _news(reader: Reader, named: Named, last: int) -> Iterator[list[Stored]]:
    """What is new and final, each once, oldest first; ends when nobody reads standard output."""
    from relayproxy.cli import say
    from relayproxy.cli.recordings import only_id, prefix, transactions
    from relayproxy.record.store.interface import StoreAwayError
    from relayproxy.record.store.reading import is_read

    beginning = prefix(named)
    id_ = None if beginning is None else only_id(reader, beginning)  # what comes later with the like is not meant
    told = _Told(reader, named, id_)
    if last:
        earlier = transactions(reader, named, newest_first=True, limit=last)
        yield told.once([*earlier][::-1])
    output = sys.stdout.fileno()
    away = replaced = False
    while True:
        try:
            if not reader.wait(PERIOD, output):
                return
            news = told.of_another() if replaced else told.news(anew=away)
        except StoreAwayError as error:
            if not away:
                say(f"relayproxy: {error}; tried again each second")
            away, replaced = True, replaced or error.replaced
            if not is_read(output, AGAIN):
                return
            continue
        if away:
            say("relayproxy: the store is there again")
            away = replaced = False
        if news:
            yield news


class _Told:
    """What was told."""

    def __init__(self, reader: Reader, named: Named, id_: str | None) -> None:
        from relayproxy.record.report import timestamp

        self._reader = reader
        self._named = named
        self._id = id_
        self._revision = reader.revision()
        self._all_since = self._revision  # all that was told of later ones is remembered
        self._told: dict[str, int] = {}
        self._began = timestamp(time.time_ns())

    def news(self, *, anew: bool) -> list[Stored]:
        """What has come since. `anew`: the store may be another than it was, or that of some time ago."""
        now = self._reader.revision()
        if anew or now < self._revision:
            self._all_since = self._revision = min(now, self._all_since)
        if now == self._revision:
            return []
        news = self.once(self._matching(after_revision=self._revision))
        self._revision = now
        return news

    def of_another(self) -> list[Stored]:
        """What is in a store that stands in the place of the one that was read, of the time since we began."""
        self._revision = self._all_since = self._reader.revision()
        newest_first = takewhile(lambda stored: stored.record.time >= self._began, self._matching(newest_first=True))
        return self.once([*newest_first][::-1])

    def once(self, found: Iterable[Stored]) -> list[Stored]:
        """Those of them that are final and were not told."""
        news = [stored for stored in found if stored.final and stored.record.transaction not in self._told]
        self._told.update((stored.record.transaction, stored.revision) for stored in news)
        while len(self._told) > REMEMBERED:
            self._all_since = max(self._all_since, self._told.pop(next(iter(self._told))))
        return news

    def _matching(self, *, after_revision: int = 0, newest_first: bool = False) -> Iterator[Stored]:
        from relayproxy.cli.recordings import expression

        select = expression(self._named)
        for stored in self._reader.transactions(select, newest_first=newest_first, after_revision=after_revision):
            if self._id is None or self._id in (stored.record.transaction, stored.record.session):
                yield stored
