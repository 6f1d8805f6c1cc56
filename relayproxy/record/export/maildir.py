"""A maildir: a folder that mail programs read, a file a message, `cur`, `new` and `tmp` in it.

Invariants: a message stands in `new` whole or not at all (it is written in `tmp` and renamed); its name is made of the transaction's id, so that what is
exported twice is there once. Files are the owner's alone. Lines end in LF, as delivery agents write them. Which messages go there does not belong here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from relayproxy.record.export.mailboxes import unix_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from relayproxy.record.report import TransactionRecord


class Maildir:
    """One that is there or is made. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("cur", "new", "tmp"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        self._folder = folder

    def add(self, record: TransactionRecord, message: Iterable[bytes]) -> None:
        """Add a message; its file is as old as the message is."""
        at = datetime.fromisoformat(record.time).timestamp()
        name = f"{int(at)}.R{record.transaction}.relayproxy"
        waiting = self._folder / "tmp" / name
        try:
            with os.fdopen(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.writelines(unix_lines(message))
                file.flush()
                os.fsync(file.fileno())
            os.utime(waiting, (at, at))
            waiting.rename(self._folder / "new" / name)
        except BaseException:
            with suppress(OSError):
                waiting.unlink()
            raise
