"""A .dialog file that a mock plays, or records, or both, as its mode says (DESIGN §8; the modes are VCR.py's).

    file = CassetteFile(path, "new_episodes")          # raises Failed
    cassette = file.cassette(...)                       # what is played
    with file.recording(config, reporter) as recorder:  # what is recorded; None: nothing is
        served = Mocked(..., recorder=recorder)
        ...
        file.keep(served)                               # behind it, the file has what was recorded

Invariants: a file that is not to be recorded is never touched; one that is, is there whole or not at all, and the owner's alone. What is recorded goes through a store, as all that is: secrets
are never in it. Being the server does not belong here (replay/mocked.py).
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal

from relayproxy.cli import Failed, in_words
from relayproxy.cli.output import written
from relayproxy.cli.recording import recording
from relayproxy.cli.recordings import NOTHING, parsed, session_ids, stored_dialog
from relayproxy.record.dialog import HEADING, Line, print_entries, print_session
from relayproxy.record.playback import dialog_lines
from relayproxy.record.store.opening import open_store
from relayproxy.relay.settings import Record
from relayproxy.replay.cassette import Cassette
from relayproxy.replay.recorded import recorded_of
from relayproxy.replay.script import ScriptError, script_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from relayproxy.cli.recordings import Named
    from relayproxy.record.dialog import Session
    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.record.store.interface import Reader
    from relayproxy.relay.settings import Config
    from relayproxy.replay.cassette import Otherwise, Unexpected
    from relayproxy.replay.mocked import Mocked
    from relayproxy.replay.recorded import RecordedSession

Mode = Literal["once", "none", "new_episodes", "all"]
MODES: Final[tuple[Mode, ...]] = ("once", "none", "new_episodes", "all")


class Recordings:
    """What is played and not recorded: of a store, say."""

    #: Whether the server behind is asked for what there is not.
    records = False
    #: How many sessions the file was given.
    recorded = 0
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
    def recording(self, config: Config, reporter: Reporter) -> Iterator[Recorder | None]:
        """What records the sessions, as long as the mock runs."""
        del config, reporter
        yield None

    def keep(self, served: Mocked) -> None:
        """What this one has recorded takes the place of what it was said again for."""


class CassetteFile(Recordings):
    """A .dialog file."""

    def __init__(self, path: Path, mode: Mode) -> None:
        """Raises Failed."""
        self.path = path
        is_there = path.exists()
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
        self._told: tuple[Collection[str], Collection[RecordedSession]] = (), ()
        self._empty = False
        super().__init__([*self._recorded])

    @contextmanager
    def recording(self, config: Config, reporter: Reporter) -> Iterator[Recorder | None]:
        """The same; behind it the file is written. Raises StoreError, and Failed where it cannot be."""
        if not self.records:
            yield None
            return
        with TemporaryDirectory(prefix="relayproxy-") as folder:
            url = f"sqlite:{Path(folder, 'cassette.db')}"
            record = config.record.model_copy(update={"store": Record.model_validate({"store": url}).store})
            with recording(config.model_copy(update={"record": record}), reporter) as recorder:
                yield recorder
            self._write(url)

    def keep(self, served: Mocked) -> None:
        self._told = [*served.conversations], served.replaced()

    def keep_nothing(self) -> None:
        """That nobody came is what is recorded: the file is there, with no session; one that keeps old ones is left alone."""
        self._empty = not self._kept

    def _write(self, url: str) -> None:
        ids, replaced = self._told
        if not ids and not self._empty:
            return
        gone = [self._recorded[one] for one in replaced]
        with in_words(), open_store(url).reader() as reader, written(self.path) as write:
            write(HEADING.encode() + b"\n")
            for kept in self._kept:
                if not any(kept is one for one in gone):
                    for line in _lines(kept):
                        write(line.encode() + b"\n")
            for id_ in ids:
                if (session := reader.session(id_)) is not None:
                    self.recorded += 1
                    for line in dialog_lines(session, reader.of_session(id_), reader):
                        write(line.encode() + b"\n")


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
    try:
        return recorded_of(script_of(session, needs_messages=False))
    except ScriptError as error:
        raise Failed(f"{where}: {session.id or 'the session'} cannot be played: {error}") from error


def _lines(session: Session) -> Iterator[str]:
    if session.id is not None:
        yield print_session(session.id, session.attributes)
    yield from print_entries(session.entries)
