"""What a recording means to a server in its place: its answers, how long they took, how it ended, and what no server could say."""

from __future__ import annotations

import pytest

from relayproxy.record.dialog import parse
from relayproxy.replay.recorded import LONGEST, Answer, RecordedSession, recorded_of
from relayproxy.replay.script import ScriptError, script_of

GREETED = ("C< 220 mx.test", "C> EHLO app-1", "C< 250 mx.test")
ENVELOPE = ("C> MAIL FROM:<a@x.test>", "C< 250 2.1.0 ok", "C> RCPT TO:<b@x.test>", "C< 250 2.1.5 ok")


def read(*lines: str) -> RecordedSession:
    return recorded_of(script_of(parse("\n".join(["relayproxy dialog 1", *lines, ""]))[0], needs_messages=False))


def code(answer: Answer | None) -> int | None:
    return None if answer is None or answer.reply is None else answer.reply.code


def test_a_session_and_its_transactions() -> None:
    session = read(
        "@ session 01J listener=submission",
        *GREETED,
        "C> NOOP",
        "C< 250 ok",
        "C> VRFY jane",
        "C< 550 5.1.1 nobody",
        *ENVELOPE,
        "C> RCPT TO:<Joe@X.TEST.>",
        "C< 550 5.1.1 nobody",
        "C> DATA",
        "C< 354 go",
        "C> |hi",
        "C> |.",
        "C< 250 2.0.0 taken",
        *ENVELOPE,
        "C> RSET",
        "C< 250 reset",
        "C> QUIT",
        "C< 221 bye",
    )
    assert (session.id, code(session.greeting), [code(one) for one in session.hellos]) == ("01J", 220, [250])
    assert {key: [code(one) for one in answers] for key, answers in session.asked.items()} == {
        ("NOOP", b""): [250],
        ("VRFY", b"jane"): [550],
        ("VRFY", b""): [550],
    }
    first, second = session.transactions
    assert first.said == "MAIL FROM:<a@x.test> RCPT TO:<b@x.test> RCPT TO:<Joe@x.test>"
    assert [[code(answer) for answer in one.answers] for one in first.recipients.values()] == [[250], [550]]
    assert (
        [code(one) for one in first.answers("DATA", *first.recipients)],
        code(first.verdict),
        first.takes_message,
    ) == ([354], 250, True)
    assert (second.data, code(second.verdict), code(second.reset)) == ({}, None, 250)


def test_what_a_relay_says_by_itself_is_no_transaction() -> None:
    session = read(
        "C< 220 mx.test",
        "C> MAIL FROM:<early@x.test>",
        "C< 503 5.5.1 Bad sequence of commands",
        "C> RCPT TO:<b@x.test>",
        "C< 503 5.5.1 Bad sequence of commands",
        *GREETED[1:],
        *ENVELOPE,
        "C> MAIL FROM:<nested@x.test>",
        "C< 503 5.5.1 Bad sequence of commands",
        "C> EHLO again",
        "C< 250 mx.test",
        "C> MAIL FROM:<a@x.test> X=1",
        "C< 555 5.5.4 Parameter not recognized or not offered",
    )
    assert [one.said for one in session.transactions] == [
        "MAIL FROM:<a@x.test> RCPT TO:<b@x.test>",
        "MAIL FROM:<a@x.test>",
    ]
    assert [one.unasked for one in session.transactions] == [False, True]


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        (("C> BDAT 2 LAST", "& C> |hi\\", "C< 250 taken"), ([354], 250)),
        (("C> BDAT 1", "& C> |h\\", "C< 250 ok", "C> BDAT 1 LAST", "& C> |i\\", "C< 554 no"), ([354], 554)),
        (("C> BDAT 2 LAST", "& C> |hi\\", "C< 451 not now"), ([451], 451)),
        (("C> BDAT 5 LAST", "& C> |hi\\", "C close"), ([354], None)),
        (("C> DATA", "C< 354 go", "C> |hi\\", "C close"), ([354], None)),
        (("C> DATA", "C< 451 not now", "C> DATA", "C< 354 go", "C> |.", "C< 250 taken"), ([451, 354], 250)),
        (("C> DATA", "C close"), ([354], None)),  # it did not hear
        (("C> DATA", "C< 354 go", "C> |.", "C close"), ([354], 250)),
    ],
)
def test_messages(lines: tuple[str, ...], replies: tuple[list[int], int | None]) -> None:
    (transaction,) = read(*GREETED, *ENVELOPE, *lines).transactions
    assert (
        [code(one) for one in transaction.answers("DATA", *transaction.recipients)],
        code(transaction.verdict),
    ) == replies


@pytest.mark.parametrize(
    "lines",
    [
        ("C> DATA", "C< 354 go", "@ unkept C> 1234", "C< 250 taken"),
        ("C> DATA", "C< 354 go", "@ redacted C> 1234", "C> |Subject: x", "C< 250 taken"),
        ("C> DATA", "C< 354 go", "@ redacted C> 1234", "C> |Subject: x", "C> |.", "C< 250 taken"),
        ("C> DATA", "C< 354 go", "C> |Subject: x", "@ unkept C> 1234", "C> QUIT", "C< 250 taken", "C< 221 bye"),
        ("C> BDAT 9", "@ unkept C> 9", "C< 250 ok", "C> BDAT 0 LAST", "C< 250 taken"),
        ("C> BDAT 9 LAST", "@ redacted C> 9", "C> |Subject: x and more than there was", "C< 250 taken"),
    ],
)
def test_a_message_that_was_not_kept_is_answered_as_it_was(lines: tuple[str, ...]) -> None:
    first, second = read(*GREETED, *ENVELOPE, *lines, *GREETED[1:], *ENVELOPE).transactions
    assert (first.takes_message, code(first.verdict), second.takes_message) == (True, 250, False)


def test_how_long_replies_took() -> None:
    session = read(
        "+1.000 C open 10.0.0.5:1",
        "+1.250 C< 220 mx.test",
        "+2.000 C> EHLO app-1",
        "+2.500 C< 250 mx.test",
        "+3.000 C> MAIL FROM:<a@x.test>",
        "+3.125 C< 250 ok",
        "+4.000 C> RCPT TO:<b@x.test>",
        "     & C> DATA",
        "+4.500 C< 250 ok",
        "     & C< 354 go",
        "+5.000 C> |hi",
        "+6.000 C> |.",
        "+9999.000 C< 250 taken",
    )
    (one,) = session.transactions
    assert session.hellos[0].latency == 0.5
    assert [
        answer.latency
        for answer in (
            *one.sender.answers,
            *next(iter(one.recipients.values())).answers,
            *one.answers("DATA", *one.recipients),
        )
    ] == [
        0.125,
        0.5,
        0.5,
    ]
    assert one.verdict is not None
    assert one.verdict.latency == LONGEST


@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        (("C> NOOP", "C close by us"), (None, "close")),
        (("C> NOOP", "C reset by us"), (None, "reset")),
        (("C> NOOP", "C eof by us", "C eof", "C close by us"), (None, "close")),
        (("C> NOOP", "C< 250 ok", "C close by us"), (250, "close")),
        (("C> NOOP", "C< 421 bye", "C close by us"), (421, None)),
        (("C> NOOP", "C< 250 ok", "C< 421 idle", "C close by us"), (250, None)),
        (("C> NOOP", "C< 250 ok", "C close"), (250, None)),
        (("C> NOOP", "C< 250 ok", "C eof", "C close by us"), (250, None)),
        (("C> NOOP", "C< 250 ok", "C> QUIT", "C< 221 bye", "C close by us"), (250, None)),
    ],
)
def test_how_the_server_ended_it(lines: tuple[str, ...], ends: tuple[int | None, str | None]) -> None:
    (answer,) = read(*GREETED, *lines).asked["NOOP", b""]
    assert (code(answer), answer.ends) == ends


def test_a_421_to_what_no_server_is_asked_is_for_whatever_comes_then() -> None:
    (answer,) = read(*GREETED, "C> NOOP", "C< 250 ok", "C> RSET", "C< 421 gone", "C> NOOP").asked["NOOP", b""]
    assert answer.then is not None
    assert (answer.then.code, answer.between) == (421, 0)


def test_nor_are_recipients_of_a_refused_mail_and_those_answered_before_count() -> None:
    refused = ("C> MAIL FROM:<a@x.test>", "C< 553 no", "C> RCPT TO:<b@x.test>", "C< 503 MAIL")
    (transaction,) = read(*GREETED, *refused, "C> DATA", "C< 421 gone").transactions
    (answer,) = transaction.sender.answers
    assert answer.then is not None
    assert (answer.then.code, answer.between) == (421, 1)


def test_logins_without_what_was_said_in_them() -> None:
    session = read(
        *GREETED,
        "C> AUTH FOO <redacted 3>",
        "C< 504 not offered",
        "C> AUTH login",
        "C< 334 VXNlcm5hbWU6",
        "C> <redacted 8>",
        "C< 334 UGFzc3dvcmQ6",
        "C> <redacted 8>",
        "C< 535 5.7.8 no",
        "C> AUTH PLAIN <redacted 20>",
        "C< 235 2.7.0 welcome",
    )
    assert [(mechanism, code(answer)) for mechanism, answer in session.logins] == [(b"LOGIN", 535), (b"PLAIN", 235)]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("C< 354 mx.test",), "its client heard 354 to the connection, where a server says 2yz, 4yz, 5yz"),
        ((*GREETED, *ENVELOPE, "C> DATA", "C< 250 ok"), "heard 250 to DATA, where a server says 3yz, 4yz, 5yz"),
        ((*GREETED, "C> MAIL FROM:<a@x.test>", "C< 334 ok"), "heard 334 to MAIL FROM:<a@x.test>"),
        ((*GREETED, "C> AUTH PLAIN <redacted 8>", "C< 354 go"), "heard 354 to AUTH, where a server says 2yz, 4yz, 5yz"),
        ((*GREETED, "C> NOOP", *[f"C< 250-{'x' * 2000}"] * 40, "C< 250 ok"), "heard more than 65536 octets to NOOP"),
    ],
)
def test_what_no_server_could_say(lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(ScriptError) as raised:
        read(*lines)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("written", "address", "fits"),
    [
        ("*@*", "jane@x.test", True),
        ("j@*", "j@sub.x.test", True),
        ("j@*", "k@x.test", False),
        ("*@*.TEST", "jane@x.test", True),
        ("*@*.test", "jane@x.example", False),
    ],
)
def test_a_star_stands_for_anything_in_a_domain_too(written: str, address: str, fits: bool) -> None:
    said = f"C> MAIL FROM:<{written}> SIZE=1", "C< 250 ok", f"C> RCPT TO:<{written}>", "C< 550 5.1.1 no"
    (one,) = read(*GREETED, *said).transactions
    assert (one.sender.is_for(address), one.recipient(address) is not None) == (fits, fits)


def test_only_in_an_address() -> None:
    script = script_of(
        parse("\n".join(["relayproxy dialog 1", *GREETED, "C> R*T", "C< 500 what?", ""]))[0], needs_messages=False
    )
    assert [(one.line, one.reply.code if one.reply else None) for one in script.left_out] == [("R*T", 500)]
