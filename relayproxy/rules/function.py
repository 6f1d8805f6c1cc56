"""A function of a Python rule as a rule: what it may do at worst, and the call (DESIGN §6).

    rule = function_rule("qa.py", 7, Stage.RCPT, rcpt, path, allowed)

Invariants: what a function reads and does is not known before it has returned, so what counts is the worst that one of its stage can do, less what its file
does not declare; whatever is raised in it becomes FunctionError. Loading files does not belong here (python_file.py), nor in which thread this runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from relayproxy.rules import actions
from relayproxy.rules.actions import Act
from relayproxy.rules.conditions import Part
from relayproxy.rules.facts import Stage
from relayproxy.rules.python import Mail
from relayproxy.rules.rule import ANY_HEADER, KNOWN_AT, Rule
from relayproxy.rules.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from relayproxy.rules.asked import Allowed, Asked
    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.rule import Action, Subject

#: Characters of an exception's message that are told.
_LONGEST: Final = 200


class _Kind(NamedTuple):
    """What an action is, and all that it may write."""

    act: type[Act]
    writes: frozenset[Subject] = frozenset()


_HEADER: Final = frozenset({ANY_HEADER})
_CONTENT: Final = frozenset({"body", "attachment"})
#: By name.
KINDS: Final[Mapping[str, _Kind]] = {
    "change_sender": _Kind(actions.ChangeSender, frozenset({"sender"})),
    "add_recipient": _Kind(actions.AddRecipient, actions.RECIPIENTS),
    "delete_recipient": _Kind(actions.DeleteRecipient, actions.RECIPIENTS),
    "rewrite_recipient": _Kind(actions.RewriteRecipient, actions.RECIPIENTS),
    "redirect_recipient": _Kind(actions.RedirectRecipient, actions.RECIPIENTS | _HEADER),
    "rewrite_header_addresses": _Kind(actions.RewriteHeaderAddresses, _HEADER),
    "add_header": _Kind(actions.AddHeader, _HEADER),
    "insert_header": _Kind(actions.AddHeader, _HEADER),
    "change_header": _Kind(actions.ChangeHeader, _HEADER),
    "delete_header": _Kind(actions.DeleteHeader, _HEADER),
    "replace_body": _Kind(actions.ReplaceBody, _CONTENT),
    "strip_attachment": _Kind(actions.StripAttachment, _CONTENT),
    "reject": _Kind(actions.Refuse),
    "tempfail": _Kind(actions.Refuse),
    "reply": _Kind(actions.Refuse),
    "discard": _Kind(actions.Discard),
    "hold": _Kind(actions.Hold),
    "accept": _Kind(actions.Accept),
    "route": _Kind(actions.Route),
    "tag": _Kind(actions.Tag),
    "delay": _Kind(actions.Delay),
    "throttle": _Kind(actions.Throttle),
    "disconnect": _Kind(actions.Cut),
    "drop_reply": _Kind(actions.DropReply),
}


class FunctionError(ValueError):
    """What went wrong in a function, in words."""


class Decides(Part, frozen=True):
    """The function does: it is called always, and may look at all that is known."""

    stage: Stage

    @property
    def reads(self) -> frozenset[Subject]:
        found = {subject for subject, at in KNOWN_AT.items() if at <= self.stage}
        if self.stage is not Stage.RCPT:
            found.discard("recipient")  # it is called once
        return frozenset(found | _HEADER if self.stage >= Stage.EOH else found)

    def holds(self, facts: Facts, recipient: Recipient | None, draws: Draws, groups: dict[str, str]) -> bool:  # noqa: ARG002
        return True


class Call(Act, frozen=True):
    """`file`: as its code calls it."""

    name: ClassVar[str] = "call"
    function: Callable[[Mail], None]
    stage: Stage
    file: str
    allowed: Allowed

    @property
    def kinds(self) -> tuple[type[Act], ...]:
        """Of the actions that it may ask for."""
        return tuple([KINDS[name].act for name in sorted(self.allowed.names)])

    @property
    def writes(self) -> frozenset[Subject]:
        return frozenset().union(*[KINDS[name].writes for name in self.allowed.names])

    @property
    def stops(self) -> bool:  # type: ignore[override]
        return any(kind.stops for kind in self.kinds)

    @property
    def ends(self) -> bool:  # type: ignore[override]
        return any(kind.ends for kind in self.kinds)

    def ask(self, facts: Facts, place: int | None) -> Sequence[Asked]:
        """What it wants, for the recipient at that place or for the message. Raises FunctionError."""
        mail = Mail(self.stage, facts, place, self.allowed)
        try:
            returned: object = self.function(mail)  # type: ignore[func-returns-value]  # what others write is not to be trusted
        except BaseException as error:  # noqa: BLE001  SystemExit too: it ends nothing but this
            raise FunctionError(self._told(error)) from None
        if returned is not None:
            raise FunctionError(f"expected a function that returns nothing, got {shown(type(returned).__name__)}")
        return tuple(mail._asking.asked)  # noqa: SLF001  not for those who write functions

    def _told(self, error: BaseException) -> str:
        line = line_of(error, self.file)
        try:
            what = " ".join(str(error).split())[:_LONGEST]
        except Exception:  # noqa: BLE001  it is theirs
            what = ""
        told = f"{type(error).__name__}: {what}" if what else type(error).__name__
        return told if line is None else f"line {line}: {told}"


def line_of(error: BaseException, file: str) -> int | None:
    """The last of the file's own lines on the way to what was raised."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def function_rule(source: str, line: int, stage: Stage, function: Callable[[Mail], None], file: str, allowed: Allowed) -> Rule:  # fmt: skip
    """Of a function in the file that is named `source` where it is asked for."""
    name = stage.name.lower()
    call = Call(function, stage, file, allowed)
    return Rule(f"{source}: {name}", Decides(stage), (call,), stage, f"{source}:{line}", pinned=True)


def bound(rule: Rule, upstreams: frozenset[str], *, has_store: bool) -> Rule:
    """With what a configuration has; a rule that is no function stays as it is."""
    match rule.then:
        case (Call() as call,):
            replace = msgspec.structs.replace
            allowed = replace(call.allowed, upstreams=upstreams, has_store=has_store)
            return replace(rule, then=(replace(call, allowed=allowed),))
        case _:
            return rule


def kinds(action: Action) -> tuple[type, ...]:
    """What an action is, or may be."""
    return action.kinds if isinstance(action, Call) else (type(action),)
