"""The page of local replies keeps the rules that hold for all of them: RFC 2034 §4, RFC 3463, RFC 5321 §4.2."""

import ast
import re
from pathlib import Path

import pytest

import relayproxy
from relayproxy.smtp import local_replies
from relayproxy.smtp.replies import Reply

REPLIES = {name: reply for name, reply in vars(local_replies).items() if isinstance(reply, Reply)}

WITHOUT_ENHANCED = {"START_MAIL"}
BY_RULES = {"NO_VALID_ADDRESS"}


@pytest.mark.parametrize("name", REPLIES)
def test_every_reply_is_one_line_that_says_whose_it_is(name: str) -> None:
    reply = REPLIES[name]
    assert reply.origin == ("rule" if name in BY_RULES else "proxy")
    (line,) = reply.lines
    assert re.fullmatch(rb"[ -~]+", line)
    assert len(line) + 6 <= 512


@pytest.mark.parametrize("name", sorted(REPLIES.keys() - WITHOUT_ENHANCED))
def test_the_class_of_the_enhanced_code_is_the_first_digit(name: str) -> None:
    reply = REPLIES[name]
    assert re.match(rb"%d\.[0-9]\.[0-9]{1,2} \S" % (reply.code // 100), reply.lines[0])


def test_every_reply_is_given_somewhere() -> None:
    """What no code gives is a promise that nobody keeps."""
    given: set[str] = set()
    for path in Path(relayproxy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Attribute(value=ast.Name(id="local_replies"), attr=name):
                    given.add(name)
                case ast.ImportFrom(module="relayproxy.smtp.local_replies", names=names):
                    given |= {alias.name for alias in names}
    assert {*REPLIES, "greeting", "hello", "captured"} - given == set()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (local_replies.greeting(b"relay.example.test"), Reply(220, (b"relay.example.test ESMTP relayproxy",), "proxy")),
        (local_replies.hello(b"relay.example.test"), Reply(250, (b"relay.example.test",), "proxy")),
        (local_replies.captured("01J0"), Reply(250, (b"2.0.0 Captured as 01J0",), "proxy")),
        (local_replies.START_MAIL, Reply(354, (b"Start mail input; end with <CRLF>.<CRLF>",), "proxy")),
    ],
)
def test_those_with_a_name_in_them(reply: Reply, expected: Reply) -> None:
    assert reply == expected


# Whom it strikes decides the first digit (PROTOCOL I8): a fault of ours or of upstream's never bounces a message.
@pytest.mark.parametrize(
    ("code", "enhanced", "names"),
    [
        (421, b"4.3.2", "SHUTTING_DOWN TOO_MANY_SESSIONS"),
        (421, b"4.3.0", "INTERNAL_ERROR"),
        (421, b"4.3.5", "IDENTITY_NOT_TAKEN"),
        (421, b"4.4.1", "UPSTREAM_UNREACHABLE"),
        (421, b"4.4.2", "UPSTREAM_SLOW UPSTREAM_GONE CLIENT_IDLE"),
        (421, b"4.4.3", "UPSTREAM_UNRESOLVED"),
        (421, b"4.7.0", "TOO_MANY_ERRORS TOO_MUCH_JUNK TOO_MANY_MESSAGES NOT_SMTP LINE_WITHOUT_END"),
        (421, b"4.7.4", "UPSTREAM_WITHOUT_TLS"),
        (421, b"4.7.5", "UPSTREAM_TLS_FAILED"),
        (451, b"4.4.2", "UPSTREAM_LOST"),
        (451, b"4.5.0", "UPSTREAM_VIOLATION"),
        (451, b"4.3.0", "RECORD_FAILED RULE_FAILED"),
        (452, b"4.3.1", "DISK_FULL"),
        (452, b"4.5.3", "TOO_MANY_RECIPIENTS"),
        (500, b"5.5.2", "LINE_TOO_LONG UNKNOWN_COMMAND"),
        (501, b"5.5.2", "SYNTAX_ERROR"),
        (501, b"5.5.4", "PARAMETER_SYNTAX"),
        (502, b"5.5.1", "NOT_IMPLEMENTED"),
        (503, b"5.5.1", "BAD_SEQUENCE"),
        (530, b"5.7.0", "TLS_REQUIRED"),
        (550, b"5.1.3", "NO_VALID_ADDRESS"),
        (550, b"5.6.7", "UTF8_SENDER_REFUSED"),
        (552, b"5.3.4", "MESSAGE_TOO_BIG LINE_OVER_LIMIT HEADER_OVER_LIMIT"),
        (553, b"5.6.7", "UTF8_RECIPIENT_REFUSED"),
        (554, b"5.4.6", "LOOP TOO_MANY_HOPS"),
        (554, b"5.5.0", "SYNC_VIOLATION"),
        (554, b"5.5.1", "NO_RECIPIENTS"),
        (554, b"5.6.0", "BAD_LINE_ENDINGS NUL_IN_MESSAGE BAD_HEADER_START"),
        (554, b"5.6.3", "EIGHT_BIT_REFUSED"),
        (554, b"5.7.1", "NOT_WELCOME"),
        (555, b"5.5.4", "UNKNOWN_PARAMETER"),
    ],
)
def test_codes_are_those_of_the_protocol(code: int, enhanced: bytes, names: str) -> None:
    for name in names.split():
        reply = REPLIES[name]
        assert (reply.code, reply.lines[0].split()[0]) == (code, enhanced)
