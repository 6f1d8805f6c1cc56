"""What rules cost a message, in microseconds of one core: `python tests/benchmarks/rules.py [ROUNDS]`.

1, 100 and 1,000 rules of each kind, and of all kinds mixed, none of which applies; all stages of one usual message together, the median of all rounds. DESIGN §10: a thousand rules may cost 1,000, and are to cost 200.
"""

# ruff: noqa: T201
from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relayproxy.mail.header import HeaderSection
from relayproxy.rules.facts import Content, Facts, Recipient, Stage
from relayproxy.rules.load import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relayproxy.rules.ruleset import RuleSet

#: As rules that people write, a number in each.
KINDS: Final[Mapping[str, str]] = {
    "one recipient": 'when = { recipient = "user-N@customer.example" }\nthen = [{ redirect_recipient = "qa+N@example.test" }]',
    "one domain": 'when = { recipient = "*@customer-N.example" }\nthen = [{ reject = true }]',
    "a sender": 'when = { sender = ["bounce-N@*", "*@*.list-N.example"] }\nthen = [{ change_sender = "app@example.test" }]',
    "a subject": 'when = { header.Subject = "*invoice N*" }\nthen = [{ change_header = ["Subject", "[test] {header.Subject}"] }]',
    "an expression": 'when = { header.Subject = \'/order N-(?P<number>[0-9]+)/\' }\nthen = [{ add_header = ["X-Order", "{number}"] }]',
    "a field": 'when = { header.X-Kind-N = "*" }\nthen = [{ delete_header = "X-Kind-N" }]',
    "the body": 'when = { body = "*password N*" }\nthen = [{ hold = "it may be phishing" }]',
    "a client": 'when = { client = "10.0.N.0/24", sender = "*@example.test" }\nthen = [{ tag = "net N" }]',
    "not": 'when = { not = { recipient = "*@customer.example" }, header.Subject = "*N*" }\nthen = [{ reject = true }]',
}
COUNTS: Final = (1, 100, 1000)
SUBJECT: Final = "Your invoice of today, and what else we would like to tell you"
TEXT: Final = "Hello,\n\nyour order has left our house and will be with you in a few days.\n" * 50


class Nothing:
    """Nothing is drawn."""

    def chance(self, rule: str) -> float:
        raise NotImplementedError(rule)

    def first(self, rule: str, key: tuple[str, ...], *, times: int, within: float) -> bool:
        raise NotImplementedError(rule, key, times, within)

    def every(self, rule: str, n: int) -> bool:
        raise NotImplementedError(rule, n)


def rule_set(kinds: Iterable[str], count: int) -> RuleSet:
    each = list(kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.toml"
        written = [
            f'[[rule]]\nname = "{number}"\n{each[number % len(each)].replace("N", str(number % 250 if "10.0.N" in each[number % len(each)] else number))}\n'
            for number in range(count)
        ]
        path.write_text("\n".join(written))
        return load([path]).rules


def message(number: int) -> Facts:
    """As one comes, each with its own octets and recipient: nothing of the one before serves it."""
    fields = f"Received: from a by b; today\r\nFrom: App <app@example.test>\r\nTo: jane@customer.example\r\nSubject: {SUBJECT} {number}\r\nMessage-ID: <{number}@example.test>\r\n"
    return Facts(
        listener="in",
        client="192.0.2.1",
        helo="client.example",
        sender=f"app+{number}@example.test",
        recipients=(Recipient(f"jane+{number}@customer.example", 0),),
        header=HeaderSection(fields.encode()),
        content=Content(4096, TEXT),
    )


def cost(rules: RuleSet, number: int) -> float:
    """Seconds."""
    facts, draws = message(number), Nothing()
    started = time.process_time()
    for stage in Stage:
        if rules.runs_at(stage, facts):
            decision = rules.evaluate(stage, facts, draws)
            assert decision.failure is None, decision.failure
            facts = decision.facts
    return time.process_time() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print(f"{'rules of':16}" + "".join([f"{count:>10,}" for count in COUNTS]))
    for name, kinds in [*[(name, [kind]) for name, kind in KINDS.items()], ("all kinds mixed", list(KINDS.values()))]:
        sets = [rule_set(kinds, count) for count in COUNTS]
        seconds = [[cost(rules, number) for number in range(rounds)] for rules in sets]
        print(f"{name:16}" + "".join([f"{statistics.median(one) * 1e6:10.0f}" for one in seconds]))


if __name__ == "__main__":
    main()
