"""What becomes of a `[[test]]` case (DESIGN §6): rules run stage by stage, as a relay runs them, and nothing is sent.

    differences(case, rules)               # ("recipients: expected a@x.test, got b@x.test",); none where all is as expected

Invariants: pure; an upstream that takes everything is thought behind the rules, and no guard.
How cases are written does not belong here (case_syntax.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.mail.canonical import canonical
from relayproxy.mail.header import HeaderSection, decode, find_body
from relayproxy.mail.mime import Scanner
from relayproxy.rules.condition_syntax import MAIL_PARAMETERS, RCPT_PARAMETERS
from relayproxy.rules.facts import Content, Facts, Recipient, Stage
from relayproxy.rules.recipients import collapsed
from relayproxy.rules.wording import shown
from relayproxy.smtp import local_replies
from relayproxy.smtp.replies import worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from relayproxy.rules.case_syntax import Case, Expect, Given, Outcome, Wanted
    from relayproxy.rules.ruleset import RuleSet
    from relayproxy.smtp.replies import Reply


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a case. `facts`: as the rules left them; `rules`: those that did something, in order; `failure`: what went wrong with one."""

    facts: Facts
    outcome: Outcome
    reply: Reply | None = None
    rules: tuple[str, ...] = ()
    failure: str | None = None


def differences(case: Case, rules: RuleSet) -> tuple[str, ...]:
    """Between what was expected and what became of it, in words."""
    played = play(case.given, rules)
    found = list(_differences(case.expect, played))
    if found and played.failure is not None:
        found.append(f"a rule went wrong: {played.failure}")
    return tuple(found)


def play(given: Given, rules: RuleSet) -> Played:
    """From connect to the end of the message, or as far as the rules let it come."""
    return _Play(given, rules).played()


class _AllOrNothing:
    """All that is drawn holds, or nothing."""

    def __init__(self, holds: bool) -> None:
        self._holds = holds

    def chance(self, rule: str) -> float:  # noqa: ARG002
        return 0.0 if self._holds else 1.0

    def first(self, rule: str, key: tuple[str, ...], *, times: int, within: float) -> bool:  # noqa: ARG002
        return self._holds

    def every(self, rule: str, n: int) -> bool:  # noqa: ARG002
        return self._holds


class _Play:
    def __init__(self, given: Given, rules: RuleSet) -> None:
        self._given = given
        self._rules = rules
        self._draws = _AllOrNothing(given.drawn)
        self._facts = Facts(listener=given.listener, client=given.client, session="session")
        self._fired: dict[str, None] = {}
        self._refusals: list[Reply] = []
        self._failure: str | None = None
        self._is_cut = False

    def played(self) -> Played:
        outcome = self._outcome()
        reply = worst(self._refusals) if self._refusals else None
        return Played(
            facts=self._facts, outcome=outcome, reply=reply, rules=tuple(self._fired), failure=self._failure
        )  # fmt: skip

    def _outcome(self) -> Outcome:
        went_on = self._session() and self._envelope() and self._message()
        facts = self._facts
        if self._is_cut:
            return "aborted"
        if not went_on:
            return (
                ("tempfailed" if worst(self._refusals).severity == 4 else "rejected") if self._refusals else "aborted"
            )
        if facts.fate is not None:
            return "held" if facts.fate == "hold" else "discarded"
        return "accepted"

    def _stage(self, stage: Stage, facts: Facts) -> bool:
        """Whether it goes on."""
        decision = self._rules.evaluate(stage, facts, self._draws)
        self._fired |= dict.fromkeys(fired.rule for fired in decision.fired)
        self._failure = self._failure or decision.failure
        self._facts = decision.facts
        if decision.answer is not None:
            self._refusals.append(decision.answer)
        if decision.faults is not None and decision.faults.disconnect is not None and stage < Stage.EOM:
            self._is_cut = True
        return decision.answer is None and not self._is_cut

    def _session(self) -> bool:
        given, replace = self._given, msgspec.structs.replace
        return self._stage(Stage.CONNECT, self._facts) and self._stage(
            Stage.HELO, replace(self._facts, helo=given.helo)
        )

    def _envelope(self) -> bool:
        given, replace = self._given, msgspec.structs.replace
        of_mail = _those(given.parameters, MAIL_PARAMETERS)
        facts = replace(
            self._facts, tls=given.tls, user=given.auth, transaction="transaction", sender=given.sender, parameters=of_mail
        )  # fmt: skip
        return self._stage(Stage.MAIL, facts) and self._recipients(_those(given.parameters, RCPT_PARAMETERS))

    def _recipients(self, parameters: Mapping[str, str | None]) -> bool:
        taken: list[Recipient] = []
        origin = 0
        for address in self._given.recipients:
            before = self._facts
            one = Recipient(address, origin, parameters)
            if self._stage(Stage.RCPT, msgspec.structs.replace(before, recipients=(one,))):
                taken += self._facts.recipients
                origin += 1
            elif self._is_cut:
                return False
            else:
                self._facts = msgspec.structs.replace(before, tags=self._facts.tags)
        self._facts = msgspec.structs.replace(self._facts, recipients=collapsed(taken))
        return bool(origin) and self._stage(Stage.DATA, self._facts)

    def _message(self) -> bool:
        header, body = _cut(self._given.message)
        replace = msgspec.structs.replace
        if not self._stage(Stage.EOH, replace(self._facts, header=HeaderSection(header))):
            return False
        scanner = Scanner(HeaderSection(header))
        scanner.feed(body)
        scanner.finish()
        content = Content(len(self._given.message), scanner.text, scanner.attachments, scanner.complete)
        if not self._stage(Stage.EOM, replace(self._facts, content=content)):
            return False
        if not self._facts.recipients and self._facts.fate is None:
            self._refusals.append(local_replies.NO_RECIPIENTS)
            return False
        return True


def _those(parameters: Mapping[str, str | None], keywords: Iterable[str]) -> dict[str, str | None]:
    return {keyword: value for keyword, value in parameters.items() if keyword in keywords}


def _cut(message: bytes) -> tuple[bytes, bytes]:
    """Header section and body; a message without an empty line is all header section."""
    found = find_body(message)
    return (message, b"") if found is None else (message[: found[0]], message[found[1] :])


def _differences(expect: Expect, played: Played) -> Iterator[str]:
    for key, look in _LOOK.items():
        wanted = getattr(expect, key)
        if wanted is not None and (different := look(wanted, played)) is not None:
            yield f"{key}: {different}"
    for name, wanted in expect.header.items():
        header = played.facts.header
        values = [] if header is None else [decode(field.value) for field in header.get_all(name.encode("ascii"))]
        if not (wanted is bool(values) if isinstance(wanted, bool) else any(map(wanted.matches, values))):
            got = " and ".join(map(shown, values)) or "none"
            yield f"header.{name}: expected {_words(wanted, 'one')}, got {got}"


def _words(wanted: Wanted, what: str) -> str:
    return shown(wanted.text) if not isinstance(wanted, bool) else what if wanted else "none"


def _one(of: Callable[[Played], object]) -> Callable[[object, Played], str | None]:
    def look(wanted: object, played: Played) -> str | None:
        got = of(played)
        return None if got == wanted else f"expected {shown(wanted)}, got {shown(got)}"

    return look


def _all(
    of: Callable[[Played], Iterable[str]], alike: Callable[[str], str] = str, *, in_order: bool = False
) -> Callable[[tuple[str, ...], Played], str | None]:
    def look(wanted: tuple[str, ...], played: Played) -> str | None:
        got = tuple(of(played))
        left, right = list(map(alike, wanted)), list(map(alike, got))
        if (left == right) if in_order else (sorted(left) == sorted(right)):
            return None
        return f"expected {', '.join(wanted) or 'none'}, got {', '.join(got) or 'none'}"

    return look


def _text(of: Callable[[Played], str | None]) -> Callable[[Wanted, Played], str | None]:
    """None: there is none."""

    def look(wanted: Wanted, played: Played) -> str | None:
        got = of(played)
        if (got is not None) is wanted if isinstance(wanted, bool) else got is not None and wanted.matches(got):
            return None
        return f"expected {_words(wanted, 'it')}, got {'none' if got is None else shown(got)}"

    return look


def _sender(wanted: str, played: Played) -> str | None:
    got = played.facts.sender
    return None if canonical(got) == canonical(wanted) else f"expected {wanted or '<>'}, got {got or '<>'}"


def _reply(played: Played) -> str | None:
    reply = played.reply
    return None if reply is None else f"{reply.code} {b' '.join(reply.lines).decode('utf-8', 'replace')}"


def _body(played: Played) -> str | None:
    content = played.facts.content
    return None if content is None else content.text.removesuffix("\n").removesuffix("\r")


_LOOK: Final[Mapping[str, Callable[..., str | None]]] = {
    "outcome": _one(lambda played: played.outcome),
    "reply": _text(_reply),
    "sender": _sender,
    "recipients": _all(lambda played: [one.address for one in played.facts.recipients], canonical),
    "body": _text(_body),
    "attachments": _all(lambda played: () if played.facts.content is None else played.facts.content.attachments),
    "held": _text(lambda played: played.facts.reason if played.facts.fate == "hold" else None),
    "discarded": _one(lambda played: played.facts.fate == "discard"),
    "route": _one(lambda played: played.facts.route or ""),
    "tags": _all(lambda played: played.facts.tags),
    "rules": _all(lambda played: played.rules, in_order=True),
}
