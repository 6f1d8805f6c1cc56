"""The recorded server (DESIGN §8): a relay whose upstream is a recording.

    cassette = Cassette(sessions)
    served = Mocked(mocking(config, cassette), cassette, reporter)
    addresses = await nursery.start(served.run)       # what it listens at
    ...
    served.shut_down()                                # in good order

So all that a relay does for its clients holds: listeners, TLS, AUTH, limits, line endings, BDAT, the log; and what is said is said as a client of the relay heard it then. Rules have no say,
for they had it when it was recorded. Where there is a server behind for what was not recorded, the configuration's guard stands in front of it.
Invariants: without a server behind, nothing is ever connected to. Which answer is whose does not belong here (conversation.py, stand_in.py), nor reading a configuration (cli/).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from pydantic import TypeAdapter, ValidationError

from relayproxy.net.dial import dial
from relayproxy.net.stream import TrioStream
from relayproxy.relay.connect import UpstreamUnavailable
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules, guard_of
from relayproxy.relay.service import Relay
from relayproxy.relay.settings import Listener, Upstream
from relayproxy.relay.values import Hostname
from relayproxy.relay.workers import Workers
from relayproxy.replay.behind import Behind
from relayproxy.replay.conversation import converse
from relayproxy.replay.face import RECORDING
from relayproxy.replay.stand_in import Manner, StandIn
from relayproxy.rules.ruleset import RuleSet
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.relay.client_leg import ClientLeg
    from relayproxy.relay.settings import Config
    from relayproxy.relay.upstream import Upstream as Taker
    from relayproxy.relay.upstream_leg import Connect
    from relayproxy.replay.cassette import Cassette
    from relayproxy.replay.conversation import Conversation
    from relayproxy.replay.recorded import RecordedSession

#: A name that there never is (RFC 2606 §2): a mock alone connects to nothing.
_NOWHERE: Final = "smtp://recording.invalid"


class Front(NamedTuple):
    """Where clients connect. None: as the recorded server was."""

    addresses: Sequence[str] = ("127.0.0.1:0",)
    tls: str | None = None
    clients: Sequence[str] | None = None


def mocking(
    config: Config,
    cassette: Cassette,
    front: Front | None = None,
    behind: tuple[str, Upstream] | None = None,
) -> Config:
    """The configuration of a relay in the place of the server that this was recorded of. Raises ValidationError for a `front` that there cannot be.

    `behind`: the server for what was not recorded, and its name; nobody asks it but where the cassette passes that on.
    """
    front, sessions = front or Front(), cassette.sessions
    if cassette.otherwise != "pass":
        behind = None
    name, upstream = behind or (RECORDING, Upstream.model_validate({"url": _NOWHERE}))
    listeners = [
        Listener.model_validate(
            {
                "name": "mock" if number == 1 else f"mock-{number}",
                "address": address,
                "tls": front.tls or ("starttls" if _had_starttls(sessions) else "off"),
                "clients": front.clients,
                "upstream": name,
                "auth": "pass",  # what is answered is the recording's, or the server's behind
                "auth_in_clear": True,  # as it was then
                # What a recorded server said to odd line ends is in the recording; to a real one nothing odd goes.
                "line_endings": "normalise" if behind is None else "refuse",
            }
        )
        for number, address in enumerate(front.addresses, 1)
    ]
    return config.model_copy(
        update={
            # A server behind hears who we are: by the recorded one's name that may be itself.
            "hostname": (_hostname(sessions) if behind is None else None) or config.hostname,
            "trace": config.trace and behind is not None,
            "listener": tuple(listeners),
            "upstream": {name: upstream},
        }
    )


def _had_starttls(sessions: Sequence[RecordedSession]) -> bool:
    return any(answer.offers_tls for session in sessions for answer in session.hellos)


def _hostname(sessions: Sequence[RecordedSession]) -> str | None:
    """As the first that let somebody in said it."""
    for session in sessions:
        if session.lets_in and session.greeting.reply is not None:
            name = session.greeting.reply.lines[0].partition(b" ")[0].decode("ascii", "replace")
            try:
                return TypeAdapter(Hostname).validate_python(name)
            except ValidationError:
                return None
    return None


class Mocked:
    """`conversations`: of the sessions that went on to the server behind, by their ids, what they had heard of the recording before; `connected`: how many came.

    `troubles`: why the server behind could not be had, each reason once; `doomed`: the sessions that heard its refusal of something else than they had said.
    """

    def __init__(
        self,
        config: Config,
        cassette: Cassette,
        reporter: Reporter,
        *,
        manner: Manner | None = None,
        recorder: Recorder | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`config` as `mocking` gives it; `tell` hears at once of each trouble. Raises TlsConfigError, OSError."""
        self.cassette = cassette
        self.connected = 0
        self.troubles: list[str] = []
        self.doomed: set[str] = set()
        self.ending = trio.Event()
        self._reporter = reporter
        self._tell = tell
        self.conversations: dict[str, Conversation | None] = {}
        self._config = config
        self.manner = (manner or Manner())._replace(
            logs_in=any(upstream.credentials is not None for upstream in config.upstream.values()),
            introduces=any(upstream.ehlo == "client" for upstream in config.upstream.values()),
        )
        self._over = trio.Event()
        adopt = TrioStream.of_socket
        self._relay = Relay(
            config,
            reporter,
            dial=partial(dial, adopt=adopt),
            adopt=adopt,
            recorder=recorder,
            rulebook=_guard_alone(config),
            stand_in=self._stand_in,
        )

    def bind(self) -> list[tuple[Listener, str]]:
        """Open the listeners; their addresses. Raises OSError."""
        self._relay.bind()
        return self._relay.bound

    async def run(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> bool:
        """Serve until `shut_down` was called and sessions have ended; False: a listener failed. Binds where that was not done. Raises OSError."""
        bound = self._relay.bound or self.bind()
        task_status.started([address for _, address in bound])
        return await self._relay.serve()

    def warnings(self) -> list[str]:
        """What whoever started it should hear. Known once `bind` was called."""
        return self._relay.warnings()

    def shut_down(self) -> None:
        """Begin the orderly end; again, and all that waits ends now."""
        self.ending.set()
        self._relay.shut_down()

    async def over(self) -> None:
        """Wait until all that is recorded was played, or something came that is not and is refused, and sessions have ended; but not for long for clients that stay."""
        self.note_played()
        await self._over.wait()
        await self._relay.all_gone(self._config.drain)

    def replaced(self, by: Iterable[str]) -> list[RecordedSession]:
        """Those whose transactions were all played in these sessions that went on to the server behind, and stand in their recordings now."""
        conversations = [self.conversations[session] for session in by]
        again = {one for conversation in conversations if conversation for one in conversation.played}
        return [one for one in self.cassette.sessions if one.transactions and again.issuperset(one.transactions)]

    def _stand_in(self, client: ClientLeg, connect: Connect) -> Connect:
        self.connected += 1
        return _Session(self, client, connect).connect

    def lost(self, session: str, error: UpstreamUnavailable, late: bool) -> None:
        """The server behind is not to be had; `late`: nobody else tells the log."""
        if late:
            self._reporter.error("upstream", error.what, session=session)
        if error.what not in self.troubles:
            self.troubles.append(error.what)
            self._tell(error.what)

    def note_played(self) -> None:
        """Something was played, or refused."""
        if self.cassette.used_up or self.cassette.failed(strict=False):
            self._over.set()


class _Session:
    """One session's way to whoever takes its mail."""

    def __init__(self, mocked: Mocked, client: ClientLeg, connect: Connect) -> None:
        self._mocked = mocked
        self._client = client
        self._connect = connect
        self._taker: StandIn | None = None

    async def connect(self, session: str, ehlo: bytes | None, routed: str | None) -> Taker:
        """Raises UpstreamUnavailable where the recording turns it away, or the server behind is not to be had."""
        del ehlo, routed
        if self._taker is not None:
            return await self._taker.call_behind()
        mocked = self._mocked
        conversation = converse(mocked.cassette)
        behind = Behind(
            self._connect,
            session,
            partial(self._note, session, conversation),
            partial(mocked.lost, session),
            partial(mocked.doomed.add, session),
        )
        self._taker = StandIn(conversation, behind, self._client, mocked.manner, mocked.note_played, mocked.ending)
        try:
            await self._begin(self._taker, conversation)
        except BaseException:
            mocked.note_played()
            raise
        return self._taker

    async def _begin(self, taker: StandIn, conversation: Conversation | None) -> None:
        if conversation is not None:
            await taker.greet(conversation.greeting)
        elif self._mocked.cassette.otherwise == "pass":
            await taker.call_behind()
        else:
            raise UpstreamUnavailable("all that is recorded was played", local_replies.not_recorded(None))

    def _note(self, session: str, conversation: Conversation | None) -> None:
        self._mocked.conversations[session] = conversation


def _guard_alone(config: Config) -> Rulebook:
    """No rules, but the guard, which stands in front of the server behind: what is played reaches nobody."""
    workers = Workers(config.limits.rule_threads, config.limits.rule_time)
    return Rulebook(Rules(RuleSet(), guard_of(config)), Drawn(None, trio.current_time), workers)
