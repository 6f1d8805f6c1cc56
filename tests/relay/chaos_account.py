"""What a relay in chaos told in its log, and whether client, sink and log tell the same of every message."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chaos_load import Attempt
    from chaos_sink import Sink, Taken
    from relay_on_sockets import Process


class Told(NamedTuple):
    """What is needed of a transaction's line."""

    id: str
    outcome: str
    code: int
    origin: str
    acknowledged: bool
    #: As received, where it came as a whole.
    parts: tuple[str, str] | None


class Log:
    """The relay's, while it is written."""

    def __init__(self) -> None:
        #: By attempt.
        self.told: dict[str, list[Told]] = {}
        #: By transaction's id.
        self.outcome_of: dict[str, str] = {}
        self.opened: set[str] = set()
        #: How many there were of each session that was closed.
        self.transactions: dict[str, int] = {}
        #: What went wrong on the relay's own side.
        self.errors: list[dict[str, Any]] = []
        self._changed = trio.Event()

    async def read(self, relay: Process) -> None:
        rest = b""
        assert relay.process.stdout is not None
        async for data in relay.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            self._changed.set()
            self._changed = trio.Event()
        assert not rest, "a line was cut short"

    def _take(self, line: dict[str, Any]) -> None:
        match line:
            case {"event": "transaction"}:
                sender = line["envelope"]["received"]["sender"]
                self.outcome_of[line["transaction"]] = line["outcome"]
                self.told.setdefault(sender.partition("@")[0], []).append(_told(line))
            case {"event": "session", "state": "opened"}:
                self.opened.add(line["session"])
            case {"event": "session"}:
                self.transactions[line["session"]] = line["transactions"]
            case {"event": "error"} if line["where"] != "upstream" or "faults" in line:
                self.errors.append(line)

    async def until_all_are_closed(self) -> None:
        with trio.fail_after(30):
            while self.opened - self.transactions.keys():
                await self._changed.wait()

    @property
    def lines(self) -> list[Told]:
        return [told for lines in self.told.values() for told in lines]

    def outcomes(self) -> Counter[str]:
        return Counter(told.outcome for told in self.lines)


def _told(line: dict[str, Any]) -> Told:
    whole = line["message"] and line["message"]["digest"]["received"]
    return Told(
        line["transaction"],
        line["outcome"],
        line["reply"]["code"],
        line["reply"]["origin"],
        line["acknowledged"],
        whole and (whole["header"], whole["body"]),
    )


def disagreements(attempts: Iterable[Attempt], sink: Sink, log: Log) -> Iterator[str]:
    """Whatever client, sink and log do not tell alike, in words."""
    names: set[str] = set()
    for attempt in attempts:
        names.add(attempt.name)
        taken, told = sink.taken.get(attempt.name, []), log.told.get(attempt.name, [])
        wrong = [*_of_mail(attempt, taken, told)]
        for line in told:
            wrong += [*_of_outcome(line, taken), *_of_answer(line, attempt)]
        for what in wrong:
            yield f"{attempt.name}: {what} (heard {attempt.heard}; taken {taken}; told {told})"
    for name in (sink.taken.keys() | log.told.keys()) - names:
        yield f"{name}: nobody sent it"
    if len({told.id for told in log.lines}) != len(log.lines):
        yield "a transaction's id stands twice"
    if (counted := sum(log.transactions.values())) != len(log.lines):
        yield f"sessions count {counted} transactions, and {len(log.lines)} are told"


def _of_mail(attempt: Attempt, taken: list[Taken], told: list[Told]) -> Iterator[str]:
    """None lost, none altered, none doubled unless nobody can know; one line a MAIL."""
    if len(taken) > 1:
        yield "doubled"
    if any(one.digest != attempt.digest for one in taken):
        yield "altered"
    heard = attempt.heard or 0
    if heard // 100 == 2 and not taken:
        yield "lost"
    if heard >= 400 and taken and [line.outcome for line in told] != ["unknown"]:
        yield "refused, and taken all the same: it will be sent again"
    if len(told) > 1 or (not told and (taken or attempt.mail == 250)):
        yield "not told once"


def _of_outcome(line: Told, taken: list[Taken]) -> Iterator[str]:
    match line.outcome:
        case "accepted":
            if not taken:
                yield "told as accepted, and not taken"
            if (line.code // 100, line.origin) != (2, "upstream"):
                yield "an acceptance that is not upstream's"
        case "unknown":
            if any(one.said and not one.wire.harmed for one in taken):
                yield "not known, though nothing kept the answer from us"
        case _:
            if taken:
                yield "taken, and told otherwise"


def _of_answer(line: Told, attempt: Attempt) -> Iterator[str]:
    if line.parts not in (None, attempt.parts):
        yield "the digests are told wrong"
    if attempt.heard is None:
        return
    if not line.acknowledged:
        yield "an answer was heard, and told as not said"
    if attempt.heard // 100 == 2 and line.outcome != "accepted":
        yield "heard as accepted, and told otherwise"
    heard = {attempt.heard, attempt.last, *([421] if attempt.cut else [])}
    if line.outcome != "aborted" and line.code not in heard:
        yield "another answer was heard than is told"
