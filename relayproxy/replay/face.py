"""What a relay sees of whoever answers a session: the recording, or the server behind once there is one (relay/upstream.py `Upstream`).

Invariants: nothing is kept of the server behind that could be of another moment. What is answered does not belong here (stand_in.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.net.dial import Kind
    from relayproxy.relay.upstream import Progress, Upstream, Violation
    from relayproxy.replay.behind import Behind
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply
    from relayproxy.tls.facts import TlsFacts

#: Its name in records.
RECORDING: Final = "recording"


@dataclass(slots=True)
class Recorded:
    """The recording's."""

    name: str = RECORDING
    kind: Kind = "smtp"
    host: str | None = None
    address: str | None = None
    port: int | None = None
    private: bool = True  # nobody else hears what it is told
    failure: Reply | None = None
    trouble: str | None = None
    violation: Violation | None = None
    progress: Progress = "none"
    tls: TlsFacts | None = None
    withheld: Sequence[Command] = ()
    spent: bool = False


class Face:
    """`recorded`: what holds as long as there is no server behind."""

    def __init__(self, behind: Behind) -> None:
        self.behind = behind
        self.recorded = Recorded()

    @property
    def _shown(self) -> Upstream | Recorded:
        return self.behind.upstream or self.recorded

    @property
    def name(self) -> str:
        return self._shown.name

    @property
    def kind(self) -> Kind:
        return self._shown.kind

    @property
    def host(self) -> str | None:
        return self._shown.host

    @property
    def address(self) -> str | None:
        return self._shown.address

    @property
    def port(self) -> int | None:
        return self._shown.port

    @property
    def private(self) -> bool:
        return self._shown.private

    @property
    def failure(self) -> Reply | None:
        return self._shown.failure

    @property
    def trouble(self) -> str | None:
        return self._shown.trouble

    @property
    def violation(self) -> Violation | None:
        return self._shown.violation

    @property
    def progress(self) -> Progress:
        return self._shown.progress

    @property
    def tls(self) -> TlsFacts | None:
        return self._shown.tls

    @property
    def withheld(self) -> Sequence[Command]:
        return self._shown.withheld

    @property
    def spent(self) -> bool:
        return self._shown.spent
