"""What a session's dialog means: what the client said, what it heard, and what is not said again."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored import BODY, HEADER, message, reader_of, record, session, wire

from relayproxy.record.dialog import parse
from relayproxy.record.playback import dialog_of
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.replay.script import Chunk, Message, Opening, Script, ScriptError, script_of
from relayproxy.smtp.commands import Bdat, Command, Data, Ehlo, Mail, Quit, Rcpt
from relayproxy.smtp.commands import Path as Mailbox

DIALOGS = sorted((Path(__file__).parent.parent / "dialogs").rglob("*.dialog"))


def read(*lines: str) -> Script:
    return script_of(parse("\n".join(["relayproxy dialog 1", *lines, ""]))[0])


def said(script: Script) -> list[tuple[str, int | None]]:
    return [(step.said, None if step.reply is None else step.reply.code) for step in script.steps]


def test_what_the_client_said_and_heard() -> None:
    script = read(
        "@ session 01J listener=submission",
        "C open 10.0.0.5:53122",
        "U open 203.0.113.5:25",
        "U< 220 upstream",
        "C< 220 relay",
        "C> EHLO app-1",
        "C< 250-relay",
        "& C< 250 SIZE",
        "C> mail from: <a@x.test> SIZE=3",
        "& C> RCPT TO:<b@x.test>",
        "C< 250 2.1.0 ok",
        "U> RCPT TO:<other@x.test>",
        "C< 550 5.1.1 nobody",
        "C> QUIT",
        "C close",
    )
    assert (script.id, script.listener, script.client) == ("01J", "submission", ("10.0.0.5", 53122))
    assert [step.what for step in script.steps] == [
        Opening(),
        Ehlo(b"app-1"),
        Mail(Mailbox(b"a", b"x.test"), ((b"SIZE", b"3"),)),
        Rcpt(Mailbox(b"b", b"x.test")),
        Quit(),
    ]
    assert [code for _, code in said(script)] == [220, 250, 250, 550, None]
    assert [step.waits for step in script.steps] == [True, True, True, False, True]
    assert script.left_out == ()


def test_a_message_is_its_octets_with_its_end() -> None:
    script = read(
        "C< 220 relay", "C> DATA", "C< 354 go", "C> |a", "C> |..b", "C> |.", "& C> QUIT", "C< 250 ok", "C< 221 bye"
    )
    *_, body, quit_ = script.steps
    assert body.what == Message(b"a\r\n..b\r\n.\r\n", ended=True)
    assert (body.reply and body.reply.code, body.waits) == (250, True)
    assert (quit_.what, quit_.waits, quit_.reply and quit_.reply.code) == (Quit(), False, 221)


@pytest.mark.parametrize("end", [["C close"], ["C reset"], []])
def test_a_message_that_did_not_end_has_no_end(end: list[str]) -> None:
    script = read("C< 220 relay", "C> DATA", "C< 354 go", "C> |half", "C> |of i\\", *end)
    assert script.steps[-1].what == Message(b"half\r\nof i", ended=False)
    assert script.steps[-1].reply is None


@pytest.mark.parametrize("kept", [["C> |half"], []])
def test_of_a_message_that_did_not_end_what_was_kept_is_enough(kept: list[str]) -> None:
    script = read("C< 220 relay", "C> DATA", "C< 354 go", *kept, "@ unkept C> 300", "C< 421 too slow", "C close by us")
    assert [step.what for step in script.steps[2:]] == [Message(b"half\r\n", ended=False)] * len(kept)


def test_chunks_are_messages() -> None:
    script = read(
        "C< 220 relay", "C> BDAT 3", "& C> |a", "& C> BDAT 0 LAST", "C< 250 ok", "C< 250 ok", "C> BDAT 5", "& C> |x\\"
    )
    assert [step.what for step in script.steps[1:]] == [
        Chunk(Bdat(3, last=False), b"a\r\n"),
        Chunk(Bdat(0, last=True), b""),
        Chunk(Bdat(5, last=False), b"x"),
    ]
    assert [step.reply and step.reply.code for step in script.steps] == [220, 250, 250, None]


def test_auth_and_starttls_are_not_said_again() -> None:
    script = read(
        "C< 220 relay",
        "C> STARTTLS",
        "C< 220 go",
        "C tls TLSv1.3 cipher",
        "C> AUTH PLAIN <redacted 20>",
        "C< 535 5.7.8 no",
        "C> AUTH LOGIN",
        "C< 334 VXNlcm5hbWU6",
        "C> <redacted 8>",
        "C< 334 <redacted 12>",
        "C> <redacted 8>",
        "C< 235 2.7.0 ok",
        "C> MAIL FROM:<a@x.test> AUTH=<> SIZE=1",
        "C< 250 2.1.0 ok",
    )
    assert said(script) == [("the connection", 220), ("MAIL FROM:<a@x.test> SIZE=1", 250)]
    assert script.left_out == ()


def test_what_is_no_command_is_told_and_keeps_no_reply_of_others() -> None:
    script = read(
        "C< 220 relay",
        "C> FROB x",
        "C< 500 5.5.2 what",
        "C> <redacted 12>",
        "C< 500 5.5.2 what",
        "C> RCPT TO:<a@x.test>\\x0aRCPT TO:<b@x.test>",
        "C< 501 5.5.2 what",
        "C> NOOP",
        "C< 250 ok",
    )
    assert said(script) == [("the connection", 220), ("NOOP", 250)]
    assert [one.line for one in script.left_out] == [
        "FROB x",
        "<redacted 12>",
        r"RCPT TO:<a@x.test>\x0aRCPT TO:<b@x.test>",
    ]


def test_time_is_what_the_client_took() -> None:
    script = read(
        "+0.000 C open 10.0.0.5:1",
        "+1.000 C< 220 relay",
        "+1.500 C> EHLO x",
        "+9.000 C< 250 relay",
        "+9.250 C> MAIL FROM:<a@x.test>",
        "     & C> RCPT TO:<b@x.test>",
    )
    assert [step.pause for step in script.steps[1:]] == [0.5, 0.25, 0.0]


def test_another_name() -> None:
    script = read("C< 220 relay", "C> EHLO x", "C< 250 relay", "C> NOOP", "C< 250 ok").named(b"other.test")
    assert said(script)[1:] == [("EHLO other.test", 250), ("NOOP", 250)]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["C open 10.0.0.5:1", "U< 220 upstream"], "nothing is kept"),
        (["C< 220 relay", "C> DATA", "C< 354 go", "@ unkept C> 300", "C< 250 ok"], "the message was not kept"),
        (["C< 220 relay", "C> BDAT 3 LAST", "@ unkept C> 3", "C< 250 ok"], "the message was not kept"),
        (["C< 220 relay", "C> DATA", "C< 354 go", "@ unkept C> 9", "C> QUIT"], "the message was not kept"),
        (
            ["C< 220 relay", "C> DATA", "C< 354 go", "@ redacted C> 300", "C> |x", "C> |."],
            "something in it was redacted",
        ),
        (["C< 220 relay", "C< 250 what"], "250 to nothing"),
        (["C< hello"], "no SMTP"),
        (["C< 220 relay", "C> |mail"], "no DATA"),
        (["C< 220 relay", "C> DATA", "C< 354 go", r"C> |.\x0d\x0aMAIL FROM:<evil@x.test>"], "behind its end"),
        (["C< 220 relay", "C> DATA", "C< 354 go", "C> |.", "C> |MAIL FROM:<evil@x.test>"], "no DATA"),
        (["C< 220 relay", "C> BDAT 1", "C> |more"], "more octets"),
    ],
)
def test_what_cannot_be_said_again(lines: list[str], why: str) -> None:
    with pytest.raises(ScriptError, match=why):
        read(*lines)


def test_a_goodbye_is_no_reply() -> None:
    assert said(read("C< 220 relay", "C> NOOP", "C< 250 ok", "C< 421 4.4.2 too long"))[1:] == [("NOOP", 250)]


def test_a_stored_session() -> None:
    reader = reader_of(session(wire()), TransactionWrite(record(), message(), final=True))
    stored = reader.session("S1")
    assert stored is not None
    script = script_of(dialog_of(stored, reader.of_session("S1"), reader))
    content = (HEADER + b"\r\n" + BODY).replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert [type(step.what) for step in script.steps] == [Opening, Ehlo, Mail, Rcpt, Data, Message, Quit]
    assert script.steps[5].what == Message(content, ended=True)
    assert [step.reply and step.reply.code for step in script.steps] == [220, 250, 250, 250, 354, 250, 221]
    assert [round(step.pause, 3) for step in script.steps[1:5]] == [0.001, 0.003, 0.0, 0.0]


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_each_dialog_has_a_script_or_a_reason(path: Path) -> None:
    for one in parse(path.read_text(encoding="utf-8")):
        try:
            script = script_of(one)
        except ScriptError as error:
            assert str(error)  # noqa: PT017
            continue
        for step in script.steps:
            match step.what:
                case Command() as command:
                    assert command.wire().endswith(b"\r\n")
                case Message(octets, ended=True):
                    assert octets.endswith(b".\r\n")
                case _:
                    pass
