"""relayproxy as users run it: a process of its own, a config file, JSON lines on its standard output."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Line = dict[str, Any]

CONFIG = """\
hostname = "relay.test"
state = "{work}/state"
drain = "{drain}"

[[listener]]
name = "interop"
address = "127.0.0.1:0"
upstream = "sink"

[upstream.sink]
url = "smtp://127.0.0.1:{upstream}"
"""


class Relay:
    """A process under way, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process, self.errors = process, errors
        self.lines: list[Line] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        output = self.process.stdout
        assert output
        for text in output:
            line = json.loads(text)
            with self._news:
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


@contextmanager
def running(upstream: int, work: Path, drain: str = "30s") -> Iterator[Relay]:
    """relayproxy in front of a port."""
    config, errors = work / "relay.toml", work / "relay.err"
    config.write_text(CONFIG.format(work=work, drain=drain, upstream=upstream))
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "relayproxy", "run", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=work,
            start_new_session=True,
        ) as process,
    ):
        relay = Relay(process, errors)
        try:
            yield relay
        finally:
            relay.kill()
