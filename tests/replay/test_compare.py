"""What is a difference, what only follows of one, and how it is told."""

from __future__ import annotations

import json

import pytest

from relayproxy.record.dialog import parse
from relayproxy.replay.compare import Comparison, Played, compare, not_replayed
from relayproxy.replay.script import Script, script_of
from relayproxy.smtp.replies import Reply

TAKEN = (220, 250, 250, 250, 250, 354, 250, 221)


def script(*, mail: str = "250 2.1.0 ok") -> Script:
    lines = f"""relayproxy dialog 1
@ session 01J
C< 220 relay
C> EHLO x
C< 250 relay
C> MAIL FROM:<a@x.test>
C< {mail}
C> RCPT TO:<b@x.test>
C< 250 2.1.5 ok
C> RCPT TO:<c@x.test>
C< 250 2.1.5 ok
C> DATA
C< 354 go
C> |hi
C> |.
C< 250 2.0.0 taken
C> QUIT
C< 221 2.0.0 bye
"""
    return script_of(parse(lines)[0])


def reply(code: int | None) -> Reply | None:
    text = {220: b"host", 250: b"2.1.5 other words", 354: b"", 221: b"2.0.0 bye", 550: b"5.1.1 nobody"}
    if code is None:
        return None
    return Reply(code, (text.get(code, b"other words"),))


def heard(*codes: int | None, unsent: frozenset[int] = frozenset(), cut: str | None = None) -> Comparison:
    replies = [reply(code) for code in codes]
    for number, text in ((1, b"host"), (2, b"2.1.0 fine"), (6, b"2.0.0 queued")):
        if codes[number] == 250:
            replies[number] = Reply(250, (text,))
    return compare(script(), Played(replies, unsent, cut))


def told(comparison: Comparison) -> list[str]:
    return [one.said for one in comparison.differences]


def test_texts_may_differ() -> None:
    comparison = heard(*TAKEN)
    assert (comparison.same, comparison.replies) == (True, 8)
    assert list(comparison.lines()) == ["01J  same: 8 replies"]


def test_codes_and_enhanced_codes_may_not() -> None:
    comparison = heard(220, 250, 250, 550, 250, 354, 250, 221)
    assert list(comparison.lines()) == [
        "01J  1 difference",
        "  RCPT TO:<b@x.test>",
        "    - 250 2.1.5 ok",
        "    + 550 5.1.1 nobody",
    ]
    replies = [Reply(code, (b"2.9.9 ok",)) if code == 250 else reply(code) for code in TAKEN]
    assert told(compare(script(), Played(replies)))[:2] == ["EHLO x", "MAIL FROM:<a@x.test>"]


@pytest.mark.parametrize(
    ("codes", "unsent", "said"),
    [
        ((554, 503, 503, 503, 503, 503, None, 221), {6}, ["the connection"]),
        ((220, 250, 550, 503, 503, 503, None, 221), {6}, ["MAIL FROM:<a@x.test>"]),
        ((220, 250, 250, 550, 550, 503, None, 221), {6}, ["RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>"]),
        ((220, 250, 250, 550, 250, 451, None, 221), {6}, ["RCPT TO:<b@x.test>", "DATA"]),
        ((220, 250, 250, 250, 250, 451, None, 221), {6}, ["DATA"]),
        ((220, 250, 250, 250, 250, 354, 550, 221), set(), ["the message (7 octets)"]),
    ],
)
def test_what_follows_of_a_refusal_is_not_told_again(
    codes: tuple[int | None, ...], unsent: set[int], said: list[str]
) -> None:
    assert told(heard(*codes, unsent=frozenset(unsent))) == said


def test_the_end_of_a_connection_is_told_once() -> None:
    comparison = heard(220, 250, 250, None, None, None, None, None, cut="the connection was closed")
    assert list(comparison.lines()) == [
        "01J  1 difference",
        "  RCPT TO:<b@x.test>",
        "    - 250 2.1.5 ok",
        "    + the connection was closed; 4 replies more did not come",
    ]
    behind_421 = heard(220, 250, 421, None, None, None, None, None, cut="the connection was closed")
    assert list(behind_421.lines())[2:] == [
        "    - 250 2.1.0 ok",
        "    + 421 other words",
        "      the connection was closed; 5 replies more did not come",
    ]


def test_in_a_dialog_any_text_may_be_an_asterisk() -> None:
    replies = [Reply(250, (b"2.1.0 ok",)) if number == 2 else reply(code) for number, code in enumerate(TAKEN)]
    replies[1], replies[6] = Reply(250, (b"host",)), Reply(250, (b"2.0.0 queued",))
    assert compare(script(mail="250 *"), Played(replies)).same
    assert not compare(script(mail="250 ok"), Played(replies)).same
    assert not compare(script(mail="251 *"), Played(replies)).same


def test_what_was_left_out_is_told_and_is_no_difference() -> None:
    lines = "relayproxy dialog 1\nC< 220 relay\nC> FROB\nC< 500 what\n"
    comparison = compare(script_of(parse(lines)[0]), Played([Reply(220, (b"relay",))]))
    assert list(comparison.lines()) == [
        "session  same: 1 reply",
        "  not replayed: FROB: expected a command that is known",
    ]
    assert json.loads(comparison.json())["left_out"] == [{"line": "FROB", "why": "expected a command that is known"}]


def test_it_is_told_in_json() -> None:
    told_of = json.loads(heard(220, 250, 250, 550, 250, 354, 250, 221).json())
    assert told_of == {
        "v": 1,
        "event": "replay",
        "session": "01J",
        "same": False,
        "replies": 8,
        "differences": [
            {
                "said": "RCPT TO:<b@x.test>",
                "expected": {"code": 250, "enhanced": "2.1.5", "text": "ok"},
                "got": {"code": 550, "enhanced": "5.1.1", "text": "nobody"},
                "why": None,
            }
        ],
        "left_out": [],
    }


def test_no_terminal_obeys_what_a_server_says() -> None:
    replies = [reply(code) for code in TAKEN]
    replies[0] = Reply(554, (b"\x1b[2J\xc2\x9b",))
    shown = "".join(compare(script(), Played(replies)).lines())
    assert shown.isprintable()
    assert r"\x1b[2J\x9b" in shown


def test_a_session_without_a_script() -> None:
    comparison = not_replayed("01J", "the message was not kept")
    assert not comparison.same
    assert list(comparison.lines())[2].strip() == "not replayed: the message was not kept"
