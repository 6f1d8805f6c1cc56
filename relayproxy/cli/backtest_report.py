"""What `backtest` says: a line of JSON a message and one that sums up, or, for people, that sum and a diff of each message that is not the same, leaks first.

What is not the same is replay/effects.py's.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from relayproxy.cli.check_rules import gates_in_words
from relayproxy.cli.recordings import write_lines
from relayproxy.record.console import CYAN, DIM, GREEN, MAGENTA, RED, YELLOW, styled
from relayproxy.record.text import json_line, printable
from relayproxy.replay.backtest import ADDRESSES
from relayproxy.replay.effects import Both, Difference, difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayproxy.record.store.interface import Stored
    from relayproxy.replay.effects import Effect, Moved
    from relayproxy.rules.guard import Guard
    from relayproxy.rules.ruleset import RuleSet

_Line = tuple[str, str]
_NOTHING: Final = Difference()
#: In the place of how many leaks there are.
_NOT_LOOKED_FOR: Final = "leaks were not looked for, as there is no guard (--allow says whom mail may go to)"
#: Addresses whose leaks are counted each.
_ADDRESSES: Final = 1000
#: In words, by the name in Difference.
_KINDS: Final = {
    "outcome": "outcome",
    "reply": "reply",
    "sender": "sender",
    "recipients": "recipients",
    "headers": "header section",
    "body": "body",
    "route": "route",
    "tags": "tags",
}


class RulesOf(msgspec.Struct, frozen=True):
    """Names of those that did something."""

    before: tuple[str, ...]
    after: tuple[str, ...]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A line of JSON. `leaks` None: there is no guard, so that nobody looked for any."""

    event: Literal["backtest"] = "backtest"
    transaction: str
    session: str
    time: str
    sender: str
    outcome: str
    changed: bool
    changes: Difference
    leaks: tuple[str, ...] | None
    rules: RulesOf
    unseen: tuple[str, ...]
    failure: str | None


class GatesOf(msgspec.Struct, frozen=True):
    """When envelope, DATA and the final dot leave, in words; before: None where what was done is compared with."""

    before: tuple[str, ...] | None
    after: tuple[str, ...]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of JSON. `leaks`: how often, by address, of a thousand, and None with `leaking` as in a message; `changes`: how many messages, by what is not the same; `unseen`: of how many something was not kept that rules look at."""

    event: Literal["backtest-summary"] = "backtest-summary"
    messages: int
    changed: int
    leaking: int | None
    leaks: dict[str, int] | None
    changes: dict[str, int]
    unseen: dict[str, int]
    failures: int
    gates: GatesOf


class Report:
    """Of one run."""

    def __init__(
        self,
        rules: RuleSet,
        against: RuleSet | None,
        *,
        guard: Guard | None,
        limit: int | None,
        json: bool,
        colour: bool,
    ) -> None:
        self._rules = rules
        self._against = against
        before = None if against is None else tuple(gates_in_words(against))
        self._gates = GatesOf(before, tuple(gates_in_words(rules)))
        self._guard = guard
        self._limit = limit
        self._json = json
        self._colour = colour
        self._messages = self._changed = self._leaking = self._failures = self._given = 0
        self._leaks: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self._unseen: Counter[str] = Counter()
        #: What is shown at the end: what leaks, and all else.
        self._shown: tuple[list[Message], list[Message]] = ([], [])
        self._remarkable = 0
        #: Those of which no addresses were kept.
        self.untried = 0

    @property
    def tried(self) -> int:
        """Messages of which rules saw anything."""
        return self._messages - self.untried

    @property
    def leaks(self) -> bool:
        return bool(self._leaking)

    @property
    def has_changed(self) -> bool:
        return bool(self._changed) or self._gates_changed

    @property
    def _gates_changed(self) -> bool:
        """Whether anything leaves at another time, whichever rule that is for."""
        return self._against is not None and self._against.gates[:3] != self._rules.gates[:3]

    def add(self, stored: Stored, before: Effect, after: Effect) -> None:
        untried = ADDRESSES in after.unseen
        found = None if untried else difference(before, after)
        self._messages += 1
        self.untried += untried
        if found is not None:
            self._changed += 1
            self._changes.update(found.kinds)
        if after.leaks:
            self._leaking += 1
            for address in after.leaks:
                if address in self._leaks or len(self._leaks) < _ADDRESSES:
                    self._leaks[address] += 1
        self._unseen.update(after.unseen)
        self._failures += after.failure is not None
        if self._json or found is not None or after.leaks or after.unseen or after.failure:
            self._tell(stored, before, after, found)

    def _tell(self, stored: Stored, before: Effect, after: Effect, found: Difference | None) -> None:
        record = stored.record
        message = Message(
            transaction=record.transaction,
            session=record.session,
            time=record.time,
            sender=record.envelope.received.sender,
            outcome=after.outcome,
            changed=found is not None,
            changes=found or _NOTHING,
            leaks=None if self._guard is None else after.leaks,
            rules=RulesOf(before.rules, after.rules),
            unseen=after.unseen,
            failure=after.failure,
        )
        if self._json:
            if self._limit is None or self._given < self._limit:
                self._given += 1
                sys.stdout.buffer.write(json_line(message) + b"\n")
            return
        self._remarkable += 1
        shown = self._shown[0 if message.leaks else 1]
        if self._limit is None or len(shown) < self._limit:
            shown.append(message)

    def end(self) -> None:
        """Sum up, and show what there is to be shown."""
        if not self._messages:
            return
        if self._json:
            sys.stdout.buffer.write(json_line(self._summary()) + b"\n")
        else:
            write_lines(self._styled(style, text) for style, text in self._text())

    def _summary(self) -> Summary:
        return Summary(
            messages=self._messages,
            changed=self._changed,
            leaking=None if self._guard is None else self._leaking,
            leaks=None if self._guard is None else dict(self._leaks.most_common()),
            changes=dict(self._changes),
            unseen=dict(self._unseen),
            failures=self._failures,
            gates=self._gates,
        )

    def _styled(self, style: str, text: str) -> str:
        shown = printable(text)
        return styled(shown, style) if self._colour and style else shown

    def _text(self) -> Iterator[_Line]:
        leaks = _NOT_LOOKED_FOR if self._guard is None else _count(self._leaking, "leak")
        yield "", f"{_count(self._messages, 'message')}, {self._changed} changed, {leaks}"
        for kind, count in self._changes.items():
            yield "", f"  {_KINDS[kind]}: {count}"
        for what, count in self._unseen.items():
            tried = "not tried" if what == ADDRESSES else "tried as far as that goes"
            yield YELLOW, f"  {what}: not kept of {_count(count, 'message')}, {tried}"
        if self._failures:
            yield MAGENTA, f"  a rule went wrong: {self._failures}"
        yield from self._gate_lines()
        leaking, others = self._shown
        shown = [*leaking, *others][: self._limit]
        for message in shown:
            yield from self._message(message)
        if more := self._remarkable - len(shown):
            yield DIM, ""
            yield DIM, f"and {_count(more, 'message')} more (--limit)"

    def _gate_lines(self) -> Iterator[_Line]:
        before, after = self._gates.before, self._gates.after
        if before is None or not self._gates_changed:
            yield from ((DIM, f"  {line}") for line in after)
            return
        for was, now in zip(before, after, strict=True):
            if was == now:
                yield DIM, f"  {now}"
            else:
                yield RED, f"- {was}"
                yield GREEN, f"+ {now}"

    def _message(self, message: Message) -> Iterator[_Line]:
        yield "", ""
        yield CYAN, f"{message.transaction}  {message.time[:10]} {message.time[11:19]}  from {message.sender or '<>'}"
        changes = message.changes
        for name in ("outcome", "reply", "sender", "route"):
            if (both := getattr(changes, name)) is not None:
                yield from _replaced(_KINDS[name], both)
        yield from _moved("recipient", changes.recipients)
        for field in changes.headers:
            if not field.before and not field.after:
                yield YELLOW, f"~ {field.name}: not kept"
            yield from ((RED, f"- {field.name}: {value.strip()}") for value in field.before)
            yield from ((GREEN, f"+ {field.name}: {value.strip()}") for value in field.after)
        if changes.body:
            yield YELLOW, "~ another body"
        yield from _moved("tag", changes.tags)
        guard = "" if self._guard is None else f" ({self._guard.what})"
        yield from ((MAGENTA, f"! leak: {one}: the guard{guard} does not allow it") for one in message.leaks or ())
        if message.failure is not None:
            yield MAGENTA, f"! {message.failure}"
        if message.unseen:
            yield YELLOW, f"? not kept: {', '.join(message.unseen)}"
        before, after = message.rules.before, message.rules.after
        if before != after:
            yield DIM, f"  rules: {_names(before)} -> {_names(after)}"
        elif after:
            yield DIM, f"  rules: {_names(after)}"


def _replaced(what: str, both: Both) -> Iterator[_Line]:
    default = "<>" if what == "sender" else "the listener's upstream" if what == "route" else "none"
    yield RED, f"- {what}: {both.before or default}"
    yield GREEN, f"+ {what}: {both.after or default}"


def _moved(what: str, moved: Moved | None) -> Iterator[_Line]:
    if moved is not None:
        yield from ((RED, f"- {what}: {one}") for one in moved.removed)
        yield from ((GREEN, f"+ {what}: {one}") for one in moved.added)


def _names(rules: Iterable[str]) -> str:
    return ", ".join(rules) or "none"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
