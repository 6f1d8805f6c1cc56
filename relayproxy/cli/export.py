"""`relayproxy export [SELECT] --format F`: recordings in the forms of other programs, to standard output or to a file, which is there whole or not at all.

The formats themselves do not belong here (record/export/, record/playback.py), nor showing recordings to people (show.py).
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from relayproxy.cli import file_or_dash
from relayproxy.cli.recordings import SelectText, StoreUrl  # noqa: TC001 - as Path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from relayproxy.cli.recordings import Named
    from relayproxy.record.store.interface import Reader, Stored

    Advance = Callable[[], None]
    Write = Callable[[bytes], object]

Format = Literal["dialog", "eml", "mbox", "maildir", "jsonl", "pcapng"]

#: Formats of messages.
MESSAGES: Final = frozenset({"eml", "mbox", "maildir"})


def _check(format_: str, output: Path | None, *, sent: bool, force: bool) -> None:
    """What does not go together. Raises Failed."""
    from relayproxy.cli import Failed

    if sent and format_ not in MESSAGES:
        raise Failed(f"expected --sent with eml, mbox or maildir, got it with {format_}")
    if output is None:
        if format_ == "maildir":
            raise Failed("expected --output with maildir: a folder")
        if format_ == "pcapng" and sys.stdout.isatty():
            raise Failed("expected --output with pcapng on a terminal: packets are no text")
    elif format_ != "maildir":
        if output.is_dir():
            raise Failed(f"{output}: expected the name of a file, found a folder")
        if os.path.lexists(output) and not force:
            raise Failed(f"{output} is there already; --force writes over it")


def export(
    select: SelectText = None,
    /,
    *,
    format_: Annotated[Format, Parameter(name="--format")],
    output: Annotated[
        str | None, Parameter(metavar="PATH|-", allow_leading_hyphen=True, validator=file_or_dash)
    ] = None,
    sent: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    store: StoreUrl = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
) -> int:
    """Export recordings.

    Parameters
    ----------
    select
        which: an id or the beginning of one, latest, an expression, or for dialog a .dialog file; default: all
    format_
        whole sessions: dialog, pcapng (for Wireshark); messages: eml (one, octet for octet), mbox, maildir; records: jsonl
    output
        a file, or - for standard output, the default; for maildir a folder, to which is added
    sent
        messages as they left, what is held as it is to leave; default: as they were received
    force
        write over a file that is there
    store
        where they are; default: what the configuration says, else sqlite:relayproxy.db
    config
        the configuration, for its store; default: ./relayproxy.toml where there is one

    """
    from relayproxy.cli import Failed, in_words, say
    from relayproxy.cli.output import path_or_none, written
    from relayproxy.cli.recordings import NOTHING, dialog_file, reading, recorded, selected

    path = path_or_none(output)
    _check(format_, path, sent=sent, force=force)
    if format_ == "dialog" and (file := dialog_file(selected(select))) is not None:
        with in_words(), written(path) as write:
            write(_printed_again(file))
        return 0
    named = recorded(select)
    with reading(store, config) as reader, in_words(), _progress(reader, named) as advance:
        messages = _Messages(reader, sent=sent)
        if path is not None and format_ == "maildir":
            count = _write_maildir(reader, named, messages, path, advance)
        else:
            with written(path) as write:
                count = _WRITERS[format_](reader, named, messages, write, advance)
                if not count:
                    raise Failed(messages.told() or "nothing matched", NOTHING)
    if not count:
        raise Failed(messages.told() or "nothing matched", NOTHING)
    if told := messages.told():
        say(f"relayproxy: {told}")
    return 0


class _Messages:
    """The messages of transactions, and what is to be said of those that are not as they were."""

    def __init__(self, reader: Reader, *, sent: bool) -> None:
        self.sent = sent
        self._reader = reader
        self._missing = self._cut_off = self._redacted = 0

    def of(self, found: Iterable[Stored]) -> Iterator[tuple[Stored, Iterator[bytes]]]:
        for stored in found:
            message = self._reader.message(stored, sent=self.sent)
            if message is None or (kept := stored.message) is None:
                self._missing += 1
                continue
            self._cut_off += not kept.whole
            self._redacted += not kept.exact
            yield stored, message

    def told(self) -> str:
        """What is to be said, or nothing."""
        missing = "left" if self.sent else "was kept"
        said = (
            (self._missing, f"transactions of which no message {missing}, so that it is left out"),
            (self._cut_off, "messages that were cut off, as far as they came"),
            (self._redacted, "messages of which something was redacted before they were kept"),
        )
        return "; ".join(f"{count} {what}" for count, what in said if count)


def _write_dialog(reader: Reader, named: Named, _: _Messages, write: Write, advance: Advance) -> int:
    from relayproxy.cli.recordings import sessions
    from relayproxy.record.dialog import HEADING
    from relayproxy.record.playback import dialog_lines

    count = 0
    for session in sessions(reader, named):
        if not count:
            write(HEADING.encode() + b"\n")
        for line in dialog_lines(session, reader.of_session(session.id), reader):
            write(line.encode() + b"\n")
        count += 1
        advance()
    return count


def _write_pcapng(reader: Reader, named: Named, _: _Messages, write: Write, advance: Advance) -> int:
    from relayproxy.cli.recordings import sessions
    from relayproxy.record.export.pcapng import blocks, heading

    count = 0
    for session in sessions(reader, named):
        if not count:
            write(heading())
        for block in blocks(session, reader.of_session(session.id), reader, count):
            write(block)
        count += 1
        advance()
    return count


def _write_jsonl(reader: Reader, named: Named, _: _Messages, write: Write, advance: Advance) -> int:
    from relayproxy.cli.recordings import transactions

    count = 0
    for count, stored in enumerate(transactions(reader, named), 1):  # noqa: B007 - how many there were
        write(stored.document + b"\n")
        advance()
    return count


def _write_mbox(reader: Reader, named: Named, messages: _Messages, write: Write, advance: Advance) -> int:
    from relayproxy.cli.recordings import transactions
    from relayproxy.record.export.mailboxes import mbox

    count = 0
    for count, (stored, message) in enumerate(messages.of(transactions(reader, named)), 1):  # noqa: B007
        for octets in mbox(stored.record, message, sent=messages.sent):
            write(octets)
        advance()
    return count


def _write_eml(reader: Reader, named: Named, messages: _Messages, write: Write, advance: Advance) -> int:
    from itertools import islice

    from relayproxy.cli import Failed
    from relayproxy.cli.recordings import transactions

    found = [*islice(transactions(reader, named), 2)]
    if len(found) > 1:
        raise Failed("expected one transaction with eml, got several; mbox and maildir take them")
    count = 0
    for count, (_, message) in enumerate(messages.of(found), 1):  # noqa: B007
        for octets in message:
            write(octets)
        advance()
    return count


def _write_maildir(reader: Reader, named: Named, messages: _Messages, folder: Path, advance: Advance) -> int:
    from relayproxy.cli.recordings import transactions
    from relayproxy.record.export.maildir import Maildir

    maildir: Maildir | None = None
    count = 0
    for count, (stored, message) in enumerate(messages.of(transactions(reader, named)), 1):  # noqa: B007
        maildir = maildir or Maildir(folder)
        maildir.add(stored.record, message)
        advance()
    return count


_WRITERS: Final = {
    "dialog": _write_dialog,
    "eml": _write_eml,
    "mbox": _write_mbox,
    "jsonl": _write_jsonl,
    "pcapng": _write_pcapng,
}


def _printed_again(path: Path) -> bytes:
    from relayproxy.cli.recordings import parsed
    from relayproxy.record.dialog import print_dialog

    return print_dialog(parsed(path)).encode()


@contextmanager
def _progress(reader: Reader, named: Named) -> Iterator[Advance]:
    """A bar on a terminal's standard error; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from relayproxy.cli.recordings import transactions

    total = sum(1 for _ in transactions(reader, named))
    columns = "exporting", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
