"""aiosmtpd in a thread of this process, at a port that is its own from the start, with whatever a test wants it to say."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller

if TYPE_CHECKING:
    from collections.abc import Iterator


class _OnAnyPort(Controller):
    def __init__(self, handles: object) -> None:
        self._bound = socket.create_server(("127.0.0.1", 0))
        super().__init__(handles, hostname="127.0.0.1", port=self._bound.getsockname()[1])

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._bound)


@contextmanager
def aiosmtpd(handles: object) -> Iterator[str]:
    """Where it is; `handles` has what aiosmtpd calls (handle_RCPT and so on)."""
    controller = _OnAnyPort(handles)
    controller.start()
    try:
        yield f"smtp://127.0.0.1:{controller.port}"
    finally:
        controller.stop()
