"""The rules and the guard that are in force, for all sessions: read again as a whole, or kept as they were (DESIGN §6 "Rule files reload").

Invariants: a transaction keeps the rules that it began with (plan.py); the guard that counts is the one in force. What rules cannot know by themselves is drawn here (`Drawn`), and
outlives a reload. Reading files does not belong here.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import trio

from relayproxy.net.threads import Threads
from relayproxy.record.log import fault_in_words
from relayproxy.rules.gates import DataGate
from relayproxy.rules.guard import Guard
from relayproxy.rules.load import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from relayproxy.relay.settings import Config
    from relayproxy.relay.workers import Workers
    from relayproxy.rules.load import Stamp
    from relayproxy.rules.ruleset import RuleSet

#: Keys of `first` that are remembered, of all rules; past that the oldest are forgotten, and count as new.
MOST_KEYS: Final = 100_000
#: What reading all files again may take.
READING_SECONDS: Final = 60.0

_FILES: Final = Threads("rules")


class Rules(NamedTuple):
    """What a configuration says. `guard` None: there is none; `captures`: what it does not let pass it keeps."""

    rules: RuleSet
    guard: Guard | None = None
    captures: bool = False
    #: That they were read from, to be looked at now and then, as they were before.
    files: Mapping[Path, Stamp] = MappingProxyType({})
    #: Whom mail may go to, in a line for people.
    guarded: str = ""
    #: Settings that are others than those which the relay was started with, and not in force.
    restart: tuple[str, ...] = ()


class Tell(Protocol):
    """Hears what was read again, or why what was in force stays (record/log.py `reloaded`)."""

    def __call__(
        self,
        what: str,
        error: str | None = None,
        /,
        *,
        guard: str = "",
        restart: Sequence[str] = (),
        loosened: bool = False,
    ) -> None: ...


def guard_of(config: Config) -> Guard | None:
    """A configuration's; None: it has none."""
    return None if config.guard is None else Guard.parse(config.guard.allow)


class Rulebook:
    """`rules`, `guard` and `draws`; `workers` run what is Python."""

    def __init__(self, rules: Rules, draws: Drawn, workers: Workers, read: Callable[[], Rules] | None = None) -> None:
        """`read` reads them again; raises OSError and ValueError, in words."""
        self._take(rules)
        self.draws = draws
        self.workers = workers
        self._read = read
        self._reading = trio.Lock()  # what is read last is what stays

    def _take(self, rules: Rules) -> None:
        #: Whether rules or guard have a say in what passes.
        self.active = bool(rules.rules.rules) or rules.guard is not None
        self.rules, self.guard, self.captures, self._files = rules.rules, rules.guard, rules.captures, rules.files
        #: Whether rules may change a message.
        self.edits = self.rules.gates.data is not DataGate.LIVE

    def admits(self, address: bytes) -> bool:
        """Whether the guard lets a RCPT with this address leave (DESIGN §9.3)."""
        return self.guard is None or self.guard.allows(address)

    async def reload(self, tell: Tell) -> None:
        """Read the files again; `tell` hears of it, and why what was in force stays."""
        async with self._reading:
            await self._read_again(tell)

    async def _read_again(self, tell: Tell) -> None:
        if self._read is None:
            return
        before = self._files
        try:
            before = await _stamps(self._files)
            # Python files may do anything while they are read, and for ever.
            rules = await _FILES.read(self._read, READING_SECONDS, "rule files")
        except Exception as error:  # noqa: BLE001  what is in force stays, whatever a file makes of us
            self._files = before  # as it was read, it is told once
            tell("rules and guard", str(error) if isinstance(error, (OSError, ValueError)) else fault_in_words(error))
        else:
            loosened = self.guard is not None and rules.guard is None
            self._take(rules)
            tell("rules and guard", guard=rules.guarded, restart=rules.restart, loosened=loosened)

    async def look(self, tell: Tell) -> None:
        """Where a file has changed, read them again."""
        async with self._reading:
            try:
                has_changed = bool(self._files) and await _stamps(self._files) != self._files
            except TimeoutError as error:
                tell("rules and guard", str(error))
            else:
                if has_changed:
                    await self._read_again(tell)


async def _stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    """Raises TimeoutError."""
    return await _FILES.read(lambda: {file: stamp(file) for file in files}, READING_SECONDS, "rule files")


class Drawn:
    """Chance, and what has come before (rules/facts.py `Draws`), for whatever thread rules run in. `now`: seconds."""

    def __init__(self, seed: int | None, now: Callable[[], float]) -> None:
        self._random = random.Random(seed)  # noqa: S311  chance, no secret
        self._now = now
        self._seen: OrderedDict[tuple[str, ...], list[float]] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def chance(self, rule: str) -> float:
        del rule
        return self._random.random()

    def first(self, rule: str, key: tuple[str, ...], *, times: int, within: float) -> bool:
        now = self._now()
        with self._lock:
            came = [then for then in self._seen.pop((rule, *key), ()) if now - then < within]
            came.append(now)
            self._seen[rule, *key] = came[-times - 1 :]
            if len(self._seen) > MOST_KEYS:
                self._seen.popitem(last=False)
        return len(came) <= times

    def every(self, rule: str, n: int) -> bool:
        with self._lock:
            self._counts[rule] += 1
            return self._counts[rule] % n == 0
