"""What waits for the thread that writes to the store (writer.py): what a task waits for, and what nobody does.

When it is written does not belong here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import outcome
import trio

from relayproxy.record.store.weights import files_of, octets_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from relayproxy.record.store.interface import RecordError, Write


class Commit:
    """What the task that makes it waits for. `task` is the loop's, the rest the thread's, but for `take_back`."""

    __slots__ = ("durable", "error", "task", "token", "writes")

    def __init__(self, writes: Sequence[Write], *, durable: bool) -> None:
        self.writes = writes
        self.durable = durable
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.error: RecordError | None = None

    def take_back(self) -> None:
        """Nobody waits for it any more. What is being written just now is written."""
        self.task, self.writes = None, ()


class Put:
    """What nobody waits for; without writes, where it was dropped, it is for its files alone."""

    __slots__ = ("files", "octets", "writes")

    durable: Final = False

    def __init__(self, write: Write) -> None:
        self.writes: Sequence[Write] = (write,)
        self.octets = octets_of(write)
        self.files = files_of(write)


Item = Commit | Put


def remove(files: list[Path]) -> None:
    while files:
        with suppress(OSError):  # it is found at the next start
            files.pop().unlink()


def wake(commits: list[Commit]) -> None:
    """One call into each trio run, however many tasks wait there."""
    for token in {commit.token for commit in commits}:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(_reschedule, [commit for commit in commits if commit.token is token])


def _reschedule(commits: list[Commit]) -> None:
    for commit in commits:
        task, commit.task = commit.task, None
        if task is None:
            continue
        if commit.error is None:
            trio.lowlevel.reschedule(task)
        else:
            trio.lowlevel.reschedule(task, outcome.Error(commit.error))
