"""What `list`, `show`, `tail` and `export` share: opening the store, which transactions SELECT names, and where output goes.

Invariants: what is wrong with the store or with SELECT is told in words (Failed). How recordings look does not belong here.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from relayproxy.cli import Failed
from relayproxy.cli.store_url import store_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from relayproxy.record.dialog import Session
    from relayproxy.record.select import IdPrefix, Selection
    from relayproxy.record.store.interface import Reader, Stored, StoredSession

#: Exit status where nothing matched.
NOTHING: Final = 1
#: Ids that are named where a prefix is none of one alone.
_NAMED: Final = 5

Select = Annotated[str | None, Parameter(show_default=False)]
Store = Annotated[str | None, Parameter(name="--store", metavar="URL")]


@contextmanager
def reading(store: str | None, config: Path | None) -> Iterator[Reader]:
    """The store, open to be read."""
    from relayproxy.record.store.interface import StoreError
    from relayproxy.record.store.sqlite import open_store

    try:
        with open_store(store_url(store, config)).reader() as reader:
            yield reader
    except StoreError as error:
        raise Failed(str(error)) from error


def selected(text: str | None) -> Selection | None:
    """What a SELECT argument names; None: all."""
    from relayproxy.record.select import SelectError, selection

    if text is None:
        return None
    try:
        return selection(text, now=time.time_ns())
    except SelectError as error:
        raise Failed(f"this is no SELECT:\n{error}") from error


def recorded(text: str | None) -> Selection | None:
    """The same for verbs that read the store alone."""
    from relayproxy.record.select import DialogFile

    if isinstance(found := selected(text), DialogFile):
        raise Failed(
            f"expected recorded transactions, got the file {found.path}; show and export --format dialog read one"
        )
    return found


def transactions(
    reader: Reader, selection: Selection | None, *, newest_first: bool = False, limit: int | None = None
) -> Iterator[Stored]:
    """The transactions that are named. Raises Failed where an id is of none, or of several."""
    from relayproxy.record.select import IdPrefix, Latest, Select

    match selection:
        case None | Select():
            yield from reader.transactions(selection, newest_first=newest_first, limit=limit)
        case Latest():
            yield from reader.transactions(newest_first=True, limit=1)
        case IdPrefix():
            id_ = only_id(reader, selection)
            stored = reader.transaction(id_)
            found = reader.of_session(id_) if stored is None else [stored]
            yield from (found[::-1] if newest_first else found)[:limit]
        case _:
            raise AssertionError(selection)


def sessions(reader: Reader, selection: Selection | None) -> Iterator[StoredSession]:
    """The sessions that are named, or whose transactions are, each once."""
    from relayproxy.record.select import IdPrefix

    if isinstance(selection, IdPrefix) and (session := reader.session(only_id(reader, selection))) is not None:
        yield session
        return
    seen: set[str] = set()
    for stored in transactions(reader, selection):
        if stored.record.session not in seen:
            seen.add(stored.record.session)
            yield session_of(reader, stored)


def session_of(reader: Reader, stored: Stored) -> StoredSession:
    """A transaction's session; without any wire where that was not kept."""
    from relayproxy.record.store.interface import StoredSession

    record = stored.record
    without_wire = StoredSession(record.session, record.listener, record.client.address, 0, None, None, ())
    return reader.session(record.session) or without_wire


def only_id(reader: Reader, prefix: IdPrefix) -> str:
    """The one id that begins so."""
    ids = reader.ids(prefix.text, limit=_NAMED + 1)
    if not ids:
        raise Failed(f"there is no transaction or session whose id begins with {prefix.text}", NOTHING)
    if len(ids) > 1 and prefix.text.upper() not in [id_.upper() for id_ in ids]:
        more = ", ..." if len(ids) > _NAMED else ""
        raise Failed(
            f"expected the beginning of one id, got {prefix.text}, which is that of {', '.join(ids[:_NAMED])}{more}"
        )
    return next((id_ for id_ in ids if id_.upper() == prefix.text.upper()), ids[0])


def parsed(path: Path) -> list[Session]:
    """The sessions of a .dialog file."""
    from relayproxy.cli import in_words
    from relayproxy.record.dialog import DialogError, parse

    try:
        with in_words():
            return parse(path.read_bytes().decode())
    except DialogError as error:
        raise Failed(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise Failed(f"{path}: expected UTF-8, found the byte 0x{error.object[error.start]:02x}") from error


def is_terminal() -> bool:
    """Whether somebody reads what we write."""
    return sys.stdout.isatty()


def has_colour() -> bool:
    return is_terminal() and not os.environ.get("NO_COLOR")


def write_lines(lines: Iterable[str]) -> None:
    """Text, a line each, in UTF-8 wherever it goes: a dialog is nothing else."""
    write = sys.stdout.buffer.write
    for line in lines:
        write(line.encode("utf-8", "backslashreplace") + b"\n")


def write_octets(octets: Iterable[bytes]) -> None:
    """Octets as they are; on a terminal as a dialog has them, a line each, so that it obeys none (attack 22)."""
    if is_terminal():
        from relayproxy.record.dialog import escape

        write_lines(escape(line) for line in b"".join(octets).removesuffix(b"\r\n").split(b"\r\n"))
    else:
        sys.stdout.buffer.writelines(octets)


def write_documents(found: Iterable[Stored]) -> int:
    """The records as they are stored, a line each; how many."""
    count = 0
    for stored in found:
        sys.stdout.buffer.write(stored.document + b"\n")
        count += 1
    return count
