"""The recorded server of one test: it plays what a .dialog file has, or has a real server answer and records it, as its mode says (the modes are VCR.py's).

    none          what is not in the file is refused, and fails the test
    once          as none; but where there is no file yet, all is asked of the real server, and recorded
    new_episodes  what is not in the file is asked of the real server, and recorded
    all           everything is, and the file is replaced

Invariants: nothing is connected to but where the mode records. Where CI is set in the environment no mode records unless the command line says so: a cassette that was forgotten fails there.
A file is written only where its test passed and the server was there: half a recording would stand in the way of the test that was mended. No two tests of a run record to one file.
How the server is the recorded one does not belong here (replay/mocked.py), nor what becomes of the file (cli/cassettes.py).
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import trio

from relayproxy.cli import Failed
from relayproxy.cli.cassettes import CassetteFile, Mode, there_is
from relayproxy.replay.mocked import Front, Mocked, mocking
from relayproxy.testing.marker import MarkerError
from relayproxy.testing.served import TOLD, Listening, Served
from relayproxy.testing.thread import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.relay.settings import Config, Upstream

#: In a test's name, what a file's had better not have.
_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]+")
#: Characters of a file's name that are a test's.
_LONGEST: Final = 150


def path_of(asked: Mapping[str, Any], test: Path, node: str) -> Path:
    """The file: the marker's, relative to the test's; else cassettes/MODULE/NAME.dialog beside that, whose name is the node's in that module."""
    path = str(asked.get("path", f"cassettes/{test.stem}/{_name_of(node.partition('::')[2])}.dialog"))
    if not path.endswith(".dialog"):
        raise MarkerError("smtp_cassette", [f"path: expected a .dialog file, got {path!r}"])
    return test.parent / path


def _name_of(test: str) -> str:
    """Of its own: with a hash where what had to go, or the case of a parameter's letters, may be all that tells two tests apart."""
    function, _, parameters = test.removesuffix("]").partition("[")
    name = "-".join([function.replace("::", "."), *([parameters] if parameters else [])])
    plain = _ODD.sub("-", name)
    if plain == name and parameters == parameters.lower() and len(name) <= _LONGEST:
        return name
    return f"{plain[:_LONGEST].rstrip('-')}-{sha256(test.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


class Asked(NamedTuple):
    """A mode; `in_ci`: it is `none` because of CI alone."""

    mode: Mode
    in_ci: bool = False


def mode_of(asked: Mapping[str, Any], option: Mode | None, environ: Mapping[str, str], *, real: bool) -> Asked:
    """The command line's; else none in CI, else the marker's, else once where a `real` server is known. Raises MarkerError."""
    mode: Mode = asked.get("mode", "once" if real else "none")
    if mode not in (modes := get_args(Mode)):
        raise MarkerError("smtp_cassette", [f"mode: expected {', '.join(modes[:-1])} or {modes[-1]}, got {mode!r}"])
    if option is not None:
        return Asked(option)
    in_ci = mode != "none" and environ.get("CI", "").lower() not in ("", "0", "false")
    return Asked("none" if in_ci else mode, in_ci)


def real_server(config: Config) -> tuple[str, Upstream] | None:
    """The one that cassettes are recorded of, and its name; None: the configuration has none."""
    name = config.upstream_of(config.listener[0])
    upstream = config.upstream[name]
    return None if upstream.captures else (name, upstream)


def claim(used: dict[Path, str], path: Path, node: str, asked: Mapping[str, Any], mode: Mode) -> None:
    """Have the file for this test of the run; `used`: who had which. One that markers name may be played by several. Raises Trouble."""
    other = used.setdefault(path.resolve(), node)
    try:
        records = mode in ("all", "new_episodes") or (mode == "once" and not there_is(path))
    except Failed as error:
        raise Trouble(str(error)) from error
    if other != node and (records or "path" not in asked):
        what = "would be recorded to it" if records else "has the same"
        raise Trouble(f"{path} is the cassette of {other}, and {node} {what}: give one of them a path= of its own")


class CassetteFixture:
    """What a test is given as `smtp_cassette`: `host` and `port` are where the application's mail server is. `path`: of the file; `mode`: what became of the command line's and the marker's."""

    host: Final = "127.0.0.1"

    def __init__(
        self, path: Path, mode: Mode, config: Config, asked: Mapping[str, Any], *, in_ci: bool = False
    ) -> None:
        """`config`: with the real server, where there is one; `in_ci`: were it not for CI it would record. It serves when this returns. Raises Trouble."""
        self.path = path
        self.mode = mode
        #: What became of the file, where somebody might think otherwise; once it is closed.
        self.note: str | None = None
        self._strict = bool(asked.get("strict"))
        self._real = real_server(config)
        try:
            if mode == "none" and not there_is(path):
                raise Trouble(f"there is no cassette {path}; {self._how_to_record(in_ci=in_ci)}")
            if mode != "none":
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = CassetteFile(path, mode)
        except Failed as error:
            raise Trouble(str(error)) from error
        except OSError as error:
            raise Trouble(f"{error.filename}: {error.strerror}") from error
        if self._file.records and self._real is None:
            raise Trouble(f"the cassette {path} is to be recorded; {self._how_to_record()}")
        self._cassette = self._file.cassette(repeats=bool(asked.get("repeats")))
        self._config = mocking(config, self._cassette, Front(tls=asked.get("tls")), self._real)
        self._passed = False
        self._mocked: Mocked | None = None
        self._served = Served(self._serve, self._config)
        #: Where it listens.
        self.port = self._served.port

    @property
    def ca(self) -> Path:
        """The certificate, in PEM, of who signed the one that clients see: what a client that verifies has to trust. Raises Trouble where there is no TLS."""
        __tracebackhide__ = True
        return self._served.ca("smtp_cassette")

    def _how_to_record(self, *, in_ci: bool = False) -> str:
        if in_ci:
            return "nothing is recorded here, since CI is set: run the test once without it, and commit the file"
        if self._real is None:
            return 'to record it of a real server give the marker upstream="smtp://..."'
        return f"--smtp-cassette-mode once records it of {self._real[1].url[0]}"

    def troubles(self) -> list[str]:
        """Why the real server could not be had, so far."""
        return [] if self._mocked is None else [*self._mocked.troubles]

    def close(self, *, passed: bool = True) -> str | None:
        """End it in good order; where the test `passed`, the file has what was recorded then. What failed: what came and is not recorded, or, where it is `strict`, the other way round. Raises Trouble: what went wrong within."""
        self._passed = passed
        self._served.close()
        if self._file.records and not passed:
            self.note = f"{self.path} is not written, since the test did not pass"
        elif self._file.records and (troubles := self.troubles()):
            lines = [f"{self.path} is not written (mode {self.mode}), since the server was not to be had:", *troubles]
            return "\n".join(lines)
        elif self._file.left_out:
            how = "is given no such session" if self.mode == "new_episodes" else "is not written"
            return "\n".join([f"{self.path} {how} (mode {self.mode}):", *self._file.left_out[:TOLD]])
        if not self._cassette.failed(strict=self._strict):
            return None
        lines = [f"not as in the cassette {self.path} (mode {self.mode}):"]
        lines += [line for one in self._cassette.unexpected[:TOLD] for line in one.lines()]
        if (more := self._cassette.count_unexpected - TOLD) > 0:
            lines.append(f"... and {more} more that were not expected")
        if self._strict:
            unused = [*self._cassette.unused]
            lines += [f"unused: {what}" for what in unused[:TOLD]]
            lines += [f"... and {len(unused) - TOLD} more that were not used"] * (len(unused) > TOLD)
        lines.append(f"if the application is right now: {self._how_to_record_again()}")
        return "\n".join(lines)

    def _how_to_record_again(self) -> str:
        marker = "" if self._real is not None else ', and with upstream="smtp://..." in the marker'
        return f"--smtp-cassette-mode all (or new_episodes) with the server there{marker}, or delete the file"

    # In the thread.

    async def _serve(self, reporter: Reporter, ready: Callable[[Listening], None]) -> None:
        def make(recorder: Recorder | None) -> Mocked:
            return Mocked(self._config, self._cassette, reporter, recorder=recorder)

        with self._file.serving(self._config, reporter, make) as served:
            self._mocked = served
            ((_, address),) = served.bind()
            with trio.CancelScope() as scope:
                ready(Listening(address, served.shut_down, scope.cancel))
                await served.run()
            if not self._passed:
                self._file.discard()
            elif not served.connected:
                self._file.keep_nothing()
