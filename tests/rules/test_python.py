"""Rules that are functions in Python files: what they see, what they may ask for, how files are read, and what goes wrong in them."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rule_pieces import JANE, JOE, QA, NoDraws

from relayproxy.mail.header import HeaderSection
from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.rules import python
from relayproxy.rules.action_syntax import ACTIONS
from relayproxy.rules.case_syntax import Given
from relayproxy.rules.cases import play
from relayproxy.rules.facts import Content, Facts, Recipient, Stage
from relayproxy.rules.function import KINDS, Call, bound
from relayproxy.rules.gates import DataGate, EnvelopeGate, Gates
from relayproxy.rules.load import RuleError, load
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from relayproxy.rules.decision import Decision
    from relayproxy.rules.playing import Played

MESSAGE = b"From: app@example.test\r\nTo: jane@customer.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX: 1\r\nX: 2\r\n\r\nhello\r\n"
CONTENT = Content(1000, "hello", ("a.pdf", "b.exe"))


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rules(text: str, *others: str) -> RuleSet:
    """Of a Python file, and files behind it."""
    Path("a.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return load(["a.py", *others]).rules


def wrong(text: str) -> list[str]:
    with pytest.raises(RuleError) as caught:
        rules(text)
    return list(caught.value.lines)


def played(text: str, *recipients: str, message: bytes = MESSAGE, **given: Any) -> Played:
    return play(Given(recipients=recipients or (JANE,), message=message, **given), rules(text))


def at(stage: Stage, body: str, **facts: Any) -> Decision:
    """One function of that stage, of what is known then."""
    known: dict[str, Any] = {"listener": "default", "client": "192.0.2.1", "recipients": (Recipient(JANE, 0),)}
    if stage >= Stage.EOH:
        known["header"] = HeaderSection(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n")
    if stage is Stage.EOM:
        known["content"] = CONTENT
    function = f"from relayproxy.rules.python import *\ndef {stage.name.lower()}(mail):\n{textwrap.indent(body, ' ')}\n"
    return rules(function).evaluate(stage, Facts(**{**known, **facts}), NoDraws())


def failure(stage: Stage, body: str, **facts: Any) -> str:
    """What went wrong, behind the rule's name."""
    decision = at(stage, body, **facts)
    assert decision.answer is not None
    assert decision.answer.code == (421 if stage is Stage.CONNECT else 451)
    assert decision.failure is not None
    return decision.failure.removeprefix(f"rule 'a.py: {stage.name.lower()}': ")


# What they ask for.


def test_the_example_of_the_documentation_is_what_it_says() -> None:
    assert python.__doc__ is not None
    example = re.search(r"\n\n((?:    .*\n|\n)+)", python.__doc__)
    assert example is not None
    made = rules(example[1])
    assert made.gates == Gates(
        EnvelopeGate.LIVE, DataGate.HEADER, dot=True, data_rule="a.py: rcpt", dot_rule="a.py: eom"
    )
    there = play(Given(recipients=('"jane doe"@customer.example', "joe@Example.TEST"), message=MESSAGE), made)
    assert [one.address for one in there.facts.recipients] == ['"qa+jane doe"@example.test', "joe@Example.TEST"]
    assert there.rules == ("a.py: rcpt",)


def test_the_reference_has_the_same_example_and_all_that_there_is() -> None:
    readme = (Path(__file__).resolve().parents[2] / "rules/README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Rules in Python\n")[1].split("\n## ")[0]
    (example,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert rules(example).gates == Gates(
        EnvelopeGate.LIVE, DataGate.HEADER, dot=True, data_rule="a.py: rcpt", dot_rule="a.py: eom"
    )
    rows = re.findall(r"^\| (\w+)(?: alone)? \| (.*) \|$", section, re.MULTILINE)
    named = {name: from_ for from_, what in rows[1:] for name in re.findall(r"`(\w+)`", what)}
    assert named == {**{name: stage.name.lower() for name, stage in SEEN.items()}, "recipient": "rcpt"}


def test_there_is_a_method_for_each_action() -> None:
    methods = {name for name, _ in inspect.getmembers(python.Mail, inspect.isfunction) if not name.startswith("_")}
    assert methods == set(ACTIONS) == set(KINDS)


SAID = [
    (Stage.EOM, 'mail.change_sender("")', 'change_sender = ""'),
    (Stage.EOM, 'mail.change_sender(address("a b", "x.test"))', "change_sender = '\"a b\"@x.test'"),
    (Stage.RCPT, 'mail.add_recipient(("a@x.test", "b@x.test"))', 'add_recipient = ["a@x.test", "b@x.test"]'),
    (Stage.RCPT, "mail.delete_recipient()", "delete_recipient = true"),
    (Stage.EOM, 'mail.delete_recipient("*@customer.example")', 'delete_recipient = "*@customer.example"'),
    (Stage.RCPT, 'mail.rewrite_recipient("qa@example.test")', 'rewrite_recipient = "qa@example.test"'),
    (Stage.RCPT, 'mail.redirect_recipient("qa@example.test")', 'redirect_recipient = "qa@example.test"'),
    (Stage.EOM, 'mail.rewrite_header_addresses(["To"], "qa@example.test", "*@b.test")', 'rewrite_header_addresses = { fields = ["To"], except = "*@b.test", to = "qa@example.test" }'),
    (Stage.EOM, 'mail.rewrite_header_addresses({"To"}, to="qa@example.test")', 'rewrite_header_addresses = { fields = ["To"], to = "qa@example.test" }'),
    (Stage.EOM, 'mail.add_header("X", "{a}")', 'add_header = ["X", "{{a}}"]'),
    (Stage.EOM, 'mail.insert_header(0, "X", "a")', 'insert_header = [0, "X", "a"]'),
    (Stage.EOM, 'mail.change_header("X", "a")', 'change_header = ["X", "a"]'),
    (Stage.EOM, 'mail.change_header("X", "a", n=2)', 'change_header = ["X", 2, "a"]'),
    (Stage.EOM, 'mail.delete_header("X")', 'delete_header = "X"'),
    (Stage.EOM, 'mail.delete_header("X", 2)', 'delete_header = ["X", 2]'),
    (Stage.EOM, 'mail.replace_body("one\\n{two}")', 'replace_body = "one\\n{{two}}"'),
    (Stage.EOM, 'mail.strip_attachment("*.{exe}")', 'strip_attachment = "*.{exe}"'),
    (Stage.CONNECT, "mail.reject()", "reject = true"),
    (Stage.EOM, 'mail.reject("554 5.6.0 {No}")', 'reject = "554 5.6.0 {{No}}"'),
    (Stage.EOM, 'mail.reject("No")', 'reject = "No"'),
    (Stage.HELO, "mail.tempfail()", "tempfail = true"),
    (Stage.EOM, 'mail.reply("452 4.2.2 Mailbox full")', 'reply = "452 4.2.2 Mailbox full"'),
    (Stage.MAIL, "mail.discard()", "discard = true"),
    (Stage.DATA, 'mail.hold("to be looked at")', 'hold = "to be looked at"'),
    (Stage.EOM, "mail.accept()", "accept = true"),
    (Stage.EOM, 'mail.route("other")', 'route = "other"'),
    (Stage.EOH, 'mail.tag("x")', 'tag = "x"'),
    (Stage.EOM, 'mail.delay("2s")', 'delay = "2s"'),
    (Stage.EOM, 'mail.throttle("10KiB/s")', 'throttle = "10KiB/s"'),
    (Stage.EOM, 'mail.disconnect("reset")', 'disconnect = "reset"'),
    (Stage.EOM, "mail.drop_reply()", "drop_reply = true"),
]  # fmt: skip


def plain(value: object) -> object:
    """So that patterns are compared by what they say."""
    match value:
        case Pattern() | AddressPattern():
            return value.text
        case msgspec.Struct():
            return type(value), [plain(getattr(value, name)) for name in value.__struct_fields__]
        case tuple():
            return [plain(one) for one in value]
        case _:
            return value


@pytest.mark.parametrize(("stage", "said", "toml"), SAID)
def test_a_method_asks_for_what_toml_would(stage: Stage, said: str, toml: str) -> None:
    Path("b.toml").write_text(f"[[rule]]\nthen = [{{ {toml} }}]\n")
    (wanted,) = load(["b.toml"]).rules.rules[0].then
    decision = at(stage, said)
    assert decision.failure is None
    assert [fired.actions for fired in decision.fired] == [(wanted.name,)]
    made = rules(f"from relayproxy.rules.python import address\ndef {stage.name.lower()}(mail): {said}")
    (call,) = made.rules[0].then
    assert isinstance(call, Call)
    facts = Facts(listener="", client="", recipients=(Recipient(JANE),))
    asked = call.ask(facts, 0 if stage is Stage.RCPT else None)
    assert plain(asked[0].action) == plain(wanted)


def test_it_is_done_as_that_of_other_rules() -> None:
    there = played(
        """
        def connect(mail): mail.tag("from " + mail.client)
        def rcpt(mail):
            if mail.recipient == "jane@customer.example":
                mail.redirect_recipient("qa@example.test")
        def eoh(mail):
            mail.add_header("X-Subject", mail.header["Subject"])
        def eom(mail):
            mail.replace_body(mail.body.upper())
        """,
        JANE,
        JOE,
        client="192.0.2.1",
    )
    assert there.failure is None
    assert [one.address for one in there.facts.recipients] == [QA, JOE]
    header = there.facts.header
    assert header is not None
    assert header.texts(b"To") == (QA,)
    assert header.texts(b"X-Subject") == ("Grüße",)
    assert there.facts.content is not None
    assert there.facts.content.text == "HELLO\r\n"
    assert there.facts.tags == ("from 192.0.2.1",)
    assert there.rules == ("a.py: connect", "a.py: rcpt", "a.py: eoh", "a.py: eom")


def test_a_function_that_asks_for_nothing_did_nothing() -> None:
    there = played("def eom(mail): pass")
    assert (there.rules, there.outcome) == ((), "accepted")


def test_what_several_recipients_ask_alike_is_done_once() -> None:
    recipients = (Recipient(JANE, 0), Recipient(JOE, 1))
    said = 'if "joe" in mail.recipient: mail.tag("joe")\nmail.add_header("Y", "1")\nmail.add_header("Y", "1")\nmail.delay("2s")\n'
    decision = at(Stage.RCPT, said, recipients=recipients)
    assert [noted.place for noted in decision.facts.edits] == [0, 1]
    assert decision.faults is not None
    assert decision.faults.delay == 2.0
    assert decision.facts.tags == ("joe",)


def test_a_refusal_is_about_that_recipient() -> None:
    there = played('def rcpt(mail):\n if "joe" in mail.recipient: mail.reject()\n', JANE, JOE)
    assert [one.address for one in there.facts.recipients] == [JANE]
    assert there.outcome == "accepted"


def test_behind_rcpt_it_is_said_which_recipient_is_meant() -> None:
    there = played(
        """
        def eom(mail):
            for one in mail.recipients:
                if one.domain == "customer.example":
                    mail.rewrite_recipient(["a@x.test", "b@x.test"], one) if one.local == "jane" else mail.delete_recipient(of=one)
        """,
        JANE,
        JOE,
        "c@x.test",
    )
    assert [one.address for one in there.facts.recipients] == ["a@x.test", "b@x.test", "c@x.test"]
    none_said = (
        "line 3: ActionError: redirect_recipient: expected one of the mail's recipients, as this is eom, got none"
    )
    assert failure(Stage.EOM, 'mail.redirect_recipient("a@x.test")') == none_said
    for other in ('"joe@x.test"', "mail.sender", "_of_another"):
        body = f'_of_another = type(mail.recipients[0])(__import__("relayproxy.rules.facts").rules.facts.Recipient("z@z.test"), 0)\nmail.delete_recipient(of={other})'
        assert "ActionError: delete_recipient: expected one of the mail's recipients, got another " in failure(
            Stage.EOM, body
        )


REFUSED = [
    (Stage.EOM, "mail.tag(5)", "tag: expected a text, got 5"),
    (Stage.EOM, 'mail.tag("a\\nb")', "tag: expected one line without control characters, got '\\n' at character 2"),
    (Stage.EOM, 'mail.add_header("a b", "x")', "add_header[0]: expected the name of a field, of printable ASCII without colon and space, got 'a b'"),
    (Stage.EOM, 'mail.add_header("a", "x\\r\\nBcc: y")', "add_header[1]: expected one line without control characters, got '\\r' at character 2"),
    (Stage.EOM, 'mail.change_header("a", "x", n=0)', "change_header[1]: expected a number from 1, got 0"),
    (Stage.EOM, 'mail.reject("250 2.0.0 OK")', "reject: expected true, a text or a reply of 5yz such as 550 5.7.1 Refused, got the code 250"),
    (Stage.EOM, 'mail.reply("550 no\\r\\n250 yes")', "reply: expected one line of printable ASCII, got '\\r' at character 7"),
    (Stage.EOM, 'mail.add_recipient("a@b, c@d")', "add_recipient: expected an address such as user@example.com, got 'a@b, c@d'"),
    (Stage.EOM, "mail.add_recipient([])", "add_recipient: expected an address such as user@example.com, got an empty list"),
    (Stage.EOM, 'mail.delete_recipient({"in": "file"})', "delete_recipient: expected patterns, as a function names no file of them, got 'file'"),
    (Stage.EOM, "mail.delay(2)", "delay: expected a duration such as 500ms, 2s or 1m, got 2"),
    (Stage.EOM, 'mail.disconnect("now")', "disconnect: expected before-reply, after-reply or reset, got 'now'; known are after-reply, before-reply, reset"),
    (Stage.HELO, 'mail.change_sender("")', "change_sender: expected mail or a later stage, got helo"),
    (Stage.MAIL, 'mail.add_recipient("a@x.test")', "add_recipient: expected rcpt or a later stage, got mail"),
    (Stage.RCPT, 'mail.delete_recipient("*")', "delete_recipient: expected data or a later stage, got rcpt"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "said", "what"), REFUSED)
def test_what_cannot_be_is_refused_where_it_is_asked_for(stage: Stage, said: str, what: str) -> None:
    assert failure(stage, said) == f"line 3: ActionError: {what}"[: len("line 3: ActionError: ") + 200]


def test_a_function_may_have_it_otherwise() -> None:
    decision = at(Stage.EOM, 'try: mail.add_recipient("no address")\nexcept ActionError: mail.reject("No")')
    assert decision.failure is None
    assert decision.answer is not None
    assert decision.answer.lines == (b"5.7.1 No",)


def test_what_the_configuration_does_not_have_is_refused() -> None:
    made = rules('def data(mail):\n mail.route("qa")\n mail.hold("x")\n')
    facts = Facts(listener="", client="")
    for upstreams, has_store, told in (
        (frozenset({"qa2"}), True, "line 2: ActionError: route: expected the name of an upstream, got 'qa'; the nearest known is qa2"),
        (frozenset({"qa"}), False, 'line 3: ActionError: hold: expected a store that keeps what is held, as record.store is "none"'),
    ):  # fmt: skip
        with_them = RuleSet((bound(made.rules[0], upstreams, has_store=has_store),))
        assert with_them.evaluate(Stage.DATA, facts, NoDraws()).failure == f"rule 'a.py: data': {told}"
    fine = RuleSet((bound(made.rules[0], frozenset({"qa"}), has_store=True),))
    assert fine.evaluate(Stage.DATA, facts, NoDraws()).route == "qa"


# What they see.

SEEN = {
    "listener": Stage.CONNECT, "client": Stage.CONNECT, "session": Stage.CONNECT, "stage": Stage.CONNECT, "tags": Stage.CONNECT, "helo": Stage.HELO,
    "tls": Stage.MAIL, "auth": Stage.MAIL, "transaction": Stage.MAIL, "sender": Stage.MAIL, "parameters": Stage.MAIL, "recipients": Stage.DATA,
    "header": Stage.EOH, "size": Stage.EOM, "body": Stage.EOM, "attachments": Stage.EOM, "unreadable": Stage.EOM,
}  # fmt: skip


@pytest.mark.parametrize("stage", list(Stage))
def test_what_is_not_known_is_not_there_and_says_so(stage: Stage) -> None:
    properties = {name for name, _ in inspect.getmembers(python.Mail, lambda one: isinstance(one, property))}
    assert properties == {*SEEN, "recipient"}
    there = {name for name, from_ in SEEN.items() if from_ <= stage} | ({"recipient"} if stage is Stage.RCPT else set())
    for name in sorted(properties):
        decision = at(stage, f'if hasattr(mail, "{name}"): mail.tag("x")')
        assert (decision.facts.tags == ("x",)) is (name in there)
    for name in sorted(properties - there - {"recipient"}):
        told = f"line 3: NotKnown: {name} is known from {SEEN[name].name.lower()} on, and this is {stage.name.lower()}"
        assert failure(stage, f"mail.{name}") == told
    if stage > Stage.RCPT:
        assert "recipient is known at rcpt, and this is" in failure(stage, "mail.recipient")


def test_what_is_known_is_shown() -> None:
    body = """
assert mail.stage == "eom"
assert mail.client == "192.0.2.1"
assert (mail.helo, mail.tls, mail.auth) == ("client.test", "TLSv1.3", None)
assert mail.sender == '"a b"@Example.TEST'
assert (mail.sender.local, mail.sender.domain) == ("a b", "example.test")
assert mail.parameters["SIZE"] == "5"
assert mail.recipients == ("jane@customer.example",)
assert mail.recipients[0].parameters == {"NOTIFY": "NEVER"}
assert "subject" in mail.header and "Date" not in mail.header
assert mail.header["SUBJECT"] == "Grüße" and mail.header.get("Date") is None
assert mail.header.all("x") == ("1", "2") and mail.header.all("é") == ()
assert mail.header.names == ("from", "to", "subject", "x")
assert bytes(mail.header).startswith(b"From: ")
assert (mail.size, mail.body, mail.attachments) == (1000, "hello", ("a.pdf", "b.exe"))
assert mail.unreadable is False
"""
    decision = at(
        Stage.EOM,
        body,
        helo="client.test",
        tls="TLSv1.3",
        sender='"a b"@Example.TEST',
        parameters={"SIZE": "5"},
        recipients=(Recipient(JANE, 0, {"NOTIFY": "NEVER"}),),
    )
    assert decision.failure is None


@pytest.mark.parametrize(
    "said", ['mail.sender = ""', 'mail.x = ""', 'mail.parameters["SIZE"] = "1"', "del mail.recipients[0]"]
)
def test_what_is_known_cannot_be_changed(said: str) -> None:
    assert failure(Stage.EOM, said).startswith(("line 3: AttributeError: ", "line 3: TypeError: "))


# What goes wrong.


def test_an_exception_is_told_with_its_line_and_nothing_is_done() -> None:
    text = """
    def _deeper(mail):
        int(mail.listener)

    def eom(mail):
        mail.tag("x")
        mail.replace_body("new")
        _deeper(mail)
    """
    there = played(text)
    assert there.failure == "rule 'a.py: eom': line 3: ValueError: invalid literal for int() with base 10: 'default'"
    assert there.outcome == "tempfailed"
    assert there.facts.tags == ()
    assert there.facts.body == ()


def test_nothing_is_left_of_other_rules_of_the_stage_either() -> None:
    Path("b.toml").write_text("[[rule]]\nat = 'data'\nthen = [{ tag = 'x' }, { discard = true }]\n")
    Path("c.toml").write_text("[[rule]]\nat = 'data'\nthen = [{ tag = 'x' }]\n")
    Path("a.py").write_text("def data(mail): raise RuntimeError")
    facts = Facts(listener="", client="")
    assert load(["b.toml", "a.py"]).rules.evaluate(Stage.DATA, facts, NoDraws()).facts.fate == "discard"
    decision = load(["c.toml", "a.py"]).rules.evaluate(Stage.DATA, facts, NoDraws())
    assert decision.failure is not None
    assert decision.facts is facts


WENT_WRONG = [
    ("raise SystemExit(3)", "line 3: SystemExit: 3"),
    ("raise KeyboardInterrupt", "line 3: KeyboardInterrupt"),
    ("raise BaseException", "line 3: BaseException"),
    ("def f(): return f()\nf()", "line 3: RecursionError: maximum recursion depth exceeded"),
    ('raise ValueError("a\\nb")', "line 3: ValueError: a b"),
    ('raise ValueError("x" * 500)', f"line 3: ValueError: {'x' * 200}"),
    ("class E(Exception):\n def __str__(self): raise self\nraise E", "line 5: E"),
    ("__import__('json').loads('x')", "line 3: JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    ("return '550 no'", "expected a function that returns nothing, got 'str'"),
    ("__import__('relayproxy.rules.rule'); from relayproxy.rules.rule import BadAddress; raise BadAddress", "line 3: BadAddress"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "told"), WENT_WRONG)
def test_whatever_is_raised_is_a_451(said: str, told: str) -> None:
    assert failure(Stage.EOM, said) == told


def test_what_has_taken_too_long_is_given_up_by_name() -> None:
    made = rules("def data(mail): pass")
    evaluation = made.begin(Stage.DATA, Facts(listener="", client=""), NoDraws())
    before = evaluation.gave_up(5.0)
    assert before.failure == "the rules at data: expected a thread for it within 5 s, and gave up"
    evaluation.run()
    behind = evaluation.gave_up(5.0)
    assert behind.failure == "rule 'a.py: data': expected it to end within 5 s, and gave up"
    assert before.answer is behind.answer is not None
    assert behind.answer.code == 451


# When they run, and what waits for them.


def test_functions_run_at_their_stage_and_rules_below_wait_for_what_they_may_write() -> None:
    Path("b.toml").write_text(
        "[[rule]]\nwhen = { body = 'x' }\nthen = [{ reject = true }]\n[[rule]]\nwhen = { header.X = 'x' }\nthen = [{ tag = 'x' }]\n"
    )
    Path("a.py").write_text("def eom(mail): pass\ndef rcpt(mail): pass\n")
    assert load(["b.toml", "a.py"]).rules.stages == (Stage.EOM, Stage.EOM, Stage.RCPT, Stage.EOM)
    for declared, stage in ((None, Stage.EOM), ([], Stage.EOH), (["add_header"], Stage.EOM), (["discard"], Stage.EOM)):
        Path("c.toml").write_text("[[rule]]\nwhen = { header.X = 'x' }\nthen = [{ tag = 'x' }]\n")
        text = f"ACTIONS = {declared}\ndef eom(mail): pass\n"
        assert rules(text, "c.toml").stages == (Stage.EOM, stage), declared


GATES = [
    ("ACTIONS = []\ndef mail(mail): pass", Gates()),
    ("def mail(mail): pass", Gates(EnvelopeGate.EOM, DataGate.EOM, envelope_rule="a.py: mail", data_rule="a.py: mail")),
    ("ACTIONS = {'mail', 'tag'} and ['tag', 'reject']\ndef mail(mail): pass", Gates()),
    ("ACTIONS = ['hold']\ndef rcpt(mail): pass", Gates(EnvelopeGate.DATA, envelope_rule="a.py: rcpt")),
    ("ACTIONS = ['redirect_recipient']\ndef rcpt(mail): pass", Gates(data=DataGate.HEADER, data_rule="a.py: rcpt")),
    ("ACTIONS = {'rcpt': ['rewrite_recipient'], 'eom': ['reject']}\ndef rcpt(mail): pass\ndef eom(mail): pass", Gates(dot=True, dot_rule="a.py: eom")),
    ("ACTIONS = {'rcpt': []}\ndef rcpt(mail): pass\ndef eoh(mail): pass", Gates(EnvelopeGate.EOM, DataGate.EOM, envelope_rule="a.py: eoh", data_rule="a.py: eoh")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gates"), GATES)
def test_gates_are_closed_as_for_the_worst_that_is_declared(text: str, gates: Gates) -> None:
    assert rules(text).gates == gates


def test_what_is_not_declared_is_refused() -> None:
    there = played("ACTIONS = ('tag', 'reject')\ndef eom(mail): mail.hold('x')")
    assert (
        there.failure
        == "rule 'a.py: eom': line 2: ActionError: expected an action that ACTIONS names (reject, tag), got hold"
    )
    assert there.outcome == "tempfailed"
    allowed = played("ACTIONS = ('tag', 'reject')\ndef eom(mail): mail.tag('x')")
    assert allowed.facts.tags == ("x",)


def test_what_has_to_be_there_for_them_is() -> None:
    at_end, before = rules("def eom(mail): pass"), rules("ACTIONS = []\ndef eoh(mail): pass")
    assert (at_end.reads_content, at_end.edits_body, at_end.may_hold) == (True, True, True)
    assert (before.reads_content, before.edits_body, before.may_hold) == (False, False, False)
    assert [stage for stage in Stage if at_end.calls_at(stage)] == [Stage.EOM]


# Files.

FILES = [
    ("def rcpt(mail:\n", "a.py:1: expected Python, at column 9: '(' was never closed"),
    ("\0", "a.py:1: expected Python: source code string cannot contain null bytes"),
    ("x = " + "(" * 300 + ")" * 300, "a.py:1: expected Python, at column 20"),
    ("import nothing_of_that_name\n", "a.py:1: expected Python that runs when it is loaded, got ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ("def _f():\n    return 1 / 0\n\nX = _f()\n", "a.py:2: expected Python that runs when it is loaded, got ZeroDivisionError: division by zero"),
    ("import sys\nsys.exit('no')\n", "a.py:2: expected Python that runs when it is loaded, got SystemExit: no"),
    ("class Skipped(BaseException): pass\nraise Skipped('me')\n", "a.py:2: expected Python that runs when it is loaded, got Skipped: me"),
    ("x = 1\n", "a.py:1: expected a function of a stage (connect, helo, mail, rcpt, data, eoh or eom), found none"),
    ("def recpt(mail): pass\n", "a.py:1: recpt: no stage has this name; the nearest known is rcpt: the functions of rules are called connect, helo, mail, rcpt, data, eoh or eom, and those beside them begin with an underscore"),
    ("def eom(mail): pass\n\ndef EHLO(mail): pass\n", "a.py:3: EHLO: no stage has this name; the nearest known is helo: "),
    ("data = {}\ndef eom(mail): pass\n", "a.py:1: data: expected a function, as this is the name of a stage, got a table"),
    ("\ndef eom(): pass\n", "a.py:2: eom: expected a function of one argument, def eom(mail: Mail) -> None"),
    ("def eom(mail, other): pass\n", "a.py:1: eom: expected a function of one argument, def eom(mail: Mail) -> None"),
    ("def eom(*, mail): pass\n", "a.py:1: eom: expected a function of one argument"),
    ("class eom:\n def __init__(self): pass\n", "a.py:1: eom: expected a function of one argument"),
    ("async def eom(mail): pass\n", "a.py:1: eom: expected a plain function, def eom(mail: Mail) -> None, without async and yield"),
    ("if True:\n  def eom(mail): yield\n", "a.py:2: eom: expected a plain function, def eom(mail: Mail) -> None, without async and yield"),
    ("\nACTIONS = 'tag'\ndef eom(mail): pass\n", "a.py:2: ACTIONS: expected the names of actions, such as (\"reject\", \"tag\"), got 'tag'"),
    ("ACTIONS = ['rejct']\ndef eom(mail): pass\n", "a.py:1: ACTIONS: expected the name of an action, got 'rejct'; the nearest known is reject"),
    ("ACTIONS = [1]\ndef eom(mail): pass\n", "a.py:1: ACTIONS: expected the name of an action, got 1"),
    ("ACTIONS: dict = {'eon': []}\ndef eom(mail): pass\n", "a.py:1: ACTIONS: expected the name of a stage, got 'eon'; the nearest known is eom"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), FILES)
def test_what_is_wrong_is_told_with_file_and_line(text: str, told: str) -> None:
    assert wrong(text)[0].startswith(told)
    assert len(wrong(text)) == 1


def test_what_is_no_slip_is_left_alone() -> None:
    made = rules(
        "from shutil import move as mails\nimport functools\nload = lambda x: x\ndef check(): pass\ndef _mial(): pass\n"
        "def _f(x, mail): pass\neom = functools.partial(_f, 1)\nrcpt = lambda mail: None\n"
    )
    assert [(rule.name, rule.where) for rule in made.rules] == [("a.py: rcpt", "a.py:8"), ("a.py: eom", "a.py:7")]


def test_all_that_is_wrong_in_all_files_is_told() -> None:
    Path("b.toml").write_text("[[rule]]\nthen = 1\n")
    Path("c.py").write_text("x =\n")
    Path("d.py").write_bytes(b"\xff")
    Path("a.py").write_text("def eom(): pass\nACTIONS = ['x']\n")
    with pytest.raises(RuleError) as caught:
        load(["a.py", "b.toml", "c.py", "d.py", "gone.py", "./a.py"])
    assert [line.split(" expected")[0] for line in caught.value.lines] == [
        "a.py:1: eom:",
        "a.py:2: ACTIONS:",
        "b.toml:2: rule[0].then:",
        "c.py:1:",
        "d.py:",
        "gone.py: cannot be read: No such file or directory",
        "./a.py:",
    ]
    assert caught.value.lines[-1] == "./a.py: expected each Python file once, got it again"


def test_a_file_runs_once_when_it_is_loaded_and_leaves_nothing_behind() -> None:
    modules = set(sys.modules)
    text = "from dataclasses import dataclass\nfrom pathlib import Path\nwith Path('ran').open('a') as f: f.write('x')\n@dataclass\nclass _A:\n a: 'int'\ndef eom(mail): mail.tag(WORD)\n"
    made = rules("WORD = 'old'\n" + text)
    facts = Facts(listener="", client="", content=CONTENT)
    for _ in range(2):
        assert made.evaluate(Stage.EOM, facts, NoDraws()).facts.tags == ("old",)
    assert Path("ran").read_text() == "x"
    again = rules("WORD = 'new'\n" + text)
    assert Path("ran").read_text() == "xx"
    assert again.evaluate(Stage.EOM, facts, NoDraws()).facts.tags == ("new",)
    assert made.evaluate(Stage.EOM, facts, NoDraws()).facts.tags == ("old",)
    assert {name for name in set(sys.modules) - modules if "relayproxy_rules" in name} == set()


def test_a_function_knows_that_not_all_could_be_read() -> None:
    text = "def eom(mail):\n if mail.unreadable: mail.reject()\n"
    assert played(text, message=b"Content-Type: multipart/mixed\r\n\r\nx\r\n").outcome == "rejected"
    assert played(text).outcome == "accepted"


def test_the_trace_stays_as_it_is() -> None:
    assert "expected a field that is no trace" in failure(Stage.EOH, 'mail.delete_header("Received")')


def test_the_file_is_one_that_is_looked_at_for_changes() -> None:
    Path("a.py").write_text("def eom(mail): pass\n")
    assert tuple(load(["a.py"]).files) == (Path("a.py"),)
