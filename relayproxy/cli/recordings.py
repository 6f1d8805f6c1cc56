"""What the verbs that read recordings share: opening the store, which transactions SELECT names, and where output goes.

Invariants: what is wrong with the store or with SELECT is told in words (Failed). How recordings look does not belong here.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from relayproxy.cli import AWAY, Failed
from relayproxy.cli.store_url import store_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.dialog import Session
    from relayproxy.record.select import DialogFile, IdPrefix, Select
    from relayproxy.record.store.interface import Reader, Stored, StoredSession

    #: What a SELECT argument names; None: all.
    Named = Literal["latest"] | IdPrefix | DialogFile | Select | None

#: Exit status where nothing matched.
NOTHING: Final = 1
#: Ids that are named where a prefix is none of one alone.
_NAMED: Final = 5

SelectText = Annotated[str | None, Parameter(show_default=False)]
StoreUrl = Annotated[str | None, Parameter(name="--store", metavar="URL")]


@contextmanager
def reading(store: str | None, config: Path | None) -> Iterator[Reader]:
    """The store, open to be read."""
    from relayproxy.record.store.interface import StoreAwayError, StoreError
    from relayproxy.record.store.opening import open_store

    try:
        with open_store(store_url(store, config)).reader() as reader:
            yield reader
    except StoreAwayError as error:
        raise Failed(str(error), AWAY) from error
    except StoreError as error:
        raise Failed(str(error)) from error


def selected(text: str | None) -> Named:
    """What a SELECT argument names. None and latest take no parser, whose import takes a while."""
    if text is None:
        return None
    if text.strip() == "latest":
        return "latest"
    from relayproxy.record.select import Latest, SelectError, selection

    try:
        found = selection(text, now=time.time_ns())
    except SelectError as error:
        raise Failed(f"this is no SELECT:\n{error}") from error
    return "latest" if isinstance(found, Latest) else found


def recorded(text: str | None) -> Named:
    """The same for verbs that read the store alone."""
    if (file := dialog_file(found := selected(text))) is not None:
        raise Failed(
            f"expected recorded transactions, got the file {file}; show, replay and export --format dialog read one"
        )
    return found


def dialog_file(named: Named) -> Path | None:
    """The file, where one is named."""
    if named is None or named == "latest":
        return None
    from relayproxy.record.select import DialogFile

    return Path(named.path) if isinstance(named, DialogFile) else None


def prefix(named: Named) -> str | None:
    """How an id begins, where one is named."""
    if named is None or named == "latest":
        return None
    from relayproxy.record.select import IdPrefix

    return named.text if isinstance(named, IdPrefix) else None


def expression(named: Named) -> Select | None:
    """The expression, where there is one."""
    if named is None or named == "latest":
        return None
    from relayproxy.record.select import Select

    return named if isinstance(named, Select) else None


def transactions(
    reader: Reader, named: Named, *, newest_first: bool = False, limit: int | None = None
) -> Iterator[Stored]:
    """The transactions that are named. Raises Failed where an id is of none, or of several."""
    if named == "latest":
        yield from reader.transactions(newest_first=True, limit=1)
    elif (beginning := prefix(named)) is not None:
        id_ = only_id(reader, beginning)
        stored = reader.transaction(id_)
        found = reader.of_session(id_) if stored is None else [stored]
        yield from (found[::-1] if newest_first else found)[:limit]
    else:
        yield from reader.transactions(expression(named), newest_first=newest_first, limit=limit)


def sessions(reader: Reader, named: Named) -> Iterator[StoredSession]:
    """The sessions that are named, or whose transactions are, each once."""
    beginning = prefix(named)
    if beginning is not None and (session := reader.session(only_id(reader, beginning))) is not None:
        yield session
        return
    seen: set[str] = set()
    for stored in transactions(reader, named):
        if stored.record.session not in seen:
            seen.add(stored.record.session)
            yield session_of(reader, stored)


def session_ids(reader: Reader, named: Named) -> list[str]:
    """The ids of those, without their wire."""
    if (beginning := prefix(named)) is not None:
        id_ = only_id(reader, beginning)
        stored = reader.transaction(id_)
        return [id_ if stored is None else stored.record.session]
    return [*dict.fromkeys(stored.record.session for stored in transactions(reader, named))]


def session_of(reader: Reader, stored: Stored) -> StoredSession:
    """A transaction's session; without any wire where that was not kept."""
    from relayproxy.record.store.interface import StoredSession

    record = stored.record
    without_wire = StoredSession(record.session, record.listener, record.client.address, 0, None, None, ())
    return reader.session(record.session) or without_wire


def stored_dialog(reader: Reader, id_: str) -> Session:
    """The session of that id, to be said again or answered as it was. Raises ScriptError where there is no wire."""
    from relayproxy.record.playback import dialog_of
    from relayproxy.replay.script import ScriptError

    session = reader.session(id_)
    if session is None:
        raise ScriptError("nothing is kept of what was said on the wire")
    return dialog_of(session, reader.of_session(id_), reader)


def only_id(reader: Reader, beginning: str) -> str:
    """The one id that begins so."""
    ids = reader.ids(beginning, limit=_NAMED + 1)
    if not ids:
        raise Failed(f"there is no transaction or session whose id begins with {beginning}", NOTHING)
    whole = [id_ for id_ in ids if id_.upper() == beginning.upper()]
    if len(ids) > 1 and not whole:
        more = ", ..." if len(ids) > _NAMED else ""
        raise Failed(
            f"expected the beginning of one id, got {beginning}, which is that of {', '.join(ids[:_NAMED])}{more}"
        )
    return (whole or ids)[0]


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
