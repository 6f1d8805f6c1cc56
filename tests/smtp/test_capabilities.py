"""What servers offer and what we offer in front of them: RFC 5321 §4.1.1.1, RFC 1870 §4, RFC 6531 §3.5; PROTOCOL §1.4."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities, check
from relayproxy.smtp.commands import Rset, parse_command
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.replies import Reply


def parse(*lines: bytes) -> Capabilities:
    return Capabilities.parse(Reply(250, (b"mx.example.com says hello", *lines)))


@pytest.mark.parametrize(
    ("lines", "keywords"),
    [
        ([], {}),
        ([b"PIPELINING"], {b"PIPELINING": b""}),
        ([b"pipelining "], {b"PIPELINING": b""}),
        ([b"SIZE 1000"], {b"SIZE": b"1000"}),
        ([b"SIZE  1000 "], {b"SIZE": b"1000"}),
        ([b"SIZE 1", b"size 2"], {b"SIZE": b"1"}),
        ([b"LIMITS RCPTMAX=20  MAILMAX=5"], {b"LIMITS": b"RCPTMAX=20 MAILMAX=5"}),
        ([b"AUTH PLAIN LOGIN"], {b"AUTH": b"PLAIN LOGIN"}),
        ([b"AUTH=LOGIN plain"], {b"AUTH": b"LOGIN PLAIN"}),
        ([b"AUTH PLAIN LOGIN", b"AUTH=LOGIN PLAIN XOAUTH2"], {b"AUTH": b"PLAIN LOGIN XOAUTH2"}),
        ([b"AUTH="], {b"AUTH": b""}),
        ([b"X-EXPS=LOGIN", b"SIZE=5", b"DSN"], {b"DSN": b""}),
        # what breaks the grammar is skipped, the rest counts
        ([b"", b" DSN", b"-X", b"8BIT\xfc", b"SIZE 1\x00", b"X\tY", b"XX \xc3\xbc", b"DSN"], {b"DSN": b""}),
        ([b"X%d" % n for n in range(150)], {b"X%d" % n: b"" for n in range(150)}),
    ],
)
def test_an_ehlo_reply_lists_keywords(lines: list[bytes], keywords: dict[bytes, bytes]) -> None:
    capabilities = parse(*lines)
    assert capabilities.keywords == keywords
    assert all(keyword in capabilities for keyword in keywords)
    assert b"CHUNKING" not in capabilities


def test_the_first_line_is_the_name_of_the_server() -> None:
    assert b"PIPELINING" not in Capabilities.parse(Reply(250, (b"PIPELINING",)))
    assert Capabilities.parse(Reply(250)) == Capabilities()


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"DSN", None),
        (b"SIZE", None),
        (b"SIZE 0", None),
        (b"SIZE 000", None),
        (b"SIZE x", None),
        (b"SIZE 1_0", None),
        (b"SIZE " + b"9" * 21, None),
        (b"SIZE 1 2", None),
        (b"SIZE 52428800", 52428800),
    ],
)
def test_a_size_that_says_nothing_is_no_limit(line: bytes, size: int | None) -> None:
    assert parse(line).size == size


EVERYTHING = (
    b"SIZE 5000", b"PIPELINING", b"PIPE_CONNECT", b"X_PIPE_CONNECT", b"8BITMIME", b"SMTPUTF8", b"DSN", b"ENHANCEDSTATUSCODES", b"CHUNKING", b"BINARYMIME", b"STARTTLS", b"AUTH PLAIN", b"VRFY", b"ETRN",
    b"EXPN", b"TURN", b"ATRN", b"HELP", b"XCLIENT NAME ADDR", b"XFORWARD NAME", b"LIMITS RCPTMAX=5", b"REQUIRETLS", b"DELIVERBY", b"MT-PRIORITY", b"FUTURERELEASE 1 2", b"RRVS", b"BURL imap", b"PRDR",
    b"NO-SOLICITING", b"CHECKPOINT", b"X-ANONYMOUSTLS",
)  # fmt: skip


@pytest.mark.parametrize(
    ("upstream", "message_bytes", "margin", "lines"),
    [
        ((), 1000, 300, (b"PIPELINING", b"SIZE 1000", b"CHUNKING")),
        ((b"SIZE",), 1000, 300, (b"PIPELINING", b"SIZE 1000", b"CHUNKING")),
        ((b"SIZE 0",), 1000, 300, (b"PIPELINING", b"SIZE 1000", b"CHUNKING")),
        ((b"SIZE 9000",), 1000, 300, (b"PIPELINING", b"SIZE 1000", b"CHUNKING")),
        ((b"SIZE 900",), 1000, 300, (b"PIPELINING", b"SIZE 600", b"CHUNKING")),
        # 0 would say that there is no limit (RFC 1870 §4)
        ((b"SIZE 300",), 1000, 300, (b"PIPELINING", b"SIZE 1", b"CHUNKING")),
        ((b"SIZE 100",), 1000, 300, (b"PIPELINING", b"SIZE 1", b"CHUNKING")),
        ((b"8BITMIME",), 9, 0, (b"PIPELINING", b"SIZE 9", b"8BITMIME", b"CHUNKING")),
        ((b"SMTPUTF8",), 9, 0, (b"PIPELINING", b"SIZE 9", b"CHUNKING")),
        ((b"SMTPUTF8", b"8bitmime"), 9, 0, (b"PIPELINING", b"SIZE 9", b"8BITMIME", b"SMTPUTF8", b"CHUNKING")),
        ((b"DSN",), 9, 0, (b"PIPELINING", b"SIZE 9", b"DSN", b"CHUNKING")),
        (
            EVERYTHING,
            9999,
            100,
            (b"PIPELINING", b"SIZE 4900", b"ENHANCEDSTATUSCODES", b"8BITMIME", b"SMTPUTF8", b"DSN", b"CHUNKING"),
        ),
        (
            EVERYTHING[::-1],
            9999,
            100,
            (b"PIPELINING", b"SIZE 4900", b"ENHANCEDSTATUSCODES", b"8BITMIME", b"SMTPUTF8", b"DSN", b"CHUNKING"),
        ),
    ],
)
def test_clients_are_offered_what_we_understand_and_upstream_has(
    upstream: tuple[bytes, ...], message_bytes: int, margin: int, lines: tuple[bytes, ...]
) -> None:
    offered = parse(*upstream).offer(message_bytes=message_bytes, margin=margin)
    reply = offered.to_reply(b"relay.example.test")
    assert reply == Reply(250, (b"relay.example.test", *lines), "proxy")
    assert Capabilities.parse(reply) == offered


def test_starttls_is_ours_whatever_upstream_has() -> None:
    for upstream in (parse(), parse(b"STARTTLS")):
        assert b"STARTTLS" not in upstream.offer(message_bytes=1, margin=0)
        assert b"STARTTLS" in upstream.offer(message_bytes=1, margin=0, starttls=True)


@pytest.mark.parametrize("name", [b"", b"a b", b"a\r\n250 x", b"a\x1b"])
def test_no_line_is_smuggled_into_the_reply(name: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        Capabilities().to_reply(name)


@pytest.mark.parametrize(
    ("mine", "theirs", "covered"),
    [
        ((), (), True),
        ((), (b"DSN",), True),
        ((), (b"SIZE 5",), True),
        ((b"DSN",), (), False),
        ((b"SIZE 5", b"DSN"), (b"SIZE 5", b"DSN", b"8BITMIME"), True),
        ((b"SIZE 5",), (b"SIZE 6",), True),
        ((b"SIZE 6",), (b"SIZE 5",), False),
        ((b"SIZE 6",), (b"SIZE",), True),
        ((b"SIZE",), (b"SIZE 6",), False),
        ((b"SIZE 6",), (), False),
    ],
)
def test_another_server_serves_only_if_it_has_all_that_was_offered(
    mine: tuple[bytes, ...], theirs: tuple[bytes, ...], covered: bool
) -> None:
    assert parse(*mine).covered_by(parse(*theirs)) is covered


ALL = parse(*EVERYTHING).offer(message_bytes=5000, margin=0)
NONE = Capabilities()
PLAIN = parse(b"8BITMIME", b"DSN").offer(message_bytes=5000, margin=0)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (b"MAIL FROM:<a@x>", NONE),
        (b"MAIL FROM:<>", NONE),
        (b"RCPT TO:<b@y>", NONE),
        (b"VRFY b", NONE),
        (b"NOOP", NONE),
        (b"MAIL FROM:<a@x> SIZE=1", PLAIN),
        (b"MAIL FROM:<a@x> size=1 body=8bitmime RET=FULL EnvId=x", PLAIN),
        (b"RCPT TO:<b@y> NOTIFY=NEVER orcpt=rfc822;b@y", PLAIN),
        ("MAIL FROM:<ü@x> SMTPUTF8".encode(), ALL),
        ("RCPT TO:<ü@y> ORCPT=utf-8;ü@y".encode(), ALL),
        ("VRFY ü".encode(), ALL),
    ],
)
def test_what_was_offered_may_be_used(line: bytes, offered: Capabilities) -> None:
    check(parse_command(line), offered)


@pytest.mark.parametrize(
    ("line", "offered", "reply"),
    [
        (b"MAIL FROM:<a@x> SIZE=1", NONE, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> BODY=8BITMIME", NONE, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> RET=FULL", NONE, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> ENVID=x", NONE, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> SMTPUTF8", PLAIN, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> AUTH=<>", ALL, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> REQUIRETLS", ALL, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> NOTIFY=NEVER", ALL, local_replies.UNKNOWN_PARAMETER),
        (b"MAIL FROM:<a@x> PIPELINING", ALL, local_replies.UNKNOWN_PARAMETER),
        (b"RCPT TO:<b@y> NOTIFY=NEVER", NONE, local_replies.UNKNOWN_PARAMETER),
        (b"RCPT TO:<b@y> SIZE=1", ALL, local_replies.UNKNOWN_PARAMETER),
        ("RCPT TO:<b@y> ORCPT=utf-8;ü@y".encode(), PLAIN, local_replies.PARAMETER_SYNTAX),
        ("MAIL FROM:<ü@x>".encode(), ALL, local_replies.UTF8_SENDER_REFUSED),
        ("MAIL FROM:<a@é> SIZE=1".encode(), ALL, local_replies.UTF8_SENDER_REFUSED),
        ("MAIL FROM:<ü@x>".encode(), NONE, local_replies.UTF8_SENDER_REFUSED),
        ("RCPT TO:<ü@y>".encode(), NONE, local_replies.UTF8_RECIPIENT_REFUSED),
        ("RCPT TO:<b@é> NOTIFY=NEVER".encode(), PLAIN, local_replies.UTF8_RECIPIENT_REFUSED),
        ("VRFY ü".encode(), PLAIN, local_replies.UTF8_RECIPIENT_REFUSED),
    ],
)
def test_what_was_not_offered_is_refused(line: bytes, offered: Capabilities, reply: Reply) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        check(parse_command(line), offered)
    assert error.value.reply is reply
    assert not error.value.fatal


def test_a_recipient_may_be_utf8_only_where_mail_said_so() -> None:
    command = parse_command("RCPT TO:<ü@y>".encode())
    check(command, ALL, smtputf8=True)
    with pytest.raises(RemoteProtocolError) as error:
        check(command, ALL, smtputf8=False)
    assert error.value.reply is local_replies.UTF8_RECIPIENT_REFUSED


def test_other_commands_need_no_extension() -> None:
    check(Rset(), NONE)


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 10**9), st.integers(0, 1000))
def test_whatever_upstream_says_the_offer_is_ours(lines: list[bytes], message_bytes: int, margin: int) -> None:
    offered = parse(*lines).offer(message_bytes=message_bytes, margin=margin)
    assert offered.keywords.keys() <= {
        b"PIPELINING",
        b"SIZE",
        b"8BITMIME",
        b"SMTPUTF8",
        b"DSN",
        b"ENHANCEDSTATUSCODES",
        b"CHUNKING",
    }
    assert offered.size is not None
    assert 1 <= offered.size <= message_bytes
    assert Capabilities.parse(offered.to_reply(b"relay.test")) == offered
