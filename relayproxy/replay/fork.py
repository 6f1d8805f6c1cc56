"""A recorded session up to one of its commands: where somebody else goes on (DESIGN §8).

Theory of operation: what a client said is numbered as its script has it: 0 is the connection, then each command, and each message or chunk. Up to a number, that one included, all is said, and
all that is answered is heard (player.py): who goes on has nothing to wait for. Whether the session then stands where it stood is `astray`'s to say; a refusal alone is no reason that it does not, for what was recorded may
have been worse.

Pure. Saying it does not belong here (player.py), nor who goes on (interactive.py; cli/fork.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from relayproxy.replay.compare import shown
from relayproxy.replay.script import Chunk, Message, ScriptError, script_of
from relayproxy.smtp.commands import Data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayproxy.record.dialog import Session
    from relayproxy.replay.compare import Played
    from relayproxy.replay.script import Script, Step
    from relayproxy.smtp.replies import Reply

#: Steps that are listed of a long session, half of them its first and half its last.
_LISTED: Final = 20
#: RFC 5321 §3.8: the server hangs up.
_CLOSING: Final = 421


class NoSuchPlace(ValueError):  # noqa: N818  it is a fact, and reads as one
    """Nobody can go on there: what was expected, and the numbers that there are."""


def upto(script: Script, number: int) -> Script:
    """What is said until then. Raises NoSuchPlace."""
    if not 0 <= number < len(script.steps):
        raise NoSuchPlace(
            "\n".join([f"expected a number of 0 to {len(script.steps) - 1}, got {number}", *listed(script)])
        )
    match script.steps[number].what:
        case Message(ended=False) | Chunk(whole=False):
            raise NoSuchPlace(
                f"expected what was said to its end, got {number}, {script.steps[number].said}, of which the end was never said"
            )
        case _:
            return replace(script, steps=script.steps[: number + 1])


def listed(script: Script) -> Iterator[str]:
    """Numbers and what they stand for, a line each."""
    last = len(script.steps) - 1
    left_out = range(_LISTED // 2, last + 1 - _LISTED // 2)
    for number, step in enumerate(script.steps):
        if number not in left_out:
            yield f"{number:>5}  {step.said}"
        elif number == left_out.start:
            yield f"  ...  {len(left_out)} more"


def going_on(session: Session, before: Script) -> Script:
    """The script of a dialog that goes on where `before` ends. Raises ScriptError."""
    last = before.steps[-1]
    script = script_of(session, behind=last)
    if asks_for_mail(last, last.reply) and not isinstance(script.steps[0].what, Message):
        raise ScriptError(f"expected mail data (C> |...) behind {last.said}, found {script.steps[0].said}")
    return script


def astray(script: Script, played: Played) -> str | None:
    """Why a session that was to be played up to its last step does not stand where it stood then; None where it does."""
    for number, (step, got) in enumerate(zip(script.steps, played.heard, strict=True)):
        if number in played.unsent:
            return "DATA was refused, so that the message was not sent"
        if got is None or (step.reply is not None and step.reply.code == got.code):
            continue
        if got.code == _CLOSING or (number == 0 and got.severity != 2):
            return f"the server would not go on: {shown(got)}"
    if played.cut is not None:
        return played.cut
    last, got = script.steps[-1], played.heard[-1]
    if asks_for_mail(last, last.reply) and got is not None and not asks_for_mail(last, got):
        return f"DATA was refused: {shown(got)}"
    return None


def asks_for_mail(step: Step, reply: Reply | None) -> bool:
    """Whether what follows is mail data."""
    return isinstance(step.what, Data) and reply is not None and reply.severity == 3


def joined(before: Script, after: Script) -> Script:
    """Both as one session."""
    return replace(before, steps=before.steps + after.steps, left_out=before.left_out + after.left_out)
