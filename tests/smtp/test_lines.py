"""Lines out of octets: RFC 5321 §2.3.8; PROTOCOL §1.2, attack 15."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp import local_replies
from relayproxy.smtp.errors import RemoteProtocolError
from relayproxy.smtp.lines import LineBuffer

LONG = "too long"
ENDLESS = "endless"


def drain(buffer: LineBuffer) -> list[bytes | str]:
    """All that can be had now: lines, and what errors stand for."""
    events: list[bytes | str] = []
    while True:
        try:
            line = buffer.next_line()
        except RemoteProtocolError as error:
            events.append({local_replies.LINE_WITHOUT_END: ENDLESS, local_replies.LINE_TOO_LONG: LONG}[error.reply])
            if error.fatal:
                return events
            continue
        if line is None:
            return events
        events.append(line)


def run(pieces: list[bytes], max_line: int = 10, max_discard: int = 20) -> tuple[list[bytes | str], LineBuffer]:
    buffer = LineBuffer(max_line, max_discard, max_line)
    events: list[bytes | str] = []
    for piece in pieces:
        buffer.feed(piece)
        events += drain(buffer)
        if ENDLESS in events:
            break
    return events, buffer


TABLE: list[tuple[bytes, list[bytes | str]]] = [
    (b"", []),
    (b"\r\n", [b""]),
    (b"QUIT\r\n", [b"QUIT"]),
    (b"QUIT", []),
    (b"QUIT\r", []),
    (b"A\r\nB\r\n\r\nC", [b"A", b"B", b""]),
    # only CRLF ends a line
    (b"A\nB\r\n", [b"A\nB"]),
    (b"A\rB\r\n", [b"A\rB"]),
    (b"A\r\r\n", [b"A\r"]),
    (b"\n\r\r\n", [b"\n\r"]),
    (b"\x00\r\n", [b"\x00"]),
    # ten octets with the CRLF, and one more
    (b"12345678\r\n", [b"12345678"]),
    (b"123456789\r\n", [LONG]),
    (b"12345678\r", []),
    (b"12345678\r\rX\r\n", [LONG]),
    (b"123456789\r\nQUIT\r\n", [LONG, b"QUIT"]),
    (b"1" * 28 + b"\r\nQUIT\r\n", [LONG, b"QUIT"]),
    # thirty with the CRLF is the end of patience
    (b"1" * 29 + b"\r\nQUIT\r\n", [ENDLESS]),
    (b"1" * 29, []),
    (b"1" * 30, [ENDLESS]),
    (b"1" * 28 + b"\r", []),
    (b"1" * 1000, [ENDLESS]),
    (b"123456789\r\n123456789\r\nX\r\n", [LONG, LONG, b"X"]),
]


@pytest.mark.parametrize(("octets", "events"), TABLE)
def test_a_line_ends_with_crlf_and_has_a_limit(octets: bytes, events: list[bytes | str]) -> None:
    assert run([octets])[0] == events
    assert run([octets[i : i + 1] for i in range(len(octets))])[0] == events


@pytest.mark.parametrize(
    ("octets", "events"), [row for row in TABLE if row[0].endswith(b"\r\n") and ENDLESS not in row[1]]
)
def test_what_follows_is_kept_as_it_came(octets: bytes, events: list[bytes | str]) -> None:
    got, buffer = run([octets + b"\r.x\n"])
    assert got == events
    assert buffer.held == 4
    assert buffer.take(1 << 20) == b"\r.x\n"
    assert buffer.held == 0
    assert buffer.next_line() is None


def test_the_rest_is_there_before_its_lines_are_read() -> None:
    buffer = LineBuffer(100, 0, 100)
    buffer.feed(b"DATA\r\nSubject: x\r\n\r\n.\r\n")
    assert buffer.next_line() == b"DATA"
    assert buffer.take(1 << 20) == b"Subject: x\r\n\r\n.\r\n"


def test_the_first_octet_can_be_seen_before_its_line_ends() -> None:
    buffer = LineBuffer(10, 20, 10)
    assert buffer.peek() is None
    buffer.feed(b"\x16")
    assert buffer.peek() == 0x16
    buffer.feed(b"\r\nQ")
    assert buffer.next_line() == b"\x16"
    assert buffer.peek() == ord("Q")


def test_the_middle_of_an_over_long_line_is_no_first_octet() -> None:
    buffer = LineBuffer(10, 20, 10)
    buffer.feed(b"A" * 12)
    assert buffer.next_line() is None
    buffer.feed(b"\x16\x03")
    assert buffer.peek() is None
    assert buffer.next_line() is None
    buffer.feed(b"\r\n\x16")
    with pytest.raises(RemoteProtocolError, match="at most 10 octets, got 16"):
        buffer.next_line()
    assert buffer.peek() == 0x16


def test_clear_forgets_an_over_long_line_too() -> None:
    buffer = LineBuffer(10, 20, 10)
    buffer.feed(b"A" * 15)
    assert buffer.next_line() is None
    buffer.clear()
    buffer.feed(b"QUIT\r\n")
    assert buffer.next_line() == b"QUIT"


def test_what_is_dropped_takes_no_memory() -> None:
    buffer = LineBuffer(4096, 1 << 40, 4096)
    piece = b"x" * 65536
    tracemalloc.start()
    try:
        for _ in range(200):
            buffer.feed(piece)
            assert buffer.next_line() is None
            assert buffer.held == 0
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4096
    assert peak < 1 << 18


octets = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"\x00", b"A", b"MAIL", b"12345678", b"." * 11])).map(
    b"".join
)


@given(octets, st.data())
def test_how_octets_are_cut_changes_nothing(whole: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    events, buffer = run(pieces)
    expected, other = run([whole])
    assert events == expected
    if ENDLESS not in events:
        assert buffer.held <= 10
        assert buffer.take(1 << 20) == other.take(1 << 20)


@given(octets)
def test_lines_are_what_splitting_at_crlf_gives(whole: bytes) -> None:
    events, buffer = run([whole], max_line=1 << 20)
    assert [*events, buffer.take(1 << 20)] == whole.split(b"\r\n")
