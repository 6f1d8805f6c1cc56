"""What tests of rules share: parts of rules written as TOML, facts of a session and its mail, and draws that were told what to say."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from relayproxy.mail.header import HeaderSection
from relayproxy.rules.condition_syntax import when
from relayproxy.rules.facts import Content, Facts, Recipient
from relayproxy.rules.syntax import Lines, Source, Written

if TYPE_CHECKING:
    from relayproxy.rules.conditions import Part


class Told:
    """Draws: each says what it was told, and `asked` for which."""

    def __init__(self, *, chance: float = 0.0, says: bool = True) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._chance = chance
        self._says = says

    def chance(self, rule: str) -> float:
        self.asked.append((rule,))
        return self._chance

    def first(self, rule: str, key: tuple[str, ...], *, times: int, within: float) -> bool:
        self.asked.append((rule, key, times, within))
        return self._says

    def every(self, rule: str, n: int) -> bool:
        self.asked.append((rule, n))
        return self._says


FACTS = Facts(
    listener="submission",
    client="10.0.0.5",
    session="S1",
    helo="app-1.local",
    tls="TLSv1.3",
    user="app",
    transaction="T1",
    sender="bounces+jane=customer.example@app.test",
    parameters={"SIZE": "328", "SMTPUTF8": None},
    recipients=(Recipient("jane@customer.example"),),
    header=HeaderSection(
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n and order 17\r\nX-Env: staging\r\nx-env: two\r\nTo: a@b.test\r\n"
    ),
    content=Content(11 << 20, "Dear Jane,\nyour invoice", ("invoice.pdf", "virus.exe")),
)
JANE = Recipient("jane@customer.example", 0, {"NOTIFY": "NEVER"})


def written(toml: str, lists: dict[str, str] | None = None, groups: frozenset[str] = frozenset()) -> Written:
    """What stands in a rule's `when` or `then`: a table's keys."""
    return raw(tomllib.loads(toml), lists, groups)


def raw(value: object, lists: dict[str, str] | None = None, groups: frozenset[str] = frozenset()) -> Written:
    def read(name: str) -> Lines:
        if lists is None or name not in lists:
            raise ValueError(f"{name}: cannot be read: No such file or directory")
        return Lines(name, lists[name].split("\n"))

    return Written(value, ("rule", 0, "when"), Source("x.toml", "", read), "R", groups)


def condition(toml: str, lists: dict[str, str] | None = None) -> Part:
    one = written(toml, lists)
    part = when(one)
    assert one.source.complaints == []
    assert part is not None
    return part


def complaints(toml: str, lists: dict[str, str] | None = None) -> list[str]:
    one = written(toml, lists)
    when(one)
    return [complaint.text for complaint in one.source.complaints]
