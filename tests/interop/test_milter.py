"""Edits mean what they mean to milters: done by Postfix for a milter, and by relayproxy for a rule in front of the same Postfix, they leave the same message.

Where the two differ, libmilter's documentation says who has it right; each such place is a test of its own.
"""

from __future__ import annotations

import re
import smtplib
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, NamedTuple

import pytest
from conftest import DIRECT
from real_cast import took_part
from real_milter import (
    add_header,
    add_recipient,
    change_header,
    change_sender,
    delete_recipient,
    insert_header,
    milter,
    replace_body,
)
from real_postfix import QA
from real_process import until
from real_relay import Setting, running
from real_upstreams import KNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from real_postfix import PostfixUpstream
    from real_relay import Relay

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.skipif(DIRECT, reason="about the relay itself")]

SENDER = "app@client.test"
JANE, JOE = KNOWN
# Spaces and folding that nobody asked to be changed; the same name twice.
MESSAGE = (
    "X-Case: {}\r\n"
    "Subject: hi\r\n"
    "X-Two:one\r\n"
    "From:  App <app@client.test>\r\n"
    "x-two:  two\r\n\t folded \r\n"
    "To: jane@sink.test\r\n"
    "MIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 7bit\r\n"
    "\r\n"
    "body\r\n.\r\n..two\r\n\r\n"
)
#: Fields of the message as it came.
FIELDS = 9


class Case(NamedTuple):
    """What the milter sends, and what the rule has in `then`. An index of a milter counts the Received that Postfix adds."""

    milter: Sequence[bytes]
    then: str


CASES: dict[str, Case] = {
    "add": Case([add_header("X-New", "v")], "{ add_header = ['X-New', 'v'] }"),
    "add another": Case([add_header("X-Two", "v"), add_header("x-low", "w")], "{ add_header = ['X-Two', 'v'] }, { add_header = ['x-low', 'w'] }"),
    "add nothing": Case([add_header("X-New", "")], "{ add_header = ['X-New', ''] }"),
    "insert on top": Case([insert_header(1, "X-New", "v")], "{ insert_header = [0, 'X-New', 'v'] }"),
    "insert two on top": Case([insert_header(1, "X-A", "1"), insert_header(1, "X-B", "2")], "{ insert_header = [0, 'X-A', '1'] }, { insert_header = [0, 'X-B', '2'] }"),
    "insert in front of the second": Case([insert_header(2, "X-New", "v")], "{ insert_header = [1, 'X-New', 'v'] }"),
    "insert behind a folded one": Case([insert_header(6, "X-New", "v")], "{ insert_header = [5, 'X-New', 'v'] }"),
    "insert at the end": Case([insert_header(FIELDS + 1, "X-New", "v")], f"{{ insert_header = [{FIELDS}, 'X-New', 'v'] }}"),
    "insert far behind": Case([insert_header(1000, "X-New", "v")], "{ insert_header = [1000, 'X-New', 'v'] }"),
    "change the first": Case([change_header("X-Two", 1, "v")], "{ change_header = ['X-Two', 'v'] }"),
    "change the second": Case([change_header("x-two", 2, "v")], "{ change_header = ['x-two', 2, 'v'] }"),
    "change the third of two": Case([change_header("X-Two", 3, "v")], "{ change_header = ['X-Two', 3, 'v'] }"),
    "change none": Case([change_header("X-None", 1, "v")], "{ change_header = ['X-None', 'v'] }"),
    "change what was inserted": Case([insert_header(1, "X-Two", "v"), change_header("X-Two", 1, "w")], "{ insert_header = [0, 'X-Two', 'v'] }, { change_header = ['X-Two', 'w'] }"),
    "delete the first": Case([change_header("X-Two", 1, "")], "{ delete_header = ['X-Two', 1] }"),
    "delete the second": Case([change_header("X-Two", 2, "")], "{ delete_header = ['X-Two', 2] }"),
    "delete all": Case([change_header("X-Two", 2, ""), change_header("X-Two", 1, "")], "{ delete_header = 'X-Two' }"),
    "delete the first twice": Case([change_header("X-Two", 1, "")] * 2, "{ delete_header = ['X-Two', 1] }, { delete_header = ['X-Two', 1] }"),
    "delete none": Case([change_header("X-None", 1, "")], "{ delete_header = 'X-None' }"),
    "delete and add": Case([change_header("Subject", 1, ""), add_header("Subject", "ho")], "{ delete_header = 'Subject' }, { add_header = ['Subject', 'ho'] }"),
    "encoded": Case([change_header("Subject", 1, "=?utf-8?q?Gr=C3=BC=C3=9Fe?=")], "{ change_header = ['Subject', 'Grüße'] }"),
    "another sender": Case([change_sender("bounces@client.test")], "{ change_sender = 'bounces@client.test' }"),
    "no sender": Case([change_sender("")], "{ change_sender = '' }"),
    "one more recipient": Case([add_recipient(QA)], f"{{ add_recipient = '{QA}' }}"),
    "one recipient less": Case([delete_recipient(JOE)], f"{{ delete_recipient = '{JOE}' }}"),
    "one for another": Case([delete_recipient(JANE), add_recipient(QA)], f"{{ delete_recipient = '{JANE}' }}, {{ add_recipient = '{QA}' }}"),
    "another body": Case([replace_body(b"new\r\n.\r\n..x\r\n\r\nend\r\n")], r'{ replace_body = "new\n.\n..x\n\nend\n" }'),
    "a body without an end": Case([replace_body(b"new")], "{ replace_body = 'new' }"),
    "all at once": Case(
        [
            change_sender("bounces@client.test"), delete_recipient(JANE), add_recipient(QA), insert_header(1, "X-A", "1"),
            change_header("Subject", 1, "ho"), change_header("X-Two", 1, ""), replace_body(b"new\r\n"),
        ],
        f"{{ change_sender = 'bounces@client.test' }}, {{ delete_recipient = '{JANE}' }}, {{ add_recipient = '{QA}' }}, "
        "{ insert_header = [0, 'X-A', '1'] }, { change_header = ['Subject', 'ho'] }, "
        r"{ delete_header = ['X-Two', 1] }, { replace_body = 'new' }",
    ),
    # What is not the same.
    "a recipient that is there": Case([add_recipient(JANE)], f"{{ add_recipient = '{JANE}' }}"),
    "insert above trace": Case([insert_header(0, "X-New", "v")], "{ insert_header = [0, 'X-New', 'v'] }"),
    "change by another spelling": Case([change_header("SUBJECT", 1, "v")], "{ change_header = ['SUBJECT', 'v'] }"),
    "a long value": Case([add_header("X-Long", "word " * 30 + "end")], f"{{ add_header = ['X-Long', '{'word ' * 30}end'] }}"),
    "a body that was none": Case([replace_body(b"gr\xc3\xbc\xc3\x9fe\r\n")], "{ replace_body = 'grüße' }"),
}  # fmt: skip
DIFFERENT = (
    "a recipient that is there",
    "insert above trace",
    "change by another spelling",
    "a long value",
    "a body that was none",
)
TRACE = re.compile(rb"^Received:.*\n(?:[ \t].*\n)*", re.MULTILINE)
TOP = re.compile(rb"Return-Path: <(.*)>\nX-Original-To: (.*)\nDelivered-To: .*\n")


class Stored(NamedTuple):
    """What was delivered: to whom (one file each), and the message, as it is and without fields of trace."""

    sender: str
    recipients: list[str]
    whole: bytes
    content: bytes


@pytest.fixture(scope="module")
def relay(postfix: PostfixUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A rule a case, each for the message that names it."""
    work = tmp_path_factory.mktemp("relay")
    # Over all that is to be done at once, since each sees what the others left.
    rules = [
        f"[[rule]]\nat = 'eom'\nwhen = {{ header.X-Case = '{name}' }}\nthen = [{case.then}]\n"
        for name, case in CASES.items()
    ]
    (work / "rules.toml").write_text("".join(rules), encoding="utf-8")
    setting = Setting(f"smtp://127.0.0.1:{postfix.port}", tables=f"[rules]\nfiles = ['{work}/rules.toml']\n")
    with running(setting, work) as relay:
        yield relay


def delivered(postfix: PostfixUpstream, port: int, name: str) -> Stored:
    took_part("smtplib", "client")
    postfix.clear()
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60) as smtp:
        assert smtp.sendmail(SENDER, [JANE, JOE], MESSAGE.format(name).encode()) == {}
    files = until(postfix.stored, f"a message at {postfix.name}")
    tops = [found for file in files if (found := TOP.match(file))]
    assert len(tops) == len(files), files
    (whole,) = {file[top.end() :] for file, top in zip(files, tops, strict=True) if top[2] == tops[0][2]}
    bare = {TRACE.sub(b"", file[top.end() :]) for file, top in zip(files, tops, strict=True)}
    assert len(bare) == 1, "each recipient has the same"
    (sender,) = {top[1].decode() for top in tops}
    return Stored(sender, sorted(top[2].decode() for top in tops), whole, bare.pop())


def both(postfix: PostfixUpstream, relay: Relay, name: str) -> tuple[Stored, Stored]:
    """By Postfix with a milter, and by relayproxy in front of it."""
    with milter(postfix.milter, CASES[name].milter) as server:
        theirs = delivered(postfix, postfix.filtered, name)
        assert server.asked == 1
    return theirs, delivered(postfix, relay.port, name)


def test_without_edits_both_leave_it_as_it_came(postfix: PostfixUpstream, relay: Relay) -> None:
    """The comparison itself."""
    with milter(postfix.milter, []) as server:
        theirs = delivered(postfix, postfix.filtered, "none")
        assert server.asked == 1
    ours = delivered(postfix, relay.port, "none")
    assert ours.content == theirs.content == MESSAGE.format("none").replace("\r\n", "\n").encode()
    assert (ours.sender, ours.recipients) == (theirs.sender, theirs.recipients) == (SENDER, sorted(KNOWN))


@pytest.mark.parametrize("name", [name for name in CASES if name not in DIFFERENT])
def test_the_same_edits_give_the_same_message(name: str, postfix: PostfixUpstream, relay: Relay) -> None:
    theirs, ours = both(postfix, relay, name)
    assert (ours.sender, ours.recipients) == (theirs.sender, theirs.recipients)
    assert ours.content == theirs.content
    if name != "delete none":
        came = MESSAGE.format(name).replace("\r\n", "\n").encode()
        assert (ours.content, ours.sender, ours.recipients) != (came, SENDER, sorted(KNOWN)), "something was done"


def test_nobody_gets_a_message_twice(postfix: PostfixUpstream, relay: Relay) -> None:
    """smfi_addrcpt: "Add a recipient for the current message". Postfix delivers to one that was there once more; recipients of rules that are the same are one."""
    theirs, ours = both(postfix, relay, "a recipient that is there")
    assert theirs.recipients == sorted([*KNOWN, JANE])
    assert ours.recipients == sorted(KNOWN)
    assert ours.content == theirs.content


def test_what_a_milter_inserts_at_0_is_above_the_received_of_its_server_and_ours_is_below(
    postfix: PostfixUpstream, relay: Relay
) -> None:
    """smfi_insheader: "Setting hdridx to 0 will actually insert the header before this Received: header". Index 0 of a rule is the top of what came: a field of trace
    stays where RFC 5321 §4.4 has it. So 0 is 1 of a milter, 1 is 2; a rule cannot say 0 of a milter.
    """
    theirs, ours = both(postfix, relay, "insert above trace")
    assert theirs.whole.startswith(b"X-New: v\nReceived: ")
    assert re.match(
        rb"Received: from relay\.test(?:.*\n[ \t])*.*\nReceived: from client\.test(?:.*\n[ \t])*.*\nX-New: v\n",
        ours.whole,
    )
    assert ours.content == theirs.content


def test_a_field_that_is_changed_keeps_its_spelling(postfix: PostfixUpstream, relay: Relay) -> None:
    """smfi_chgheader: "Changes a header's value". Postfix writes the name as the milter did, relayproxy and Sendmail change the value alone."""
    theirs, ours = both(postfix, relay, "change by another spelling")
    assert b"\nSUBJECT: v\n" in theirs.content
    assert ours.content == theirs.content.replace(b"\nSUBJECT: v\n", b"\nSubject: v\n")


def test_a_long_value_is_folded(postfix: PostfixUpstream, relay: Relay) -> None:
    """smfi_addheader: "each line of the header ... should be under 998 characters ... make them multi-line": that is the filter's duty, so the rule's engine does it."""
    theirs, ours = both(postfix, relay, "a long value")
    assert b"\nX-Long: word" in ours.content
    assert ours.content != theirs.content
    assert re.sub(rb"\n(?=[ \t])", b"", ours.content) == re.sub(rb"\n(?=[ \t])", b"", theirs.content)


def test_a_new_body_is_what_its_fields_say(postfix: PostfixUpstream, relay: Relay) -> None:
    """smfi_replacebody changes no field: what the body is the filter has to say. A rule's text is encoded so that any server takes it, and the fields say how."""
    theirs, ours = both(postfix, relay, "a body that was none")
    assert theirs.content.endswith(b"Content-Transfer-Encoding: 7bit\n\ngr\xc3\xbc\xc3\x9fe\n")
    assert ours.content.isascii()
    assert message_from_bytes(ours.content, policy=default).get_content().splitlines() == ["grüße"]
    assert ours.content.partition(b"Content-")[0] == theirs.content.partition(b"Content-")[0]
