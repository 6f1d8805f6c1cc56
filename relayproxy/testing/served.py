"""What a test talks to: it listens on a free port of this machine, in a thread, from when it is made until it is closed, and its log is ours.

    served = Served(serve, config)                      # serve(reporter, ready): hands over a `Listening` when it listens, and returns when it has ended
    served.port
    served.close()                                   # raises Trouble

Invariants: nothing is left behind when it is closed, no thread, socket or file descriptor; a client that stays is not waited for. What went wrong within is told then, in words.
What is served does not belong here (relay.py, cassette.py).
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from relayproxy.cli import Failed, in_words
from relayproxy.net.address import parse_address
from relayproxy.record.log import Reporter
from relayproxy.testing.thread import TrioThread, Trouble
from relayproxy.tls.authority import CERTIFICATE, FOLDER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from relayproxy.relay.settings import Config

    Serve = Callable[[Reporter, Callable[["Listening"], None]], Awaitable[None]]

#: Seconds that it has to end once it is cut off, and its log.
_LAST_WORDS: Final = 10.0
#: Seconds that its log has to tell what it knows.
_HEARD: Final = 2.0
#: Of what went wrong, how much is told.
TOLD: Final = 20


class Listening(NamedTuple):
    """Where, and how it is ended: in good order, and at once."""

    address: str
    shut_down: Callable[[], None]
    cut_off: Callable[[], None]


class Served:
    """`told`: what its log says."""

    def __init__(self, serve: Serve, config: Config, over: Callable[[], None] = lambda: None) -> None:
        """It listens when this returns. `over` hears, in the thread of what is served, that a transaction is. Raises Trouble."""
        self.told = Told(lambda: self.thread.call(over))
        self._config = config
        self._reporter = reporter = Reporter(self.told)
        self.thread: TrioThread[Listening] = TrioThread(lambda ready: serve(reporter, ready), "relayproxy")
        try:
            with in_words():
                self._listening = self.thread.start()
        except Failed as error:
            self._reporter.close(_LAST_WORDS)
            raise Trouble(str(error)) from error
        self.port = parse_address(self._listening.address).port

    def catch_up(self) -> None:
        """Have `told` all that the log was told so far."""
        asked = threading.Event()
        self.told.asked.append(asked)
        self.thread.call(lambda: self._reporter.reloaded("what is told"))
        asked.wait(_HEARD if self.thread.is_there else 0)

    def close(self) -> None:
        """End it in good order. Raises Trouble: what went wrong within."""
        wrong: list[str] = []
        self.thread.call(self._listening.shut_down)
        if not self.thread.join(self._config.drain):
            # A client that has not closed its connection, as a pool's, would be waited for.
            self.thread.call(self._listening.cut_off)
            if not self.thread.join(_LAST_WORDS):
                wrong.append("it did not end")
        match self.thread.error:
            case None:
                pass
            case Trouble() | Failed() as trouble:
                wrong.append(str(trouble))
            case error:
                wrong.append(f"{type(error).__name__}: {error}")
        if not self._reporter.close(_LAST_WORDS):
            wrong.append("its log could not be written to its end")
        wrong += [f"a fault in relayproxy, please report it: {fault}" for fault in self.told.faults]
        if wrong:
            raise Trouble("\n".join(["relayproxy went wrong:", *wrong[:TOLD]]))

    def ca(self, marker: str) -> Path:
        """The certificate, in PEM, of who signed the one that clients see. Raises Trouble where there is no TLS."""
        __tracebackhide__ = True
        if self._config.listener[0].tls == "off":
            raise Trouble(
                f'expected @pytest.mark.{marker}(tls="starttls") or "implicit" for a test that asks for {marker}.ca'
            )
        return self._config.state / FOLDER / CERTIFICATE


class Told:
    """A log that nobody reads but this (a Target of record/sink.py: its thread calls). `over`: a transaction is."""

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over
        self.sessions = 0
        self.troubles: list[str] = []
        self.faults: list[str] = []
        #: Who waits for all that is told before (a line of the kind that nobody else asks for).
        self.asked: list[threading.Event] = []

    def write(self, data: bytes, /) -> int:
        for line in data.splitlines():
            self._take(json.loads(line))
        return len(data)

    def _take(self, told: dict[str, Any]) -> None:
        match told["event"]:
            case "transaction":
                self._over()
            case "reload":
                for one in self.asked:
                    one.set()
            case "session" if told["state"] == "opened":
                self.sessions += 1
            case "error" if told.get("faults"):
                self.faults.append(", ".join([f"{one['type']} ({one['where'][-1]})" for one in told["faults"]]))
            case "error" | "rule-error" if len(self.troubles) < TOLD and told["what"] not in self.troubles:
                self.troubles.append(told["what"])
            case _:
                pass

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass
