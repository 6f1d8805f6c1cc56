"""`ClientProtocol`: replies are matched by count; what nobody asked for kills the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relayproxy.smtp.client import ClientProtocol
from relayproxy.smtp.commands import Auth, Data, Ehlo, Mail, Noop, Path, Rcpt, Rset, StartTls
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

SENDER = Mail(Path.parse(b"a@b.c"))
RECIPIENT = Rcpt(Path.parse(b"d@e.f"))


def greeted() -> ClientProtocol:
    protocol = ClientProtocol(reply_bytes=65536, reply_lines=512, ehlo_keywords=100)
    protocol.receive_data(b"220 hi\r\n")
    assert heard(protocol).code == 220
    hear(protocol, Ehlo(b"us.test"), b"250 ok\r\n")
    return protocol


def hear(protocol: ClientProtocol, command: Command, octets: bytes) -> None:
    protocol.send(command)
    protocol.receive_data(octets)
    heard(protocol)


def heard(protocol: ClientProtocol) -> Reply:
    """The next reply, which is there."""
    reply = protocol.next_reply()
    assert reply is not None
    return reply


@pytest.mark.parametrize("piece", [1, 2, 5, 100])
def test_replies_are_matched_by_count_i6(piece: int) -> None:
    protocol = greeted()
    sent = b"".join(protocol.send(command) for command in (SENDER, RECIPIENT, RECIPIENT))
    assert sent == b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<d@e.f>\r\n"
    octets = b"250 one\r\n452-two\r\n452 full\r\n250 three\r\n"
    codes: list[int] = []
    for start in range(0, len(octets), piece):
        protocol.receive_data(octets[start : start + piece])
        while (reply := protocol.next_reply()) is not None:
            codes.append(reply.code)
    assert codes == [250, 452, 250]
    assert (protocol.owed, protocol.dialogue.transaction) == (0, "rcpt")


def test_a_refusal_behind_a_refused_mail_of_the_same_group_is_no_violation() -> None:
    protocol = greeted()
    protocol.send(SENDER), protocol.send(RECIPIENT)
    protocol.receive_data(b"550 no\r\n503 no MAIL\r\n")
    assert [heard(protocol).code, heard(protocol).code] == [550, 503]
    assert protocol.dialogue.transaction == "none"


BROKEN = [
    ("2yz to RCPT after MAIL was refused", (SENDER, RECIPIENT), b"550 no\r\n250 yes\r\n"),
    ("354 to MAIL", (SENDER,), b"354 go\r\n"),
    ("250 to DATA", (SENDER, RECIPIENT, Data()), b"250 a\r\n250 b\r\n250 c\r\n"),
    ("334 to NOOP", (Noop(),), b"334 \r\n"),
    ("mixed codes", (Noop(),), b"250-ok\r\n550 no\r\n"),
    ("1yz", (Noop(),), b"120 wait\r\n"),
    ("letters", (Noop(),), b"25O ok\r\n"),
]


@pytest.mark.parametrize(("commands", "octets"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_replies_that_have_no_place_attack_12(commands: tuple[Command, ...], octets: bytes) -> None:
    protocol = greeted()
    for command in commands:
        protocol.send(command)
    protocol.receive_data(octets)
    with pytest.raises(RemoteProtocolError) as caught:
        list(iter(protocol.next_reply, None))
    assert (caught.value.reply.code, caught.value.fatal) == (451, True)


@pytest.mark.parametrize("octets", [b"250 surplus\r\n", b"2", b"\r\n"])
def test_a_reply_that_nothing_asked_for_attack_12(octets: bytes) -> None:
    protocol = greeted()
    hear(protocol, Noop(), b"250 ok\r\n" + octets)
    with pytest.raises(RemoteProtocolError) as caught:
        protocol.check_silence()
    assert caught.value.reply.code == 451
    with pytest.raises(RemoteProtocolError):
        protocol.send(SENDER)


def test_a_reply_before_its_command_is_never_taken_for_its_answer() -> None:
    """Postfix calls it a premature reply (CVE-2009-3555 had that shape)."""
    protocol = ClientProtocol(reply_bytes=65536, reply_lines=512, ehlo_keywords=100)
    protocol.receive_data(b"220 hi\r\n250 early\r\n")
    assert heard(protocol).code == 220
    with pytest.raises(RemoteProtocolError):
        protocol.send(Ehlo(b"us.test"))


def test_an_unasked_421_is_passed_on_as_it_is() -> None:
    protocol = greeted()
    protocol.receive_data(b"421 4.3.2 going down\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        protocol.check_silence()
    assert (caught.value.reply.code, caught.value.reply.lines) == (421, (b"4.3.2 going down",))


def message_under_way() -> ClientProtocol:
    protocol = greeted()
    hear(protocol, SENDER, b"250 ok\r\n")
    hear(protocol, RECIPIENT, b"250 ok\r\n")
    hear(protocol, Data(), b"354 go\r\n")
    assert protocol.dialogue.framing == "data"
    return protocol


@pytest.mark.parametrize(
    ("octets", "code"), [(b"552 5.3.4 big\r\n", 552), (b"452 later\r\n", 452), (b"421 bye\r\n", 421)]
)
def test_an_early_refusal_is_a_verdict_1_6(octets: bytes, code: int) -> None:
    protocol = message_under_way()
    protocol.receive_data(octets)
    refusal = protocol.early_reply()
    assert refusal is not None
    assert refusal.code == code


@pytest.mark.parametrize("octets", [b"250 2.0.0 queued\r\n", b"354 go on\r\n", b"200 \r\n"])
def test_an_early_success_is_never_believed_1_6(octets: bytes) -> None:
    protocol = message_under_way()
    protocol.receive_data(octets)
    with pytest.raises(RemoteProtocolError) as caught:
        protocol.early_reply()
    assert caught.value.reply.code == 451


@pytest.mark.parametrize("verdict", [b"250 ok\r\n", b"452 later\r\n", b"554 no\r\n"])
def test_every_verdict_resets_i12(verdict: bytes) -> None:
    protocol = message_under_way()
    assert protocol.end_of_data() == b".\r\n"
    protocol.receive_data(verdict)
    assert heard(protocol).wire == verdict
    with pytest.raises(LocalProtocolError):
        protocol.send(RECIPIENT)
    protocol.send(SENDER)


@pytest.mark.parametrize("command", [Rset(), SENDER, RECIPIENT, Data(), Noop()])
def test_nothing_can_be_asked_inside_of_mail_data_i3(command: Command) -> None:
    protocol = message_under_way()
    with pytest.raises(LocalProtocolError):
        protocol.send(command)


def test_what_was_heard_in_clear_does_not_count_under_tls() -> None:
    """RFC 3207 §4.2, PROTOCOL attack 7."""
    protocol = greeted()
    hear(protocol, StartTls(), b"220 go\r\n")
    with pytest.raises(LocalProtocolError):
        protocol.send(Noop())
    protocol.receive_data(b"250 inj")
    protocol.tls_started()
    assert protocol.unread == 0
    with pytest.raises(LocalProtocolError):
        protocol.send(SENDER)
    hear(protocol, Ehlo(b"us.test"), b"250 ok\r\n")
    hear(protocol, SENDER, b"250 ok\r\n")


def test_what_comes_behind_the_answer_to_starttls_is_nobody_s() -> None:
    protocol = greeted()
    hear(protocol, StartTls(), b"220 go\r\n250 AUTH PLAIN\r\n")
    with pytest.raises(RemoteProtocolError):
        protocol.check_silence()


def test_what_cannot_be_written_was_not_sent() -> None:
    protocol = greeted()
    with pytest.raises(LocalProtocolError):
        protocol.send(Mail(Path(b"a\r\nb", b"x")))
    assert protocol.owed == 0
    hear(protocol, SENDER, b"250 ok\r\n")


@pytest.mark.parametrize("code", [220, 250, 300, 335, 354])
def test_nothing_but_235_and_334_is_a_yes_in_auth_1_6(code: int) -> None:
    protocol = greeted()
    protocol.send(Auth(b"LOGIN", None))
    protocol.receive_data(b"%d fine\r\n" % code)
    with pytest.raises(RemoteProtocolError, match=f"the server answered {code} to AUTH"):
        protocol.next_reply()
