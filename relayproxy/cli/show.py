"""`relayproxy show [SELECT]`: recorded sessions whole: their transactions, TLS, what was changed in headers, and the dialog of both legs.

What is printed is a dialog again (record/view.py). Making it does not belong here, nor other formats (export.py).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from relayproxy.cli.recordings import SelectText, StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.cli.recordings import Named
    from relayproxy.record.store.interface import Reader, Stored, StoredSession


T = TypeVar("T")


def show(
    select: SelectText = None,
    /,
    *,
    message: Annotated[bool, Parameter(negative="")] = False,
    headers: Annotated[bool, Parameter(negative="")] = False,
    text: Annotated[bool, Parameter(negative="")] = False,
    sent: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    only: Annotated[bool, Parameter(negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Show recorded sessions.

    Parameters
    ----------
    select
        of which transactions or session: an id or the beginning of one, latest, a .dialog file, or an expression; default: latest
    message
        instead, the one message, octet for octet (on a terminal: with what it would obey escaped)
    headers
        instead, its header section
    text
        instead, as people read it: fields and text decoded, parts and attachments listed
    sent
        with --message, --headers and --text: as it left, or, of what is held, is to leave
    json
        instead, the records, a JSON line each
    only
        of the session nothing but the transaction's part
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import NOTHING, dialog_file, reading, selected, transactions

    if message + headers + text + json > 1:
        raise Failed("expected one of --message, --headers, --text and --json")
    of_one = _message if message else _headers if headers else _text if text else None
    if sent and of_one is None:
        raise Failed("expected --sent with --message, --headers or --text")
    named = selected(select or "latest")
    if (file := dialog_file(named)) is not None:
        if of_one is not None or json or only:
            raise Failed(f"expected recorded transactions, got the file {file}; without flags it is shown")
        _show_file(file)
        return 0
    with reading(store, config) as reader:
        if of_one is not None:
            of_one(reader, _one(transactions(reader, named)), sent=sent)
        elif not (_show_records if json else _show)(reader, named, only=only):
            raise Failed("nothing matched", NOTHING)
    return 0


def _show(reader: Reader, named: Named, *, only: bool) -> bool:
    """The dialogs; whether there was any."""
    from relayproxy.cli.recordings import has_colour, write_lines
    from relayproxy.record.view import heading, view

    colour = has_colour()
    has_any = False
    for session, transactions, shown in _parts(reader, named, only=only):
        if not has_any:
            write_lines([heading(colour=colour)])
            has_any = True
        write_lines(view(session, shown, transactions, reader, colour=colour))
    return has_any


_Part = tuple["StoredSession", "list[Stored]", "list[Stored]"]


def _parts(reader: Reader, named: Named, *, only: bool) -> Iterator[_Part]:
    """What is shown: a session, or as much of it as a transaction takes; all of its transactions; those that are told of."""
    from relayproxy.cli.recordings import session_of, sessions, transactions
    from relayproxy.record.part import part

    if not only:
        for session in sessions(reader, named):
            whole = reader.of_session(session.id)
            yield session, whole, whole
        return
    for stored in transactions(reader, named):
        whole = reader.of_session(stored.record.session)
        yield part(session_of(reader, stored), stored, whole), whole, [stored]


def _show_records(reader: Reader, named: Named, *, only: bool) -> bool:
    from relayproxy.cli.recordings import session_ids, transactions, write_documents

    if only:
        return write_documents(transactions(reader, named)) > 0
    return sum(write_documents(reader.of_session(id_)) for id_ in session_ids(reader, named)) > 0


def _one(found: Iterator[Stored]) -> Stored:
    """The one transaction. Raises Failed where there is none, or are several."""
    from itertools import islice

    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import NOTHING

    first = [*islice(found, 6)]
    if not first:
        raise Failed("nothing matched", NOTHING)
    if len(first) > 1:
        ids = ", ".join(one.record.transaction for one in first)
        raise Failed(f"expected one transaction, got several: {ids}")
    return first[0]


def _message(reader: Reader, stored: Stored, *, sent: bool) -> None:
    from relayproxy.cli.recordings import write_octets

    write_octets(_kept(reader.message(stored, sent=sent), "message", stored, sent=sent))


def _headers(_: Reader, stored: Stored, *, sent: bool) -> None:
    from relayproxy.cli.recordings import write_octets

    write_octets([_section(stored, sent=sent)])


def _text(reader: Reader, stored: Stored, *, sent: bool) -> None:
    from relayproxy.cli.recordings import has_colour, write_lines
    from relayproxy.record.mail_view import mail_view

    section = _section(stored, sent=sent)
    kept = stored.left if sent else stored.message
    digest = _kept(None if kept is None else kept.body, "message", stored, sent=sent)
    write_lines(mail_view(section, reader.body(digest), colour=has_colour()))


def _section(stored: Stored, *, sent: bool) -> bytes:
    kept = stored.left if sent else stored.message
    return _kept(None if kept is None else kept.header, "header section", stored, sent=sent)


def _kept(found: T | None, what: str, stored: Stored, *, sent: bool) -> T:
    """What is asked for. Raises Failed where it is not kept."""
    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import NOTHING

    if found is None:
        raise Failed(f"of {stored.record.transaction} no {what} is kept{' as it left' if sent else ''}", NOTHING)
    return found


def _show_file(path: Path) -> None:
    from relayproxy.cli.recordings import has_colour, parsed, write_lines
    from relayproxy.record.dialog import print_dialog
    from relayproxy.record.view import coloured

    lines = print_dialog(parsed(path)).removesuffix("\n").split("\n")
    write_lines(map(coloured, lines) if has_colour() else lines)
