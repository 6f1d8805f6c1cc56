"""What a server answered this time, against what the client heard then (DESIGN §8): by code and enhanced status code, never by text.

Invariants: each reply is compared once. What follows of a difference is none of its own: a message that was not sent because DATA was refused, what came behind the end of a
connection, 503 behind a greeting that refuses, RCPT behind a MAIL that is refused, DATA where all recipients are. A reply whose text is written `*` in a dialog is compared by its code alone. Nothing that is told is obeyed by a terminal (attack 22).
Pure. Asking the server does not belong here (player.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from relayproxy.record.text import json_line, printable, text
from relayproxy.replay.script import Chunk, Opening
from relayproxy.smtp.commands import Command, Data, Mail, Rcpt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relayproxy.replay.script import LeftOut, Script, Step
    from relayproxy.smtp.replies import Reply


@dataclass(frozen=True, slots=True)
class Played:
    """What was heard to each step of a script, in order; None: nothing. `unsent`: the numbers of steps that could not be said. `cut`: why it ended early."""

    heard: Sequence[Reply | None]
    unsent: frozenset[int] = frozenset()
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """`said`: what the client said. `why`: what else there is to say of it."""

    said: str
    expected: Reply | None
    got: Reply | None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one session. `replies`: how many were compared."""

    session: str | None
    replies: int
    differences: tuple[Difference, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def same(self) -> bool:
        return not self.differences

    def lines(self) -> Iterator[str]:
        """For people: a line, and of each difference what was said, what was expected (-) and what came (+)."""
        same, different = _count(self.replies, "reply", "replies"), len(self.differences)
        how = f"same: {same}" if self.same else _count(different, "difference", "differences")
        yield f"{self.session or 'session'}  {how}"
        for left in self.left_out:
            yield f"  not replayed: {left.line or 'an empty line'}: {left.why}"
        for one in self.differences:
            yield f"  {one.said}"
            if one.expected is not None:
                yield f"    - {shown(one.expected)}"
            if one.got is not None:
                yield f"    + {shown(one.got)}"
            if one.why is not None:
                yield f"    {'+' if one.expected is not None and one.got is None else ' '} {one.why}"

    def json(self) -> bytes:
        """For programs, without a newline."""
        differences = [
            {"said": one.said, "expected": _facts(one.expected), "got": _facts(one.got), "why": one.why}
            for one in self.differences
        ]
        told = {"v": 1, "event": "replay", "session": self.session, "same": self.same, "replies": self.replies}
        left_out = [{"line": one.line, "why": one.why} for one in self.left_out]
        return json_line({**told, "differences": differences, "left_out": left_out})


def compare(script: Script, played: Played) -> Comparison:
    """Of a script and what came of it."""
    differences: list[Difference] = []
    replies = 0
    differs = False  # the step before does
    transaction = _Transaction()
    for number, step in enumerate(script.steps):
        got = played.heard[number]
        if number in played.unsent or (step.reply is None and got is None):
            continue
        if got is None:
            why = _unanswered(script.steps[number:], played.cut, behind=differs)
            one = replace(differences.pop(), why=why) if differs else Difference(step.said, step.reply, None, why)
            differences.append(one)
            break
        follows = transaction.follows(step, got)
        differs = step.reply is not None and not follows and not _alike(step.reply, got)
        replies += step.reply is not None
        if differs:
            differences.append(Difference(step.said, step.reply, got))
    return Comparison(script.id, replies, tuple(differences), script.left_out)


class _Transaction:
    """Knows whether what is refused is so for what was refused before it in the same transaction, and was not then."""

    def __init__(self) -> None:
        self._shut = False  # the connection is: what is said then is 503 (RFC 7504)
        self._lost = False  # MAIL is refused
        self._refused = False  # a recipient is
        self._taken = False  # a recipient is taken

    def follows(self, step: Step, got: Reply) -> bool:
        """Whether the reply to the next step is no news."""
        refused = step.reply is not None and step.reply.severity < 4 <= got.severity
        if self._shut:
            return refused and got.code == 503
        match step.what:
            case Opening():
                self._shut = refused
            case Mail():
                self._lost, self._refused, self._taken = refused, False, False
            case Rcpt() if not self._lost:
                self._refused |= refused
                self._taken |= got.severity == 2
            case Rcpt() | Data() | Chunk():
                return refused and (self._lost or (self._refused and not self._taken))
            case Command() if step.what.verb not in ("NOOP", "VRFY", "HELP"):
                self._lost = self._refused = False
            case _:
                pass
        return False


def not_replayed(session: str | None, why: str) -> Comparison:
    """Of a session that cannot be said again."""
    return Comparison(session, 0, (Difference("the session", None, None, f"not replayed: {why}"),))


def shown(reply: Reply) -> str:
    """On one line."""
    return printable(f"{reply.code} {text(b' '.join(reply.lines))}".rstrip())


def _alike(expected: Reply, got: Reply) -> bool:
    if expected.code != got.code:
        return False
    return expected.enhanced == got.enhanced or (expected.enhanced is None and expected.lines[0].startswith(b"*"))


def _unanswered(steps: Sequence[Step], cut: str | None, *, behind: bool) -> str:
    """Of the first that was not answered and those behind it; `behind`: what is told of is the one in front of them."""
    more = sum(1 for step in steps[0 if behind else 1 :] if step.reply is not None)
    what = cut or "no reply came"
    return f"{what}; {_count(more, 'reply', 'replies')} more did not come" if more else what


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _facts(reply: Reply | None) -> dict[str, Any] | None:
    if reply is None:
        return None
    return {"code": reply.code, "enhanced": reply.enhanced, "text": text(reply.text)}
