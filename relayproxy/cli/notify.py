"""What a relay tells the service manager that started it: that it serves, and that it ends (sd_notify(3), systemd's `Type=notify`).

Nobody is told where NOTIFY_SOCKET is not set. What signals mean does not belong here (run.py).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

#: All sockets are bound: who connects is served.
READY: Final = b"READY=1"
STOPPING: Final = b"STOPPING=1"


def notify(state: bytes) -> None:
    """One of the above. One that cannot be told is not: that the relay serves is worth more."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.sendto(state, "\0" + place[1:] if place.startswith("@") else place)
