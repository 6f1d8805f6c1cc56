"""The relay that stands between a player and its target: this very process's, over a pair of sockets that nobody else can reach.

So all that a relay promises holds for what is replayed (DESIGN §8, §9; attack 32): what is said is judged as off the wire, rules and guard have their say, TLS and credentials are the
target's own, every wait ends; and what the player hears is what a client of the relay would, which is what was recorded.

Invariants: mail goes to the target and nowhere else. A client is, to rules, who it was then: address and listener; but in clear, and not logged in.
What is played does not belong here (player.py), nor reading a configuration (cli/).
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import trio

from relayproxy.net.dial import dial
from relayproxy.net.stream import TrioStream
from relayproxy.relay.service import Relay
from relayproxy.relay.settings import Upstream

if TYPE_CHECKING:
    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.relay.settings import Config

#: The name of a target that is no upstream of the configuration.
TARGET = "target"


def aimed(config: Config, to: str | UpstreamUrl, concurrency: int, hostname: str | None = None) -> Config:
    """The configuration of a relay whose only upstream is `to`, which is the name of one or a url, for so many sessions at once.

    `hostname`: in place of the configuration's, which upstream hears in EHLO. Listeners keep name and line endings, for what rules and records say of them.
    """
    if isinstance(to, str):
        name, upstream = to, config.upstream[to]
    else:
        name, upstream = TARGET, Upstream.model_validate({"url": str(to)})
    clear = {"tls": "off", "auth": "off", "clients": None, "proxy_protocol": (), "upstream": name}
    listeners = tuple([listener.model_copy(update=clear) for listener in config.listener])
    limits = config.limits
    most = {
        "sessions": max(limits.sessions, concurrency),
        "sessions_per_client": max(limits.sessions_per_client, concurrency),
    }
    return config.model_copy(
        update={
            "hostname": hostname or config.hostname,
            "listener": listeners,
            "upstream": {name: upstream},
            "limits": limits.model_copy(update=most),
        }
    )


class Between:
    """`run` it while sessions are played; `connect` gives a player its stream."""

    def __init__(self, config: Config, rulebook: Rulebook, reporter: Reporter, recorder: Recorder | None) -> None:
        """`config` is `aimed`. Raises TlsConfigError, OSError."""
        self._listeners = {listener.name: listener for listener in reversed(config.listener)}
        self._first = config.listener[0]
        adopt = TrioStream.of_socket
        self._relay = Relay(
            config, reporter, dial=partial(dial, adopt=adopt), adopt=adopt, recorder=recorder, rulebook=rulebook
        )
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._relay.watch()

    def connect(self, client: tuple[str, int | None], listener: str | None) -> trio.SocketStream:
        """A connection of that client to that listener; to the first where there is none of that name."""
        if self._nursery is None:
            raise RuntimeError("expected the relay to run")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        at = self._listeners.get(listener or "", self._first)
        self._nursery.start_soon(self._relay.session, TrioStream.of_socket(theirs), *client, at)
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def end(self) -> None:
        """Let what is under way come to its end, for as long as the configuration says."""
        self._relay.shut_down()
        await self._relay.drain()

    def cut_off(self) -> None:
        """End at once what `end` waits for."""
        self._relay.shut_down()
