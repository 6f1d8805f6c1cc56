"""The server behind a recording, for one session that goes on there (DESIGN §8).

What was said of the transaction so far is said again. Invariants: what the recording answered is no promise of that server's: where it refuses afterwards what was taken, the refusal is the
answer to all that follows, and nobody gets the message. A server that lacks what its client was offered gets none of its mail (DESIGN §6). When one is called does not belong here (stand_in.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.relay.connect import UpstreamUnavailable
from relayproxy.smtp import local_replies
from relayproxy.smtp.commands import Mail, Rset
from relayproxy.smtp.replies import worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relayproxy.relay.upstream import Upstream
    from relayproxy.relay.upstream_leg import Connect
    from relayproxy.smtp.capabilities import Capabilities
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply


class Behind:
    """The server behind, for one session: `upstream` once it was called upon. `doom`: what it refused of what the recording had taken."""

    def __init__(
        self,
        connect: Connect,
        session: str,
        called: Callable[[], None],
        lost: Callable[[UpstreamUnavailable, bool], None],
        doomed: Callable[[], None],
    ) -> None:
        """`called` hears that it was; `lost` that it is not to be had, and whether that is while mail is taken, where the relay tells nobody; `doomed` that a refusal was the answer to something else."""
        self.upstream: Upstream | None = None
        #: What it is told in EHLO; None: our own name.
        self.name: bytes | None = None
        self.doom: Reply | None = None
        self._connect = connect
        self._session = session
        self._called = called
        self._lost = lost
        self._doomed = doomed

    async def call(self, said: Sequence[Command], offered: Capabilities | None = None) -> Upstream:
        """Connect, and say what was said so far and taken; `offered`: what the client was, where it was greeted before. Raises UpstreamUnavailable."""
        try:
            self.upstream = upstream = await self._reach(offered)
        except UpstreamUnavailable as error:
            self._lost(error, offered is not None)
            raise
        self._called()
        refused = [reply for reply in await upstream.exchange(said) if reply.severity != 2] if said else []
        self.doom = worst(refused) if refused else None
        return upstream

    async def _reach(self, offered: Capabilities | None) -> Upstream:
        upstream = await self._connect(self._session, self.name, None)
        if lacking := [] if offered is None else _lacking(upstream, offered):
            await upstream.leave()
            what = f"the server behind does not offer what the recording does: {', '.join(lacking)}"
            raise UpstreamUnavailable(what, local_replies.MISCONFIGURED)
        return upstream

    async def exchange(self, upstream: Upstream, commands: Sequence[Command]) -> list[Reply]:
        if self.doom is None:
            return await upstream.exchange(commands)
        replies: list[Reply] = []
        for command in commands:
            if isinstance(command, Mail | Rset):
                self.doom = None
            replies += await upstream.exchange([command]) if self.doom is None else [self._refuse(self.doom)]
        return replies

    async def start_data(self, upstream: Upstream, transaction: str) -> Reply:
        return await upstream.start_data(transaction) if self.doom is None else self._refuse(self.doom)

    def _refuse(self, doom: Reply) -> Reply:
        self._doomed()
        return doom


def _lacking(upstream: Upstream, offered: Capabilities) -> list[str]:
    """Keywords that a client was offered and would not be in front of this server; but for SIZE, which it judges itself, and AUTH, which does not go on."""
    there = upstream.capabilities.offer(message_bytes=1, margin=0, starttls=True)
    return [one.decode("ascii") for one in offered.keywords if one not in there and one != b"AUTH"]
