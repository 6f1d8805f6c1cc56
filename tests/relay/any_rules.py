"""Rule sets at random, as they are written: what the loader takes of them is a configuration's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.rules.load import RuleError, load

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

CONDITIONS = [
    "", "", "", 'recipient = "*"', 'recipient = "*@evil.test"', 'recipient = "jane@*"', "recipient = '/^(?P<who>[^@]+)@(?P<where>.+)$/'", 'recipient = ["*@example.test", "*@*.sub.test"]', 'sender = "*"', 'sender = ""',
    'sender = "*@evil.test"', 'header.X-Env = "*"', "header.X-To = '/(?P<who>[^ ]+)/'", "header.Subject = true", "header.Subject = false", 'header.Subject = "*evil*"', 'size = ">100B"', 'size = "<100B"', 'body = "*leak*"',
    'attachment = "*.exe"', 'recipients = ">2"', 'recipients = "<=2"', 'client = "127.0.0.0/8"', 'helo = "*evil*"', "tls = false",
    "auth = false", "parameter.SIZE = true", "parameter.NOTIFY = true", 'not = { recipient = "*@example.test" }', "not = { header.X-Env = true }", 'any = [{ sender = "*" }, { recipient = "*" }]', "recipient = '/evil|(a+)+$/'",
]  # fmt: skip
DRAWS = ["chance = 0.5", "every = 2", 'first = { per = ["sender", "recipient"], within = "4h" }']
TEMPLATES = [
    "qa@example.test", "jane@exact.test", "jane@evil.test", "x@x.sub.test", "jane%evil.test@example.test", "'\"jane@evil.test\"@example.test'", "qa+{recipient.local}={recipient.domain}@example.test", "qa+{recipient.local}@plus.test",
    "{recipient.local}@evil.test", "{recipient.local}@example.test", "x@{recipient.domain}", "{recipient}", "{recipient}.test", "{sender}", "{sender.local}%evil.test@example.test", "x@{sender.domain}", "{header.X-To}",
    "{header.X-To}@example.test", "x@{header.X-To}", "x@{header.X-Dom}", "{header.Subject}@example.test", "{helo}@example.test", "x@{helo}", "{header.X-To}{header.X-Dom}@example.test", "postmaster", "J\u00fcrgen@example.test",
    "x@m\u00fcnchen.test", "x@EXAMPLE.test.", "evil.test!{recipient.local}@example.test",
]  # fmt: skip
OF_GROUPS = ["{who}@example.test", "x@{where}", "{who}@{where}", "{who}"]
TEXTS = [
    "constant", "{recipient}", "{sender}", "{header.Subject}", "{header.X-To}", "[test] {header.Subject}", "{helo} {client} {session}", "{header.X-To} {header.X-Dom} {header.To}", "<{recipient}>", "Gr\u00fc\u00dfe {header.Subject}",
    "{{braces}}", "", ".", "a" * 200,
]  # fmt: skip
NAMES = ["Subject", "X-To", "X-New", "To", "Cc", "X-Env", "subject", "Bcc", "Reply-To", "Content-Type"]


def _quoted(text: str) -> str:
    return text if text.startswith("'") else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _address(rng: Random) -> str:
    return _quoted(rng.choice(TEMPLATES + (OF_GROUPS if rng.random() < 0.2 else [])))


def header_edit(rng: Random) -> str:
    name, text = rng.choice(NAMES), _quoted(rng.choice(TEXTS))
    return rng.choice([
        f'add_header = ["{name}", {text}]', f'insert_header = [{rng.randrange(4)}, "{name}", {text}]', f'change_header = ["{name}", {text}]', f'change_header = ["{name}", {rng.randint(1, 3)}, {text}]',
        f'delete_header = "{name}"', f'delete_header = ["{name}", {rng.randint(1, 3)}]',
    ])  # fmt: skip


def _recipients(rng: Random) -> str:
    one, other = _address(rng), _address(rng)
    return rng.choice([
        f"add_recipient = {one}", f"add_recipient = [{one}, {other}]", "delete_recipient = true", 'delete_recipient = "*@evil.test"', f"rewrite_recipient = {one}", f"rewrite_recipient = {one}",
        f"rewrite_recipient = [{one}, {other}]", f"redirect_recipient = {one}", f"redirect_recipient = {one}", f"change_sender = {one}", 'change_sender = ""',
    ])  # fmt: skip


def _message(rng: Random) -> str:
    text = _quoted(rng.choice(TEXTS))
    return rng.choice([
        f"replace_body = {text}", 'replace_body = ".\\n..\\n.\\r\\nMAIL FROM:<evil@evil.test>\\n{header.Subject}"', 'strip_attachment = "*.exe"', 'strip_attachment = "*"', 'rewrite_header_addresses = { fields = ["To", "Cc"], to = "qa@example.test" }',
        f'rewrite_header_addresses = {{ fields = ["To", "Reply-To"], except = ["*@example.test"], to = {_address(rng)} }}', f"hold = {text}", "discard = true", "accept = true", f"tag = {text}", 'route = "other"',
    ])  # fmt: skip


def _answer(rng: Random) -> str:
    text = rng.choice(["no", "{header.Subject}", "{recipient} {header.X-To}", "5.7.1 {sender}", "a" * 300])
    return rng.choice([
        "reject = true", "tempfail = true", f"reject = {_quoted(text)}", f'reply = "452 4.2.2 {rng.choice(["full", "{recipient}", "{header.Subject}"])}"', f'reject = "554 5.6.0 {rng.choice(["x", "{header.X-To}"])}"',
        'reply = "421 4.3.2 gone {helo}"',
    ])  # fmt: skip


FAULTS = ['delay = "2s"', 'throttle = "1KiB/s"', 'disconnect = "before-reply"', 'disconnect = "after-reply"', 'disconnect = "reset"', "drop_reply = true"]  # fmt: skip
STAGES = ["mail", "rcpt", "data", "eoh", "eom"]


def rules(rng: Random, folder: Path, *, most: int = 5, faults: bool = True, draws: bool = True) -> list[str]:
    """What may stand in `rule = [...]`; rules that the loader does not take alone are left out. `folder`: to try them in."""
    found: list[tuple[str, str]] = []
    for number in range(rng.randrange(most + 1)):
        kinds = [_recipients, _recipients, _recipients, header_edit, header_edit, _message, _answer]
        actions = [rng.choice(kinds)(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        if faults and rng.random() < 0.1:
            actions.append(rng.choice(FAULTS))
        conditions = ", ".join(
            dict.fromkeys(rng.choices(CONDITIONS + DRAWS if draws else CONDITIONS, k=rng.choice([1, 1, 1, 2])))
        )
        when = f"when = {{ {conditions.strip(', ')} }}, " if conditions.strip(", ") else ""
        then = ", ".join(f"{{ {action} }}" for action in actions)
        at = f'at = "{rng.choice(STAGES)}", ' if rng.random() < 0.25 else ""
        rule = (f'{{ name = "{number}", ', f"{when}then = [{then}] }}")
        if _is_taken(folder, [at.join(rule)]):
            found.append((at.join(rule), "".join(rule)))
        elif _is_taken(folder, ["".join(rule)]):
            found.append(("".join(rule), "".join(rule)))
    for choice in (0, 1):
        if _is_taken(folder, [one[choice] for one in found]):
            return [one[choice] for one in found]
    return []


def _is_taken(folder: Path, rules: list[str]) -> bool:
    file = folder / "tried.toml"
    file.write_text("rule = [\n" + ",\n".join(rules) + "\n]\n", encoding="utf-8")
    try:
        load([file])
    except RuleError:
        return False
    return True
