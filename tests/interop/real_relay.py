"""relayproxy as users run it: a process of its own, a config file, JSON lines on its standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Line = dict[str, Any]

CONFIG = """\
hostname = "relay.test"
state = "{state}"
drain = "{drain}"

[[listener]]
name = "interop"
address = "127.0.0.1:0"
upstream = "sink"
{listener}
[upstream.sink]
url = "{url}"
{upstream}
[tls]
{tls}
{tables}
"""


@dataclass(frozen=True)
class Setting:
    """How a relay is to stand: where upstream is, and further lines of its configuration, each for its table; `tables` are whole ones."""

    url: str
    listener: str = ""
    upstream: str = ""
    tls: str = ""
    tables: str = ""
    drain: str = "30s"
    state: Path | None = None

    @classmethod
    def in_clear(cls, port: int, drain: str = "30s") -> Setting:
        return cls(f"smtp://127.0.0.1:{port}", drain=drain)


class Relay:
    """A process under way, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path, folders: tuple[Path, ...]) -> None:
        self.process, self.errors, self.folders = process, errors, folders
        self.lines: list[Line] = []
        self.output = b""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        output = self.process.stdout
        assert output
        for text in output:
            line = json.loads(text)
            with self._news:
                self.output += text
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def port(self) -> int:
        """Where it listens: it says so before it takes any session."""
        return int(self.wait_for("listening")["address"].rpartition(":")[2])

    def events(self, event: str) -> list[Line]:
        with self._news:
            return [line for line in self.lines if line["event"] == event]

    def wait_for(self, event: str, seconds: float = 20) -> Line:
        """The first line of this kind."""
        return self.wait_until(lambda: self.events(event), f"a line {event!r}", seconds)[0]

    def wait_until(self, probe: Callable[[], list[Line]], what: str, seconds: float = 20) -> list[Line]:
        """The first answer that is not empty; asked whenever a line comes."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (answer := probe()):
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    pytest.fail(f"expected {what}; it wrote {self.lines} and {self.errors.read_text()[-2000:]!r}")
                self._news.wait(min(left, 0.2))
            return answer

    def written(self) -> list[bytes]:
        """All that it has written anywhere: its output, and each file."""
        files = (path for folder in self.folders for path in folder.rglob("*") if path.is_file())
        return [self.output, *(path.read_bytes() for path in files)]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self, seconds: float = 20) -> int:
        """The exit status, once it is there and all lines are read."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def stop(self) -> list[Line]:
        """End it in good order; every transaction line that it wrote."""
        if self.process.poll() is None:
            self.terminate()
        assert self.ended() == 0, self.errors.read_text()[-2000:]
        assert self.errors.read_text().count("Traceback") == 0, self.errors.read_text()[-2000:]
        return self.events("transaction")

    def kill(self) -> None:
        """Whatever a failed test left behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(20)


def configure(setting: Setting, work: Path) -> Path:
    """The configuration, as a file in the folder where all else is written too."""
    config = work / "relay.toml"
    state = setting.state or work / "state"
    lines = {name: getattr(setting, name) for name in ("url", "listener", "upstream", "tls", "tables", "drain")}
    config.write_text(CONFIG.format(state=state, **lines))
    return config


@contextmanager
def running(setting: Setting, work: Path) -> Iterator[Relay]:
    """relayproxy in front of an upstream."""
    with run([str(configure(setting, work))], work, setting.state) as relay:
        yield relay


@contextmanager
def run(arguments: Sequence[str], work: Path, state: Path | None = None) -> Iterator[Relay]:
    """`relayproxy run` with these arguments; what it keeps where nobody says where is in `work`."""
    errors = work / "relay.err"
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "relayproxy", "run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=work,
            env={**os.environ, "HOME": str(work)},
            start_new_session=True,
        ) as process,
    ):
        relay = Relay(process, errors, (work, state or work))
        try:
            yield relay
        finally:
            relay.kill()


def export(state: Path, work: Path) -> Path:
    """The certificate of the authority that a relay with this state has, as its users get it."""
    config = configure(Setting("capture:", state=state), work)
    certificate = work / "relay-ca.pem"
    argv = [sys.executable, "-m", "relayproxy", "ca", "export", "--config", str(config)]
    argv += ["--output", str(certificate)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return certificate
