"""Templates: what is put in, that it stays in its place, and what is told of those that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_texts import FACTS, JANE

from relayproxy.mail.header import HeaderSection
from relayproxy.rules.facts import Content, Facts, Recipient
from relayproxy.rules.rule import BadAddress, Template
from relayproxy.rules.template import MAX_REPLY, address, reply_text, text
from relayproxy.smtp.commands import Path

if TYPE_CHECKING:
    from collections.abc import Callable

GROUPS = {"number": "17", "evil": "a\r\nb\0c\x1b[31m\x85\u2028d", "to": "qa@x.test", "name": "Jürgen"}


def given_by(template: Template, recipient: str = JANE.address, facts: Facts = FACTS) -> str:
    return template.render(facts, Recipient(recipient), GROUPS)


TEXTS = [
    ("no placeholder", "no placeholder"),
    ("{recipient}", "jane@customer.example"),
    ("{recipient.local} at {recipient.domain}", "jane at customer.example"),
    ("{sender} {sender.local} {sender.domain}", "bounces+jane=customer.example@app.test bounces+jane=customer.example app.test"),
    ("{client}|{helo}|{auth}|{session}|{transaction}", "10.0.0.5|app-1.local|app|S1|T1"),
    ("{header.Subject}", "Grüße and order 17"),
    ("{header.x-ENV}", "staging"),
    ("{header.X-None}.", "."),
    ("order {number}", "order 17"),
    ("{{{number}}}", "{17}"),
    ("{{recipient}}", "{recipient}"),
    ("{evil}", "a  b c [31m  d"),
    ("Grüße an {recipient.local}", "Grüße an jane"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "result"), TEXTS)
def test_a_text_has_what_is_put_in_on_its_line(source: str, result: str) -> None:
    assert given_by(text(source, GROUPS)) == result


def test_a_text_says_what_it_reads_and_what_it_always_gives() -> None:
    assert text("{recipient.local} {header.Subject} {number}", GROUPS).reads == {"recipient", "header:subject"}
    assert given_by(text("a {{ b")) == "a { b"
    assert address("{recipient.local}@{helo}").reads == {"recipient", "helo"}
    assert given_by(address("qa@münchen.test")) == "qa@xn--mnchen-3ya.test"


def test_a_text_of_several_lines_has_those_of_the_template_and_no_others() -> None:
    assert given_by(text("Dear {name},\nyour {evil}\n", GROUPS, lines=True)) == "Dear Jürgen,\nyour a  b c [31m  d\n"


def test_who_has_not_logged_in_and_whom_there_is_none_for_is_nothing() -> None:
    nobody = msgspec.structs.replace(FACTS, user=None, header=None)
    assert text("{auth}{recipient}{header.Subject}").render(nobody, None, {}) == ""


def test_a_reply_is_printable_ascii_of_one_line() -> None:
    assert given_by(reply_text("5.7.1 {name}: {evil}", GROUPS)) == "5.7.1 J?rgen: a  b c [31m  d"
    assert given_by(reply_text("{x}", ["x"]), facts=FACTS) == ""
    long = msgspec.structs.replace(FACTS, helo="x" * 1000)
    assert len(given_by(reply_text("5.7.1 {helo}"), facts=long)) == MAX_REPLY


ADDRESSES = [
    # template, recipient, address
    ("{recipient}", "jane@customer.example", "jane@customer.example"),
    ("{recipient}", "Jane@Customer.EXAMPLE", "Jane@Customer.EXAMPLE"),
    ("{recipient}", '"jane doe"@x.test', '"jane doe"@x.test'),
    ("{recipient}", '"jane"@x.test', "jane@x.test"),
    ("{recipient}", "a..b@x.test", '"a..b"@x.test'),
    ("{recipient}", "postmaster", "postmaster"),
    ("{recipient}", "jane@[IPv6:::1]", "jane@[IPv6:::1]"),
    ("{recipient}", "jürgen@münchen.test", "jürgen@xn--mnchen-3ya.test"),
    ("{recipient}.invalid", "jane@x.test", "jane@x.test.invalid"),
    ("qa+{recipient}", "jane@x.test", "qa+jane@x.test"),
    ("qa+{recipient}", '"jane doe"@x.test', '"qa+jane doe"@x.test'),
    ("qa+{recipient.local}={recipient.domain}@example.test", "jane@x.test", "qa+jane=x.test@example.test"),
    ("qa+{recipient.local}={recipient.domain}@example.test", '"a@b"@x.test', '"qa+a@b=x.test"@example.test'),
    ("qa+{recipient.local}@example.test", '"a\\"b\\\\c"@x.test', '"qa+a\\"b\\\\c"@example.test'),
    ("qa+{recipient.local}@example.test", '"> SIZE=1"@x.test', '"qa+> SIZE=1"@example.test'),
    ("{recipient}@archive.test", "jane@x.test", '"jane@x.test"@archive.test'),
    ("{recipient.local}@{recipient.domain}.archive.test", "jane@x.test", "jane@x.test.archive.test"),
    ('"{recipient.local}"@example.test', "jane@x.test", "jane@example.test"),
    ('"qa {recipient.local}"@example.test', "jane@x.test", '"qa jane"@example.test'),
    ("{recipient.local}", "jane@x.test", "jane"),
    ("{to}", "jane@x.test", "qa@x.test"),
    ("{number}@x.test", "jane@x.test", "17@x.test"),
    ("{{{number}@x.test", "jane@x.test", "{17@x.test"),
    ("{number}{recipient.local}@x.test", "@y:z@x.test", '"17@y:z"@x.test'),
    ("qa@example.test", "jane@x.test", "qa@example.test"),
    ('"qa x"@{recipient.domain}', "jane@x.test", '"qa x"@x.test'),
    ('"qa inbox"@example.test', "jane@x.test", '"qa inbox"@example.test'),
]


@pytest.mark.parametrize(("source", "recipient", "result"), ADDRESSES)
def test_an_address_is_put_together_and_quoted_as_a_whole(source: str, recipient: str, result: str) -> None:
    assert given_by(address(source, GROUPS), recipient) == result


NO_ADDRESSES = [
    # template, recipient, what is said
    ("{recipient.local}@x.test", "", "expected an address such as user@example.com, got '@x.test'"),
    ("{recipient}", "", "expected an address such as user@example.com, got ''"),
    ("a@{recipient.domain}", "postmaster", "expected an address such as user@example.com, got 'a@'"),
    ("a@{helo} b", "jane@x.test", "expected an address such as user@example.com, got 'a@app-1.local b'"),
    ("a@{to}", "jane@x.test", "expected an address such as user@example.com, got 'a@qa@x.test'"),
    ("{evil}@x.test", "jane@x.test", "expected an address such as user@example.com, got '\"a\\\\r\\\\nb"),
    ("a@x{recipient.domain}", "a@\uff0etest", "expected an address such as user@example.com, got 'a@x\uff0etest'"),
    ("{recipient.local}{recipient.local}@x.test", "a" * 33 + "@x.test", "expected a local part of at most 64 octets, got "),
    ("a@{recipient.domain}.{recipient.domain}", "a@" + "x.test" * 30, "expected an address"),
    ("a@{recipient.domain}", "a@" + "ü" * 64, "expected a domain whose labels have at most 63 octets, got 'a@"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "recipient", "said"), NO_ADDRESSES)
def test_what_is_no_address_is_said(source: str, recipient: str, said: str) -> None:
    with pytest.raises(BadAddress) as caught:
        given_by(address(source, GROUPS), recipient)
    assert str(caught.value).startswith(said.replace("\\\\", "\\"))


def test_the_null_sender_is_given_only_where_it_may_be() -> None:
    bounce = msgspec.structs.replace(FACTS, sender="")
    assert given_by(address("", may_be_null=True)) == ""
    assert address("{sender}", may_be_null=True).render(bounce, None, {}) == ""
    with pytest.raises(BadAddress):
        address("{sender}").render(bounce, None, {})


ERRORS = [
    (text, "{recipent}", "unknown placeholder {recipent} at character 1; the nearest known is recipient"),
    (text, "to {numbr}", "unknown placeholder {numbr} at character 4; the nearest known is number"),
    (text, "{}", "unknown placeholder {} at character 1; known are "),
    (text, "{header.}", "unknown placeholder {header.} at character 1; the nearest known is header.NAME"),
    (text, "a {b", "expected a placeholder such as {recipient}, or {{ for a brace, got { at character 3"),
    (text, "a } b", "expected a placeholder such as {recipient}, or }} for a brace, got } at character 3"),
    (text, "a\nb", "expected one line without control characters, got '\\n' at character 2"),
    (reply_text, "Grüße", "expected one line of printable ASCII, got 'ü' at character 3"),
    (reply_text, "a\r\nb", "expected one line of printable ASCII, got '\\r' at character 2"),
    (reply_text, "x" * 501, "expected a reply of at most 500 characters, got 501"),
    (address, "", "expected an address such as user@example.com, got ''"),
    (address, "a b@x.test", "expected an address such as user@example.com, got 'a b@x.test'"),
    (address, "Jane <jane@x.test>", "expected an address such as user@example.com, got 'Jane <jane@x.test>'"),
    (address, "<jane@x.test>", "expected an address such as user@example.com, got '<jane@x.test>'"),
    (address, "jane@", "expected an address such as user@example.com, got 'jane@'"),
    (address, "@a.test:jane@x.test", "expected one address without a source route, got '@a.test:jane@x.test'"),
    (address, "j@x.test\r\nDATA", "expected an address such as user@example.com, got 'j@x.test\\r\\nDATA'"),
    (address, "x" * 65 + "@x.test", "expected a local part of at most 64 octets, got "),
    (address, "@{helo}", "expected an address such as user@example.com, got '@{helo}'"),
    (address, "{helo}@", "expected an address such as user@example.com, got '{helo}@'"),
    (address, "{recipient}{sender}", "expected an @ between {recipient} and {sender}: each may give a whole address"),
]


@pytest.mark.parametrize(("read", "source", "said"), ERRORS)
def test_what_is_wrong_with_a_template_is_told_when_it_is_read(
    read: Callable[[str, list[str]], Template], source: str, said: str
) -> None:
    with pytest.raises(ValueError, match=r"expected|unknown") as caught:
        read(source, ["number"])
    assert str(caught.value).startswith(said)


PLACEHOLDERS = ["recipient", "recipient.local", "recipient.domain", "sender", "helo", "auth", "header.Subject", "x"]
sources = st.lists(
    st.one_of(st.sampled_from([f"{{{name}}}" for name in PLACEHOLDERS]), st.sampled_from(["@", "+", "x.test", '"', " ", "\\"])),
    max_size=6,
).map("".join)  # fmt: skip
anything = st.one_of(
    st.text(), st.sampled_from(['"a\r\nb"@x.test', "a@b@c", "<a@b>", "\0", "jane@x.test", "ü@ü.test", "@a:b@c"])
)


@given(source=sources, value=anything, other=anything)
def test_nothing_of_the_mail_makes_a_second_line_or_address(source: str, value: str, other: str) -> None:
    facts = Facts(
        listener="l", client="c", helo=value, user=other, sender=other, header=HeaderSection(b"Subject: " + value.encode("utf-8", "replace") + b"\r\n")
    )  # fmt: skip
    for template in (text(source, ["x"]), reply_text(source, ["x"])):
        assert not set(template.render(facts, Recipient(value), {"x": other})) & set("\r\n\0")
    try:
        template = address(source, ["x"], may_be_null=True)
    except ValueError:
        return
    try:
        made = template.render(facts, Recipient(value), {"x": other})
    except BadAddress:
        return
    assert Path.parse(made.encode()).address == made.encode()
    assert not set(made) & set("\r\n\0")
    assert len(made.encode()) <= 254


def test_the_body_that_came_stands_in_a_body_alone() -> None:
    facts = msgspec.structs.replace(FACTS, content=Content(9, "one\r\ntwo\x00" + "x" * 20_000))
    made = text("on top of {body}", lines=True)
    assert made.reads == {"body"}
    assert made.render(facts, None, {}) == "on top of one\ntwo\x00" + "x" * 20_000
    assert made.render(msgspec.structs.replace(FACTS, content=None), None, {}) == "on top of "
    with pytest.raises(ValueError, match="unknown placeholder"):
        text("{body}")
