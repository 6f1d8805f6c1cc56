"""Looking up names, in threads of their own: a resolver that does not answer stops nothing but what asks it, and a name takes one thread, however many ask for it.

Which of its addresses is connected to does not belong here (dial.py).
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any, Final

import trio

from relayproxy.net.shared import Shared
from relayproxy.net.threads import Threads

#: After which a lookup is given up and the next begins anew: longer than all tries of resolv.conf's usual settings take.
LOOKUP_SECONDS: Final = 60.0

_NAMES: Final = Threads("names")


class Resolver(trio.abc.HostnameResolver):
    """The system's, for a run of trio. What comes here is a name: addresses trio reads by itself."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[object, ...], Shared[list[Any]]] = {}  # as many as there are names of upstreams

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  its name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        asked = (host, port, family, type, proto, flags)
        if (lookup := self._lookups.get(asked)) is None:
            ask = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
            lookup = self._lookups[asked] = Shared(partial(_in_time, ask))
        return await lookup.result()

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        return await _NAMES.read(partial(socket.getnameinfo, sockaddr, flags), LOOKUP_SECONDS, "names")


async def _in_time(ask: partial[list[Any]]) -> list[Any]:
    try:
        return await _NAMES.read(ask, LOOKUP_SECONDS, "names")
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {LOOKUP_SECONDS:g} s") from None


def resolve_in_own_threads() -> None:
    """From here on in this run of trio, unless it has another resolver already."""
    if (before := trio.socket.set_custom_hostname_resolver(Resolver())) is not None:
        trio.socket.set_custom_hostname_resolver(before)
