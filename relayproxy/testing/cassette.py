"""The recorded server of one test: it plays what a .dialog file has, or has a real server answer and records it, as its mode says (the modes are VCR.py's).

    none          what is not in the file is refused, and fails the test
    once          as none; but where there is no file yet, all is asked of the real server, and recorded
    new_episodes  what is not in the file is asked of the real server, and recorded
    all           everything is, and the file is replaced

Invariants: nothing is connected to but where the mode records. Where CI is set in the environment no mode records unless the command line says so: a cassette that was forgotten fails there.
How the server is the recorded one does not belong here (replay/mocked.py), nor what becomes of the file (cli/cassettes.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, get_args

import trio

from relayproxy.cli import Failed
from relayproxy.cli.cassettes import CassetteFile, Mode
from relayproxy.replay.mocked import Front, Mocked, mocking
from relayproxy.testing.marker import MarkerError
from relayproxy.testing.served import TOLD, Listening, Served
from relayproxy.testing.thread import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from relayproxy.record.log import Reporter
    from relayproxy.relay.settings import Config

#: In a test's name, what a file's had better not have.
_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def path_of(asked: Mapping[str, Any], test: Path, name: str) -> Path:
    """The file: the marker's, relative to the test's; else cassettes/MODULE/NAME.dialog beside that."""
    path = str(asked.get("path", f"cassettes/{test.stem}/{_ODD.sub('-', name).strip('-')}.dialog"))
    if not path.endswith(".dialog"):
        raise MarkerError("smtp_cassette", [f"path: expected a .dialog file, got {path!r}"])
    return test.parent / path


def mode_of(asked: Mapping[str, Any], option: Mode | None, environ: Mapping[str, str]) -> Mode:
    """The command line's; else none in CI, else the marker's. Raises MarkerError."""
    default: Mode = "once" if "upstream" in asked else "none"
    mode: Mode = asked.get("mode", default)
    if mode not in (modes := get_args(Mode)):
        raise MarkerError("smtp_cassette", [f"mode: expected {', '.join(modes[:-1])} or {modes[-1]}, got {mode!r}"])
    return option or ("none" if environ.get("CI", "").lower() not in ("", "0", "false") else mode)


class CassetteFixture:
    """What a test is given as `smtp_cassette`: `host` and `port` are where the application's mail server is. `path`: of the file; `mode`: what became of the command line's and the marker's."""

    host: Final = "127.0.0.1"

    def __init__(self, path: Path, mode: Mode, config: Config, asked: Mapping[str, Any]) -> None:
        """`config`: with the real server, where there is one. It serves when this returns. Raises Trouble."""
        self.path = path
        self.mode = mode
        self._strict = bool(asked.get("strict"))
        if mode == "none" and not path.exists():
            raise Trouble(
                f"there is no cassette {path}; --smtp-cassette-mode once records it of the server that is the marker's upstream"
            )
        name = config.upstream_of(config.listener[0])
        upstream = config.upstream[name]
        try:
            if mode != "none":
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = CassetteFile(path, mode)
        except Failed as error:
            raise Trouble(str(error)) from error
        except OSError as error:
            raise Trouble(f"{error.filename}: {error.strerror}") from error
        if self._file.records and upstream.captures:
            raise Trouble(f"expected upstream= in @pytest.mark.smtp_cassette, the server that {path} is recorded of")
        behind = upstream if self._file.records else None
        self._config = mocking(config, self._file.sessions, Front(tls=asked.get("tls")), behind, name)
        self._cassette = self._file.cassette(repeats=bool(asked.get("repeats")))
        self._served = Served(self._serve, self._config)
        #: Where it listens.
        self.port = self._served.port

    @property
    def ca(self) -> Path:
        """The certificate, in PEM, of who signed the one that clients see: what a client that verifies has to trust. Raises Trouble where there is no TLS."""
        return self._served.ca("smtp_cassette")

    def close(self) -> str | None:
        """End it in good order; the file has what was recorded then. What failed: what came and is not recorded, or, where it is `strict`, the other way round. Raises Trouble: what went wrong within."""
        self._served.close()
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
        return "\n".join(lines)

    # In the thread.

    async def _serve(self, reporter: Reporter, ready: Callable[[Listening], None]) -> None:
        with self._file.recording(self._config, reporter) as recorder:
            served = Mocked(self._config, self._cassette, reporter, recorder=recorder)
            ((_, address),) = served.bind()
            with trio.CancelScope() as scope:
                ready(Listening(address, served.shut_down, scope.cancel))
                await served.run()
            self._file.keep(served)
