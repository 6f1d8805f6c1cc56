"""One stage: its rules in order, each on the mail as the rules before it left it (DESIGN §6 "What it applies to", "Actions", "When a rule goes wrong").

    Evaluation(candidates, Stage.RCPT, facts, draws).run()

Theory of operation: conditions and templates of a rule look at the facts as they were when it began; what its actions ask for is gathered for all
recipients that it applies to (`_Change`), and then becomes new facts in one step. A function is asked what its actions are, and these are gathered likewise.
Invariants: what goes wrong ends everything, and nothing of the stage is left (PROTOCOL I9); nothing is raised.
Which rules these are does not belong here (candidates.py), nor how header fields are edited (mail/edits.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from relayproxy.mail.edits import AddField, ChangeField, DeleteField, ReplaceAddress, RewriteAddresses, edited
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.mime import scanned
from relayproxy.rules.actions import (
    Accept,
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    Cut,
    Delay,
    DeleteHeader,
    DeleteRecipient,
    Discard,
    DropReply,
    Hold,
    RedirectRecipient,
    Refuse,
    ReplaceBody,
    RewriteHeaderAddresses,
    RewriteRecipient,
    Route,
    StripAttachment,
    Tag,
    Throttle,
)
from relayproxy.rules.decision import Decision, Faults, Fired
from relayproxy.rules.facts import BodyEdit, Content, Noted, Stage
from relayproxy.rules.function import Call, FunctionError
from relayproxy.rules.recipients import Recipients
from relayproxy.rules.rule import BadAddress
from relayproxy.smtp.local_replies import INTERNAL_ERROR, NO_VALID_ADDRESS, RULE_FAILED
from relayproxy.smtp.replies import Reply, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relayproxy.mail.edits import HeaderEdit
    from relayproxy.rules.candidates import Candidate, Candidates
    from relayproxy.rules.facts import Draws, Facts, Recipient
    from relayproxy.rules.rule import Action, Rule, Template

_PLAIN_TEXT: Final = HeaderSection(b"Content-Type: text/plain; charset=utf-8\r\n")
_REFUSED_AT_CONNECT: Final = {"reject": 554, "tempfail": 421}


class _Hit(NamedTuple):
    """That a rule applies: to the recipient at this place, or to the message. `groups`: what its patterns found."""

    place: int
    recipient: Recipient | None
    groups: Mapping[str, str]


class Evaluation:
    """Of one stage."""

    __slots__ = (
        "_before", "_candidates", "_draws", "_ended", "_facts", "_faults", "_fired", "_refusals", "_running", "_stage", "_stopped",
    )  # fmt: skip

    def __init__(self, candidates: Candidates, stage: Stage, facts: Facts, draws: Draws) -> None:
        self._candidates = candidates
        self._stage = stage
        self._before = self._facts = facts
        self._draws = draws
        self._faults: Faults | None = None
        self._fired: list[Fired] = []
        self._refusals: list[Reply] = []
        #: By name, whose doing is done.
        self._running = ""
        #: Only rules that run always do; none does.
        self._stopped = facts.accepted
        self._ended = facts.fate == "discard"

    def run(self) -> Decision:
        """The rules of this stage."""
        try:
            self._make_what_is_due()
            self._run(self._candidates)
        except Exception as error:  # noqa: BLE001  whatever it is: no message passes unruled or half-ruled
            return self._failed(error)
        facts = self._facts
        if self._refusals:
            facts = msgspec.structs.replace(self._before, tags=facts.tags)
        # A message that is to be tried again for one recipient is not given back for another.
        answer = worst(self._refusals) if self._refusals else None
        return Decision(facts=facts, answer=answer, faults=self._faults, fired=tuple(self._fired))

    def gave_up(self, seconds: float) -> Decision:
        """In the place of what `run` has not given after so many seconds, in whatever thread it still goes on: that changes nothing any more."""
        what = "expected it to end" if self._running else "expected a thread for it"
        return self._failed(FunctionError(f"{what} within {seconds:g} s, and gave up"))

    def _run(self, candidates: Candidates) -> None:
        places = iter(candidates.after(-1, self._facts))
        while not self._ended and (place := next(places, None)) is not None:
            candidate, before = candidates.rules[place], self._facts
            if self._stopped and not candidate.rule.always:
                continue
            self._try(candidate)
            if not candidates.looks_at_the_same(before, self._facts):
                places = iter(candidates.after(place, self._facts))  # other rules may apply to it

    def _make_what_is_due(self) -> None:
        facts = self._facts
        if self._stage is Stage.EOH and facts.edits:
            self._running = facts.edits[0].rule
            header = self._edited(facts.edits)
            self._facts = msgspec.structs.replace(facts, header=header, edits=())
        if self._stage is Stage.EOM and facts.body:
            self._facts = msgspec.structs.replace(facts, content=_left(facts.content, facts.body))

    def _failed(self, error: Exception) -> Decision:
        answer = NO_VALID_ADDRESS if isinstance(error, BadAddress) else RULE_FAILED
        if self._stage is Stage.CONNECT:
            answer = INTERNAL_ERROR  # there is no 451 for a session
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        who = f"rule {self._running!r}" if self._running else f"the rules at {self._stage.name.lower()}"
        return Decision(facts=self._before, answer=answer, failure=f"{who}: {what}")

    def _try(self, candidate: Candidate) -> None:
        rule, per_recipient, holds = candidate
        self._running = rule.name
        facts, draws = self._facts, self._draws
        if not per_recipient:
            groups: dict[str, str] = {}
            # A message that was refused for a recipient: what others have against it may still make it a 4yz.
            if not self._refusals and holds(facts, None, draws, groups):
                self._do(rule, [_Hit(0, None, groups)])
            return
        hits = []
        for place, recipient in enumerate(facts.recipients):
            groups = {}
            if holds(facts, recipient, draws, groups):
                hits.append(_Hit(place, recipient, groups))
        if hits:
            self._do(rule, hits)

    def _do(self, rule: Rule, hits: list[_Hit]) -> None:
        before = self._facts
        change = _Change(rule, before, self._stage)
        done = change.add_all(rule.then, hits)
        if not done:
            return
        self._fired.append(Fired(rule.name, tuple([action.name for action in done])))
        for action in done:
            if (fault := _fault_of(action)) is not None:
                self._faults = fault if self._faults is None else self._faults.joined(fault)
        self._refusals += change.refusals
        changes = change.facts
        if (recipients := change.recipients.result) is not None:
            changes["recipients"] = recipients
        if change.noted and self._stage < Stage.EOH:
            had = [one for one in before.edits if one not in change.again] if change.again else before.edits
            changes["edits"] = (*had, *change.noted)
        elif change.noted:
            changes["header"] = self._edited(change.noted)
        if self._stage is Stage.EOM and "body" in changes:
            changes["content"] = _left(before.content, changes["body"])
        if changes:
            self._facts = msgspec.structs.replace(before, **changes)
        self._stopped = self._stopped or change.stops
        self._ended = change.ends or bool(self._refusals and not self._facts.recipients)

    def _edited(self, noted: Iterable[Noted]) -> HeaderSection:
        facts = self._facts
        header = facts.header
        assert header is not None, "from eoh on there is a header section"  # noqa: S101
        utf8 = "SMTPUTF8" in facts.parameters
        try:
            return edited(header, tuple([one.edit for one in noted]), utf8=utf8)
        except ValueError:
            for one in noted:  # one at a time, to know whose it is
                self._running = one.rule
                header = edited(header, (one.edit,), utf8=utf8)
            return header


class _Change:
    """What one rule asks for. `facts`: what is to be other than it was; `again`: what is in `noted` once more."""

    __slots__ = ("_before", "_rule", "_stage", "again", "ends", "facts", "noted", "recipients", "refusals", "stops")

    def __init__(self, rule: Rule, before: Facts, stage: Stage) -> None:
        self._rule = rule
        self._before = before
        self._stage = stage
        self.facts: dict[str, Any] = {}
        self.recipients = Recipients(before.recipients)
        self.noted: dict[Noted, None] = {}
        self.again: set[Noted] = set()
        self.refusals: list[Reply] = []
        self.stops = False
        self.ends = False

    def add_all(self, actions: Sequence[Action], hits: Iterable[_Hit]) -> Sequence[Action]:
        """What a rule does, or a function asks for; that."""
        match actions:
            case (Call() as call,):
                return self._add_called(call, hits)
            case _:
                for hit in hits:
                    for place, action in enumerate(actions):
                        self.add(place, action, hit)
                return actions

    def _add_called(self, call: Call, hits: Iterable[_Hit]) -> list[Action]:
        """What is the same for several hits is given once."""
        done: list[Action] = []
        for hit in hits:
            asked: list[Action] = []
            for action, of in call.ask(self._before, None if hit.recipient is None else hit.place):
                about = hit if of is None else _Hit(of, self._before.recipients[of], {})
                self.add(asked.count(action), action, about)
                asked.append(action)
            done += [action for action in asked if action not in done]
        return done

    def add(self, place: int, action: Action, hit: _Hit) -> None:
        """`place` of the action in its rule. Faults are asked for once, whomever the rule applies to (`_fault_of`)."""
        match action:
            case ChangeSender():
                self.facts["sender"] = self._text(action.address, hit)
            case AddRecipient() | DeleteRecipient() | RewriteRecipient() | RedirectRecipient():
                self._recipient(place, action, hit)
            case AddHeader() | ChangeHeader() | DeleteHeader() | RewriteHeaderAddresses():
                self._note(place, self._header_edit(action, hit))
            case ReplaceBody():
                self.facts["body"] = (BodyEdit(text=self._text(action.text, hit)),)  # nothing is left of the one before
            case StripAttachment():
                self._strip(BodyEdit(strip=action.pattern))
            case Refuse():
                self._refuse(action, hit)
            case Discard() | Hold() | Accept() | Route() | Tag():
                self._message(action, hit)
            case Cut():
                self.stops = True
            case Delay() | Throttle() | DropReply():
                pass
            case _:
                raise TypeError(f"expected an action that is known, got {action!r}")

    def _text(self, template: Template, hit: _Hit) -> str:
        return template.render(self._before, hit.recipient, hit.groups)

    def _recipient(
        self, place: int, action: AddRecipient | DeleteRecipient | RewriteRecipient | RedirectRecipient, hit: _Hit
    ) -> None:
        recipients, one = self.recipients, hit.recipient
        if isinstance(action, AddRecipient):
            recipients.add([self._text(address, hit) for address in action.addresses])
            return
        if isinstance(action, DeleteRecipient) and action.patterns is not None:
            recipients.delete_matching(action.patterns)
            return
        assert one is not None, "these read the recipient"  # noqa: S101
        match action:
            case DeleteRecipient():
                recipients.delete(hit.place)
            case RewriteRecipient():
                recipients.rewrite(hit.place, one, [self._text(address, hit) for address in action.addresses])
            case RedirectRecipient():
                address = self._text(action.address, hit)
                recipients.rewrite(hit.place, one, (address,))
                if address != one.address:
                    self._note(place, ReplaceAddress(one.address, address, one.origin))

    def _header_edit(
        self, action: AddHeader | ChangeHeader | DeleteHeader | RewriteHeaderAddresses, hit: _Hit
    ) -> HeaderEdit:
        match action:
            case AddHeader():
                return AddField(action.field, self._text(action.value, hit), action.index)
            case ChangeHeader():
                return ChangeField(action.field, action.n, self._text(action.value, hit))
            case DeleteHeader():
                return DeleteField(action.field, action.n)
            case RewriteHeaderAddresses():
                return RewriteAddresses(action.fields, action.spare, self._text(action.to, hit))

    def _note(self, place: int, edit: HeaderEdit) -> None:
        """Once, for whichever recipients this action asks the same; one that is to leave nobody named stays behind what was noted since."""
        noted = Noted(self._rule.name, place, edit)
        if noted in self._before.edits:
            if not isinstance(edit, RewriteAddresses):
                return
            self.again.add(noted)
        self.noted[noted] = None

    def _strip(self, edit: BodyEdit) -> None:
        body = self.facts.get("body", self._before.body)
        if edit not in body and not (body and body[0].text is not None):
            self.facts["body"] = (*body, edit)

    def _refuse(self, action: Refuse, hit: _Hit) -> None:
        code = action.code
        if self._stage is Stage.CONNECT:
            code = _REFUSED_AT_CONNECT.get(action.kind, code)
        self.refusals.append(Reply(code, (self._text(action.text, hit).encode(),), origin="rule"))
        if hit.recipient is None:
            self.ends = True
        else:
            self.recipients.delete(hit.place)  # no further rule runs for it

    def _message(self, action: Discard | Hold | Accept | Route | Tag, hit: _Hit) -> None:
        changed, before = self.facts, self._before
        match action:
            case Discard():
                changed["fate"] = "discard"
                self.ends = True
            case Hold():
                if changed.get("fate", before.fate) is None:  # the first says why
                    changed |= {"fate": "hold", "reason": self._text(action.reason, hit)}
            case Accept():
                changed["accepted"] = True
                self.stops = True
            case Route():
                changed["route"] = action.upstream
            case Tag():
                tags, tag = changed.get("tags", before.tags), self._text(action.text, hit)
                if tag not in tags:
                    changed["tags"] = (*tags, tag)


def _fault_of(action: Action) -> Faults | None:
    match action:
        case Delay():
            return Faults(delay=action.seconds)
        case Throttle():
            return Faults(throttle=action.rate)
        case Cut():
            return Faults(disconnect=action.how)
        case DropReply():
            return Faults(drop_reply=True)
        case _:
            return None


def _left(content: Content | None, edits: Iterable[BodyEdit]) -> Content | None:
    """With body edits made, as far as conditions look at it."""
    if content is None:
        return None
    for edit in edits:
        if edit.text is not None:
            seen = scanned(_PLAIN_TEXT, (edit.text.encode("utf-8", "replace"),))  # files may be uuencoded in it
            content = Content.of(content.size, seen)._replace(text=edit.text)
        elif edit.strip is not None:
            left = [name for name in content.attachments if name in content.uuencoded or not edit.strip.matches(name)]
            content = content._replace(attachments=tuple(left))
    return content
