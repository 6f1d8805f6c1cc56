"""haproxy: in front of relayproxy, telling it who the client is; and behind it, being told."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from real_cast import took_part
from real_process import folder, free_port, program, started, until, wait_for_listener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Says = Literal["send-proxy", "send-proxy-v2"]

CONF = """\
global
    log stdout format raw local0
defaults
    mode tcp
    log global
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    option tcplog
listen through
    bind 127.0.0.1:{port} {bind}
    server there 127.0.0.1:{target} {server}
"""


class Haproxy:
    """One under way, and what it says of the connections that have ended."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log

    def wait_for_client(self, address: str) -> None:
        """Until it has told that a connection from there has ended."""
        told = re.compile(rf"^{re.escape(address)}:[0-9]+ \[", re.MULTILINE)
        until(lambda: told.search(self._log.read_text()), f"a client from {address} at haproxy")


@contextmanager
def haproxy(target: int, *, says: Says | None = None, hears: bool = False) -> Iterator[Haproxy]:
    """In front of a port: `says` a PROXY header to it, or `hears` one from its own clients, of either version."""
    path = program("haproxy")
    took_part("haproxy", "in front, and behind")
    with folder() as work:
        log = work / "log"
        one = Haproxy(log)
        (work / "conf").write_text(
            CONF.format(port=one.port, target=target, bind="accept-proxy" if hears else "", server=says or "")
        )
        with started([path, "-db", "-f", work / "conf"], log) as process:
            wait_for_listener(process, one.port, log)
            yield one
