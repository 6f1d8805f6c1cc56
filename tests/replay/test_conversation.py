"""Which recorded answer is whose: by sender and recipients, in the order of the recording, once; and what becomes of what is not recorded."""

from __future__ import annotations

import time
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayproxy.record.dialog import parse
from relayproxy.replay.cassette import MOST_REMEMBERED, Cassette, Unexpected
from relayproxy.replay.conversation import Conversation, converse
from relayproxy.replay.recorded import Answer, recorded_of
from relayproxy.replay.script import script_of
from relayproxy.smtp.commands import Mail, Rcpt, Vrfy, parse_command

GREETED: Final = ("C< 220 mx.test", "C> EHLO app-1", "C< 250 mx.test")
BYE: Final = ("C> QUIT", "C< 221 bye")


def sent(sender: str, *recipients: str, text: str = "250 2.0.0 taken") -> list[str]:
    """A message, whose recipients are said as `address` or `address=reply`."""
    lines = [f"C> MAIL FROM:<{sender}>", "C< 250 2.1.0 ok"]
    for recipient in recipients:
        address, _, reply = recipient.partition("=")
        lines += [f"C> RCPT TO:<{address}>", f"C< {reply or '250 2.1.5 ok'}"]
    return [*lines, "C> DATA", "C< 354 go", "C> |.", f"C< {text}"]


def tried(sender: str, *recipients: str) -> list[str]:
    """An envelope, and no message."""
    return sent(sender, *recipients)[:-4]


def session(id_: str, *parts: list[str], greeting: tuple[str, ...] = GREETED) -> str:
    return "\n".join([f"@ session {id_}", *greeting, *[line for part in parts for line in part], *BYE])


def cassette(*sessions: str, **more: object) -> Cassette:
    parsed = parse("\n".join(["relayproxy dialog 1", *sessions, ""]))
    return Cassette([recorded_of(script_of(one)) for one in parsed], **more)  # type: ignore[arg-type]


def connect(tape: Cassette) -> Conversation:
    conversation = converse(tape)
    assert conversation is not None
    return conversation


def heard(answer: Answer | None) -> str | None:
    if answer is None:
        return None
    assert answer.reply is not None
    return f"{answer.reply.code} {answer.reply.lines[0].decode()}"


def say(conversation: Conversation, *lines: str) -> list[str | None]:
    """What is heard to commands; "." is all of a message."""
    told: list[str | None] = []
    for line in lines:
        match line:
            case "DATA":
                told.append(heard(conversation.data()))
            case ".":
                told.append(heard(conversation.verdict()))
            case "RSET":
                told.append(heard(conversation.reset()))
            case _:
                command = parse_command(line.encode())
                assert isinstance(command, Mail | Rcpt)
                told.append(
                    heard(conversation.mail(command) if isinstance(command, Mail) else conversation.rcpt(command))
                )
    return told


def send(conversation: Conversation, sender: str, *recipients: str) -> str | None:
    """The last that is heard of a message, which goes on as long as it is not refused."""
    last: str | None = None
    for line in (f"MAIL FROM:<{sender}>", *[f"RCPT TO:<{one}>" for one in recipients], "DATA", "."):
        (last,) = say(conversation, line)
        if last is None or last[0] in "45":
            conversation.reset()
            return last
    return last


A: Final = "a@x.test"
TAKEN: Final = "250 2.0.0 taken"


# What is recorded.


def test_refused_and_then_accepted() -> None:
    tape = cassette(
        session("one", tried(A, "b@x.test=451 4.7.1 later")),
        session("two", sent(A, "b@x.test", text="452 4.3.1 full")),
        session("three", sent(A, "b@x.test")),
    )
    assert [send(connect(tape), A, "b@x.test") for _ in range(3)] == ["451 4.7.1 later", "452 4.3.1 full", TAKEN]
    assert (tape.used_up, [*tape.unused], tape.failed(strict=True)) == (True, [], False)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (["b", "DATA", "c", "DATA", "."], ["452 4.3.1 full", "250 2.1.5 ok", "354 go", TAKEN]),
        (["b", "DATA", "DATA", "c", "DATA", "."], ["452 4.3.1 full", "452 4.3.1 full", "250 2.1.5 ok", "354 go", TAKEN]),
        (["c", "b", "DATA", "."], ["250 2.1.5 ok", "354 go", TAKEN]),
        (["c", "DATA"], ["554 5.5.0 Not in the recording; nearest to it: MAIL FROM:<a@x.test> RCPT TO:<b@x.test> RCPT TO:<c@x.test>"]),
    ],
)  # fmt: skip
def test_data_is_answered_by_who_was_named_by_then(said: list[str], heard: list[str]) -> None:
    refused = [*tried(A, "b@x.test"), "C> DATA", "C< 452 4.3.1 full"]
    tape = cassette(session("one", refused, sent(A, "c@x.test")[2:]))
    lines = [one if one in ("DATA", ".") else f"RCPT TO:<{one}@x.test>" for one in said]
    assert say(connect(tape), f"MAIL FROM:<{A}>", *lines)[2:] == heard
    assert tape.failed(strict=True) == (heard[-1] != TAKEN)


def test_addresses_are_told_as_they_were_said() -> None:
    tape = cassette(session("one", sent('"A"@X.test', "jürgen@Bücher.test", "Joe@Y.test")))
    one = connect(tape)
    assert say(one, "MAIL FROM:<A@x.TEST>", 'RCPT TO:<"jürgen"@BÜCHER.test>')[-1] == "250 2.1.5 ok", "they are the same"
    say(one, "RCPT TO:<Jane@Y.Test>")
    (unexpected,) = tape.unexpected
    written = 'MAIL FROM:<"A"@X.test> RCPT TO:<jürgen@Bücher.test> RCPT TO:<Joe@Y.test>'
    assert unexpected.said == 'MAIL FROM:<A@x.TEST> RCPT TO:<"jürgen"@BÜCHER.test> RCPT TO:<Jane@Y.Test>'
    assert (unexpected.nearest, [*tape.unused]) == (written, [f"one: {written}"])
    assert send(one, "A@x.test", "jürgen@bücher.test", "Joe@y.test") == TAKEN
    say(one, "MAIL FROM:<A@x.test>")
    assert (tape.unexpected[-1].nearest or "").startswith(f"{written}, 1 time, ")


def test_it_is_found_whatever_comes_in_between_and_in_whatever_order() -> None:
    tape = cassette(
        session("one", sent(A, "b@x.test", text="250 1")), session("two", sent("c@x.test", "d@x.test", text="250 2"))
    )
    assert send(connect(tape), "c@x.test", "d@x.test") == "250 2"
    assert send(connect(tape), A, "b@x.test") == "250 1"
    assert tape.used_up


def test_by_all_recipients_in_any_order() -> None:
    tape = cassette(
        session(
            "one",
            sent(A, "b@x.test", text="250 1"),
            sent(A, "b@x.test", "c@x.test", text="250 2"),
            sent(A, "c@x.test", text="250 3"),
        )
    )
    one = connect(tape)
    assert send(one, A, "c@X.TEST", "b@x.test.") == "250 2"
    assert send(one, A, "c@x.test") == "250 3"
    assert send(one, A, "b@x.test") == "250 1"


def test_a_client_that_shares_a_connection() -> None:
    tape = cassette(*[session(str(number), sent(A, "b@x.test", text=f"250 {number}")) for number in range(3)])
    one = connect(tape)
    assert [send(one, A, "b@x.test") for _ in range(3)] == ["250 0", "250 1", "250 2"]
    assert tape.used_up


def test_a_client_that_connects_for_each() -> None:
    tape = cassette(session("one", *[sent(A, "b@x.test", text=f"250 {number}") for number in range(3)]))
    assert [send(connect(tape), A, "b@x.test") for _ in range(3)] == ["250 0", "250 1", "250 2"]
    assert tape.used_up


def test_connections_at_once_have_one_each() -> None:
    """Both begin alike: whose it is shows later, and neither may keep the other's."""
    tape = cassette(
        session("one", sent(A, "b@x.test", text="250 1")), session("two", sent(A, "c@x.test", text="250 2"))
    )
    one, two = connect(tape), connect(tape)
    say(one, "MAIL FROM:<a@x.test>")
    say(two, "MAIL FROM:<a@x.test>")
    assert say(one, "RCPT TO:<c@x.test>", "DATA", ".")[-1] == "250 2"
    assert say(two, "RCPT TO:<b@x.test>", "DATA", ".")[-1] == "250 1"
    assert (tape.used_up, tape.count_unexpected) == (True, 0)


def test_of_two_that_are_alike_each_is_played_once() -> None:
    tape = cassette(session("one", sent(A, "b@x.test", text="250 1"), sent(A, "b@x.test", text="250 2")))
    one, two, three = connect(tape), connect(tape), connect(tape)
    envelope = "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA"
    say(one, *envelope)
    say(two, *envelope)
    assert say(three, "MAIL FROM:<a@x.test>")[0] != "250 2.1.0 ok"
    assert say(two, ".") + say(one, ".") == ["250 2", "250 1"]


B_AND_C: Final = session("A", sent(A, "b@x.test", "c@x.test", text="250 A"))
NO_B: Final = session("B", tried(A, "b@x.test=550 5.1.1 no"))


def test_connections_at_once_each_hear_their_own_session() -> None:
    tape = cassette(B_AND_C, NO_B)
    first, second = connect(tape), connect(tape)
    assert say(second, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>")[1] == "550 5.1.1 no"
    assert say(first, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>")[1] == "250 2.1.5 ok"
    second.close()
    assert say(first, "RCPT TO:<c@x.test>", "DATA", ".") == ["250 2.1.5 ok", "354 go", "250 A"]
    assert (tape.used_up, tape.count_unexpected) == (True, 0)


def test_what_is_a_connection_s_own_is_its_only_as_long_as_it_is_there() -> None:
    tape = cassette(session("A", tried(A, "b@x.test=451 4.7.1 later")), session("B", sent(A, "b@x.test", "c@x.test")))
    first, second = connect(tape), connect(tape)
    first.close()
    first.close()
    assert send(second, A, "b@x.test") == "451 4.7.1 later"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_the_same_envelope_the_order_is_that_of_the_recording(order: tuple[int, int]) -> None:
    tape = cassette(session("one", tried(A, "b@x.test=451 4.7.1 later")), session("two", sent(A, "b@x.test")))
    both = connect(tape), connect(tape)
    assert [send(both[number], A, "b@x.test") for number in order] == ["451 4.7.1 later", TAKEN]


def test_what_said_otherwise_before_does_not_answer() -> None:
    """All that a client hears of a transaction is of one that was recorded."""
    tape = cassette(B_AND_C, NO_B)
    first, second = connect(tape), connect(tape)
    say(second, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>")
    refused = say(second, "RCPT TO:<c@x.test>")[0]
    assert refused is not None
    assert refused.startswith("554 5.5.0 Not in the recording")
    assert send(first, A, "b@x.test", "c@x.test") == "250 A"


REPLIES: Final = ("250 2.1.5 ok", "451 4.7.1 later", "550 5.1.1 no")
#: Of each recorded transaction the recipients, with what they were answered.
ENVELOPES: Final = st.dictionaries(st.sampled_from("bcd"), st.sampled_from(REPLIES), min_size=1)


@settings(max_examples=50)
@given(
    st.lists(ENVELOPES, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["b", "c", "d", "DATA", "RSET", "."])), max_size=30),
)
def test_what_is_heard_of_a_transaction_is_all_of_one(
    recorded: list[dict[str, str]], said: list[tuple[int, str]]
) -> None:
    sent_ = [sent(A, *[f"{who}@x.test={reply}" for who, reply in to.items()]) for to in recorded]
    tape = cassette(*[session(str(number), one) for number, one in enumerate(sent_)], otherwise="pass")
    connections = [one for _ in range(3) if (one := converse(tape)) is not None]
    heard: dict[int, dict[str, str]] = {}
    for number, what in said:
        if number >= len(connections):
            continue
        one = connections[number]
        if number not in heard and say(one, "MAIL FROM:<a@x.test>") == ["250 2.1.0 ok"]:
            heard[number] = {}
        if number not in heard:
            continue
        (reply,) = say(one, f"RCPT TO:<{what}@x.test>" if what in "bcd" else what)
        if what in ("RSET", "."):
            del heard[number]
        elif what in "bcd" and reply is not None:
            heard[number][what] = reply
            assert any(heard[number].items() <= to.items() for to in recorded)


@pytest.mark.slow
def test_many_at_once_and_many_in_turn() -> None:
    """None of them is looked for among all, and no stack holds them."""
    tape = cassette(session("one", *[sent(A, "b@x.test")] * 1200))
    began = time.process_time()
    at_once = [connect(tape) for _ in range(1200)]
    assert {say(one, "MAIL FROM:<a@x.test>")[0] for one in at_once} == {"250 2.1.0 ok"}
    assert say(connect(tape), "MAIL FROM:<a@x.test>")[0] != "250 2.1.0 ok"
    assert {say(one, "RCPT TO:<b@x.test>", "DATA", ".")[-1] for one in at_once} == {TAKEN}
    assert time.process_time() - began < 3  # a quarter of that on a slow machine


@pytest.mark.parametrize("end", [("RSET",), ()])
def test_what_never_became_a_message_is_used_by_what_does_not(end: tuple[str, ...]) -> None:
    tape = cassette(
        session("one", tried(A, "b@x.test=550 5.1.1 nobody"), ["C> RSET", "C< 250 2.0.0 flushed"], sent(A, "b@x.test"))
    )
    one = connect(tape)
    assert say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>")[-1] == "550 5.1.1 nobody"
    assert say(one, *end) == ["250 2.0.0 flushed"] * len(end)
    assert send(one, A, "b@x.test") == TAKEN
    assert tape.used_up


def test_what_is_given_up_early_waits_for_who_goes_on() -> None:
    tape = cassette(session("one", sent(A, "b@x.test")))
    one = connect(tape)
    say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RSET")
    say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    one.close()
    assert [*tape.unused] == ["one: MAIL FROM:<a@x.test> RCPT TO:<b@x.test>"]
    assert (tape.failed(strict=True), tape.failed(strict=False)) == (True, False)
    assert send(connect(tape), A, "b@x.test") == TAKEN


@pytest.mark.parametrize(("verdict", "is_used"), [("250 2.0.0 taken", False), ("554 5.6.0 odd", True), (None, True)])
def test_a_message_that_came_to_no_end(verdict: str | None, is_used: bool) -> None:
    lines = sent(A, "b@x.test", text=verdict or "")
    tape = cassette("\n".join(["@ session one", *GREETED, *(lines[:-2] if verdict is None else lines)]))
    one = connect(tape)
    say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
    one.cut_short()
    assert tape.used_up is is_used


@pytest.mark.parametrize("pipelined", [[], ["RCPT TO:<b@x.test>"], ["RCPT TO:<c@x.test>"]])
def test_a_refused_sender_whatever_was_said_behind_it(pipelined: list[str]) -> None:
    refused = ["C> MAIL FROM:<a@x.test>", "& C> RCPT TO:<b@x.test>", "C< 550 5.1.8 no", "C< 503 5.5.1 no"]
    tape = cassette(session("one", refused))
    one = connect(tape)
    heard = say(one, "MAIL FROM:<a@x.test>", *pipelined)
    assert [reply and reply[:3] for reply in heard] == ["550", *["503"] * len(pipelined)]
    one.close()
    assert (tape.used_up, tape.count_unexpected) == (True, 0)


def test_what_a_relay_refused_by_itself_need_not_come_and_may() -> None:
    too_big = ["C> MAIL FROM:<a@x.test> SIZE=9", "C< 552 5.3.4 Message too big"]
    tape = cassette(session("one", too_big, sent(A, "b@x.test")))
    one = connect(tape)
    assert send(one, A, "b@x.test") == TAKEN
    assert (tape.used_up, [*tape.unused]) == (True, [])
    assert say(one, "MAIL FROM:<a@x.test>") == ["552 5.3.4 Message too big"]


def test_the_same_recipient_twice() -> None:
    tape = cassette(session("one", sent(A, "b@x.test=451 4.7.1 later", "b@x.test")))
    one = connect(tape)
    assert say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "RCPT TO:<b@x.test>")[1:] == [
        "451 4.7.1 later",
        "250 2.1.5 ok",
    ]
    assert say(one, "DATA", ".")[-1] == TAKEN


@pytest.mark.parametrize("parameters", ["", " SIZE=77 ENVID=9", " BODY=8BITMIME RET=HDRS", " SMTPUTF8"])
def test_whatever_parameters_it_came_with(parameters: str) -> None:
    lines = sent(A, "b@x.test")
    tape = cassette(
        session("one", [f"C> MAIL FROM:<{A}> SIZE=5 SMTPUTF8", *lines[1:]]),
        session("two", [f"C> MAIL FROM:<{A}> RET=FULL", *lines[1:]]),
    )
    for _ in range(2):
        assert say(connect(tape), f"MAIL FROM:<{A}>{parameters}", "RCPT TO:<b@x.test>", "DATA", ".")[-1] == TAKEN
    assert (tape.used_up, tape.unexpected) == (True, [])


def test_a_pattern_in_a_dialog_that_was_written_by_hand() -> None:
    tape = cassette(session("one", sent("*@x.test", "jane+*@x.test")))
    assert send(connect(tape), "bounce-77@x.test", "jane+9@x.test") == TAKEN


def test_a_session_s_own_things() -> None:
    greeting = (
        "C< 220 mx.test",
        "C> EHLO app-1",
        "C< 502 5.5.1 what",
        "C> HELO app-1",
        "C< 250 mx.test",
        "C> AUTH PLAIN <redacted 8>",
        "C< 535 5.7.8 no",
        "C> AUTH PLAIN <redacted 8>",
        "C< 235 2.7.0 yes",
    )
    tape = cassette(
        session("one", ["C> VRFY jane", "C< 252 perhaps"], greeting=greeting), session("two", sent(A, "b@x.test"))
    )
    one, two = connect(tape), connect(tape)
    assert [heard(one.hello(under_tls=False)) for _ in range(2)] == ["502 5.5.1 what", "502 5.5.1 what"]
    assert [heard(one.login(b"PLAIN")) for _ in range(3)] == ["535 5.7.8 no", "235 2.7.0 yes", "235 2.7.0 yes"]
    assert heard(one.login(b"LOGIN")) == "535 5.7.8 no"
    assert heard(two.login(b"PLAIN")) == "235 2.7.0 Authentication successful"
    vrfy = Vrfy(b"joe")
    assert [heard(each.asked(vrfy)) for each in (one, two)] == [
        "252 perhaps",
        "252 2.5.0 Cannot verify the user, but will take mail for it",
    ]


def test_what_is_offered_before_tls_and_behind_it() -> None:
    greeting = (
        "C< 220 mx.test",
        "C> EHLO app-1",
        "C< 250-mx.test",
        "C< 250 STARTTLS",
        "C> STARTTLS",
        "C< 220 go",
        "C> EHLO app-1",
        "C< 250-mx.test",
        "C< 250 AUTH PLAIN",
    )
    one = connect(cassette(session("one", sent(A, "b@x.test"), greeting=greeting)))
    offered = [one.hello(under_tls=under_tls).reply for under_tls in (False, False, True, True)]
    assert [reply and reply.lines[1] for reply in offered] == [b"STARTTLS", b"STARTTLS", b"AUTH PLAIN", b"AUTH PLAIN"]


def test_who_was_turned_away_is_so_again_in_turn() -> None:
    tape = cassette("@ session one\nC< 554 5.7.1 not you\nC> QUIT\nC< 221 bye", session("two", sent(A, "b@x.test")))
    assert heard(connect(tape).greeting) == "554 5.7.1 not you"
    two = connect(tape)
    assert heard(two.greeting) == "220 mx.test"
    assert heard(connect(tape).greeting) == "220 mx.test"  # while something is left, all others come in
    send(two, A, "b@x.test")
    assert tape.used_up


# What is not recorded.


def test_what_is_refused_says_what_is_nearest() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test")))
    told: list[Unexpected] = []
    tape = cassette(session("one", sent(A, "jane@x.test")), tell=told.append)
    one = connect(tape)
    nearest = "554 5.5.0 Not in the recording; nearest to it: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>"
    assert say(one, "MAIL FROM:<b@x.test>", "RCPT TO:<jane@x.test>") == [nearest, "503 5.5.1 Bad sequence of commands"]
    assert say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<joe@x.test>") == ["250 2.1.0 ok", nearest]
    assert say(one, "DATA")[0] == nearest  # without its recipient
    assert send(one, A, "jane@x.test") == TAKEN
    assert [[*what.lines()] for what in told] == [
        [f"unexpected: {said}", "  recorded: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>"]
        for said in ("MAIL FROM:<b@x.test>", "MAIL FROM:<a@x.test> RCPT TO:<joe@x.test>")
    ]
    assert told == tape.unexpected
    assert (tape.count_unexpected, tape.failed(strict=False)) == (2, True)  # that DATA has no recipient follows of that


AGAIN: Final = "played already (--repeats, repeats=True: it answers again)"


@pytest.mark.parametrize(
    ("recorded", "said", "nearest"),
    [
        (["b@x.test"], ["b@x.test"], f"MAIL FROM:<a@x.test> RCPT TO:<b@x.test>, 1 time, and {AGAIN}"),
        (["b@x.test", "c@x.test"], ["b@x.test"], f"the same, 1 time, and {AGAIN}"),
        (["b@x.test", "b@x.test", "c@x.test"], ["b@x.test"], f"the same, 2 times, and {AGAIN}"),
        (["b@x.test", "c@x.test"], ["d@x.test"], "MAIL FROM:<a@x.test> RCPT TO:<c@x.test>"),
    ],
)
def test_what_was_played_already_is_told_so(recorded: list[str], said: list[str], nearest: str) -> None:
    tape = cassette(*[session(str(number), sent(A, one)) for number, one in enumerate(recorded)], session("s", []))
    for one in recorded:
        if one == "b@x.test":
            assert send(connect(tape), A, one) == TAKEN
    refused = send(connect(tape), A, *said)
    assert [one.nearest for one in tape.unexpected] == [nearest]
    assert refused is not None
    assert ("nothing is left of it" in refused) is (AGAIN in nearest)


def test_what_is_like_something_that_was_played_is_told_so() -> None:
    tape = cassette(session("one", sent(A, "b@x.test")), session("two", []))
    send(connect(tape), A, "b@x.test")
    say(connect(tape), "MAIL FROM:<c@x.test>")
    assert [one.nearest for one in tape.unexpected] == [f"MAIL FROM:<a@x.test> RCPT TO:<b@x.test>, {AGAIN}"]


def test_a_connection_more_is_told_what_there_was() -> None:
    tape = cassette(session("one", sent(A, "b@x.test")))
    send(connect(tape), A, "b@x.test")
    assert converse(tape) is None
    assert [one.nearest for one in tape.unexpected] == [f"1 session, {AGAIN}"]


def test_where_the_next_is_not_to_be_had_what_was_held_stays_so() -> None:
    tape = cassette(session("one", sent(A, "b@x.test", text="250 1")))
    one, two = connect(tape), connect(tape)
    assert say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<joe@x.test>")[1] != "250 2.1.5 ok"
    assert say(two, "MAIL FROM:<a@x.test>")[0] != "250 2.1.0 ok"
    assert say(one, "RCPT TO:<b@x.test>", "DATA", ".")[-1] == "250 1"


@pytest.mark.parametrize(
    ("said", "nearest"),
    [
        ("MAIL FROM:<jane.do@x.test>", "jane.doe@x.test"),
        ("MAIL FROM:<jim@x.test>", "joe@x.test"),
        ("MAIL FROM:<bounces@y.test>", "bounce@y.test"),
        ("MAIL FROM:<abcdefghi@x.test>", "abcdefXXX@x.test"),
    ],
)
def test_the_nearest_is_the_one_that_is_most_alike(said: str, nearest: str) -> None:
    senders = [*[f"{number}@z.test" for number in range(20)], "joe@x.test", "jane.doe@x.test", "bounce@y.test"]
    senders += ["ihgfedcba@x.test", "abcdefXXX@x.test"]  # the same letters, and the same beginning
    tape = cassette(*[session(one, sent(one, "b@x.test")) for one in senders])
    assert say(connect(tape), said) != ["250 2.1.0 ok"]
    assert [one.nearest for one in tape.unexpected] == [f"MAIL FROM:<{nearest}> RCPT TO:<b@x.test>"]


def test_the_nearest_is_one_that_fits_so_far() -> None:
    tape = cassette(session("one", sent("z@x.test", "joe@x.test")), session("two", sent(A, "somebody.else@y.test")))
    say(connect(tape), "MAIL FROM:<a@x.test>", "RCPT TO:<joe@x.test>")
    assert [one.nearest for one in tape.unexpected] == ["MAIL FROM:<a@x.test> RCPT TO:<somebody.else@y.test>"]


def test_the_nearest_of_those_with_many_recipients_differs_in_the_last() -> None:
    many = [f"{number:03}@x.test" for number in range(100)]
    tape = cassette(session("one", sent(A, "joe@y.test", *many)), session("two", sent(A, "jane@y.test", *many)))
    say(connect(tape), "MAIL FROM:<a@x.test>", *[f"RCPT TO:<{one}>" for one in many], "RCPT TO:<janet@y.test>")
    assert [(one.nearest or "")[:41] for one in tape.unexpected] == ["MAIL FROM:<a@x.test> RCPT TO:<jane@y.test>"[:41]]


def test_what_is_told_is_cut() -> None:
    tape = cassette(session("one", sent(A, *[f"{number:03}@x.test" for number in range(100)])))
    say(connect(tape), "MAIL FROM:<a@x.test>", *[f"RCPT TO:<{number:03}@x.test>" for number in range(50)], "DATA")
    (unexpected,) = tape.unexpected
    assert (len(unexpected.said), len(unexpected.nearest or "")) == (303, 303)


def test_of_what_is_unexpected_so_much_is_remembered_and_all_is_counted() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test")))
    one = connect(tape)
    for _ in range(MOST_REMEMBERED + 1):
        say(one, "MAIL FROM:<b@x.test>")
    assert (len(tape.unexpected), tape.count_unexpected) == (MOST_REMEMBERED, MOST_REMEMBERED + 1)


def test_one_recipient_less_is_unexpected() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test", "joe@x.test")))
    assert send(connect(tape), A, "jane@x.test") != TAKEN
    assert [one.said for one in tape.unexpected] == ["MAIL FROM:<a@x.test> RCPT TO:<jane@x.test> DATA"]


def test_a_message_where_only_an_envelope_was() -> None:
    tape = cassette(session("one", tried(A, "jane@x.test")))
    assert send(connect(tape), A, "jane@x.test") != TAKEN
    assert tape.count_unexpected == 1


def test_nobody_is_let_in_behind_the_end() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test")))
    one = connect(tape)
    send(one, A, "jane@x.test")
    assert say(one, "MAIL FROM:<a@x.test>")[0] is not None
    assert converse(tape) is None
    assert [what.said for what in tape.unexpected] == ["MAIL FROM:<a@x.test>", "a connection"]


def test_repeats() -> None:
    tape = cassette(
        session("one", sent(A, "jane@x.test", text="451 4.3.0 later")),
        session("two", sent(A, "jane@x.test")),
        repeats=True,
    )
    replies = [send(connect(tape), A, "jane@x.test") for _ in range(4)]
    assert replies == ["451 4.3.0 later", TAKEN, TAKEN, TAKEN]
    assert (tape.failed(strict=True), tape.played_sessions, tape.played_transactions) == (False, 4, 4)
    assert send(connect(tape), A, "joe@x.test") != TAKEN


def test_all_is_taken_where_that_is_asked_for() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test", text="250 recorded")), otherwise="take")
    one = connect(tape)
    welcome = "250 2.0.0 OK, although it is not in the recording"
    assert send(one, "b@x.test", "joe@x.test", "jim@x.test") == welcome
    assert send(one, A, "joe@x.test") == welcome
    assert send(one, A, "jane@x.test") == "250 recorded"
    assert send(connect(tape), A, "jane@x.test") == welcome
    assert (tape.count_unexpected, tape.failed(strict=True)) == (3, False)


def test_what_is_passed_on_is_not_told_and_leaves_all_as_it_was() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test")), otherwise="pass")
    one = connect(tape)
    assert say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<joe@x.test>") == ["250 2.1.0 ok", None]
    one.leave()
    assert say(one, "MAIL FROM:<b@x.test>") == [None]
    two = connect(tape)
    assert send(two, A, "jane@x.test") == TAKEN
    assert converse(tape) is None
    assert (tape.count_unexpected, tape.used_up) == (0, True)
    assert [one.said for one in two.played] == ["MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>"]


def test_a_message_that_came_to_no_end_is_for_the_server_behind() -> None:
    cut = "\n".join(["@ session one", *GREETED, *sent(A, "jane@x.test")[:-2]])
    one = connect(cassette(cut, otherwise="pass"))
    assert say(one, "MAIL FROM:<a@x.test>", "RCPT TO:<jane@x.test>", "DATA")[-1] is None


RECORDED: Final = st.tuples(
    st.sampled_from("ab"), st.frozensets(st.sampled_from("xyz"), min_size=1, max_size=3), st.booleans()
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(RECORDED, min_size=1, max_size=6), st.data())
def test_what_was_recorded_is_found_however_connections_are_interleaved(
    envelopes: list[tuple[str, frozenset[str], bool]], data: st.DataObject
) -> None:
    """Whoever says all that was recorded, in any order and at once, hears nothing that is unexpected, and leaves nothing over."""
    parts = [
        (sent if whole else tried)(f"{sender}@x.test", *[f"{one}@y.test" for one in sorted(recipients)])
        for sender, recipients, whole in envelopes
    ]
    tape = cassette(*[session(str(number), part) for number, part in enumerate(parts)])
    talks = []
    for sender, recipients, whole in data.draw(st.permutations(envelopes)):
        named = [f"RCPT TO:<{one}@y.test>" for one in data.draw(st.permutations(sorted(recipients)))]
        ends = ["DATA", "."] if whole else [data.draw(st.sampled_from(["RSET", "close"]))]
        talks.append((connect(tape), iter([f"MAIL FROM:<{sender}@x.test>", *named, *ends])))
    while talks:
        talk = data.draw(st.sampled_from(talks))
        conversation, lines = talk
        if (line := next(lines, None)) is None:
            talks.remove(talk)
        elif line == "close":
            conversation.close()
        else:
            assert say(conversation, line)[0][:1] in ("2", "3"), line  # type: ignore[index]
    assert ([one.said for one in tape.unexpected], [*tape.unused]) == ([], [])


def test_a_connection_that_says_nothing_uses_nothing_up() -> None:
    tape = cassette(session("one", sent(A, "jane@x.test")))
    connect(tape).close()
    assert (tape.played_sessions, [*tape.unused]) == (0, ["one: MAIL FROM:<a@x.test> RCPT TO:<jane@x.test>"])
    one, two = connect(tape), connect(tape)
    one.close()
    assert send(two, A, "jane@x.test") == TAKEN
    assert not tape.failed(strict=True)


def test_unless_that_is_what_was_recorded() -> None:
    script = script_of(parse("relayproxy dialog 1\nC< 220 x\nC> QUIT\nC< 221 bye\n")[0])
    tape = Cassette([recorded_of(script)])
    connect(tape).close()
    assert tape.used_up
