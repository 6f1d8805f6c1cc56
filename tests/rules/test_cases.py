"""Tests of rules: what is played, and the words for what is not as expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relayproxy.rules.cases import differences
from relayproxy.rules.load import load

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE = r'''message = """
From: a@x.test
Subject: order 17
Content-Type: multipart/mixed; boundary=b

--b

hello
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename="invoice.pdf"

x
--b--
"""'''


#: One file by MIME, one that is uuencoded in the text.
UUENCODED = MESSAGE.replace("hello\n", "hello\nbegin 644 old.pdf\nM\n`\nend\n")
assert UUENCODED != MESSAGE


@pytest.fixture
def found(tmp_path: Path):  # type: ignore[no-untyped-def]
    """What differs, of one rule and one case."""

    def play(rules: str, given: str, expect: str) -> tuple[str, ...]:
        path = tmp_path / "a.toml"
        path.write_text(f"{rules}\n[[test]]\n[test.given]\n{given}\n[test.expect]\n{expect}\n")
        loaded = load([path])
        (case,) = loaded.cases
        assert case.where.startswith(str(path))
        return differences(case, loaded.rules)

    return play


def rule(when: str, then: str, more: str = "") -> str:
    return f"[[rule]]\nname = 'r'\n{more}\nwhen = {{ {when} }}\nthen = [{{ {then} }}]\n"


TWO = 'recipients = ["a@x.test", "b@x.test"]'
CHAIN = 'recipients = ["a@x.test", "xa@x.test"]\nmessage = "To: a@x.test, xa@x.test\\n\\nhello\\n"'
HIDES = 'message = "Content-Type: multipart/mixed\\n\\n--b\\n\\nhello\\n"'
PLAYED = [
    # rules, given, expect
    ("", "", 'outcome = "accepted"\nreply = false\nrules = []\ntags = []\nheld = false\ndiscarded = false\nroute = ""'),
    ("", MESSAGE, 'body = "hello"\nattachments = ["invoice.pdf"]\nheader.Subject = "order 17"\nheader.To = false'),
    (rule('sender = "*@x.test"', 'change_sender = "y@y.test"'), 'sender = "a@x.test"', 'sender = "Y@Y.TEST."\nrules = ["r"]'.replace("Y@", "y@")),
    (rule('sender = ""', "discard = true"), 'sender = ""', 'sender = ""\noutcome = "discarded"\ndiscarded = true'),
    (rule('recipient = "a@*"', 'reject = "no {recipient}"'), TWO, 'outcome = "accepted"\nrecipients = ["b@x.test"]\nreply = "550 5.7.1 no a@x.test"'),
    (rule('recipient = "*"', "reject = true"), TWO, 'outcome = "rejected"\nrecipients = []\nreply = true'),
    (rule('recipient = "a@*"', "tempfail = true") + rule('recipient = "b@*"', "reject = true").replace("'r'", "'s'"), TWO, 'outcome = "tempfailed"\nreply = "451 *"\nrules = ["r", "s"]'),
    (rule('recipient = "*"', 'rewrite_recipient = "qa@q.test"'), TWO, 'recipients = ["qa@q.test"]'),
    # One recipient becomes another, who becomes somebody else: each name in the field goes where its mail goes.
    (rule('recipient = "*"', 'redirect_recipient = "x{recipient.local}@x.test"'), CHAIN, 'recipients = ["xa@x.test", "xxa@x.test"]\nheader.To = "xa@x.test, xxa@x.test"'),
    (rule('recipients = "2", recipient = "*"', 'redirect_recipient = "x{recipient.local}@x.test"'), CHAIN, 'recipients = ["xa@x.test", "xxa@x.test"]\nheader.To = "xa@x.test, xxa@x.test"'),
    (rule('recipient = "a@*"', 'redirect_recipient = "xa@x.test"') + rule('recipient = "xa@*"', 'redirect_recipient = "b@x.test"').replace("'r'", "'s'"), CHAIN, 'recipients = ["b@x.test"]\nheader.To = "b@x.test, b@x.test"'),
    (rule('recipient = "*"', "delete_recipient = true"), TWO, 'outcome = "rejected"\nreply = "554 5.5.1 *"'),
    (rule('recipients = ">1"', 'reply = "452 4.5.3 Too many"'), TWO, 'outcome = "tempfailed"\nreply = "452 4.5.3 too many"'),
    (rule('recipients = ">1"', "reject = true"), "", 'outcome = "accepted"'),
    (rule('client = "10.0.0.0/8"', "reject = true"), 'client = "10.1.1.1"', 'outcome = "rejected"\nreply = "554 *"'),
    (rule('client = "10.0.0.0/8"', "reject = true"), 'client = ""', 'outcome = "accepted"'),
    (rule('helo = "x"', "tempfail = true"), 'helo = "X"', 'outcome = "tempfailed"'),
    (rule('tls = "TLSv1.3", auth = "app", listener = "l"', 'tag = "t"'), 'tls = true\nauth = "app"\nlistener = "l"', 'tags = ["t"]'),
    (rule("tls = false, auth = false", 'tag = "t"'), "tls = false\nauth = false", 'tags = ["t"]'),
    (rule('parameter.NOTIFY = "NEVER"', 'tag = "t"'), 'parameters = { NOTIFY = "NEVER" }', 'tags = ["t"]'),
    (rule('parameter.SIZE = "1?", parameter.NOTIFY = "NEVER"', 'tag = "t"'), 'parameters = { SIZE = "17", NOTIFY = "NEVER", SMTPUTF8 = true }', 'tags = ["t"]'),
    (rule('header.Subject = "*17*"', 'hold = "order {header.Subject}"'), MESSAGE, 'outcome = "held"\nheld = "order order 17"'),
    (rule('body = "hello*", attachment = "*.pdf", size = "<1KiB"', 'route = "other"'), MESSAGE, 'route = "other"'),
    # What an upstream of another's is asked for waits for a transaction of its own (PROTOCOL §1.10).
    (rule('recipient = "a@*"', 'route = "one"') + rule('recipient = "b@*"', 'route = "two"').replace("'r'", "'s'"), TWO, 'recipients = ["a@x.test"]\nroute = "one"\noutcome = "accepted"\nreply = "452 4.5.3 *"'),
    (rule('recipient = "a@*"', 'route = "one"'), TWO, 'recipients = ["a@x.test"]\nroute = "one"\nreply = "452 4.5.3 *"'),
    (rule('recipient = "*"', 'route = "one"'), TWO, 'recipients = ["a@x.test", "b@x.test"]\nroute = "one"\nreply = false'),
    (rule('recipient = "b@*"', 'reply = "421 4.3.2 gone"'), TWO, 'outcome = "tempfailed"\nreply = "421 *"'),
    (rule('body = "*"', 'replace_body = "no"'), MESSAGE, 'body = "no"\nattachments = []'),
    (rule('attachment = "*.pdf"', 'strip_attachment = "*.pdf"'), MESSAGE, "attachments = []"),
    # What is uuencoded in a text is not taken out, nor may a test say that it is.
    (rule('attachment = "*.pdf"', 'strip_attachment = "*.pdf"'), UUENCODED, 'attachments = ["old.pdf"]'),
    (rule('attachment = "*.pdf"', 'strip_attachment = "*.pdf"') + rule('attachment = "*.pdf"', "reject = true").replace("'r'", "'s'"), UUENCODED, 'outcome = "rejected"'),
    (rule('attachment = "*.pdf"', 'replace_body = "new\\n{body}"') + rule('attachment = "old.pdf"', "reject = true").replace("'r'", "'s'"), UUENCODED, 'outcome = "rejected"'),
    (rule("unreadable = true", "reject = true"), HIDES, 'outcome = "rejected"'),
    (rule("unreadable = false", "reject = true"), HIDES, 'outcome = "accepted"'),
    (rule("unreadable = true", 'replace_body = "no"') + rule("unreadable = false", 'tag = "t"').replace("'r'", "'s'"), HIDES, 'tags = ["t"]'),
    (rule("chance = 0.1", 'tag = "t"'), "", 'tags = ["t"]'),
    (rule("every = 3", 'tag = "t"'), "drawn = false", "tags = []"),
    (rule('first = { per = ["client"], within = "4h" }', "tempfail = true"), "", 'outcome = "tempfailed"'),
    (rule('sender = "*"', 'disconnect = "reset"'), "", 'outcome = "aborted"\nrules = ["r"]'),
    ("", "recipients = []", 'outcome = "aborted"'),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "given", "expect"), PLAYED)
def test_a_case_is_played_from_connect_to_the_end_of_the_message(found, rules: str, given: str, expect: str) -> None:  # type: ignore[no-untyped-def]
    assert found(rules, given, expect) == ()


HELD = rule('recipient = "a@*"', 'hold = "why"')
DIFFERENT = [
    # rules, given, expect, difference
    ("", "", 'outcome = "rejected"', "outcome: expected 'rejected', got 'accepted'"),
    ("", "", 'reply = "550 *"', "reply: expected '550 *', got none"),
    (rule('sender = "*"', "reject = true"), "", "reply = false", "reply: expected none, got '550 5.7.1 Refused'"),
    ("", 'sender = ""', 'sender = "a@b.test"', "sender: expected a@b.test, got <>"),
    ("", TWO, 'recipients = ["a@x.test"]', "recipients: expected a@x.test, got a@x.test, b@x.test"),
    ("", "", "recipients = []", "recipients: expected none, got recipient@example.com"),
    ("", "", 'header.Subject = "x"', "header.Subject: expected 'x', got 'a test'"),
    ("", "", "header.Subject = false", "header.Subject: expected none, got 'a test'"),
    ("", "", "header.To = true", "header.To: expected one, got none"),
    ("", "", 'body = "x"', "body: expected 'x', got 'Hello'"),
    ("", MESSAGE, 'attachments = ["x"]', "attachments: expected x, got invoice.pdf"),
    (HELD, TWO, "held = false", "held: expected none, got 'why'"),
    (HELD, TWO, 'held = "x"', "held: expected 'x', got 'why'"),
    ("", "", "held = true", "held: expected it, got none"),
    ("", "", "discarded = true", "discarded: expected true, got false"),
    ("", "", 'route = "x"', "route: expected 'x', got ''"),
    ("", "", 'tags = ["x"]', "tags: expected x, got none"),
    ("", "", 'rules = ["x"]', "rules: expected x, got none"),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "given", "expect", "difference"), DIFFERENT)
def test_what_is_not_as_expected_is_said_in_words(found, rules: str, given: str, expect: str, difference: str) -> None:  # type: ignore[no-untyped-def]
    assert found(rules, given, expect) == (difference,)


def test_a_rule_that_went_wrong_is_said(found) -> None:  # type: ignore[no-untyped-def]
    first, second = found(rule('sender = "*"', 'change_sender = "x@{helo}"'), "helo = '['", 'outcome = "accepted"')
    assert first == "outcome: expected 'accepted', got 'rejected'"
    assert second.startswith("a rule went wrong: rule 'r': expected an address such as user@example.com, got ")
