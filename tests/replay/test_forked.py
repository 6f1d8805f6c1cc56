"""A session up to one of its commands, and what goes on there: pure of it, and in somebody's hands over a stream in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from relayproxy.record.dialog import parse
from relayproxy.replay.compare import Played
from relayproxy.replay.fork import NoSuchPlace, astray, going_on, listed, upto
from relayproxy.replay.interactive import Interaction
from relayproxy.replay.script import Message, ScriptError, script_of
from relayproxy.smtp.commands import Mail, Noop, Rset
from relayproxy.smtp.replies import Reply, ReplyReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.dialog import Session

PATIENCE: Final = 20.0


def session(*lines: str) -> Session:
    return parse("\n".join(["relayproxy dialog 1", *lines, ""]))[0]


WHOLE: Final = script_of(
    session(
        "C< 220 relay",
        "C> EHLO app-1",
        "C< 250 relay",
        "C> AUTH PLAIN <redacted 12>",
        "C< 235 ok",
        "C> MAIL FROM:<a@x.test>",
        "& C> RCPT TO:<b@x.test>",
        "& C> DATA",
        "C< 250 ok",
        "C< 550 no",
        "C< 354 go",
        "C> |hi",
        "C> |.",
        "C< 250 taken",
        "C> QUIT",
        "C< 221 bye",
    )
)
NUMBERS: Final = [
    "    0  the connection",
    "    1  EHLO app-1",
    "    2  MAIL FROM:<a@x.test>",
    "    3  RCPT TO:<b@x.test>",
    "    4  DATA",
    "    5  the message (7 octets)",
    "    6  QUIT",
]


@pytest.mark.parametrize("number", range(7))
def test_up_to_a_number_that_one_included(number: int) -> None:
    assert upto(WHOLE, number).steps == WHOLE.steps[: number + 1]
    assert list(listed(WHOLE)) == NUMBERS


@pytest.mark.parametrize("number", [-1, 7, 10**9])
def test_a_number_that_there_is_not_lists_those_that_there_are(number: int) -> None:
    with pytest.raises(NoSuchPlace) as raised:
        upto(WHOLE, number)
    first, *rest = str(raised.value).splitlines()
    assert (first, rest) == (f"expected a number of 0 to 6, got {number}", NUMBERS)


def test_of_a_long_session_its_beginning_and_its_end_are_listed() -> None:
    long = script_of(session("C< 220 x", *["C> NOOP", "C< 250 ok"] * 99))
    lines = [line.split()[0] for line in listed(long)]
    assert lines == [*map(str, range(10)), "...", *map(str, range(90, 100))]
    assert "  ...  80 more" in listed(long)


@pytest.mark.parametrize(
    "lines", [["C> DATA", "C< 354 go", "C> |half\\", "C close"], ["C> NOOP", "C< 250 ok", "C> BDAT 9", "C> |half\\"]]
)
def test_nobody_goes_on_in_the_middle_of_a_message(lines: list[str]) -> None:
    with pytest.raises(NoSuchPlace, match="of which the end was never said"):
        upto(script_of(session("C< 220 x", *lines)), 2)


def heard(*codes: int | None, cut: str | None = None, unsent: Sequence[int] = ()) -> Played:
    return Played([None if code is None else Reply(code, (b"x",)) for code in codes], frozenset(unsent), cut)


@pytest.mark.parametrize(
    ("number", "played", "why"),
    [
        (4, heard(220, 250, 250, 550, 354), None),
        (4, heard(220, 250, 550, 550, 503), "DATA was refused: 503 x"),
        (4, heard(220, 250, 250, 550, 421), "the server would not go on: 421 x"),
        (3, heard(220, 250, 550, 503), None),  # a refusal alone: whoever goes on sees it
        (3, heard(220, 250, None, None, cut="the connection was closed"), "the connection was closed"),
        (3, heard(554, 503, 503, 503), "the server would not go on: 554 x"),
        (3, heard(421, None, None, None, cut="the connection was closed"), "the server would not go on: 421 x"),
        (
            6,
            heard(220, 250, 250, 550, 503, None, 221, unsent=[5]),
            "DATA was refused, so that the message was not sent",
        ),
    ],
)
def test_whether_it_stands_where_it_stood(number: int, played: Played, why: str | None) -> None:
    assert astray(upto(WHOLE, number), played) == why


# What a dialog goes on with.


def test_a_dialog_goes_on_from_its_beginning() -> None:
    script = going_on(session("C> RSET", "C< 250 ok", "C> MAIL FROM:<a@x.test>", "C< 550 no"), upto(WHOLE, 3))
    assert [(type(step.what), step.reply and step.reply.code) for step in script.steps] == [(Rset, 250), (Mail, 550)]


def test_a_greeting_that_a_whole_session_begins_with_counts_for_nothing() -> None:
    script = going_on(session("C open 10.0.0.5:1", "U< 220 up", "C< 220 x", "C> NOOP", "C< 250 ok"), upto(WHOLE, 3))
    assert [(type(step.what), step.reply and step.reply.code) for step in script.steps] == [(Noop, 250)]


def test_behind_data_it_goes_on_with_the_message() -> None:
    script = going_on(session("C> |hello", "C> |.", "C< 250 taken", "C> NOOP", "C< 250 ok"), upto(WHOLE, 4))
    assert [step.what for step in script.steps] == [Message(b"hello\r\n.\r\n", ended=True), Noop()]


@pytest.mark.parametrize(
    ("number", "lines", "why"),
    [
        (4, ["C> QUIT", "C< 221 bye"], r"expected mail data \(C> \|...\) behind DATA, found QUIT"),
        (3, ["C> |hello", "C> |."], "there is mail data where no DATA or BDAT is"),
        (3, ["C< 220 x"], "nothing is said in it"),
        (3, ["U> NOOP"], "nothing is said in it"),
        (3, ["C> AUTH PLAIN <redacted 9>", "C< 235 ok"], "nothing is said in it"),
    ],
)
def test_a_dialog_that_cannot_go_on_there(number: int, lines: list[str], why: str) -> None:
    with pytest.raises(ScriptError, match=why):
        going_on(session(*lines), upto(WHOLE, number))


# In somebody's hands.


class Typist:
    """Types when asked, and then, at the end, nothing more; or never again, where it `stays`."""

    def __init__(self, lines: Sequence[bytes], *, stays: bool = False) -> None:
        self._lines = [*lines]
        self._stays = stays

    async def line(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if self._lines:
            return self._lines.pop(0)
        if self._stays:
            await trio.sleep_forever()
        return None


async def talked(
    typist: Typist, *exchanges: tuple[bytes, bytes], mail: bool = False, echo: bool = True
) -> tuple[list[str], str | None]:
    """What is shown, and what is left undone: to a server that says the second of a pair once it has heard the first, whole, and then hears no more."""
    ours, theirs = trio.testing.memory_stream_pair()
    shown: list[str] = []
    undone: list[str | None] = []

    async def talk() -> None:
        async with ours:
            conversation = Interaction(ours, ReplyReader(4096, 99), typist.line, shown.append, echo=echo, mail=mail)
            undone.append(await conversation.run())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            for expected, answer in exchanges:
                octets = b""
                while len(octets) < len(expected):
                    octets += bytes(await theirs.receive_some())
                assert octets == expected
                await trio.testing.wait_all_tasks_blocked()  # nothing more is said before it is answered
                if answer == b"close":
                    await theirs.aclose()
                    break
                await theirs.send_all(answer)
            else:
                assert await theirs.receive_some() == b""
    return shown, undone[0]


GOODBYE: Final = [(b"QUIT\r\n", b"221 bye\r\n"), (b"", b"close")]


async def test_lines_are_said_one_behind_the_other_and_then_quit() -> None:
    shown, undone = await talked(
        Typist([b"NOOP", b"what"]), (b"NOOP\r\n", b"250-a\r\n250 b\r\n"), (b"what\r\n", b"500 no\r\n"), *GOODBYE
    )
    assert shown == ["C> NOOP", "C< 250-a", "& C< 250 b", "C> what", "C< 500 no", "C> QUIT", "C< 221 bye"]
    assert undone is None


async def test_who_says_quit_himself_says_it_once() -> None:
    shown, _ = await talked(Typist([b"quit"]), (b"quit\r\n", b"221 bye\r\n"), (b"", b"close"))
    assert shown == ["C> quit", "C< 221 bye"]


async def test_behind_354_lines_are_the_message_and_dots_are_doubled() -> None:
    typed = [b"DATA", b"Subject: hi", b"", b".hidden", b"QUIT", b".", b"NOOP"]
    shown, undone = await talked(
        Typist(typed),
        (b"DATA\r\n", b"354 go\r\n"),
        (b"Subject: hi\r\n\r\n..hidden\r\nQUIT\r\n.\r\n", b"250 taken\r\n"),
        (b"NOOP\r\n", b"250 ok\r\n"),
        *GOODBYE,
    )
    assert shown[2:7] == ["C> |Subject: hi", "C> |", "C> |..hidden", "C> |QUIT", "C> |."]
    assert undone is None


async def test_a_data_that_is_refused_is_followed_by_commands_where_somebody_sees_it() -> None:
    await talked(
        Typist([b"DATA", b".", b"."]), (b"DATA\r\n", b"503 no\r\n"), (b".\r\n", b"500 no\r\n"), (b".\r\n", b"500 no\r\n"), *GOODBYE, echo=False
    )  # fmt: skip


async def test_and_from_a_pipe_not_by_its_message() -> None:
    typed = [b"DATA", b"Subject: hi", b"RSET", b".", b"NOOP", b"DATA", b"RSET", b"what"]
    await talked(
        Typist(typed),
        (b"DATA\r\n", b"451 no\r\n"),
        (b"NOOP\r\n", b"250 ok\r\n"),
        (b"DATA\r\n", b"451 no\r\n"),
        (b"RSET\r\n", b"250 ok\r\n"),
        (b"what\r\n", b"500 no\r\n"),
        *GOODBYE,
    )


async def test_what_follows_a_challenge_is_no_command_and_not_shown() -> None:
    shown, _ = await talked(
        Typist([b"AUTH LOGIN", b"BDAT 1", b"REFUQQ==", b"NOOP"]),
        (b"AUTH LOGIN\r\n", b"334 \r\n"),
        (b"BDAT 1\r\n", b"334 \r\n"),
        (b"REFUQQ==\r\n", b"235 ok\r\n"),
        (b"NOOP\r\n", b"250 ok\r\n"),
        *GOODBYE,
    )
    assert [line for line in shown if line.startswith("C>")] == [
        "C> AUTH LOGIN",
        "C> <redacted 6>",
        "C> <redacted 8>",
        "C> NOOP",
        "C> QUIT",
    ]


async def test_who_ends_in_the_middle_of_a_message_sends_none() -> None:
    shown, undone = await talked(Typist([b"half"]), (b"half\r\n", b""), mail=True)
    assert shown == ["C> |half"]
    assert undone == "the message was not ended with a dot, and is not sent"


async def test_what_the_server_says_by_itself_is_shown_at_once() -> None:
    shown, undone = await talked(Typist([], stays=True), (b"", b"421 too slow\r\n"), (b"", b"close"))
    assert shown == ["C< 421 too slow"]
    assert undone is None


async def test_a_server_that_hangs_up_ends_it_whoever_waits() -> None:
    shown, _ = await talked(Typist([b"NOOP", b"NOOP"]), (b"NOOP\r\n", b"close"))
    assert shown == ["C> NOOP"]


async def breaks() -> None:
    raise trio.BrokenResourceError


async def test_what_was_said_last_is_heard_though_nothing_can_be_said_any_more() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    ours.send_stream.send_all_hook = breaks
    ours.receive_stream.put_data(b"421 gone\r\n")
    ours.receive_stream.put_eof()
    shown: list[str] = []
    with trio.fail_after(PATIENCE):
        await Interaction(
            ours, ReplyReader(4096, 99), Typist([b"NOOP"]).line, shown.append, echo=True, mail=False
        ).run()
    assert sorted(shown) == ["C< 421 gone", "C> NOOP"]


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(b"hello\r\n", "# "), (b"250 ok\r\nhello\r\n", "C< 250 ok")],
)
async def test_what_is_no_reply_ends_it_and_is_told(octets: bytes, shown: str) -> None:
    told, _ = await talked(Typist([], stays=True), (b"", octets), (b"", b"close"))
    assert told[0].startswith(shown)
    assert told[-1].startswith("# ")


async def test_a_connection_that_breaks_ends_it() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    ours.receive_stream.receive_some_hook = breaks
    shown: list[str] = []
    with trio.fail_after(PATIENCE):
        await Interaction(
            ours, ReplyReader(4096, 99), Typist([], stays=True).line, shown.append, echo=True, mail=False
        ).run()
    assert shown == []


async def test_what_had_come_before_is_shown_first() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    replies, shown = ReplyReader(4096, 99), list[str]()
    replies.feed(b"250 before\r\n")
    ours.receive_stream.put_eof()
    with trio.fail_after(PATIENCE):
        await Interaction(ours, replies, Typist([], stays=True).line, shown.append, echo=True, mail=False).run()
    assert shown == ["C< 250 before"]


async def test_nothing_that_is_shown_is_obeyed() -> None:
    shown, _ = await talked(
        Typist(["a\x1b[5m\u202e".encode()]), ("a\x1b[5m\u202e\r\n".encode(), b"500 \xc2\x9b5m\xff\r\n"), *GOODBYE
    )
    assert shown[:2] == ["C> a\\x1b[5m\\xe2\\x80\\xae", "C< 500 ?5m?"]


async def test_a_chunk_is_not_typed() -> None:
    shown, _ = await talked(Typist([b"BDAT 5 LAST"]), *GOODBYE)
    assert shown[0].startswith("# ")


async def test_on_a_terminal_what_was_typed_stands_there_already() -> None:
    shown, _ = await talked(Typist([b"NOOP"]), (b"NOOP\r\n", b"250 ok\r\n"), *GOODBYE, echo=False)
    assert shown == ["C< 250 ok", "C< 221 bye"]
