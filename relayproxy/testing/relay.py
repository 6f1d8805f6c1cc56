"""The relay of one test: it runs in a thread, keeps all that comes, and tells what came.

Theory of operation: when a transaction is over, the relay tells so on its log, which is nobody's but ours (`_Told`); then what it gave to the store is waited for, and whoever waits for mail looks into the store. So mail is found as
`relayproxy list` finds it, and at once.

Invariants: each mail is given once by `wait_for` and `arrives`, in the order in which it came; nothing is left behind when it is closed, no thread, socket or file descriptor. What went wrong within is told then.
What it is like does not belong here (marker.py).
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from relayproxy.cli import Failed, in_words
from relayproxy.cli.recording import recording
from relayproxy.cli.rulebook import rulebook
from relayproxy.net.address import parse_address
from relayproxy.net.dial import dial
from relayproxy.net.stream import TrioStream
from relayproxy.record.console import console_line
from relayproxy.record.log import Reporter
from relayproxy.record.select import SelectError, parse
from relayproxy.record.store.interface import RecordError
from relayproxy.record.store.sqlite import SqliteStore
from relayproxy.relay.service import Relay
from relayproxy.testing.mail import Mail
from relayproxy.testing.news import Ear, News, async_ear
from relayproxy.testing.thread import TrioThread, Trouble
from relayproxy.tls.authority import CERTIFICATE, FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relayproxy.record.recorder import Recorder
    from relayproxy.record.select import Select
    from relayproxy.relay.settings import Config
    from relayproxy.rules.load import Loaded

#: Seconds that `wait_for` waits where nothing else is said.
PATIENCE: Final = 5.0
#: Seconds that the relay has to end once it is cancelled, and its log.
_LAST_WORDS: Final = 10.0
#: Of what came, and of what went wrong, how much is told.
_TOLD: Final = 20


class RelayFixture:
    """What a test is given as `relayproxy`: `host` and `port` are where the application's mail server is."""

    host: Final = "127.0.0.1"

    def __init__(self, config: Config, rules: Loaded) -> None:
        """It serves when this returns. Raises Trouble."""
        if config.record.store is None:
            raise Trouble("expected a store")
        self._config = config
        self._rules = rules
        self._store = SqliteStore(config.record.store)
        self._news = News()
        self._given: set[str] = set()
        self._recorder: Recorder | None = None
        self._cancel: Callable[[], None] = lambda: None
        ask, self._asked = trio.open_memory_channel[None](1)
        self._ask = ask
        self._told = _Told(lambda: self._thread.call(self._catch_up_soon))
        self._reporter = Reporter(self._told)
        self._thread = TrioThread(self._serve, "relayproxy")
        try:
            with in_words():
                self._relay = self._thread.start()
        except Failed as error:
            self._reporter.close(_LAST_WORDS)
            raise Trouble(str(error)) from error
        ((_, address),) = self._relay.bound
        #: Where it listens.
        self.port = parse_address(address).port

    @property
    def ca(self) -> Path:
        """The certificate, in PEM, of who signed the relay's: what a client that verifies has to trust. Raises Trouble where there is no TLS."""
        if self._config.listener[0].tls == "off":
            raise Trouble(
                'expected @pytest.mark.relayproxy(tls="starttls") or "implicit" for a test that asks for relayproxy.ca'
            )
        return self._config.state / FOLDER / CERTIFICATE

    def wait_for(self, select: str | None = None, timeout: float = PATIENCE) -> Mail:
        """The next mail that `select` names, an expression as `relayproxy list` has it; without one, the next at all.

        Each is given once, in the order in which it came; `timeout` is in seconds. Raises AssertionError, which tells what came instead.
        """
        __tracebackhide__ = True
        parsed, until = _parsed(select), time.monotonic() + timeout
        with self._news.told_to(ear := Ear()):
            while True:
                ear.clear()
                if (mail := self._take(parsed)) is not None:
                    return mail
                if not ear.wait(until - time.monotonic()):
                    raise AssertionError(self._missing(parsed, timeout))

    async def arrives(self, select: str | None = None, timeout: float = PATIENCE) -> Mail:  # noqa: ASYNC109 - the same as wait_for
        """The same in a task, of trio or of asyncio."""
        __tracebackhide__ = True
        parsed, until = _parsed(select), time.monotonic() + timeout
        with self._news.told_to(ear := async_ear()):
            while True:
                ear.clear()
                if (mail := self._take(parsed)) is not None:
                    return mail
                if not await ear.wait(until - time.monotonic()):
                    raise AssertionError(self._missing(parsed, timeout))

    def transactions(self, select: str | None = None) -> list[Mail]:
        """All so far that `select` names, given or not, in the order in which they came."""
        return self._find(_parsed(select))

    def _take(self, select: Select | None) -> Mail | None:
        """The first that was not given."""
        for mail in self._find(select):
            if mail.record.transaction not in self._given:
                self._given.add(mail.record.transaction)
                return mail
        return None

    def _find(self, select: Select | None) -> list[Mail]:
        with self._store.reader() as reader:
            return [Mail(stored, self._store) for stored in reader.transactions(select) if stored.final]

    def _missing(self, select: Select | None, timeout: float) -> str:
        """What is there instead of what was waited for."""
        what = "no mail" if select is None else f"no mail that is {select.text}"
        lines = [f"{what} within {timeout:g} s"]
        came = self._find(None)
        for mail in came[:_TOLD]:
            given = " (given before)" if mail.record.transaction in self._given else ""
            lines.append(f"  came{given}: {console_line(mail.record, colour=False)}")
        if len(came) > _TOLD:
            lines.append(f"  ... and {len(came) - _TOLD} more")
        if not came:
            sessions = self._told.sessions
            lines.append(f"  {sessions} connected, and sent none" if sessions else "  nobody connected")
        lines += [f"  trouble: {what}" for what in self._told.troubles]
        return "\n".join(lines)

    def close(self) -> None:
        """End it in good order. Raises Trouble: what went wrong within."""
        wrong: list[str] = []
        self._thread.call(self._relay.shut_down)
        if not self._thread.join(self._config.drain):
            # A client that has not closed its connection, as a pool's, would have the relay wait for that.
            self._thread.call(self._cancel)
            if not self._thread.join(_LAST_WORDS):
                wrong.append("it did not end")
        if (error := self._thread.error) is not None:
            wrong.append(f"{type(error).__name__}: {error}")
        if not self._reporter.close(_LAST_WORDS):
            wrong.append("its log could not be written to its end")
        wrong += [f"a fault in relayproxy, please report it: {fault}" for fault in self._told.faults]
        if self._recorder is not None and not self._recorder.complete:
            wrong.append("its store could not be written to its end")
        if wrong:
            raise Trouble("\n".join(["relayproxy went wrong:", *wrong[:_TOLD]]))

    # In the thread.

    async def _serve(self, ready: Callable[[Relay], None]) -> None:
        adopt = TrioStream.of_socket
        with recording(self._config, self._reporter) as self._recorder:
            relay = Relay(
                self._config,
                self._reporter,
                dial=partial(dial, adopt=adopt),
                adopt=adopt,
                recorder=self._recorder,
                rulebook=rulebook(self._config, self._rules),
            )
            relay.bind()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._catch_up)
                self._cancel = nursery.cancel_scope.cancel
                ready(relay)
                await relay.serve()
                nursery.cancel_scope.cancel()

    def _catch_up_soon(self) -> None:
        with suppress(trio.WouldBlock):  # one is to come that waits for all that is new
            self._ask.send_nowait(None)

    async def _catch_up(self) -> None:
        """Whenever a transaction is told: once the store has it, tell who waits."""
        async for _ in self._asked:
            if self._recorder is not None:
                with suppress(RecordError):  # it is told at the end
                    await self._recorder.writer.commit([])
            self._news.tell()


class _Told:
    """A log that nobody reads but this (a Target of record/sink.py: its thread calls). `over`: a transaction is."""

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over
        self.sessions = 0
        self.troubles: list[str] = []
        self.faults: list[str] = []

    def write(self, data: bytes, /) -> int:
        for line in data.splitlines():
            self._take(json.loads(line))
        return len(data)

    def _take(self, told: dict[str, Any]) -> None:
        match told["event"]:
            case "transaction":
                self._over()
            case "session" if told["state"] == "opened":
                self.sessions += 1
            case "error" if told.get("faults"):
                self.faults.append(", ".join([f"{one['type']} ({one['where'][-1]})" for one in told["faults"]]))
            case "error" | "rule-error" if len(self.troubles) < _TOLD and told["what"] not in self.troubles:
                self.troubles.append(told["what"])
            case _:
                pass

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass


def _parsed(select: str | None) -> Select | None:
    """Raises ValueError where it is no expression."""
    try:
        return None if select is None else parse(select, now=time.time_ns())
    except SelectError as error:
        raise ValueError(f"this is no SELECT:\n{error}") from error
