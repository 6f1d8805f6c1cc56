"""The built-in upstream `capture:`: takes every message and keeps it as a file, durable before it answers (DESIGN, named exception).

One file a transaction, `captures/ID.eml` under `state`, mode 0600: the message as it would have left. It is written beside its final
place, synced, renamed, and the folder synced, so that after the 250 it survives power loss, and before it there is no such file.
Writing and syncing is done in worker threads. A disk that cannot take it is answered 452 or 451 and nothing is left behind.
Finding, listing and retention do not belong here (the store).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from relayproxy.relay.upstream import UNASKED
from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from relayproxy.net.dial import Kind
    from relayproxy.relay.upstream import Progress, Violation
    from relayproxy.smtp.commands import Command
    from relayproxy.tls.facts import TlsFacts

#: Octets gathered before a thread is asked to write them.
BLOCK = 256 * 1024
#: What the captured can ask for: all that relayproxy offers at best.
CAPABILITIES = Capabilities.parse(
    Reply(250, (b"capture", b"PIPELINING", b"SIZE", b"8BITMIME", b"SMTPUTF8", b"DSN", b"ENHANCEDSTATUSCODES"))
)
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CaptureUpstream:
    """Keeps the mail of one session."""

    kind: Kind = "capture"
    host = None
    address = None
    port = None
    failure: Reply | None = None
    violation: Violation | None = None
    spent = False
    tls: TlsFacts | None = None
    withheld: Sequence[Command] = ()

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.capabilities = CAPABILITIES
        self.trouble: str | None = None
        self.progress: Progress = "none"
        self._folder = folder
        self._id = ""
        self._file: int | None = None
        self._at_line_start = True
        self._waiting: list[bytes] = []
        self._waiting_octets = 0

    def listen(self) -> None:
        """There is nobody to listen to."""

    async def exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Reply]:
        del deadline  # nothing waits
        return [UNASKED[command.verb] for command in commands]

    async def start_data(self, transaction: str) -> Reply:
        self.progress = "begun"
        self.trouble = None
        self._id = transaction
        self._at_line_start = True
        return local_replies.START_MAIL

    async def send(self, data: bytes) -> Reply | None:
        self._gather(data)
        if self._waiting_octets < BLOCK:
            return None
        try:
            await trio.to_thread.run_sync(self._write, self._take())
        except OSError as error:
            return self._refuse(error)
        return None

    async def finish(self, data: bytes) -> Reply:
        self._gather(data)
        try:
            await trio.to_thread.run_sync(self._keep, self._take())
        except OSError as error:
            return self._refuse(error)
        self.progress = "answered"
        return local_replies.captured(self._id)

    def _gather(self, data: bytes) -> None:
        """Undo dot-stuffing (RFC 5321 §4.5.2); a line may begin with any slice."""
        if not data:
            return
        starts_line, self._at_line_start = self._at_line_start, data.endswith(b"\r\n")
        if starts_line and data.startswith(b"."):
            data = data[1:]
        self._waiting.append(data.replace(b"\r\n.", b"\r\n"))
        self._waiting_octets += len(data)

    def _take(self) -> bytes:
        content = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_octets = 0
        return content

    @property
    def _partial(self) -> Path:
        return self._folder / f".{self._id}.partial"

    def _write(self, content: bytes) -> int:
        """Write to the file, which is opened where it is not yet; its descriptor."""
        if self._file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]
        return self._file

    def _keep(self, content: bytes) -> None:
        file = self._write(content)
        os.fsync(file)
        self._file = None  # before close, which frees the descriptor even where it fails
        os.close(file)
        self._partial.rename(self._folder / f"{self._id}.eml")
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _refuse(self, error: OSError) -> Reply:
        self.trouble = f"capture: {error.strerror}"
        self._discard()
        # It may be in place already where the folder could not be synced; who was told no sends it again.
        self._remove(self._folder / f"{self._id}.eml")
        return local_replies.DISK_FULL if error.errno in _NO_SPACE else local_replies.RECORD_FAILED

    def _discard(self) -> None:
        self._take()
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it goes anyway
                os.close(file)
        if self._id:
            self._remove(self._partial)

    @staticmethod
    def _remove(path: Path) -> None:
        with suppress(OSError):  # not there, or as unwilling as all else that brought us here
            path.unlink()

    def drop(self) -> None:
        self._discard()

    def expire(self) -> None:
        """Writing to disk is not interrupted: it ends by itself."""

    async def leave(self) -> None:
        self._discard()
