"""A .dialog file that a mock plays, or records, or both, as its mode says (DESIGN §8; the modes are VCR.py's).

    file = CassetteFile(path, "new_episodes")          # raises Failed
    cassette = file.cassette(...)                       # what is played
    with file.serving(config, reporter, make) as served:  # make(recorder): a Mocked, with what records its sessions
        ...
    # and the file has what was recorded, unless file.discard() was called

Invariants: a file that is not to be recorded is never touched; one that is, is there whole or not at all, and the owner's alone; what somebody else wrote
to it meanwhile is never lost, and what no server said is never in it. What is recorded goes through a store, as all that is: secrets
are never in it. Being the server does not belong here (replay/mocked.py).
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Final, Literal

from relayproxy.cli import Failed
from relayproxy.cli.output import alone_in, written
from relayproxy.cli.recording import recording
from relayproxy.cli.recordings import NOTHING, parsed, session_ids, stored_dialog
from relayproxy.record.dialog import HEADING, Line, print_entries, print_session
from relayproxy.record.playback import dialog_lines, dialog_of
from relayproxy.record.store.interface import StoreError
from relayproxy.record.store.opening import open_store
from relayproxy.record.wire import WireOctets
from relayproxy.relay.settings import Record
from relayproxy.replay.cassette import Cassette
from relayproxy.replay.recorded import is_of_form, recorded_of
from relayproxy.replay.script import ScriptError, script_of
from relayproxy.replay.untrue import untrue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relayproxy.cli.recordings import Named
    from relayproxy.record.dialog import Session
    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.record.store.interface import Reader, StoredSession
    from relayproxy.relay.settings import Config
    from relayproxy.replay.cassette import Otherwise, Unexpected
    from relayproxy.replay.mocked import Mocked
    from relayproxy.replay.recorded import RecordedSession

    Make = Callable[[Recorder | None], Mocked]

Mode = Literal["once", "none", "new_episodes", "all"]
#: The exit status where a file could not be recorded.
FAILED: Final = 1


class Recordings:
    """What is played and not recorded: of a store, say."""

    #: Whether the server behind is asked for what there is not.
    records = False
    #: How many sessions the file was given.
    recorded = 0
    #: What it was not given, and why, in words; and where it is therefore left as it was.
    left_out: Sequence[str] = ()
    unwritten: str | None = None
    #: What to do where what comes is right, and what is recorded is not (any more).
    advice: str | None = None

    def __init__(self, sessions: Sequence[RecordedSession]) -> None:
        self.sessions = sessions

    def cassette(
        self, *, lenient: bool = False, repeats: bool = False, tell: Callable[[Unexpected], None] | None = None
    ) -> Cassette:
        """Of its sessions. `lenient`: what there is not is taken, where no server is behind."""
        otherwise: Otherwise = "take" if lenient else "refuse"
        return Cassette(self.sessions, otherwise="pass" if self.records else otherwise, repeats=repeats, tell=tell)

    @contextmanager
    def serving(self, config: Config, reporter: Reporter, make: Make) -> Iterator[Mocked]:
        """The server, made with what records its sessions, or with None: nobody records them here."""
        del config, reporter
        yield make(None)


class CassetteFile(Recordings):
    """A .dialog file. `left_out`: the sessions that it was not given, and why, in words: then nothing else is written either, but for new episodes."""

    def __init__(self, path: Path, mode: Mode) -> None:
        """Raises Failed."""
        self.path = path
        self.left_out: list[str] = []
        self._mode = mode
        self._found = _found(path)
        is_there = self._found is not None
        if mode == "none" and not is_there:
            raise Failed(f"{path}: there is no such file; with --mode once it is recorded")
        if not path.absolute().parent.is_dir():
            raise Failed(f"{path}: there is no folder {path.absolute().parent}")
        self.records = mode in ("new_episodes", "all") or not is_there
        self.advice = f"if what came is right: --mode all (or new_episodes) --upstream URL records it, or delete {path} and record it with --mode once"
        self._kept = parsed(path) if is_there and mode != "all" else []
        self._recorded: dict[RecordedSession, Session] = {}
        for session in self._kept:
            if any(isinstance(entry, Line) for entry in session.entries):  # and not comments alone
                self._recorded[playable(session, str(path))] = session
        self._discards = self._empty = False
        super().__init__([*self._recorded])

    @contextmanager
    def serving(self, config: Config, reporter: Reporter, make: Make) -> Iterator[Mocked]:
        """The same; behind it the file has what was recorded, in place of what that was said again for. Raises StoreError, and Failed where it cannot be."""
        if not self.records:
            yield make(None)
            return
        if config.record.privacy.addresses:
            raise Failed(f'[record] redact: expected no "addresses" for {self.path}, which could not be played then')
        folder = Path(mkdtemp(prefix="relayproxy-"))
        store, keeps = folder / "cassette.db", False
        try:
            with recording(config.model_copy(update={"record": _record(config.record, store)}), reporter) as recorder:
                yield (served := make(recorder))
            if recorder is None or not recorder.complete:
                raise Failed(f"{self.path} is not written, since not all could be recorded", FAILED)
            keeps = True
            self._write(served, store)
            keeps = False
        except (OSError, StoreError) as error:
            if not keeps:
                raise
            why = error.strerror if isinstance(error, OSError) else error
            raise Failed(f"{self.path} cannot be written: {why}; what was recorded is in {store}", FAILED) from error
        finally:
            if not keeps:
                shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> None:
        """What is recorded is not wanted: the file stays as it is."""
        self._discards = True

    def keep_nothing(self) -> None:
        """That nobody came is what is recorded: the file is there, with no session; one that keeps old ones is left alone."""
        self._empty = not self._kept

    def _write(self, served: Mocked, store: Path) -> None:
        """Raises Failed, OSError and StoreError."""
        if self._discards or served.troubles:
            self.unwritten = f"{self.path} is not written"
            return
        with open_store(f"sqlite:{store}").reader() as reader:
            new = [session for id_ in served.conversations if (session := self._true(reader, id_, served)) is not None]
            if self.left_out and self._mode != "new_episodes":
                self.unwritten = f"{self.path} is not written, since it would not have all that came"
            if self.unwritten is not None or not (new or self._empty):
                return
            gone = [self._recorded[one] for one in served.replaced([session.id for session in new])]
            with alone_in(self.path.resolve().parent):
                self._check_unchanged(store)
                self._write_all([one for one in self._kept if not any(one is other for other in gone)], new, reader)
            self.recorded = len(new)

    def _true(self, reader: Reader, id_: str, served: Mocked) -> StoredSession | None:
        """The session, where its client said something, and all that it heard was what that server says to it."""
        session = reader.session(id_)
        if session is None or not any(
            isinstance(one, WireOctets) and (one.leg, one.arrow) == ("C", ">") for one in session.wire
        ):
            return None
        try:
            why = untrue(script_of(dialog_of(session, reader.of_session(id_), reader), needs_messages=False))
        except ScriptError as error:
            why = str(error)
        if why is None and id_ in served.doomed:
            why = "the server refused what the recording had taken, and that was the answer to what followed"
        if why is not None:
            self.left_out.append(f"{id_}: {why}")
        return session if why is None else None

    def _check_unchanged(self, store: Path) -> None:
        """Raises Failed where somebody else was quicker."""
        if _found(self.path) != self._found:
            raise Failed(
                f"{self.path} is not written, since it was written by somebody else meanwhile; what was recorded is in {store}",
                FAILED,
            )

    def _write_all(self, kept: Sequence[Session], new: Sequence[StoredSession], reader: Reader) -> None:
        with written(self.path) as write:
            write(HEADING.encode() + b"\n")
            for one in kept:
                for line in _lines(one):
                    write(line.encode() + b"\n")
            for session in new:
                for line in dialog_lines(session, reader.of_session(session.id), reader):
                    write(line.encode() + b"\n")


def there_is(path: Path) -> bool:
    """Raises Failed where the system will not say."""
    return _found(path) is not None


def _found(path: Path) -> tuple[int, int, int] | None:
    """What tells whether it is still the same file; None: there is none. Raises Failed."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _record(record: Record, store: Path) -> Record:
    """What is kept of sessions until the file is written: all of it, or nothing passes."""
    own = Record.model_validate({"store": f"sqlite:{store}", "keep": {"age": "none", "bytes": "none"}})
    return record.model_copy(update={"store": own.store, "keep": own.keep, "on_failure": "refuse"})


def recordings(reader: Reader, named: Named) -> Recordings:
    """Of a store. Raises Failed."""
    found: list[RecordedSession] = []
    for id_ in session_ids(reader, named):
        try:
            dialog = stored_dialog(reader, id_)
        except ScriptError as error:
            raise Failed(f"{id_} cannot be played: {error}") from error
        found.append(playable(dialog, "the store"))
    if not found:
        raise Failed("nothing matched", NOTHING)
    return Recordings(found)


def playable(session: Session, where: str) -> RecordedSession:
    """What of it is played. Raises Failed."""
    who = f"{where}: {session.id or 'the session'}"
    try:
        script = script_of(session, needs_messages=False)
        recorded = recorded_of(script)
    except ScriptError as error:
        raise Failed(f"{who} cannot be played: {error}") from error
    for left in script.left_out:
        if not is_of_form(left.reply):
            raise Failed(f"{who}: {left.line} cannot be played: {left.why}")
    return recorded


def _lines(session: Session) -> Iterator[str]:
    if session.id is not None:
        yield print_session(session.id, session.attributes)
    yield from print_entries(session.entries)
