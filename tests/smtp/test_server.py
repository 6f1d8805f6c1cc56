"""`ServerProtocol`: groups, sync points, mail data, one reply a command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp import local_replies
from relayproxy.smtp.capabilities import Capabilities
from relayproxy.smtp.commands import Data, Ehlo, Mail, SaslResponse
from relayproxy.smtp.errors import LocalProtocolError
from relayproxy.smtp.replies import Reply
from relayproxy.smtp.server import Refused, ServerProtocol

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Command

OK = Reply(250, (b"ok",))
GO = Reply(354, (b"go",))
NO = Reply(550, (b"no",))


def greeted() -> ServerProtocol:
    protocol = ServerProtocol(command_bytes=4096, auth_bytes=12288, line_bytes=1 << 20)
    protocol.send(Reply(220, (b"hi",)))
    protocol.receive_data(b"EHLO client.test\r\n")
    assert isinstance(protocol.next_command(), Ehlo)
    protocol.send(OK)
    protocol.offered = Capabilities({b"SIZE": b"", b"8BITMIME": b"", b"SMTPUTF8": b"", b"DSN": b""})
    return protocol


def take(protocol: ServerProtocol) -> list[Command | Refused]:
    taken: list[Command | Refused] = []
    while (command := protocol.next_command()) is not None:
        taken.append(command)
    return taken


def verbs(commands: list[Command | Refused]) -> list[str]:
    return [f"{c.reply.code}" if isinstance(c, Refused) else c.verb for c in commands]


# What one read brings, and the groups it is taken in; each group is answered 250 (DATA 354) before the next.
GROUPS = [
    (b"NOOP\r\nNOOP\r\n", [["NOOP"], ["NOOP"]]),
    (b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<g@h.i>\r\n", [["MAIL", "RCPT", "RCPT"]]),
    (b"RSET\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n", [["RSET", "MAIL", "RCPT", "DATA"]]),
    (b"MAIL FROM:<a@b.c>\r\nMAIL FROM:<a@b.c>\r\nRSET\r\n", [["MAIL", "503"], ["RSET"]]),
    (b"RCPT TO:<a@b.c>\r\nNOOP\r\n", [["503"], ["NOOP"]]),
    (b"MAIL FROM:<a@b.c>\r\nDATA\r\nRSET\r\n", [["MAIL", "503"], ["RSET"]]),
    (b"XYZZY\r\nRSET\r\nQUIT\r\n", [["500"], ["RSET", "QUIT"]]),
    (b"MAIL FROM:<a@b.c> SIZE=1 SIZE=2\r\nRSET\r\n", [["501"], ["RSET"]]),
    (b"MAIL FROM:<a@b.c> X=1\r\nRSET\r\n", [["555"], ["RSET"]]),
    (b"HELP\r\nVRFY a\r\nEHLO x\r\nNOOP\r\n", [["HELP"], ["VRFY"], ["EHLO"], ["NOOP"]]),
]


@pytest.mark.parametrize(("octets", "groups"), GROUPS)
@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_groups_do_not_depend_on_how_octets_come(octets: bytes, groups: list[list[str]], piece: int) -> None:
    """RFC 2920 §3.1: MAIL, RCPT, RSET may have others behind them; all else is last in its group."""
    protocol = greeted()
    got: list[list[str]] = []
    pending: list[Command | Refused] = []
    for start in range(0, len(octets), piece):
        if pending and isinstance(pending[-1], Refused) and pending[-1].fatal:
            break
        protocol.receive_data(octets[start : start + piece])
        pending += take(protocol)
        while pending and verbs(pending)[-1] not in ("MAIL", "RCPT", "RSET"):
            got.append(verbs(pending))
            for command in pending:
                reply = command.reply if isinstance(command, Refused) else GO if isinstance(command, Data) else OK
                protocol.send(reply)
            fatal = isinstance(pending[-1], Refused) and pending[-1].fatal
            pending = [] if fatal else take(protocol)
    if pending:
        got.append(verbs(pending))
    assert got == groups


def test_optimism_lasts_until_the_replies_are_known() -> None:
    protocol = greeted()
    protocol.receive_data(b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n")
    assert verbs(take(protocol)) == ["MAIL", "RCPT", "DATA"]
    protocol.send(NO)
    protocol.send(NO)
    protocol.send(local_replies.BAD_SEQUENCE)
    assert protocol.dialogue.transaction == "none"
    protocol.receive_data(b"RCPT TO:<d@e.f>\r\n")
    assert verbs(take(protocol)) == ["503"]


def test_mail_data_is_told_from_commands_by_the_dialogue_alone() -> None:
    protocol = greeted()
    protocol.receive_data(b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n")
    for reply in (OK, OK, GO)[: len(take(protocol))]:
        protocol.send(reply)
    assert protocol.dialogue.framing == "data"
    part = protocol.receive_mail_data(b"QUIT\r\n.\r\nMAIL FROM:<x@y.z>\r\n")
    assert (part.wire, part.ended) == (b"QUIT\r\n", True)
    assert protocol.next_command() is None, "the message is answered first"
    protocol.send(NO)
    assert protocol.dialogue.transaction == "none"
    assert isinstance(protocol.next_command(), Mail)


@pytest.mark.parametrize(
    "octets", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n", b"{}\r\n", b" MAIL\r\n", b"\xff", b"\x00"]
)
def test_what_is_not_smtp_is_fatal_at_its_first_octet_or_line_1_1_5(octets: bytes) -> None:
    protocol = greeted()
    protocol.receive_data(octets)
    (refused,) = take(protocol)
    assert isinstance(refused, Refused)
    assert (refused.reply.code, refused.fatal, protocol.unread) == (421, True, 0)


def test_line_ends_without_a_line_cost_little() -> None:
    protocol = greeted()
    protocol.receive_data(b"AUTH " + b"\r" * 12_000 + b"\r\n")
    (refused,) = take(protocol)
    assert isinstance(refused, Refused)
    began = time.process_time()
    assert refused.changes_framing
    assert not Refused(refused.line[1:], refused.reply, refused.what, fatal=False).changes_framing
    assert time.process_time() - began < 0.5


def test_smtputf8_is_asked_for_once_a_transaction() -> None:
    protocol = greeted()
    protocol.receive_data("MAIL FROM:<a@b.c> SMTPUTF8\r\nRCPT TO:<jösé@b.c>\r\n".encode())
    assert verbs(take(protocol)) == ["MAIL", "RCPT"]
    protocol = greeted()
    protocol.receive_data("MAIL FROM:<a@b.c>\r\nRCPT TO:<jösé@b.c>\r\n".encode())
    assert verbs(take(protocol)) == ["MAIL", "553"]


def test_after_a_refused_greeting_only_quit_is_left_rfc7504() -> None:
    protocol = ServerProtocol(command_bytes=4096, auth_bytes=12288, line_bytes=1 << 20)
    protocol.send(Reply(521, (b"no mail here",)))
    for line, expected in ((b"EHLO x\r\n", "503"), (b"MAIL FROM:<a@b.c>\r\n", "503"), (b"QUIT\r\n", "QUIT")):
        protocol.receive_data(line)
        (command,) = take(protocol)
        assert verbs([command]) == [expected]
        protocol.send(command.reply if isinstance(command, Refused) else OK)


def test_a_reply_to_nothing_is_our_own_fault() -> None:
    protocol = greeted()
    with pytest.raises(LocalProtocolError):
        protocol.send(OK)
    assert protocol.send(local_replies.SHUTTING_DOWN).startswith(b"421 ")


COMMANDS = st.sampled_from(
    [
        b"NOOP",
        b"RSET",
        b"MAIL FROM:<a@b.c>",
        b"RCPT TO:<d@e.f>",
        b"DATA",
        b"VRFY x",
        b"nonsense",
        b"EHLO x",
        b"",
        b"QUIT",
    ]
)


@given(st.lists(COMMANDS, max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_one_reply_a_command_whatever_the_replies_i6(lines: list[bytes], choices: list[int]) -> None:
    protocol = greeted()
    protocol.receive_data(b"".join(line + b"\r\n" for line in lines))
    answered = 0
    while group := take(protocol):
        for command in group:
            if isinstance(command, Refused):
                reply = command.reply
            else:
                good = GO if isinstance(command, Data) else OK
                refused = (choices and choices.pop() == 0) or not protocol.dialogue.admits(command.verb)
                reply = NO if refused else good
            assert protocol.send(reply)
            answered += 1
        if protocol.dialogue.channel == "closing":
            return
        if protocol.dialogue.framing == "data":
            assert protocol.receive_mail_data(b".\r\n").ended
            protocol.send(OK)
    assert answered == len(lines)


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_the_octets_of_a_chunk_are_never_commands(piece: int) -> None:
    """RFC 3030 §2, attack 4: whether BDAT is taken or refused."""
    octets = b"BDAT 6\r\nQUIT\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nBDAT 6 LAST\r\nRSET\r\nNOOP\r\n"
    protocol = greeted()
    protocol.offered = Capabilities({b"CHUNKING": b""})
    seen: list[str] = []
    chunks: list[bytes] = []
    for start in range(0, len(octets), piece):
        protocol.receive_data(octets[start : start + piece])
        while True:
            if protocol.chunk:
                chunks.append(protocol.take_chunk())
                if protocol.chunk:
                    break
                protocol.send(Reply(250) if seen[-1] == "BDAT" else Reply(503))
            elif (command := protocol.next_command()) is None:
                break
            else:
                seen += verbs([command])
                if seen[-1] in ("MAIL", "RCPT", "NOOP"):
                    protocol.send(Reply(250))
    assert seen == ["503", "MAIL", "RCPT", "BDAT", "NOOP"]
    assert b"".join(chunks) == b"QUIT\r\nRSET\r\n"


@pytest.mark.parametrize("verb", [b"AUTH LOGIN", b"STARTTLS"])
def test_neither_auth_nor_starttls_follows_an_auth_that_succeeded(verb: bytes) -> None:
    protocol = greeted()
    protocol.offered = Capabilities({b"AUTH": b"LOGIN", b"STARTTLS": b""})
    protocol.receive_data(b"AUTH LOGIN\r\n")
    protocol.next_command()
    protocol.send(Reply(334, (b"VXNlcm5hbWU6",)))
    assert protocol.next_command() is None
    protocol.receive_data(b"YXBw\r\n")
    assert protocol.next_response() == SaslResponse(b"YXBw")
    protocol.send(Reply(235, (b"2.7.0 ok",)))
    protocol.receive_data(verb + b"\r\n")
    assert verbs(take(protocol)) == ["503"]


@given(st.lists(st.binary(max_size=6).map(bytes.hex), max_size=4), st.integers(1, 9))
def test_how_responses_are_cut_into_pieces_changes_nothing(lines: list[str], size: int) -> None:
    """Between 334s: each line one response, base64 or not, and never a command."""
    protocol = greeted()
    protocol.offered = Capabilities({b"AUTH": b"LOGIN"})
    protocol.receive_data(b"AUTH LOGIN\r\n")
    protocol.next_command()
    for line in lines:
        protocol.send(Reply(334, (b"",)))
        octets = line.encode() + b"\r\n"
        for at in range(0, len(octets), size):
            assert protocol.next_response() is None
            protocol.receive_data(octets[at : at + size])
        response = protocol.next_response()
        if len(line) % 4:
            assert isinstance(response, Refused)
            protocol.send(response.reply)
            assert protocol.dialogue.framing == "command"
            return
        assert response == SaslResponse(line.encode())
        assert protocol.next_command() is None


def starting_tls() -> ServerProtocol:
    protocol = greeted()
    protocol.offered = Capabilities({b"STARTTLS": b"", b"SIZE": b""})
    protocol.receive_data(b"MAIL FROM:<a@b.c>\r\nSTARTTLS\r\n")
    assert verbs(take(protocol)) == ["MAIL", "STARTTLS"]
    protocol.send(OK)
    protocol.send(local_replies.TLS_READY)
    return protocol


def test_starttls_forgets_all_that_was_said_rfc_3207_4_2() -> None:
    protocol = starting_tls()
    protocol.receive_data(b"RSET\r\nMAIL FROM:<injected@b.c>\r\nNO")  # attack 6
    protocol.tls_started()
    assert (protocol.unread, protocol.offered, protocol.dialogue.transaction) == (0, Capabilities(), "none")
    protocol.receive_data(b"MAIL FROM:<a@b.c>\r\n")
    assert verbs(take(protocol)) == ["503"]
    protocol.send(local_replies.BAD_SEQUENCE)
    protocol.receive_data(b"EHLO client.test\r\n")
    assert verbs(take(protocol)) == ["EHLO"]
    protocol.send(OK)
    protocol.receive_data(b"STARTTLS\r\n")
    assert verbs(take(protocol)) == ["503"]


def test_no_command_is_read_between_220_and_tls() -> None:
    protocol = starting_tls()
    protocol.receive_data(b"EHLO x\r\n")
    assert verbs(take(protocol)) == ["503"]


def test_where_tls_is_needed_nothing_of_a_message_comes_before_it() -> None:
    protocol = greeted()
    protocol.needs_tls = True
    for line, verdict in (
        (b"MAIL FROM:<a@b.c>", "530"),
        (b"VRFY a", "530"),
        (b"NOOP", "NOOP"),
        (b"RSET", "RSET"),
        (b"QUIT", "QUIT"),
    ):
        protocol.receive_data(line + b"\r\n")
        assert verbs(take(protocol)) == [verdict]
        protocol.send(local_replies.TLS_REQUIRED if verdict == "530" else OK)
