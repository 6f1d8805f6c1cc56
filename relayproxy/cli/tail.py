"""`relayproxy tail [SELECT]`: recorded transactions as they come, from every process that writes to the store, each once, when nothing more of it will come.

Ends in good order at SIGINT and SIGTERM, and when nobody reads any more. What has been does not belong here (listing.py), but for the last few with -n.
"""

from __future__ import annotations

import signal
import sys
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
    from relayproxy.cli.recordings import only_id, prefix, transactions

    beginning = prefix(named)
    id_ = None if beginning is None else only_id(reader, beginning)  # what comes later with the like is not meant
    told: dict[str, None] = {}
    revision = reader.revision()
    if last:
        earlier = transactions(reader, named, newest_first=True, limit=last)
        yield _once([*earlier][::-1], told)
    while reader.wait(PERIOD, sys.stdout.fileno()):
        now = reader.revision()
        if now != revision:
            yield _once(_since(reader, named, id_, revision), told)
            revision = now


def _since(reader: Reader, named: Named, id_: str | None, revision: int) -> Iterator[Stored]:
    from relayproxy.cli.recordings import expression

    for stored in reader.transactions(expression(named), after_revision=revision):
        if id_ is None or id_ in (stored.record.transaction, stored.record.session):
            yield stored


def _once(found: Iterable[Stored], told: dict[str, None]) -> list[Stored]:
    news = [stored for stored in found if stored.final and stored.record.transaction not in told]
    told.update(dict.fromkeys(stored.record.transaction for stored in news))
    while len(told) > REMEMBERED:
        del told[next(iter(told))]
    return news
