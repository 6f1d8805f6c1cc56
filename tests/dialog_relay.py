"""What dialogs are played against: the one place where the runner meets the relay.

The runner knows `Driven` and `Start`, and no module of the relay; `start` makes a real relay of the parts that a process has:
Config, Reporter, Relay. All that is not the relay itself is defaults (`CONFIG`) and translation.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol

import trio
from dialog_tls import authority_pem
from memory_store import MemoryReader, MemoryWriter
from wire_check import check_wire

from relayproxy.record.report import encode

if TYPE_CHECKING:
    from socket import socket

    from dialog_wire import Leg

    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.store.interface import Kept, Stored
    from relayproxy.relay.rulebook import Rulebook
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.evaluation import Evaluation

Reason = Literal["refused", "timeout", "unresolved", "unreachable"]

#: What a dialog's `@ config` lines are laid over.
CONFIG: Mapping[str, Any] = {
    "hostname": "relay.test",
    "listener": [{"tls": "off"}],
    "upstream": {"default": {"url": "smtp://upstream.test:25"}},
}


class DialRefusedByDialog(Exception):  # noqa: N818 - it says what is the matter
    """A dial failed as the dialog wanted: refused, timeout, unresolved or unreachable."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


Dial = Callable[[str, float], Awaitable["Leg"]]


class Driven(Protocol):
    """A relay as the runner sees it."""

    async def session(self, stream: Leg, address: str, port: int | None, listener: str | None) -> None:
        """Hold one session; it is over, and its streams are closed, on return."""

    def sigterm(self) -> None: ...

    def store(self, how: Literal["full", "broken", "hangs", "well"]) -> None:
        """What becomes of what is written to the store from here on."""

    def authority(self) -> str:
        """In PEM: who signs the certificates that clients see."""

    def check_recording(self, client: Leg, upstreams: Sequence[Leg]) -> None:
        """That the session which has ended is recorded as it was on its wires. Raises AssertionError."""

    def close(self) -> list[dict[str, Any]]:
        """Stop; all lines of the log, in order, each transaction's with its message as it is `kept` (`kept_message`)."""


Start = Callable[[Mapping[str, Any], Dial], Driven]


class MemoryTarget:
    """Where the log goes: kept in memory (a Target of relayproxy.record.sink)."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes, /) -> int:
        self.written += data
        return len(data)

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _Relay:
    def __init__(self, config: Mapping[str, Any], dial: Dial, rulebook: Rulebook | None) -> None:
        # Imported late: the runner's own tests need no relay.
        from relayproxy.cli.recording import policy
        from relayproxy.net.dial import DialError, UpstreamUrl
        from relayproxy.net.stream import TrioStream
        from relayproxy.record.log import Reporter
        from relayproxy.record.recorder import Recorder
        from relayproxy.record.store.bodies import Bodies
        from relayproxy.record.store.spool import Spool
        from relayproxy.relay.service import Relay
        from relayproxy.relay.settings import Config

        async def dial_leg(url: UpstreamUrl, seconds: float) -> DeadlineStream:
            try:
                leg = await dial(str(url), seconds)
            except DialRefusedByDialog as refused:
                raise DialError(refused.reason, f"{url}: {refused.reason}") from None
            return TrioStream(leg, leg.receive_nowait)

        self._folder = TemporaryDirectory()
        trusted = Path(self._folder.name, "ca-of-the-dialogs.pem")
        trusted.write_text(authority_pem(), encoding="ascii")
        upstreams = {name: {"ca": str(trusted), **upstream} for name, upstream in config["upstream"].items()}
        shipped = config.get("rules", {}).get("files", ())
        self.rulebook = rulebook or self._rulebook(
            shipped, config.get("rule", ()), config.get("python", ()), config.get("guard")
        )
        config = {key: value for key, value in config.items() if key not in ("rule", "python")}
        self._config = Config.model_validate({"state": self._folder.name, **config, "upstream": upstreams})
        self._log = MemoryTarget()
        self._reporter = Reporter(self._log, format_="json", privacy=self._config.record.privacy)
        self.writer = MemoryWriter()
        recorder = Recorder(
            self.writer,
            policy(self._config.record),
            # All in memory: no clock runs on while a thread is waited for.
            lambda: Spool(Bodies(Path(self._folder.name)), 1 << 30),
            now=trio.current_time,
        )
        self._relay = Relay(
            self._config, self._reporter, dial=dial_leg, adopt=_no_sockets, recorder=recorder, rulebook=self.rulebook
        )
        self._checked: set[str] = set()
        self._wrap = TrioStream
        trio.lowlevel.spawn_system_task(self._relay.watch)

    def _rulebook(
        self, shipped: Sequence[str], rules: Sequence[str], python: Sequence[str], guard: Mapping[str, Any] | None
    ) -> Rulebook | None:
        from relayproxy.relay.rulebook import Drawn, Rulebook, Rules
        from relayproxy.relay.workers import Turn, Workers
        from relayproxy.rules.guard import Guard
        from relayproxy.rules.load import load

        class AtOnce(Workers):
            """Virtual time would run on while a thread is waited for."""

            async def decide(self, evaluation: Evaluation, turn: Turn) -> Decision:  # noqa: ARG002
                return evaluation.run()

        if not shipped and not rules and not python and guard is None:
            return None
        files: list[str | Path] = [*shipped]
        for lines, name, begin, between, end in (
            (rules, "rules.toml", "rule = [\n", ",\n", "\n]\n"),
            (python, "rules.py", "", "\n", "\n"),
        ):
            if lines:
                files.append(file := Path(self._folder.name, name))
                file.write_text(begin + between.join(lines) + end, encoding="utf-8")
        judge = None if guard is None else Guard.parse(guard["allow"])
        captures = guard is not None and guard.get("otherwise") == "capture"
        return Rulebook(Rules(load(files).rules, judge, captures), Drawn(1, trio.current_time), AtOnce(1, 5))

    async def session(self, stream: Leg, address: str, port: int | None, listener: str | None) -> None:
        listeners = {known.name: known for known in self._config.listener}
        chosen = listeners.get(listener or "", self._config.listener[0])
        await self._relay.session(self._wrap(stream, stream.receive_nowait), address, port, chosen)

    def check_recording(self, client: Leg, upstreams: Sequence[Leg]) -> None:
        for session in self.writer.sessions():
            if session not in self._checked:
                self._checked.add(session)
                pairs = [(bytes(leg.far_said), bytes(leg.far_heard)) for leg in (client, *upstreams)]
                check_wire(self.writer, session, pairs[0], pairs[1:])

    def sigterm(self) -> None:
        self._relay.shut_down()
        trio.lowlevel.spawn_system_task(self._relay.drain)

    def store(self, how: Literal["full", "broken", "hangs", "well"]) -> None:
        from relayproxy.record.store.interface import RecordError

        match how:
            case "well":
                self.writer.well()
            case "hangs":
                self.writer.hangs()
            case _:
                self.writer.trouble = RecordError(f"the store is {how}", full=how == "full")

    def authority(self) -> str:
        from relayproxy.tls.authority import Authority

        return Authority.open(Path(self._folder.name)).certificate_pem.decode("ascii")

    def close(self) -> list[dict[str, Any]]:
        written = self._reporter.close(5.0)
        self._folder.cleanup()
        if not written:
            raise AssertionError("the log was not written to its end within 5 s")
        lines = [json.loads(line) for line in self._log.written.split(b"\n") if line]
        logged = {line["transaction"]: line for line in lines if line["event"] == "transaction"}
        told = self._config.record.privacy.told
        kept = {id_: json.loads(encode(told(write.record))) for id_, write in self.writer.transactions().items()}
        if logged != kept:
            raise AssertionError(f"the log says\n{logged}\nthe store\n{kept}")
        reader = MemoryReader(self.writer)
        for session in self.writer.sessions():
            for stored in reader.of_session(session):
                logged[stored.record.transaction]["kept"] = kept_message(reader, stored)
        return lines


def kept_message(reader: MemoryReader, stored: Stored) -> dict[str, Any] | None:
    """What a store has of a message, as it came and as it left: null is what it has not."""

    def parts(kept: Kept) -> dict[str, Any]:
        body = None if kept.body is None else b"".join(reader.body(kept.body))
        return {"header": _words(kept.header), "body": _words(body)}

    if stored.message is None:
        return None
    left = stored.left
    return {**parts(stored.message), "whole": stored.message.whole, "sent": None if left is None else parts(left)}


def _words(octets: bytes | None) -> str | None:
    return None if octets is None else octets.decode("utf-8", "backslashreplace")


def _no_sockets(sock: socket) -> DeadlineStream:
    raise AssertionError(f"no socket is accepted in a dialog, but {sock} was")


def start(config: Mapping[str, Any], dial: Dial, rulebook: Rulebook | None = None) -> Driven:
    """A relay with that configuration, whose upstreams are the dialog's; with a `rulebook` rules and guard are that one's."""
    return _Relay(config, dial, rulebook)
