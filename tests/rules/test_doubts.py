"""What `check` says of rules that are right and hardly what anybody means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relayproxy.rules.doubts import broken_signatures, doubts
from relayproxy.rules.load import load

if TYPE_CHECKING:
    from pathlib import Path

ALL = "never runs: the rule 'first' above has accept without a condition"
BCC = "shows each recipient to all others, those of Bcc too: {recipient} stands in"
ACCEPT = "accept is of the whole message: no rule runs for recipients that are named behind the first one that this rule applies to"

RULES = [
    # when and then of the first rule, of the second, what is said of each
    ("", "{ accept = true }", "", "{ tag = 'x' }", [], [ALL]),
    ("sender = 'a@*'", "{ accept = true }", "", "{ tag = 'x' }", [], []),
    ("", "{ tag = 'y' }", "", "{ accept = true }", [], []),
    ("", "{ reject = true }", "recipient = 'a@*'", "{ tag = 'x' }", [], [ALL.replace("accept", "reject")]),
    ("", "{ discard = true }", "", "{ tag = 'x' }", [], [ALL.replace("accept", "discard")]),
    ("", "{ disconnect = 'reset' }", "", "{ tag = 'x' }", [], [ALL.replace("accept", "disconnect")]),
    ("", "{ hold = 'look' }", "", "{ tag = 'x' }", [], []),
    ("not = { recipient = ['example.test', '*@x.test', 'postmaster'] }", "{ tag = 'y' }", "sender = ['', '/x.test/']", "{ tag = 'x' }", ["example.test is no whole address: all of a domain is *@example.test"], []),
    # a refusal of each recipient runs behind what is known at MAIL, and in front of what is not
    ("", "{ reject = 'no {recipient}' }", "sender = 'a@*'", "{ tag = 'x' }", [], []),
    ("", "{ reject = 'no {recipient}' }", "header.Subject = 'x'", "{ tag = 'x' }", [], [ALL.replace("accept", "reject")]),
    ("", "{ add_header = ['X-For', '{recipient}'] }", "", "{ change_header = ['Subject', 'for {recipient.local}'] }", [f"add_header {BCC} X-For"], [f"change_header {BCC} Subject"]),
    ("", "{ add_header = ['X-By', '{sender}'] }", "", "{ insert_header = [0, 'X-For', '{recipient}'] }", [], [f"insert_header {BCC} X-For"]),
    ("recipient = '*@example.test'", "{ accept = true }", "", "{ redirect_recipient = 'qa@example.test' }", [ACCEPT], []),
]  # fmt: skip


@pytest.mark.parametrize(("when", "then", "when_too", "then_too", "first", "second"), RULES)
def test_what_is_said(
    when: str, then: str, when_too: str, then_too: str, first: list[str], second: list[str], tmp_path: Path
) -> None:
    (tmp_path / "it.toml").write_text(
        f"[[rule]]\nname = 'first'\nwhen = {{ {when} }}\nthen = [{then}]\n[[rule]]\nname = 'second'\nwhen = {{ {when_too} }}\nthen = [{then_too}]\n".replace(
            "when = {  }\n", ""
        )
    )
    found = doubts(load([tmp_path / "it.toml"]).rules)
    assert [(doubt.rule.name, doubt.what) for doubt in found] == [
        *[("first", what) for what in first],
        *[("second", what) for what in second],
    ]


SIGNED = "DKIM-Signature: v=1; a=rsa-sha256; d=app.test; s=k; c=relaxed/relaxed; h=From:To:Subject; bh=x; b=y\\nFrom: a@app.test\\nTo: jane@customer.example\\nSubject: hi\\nX-App: 1\\n\\nhello\\n"
BREAKS = "'it' breaks the DKIM signature of app.test, which covers from:to:subject and the body"

EDITS = [
    # what a rule does, what is said
    ("{ change_header = ['Subject', 'ho'] }", [BREAKS]),
    ("{ add_header = ['Subject', 'ho'] }", [BREAKS]),
    ("{ redirect_recipient = 'qa@example.test' }", [BREAKS]),
    ("{ replace_body = 'ho' }", [BREAKS]),
    ("{ change_header = ['Subject', 'ho'] }, { replace_body = 'ho' }", [BREAKS]),
    ("{ rewrite_recipient = 'qa@example.test' }", []),
    ("{ change_header = ['Subject', 'hi'] }", []),
    ("{ change_header = ['X-App', '2'] }, { add_header = ['X-For', 'x'] }", []),
    ("{ strip_attachment = '*.exe' }", []),
    ("{ delete_header = 'DKIM-Signature' }, { change_header = ['Subject', 'ho'] }", []),
    ("{ change_header = ['Subject', 'ho'] }, { discard = true }", []),
    ("{ reject = true }", []),
]  # fmt: skip


@pytest.mark.parametrize(("then", "said"), EDITS)
def test_an_edit_that_breaks_a_signature(then: str, said: list[str], tmp_path: Path) -> None:
    test = f'[[test]]\ngiven = {{ recipients = ["jane@customer.example"], message = "{SIGNED}" }}\nexpect = {{ outcome = "accepted" }}\n'
    (tmp_path / "it.toml").write_text(
        f"[[rule]]\nname = 'it'\nthen = [{then}]\n{test}{test.replace('DKIM-Signature', 'X-Signature')}"
    )
    loaded = load([tmp_path / "it.toml"])
    assert [broken_signatures(case, loaded.rules) for case in loaded.cases] == [said, []]
