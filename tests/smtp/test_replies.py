"""Replies, read and written: RFC 5321 §4.2, RFC 2034; PROTOCOL §1.6, attack 12."""

from __future__ import annotations

import re
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayproxy.smtp import local_replies
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.replies import Reply, ReplyReader, worst

BROKEN = "broken"
Event = Reply | str


def drain(reader: ReplyReader) -> list[Event]:
    """All that can be had now."""
    events: list[Event] = []
    try:
        while (reply := reader.next_reply()) is not None:
            events.append(reply)
    except RemoteProtocolError as error:
        told = (
            error.fatal
            and error.reply == local_replies.UPSTREAM_VIOLATION
            and error.what.startswith("the server sent ")
        )
        events.append(BROKEN if told else f"{error!r}: {error.reply}")
    return events


def run(
    pieces: list[bytes], max_bytes: int = 120, max_lines: int = 4, max_line: int = 40
) -> tuple[list[Event], ReplyReader]:
    reader = ReplyReader(max_bytes, max_lines, max_line)
    events: list[Event] = []
    for piece in pieces:
        reader.feed(piece)
        events += drain(reader)
        if BROKEN in events:
            break
    return events, reader


def octet_by_octet(octets: bytes) -> list[bytes]:
    return [octets[i : i + 1] for i in range(len(octets))]


OK = Reply(250, (b"ok",))

READ: list[tuple[bytes, list[Event]]] = [
    (b"", []),
    (b"250 ok\r\n", [OK]),
    (b"250 ok\r", []),
    (b"250 ok", []),
    (b"250 ok\r\n354 go\r\n221", [OK, Reply(354, (b"go",))]),
    # no text, with and without the space (RFC 5321 §4.2: "SP SHOULD be sent")
    (b"250\r\n", [Reply(250, (b"",))]),
    (b"250 \r\n", [Reply(250, (b"",))]),
    (b"250  x \r\n", [Reply(250, (b" x ",))]),
    # several lines
    (b"250-a\r\n250 b\r\n", [Reply(250, (b"a", b"b"))]),
    (b"250-a\r\n250-\r\n250\r\n", [Reply(250, (b"a", b"", b""))]),
    (b"250-a\r\n250-b\r\n250-c\r\n", []),
    (b"250-a\r\n250 b\r\n250 ok\r\n", [Reply(250, (b"a", b"b")), OK]),
    # the codes' edges; ones unknown to us pass (PROTOCOL §1.6)
    (b"200 ok\r\n599 no\r\n", [Reply(200, (b"ok",)), Reply(599, (b"no",))]),
    (b"298 ok\r\n", [Reply(298, (b"ok",))]),
    # any octets but CR, LF, NUL
    (b"550 \x1b[31m\xff\xc3\xa9\t\x7f\r\n", [Reply(550, (b"\x1b[31m\xff\xc3\xa9\t\x7f",))]),
    # no codes
    (b"120 wait\r\n", [BROKEN]),
    (b"050 x\r\n", [BROKEN]),
    (b"600 x\r\n", [BROKEN]),
    (b"25O ok\r\n", [BROKEN]),
    (b"25\r\n", [BROKEN]),
    (b"2500\r\n", [BROKEN]),
    (b"250_ok\r\n", [BROKEN]),
    (b"250\tok\r\n", [BROKEN]),
    (b" 250 ok\r\n", [BROKEN]),
    (b"+25 ok\r\n", [BROKEN]),
    (b"2_5 ok\r\n", [BROKEN]),
    (b"\xd9\xa2\xd9\xa5\xd9\xa0 ok\r\n", [BROKEN]),  # Arabic digits, which int() takes
    (b"\r\n", [BROKEN]),
    (b"ok\r\n", [BROKEN]),
    (b"HTTP/1.1 400 Bad Request\r\n", [BROKEN]),
    # one reply, two codes: what Postfix calls refused, others call delivered
    (b"250-ok\r\n550 no\r\n", [BROKEN]),
    (b"550-no\r\n250 ok\r\n", [BROKEN]),
    (b"250-ok\r\n251 ok\r\n", [BROKEN]),
    (b"250-ok\r\n\r\n", [BROKEN]),
    # reply splitting: only CRLF ends a line
    (b"550 no\r250 ok\r\n", [BROKEN]),
    (b"550 no\n250 ok\r\n", [BROKEN]),
    (b"550 no\n", [BROKEN]),
    (b"550 no\r\r\n", [BROKEN]),
    (b"550 n\0\r\n", [BROKEN]),
    (b"250 ok\r\n\n", [OK, BROKEN]),
    (b"250 ok\r\n\r250 ok\r\n", [OK, BROKEN]),
    (b"250-a\n250 b\r\n", [BROKEN]),
    # forty octets with the CRLF, and one more
    (b"250 " + b"x" * 34 + b"\r\n", [Reply(250, (b"x" * 34,))]),
    (b"250 " + b"x" * 34 + b"\r", []),
    (b"250 " + b"x" * 35 + b"\r\n", [BROKEN]),
    (b"250 " + b"x" * 35, [BROKEN]),
    (b"250-" + b"x" * 35 + b"\r\n", [BROKEN]),
    (b"x" * 1000, [BROKEN]),
    # four lines, and one more
    (b"250-\r\n" * 3 + b"250 ok\r\n", [Reply(250, (b"", b"", b"", b"ok"))]),
    (b"250-\r\n" * 4, []),
    (b"250-\r\n" * 5, [BROKEN]),
    (b"250-\r\n" * 4 + b"250 ok\r\n", [BROKEN]),
    # 120 octets, and one more
    ((b"250-" + b"x" * 34 + b"\r\n") * 2 + b"250 " + b"x" * 34 + b"\r\n", [Reply(250, (b"x" * 34,) * 3)]),
    ((b"250-" + b"x" * 34 + b"\r\n") * 2 + b"250-" + b"x" * 34 + b"\r\n250 \r\n", [BROKEN]),
    ((b"250-" + b"x" * 34 + b"\r\n") * 3 + b"2", [BROKEN]),
]  # fmt: skip


@pytest.mark.parametrize(("octets", "events"), READ)
def test_attack_12_replies_are_read_by_the_grammar_or_not_at_all(octets: bytes, events: list[Event]) -> None:
    assert run([octets])[0] == events
    assert run(octet_by_octet(octets))[0] == events


@pytest.mark.parametrize(
    ("octets", "events"), [row for row in READ if row[0].endswith(b"\r\n") and row[1] and BROKEN not in row[1]]
)
def test_what_follows_a_reply_waits_for_its_own_end(octets: bytes, events: list[Event]) -> None:
    got, reader = run([octets + b"451-lat"])
    assert got == events
    assert reader.held == 7
    reader.feed(b"er\r\n451 \r\n")
    assert drain(reader) == [Reply(451, (b"later", b""))]
    assert reader.held == 0


def test_an_unfinished_reply_is_counted_as_held() -> None:
    _, reader = run([b"250-a\r\n250-b\r\n25"])
    assert reader.held == 16


def test_after_a_violation_nothing_is_a_reply_any_more() -> None:
    _, reader = run([b"250-ok\r\n550 no\r\n250 ok\r\n"])
    reader.feed(b"250 ok\r\n")
    assert drain(reader) == [BROKEN]
    assert reader.held == 0


@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (b"250-ok\r\n550 no\r\n", "reply codes that differ: 250 and then 550 in line 2"),
        (b"250-ok\r\n250 n\no\r\n", "a bare LF in line 2 of a reply, octet 5"),
        (b"250 n\ro\r\n", "a bare CR in line 1 of a reply, octet 5"),
        (b"HTTP/1.1 400 Bad\r\n", "in line 1 of a reply something else than a code of 200 to 599"),
        (b"250-\r\n" * 5, "a reply of more than 4 lines"),
        (b"250 " * 20, "a reply line of more than 40 octets"),
    ],
)
def test_errors_tell_what_came_and_where(octets: bytes, what: str) -> None:
    reader = ReplyReader(120, 4, 40)
    reader.feed(octets)
    with pytest.raises(RemoteProtocolError, match=re.escape(what)):
        reader.next_reply()


@pytest.mark.parametrize("endless", [b"x" * 4096, b"250-" + b"x" * 94 + b"\r\n", b"250-\r\n", b"250 ok\n"])
def test_attack_12_an_endless_reply_takes_bounded_memory(endless: bytes) -> None:
    reader = ReplyReader(max_bytes=64 * 1024, max_lines=512)
    tracemalloc.start()
    try:
        for _ in range(2000):
            reader.feed(endless)
            if BROKEN in drain(reader):
                break
        else:
            pytest.fail("it is still read")
        assert tracemalloc.get_traced_memory()[1] < 512 * 1024
    finally:
        tracemalloc.stop()
    assert reader.held == 0


pieces = st.lists(
    st.sampled_from(
        [b"250", b"550", b"2", b"-", b" ", b"\r\n", b"\r", b"\n", b"\0", b"ok", b"250-a\r\n", b"250 b\r\n", b"x" * 30]
    )
)


@given(pieces, st.lists(st.integers(0, 200), max_size=6))
@example([b"250 ok\r\n", b"\n"], [8])
@example([b"250 ok\r", b"\n"], [7])
def test_cutting_octets_elsewhere_changes_no_reply(parts: list[bytes], cuts: list[int]) -> None:
    octets = b"".join(parts)
    borders = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    whole, reader = run([octets])
    cut, other = run([octets[a:b] for a, b in pairwise(borders)])
    assert cut == whole == run(octet_by_octet(octets))[0]
    assert reader.held == other.held


FACTS: list[tuple[Reply, int, str | None, bytes]] = [
    (Reply(250, (b"2.1.5 ok",)), 2, "2.1.5", b"ok"),
    (Reply(250), 2, None, b""),
    (Reply(250, ()), 2, None, b""),
    (Reply(250, (b"2.1.5",)), 2, "2.1.5", b""),
    (Reply(550, (b"5.1.1 no", b"5.1.1 such", b"5.1.1")), 5, "5.1.1", b"no\nsuch\n"),
    (Reply(550, (b"5.1.1 no", b"such", b"5.7.1 other")), 5, "5.1.1", b"no\nsuch\n5.7.1 other"),
    (Reply(550, (b"no", b"5.1.1 such")), 5, None, b"no\n5.1.1 such"),
    (Reply(450, (b"4.999.123  x",)), 4, "4.999.123", b" x"),
    # not of the reply's class (RFC 2034 §4), not one, not alone
    (Reply(250, (b"5.1.1 odd",)), 2, None, b"5.1.1 odd"),
    (Reply(354, (b"3.0.0 go",)), 3, None, b"3.0.0 go"),
    (Reply(550, (b"5.1.1111 x",)), 5, None, b"5.1.1111 x"),
    (Reply(550, (b"5.1.1x",)), 5, None, b"5.1.1x"),
    (Reply(550, (b"5.1.1\n x",)), 5, None, b"5.1.1\n x"),
    (Reply(550, (b" 5.1.1 x",)), 5, None, b" 5.1.1 x"),
    (Reply(599, (b"\xd9\xa2.1.1 x",)), 5, None, b"\xd9\xa2.1.1 x"),
]


@pytest.mark.parametrize(("reply", "severity", "enhanced", "text"), FACTS)
def test_what_a_reply_says(reply: Reply, severity: int, enhanced: str | None, text: bytes) -> None:
    assert (reply.severity, reply.enhanced, reply.text) == (severity, enhanced, text)


E_ACUTE = "é".encode()

WIRE: list[tuple[Reply, bytes]] = [
    (Reply(250, (b"ok",)), b"250 ok\r\n"),
    (Reply(250), b"250 \r\n"),
    (Reply(250, ()), b"250 \r\n"),
    (Reply(250, (b"a", b"", b"c")), b"250-a\r\n250-\r\n250 c\r\n"),
    # control characters, of all three kinds (attack 22); UTF-8 stays
    (Reply(550, (b"a\r\n250 b\0\x1b[0m\x7f\t",)), b"550 a??250 b??[0m??\r\n"),
    (Reply(550, (b"a", b"b\r\n")), b"550-a\r\n550 b??\r\n"),
    (Reply(550, ("Größe € 😀".encode(),)), "550 Größe € 😀\r\n".encode()),
    (Reply(550, ("\x9b31m\x85\u2028".encode(),)), "550 ?31m?\u2028\r\n".encode()),
    (Reply(550, ("é\r\n".encode(),)), "550 é??\r\n".encode()),
    (Reply(550, (b"\x9b31m",)), b"550 ?31m\r\n"),
    (Reply(550, (b"Gr\xf6\xdfe \xed\xa0\x80 \xc0\x8d",)), b"550 Gr??e ??? ??\r\n"),
    # 512 octets, and one more
    (Reply(250, (b"x" * 506,)), b"250 " + b"x" * 506 + b"\r\n"),
    (Reply(250, (b"x" * 507,)), b"250-" + b"x" * 506 + b"\r\n250 x\r\n"),
    (Reply(250, (b"x" * 507, b"y")), b"250-" + b"x" * 506 + b"\r\n250-x\r\n250 y\r\n"),
    (Reply(550, (b"5.1.1 " + b"x" * 501,)), b"550-5.1.1 " + b"x" * 500 + b"\r\n550 5.1.1 x\r\n"),
    (
        Reply(550, (b"5.1.1 " + b"x" * 1001,)),
        b"550-5.1.1 " + b"x" * 500 + b"\r\n550-5.1.1 " + b"x" * 500 + b"\r\n550 5.1.1 x\r\n",
    ),
    # between characters
    (Reply(250, (b"x" + E_ACUTE * 253,)), b"250-x" + E_ACUTE * 252 + b"\r\n250 " + E_ACUTE + b"\r\n"),
    (Reply(250, (b"x" * 503 + "😀".encode(),)), b"250-" + b"x" * 503 + b"\r\n250 " + "😀".encode() + b"\r\n"),
]


@pytest.mark.parametrize(
    ("codes", "code"),
    [([250], 250), ([250, 550], 550), ([550, 451, 452], 451), ([354, 550], 550), ([250, 354], 250), ([250, 421], 421)],
)
def test_a_refusal_stands_for_all_and_one_for_now_before_one_for_good(codes: list[int], code: int) -> None:
    assert worst([Reply(one) for one in codes]).code == code


@pytest.mark.parametrize(("reply", "octets"), WIRE)
def test_what_leaves_is_clean_and_short(reply: Reply, octets: bytes) -> None:
    assert reply.wire == octets


@pytest.mark.parametrize("code", [-250, 0, 25, 199, 600, 2500])
def test_no_code_no_reply(code: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"got {code}"):
        _ = Reply(code).wire


texts = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=600).map(str.encode),
    st.text("é😀x", min_size=490, max_size=600).map(lambda text: b"5.7.1 " + text.encode()),
)


@settings(max_examples=40)
@given(
    st.integers(200, 599).filter(lambda code: code != 334), st.lists(texts, min_size=1, max_size=4)
)  # a challenge is not cut
def test_what_leaves_is_read_as_one_reply_of_the_same_code(code: int, lines: list[bytes]) -> None:
    octets = Reply(code, tuple(lines)).wire
    assert all(len(line) <= 510 for line in octets.split(b"\r\n"))
    assert re.fullmatch(r"(?:[2-5][0-9]{2}[ -][^\x00-\x1f\x7f-\x9f]*\r\n)+", octets.decode("utf-8"))
    reader = ReplyReader(64 * 1024, 512, 512)
    reader.feed(octets)
    reply = reader.next_reply()
    assert reply is not None
    assert reply.code == code
    assert (reply.wire, reader.held) == (octets, 0)


@given(
    st.integers(200, 599),
    st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=400), min_size=1, max_size=5),
)
def test_a_clean_text_passes_unchanged(code: int, lines: list[str]) -> None:
    reader = ReplyReader(64 * 1024, 512)
    reader.feed(Reply(code, tuple(line.encode() for line in lines)).wire)
    assert reader.next_reply() == Reply(code, tuple(line.encode() for line in lines))
