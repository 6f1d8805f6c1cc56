"""A staging set-up in front of a real Postfix, as a new user has it: mail for a customer arrives at the QA inbox, and an answer to all reaches nobody outside."""

from __future__ import annotations

import re
import shlex
import smtplib
import subprocess
import sys
from email import message_from_bytes
from email.policy import SMTP
from email.utils import getaddresses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DIRECT
from real_cast import took_part
from real_clients import Client, Mail
from real_postfix import QA
from real_relay import Setting, run, running
from real_upstreams import KNOWN, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

    from real_postfix import PostfixUpstream
    from real_relay import Relay
    from real_upstreams import Arrived

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.skipif(DIRECT, reason="about the relay itself")]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: What the application says of itself and of its customers is outside, all of it.
SHOP, JANE = "shop@shop.example", "jane@customer.example"
MESSAGE = (
    b"From: Shop <shop@shop.example>\r\n"
    b'To: "Doe, Jane" <jane@customer.example>,\r\n\t=?utf-8?q?J=C3=BCrgen?= <j@customer.example>\r\n'
    b"Cc: joe@sink.test, Board: boss@customer.example, a%%customer.example@sink.test;\r\n"
    b"%b"
    b"Disposition-Notification-To: shop@shop.example\r\n"
    b"Subject: Your order\r\n"
    b"Date: Fri, 02 Jan 2026 03:04:05 +0000\r\n"
    b"Message-ID: <1@shop.example>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"\r\n"
    b"Dear Jane,\r\n.thank you.\r\n\r\n"
)


def inside(address: str) -> bool:
    """Postfix would route the percent hack."""
    local, _, domain = address.rpartition("@")
    return domain == "sink.test" and not set(local) & set("%!@")


def answered(message: EmailMessage) -> list[str]:
    """Whom an answer to all goes to (RFC 5322 §3.6.3), as a mail program has it."""
    names = ["Reply-To" if "Reply-To" in message else "From", "To", "Cc"]
    fields = [str(one) for name in names for one in message.get_all(name, [])]
    return [address for _, address in getaddresses(fields)]


def parsed(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=SMTP)


def command_of_the_readme(port: int) -> list[str]:
    """Its arguments, with this machine's server and its domain in the place of those that stand there."""
    (line,) = re.findall(r"^    \S*relayproxy run (--upstream .*--redirect-all.*)$", README, re.MULTILINE)
    line = line.replace("smtp://mail.example.test:25", f"smtp://127.0.0.1:{port}").replace("example.test", "sink.test")
    return ["--listen", "127.0.0.1:0", *shlex.split(line)]


@pytest.fixture
def staging(postfix: PostfixUpstream, tmp_path: Path) -> Iterator[Relay]:
    """The one command."""
    postfix.clear()
    work = tmp_path / "relay"
    work.mkdir()
    with run(command_of_the_readme(postfix.port), work) as relay:
        yield relay


def answer_to_all(relay: Relay, message: EmailMessage, postfix: PostfixUpstream) -> list[Arrived]:
    """It is really sent: by QA, to where the message says."""
    took_part("smtplib", "client")
    postfix.clear()
    with smtplib.SMTP("127.0.0.1", relay.port, "qa.test", timeout=60) as smtp:
        refused = smtp.sendmail(
            QA, answered(message), b"From: qa@sink.test\r\nSubject: Re: Your order\r\n\r\nThank you.\r\n"
        )
    assert refused == {}
    return wait_for(postfix, len(set(answered(message))))


@pytest.mark.parametrize("reply_to", [b"", b"Reply-To: Help <help@shop.example>\r\n"], ids=["none", "outside"])
def test_mail_for_a_customer_arrives_at_the_qa_inbox_and_its_answers_stay_inside(
    client: Client, reply_to: bytes, staging: Relay, postfix: PostfixUpstream, tmp_path: Path
) -> None:
    said = client(staging.port, Mail(SHOP, JANE, MESSAGE % reply_to), tmp_path)
    assert said.code == 250 or not said.text
    (arrived,) = wait_for(postfix, 1)
    assert (arrived.sender, arrived.recipients) == (SHOP, (QA,))
    message = parsed(arrived.content)
    assert str(message["From"]) == "Shop <shop@shop.example>"
    assert [(one.display_name, one.addr_spec) for one in message["To"].addresses] == [("Doe, Jane", QA), ("Jürgen", QA)]
    assert [one.addr_spec for one in message["Cc"].addresses] == ["joe@sink.test", QA, QA]
    everybody = answered(message)
    assert QA in everybody
    assert [address for address in everybody if not inside(address)] == []
    assert message.get_all("Disposition-Notification-To", [QA]) == [QA]  # s-nail leaves it out
    assert arrived.content.endswith(b"\r\n\r\nDear Jane,\r\n.thank you.\r\n\r\n")
    others = sorted(one.recipients[0] for one in answer_to_all(staging, message, postfix))
    assert others == sorted(set(everybody))
    first, second = staging.stop()
    assert [one["address"] for one in first["envelope"]["sent"]["recipients"]] == [QA]
    assert [one["received"] for one in first["recipients"]] == [JANE]
    assert (first["outcome"], second["outcome"]) == ("accepted", "accepted")
    assert "guard: mail may go to *@sink.test; what is for others is sent to qa@sink.test" in staging.errors.read_text()


def test_nobody_outside_is_ever_named_to_postfix(staging: Relay, postfix: PostfixUpstream) -> None:
    """Addresses that two programs could read in two ways; the same in a group of commands, and one by one."""
    took_part("smtplib", "client")
    behind = len(postfix.log())
    odd = [
        JANE, "jane%customer.example@sink.test", '"jane@customer.example"@sink.test', "customer.example!jane@sink.test",
        "jane@customer.example.", "@sink.test:jane@customer.example", "jane@[192.0.2.1]",
    ]  # fmt: skip
    with smtplib.SMTP("127.0.0.1", staging.port, "shop.test", timeout=60) as smtp:
        smtp.ehlo()
        for address in odd:
            smtp.mail(SHOP)
            smtp.docmd(f"RCPT TO:<{address}>")
            smtp.docmd(f"RCPT TO:<{KNOWN[0]}>")
            assert smtp.data(MESSAGE % b"")[0] == 250
    found = wait_for(postfix, 2 * len(odd))
    assert {one.recipients[0] for one in found} <= {QA, KNOWN[0]}
    assert {line["outcome"] for line in staging.stop()} == {"accepted"}
    sent = {one["address"] for line in staging.events("transaction") for one in line["envelope"]["sent"]["recipients"]}
    assert sent == {QA, KNOWN[0]}
    assert "customer.example" not in postfix.log()[behind:]


def test_the_shipped_rules_say_for_whom_it_was(postfix: PostfixUpstream, tmp_path: Path) -> None:
    """A copy of staging-redirect with a domain of one's own, and the guard behind it."""
    took_part("smtplib", "client")
    postfix.clear()
    text = (ROOT / "rules/staging-redirect.toml").read_text(encoding="utf-8")
    rules = tmp_path / "staging.toml"
    rules.write_text(
        text.replace("example.test", "sink.test").replace(r"example\.test", r"sink\.test"), encoding="utf-8"
    )
    argv = [sys.executable, "-m", "relayproxy", "check", str(rules)]
    assert "failed: 0" in subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    long = f"{'a' * 60}@customer.example"
    setting = Setting(
        f"smtp://127.0.0.1:{postfix.port}",
        tables=f'[rules]\nfiles = ["{rules}", "relayproxy:subject-tag"]\n[guard]\nallow = ["*@sink.test"]\n',
    )
    with running(setting, tmp_path) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port, "shop.test", timeout=60) as smtp:
            smtp.sendmail(SHOP, [JANE, long, KNOWN[1]], MESSAGE % b"")
        (line,) = relay.stop()
    found = wait_for(postfix, 3)
    tagged = "qa+jane=customer.example@sink.test"
    assert {one.recipients[0] for one in found} == {tagged, QA, KNOWN[1]}
    message = parsed(found[0].content)
    assert [one.addr_spec for one in message["To"].addresses] == [tagged, QA]
    assert [str(one) for one in message.get_all("X-Original-To", [])] == [JANE, long]
    assert str(message["Subject"]) == "[STAGING] Your order"
    assert [address for address in answered(message) if not inside(address)] == []
    rewritten: dict[str, Any] = {one["received"]: one["sent"] for one in line["recipients"]}
    assert rewritten == {JANE: [tagged], long: [QA], KNOWN[1]: [KNOWN[1]]}
