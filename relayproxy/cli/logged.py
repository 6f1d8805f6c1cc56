"""The log of a running relay, as its configuration has it: opened before anything listens, written to its end when all else has ended.

What is in it does not belong here (record/log.py).
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import F_GETFL, fcntl
from functools import partial
from typing import TYPE_CHECKING, Final

from relayproxy.cli import Failed, in_words, say
from relayproxy.cli.standard_output import UNWRITTEN
from relayproxy.record.log import open_log
from relayproxy.record.sink import MAX_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.record.log import Reporter
    from relayproxy.relay.settings import Config

#: Seconds that the log has to write what waits when everything else has ended.
LAST_LINES: Final = 10.0


@dataclass(slots=True)
class Log:
    """`told`: whether it was written to its end, known behind that."""

    reporter: Reporter
    told: bool = False


@contextmanager
def logged(config: Config, *, refuses: bool) -> Iterator[Log]:
    """`refuses`: mail is, for as long as it cannot be written; else it is recorded elsewhere. Raises Failed, also for what the system does not give to what goes on within."""
    told = config.log
    if told.file is None and fcntl(1, F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # as standard_output.py leaves it
        raise Failed("the log cannot be opened: standard output is closed", UNWRITTEN)
    try:
        alarm = partial(_tell, refuses=refuses)
        max_kept = math.inf if refuses else MAX_KEPT
        log = Log(open_log(told.file, told.format, told.level, alarm, config.record.privacy, max_kept))
    except OSError as error:
        raise Failed(f"the log cannot be opened: {error.filename}: {error.strerror}") from error
    try:
        with in_words():
            yield log
    finally:
        # Nothing else runs any more, so that it may block.
        log.told = log.reporter.close(LAST_LINES)
        if not log.told:
            say("relayproxy: the log could not be written to its end")


def _tell(trouble: str | None, *, refuses: bool) -> None:
    """Where the log itself cannot say it; another thread than the loop's does."""
    if trouble is None:
        say("relayproxy: the log can be written again")
    else:
        say(f"relayproxy: the log cannot be written: {trouble}{'; mail is refused until it can' if refuses else ''}")
