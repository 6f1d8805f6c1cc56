"""Addresses as one configures them (DESIGN §5), and whom they reach.

What networks a peer is in does not belong here (mail/ip.py), nor opening sockets (listen.py, dial.py).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal

import msgspec

from relayproxy.mail.ip import plain_address

#: Address and port; the port of a Unix socket is None, its address "unix:" and the path it was reached by.
Peername = tuple[str, int | None]

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})", re.ASCII
)
_FD_NAME = re.compile(r"[!-9;-~]{1,255}")
_EXPECTED = "expected host:port, [v6]:port, unix:/path or fd:NAME"


class Address(msgspec.Struct, frozen=True, gc=False):
    """Where to listen; `host` is the path of a Unix socket and the name of an inherited one."""

    kind: Literal["tcp", "unix", "fd"]
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{self.kind}:{self.host}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; a Unix socket counts as that (DESIGN §5).

        Of a socket that is inherited nothing is known before it is taken, so it does not: who may connect has to be said.
        """
        return self.kind == "unix" or (self.kind == "tcp" and is_loopback(self.host))


def parse_address(text: str) -> Address:
    """Read an address as it stands in the configuration; ValueError says what was expected."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"expected an absolute path after unix:, got {text!r}")
        return Address("unix", path)
    if text.startswith("fd:"):
        name = text.removeprefix("fd:")
        if not _FD_NAME.fullmatch(name):
            raise ValueError(f"expected a name as in LISTEN_FDNAMES after fd:, got {text!r}")
        return Address("fd", name)
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"{_EXPECTED}, got {text!r}")
    port = int(match["port"])
    if port > 0xFFFF:
        raise ValueError(f"expected a port up to 65535, got {port}")
    host = match["v6"] or match["host"]
    if match["v6"] or re.fullmatch(r"[0-9.]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"expected an IP address, got {host!r}") from None
    return Address("tcp", host, port)


@lru_cache(maxsize=1024)  # asked at each EHLO of each client
def is_loopback(host: str) -> bool:
    """Whether what is said to that host stays in this machine: an address of loopback, or a Unix socket (`unix:...`)."""
    if host.lower() == "localhost" or host.startswith("unix:"):
        return True
    address = plain_address(host)
    return address is not None and address.is_loopback  # a name means what somebody's resolver says
