"""How many recorded messages `relayproxy backtest` tries in a minute: `python tests/benchmarks/backtest.py [MESSAGES]`, 100,000 in one minute on one core are the target.

A store is made of so many distinct small messages, in sessions of ten; then the command is run, whole processes on one core, for rules that read the header section, for rules
that read the body too, and for two rule sets.
"""

# ruff: noqa: T201
from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stored import BEGAN, body, record, reopened, session

from relayproxy.record.report import (
    AddressRecord,
    DigestsRecord,
    EnvelopeRecord,
    EnvelopesRecord,
    MessageRecord,
    RecipientRecord,
    ReplyRecord,
    SizeRecord,
    timestamp,
)
from relayproxy.record.store.interface import Message, TransactionWrite

if TYPE_CHECKING:
    from relayproxy.record.store.interface import Write

#: Messages that are written at once.
_BATCH: Final = 1000
_A_MINUTE: Final = 60.0

HEADER: Final = """
[[rule]]
name = "invoices go to the office too"
when = { header.Subject = "*invoice*" }
then = [{ add_recipient = "office@example.test" }, { tag = "invoice" }]
[[rule]]
name = "no news letters"
when = { header.List-Unsubscribe = "*", recipient = "*@customer.example" }
then = [{ reject = true }]
[[rule]]
name = "to QA"
when = { not = { recipient = "*@example.test" } }
then = [{ redirect_recipient = "qa+{recipient.local}@example.test" }, { add_header = ["X-Original-To", "{recipient}"] }]
"""
BODY: Final = '[[rule]]\nname = "passwords"\nwhen = { body = "*password*" }\nthen = [{ hold = "look at it" }]\n'


def write(number: int) -> list[Write]:
    """A message of a session of ten, as a relay without rules records it."""
    of = number // 10
    subject = f"Your invoice {number}" if number % 7 == 0 else f"Order {number} of today, and what else we tell you"
    header = f"From: Shop <shop@example.test>\r\nTo: Jane Doe <jane-{number}@customer.example>\r\nSubject: {subject}\r\nDate: Fri, 2 Jan 2026 03:04:05 +0000\r\nMessage-ID: <{number}@example.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n".encode()
    content = f"Hello,\r\n\r\nyour order {number} has left our house.\r\n".encode() * 5
    name, address = f"01BACK{of:020}", f"jane-{number}@customer.example"
    trace = f"Received: from app-1 ([10.0.0.5])\r\n by relay.test with ESMTP id {name}@relay.test;\r\n Fri, 2 Jan 2026 03:04:05 +0000\r\n".encode()
    envelope = EnvelopeRecord(f"bounce-{number}@example.test", {"SIZE": "512"}, (AddressRecord(address, {}),))
    size = len(header) + 2 + len(content)
    reply = ReplyRecord(250, "2.1.5", "ok", "upstream")
    made = record(
        name,
        f"01TRAN{number:020}",
        time=timestamp(BEGAN + number * 1_000_000_000),
        envelope=EnvelopesRecord(envelope, envelope),
        recipients=(RecipientRecord(address, (address,), reply),),
        message=MessageRecord(
            f"<{number}@example.test>", subject, SizeRecord(size, size + len(trace)), DigestsRecord(None, None)
        ),
    )
    written: list[Write] = [session([], name)] if number % 10 == 0 else []
    return [*written, TransactionWrite(made, Message(header, b"\r\n", body(content), trace + header), final=True)]


def fill(path: Path, messages: int) -> None:
    with reopened(path) as backend:
        for start in range(0, messages, _BATCH):
            numbers = range(start, min(start + _BATCH, messages))
            backend.write([one for number in numbers for one in write(number)], durable=False)


def run(folder: Path, *arguments: str) -> tuple[float, float, str]:
    """Seconds on the clock and of one core, and what it says first."""
    core = min(os.sched_getaffinity(0))
    argv = [sys.executable, "-m", "relayproxy", "backtest", *arguments, "--allow", "*@example.test", "--store", "sqlite:relayproxy.db"]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(
        ["taskset", "-c", str(core), *argv], cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, used, done.stdout.splitlines()[0]


def main() -> int:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(prefix="relayproxy-") as name:
        folder = Path(name)
        (folder / "header.toml").write_text(HEADER)
        (folder / "body.toml").write_text(BODY)
        fill(folder / "relayproxy.db", messages)
        missed = False
        for what, arguments in (
            ("header fields", ("header.toml",)),
            ("bodies too", ("header.toml", "body.toml")),
            ("against others", ("header.toml", "--against", "relayproxy:staging-redirect")),
        ):
            took, used, said = run(folder, *arguments)
            a_minute = messages / used * 60
            missed |= what == "header fields" and used * 100_000 / messages > _A_MINUTE
            print(f"{what:16}{took:8.1f} s {used:8.1f} s CPU {a_minute:12,.0f} a minute   {said}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
