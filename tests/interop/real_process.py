"""Real programs for the tests: found or skipped, started in the foreground, ended by pid.

Where a program is missing the test is skipped and says so; with RELAYPROXY_REQUIRE_PEERS=1 (CI) it fails instead.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")
# Programs for administrators are not on everybody's PATH.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
# What install-peers.sh has put nowhere else.
PEERS = Path(os.environ.get("RELAYPROXY_INTEROP_PEERS", "/var/cache/relayproxy-peers"))


def missing(why: str) -> NoReturn:
    """Skip this test, or fail it where all peers must be there."""
    if os.environ.get("RELAYPROXY_REQUIRE_PEERS") == "1":
        pytest.fail(f"{why}, and RELAYPROXY_REQUIRE_PEERS=1 asks for it", pytrace=False)
    pytest.skip(why)


def find(name: str) -> str | None:
    """Where a program is, if it is."""
    return shutil.which(name, path=SEARCH)


def program(name: str) -> str:
    """Where a program is; without it there is no test."""
    return find(name) or missing(f"{name} is not installed")


def free_port() -> int:
    """A loopback port that nobody has now, below the range from which outgoing connections take theirs.

    For programs that cannot choose one and tell us; relayproxy can (port 0).
    """
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(probe: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """The first true answer; for programs that give no other sign when they are ready or done."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return answer


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A work folder that other users may enter: Postfix has several, and pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="relayproxy-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextlib.contextmanager
def started(
    argv: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the foreground; its output goes to a file, which a failure to start quotes."""
    with (
        log.open("ab") as output,
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environ} if environ else None,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes], seconds: float = 10) -> int:
    """SIGTERM, then SIGKILL; the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def wait_for_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until a program that was started accepts connections."""

    def ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        return listens(port)

    until(ready, f"port {port} open")
