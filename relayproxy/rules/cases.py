"""What becomes of a `[[test]]` case (DESIGN §6): it is played, and compared with what was expected.

    differences(case, rules)               # ("recipients: expected a@x.test, got b@x.test",); none where all is as expected

Invariants: pure; an upstream that takes everything is thought behind the rules, and no guard.
How cases are written does not belong here (case_syntax.py), nor how rules are run (playing.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.mail.canonical import canonical
from relayproxy.mail.header import HeaderSection, find_body
from relayproxy.mail.mime import scanned
from relayproxy.rules.condition_syntax import MAIL_PARAMETERS, RCPT_PARAMETERS
from relayproxy.rules.facts import Content, Facts
from relayproxy.rules.playing import Coming, begin
from relayproxy.rules.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from relayproxy.rules.case_syntax import Case, Expect, Given, Wanted
    from relayproxy.rules.playing import Played
    from relayproxy.rules.ruleset import RuleSet


def differences(case: Case, rules: RuleSet) -> tuple[str, ...]:
    """Between what was expected and what became of it, in words."""
    played = play(case.given, rules)
    found = list(_differences(case.expect, played))
    if found and played.failure is not None:
        found.append(f"a rule went wrong: {played.failure}")
    return tuple(found)


def play(given: Given, rules: RuleSet) -> Played:
    """From connect to the end of the message, or as far as the rules let it come."""
    facts = Facts(listener=given.listener, client=given.client, session="session")
    header, body = _cut(given.message)
    section = HeaderSection(header)
    of_rcpt = _those(given.parameters, RCPT_PARAMETERS)
    coming = Coming(
        tls=given.tls,
        user=given.auth,
        transaction="transaction",
        sender=given.sender,
        parameters=_those(given.parameters, MAIL_PARAMETERS),
        recipients=tuple([(address, of_rcpt) for address in given.recipients]),
        header=section,
        content=lambda: Content.of(len(given.message), scanned(section, (body,))),
    )
    return begin(rules, facts, given.helo, _AllOrNothing(given.drawn)).play(coming)


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
        values = () if header is None else header.texts(name.encode("ascii"))
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
