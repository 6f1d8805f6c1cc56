"""`relayproxy list [SELECT]`: recorded transactions, the newest at the bottom: a table on a terminal, the records as they are stored elsewhere.

Whole sessions do not belong here (show.py), nor what is still to come (tail.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from relayproxy.cli.recordings import SelectText, StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.store.interface import Stored

_GAP: Final = "  "
#: Name, width (0: shares what is left), and how many columns a terminal must have for it.
_COLUMNS: Final = (
    ("time (UTC)", 14, 0),
    ("outcome", 10, 0),
    ("sender", 0, 0),
    ("recipients", 0, 0),
    ("subject", 0, 100),
    ("size", 9, 110),
    ("reply", 0, 130),
    ("id", 26, 0),
)


def listing(
    select: SelectText = None,
    /,
    *,
    limit: Annotated[int | None, Parameter(metavar="N")] = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """List recorded transactions.

    Parameters
    ----------
    select
        which: an id or the beginning of one, latest, or an expression such as 'sender:*@example.test & !outcome:accepted'; default: all
    limit
        only the newest N
    json
        JSON lines, as they are where the output is no terminal
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import (
        has_colour,
        is_terminal,
        reading,
        recorded,
        transactions,
        write_documents,
        write_lines,
    )

    if limit is not None and limit < 1:
        raise Failed(f"--limit: expected 1 or more, got {limit}")
    named = recorded(select)
    with reading(store, config) as reader:
        found: Iterable[Stored] = transactions(reader, named, newest_first=limit is not None, limit=limit)
        if limit is not None:
            found = reversed([*found])
        if json or not is_terminal():
            write_documents(found)
        else:
            write_lines(table(found, shutil.get_terminal_size().columns, colour=has_colour()))
    return 0


def table(found: Iterable[Stored], width: int, *, colour: bool) -> Iterator[str]:
    """A line each, none wider than `width` where that can be, under a heading; nothing where there is none."""
    from relayproxy.record.console import DIM, OUTCOMES, styled

    shown = [column for column in _COLUMNS if width >= column[2]]
    left = width - sum(size for _, size, _ in shown) - len(_GAP) * (len(shown) - 1)
    share = max(left // sum(size == 0 for _, size, _ in shown), 6)
    widths = {name: size or share for name, size, _ in shown}
    is_first = True
    for stored in found:
        if is_first:
            heading = _GAP.join(_fitted(name, size) for name, size in widths.items()).rstrip()
            yield styled(heading, DIM) if colour else heading
            is_first = False
        cells = _cells(stored)
        fitted = {name: _fitted(cells[name], size) for name, size in widths.items()}
        if colour:
            fitted["outcome"] = styled(fitted["outcome"], OUTCOMES[stored.record.outcome])
            fitted["id"] = styled(fitted["id"], DIM)
        yield _GAP.join(fitted.values()).rstrip()


def _cells(stored: Stored) -> dict[str, str]:
    from relayproxy.record.console import recipients_text, reply_text, size_text

    record = stored.record
    message = record.message
    return {
        "time (UTC)": f"{record.time[5:10]} {record.time[11:19]}",
        "outcome": record.outcome,
        "sender": record.envelope.received.sender or "<>",
        "recipients": recipients_text(record),
        "subject": "" if message is None else message.subject or "",
        "size": "" if message is None else size_text(message.size.received),
        "reply": reply_text(record.reply),
        "id": record.transaction,
    }


def _fitted(text: str, width: int) -> str:
    """Cut or filled to so many columns of a terminal, on which some characters take two."""
    from rich.cells import cell_len, set_cell_size

    from relayproxy.record.text import printable

    shown = printable(text[: width + 1])  # each takes one column or more, but for marks that combine
    if len(text) > width or cell_len(shown) > width:
        return set_cell_size(shown, width - 1) + "…"
    return set_cell_size(shown, width)
