"""Any edits of any message: a message is relayed with all of them, as a model of its own makes them, or not at all (DESIGN §6, PROTOCOL §1.11)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import any_mail
from edit_model import Edit, cut, made, name_of
from hypothesis import given, settings
from hypothesis import strategies as st
from talk import Body, Steady, Talk, codes
from test_rules_anything import without_received, wrongs

from relayproxy.rules.load import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

NAMES = [b"Subject", b"X-New", b"To", b"subject", b"X-Env", b"Cc", b"Content-Type", b"X-To"]
#: What rules ask of header section or envelope, and whether it holds.
CONDITIONS: dict[str, Callable[[set[bytes]], bool]] = {
    "": lambda _fields: True,
    'sender = "s@*"': lambda _fields: True,
    'sender = "other@*"': lambda _fields: False,
    "header.Subject = true": lambda fields: b"subject" in fields,
    "header.Subject = false": lambda fields: b"subject" not in fields,
    "header.X-Env = true": lambda fields: b"x-env" in fields,
    "header.X-New = true": lambda fields: b"x-new" in fields,
    "not = { header.To = true }": lambda fields: b"to" not in fields,
}
FATES = {
    "discard = true": "discarded",
    'hold = "why"': "held",
    'reject = "no"': "rejected",
    "tempfail = true": "tempfailed",
}


class Drawn(NamedTuple):
    """A rule: what it asks, its edits, and its fate, if it is one."""

    condition: str
    edits: list[Edit]
    fate: str = ""
    at: str = ""

    def __str__(self) -> str:
        actions = [_action(edit) for edit in self.edits] or [self.fate]
        when = f"when = {{ {self.condition} }}, " if self.condition else ""
        at = f'at = "{self.at}", ' if self.at else ""
        return f"{at}{when}then = [{', '.join(f'{{ {action} }}' for action in actions)}]"


def _action(edit: Edit) -> str:
    name, value = json.dumps(edit.name.decode()), json.dumps(edit.value.decode().replace("{id}", "{header.X-Id}"))
    match edit.action:
        case "replace_body":
            return f"replace_body = {value}"
        case "add_header":
            return f"add_header = [{name}, {value}]"
        case "delete_header":
            return f"delete_header = {name}" if edit.n == 0 else f"delete_header = [{name}, {edit.n}]"
        case _:
            return f"{edit.action} = [{f'{edit.n}, {name}' if edit.action == 'insert_header' else f'{name}, {edit.n}'}, {value}]"


def _edit(rng: Random) -> Edit:
    value = rng.choice([b"new", b"x {id}", b"a b  c", b".", b"=", b"", b"From x"])
    if rng.random() < 0.1:
        return Edit(
            "replace_body", b"", value=rng.choice([b".\n..\n\n.", b"gone\n", b"{id}", b"MAIL FROM:<evil@evil.test>"])
        )
    action = rng.choice(["add_header", "insert_header", "change_header", "delete_header"])
    lowest = {"insert_header": 0, "delete_header": 0}.get(action, 1)
    return Edit(action, rng.choice(NAMES), rng.randint(lowest, 3), b"" if action == "delete_header" else value)


def _rules(rng: Random) -> list[Drawn]:
    found: list[Drawn] = []
    for _ in range(rng.randint(1, 4)):
        condition = rng.choice(list(CONDITIONS))
        late = "eom" if any(rule.at == "eom" for rule in found) else rng.choice(["eoh", "eom"])
        if rng.random() < 0.1:
            found.append(Drawn(condition, [], rng.choice(list(FATES)), late))
        else:
            at = late if rng.random() < 0.3 else ""
            found.append(Drawn(condition, [_edit(rng) for _ in range(rng.randint(1, 3))], at=at))
    return found


def _expected(rules: list[Drawn], stages: list[int], content: bytes) -> tuple[str, bytes]:
    """What becomes of a message, and as what it leaves: rules in the order of their stages, edits of earlier ones made when the header section is there."""
    body: list[Edit] = []
    id_ = next(field for field in cut(content)[0] if name_of(field) == b"x-id")[0][6:-2]
    held = False
    for _, place in sorted((stage, place) for place, stage in enumerate(stages)):
        rule = rules[place]
        names = {name_of(field) for field in cut(content)[0]}
        if not CONDITIONS[rule.condition](names):
            continue
        if rule.fate and FATES[rule.fate] != "held":
            return FATES[rule.fate], b""
        held = held or bool(rule.fate)
        edits = [edit._replace(value=edit.value.replace(b"{id}", id_)) for edit in rule.edits]
        content = made(content, [edit for edit in edits if edit.action != "replace_body"])
        body += [edit for edit in edits if edit.action == "replace_body"]
    return "held" if held else "accepted", made(content, body)


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_a_message_leaves_with_all_its_edits_or_not_at_all(rng: Random) -> None:
    rules = _rules(rng)
    written = [f'{{ name = "{number}", {rule} }}' for number, rule in enumerate(rules)]
    with TemporaryDirectory() as folder:
        file = Path(folder, "rules.toml")
        file.write_text("rule = [\n" + ",\n".join(written) + "\n]\n", encoding="utf-8")
        stages = [int(stage) for stage in load([file]).rules.stages]
    content = any_mail.message(rng, 7)
    commands = [b"EHLO client.test\r\n", b"MAIL FROM:<s@example.test>\r\n", b"RCPT TO:<b@example.test>\r\n"]
    by_data = [b"DATA\r\n", Body(any_mail.stuffed(content))]
    commands += by_data if rng.random() < 0.5 else any_mail.chunked(rng, content)
    content += b"" if content.endswith(b"\r\n") else b"\r\n"  # upstream is spoken to with DATA
    config = any_mail.config(written, None) | {"trace": rng.random() < 0.5}
    refuses = rng.choice([0, 2])
    talk = Talk(
        any_mail.one_by_one(commands),
        [rng.randint(1, 90) for _ in range(rng.choice([0, 20]))],
        Steady(any_mail.OFFER, refuses),
        config,
    )
    assert wrongs(talk, None, rules=bool(rules)) == [], written
    (told,) = [line for line in talk.log if line["event"] == "transaction"]
    delivered = [re.sub(rb"(\A|\r\n)\.", rb"\1", without_received(message)) for _, message in talk.server.delivered]
    outcome, expected = _expected(rules, stages, content)
    if refuses and told["reply"]["origin"] == "upstream" and told["outcome"] != "accepted":
        assert delivered == []
        return
    assert told["outcome"] == outcome, (written, content)
    for message in delivered:
        assert message == expected, (written, content)
    assert len(delivered) == (outcome == "accepted")
    assert codes(talk.heard)[-1][:1] == {"rejected": b"5", "tempfailed": b"4"}.get(outcome, b"2")
