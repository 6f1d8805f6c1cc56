"""The relay of one test: it keeps all that comes, and tells what came.

Theory of operation: when a transaction is over, the relay tells so on its log, which is ours (served.py); then what it gave to the store is waited for, and whoever waits for mail looks into the store. So mail is found as
`relayproxy list` finds it, and at once.

Invariants: each mail is given once by `wait_for` and `arrives`, in the order in which it came. What it is like does not belong here (marker.py), nor how it begins and ends (served.py).
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relayproxy.cli.recording import recording
from relayproxy.cli.rulebook import rulebook
from relayproxy.net.dial import dial
from relayproxy.net.stream import TrioStream
from relayproxy.record.console import console_line
from relayproxy.record.select import SelectError, parse
from relayproxy.record.store.interface import RecordError
from relayproxy.record.store.opening import store_at
from relayproxy.relay.service import Relay
from relayproxy.testing.mail import Mail
from relayproxy.testing.news import Ear, News, async_ear, in_loop
from relayproxy.testing.served import TOLD, Listening, Served
from relayproxy.testing.thread import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relayproxy.record.log import Reporter
    from relayproxy.record.recorder import Recorder
    from relayproxy.record.select import Select
    from relayproxy.relay.settings import Config
    from relayproxy.rules.load import Loaded

#: Seconds that `wait_for` waits where nothing else is said.
PATIENCE: Final = 5.0


class RelayFixture:
    """What a test is given as `relayproxy`: `host` and `port` are where the application's mail server is."""

    host: Final = "127.0.0.1"

    def __init__(self, config: Config, rules: Loaded) -> None:
        """It serves when this returns. Raises Trouble."""
        if config.record.store is None:
            raise Trouble("expected a store")
        self._config = config
        self._rules = rules
        self._store = store_at(config.record.store)
        self._news = News()
        self._given: set[str] = set()
        self._ask, self._asked = trio.open_memory_channel[None](1)
        self._served = Served(self._serve, config, self._catch_up_soon)
        #: Where it listens.
        self.port = self._served.port

    @property
    def ca(self) -> Path:
        """The certificate, in PEM, of who signed the relay's: what a client that verifies has to trust. Raises Trouble where there is no TLS."""
        __tracebackhide__ = True
        return self._served.ca("relayproxy")

    def wait_for(self, select: str | None = None, timeout: float = PATIENCE) -> Mail:
        """The next mail that `select` names, an expression as `relayproxy list` has it; without one, the next at all.

        Each is given once, in the order in which it came; `timeout` is in seconds. Raises AssertionError, which tells what came instead.
        """
        __tracebackhide__ = True
        parsed, until = _parsed(select), time.monotonic() + _seconds(timeout)
        with self._news.told_to(ear := Ear()):
            while True:
                ear.clear()
                if (mail := self._take(parsed)) is not None:
                    return mail
                if not ear.wait(until - time.monotonic()):
                    raise AssertionError(self._missing(parsed, timeout, blocks=in_loop()))

    async def arrives(self, select: str | None = None, timeout: float = PATIENCE) -> Mail:  # noqa: ASYNC109 - the same as wait_for
        """The same in a task, of trio or of asyncio."""
        __tracebackhide__ = True
        parsed, until = _parsed(select), time.monotonic() + _seconds(timeout)
        with self._news.told_to(ear := async_ear()):
            while True:
                ear.clear()
                if (mail := self._take(parsed)) is not None:
                    return mail
                if not await ear.wait(until - time.monotonic()):
                    raise AssertionError(self._missing(parsed, timeout))

    def transactions(self, select: str | None = None) -> list[Mail]:
        """All so far that `select` names, given or not, in the order in which they came."""
        __tracebackhide__ = True
        return self._find(_parsed(select))

    def troubles(self) -> list[str]:
        """What went wrong between it and others, so far: a server that is not there, a rule that failed."""
        self._served.catch_up()
        return [*self._served.told.troubles]

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

    def _missing(self, select: Select | None, timeout: float, *, blocks: bool = False) -> str:
        """What is there instead of what was waited for; `blocks`: nobody else could do anything meanwhile."""
        what = "no mail" if select is None else f"no mail that is {select.text}"
        lines, troubles = [f"{what} within {timeout:g} s"], self.troubles()
        came = self._find(None)
        for mail in came[:TOLD]:
            given = " (given before)" if mail.record.transaction in self._given else ""
            lines.append(f"  came{given}: {console_line(mail.record, colour=False)}")
        if len(came) > TOLD:
            lines.append(f"  ... and {len(came) - TOLD} more")
        if not came:
            sessions = self._served.told.sessions
            lines.append(f"  {sessions} connected, and sent none" if sessions else "  nobody connected")
        lines += [f"  trouble: {what}" for what in troubles]
        if blocks:
            lines.append("  wait_for stops this event loop: await relayproxy.arrives(...)")
        return "\n".join(lines)

    def close(self) -> None:
        """End it in good order. Raises Trouble: what went wrong within."""
        self._served.close()

    # In the thread.

    async def _serve(self, reporter: Reporter, ready: Callable[[Listening], None]) -> None:
        adopt = TrioStream.of_socket
        with recording(self._config, reporter) as recorder:
            relay = Relay(
                self._config,
                reporter,
                dial=partial(dial, adopt=adopt),
                adopt=adopt,
                recorder=recorder,
                rulebook=rulebook(self._config, self._rules),
            )
            relay.bind()
            ((_, address),) = relay.bound
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._catch_up, recorder)
                ready(Listening(address, relay.shut_down, nursery.cancel_scope.cancel))
                await relay.serve()
                nursery.cancel_scope.cancel()
        if recorder is not None and not recorder.complete:
            raise Trouble("its store could not be written to its end")

    def _catch_up_soon(self) -> None:
        with suppress(trio.WouldBlock):  # one is to come that waits for all that is new
            self._ask.send_nowait(None)

    async def _catch_up(self, recorder: Recorder | None) -> None:
        """Whenever a transaction is told: once the store has it, tell who waits."""
        async for _ in self._asked:
            if recorder is not None:
                with suppress(RecordError):  # it is told at the end
                    await recorder.writer.commit([])
            self._news.tell()


def _parsed(select: str | None) -> Select | None:
    """Raises ValueError where it is no expression."""
    __tracebackhide__ = True
    if select is not None and not isinstance(select, str):
        raise TypeError(f"select: expected an expression such as 'recipient:jane@customer.example', got {select!r}")
    try:
        return None if select is None else parse(select, now=time.time_ns())
    except SelectError as error:
        raise ValueError(f"this is no SELECT:\n{error}") from None


def _seconds(timeout: float) -> float:
    __tracebackhide__ = True
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout: expected seconds, got {timeout!r}")
    return timeout
