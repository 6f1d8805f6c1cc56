"""Mail that is made to cost rules time or memory: attacks 19 and 20 of PROTOCOL §2, past a whole relay.

Time is the processor's, and its bounds have room for slow machines: what these messages cost without limits is minutes.
"""

from __future__ import annotations

import time
from typing import Any

import any_mail
import pytest
from talk import Body, Steady, Talk, codes

pytestmark = pytest.mark.slow

#: All in memory: the clock runs on while a thread is waited for.
_LARGE = {"limits": {"header_bytes": "4MiB", "line_bytes": "4MiB", "spool_memory": "64MiB"}}


def told(rules: list[str], content: bytes, **config: Any) -> tuple[dict[str, Any], Talk, float]:
    """A message under rules: its record, the session, and seconds."""
    commands = [b"EHLO client.test\r\n", b"MAIL FROM:<s@example.test>\r\n", b"RCPT TO:<b@example.test>\r\n", b"DATA\r\n", Body(any_mail.stuffed(content))]  # fmt: skip
    began = time.process_time()
    talk = Talk(
        any_mail.one_by_one(commands),
        [],
        Steady(any_mail.OFFER.replace(b"100000", b"99000000"), 0),
        any_mail.config(rules, None) | config,
    )
    seconds = time.process_time() - began
    (record,) = [line for line in talk.log if line["event"] == "transaction"]
    assert [line for line in talk.log if line["event"] in ("error", "rule-error")] == []
    return record, talk, seconds


@pytest.mark.parametrize("expression", ["^(a+)+$", "(a|a)*b$", "^(.*a){30}$", "(x+x+)+y"])
def test_attack_20_a_catastrophic_expression_costs_milliseconds(expression: str) -> None:
    subject = b"a" * (1 << 20) + b"!"
    rules = [f'{{ name = "re", when = {{ header.Subject = \'/{expression}/\' }}, then = [{{ tag = "found" }}] }}']
    _, _, without = told(
        [rules[0].replace(f"/{expression}/", "nothing")], b"Subject: " + subject + b"\r\n\r\n", **_LARGE
    )
    record, _, seconds = told(rules, b"Subject: " + subject + b"\r\n\r\n", **_LARGE)
    assert record["outcome"] == "accepted"
    assert seconds - without < 0.5, (seconds, without)


BOMBS = {
    "parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 100_000 + b"--b--\r\n",
    "named parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\nContent-Type: x/y; name=a\r\n\r\n" * 50_000 + b"--b--\r\n",
    "nested multiparts": b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(20_000)),
    "nested messages": b"Content-Type: message/rfc822\r\n\r\n" * 50_000,
    "boundaries that begin alike": b"Content-Type: multipart/mixed; boundary=" + b"a" * 60 + b"\r\n\r\n" + (b"--" + b"a" * 59 + b"\r\n") * 50_000,
    "parameters": b"Content-Type: x/y; " + b"".join(b"name*%d*=x%%41;" % n for n in range(10_000)) + b"\r\n\r\n",
    "encoded words": b"Subject: " + b"=?utf-8?q?=41?= " * 15_000 + b"\r\n\r\n",
    "base64 that never ends": b"Content-Transfer-Encoding: base64\r\n\r\n" + b"QUJD" * 500_000 + b"\r\n",
    "a long U-label": "To: a@{}.test\r\n\r\n".format("ü" * 100_000).encode(),
    "an A-label": b"To: a@xn--" + b"9" * 200_000 + b".test\r\n\r\n",
    "addresses": b"To: " + b"<a@b.test>,\r\n " * 15_000 + b"c@d.test\r\n\r\n",
    "comments": b"To: " + b"(" * 200_000 + b"a@b.test\r\n\r\n",
    "quotes": b"To: " + b'"\\' * 100_000 + b"a@b.test\r\n\r\n",
    "escaped parentheses": b"Content-Type: x/y; name=" + b"(\\" * 32_000 + b"\r\n\r\n",
    "escaped quotes": b"Content-Type: x/y; name=(" + b'\\"' * 32_000 + b"\r\n\r\n",
    "words without an end": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + (b"--b\r\nContent-Disposition: x; filename=" + b"=?a?q? " * 2300 + b"\r\n\r\n") * 30,
    "groups": b"To: " + b"a:" * 100_000 + b"\r\n\r\n",
}  # fmt: skip
RULES = [
    '{ name = "body", when = { body = "*leak*" }, then = [{ tag = "leak" }] }',
    '{ name = "subject", when = { header.Subject = \'/z$/\' }, then = [{ tag = "z" }] }',
    '{ name = "strip", then = [{ strip_attachment = "*.exe" }] }',
    '{ name = "redirect", when = { recipient = "*" }, then = [{ redirect_recipient = "qa@example.test" }] }',
    '{ name = "addresses", then = [{ rewrite_header_addresses = { fields = ["To"], except = ["*@münchen.test"], to = "qa@example.test" } }] }',
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_attack_19_what_is_made_to_cost_time_costs_little(bomb: str) -> None:
    """The message passes, or is refused as too long; and nobody waits long for either."""
    record, talk, seconds = told(RULES, BOMBS[bomb], **_LARGE)
    assert record["outcome"] in ("accepted", "rejected")
    assert codes(talk.heard)[-1][:1] == (b"2" if record["outcome"] == "accepted" else b"5")
    assert len(talk.server.delivered) == (record["outcome"] == "accepted")
    assert seconds < 5


@pytest.mark.parametrize("bomb", ["parts", "nested multiparts", "nested messages"])
def test_attack_19_it_is_told_where_an_attachment_may_be_hidden(bomb: str) -> None:
    _, talk, _ = told(RULES, BOMBS[bomb], **_LARGE)
    assert any(line["event"] == "violation" and "cannot be read to its end" in line["what"] for line in talk.log)


@pytest.mark.parametrize("bomb", ["parts", "nested multiparts", "nested messages"])
def test_attack_19_a_rule_refuses_what_cannot_be_read_to_its_end(bomb: str) -> None:
    hides = '{ name = "hides", when = { unreadable = true }, then = [{ reject = "550 5.6.0 Too deep" }] }'
    record, talk, _ = told([hides], BOMBS[bomb], **_LARGE)
    assert record["outcome"] == "rejected"
    assert [rule["name"] for rule in record["rules"]] == ["hides"]
    assert talk.server.delivered == []
