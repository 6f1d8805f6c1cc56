"""What a function of a Python rule asks for, checked as a TOML rule's `then` is: the same names, the same values, the same code (action_syntax.py).

Invariants: a text is what it is, with no placeholders in it; what has no place at the function's stage, what its file does not declare, and what the
configuration does not have is refused where it is asked for, so that the fault has a line. Doing it does not belong here (evaluation.py), nor how a function says it (python.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from relayproxy.rules.action_syntax import ACTIONS
from relayproxy.rules.actions import misfit
from relayproxy.rules.facts import Stage
from relayproxy.rules.stages import first_stage
from relayproxy.rules.syntax import Source, Written

if TYPE_CHECKING:
    from collections.abc import Collection

    from relayproxy.rules.actions import Act
    from relayproxy.rules.syntax import Lines


class ActionError(ValueError):
    """An action cannot be done, in words: what was expected, and what came."""


class Asked(NamedTuple):
    """An action, and the place of the recipient that it is about; None: of whom, or what, the function was called for."""

    action: Act
    place: int | None


class Allowed(msgspec.Struct, frozen=True):
    """Which actions there are, by name. `upstreams`: those there are, None where nobody knows; `has_store`: what is held can be kept."""

    names: frozenset[str]
    upstreams: Collection[str] | None = None
    has_store: bool = True


class Asking:
    """One call's: `asked`, in order."""

    __slots__ = ("_allowed", "_stage", "asked")

    def __init__(self, stage: Stage, allowed: Allowed) -> None:
        self._stage = stage
        self._allowed = allowed
        self.asked: list[Asked] = []

    def ask(self, name: str, value: object, place: int | None = None) -> None:
        """Raises ActionError."""
        if name not in self._allowed.names:
            declared = ", ".join(sorted(self._allowed.names)) or "none"
            raise ActionError(f"expected an action that ACTIONS names ({declared}), got {name}")
        action = _read(name, value)
        for_one = self._stage <= Stage.RCPT
        first = first_stage(action, per_recipient=for_one, by_recipient=for_one)
        if self._stage < first:
            raise ActionError(f"{name}: expected {first.name.lower()} or a later stage, got {self._stage.name.lower()}")
        if (what := misfit(action, self._allowed.upstreams, has_store=self._allowed.has_store)) is not None:
            raise ActionError(what)
        self.asked.append(Asked(action, place))


def _read(name: str, value: object) -> Act:
    source = Source("", "", _no_file)
    action: Act | None = ACTIONS[name].read(Written({name: _plain(value)}, (), source, groups=None).of(name))
    if action is None or source.complaints:
        raise ActionError("; ".join([complaint.text for complaint in source.complaints]))
    return action


def _plain(value: object) -> object:
    """As TOML would have it: what is a kind of text or list to Python is one."""
    match value:
        case str():
            return str.__str__(value)
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in value]
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case _:
            return value


def _no_file(name: str, /) -> Lines:
    raise ValueError(f"expected patterns, as a function names no file of them, got {name!r}")
