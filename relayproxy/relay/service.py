"""The relay as a service: listeners, sessions, and an orderly end.

Listeners are bound before anything else; sessions run in one nursery, each for itself: what goes wrong in one is told (`error`) and ends
that one alone, so that no wait behind a final dot is cut short by another's trouble. Shutting down (DESIGN §9): stop accepting, 421 to idle clients, let transactions end for up to `drain`, then end every wait.
What a session does does not belong here (session.py), nor reading a configuration (cli/config.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from relayproxy.mail.ip import is_in
from relayproxy.net.descriptors import make_room
from relayproxy.net.listen import BATCH, accept, bind, bound_name
from relayproxy.net.peer import Peer, PeerLost, endpoint
from relayproxy.net.proxy_header import Ends, ProxyHeaderError, receive_proxy_header
from relayproxy.relay.client_leg import ClientLeg
from relayproxy.relay.connections import Connections
from relayproxy.relay.context import Context
from relayproxy.relay.credentials import without_secret
from relayproxy.relay.identity import Ids, instance, instance_at, new_name
from relayproxy.relay.keyring import Keyring
from relayproxy.relay.late import Late
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules
from relayproxy.relay.session import Session
from relayproxy.relay.workers import Workers
from relayproxy.rules.ruleset import RuleSet
from relayproxy.smtp import local_replies
from relayproxy.smtp.server import ServerProtocol

if TYPE_CHECKING:
    import socket

    from relayproxy.net.address import Peername
    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder, Recording
    from relayproxy.record.tape import LegTape
    from relayproxy.relay.connect import Dial
    from relayproxy.relay.settings import Config, Listener
    from relayproxy.relay.upstream_leg import Connect
    from relayproxy.smtp.replies import Reply

#: After `drain`, how long sessions may take to say goodbye before they are cancelled.
GOODBYES = 5.0
#: Of those who may not come in, how many at once are given time to read why; a flood of more of them holds nothing of ours (attack 18).
TURNED_AWAY = 100
#: Sessions that anybody would expect to be possible, whatever the limits say.
FEW = 1000
#: File descriptors of a session, its legs; and of its message once that waits on disk: on its way into the store, where rules hold it back (what came,
#: and what is made of it), and where another may leave than the one that came, of that one in the store.
LEGS = 2
KEPT = 1
HELD_BACK = 2
KEPT_AS_SENT = 1
#: File descriptors that are no session's: who is turned away or was just accepted, listeners, the log, what resolves names.
RESERVED = TURNED_AWAY + 2 * BATCH + 64
#: Seconds between two looks at clients that nobody listens to, and at rule files.
LOOK = 5.0


#: From a session's client and its way to connect with upstream to another way (replay/mocked.py).
Instead = Callable[[ClientLeg, "Connect"], "Connect"]


class Relay:
    """Serves `config.listener`; `session` alone is the relay without sockets, over any stream."""

    def __init__(
        self,
        config: Config,
        reporter: Reporter,
        *,
        dial: Dial,
        adopt: Callable[[socket.socket], DeadlineStream],
        recorder: Recorder | None = None,
        rulebook: Rulebook | None = None,
        stand_in: Instead | None = None,
    ) -> None:
        """`dial` opens connections to upstreams, `adopt` makes a stream of a socket that was accepted; `stand_in`: what takes the mail in place of upstreams, hears each EHLO, and answers it alone.

        Raises TlsConfigError, OSError.
        Without a `recorder` nothing is kept, and there can be no `capture:`.
        """
        if recorder is None and any(upstream.captures for upstream in config.upstream.values()):
            raise ValueError("expected a recorder, since there is a capture: upstream")
        self._config = config
        self._keyring = Keyring(config, partial(reporter.error, "keylog"))
        self._adopt = adopt
        self._reporter = reporter
        self._recorder = recorder
        self._late = Late(self._tell_fault)
        self._rulebook = rulebook or Rulebook(
            Rules(RuleSet(), None),
            Drawn(None, time.monotonic),
            Workers(config.limits.rule_threads, config.limits.rule_time),
        )
        self._connections = Connections(config, dial, self._keyring, self._rulebook, reporter)
        self._stand_in = stand_in
        self._ids = Ids()
        self._sessions: dict[str, Session] = {}
        self._per_client: Counter[str] = Counter()
        self._arriving = 0  # connections whose PROXY header is awaited
        self._turning_away = 0
        self._places = config.limits.sessions
        self._shutdown = trio.Event()
        self._draining = trio.CancelScope()
        self._hurried = False
        #: Set when nobody waits for sessions any more: they were cancelled, and what a thread does for them on a disk is all that can keep them.
        self.given_up = trio.Event()
        self._last_gone: trio.Event | None = None
        self._sockets: list[tuple[Listener, socket.socket]] = []
        self._failed = False
        self._instance = new_name()
        self._contexts = {listener.name: self._context(listener) for listener in config.listener}

    def _context(self, listener: Listener) -> Context:
        config = self._config
        upstream = config.upstream[config.upstream_of(listener)]
        return Context(
            listener=listener.name,
            hostname=config.hostname,
            instance=self._instance,
            trace=config.trace,
            says_client_name=upstream.ehlo == "client" or self._stand_in is not None,
            adds=self._stand_in is None,
            upstream=config.upstream_of(listener),
            forwarding=frozenset(name for name, one in config.upstream.items() if one.identity == "xforward"),
            auth=config.auth_of(listener),
            auth_in_clear=listener.auth_in_clear,
            normalise=listener.line_endings == "normalise",
            limits=config.limits,
            timeouts=config.timeouts,
            reporter=self._reporter,
            tls=listener.tls,
            recorder=self._recorder,
            late=self._late,
            privacy=config.record.privacy,
            rulebook=self._rulebook,
        )

    def warnings(self) -> list[str]:
        """What whoever started the relay should hear, besides what is in the log. Known once `bind` was called."""
        warnings = [*self._keyring.warnings(), *without_secret(self._config)]
        limits = self._config.limits
        if self._places < (limits.sessions if "sessions" in limits.model_fields_set else min(limits.sessions, FEW)):
            warnings.append(
                f"limits.sessions is {limits.sessions}, but there are only file descriptors for {self._places}"
            )
        return warnings

    async def reload(self) -> None:
        """SIGHUP: read rules and guard again, which wait for no certificate, then certificates and keys, for the sessions that come. What cannot be read is told, and stays as it was."""
        await self._rulebook.reload(self._reporter.reloaded)
        await self._keyring.reload(self._reporter.reloaded)

    # Sockets.

    def bind(self) -> None:
        """Open the listeners. Raises OSError where one cannot be had; then none is left open.

        Who is let in can reach upstream and send a large message, too: there are no more places than file descriptors for them (attack 18).
        """
        if self._config.trace:  # without Received fields, or listeners, nothing is asked of the state folder
            self._instance = instance(self._config.state)
        each = self._descriptors()
        available = make_room(each * self._places + RESERVED)
        self._places = max(1, min(self._places, (available - RESERVED) // each))
        try:
            for listener in self._config.listener:
                self._sockets += [(listener, sock) for sock in bind(listener.address)]
        except BaseException:
            self._close_listeners()
            raise
        for listener in self._config.listener:
            addresses = [address for one, address in self.bound if one is listener]
            self._contexts[listener.name].instance = instance_at(self._instance, self._config.hostname, addresses)

    def _descriptors(self) -> int:
        """How many a session may need."""
        rules = bool(self._config.rules.files)
        edits = rules or any(listener.line_endings == "normalise" for listener in self._config.listener)
        kept = 0 if self._recorder is None else KEPT + (KEPT_AS_SENT if edits else 0)
        return LEGS + kept + (HELD_BACK if rules else 0)

    @property
    def bound(self) -> list[tuple[Listener, str]]:
        """What `bind` opened, with the addresses that it got."""
        return [(listener, bound_name(sock)) for listener, sock in self._sockets]

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    def _close_listeners(self) -> None:
        for _, sock in self._sockets:
            sock.close()
        self._sockets.clear()

    async def serve(self) -> bool:
        """Serve what `bind` opened until `shut_down` was called and all sessions have ended; False: a listener failed."""
        for listener, address in self.bound:
            self._reporter.listening(listener.name, address)
        for warning in self._keyring.warnings():
            self._reporter.error("tls", warning, level="warning")
        try:
            async with trio.open_nursery() as watching:
                watching.start_soon(self.watch)
                async with trio.open_nursery() as sessions:
                    async with trio.open_nursery() as accepting:
                        for listener, sock in self._sockets:
                            accepting.start_soon(self._accept, listener, sock, sessions)
                        await self._shutdown.wait()
                        accepting.cancel_scope.cancel()
                    self._close_listeners()
                    if not await self.drain():
                        sessions.cancel_scope.cancel()
                        self.given_up.set()
                watching.cancel_scope.cancel()
        finally:
            self._close_listeners()
        return not self._failed

    async def watch(self) -> None:
        """Look after clients that leave while nobody listens to them, a log or a store that hangs, what is to be recorded late, and rule files that change, until
        cancelled: in one place, so that no session's wait costs more.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._late.watch)
            nursery.start_soon(self._look_at_rules)
            while True:
                await trio.sleep(LOOK)
                self._look_after_clients()

    async def _look_at_rules(self) -> None:
        """By itself: Python files may do anything while they are read, and nobody waits for that."""
        while True:
            await trio.sleep(LOOK)
            try:
                await self._rulebook.look(self._reporter.reloaded)
            except Exception as error:  # noqa: BLE001
                self._tell_fault(error)

    def _look_after_clients(self) -> None:
        self._reporter.look()
        if self._recorder is not None:
            self._recorder.writer.look()
        for session in self._sessions.values():
            try:
                session.look_after_client()
            except Exception as error:  # noqa: BLE001
                self._tell_fault(error)

    def _tell_fault(self, error: Exception) -> None:
        """A fault of ours: told with its place, and no other session's trouble."""
        self._reporter.error("session", "a fault of ours outside of the dialogue", exception=error)

    async def _accept(self, listener: Listener, sock: socket.socket, sessions: trio.Nursery) -> None:
        """Accept on one socket. Should that become impossible, the sessions still end in good order."""
        try:
            await accept(sock, partial(self._spawn, sessions, listener), on_shortage=self._tell_shortage)
        except OSError as error:
            self._reporter.error("listener", f"{listener.name}: cannot accept any more: {error.strerror}")
            self._failed = True
            self.shut_down()

    def _tell_shortage(self, error: OSError) -> None:
        self._reporter.error("listener", f"cannot accept: {error.strerror}")

    def _spawn(self, sessions: trio.Nursery, listener: Listener, sock: socket.socket, peername: Peername) -> None:
        address, port = peername
        sessions.start_soon(self.session, self._adopt(sock), address, port, listener)

    def shut_down(self) -> None:
        """Begin the orderly end; again, and it is no longer orderly: all that waits ends now."""
        if self._shutdown.is_set():
            self._cut_off()
            self._hurried = True
            self._draining.cancel()
        self._shutdown.set()
        for context in self._contexts.values():
            context.shutting_down = True
        for session in self._sessions.values():
            session.wind_down()

    def _cut_off(self) -> None:
        for session in self._sessions.values():
            session.cut_off()

    async def drain(self) -> bool:
        """After `shut_down`: let sessions end, up to `drain` or the second `shut_down`, then end all that waits; whether all sessions have ended."""
        with trio.CancelScope() as self._draining:
            if await self.all_gone(0 if self._hurried else self._config.drain):
                return True
        if not self._hurried:  # once: again, and it would end their last words
            self._cut_off()
        return await self.all_gone(GOODBYES)

    async def all_gone(self, seconds: float) -> bool:
        """Wait so long at most for the last session to end; whether it has."""
        with trio.move_on_after(seconds):
            while self._sessions:
                if self._last_gone is None or self._last_gone.is_set():
                    self._last_gone = trio.Event()
                await self._last_gone.wait()
        return not self._sessions

    # Sessions.

    async def session(self, stream: DeadlineStream, address: str, port: int | None, listener: Listener) -> None:
        """One client session, from its first octet to its last, over any stream. Never raises, but for cancellation."""
        try:
            ends = Ends((address, port), None)
            if listener.proxy_protocol:
                if (told := await self._who(stream, ends.source, listener)) is None:
                    return
                ends = told
            context = self._contexts[listener.name]
            id_ = self._ids.new()
            refusal = self._refusal(listener, ends.source[0], id_)
            recording = None
            if refusal is None and self._recorder is not None:
                recording = self._recorder.session(id_, listener.name, endpoint(*ends.source))
            tape = None if recording is None else recording.tape
            client = self._client_leg(stream, ends.source, listener, None if tape is None else tape.client)
            if refusal is not None:
                await self._turn_away(client, refusal, listener)
                return
            # What upstream may be told of the client is kept where there is one that is (idle sessions are many).
            near = Ends(ends.source, ends.destination or stream.near_end) if self._connections.introduces else None
            connect = self._connections.of(context, near, None if tape is None else tape.upstream)
            if self._stand_in is not None:
                connect = self._stand_in(client, connect)
            session = Session(id_, self._ids.new, client, context, connect, recording)
            await self._hold(session, context, ends.source, recording)
        except Exception as error:  # noqa: BLE001
            self._tell_fault(error)
        finally:
            stream.close()

    def _client_leg(
        self, stream: DeadlineStream, peername: Peername, listener: Listener, tape: LegTape | None
    ) -> ClientLeg:
        limits = self._config.limits
        protocol = ServerProtocol(
            command_bytes=limits.command_bytes, auth_bytes=limits.auth_bytes, line_bytes=limits.line_bytes, tape=tape
        )
        protocol.needs_tls = listener.tls == "starttls" and self._config.tls.client_ca is not None
        peer, server_tls = Peer(stream, "client", *peername, tape), self._keyring.servers.get(listener.name)
        return ClientLeg(peer, protocol, self._config.timeouts.client, limits.minimum_rate, server_tls, tape)

    async def _who(self, stream: DeadlineStream, peername: Peername, listener: Listener) -> Ends | None:
        """Whom we speak to where peers may have to send a PROXY header: who that says it is; None where there is no telling (PROTOCOL §1.10)."""
        if not is_in(peername[0], listener.proxy_protocol):
            return Ends(peername, None)
        if len(self._sessions) + self._arriving >= self._places or self._shutdown.is_set():
            return None
        self._arriving += 1
        try:
            told = await receive_proxy_header(
                stream, seconds=self._config.timeouts.client.proxy_header, most=self._config.limits.proxy_header_bytes
            )
        except ProxyHeaderError as error:
            self._reporter.violation("client", f"{peername[0]}: {error}")
            return None
        finally:
            self._arriving -= 1
        return told or Ends(peername, None)

    async def _hold(self, session: Session, context: Context, peername: Peername, recording: Recording | None) -> None:
        """Count the session, tell its beginning and its end."""
        id_, (address, port) = session.id, peername
        self._sessions[id_] = session
        self._per_client[address] += 1
        began = context.now()
        why = "a fault of ours"
        try:
            self._reporter.session_opened(id_, listener=context.listener, address=address, port=port)
            why = await session.run()
        except trio.Cancelled:
            why = "shutdown"
            raise
        finally:
            self._leave(id_, address)
            if recording is not None:
                recording.closed(why)
            self._reporter.session_closed(
                id_,
                listener=context.listener,
                why=why,
                client=session.client,
                transactions=session.transactions,
                seconds=context.now() - began,
            )

    def _leave(self, id_: str, address: str) -> None:
        del self._sessions[id_]
        self._per_client[address] -= 1
        if not self._per_client[address]:
            del self._per_client[address]
        if not self._sessions and self._last_gone is not None:
            self._last_gone.set()

    def _refusal(self, listener: Listener, address: str, id_: str) -> Reply | None:
        """Who may not come in, before anything is spent on it (attacks 18, 27)."""
        if listener.clients is not None and not address.startswith("unix:") and not is_in(address, listener.clients):
            self._reporter.violation(
                "client", "the address may not connect here", session=id_, reply=local_replies.NOT_WELCOME
            )
            return local_replies.NOT_WELCOME
        full = len(self._sessions) >= self._places
        # All that come through a Unix socket have one name; who may do so is the socket's mode.
        alone = address.startswith("unix:")
        if full or (not alone and self._per_client[address] >= self._config.limits.sessions_per_client):
            limit = "sessions" if full else "sessions_per_client"
            self._reporter.limit(limit, session=id_, client=address, reply=local_replies.TOO_MANY_SESSIONS)
            return local_replies.TOO_MANY_SESSIONS
        if self._shutdown.is_set():
            return local_replies.SHUTTING_DOWN
        trouble = None if self._recorder is None else self._recorder.trouble
        if trouble is not None:
            self._reporter.error("record", trouble.what, session=id_)
            return local_replies.CANNOT_RECORD
        return None

    async def _turn_away(self, client: ClientLeg, refusal: Reply, listener: Listener) -> None:
        if listener.tls == "implicit":
            return  # a handshake costs more than whom we do not let in is worth, and without one there are no words
        with suppress(PeerLost):  # it left first
            await client.answer([refusal])
        if self._turning_away < TURNED_AWAY:
            self._turning_away += 1
            try:
                await client.peer.close()
            finally:
                self._turning_away -= 1
