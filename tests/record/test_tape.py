"""What is recorded of a session's wire: all of it, but for what may be a secret, and mail data by its length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.record.tape import PIECES, SessionTape
from relayproxy.record.wire import WireData, WireEvent, WireOctets, decode, in_order
from relayproxy.smtp import local_replies
from relayproxy.smtp.client import ClientProtocol
from relayproxy.smtp.commands import Auth, Ehlo, Mail, Path, SaslResponse
from relayproxy.smtp.data import MOST_DOTS
from relayproxy.smtp.replies import Reply
from relayproxy.smtp.server import ServerProtocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relayproxy.record.tape import LegTape
    from relayproxy.record.wire import WireEntry

SECRET = b"c2VjcmV0LXBhc3N3b3Jk"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def taken(session: SessionTape) -> list[WireEntry]:
    blob = session.take()
    return [] if blob is None else decode(blob)


def shown(entries: Sequence[WireEntry], arrow: str) -> bytes:
    """The octets of one direction, with how many were blanked."""
    text = b""
    for entry in entries:
        if isinstance(entry, WireOctets) and entry.arrow == arrow:
            at = 0
            for offset, length in entry.gaps:
                text += entry.octets[at:offset] + b"[%d]" % length
                at = offset
            text += entry.octets[at:]
    return text


def server(tape: LegTape) -> ServerProtocol:
    protocol = ServerProtocol(command_bytes=512, auth_bytes=1024, line_bytes=1024, tape=tape)
    protocol.send(local_replies.greeting(b"relay.test"))
    return protocol


def with_auth(tape: LegTape) -> ServerProtocol:
    from relayproxy.smtp.capabilities import Capabilities

    protocol = server(tape)
    protocol.receive_data(b"EHLO c\r\n")
    protocol.next_group(10)
    protocol.offered = Capabilities.parse(Reply(250, (b"relay.test", b"AUTH PLAIN LOGIN", b"CHUNKING")))
    protocol.send(local_replies.hello(b"relay.test"))
    return protocol


# Octets of one direction are told whatever pieces they come in.


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_lines_are_recorded_as_they_came(step: int) -> None:
    session = SessionTape(Clock())
    protocol = server(session.client)
    octets = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
    for at in range(0, len(octets), step):
        protocol.receive_data(octets[at : at + step])
        while group := protocol.next_group(10):
            for _ in group:
                protocol.send(local_replies.NOOP_OK)
    entries = taken(session)
    assert shown(entries, ">") == octets
    reads = [entry for entry in entries if isinstance(entry, WireOctets) and entry.arrow == ">"]
    assert len(reads) >= len(octets) / step


def test_what_was_not_read_is_blanked_when_the_connection_closes() -> None:
    session = SessionTape(Clock())
    protocol = server(session.client)
    protocol.receive_data(b"NOOP\r\nAUTH PLAIN " + SECRET + b"\r\n")
    protocol.next_group(1)
    session.client.event("close", by_us=True)
    assert shown(taken(session), ">") == b"NOOP\r\n[%d]" % (len(SECRET) + 13)


# SASL, by state.


def test_auth_is_told_by_its_mechanism_and_its_length() -> None:
    session = SessionTape(Clock())
    protocol = with_auth(session.client)
    session.take()
    protocol.receive_data(b"AUTH PLAIN " + SECRET + b"\r\n")
    protocol.next_group(10)
    protocol.send(Reply(235, (b"2.7.0 hello " + SECRET,), "upstream"))
    entries = taken(session)
    assert shown(entries, ">") == b"AUTH PLAIN [20]\r\n"
    assert shown(entries, "<") == b"235 2.7.0 [26]\r\n"


def test_challenges_and_responses_are_blanked() -> None:
    session = SessionTape(Clock())
    protocol = with_auth(session.client)
    session.take()
    protocol.receive_data(b"AUTH LOGIN\r\n")
    protocol.next_group(10)
    protocol.send(Reply(334, (SECRET,), "upstream"))
    protocol.receive_data(SECRET[:5])
    assert protocol.next_response() is None
    protocol.receive_data(SECRET[5:] + b"\r\n")
    assert isinstance(protocol.next_response(), SaslResponse)
    protocol.send(Reply(334, (b"",), "upstream"))
    protocol.receive_data(b"*\r\n")
    protocol.next_response()
    protocol.send(local_replies.AUTH_CANCELLED)
    entries = taken(session)
    assert shown(entries, ">") == b"AUTH LOGIN\r\n[5][15]\r\n*\r\n"
    assert shown(entries, "<") == b"334 [20]\r\n334 \r\n501 5.5.2 Authentication cancelled\r\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (SECRET, b"[20]"),
        (b"NOOP " + SECRET, b"[25]"),
        (b"x" * 600, b"[600]"),
        (b"AUTH PLAIN " + SECRET, b"AUTH PLAIN [20]"),
        (b"AUHT PLAIN " + SECRET, b"AUHT PLAIN [20]"),
    ],
)
def test_a_line_behind_an_auth_that_is_no_command_may_have_been_meant_for_it(line: bytes, kept: bytes) -> None:
    session = SessionTape(Clock())
    protocol = server(session.client)
    session.take()
    protocol.receive_data(b"AUTH LOGIN\r\n")
    protocol.next_group(10)  # refused: it was not offered
    protocol.send(local_replies.BAD_SEQUENCE)
    protocol.receive_data(line + b"\r\n")
    protocol.next_group(10)
    entries = taken(session)
    assert shown(entries, ">") == b"AUTH LOGIN\r\n" + kept + b"\r\n"


def test_an_auth_line_that_is_too_long_is_blanked_while_it_comes() -> None:
    session = SessionTape(Clock())
    protocol = with_auth(session.client)
    session.take()
    for octets in (b"AUTH PLAIN ", SECRET * 40, SECRET * 40, b"\r\nNOOP\r\n"):
        protocol.receive_data(octets)
        protocol.next_group(10)
    entries = taken(session)
    assert SECRET not in b"".join(entry.octets for entry in entries if isinstance(entry, WireOctets))
    assert shown(entries, ">").startswith(b"AUTH PLAIN ")


def test_an_identity_in_mail_is_blanked() -> None:
    session = SessionTape(Clock())
    protocol = with_auth(session.client)
    session.take()
    protocol.receive_data(b"MAIL FROM:<a@b> AUTH=" + SECRET + b"\r\n")
    protocol.next_group(10)
    assert shown(taken(session), ">") == b"MAIL FROM:<a@b> AUTH=[20]\r\n"


def test_our_own_credentials_are_blanked_upstream() -> None:
    session = SessionTape(Clock())
    protocol = ClientProtocol(reply_bytes=1000, reply_lines=10, ehlo_keywords=10, tape=session.upstream)
    protocol.receive_data(b"220 hi\r\n")
    protocol.next_reply()
    protocol.send(Ehlo(b"relay.test"))
    protocol.receive_data(b"250 AUTH PLAIN\r\n")
    protocol.next_reply()
    protocol.send(Auth(b"PLAIN", SECRET))
    protocol.receive_data(b"535-5.7.8 no: " + SECRET + b"\r\n535 5.7.8 no\r\n")
    protocol.next_reply()
    protocol.send(Mail(Path(b"a", b"b"), ()))
    entries = taken(session)
    assert shown(entries, ">") == b"EHLO relay.test\r\nAUTH PLAIN [20]\r\nMAIL FROM:<a@b>\r\n"
    assert shown(entries, "<").endswith(b"535-5.7.8 [24]\r\n535 5.7.8 [2]\r\n")


# Mail data.


def test_mail_data_is_told_by_its_length_and_whose_it_is() -> None:
    session = SessionTape(Clock())
    protocol = server(session.client)
    for line in (b"EHLO c\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n"):
        protocol.receive_data(line)
        protocol.next_group(1)
        protocol.send(local_replies.NOOP_OK)
    protocol.receive_data(b"DATA\r\n")
    protocol.next_group(1)
    protocol.send(local_replies.START_MAIL)
    session.take()
    session.client.begin_message("T1")
    octets = b"..a\r\n.b\r\n.\r\nNOOP\r\n"
    protocol.receive_mail_data(octets)
    protocol.send(local_replies.NOOP_OK)
    protocol.next_group(1)
    entries = taken(session)
    assert entries[0] == WireData(0, "C", 12, "T1", dots=(5,))
    assert shown(entries, ">") == b"NOOP\r\n"


def test_pieces_of_mail_data_are_few() -> None:
    clock = Clock()
    session = SessionTape(clock)
    session.upstream.begin_message("T1")
    for _ in range(3 * PIECES):
        clock.seconds += 0.01
        session.upstream.said_data(b"x")
    entries = taken(session)
    assert len(entries) == PIECES
    assert sum(entry.octets for entry in entries if isinstance(entry, WireData)) == 3 * PIECES


def test_pieces_are_few_with_both_legs_at_work() -> None:
    clock = Clock()
    session = SessionTape(clock)
    for leg in (session.client, session.upstream):
        leg.begin_message("T1")
    for _ in range(3 * PIECES):
        clock.seconds += 0.01
        session.client.came(b"xy")
        session.client.read_data(0)
        session.upstream.said_data(b"xy")
    entries = taken(session)
    assert len(entries) == 2 * PIECES
    assert sum(entry.octets for entry in entries if isinstance(entry, WireData)) == 12 * PIECES


def test_a_command_between_chunks_stays_between_them() -> None:
    session = SessionTape(Clock())
    session.client.begin_message("T1")
    for octets, is_data in ((b"BDAT 2\r\n", False), (b"xy", True), (b"BDAT 2\r\n", False), (b"z\n", True)):
        session.client.came(octets)
        if is_data:
            session.client.read_data(0, chunk=True)
        else:
            session.client.read(0)
    assert [type(entry) for entry in taken(session)] == [WireOctets, WireData] * 2


def test_pieces_that_are_close_become_one() -> None:
    clock = Clock()
    session = SessionTape(clock)
    session.upstream.begin_message("T1")
    for _ in range(10):
        clock.seconds += 0.00005
        session.upstream.said_data(b"x")
    assert taken(session) == [WireData(50, "U", 10, "T1")]


def test_of_a_message_so_many_odd_dots_are_remembered_and_no_more() -> None:
    clock = Clock()
    session = SessionTape(clock)
    session.upstream.begin_message("T1")
    for _ in range(10):
        clock.seconds += 0.01
        session.upstream.said_data(b".a\r\n" * 3000)
    dots = [dot for entry in taken(session) if isinstance(entry, WireData) for dot in entry.dots]
    assert dots == [4 * number for number in range(MOST_DOTS)]


# What did not leave was not said.


@given(
    said=st.lists(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"AUTH PLAIN c2VjcmV0\r\n")), max_size=5),
    unsaid=st.integers(0, 60),
)
def test_what_did_not_leave_is_taken_back(said: list[bytes], unsaid: int) -> None:
    session = SessionTape(Clock())
    total = 0
    for octets in said:
        session.upstream.said(octets, "auth" if octets.startswith(b"AUTH") else "plain")
        session.upstream.event("eof")
        total += len(octets)
    session.upstream.unsay(unsaid)
    left = sum(
        len(entry.octets) + sum(length for _, length in entry.gaps)
        for entry in taken(session)
        if isinstance(entry, WireOctets)
    )
    assert left == max(0, total - unsaid)


# Order.


def test_entries_are_told_in_order_of_time() -> None:
    clock = Clock()
    session = SessionTape(clock)
    session.client.came(b"NOOP\r\n")
    clock.seconds = 1
    session.upstream.event("open", "127.0.0.1:25")
    first = session.take()
    session.client.read(0)
    second = session.take()
    assert first is not None
    assert second is not None
    assert list(in_order([first, second])) == [
        WireOctets(0, "C", ">", b"NOOP\r\n"),
        WireEvent(1_000_000, "U", "open", ("127.0.0.1:25",)),
    ]


def test_an_end_is_told_once() -> None:
    session = SessionTape(Clock())
    session.client.event("eof")
    session.client.event("eof")
    session.client.event("reset")
    session.client.event("close", by_us=True)
    assert [entry.name for entry in taken(session) if isinstance(entry, WireEvent)] == ["eof", "close"]
