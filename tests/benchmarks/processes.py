"""What the rig asks of the operating system: processes that it started, their CPU time and memory, free ports.

Linux only (/proc). Processes are ended by pid, and only those that were started here.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TICK = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """A line of /proc/PID/stat; CPU seconds are of the process and of its reaped children."""

    parent: int
    user: float
    system: float
    started: int


class Memory(NamedTuple):
    """Sums over a process tree, KiB."""

    resident: int
    peak: int
    proportional: int
    processes: int


def stat_of(pid: int) -> Stat | None:
    """None where there is no such process."""
    try:
        f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return Stat(int(f[1]), (int(f[11]) + int(f[13])) / TICK, (int(f[12]) + int(f[14])) / TICK, int(f[19]))


def tree(root: int) -> list[int]:
    """The process and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - thousands of entries, many times
        if entry.isdigit() and (stat := stat_of(int(entry))):
            children.setdefault(stat.parent, []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_of(root: int | None) -> tuple[float, float]:
    """User and system CPU seconds of a process tree."""
    stats = [stat for pid in tree(root) if (stat := stat_of(pid))] if root else []
    return sum(stat.user for stat in stats), sum(stat.system for stat in stats)


def memory_of(root: int) -> Memory:
    """What a process tree holds now, and the sum of its peaks."""
    resident = peak = proportional = processes = 0
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/status").read_text() + Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        fields = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.endswith(" kB")}
        if "VmRSS" not in fields:  # a zombie
            continue
        resident += int(fields["VmRSS"])
        peak += int(fields["VmHWM"])
        proportional += int(fields["Pss"])
        processes += 1
    return Memory(resident, peak, proportional, processes)


def machine_busy() -> float:
    """CPU seconds that nobody could have but those who had them: worked, or stolen by the machine's host."""
    f = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]))
    return (sum(f[:3]) + sum(f[5:8])) / TICK


def free_port() -> int:
    """A loopback port that nobody has now, below the range from which the load's own connections take theirs."""
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def on_cpus(cpus: set[int] | None) -> Iterator[None]:
    """What is started within stays on these CPUs, with all its children."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Started:
    """A process that we started, in the foreground of its own session."""

    def __init__(
        self, argv: Sequence[str], cpus: set[int] | None, output: IO[bytes], environ: Mapping[str, str] | None = None
    ) -> None:
        with on_cpus(cpus):
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, start_new_session=True
            )
        self.pid = self.process.pid

    def status(self) -> int | None:
        return self.process.poll()

    def end(self, grace: float = 6) -> None:
        """SIGTERM, then SIGKILL; the same for what it leaves behind (known by pid and start time)."""
        left = {pid: stat.started for pid in tree(self.pid) if (stat := stat_of(pid))}
        if self.status() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid, started in left.items():
            for number in (signal.SIGTERM, signal.SIGKILL):
                if pid != self.pid and _same(pid, started):
                    os.kill(pid, number)
                    _wait_for_end(pid, started)


def _same(pid: int, started: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and stat.started == started


def _wait_for_end(pid: int, started: int) -> None:
    for _ in range(20):
        if not _same(pid, started):
            return
        time.sleep(0.05)
