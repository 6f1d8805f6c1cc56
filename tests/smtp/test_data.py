"""Mail data: RFC 5321 §4.5.2, RFC 1870 §3; PROTOCOL §1.5, attacks 1, 2, 3, 14, 15."""

from __future__ import annotations

import re
import tracemalloc
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayproxy.smtp import data
from relayproxy.smtp.data import END_OF_DATA, ChunkReader, DataReader, stuff
from relayproxy.smtp.errors import LocalProtocolError

MAX_LINE = 20


class Read:
    """What a reader made of pieces: slices joined, facts at the end."""

    def __init__(self, pieces: list[bytes], max_line: int = MAX_LINE) -> None:
        self.reader = reader = DataReader(max_line)
        self.wire = self.content = self.rest = b""
        self.dots: list[int] = []
        self.ended = False
        for piece in pieces:
            if self.ended:
                self.rest += piece
                continue
            part = reader.feed(piece)
            # A dot comes in the slice of its CRLF: who reads slices need remember nothing.
            assert not (part.wire.startswith(b".") and self.wire.endswith(b"\r\n"))
            self.wire += part.wire
            self.content += part.content
            self.dots += reader.take_dots()
            self.ended, self.rest = part.ended, part.rest

    @property
    def facts(self) -> tuple[object, ...]:
        reader = self.reader
        facts = (reader.size, reader.violation, reader.line_too_long, reader.eight_bit)
        return (self.wire, self.content, self.ended, self.rest, *facts)


def unstuff(wire: bytes) -> bytes:
    """`stuff` undone, in the plainest way, for whole mail data without its end."""
    content = wire[1:] if wire.startswith(b".") else wire
    return content.replace(b"\r\n.", b"\r\n")


def octet_by_octet(octets: bytes) -> list[bytes]:
    return [octets[i : i + 1] for i in range(len(octets))]


# what came; what may leave; what it says (None: the same)
ENDS: list[tuple[bytes, bytes, bytes | None]] = [
    (b".\r\n", b"", None),
    (b"\r\n.\r\n", b"\r\n", None),
    (b"a\r\n.\r\n", b"a\r\n", None),
    (b"a\r\n\r\n.\r\n", b"a\r\n\r\n", None),
    (b"a\r\nb\r\n.\r\n", b"a\r\nb\r\n", None),
    (b"a.\r\n.\r\n", b"a.\r\n", None),
    (b". \r\n.\r\n", b". \r\n", b" \r\n"),
    # stuffed
    (b"..\r\n.\r\n", b"..\r\n", b".\r\n"),
    (b"..x\r\n.\r\n", b"..x\r\n", b".x\r\n"),
    (b"...\r\n.\r\n", b"...\r\n", b"..\r\n"),
    (b"a\r\n..\r\n.\r\n", b"a\r\n..\r\n", b"a\r\n.\r\n"),
    (b"a\r\n..\r\n..\r\n.\r\n", b"a\r\n..\r\n..\r\n", b"a\r\n.\r\n.\r\n"),
    (b"a\r\n..b\r\n...c\r\n.\r\n", b"a\r\n..b\r\n...c\r\n", b"a\r\n.b\r\n..c\r\n"),
    (b"..a\r\n\r\n..\r\n\r\n.\r\n", b"..a\r\n\r\n..\r\n\r\n", b".a\r\n\r\n.\r\n\r\n"),
    # not stuffed as it should be; the first dot goes all the same (RFC 5321 §4.5.2)
    (b".x\r\n.\r\n", b".x\r\n", b"x\r\n"),
    (b"a\r\n.b\r\n.\r\n", b"a\r\n.b\r\n", b"a\r\nb\r\n"),
    (b"a\r\n. \r\n.\r\n", b"a\r\n. \r\n", b"a\r\n \r\n"),
]


@pytest.mark.parametrize(("octets", "wire", "content"), ENDS)
@pytest.mark.parametrize("rest", [b"", b"QUIT\r\n", b".\r\n", b"\r\n.\r\n", b"\0\n\r"])
def test_only_a_dot_alone_between_crlf_ends_data(
    octets: bytes, wire: bytes, content: bytes | None, rest: bytes
) -> None:
    says = wire if content is None else content
    expected = (wire, says, True, rest, len(says), None, False, False)
    assert Read([octets + rest]).facts == expected
    assert Read(octet_by_octet(octets + rest)).facts == expected
    assert wire + END_OF_DATA == octets
    assert unstuff(wire) == says


@pytest.mark.parametrize("octets", [row[0] for row in ENDS])
def test_without_its_last_octet_it_has_not_ended(octets: bytes) -> None:
    assert not Read([octets[:-1]]).ended
    assert not Read(octet_by_octet(octets[:-1])).ended


@pytest.mark.parametrize("octets", [row[0] for row in ENDS])
def test_what_may_be_an_end_of_data_does_not_leave_i3(octets: bytes) -> None:
    for cut in range(len(octets)):
        wire = Read([octets[:cut]]).wire
        came = b"\r\n" + octets[:cut]
        held = next(n for n in (4, 3, 2, 1, 0) if came.endswith(b"\r\n.\r"[:n]))
        assert wire == came[2 : max(len(came) - held, 2)]


def test_what_was_not_stuffed_is_not_copied() -> None:
    part = DataReader(1000).feed(b"a.b\r\n.\r\n")
    assert part.content is part.wire


EVIL = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<v@example.net>\r\nDATA\r\nx\r\n"

# PROTOCOL §2, row 1, and what is said of it
SMUGGLING: list[tuple[str, bytes, str]] = [
    ("LF . LF", b"\n.\n", "a bare LF at octet 1"),
    ("LF . CRLF", b"\n.\r\n", "a bare LF at octet 1"),
    ("CRLF . LF", b"\r\n.\n", "a bare LF at octet 4"),
    ("CR . CR", b"\r.\r", "a bare CR at octet 1"),
    ("CR . LF", b"\r.\n", "a bare CR at octet 1"),
    ("LF . CR", b"\n.\r", "a bare LF at octet 1"),
    ("CR . CRLF", b"\r.\r\n", "a bare CR at octet 1"),
    ("CRLF . CR", b"\r\n.\r", "a bare CR at octet 4"),
    ("CRLF 00 . CRLF", b"\r\n\0.\r\n", "a NUL at octet 3"),
    ("CRLF . 00 CRLF", b"\r\n.\0\r\n", "a NUL at octet 4"),
    ("CRLF . CR CRLF", b"\r\n.\r\r\n", "a bare CR at octet 4"),
    ("LF LF . CRLF", b"\n\n.\r\n", "a bare LF at octet 1"),
    # and with the stuffing that a careless hop adds or takes
    ("LF .. LF", b"\n..\n", "a bare LF at octet 1"),
    ("CRLF .. CR CRLF", b"\r\n..\r\r\n", "a bare CR at octet 5"),
    # attack 14
    ("CRLF . 00 junk CRLF", b"\r\n.\0junk\r\n", "a NUL at octet 4"),
    ("CRLF . 00 LF", b"\r\n.\0\n", "a NUL at octet 4"),
]


@pytest.mark.parametrize(("sequence", "violation"), [row[1:] for row in SMUGGLING], ids=[row[0] for row in SMUGGLING])
@pytest.mark.parametrize("rest", [b"", b"NOOP\r\n"])
def test_attack_1_nothing_else_ends_data(sequence: bytes, violation: str, rest: bytes) -> None:
    octets = b"a" + sequence + EVIL
    for pieces in ([octets + b".\r\n" + rest], octet_by_octet(octets + b".\r\n" + rest)):
        read = Read(pieces, max_line=1000)
        assert (read.ended, read.wire, read.rest) == (True, octets, rest)
        assert read.reader.violation == f"{violation} of the mail data"


@pytest.mark.parametrize(("sequence", "violation"), [row[1:] for row in SMUGGLING], ids=[row[0] for row in SMUGGLING])
def test_attack_1_it_is_told_before_any_octet_of_it_leaves(sequence: bytes, violation: str) -> None:
    octets = b"a" + sequence + EVIL + b".\r\n"
    for cut in range(len(octets)):
        reader, left = DataReader(1000), b""
        for piece in (octets[:cut], octets[cut:]):
            part = reader.feed(piece)
            if reader.violation is None:
                left += part.wire
        assert reader.violation == f"{violation} of the mail data"
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", left)


@pytest.mark.parametrize("sequence", [row[1] for row in SMUGGLING], ids=[row[0] for row in SMUGGLING])
def test_attack_1_at_the_very_start_too(sequence: bytes) -> None:
    octets = sequence.removeprefix(b"\r\n") + EVIL
    for pieces in ([octets + b".\r\n"], octet_by_octet(octets + b".\r\n")):
        read = Read(pieces, max_line=1000)
        assert (read.ended, read.wire) == (True, octets)
        assert read.reader.violation is not None


def test_attack_2_octets_that_become_an_end_without_their_high_bit_are_told() -> None:
    read = Read([b"a\x8d\x8a\xae\x8d\x8a" + EVIL + b".\r\n"], max_line=1000)
    assert (read.ended, read.reader.eight_bit, read.reader.violation) == (True, True, None)


def test_the_first_violation_is_the_one_that_is_told() -> None:
    read = Read([b"a\r\n", b"b\rc\nd\0e\r\n.\r\n"])
    assert read.reader.violation == "a bare CR at octet 4 of the mail data"


@pytest.mark.parametrize(
    ("octets", "too_long"),
    [
        (b"", False),
        (b"x" * 18 + b"\r\n", False),
        (b"x" * 19 + b"\r\n", True),
        (b"x" * 18 + b"\r\n" + b"x" * 18 + b"\r\n", False),
        (b"x" * 18 + b"\r\n" + b"x" * 19 + b"\r\n", True),
        (b"x\r\n" * 50, False),
        (b"x\r\n" * 50 + b"x" * 19 + b"\r\n" + b"x\r\n", True),
        (b"." + b"." * 18 + b"\r\n", False),  # stuffing is not counted (RFC 5321 §4.5.3.1.6)
        (b"x\r\n." + b"." * 18 + b"\r\n", False),
        (b"x\r\n." + b"." * 19 + b"\r\n", True),
        (b"x" * 17 + b"\r\r\n", False),
        (b"x" * 18 + b"\r\r\n", True),
        (b"xxxxxxxxx\n" * 3 + b"\r\n", True),  # only CRLF ends a line
    ],
)
def test_a_line_has_a_limit(octets: bytes, too_long: bool) -> None:
    octets += b".\r\n"
    for step in (1, 2, 3, 7, 19, 20, 21, 1000):
        read = Read([octets[i : i + step] for i in range(0, len(octets), step)])
        assert (read.ended, read.reader.line_too_long) == (True, too_long), step


def test_attack_15_a_line_without_end_is_read_and_not_kept() -> None:
    reader = DataReader(1000)
    block = b"x" * 65536
    tracemalloc.start()
    try:
        for _ in range(160):
            reader.feed(block)
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()
    assert reader.line_too_long
    assert reader.size == 160 * 65536
    assert reader.feed(b"\r\n.\r\n").ended


def test_behind_the_end_there_is_no_mail_data() -> None:
    reader = DataReader(1000)
    reader.feed(b".\r\n")
    with pytest.raises(LocalProtocolError):
        reader.feed(b"x")


STUFFED: list[tuple[bytes, bytes]] = [
    (b"", b""),
    (b".", b".."),
    (b"..", b"..."),
    (b"a.\r\n", b"a.\r\n"),
    (b".\r\n", b"..\r\n"),
    (b"a\r\n.\r\nb", b"a\r\n..\r\nb"),
    (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n"),
    (b"a\r\n..b\r\n", b"a\r\n...b\r\n"),
]


@pytest.mark.parametrize(("content", "wire"), STUFFED)
def test_stuffing(content: bytes, wire: bytes) -> None:
    assert stuff(content) == wire
    assert unstuff(wire) == content


# Properties

soup = st.lists(
    st.sampled_from(
        [
            b"\r\n.\r\n",
            b"\r\n..",
            b"\r\n.",
            b"\r\n",
            b"\r",
            b"\n",
            b"\0",
            b".",
            b"..",
            b"a",
            b"\x8d\x8a",
            b"\xae",
            b"x" * 9,
        ]
    )
).map(b"".join)
clean = st.lists(st.sampled_from([b"\r\n.\r\n", b"\r\n", b"\r\n..", b".", b"a", b"x" * 9])).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=8)


def cut(octets: bytes, at: list[int]) -> list[bytes]:
    borders = [0, *sorted(min(border, len(octets)) for border in at), len(octets)]
    return [octets[a:b] for a, b in pairwise(borders)]


@settings(max_examples=60)
@given(st.one_of(soup, st.binary(max_size=40)), cuts)
@example(b"..\r\n.\r\nX", [1, 2, 3, 4, 5, 6])
def test_cutting_octets_elsewhere_changes_neither_facts_nor_bytes(octets: bytes, at: list[int]) -> None:
    octets += b"\r\n.\r\n"
    whole = Read([octets])
    assert whole.ended
    assert whole.wire + END_OF_DATA + whole.rest == octets
    for other in (Read(cut(octets, at)), Read(octet_by_octet(octets))):
        assert (other.facts, other.dots) == (whole.facts, whole.dots)


@settings(max_examples=60)
@given(st.one_of(soup, clean), cuts)
@example(b"a\r\n.\r\n.x", [])
@example(b"a\r\n..\r", [4])
def test_what_is_taken_for_the_middle_of_a_large_message_is_read_alike(octets: bytes, at: list[int]) -> None:
    octets += b"\r\n.\r\n"
    with patch.object(data, "_LARGE", 0):
        large = Read(cut(octets, at))
    whole = Read([octets])
    assert (large.facts, large.dots) == (whole.facts, whole.dots)


@settings(max_examples=60)
@given(st.one_of(soup, st.binary()))
def test_stuffing_is_undone(content: bytes) -> None:
    assert unstuff(stuff(content)) == content


@settings(max_examples=60)
@given(st.one_of(soup, st.binary()), cuts)
def test_what_is_stuffed_is_read_as_one_message(content: bytes, at: list[int]) -> None:
    content += b"" if content.endswith(b"\r\n") or not content else b"\r\n"
    read = Read(cut(stuff(content) + END_OF_DATA + b"QUIT\r\n", at))
    assert (read.ended, read.content, read.rest) == (True, content, b"QUIT\r\n")
    assert read.reader.size == len(read.content)


@settings(max_examples=60)
@given(soup)
def test_facts_are_those_of_a_plain_reading(octets: bytes) -> None:
    read = Read([octets + b"\r\n.\r\n"])
    content, reader = read.content, read.reader
    assert (reader.violation is None) == (not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", read.wire))
    assert reader.eight_bit == any(octet > 127 for octet in content)
    assert reader.line_too_long == any(len(line) + 2 > MAX_LINE for line in content.split(b"\r\n")[:-1])


def messages(octets: bytes, line_end: bytes) -> int:
    """How many messages a careless reader sees: lines end where it likes, space around a dot and all behind NUL is nothing to it."""
    return sum(line.split(b"\0")[0].strip(b"\r\n") == b"." for line in re.split(line_end, octets))


LAX = [rb"\n", rb"\r", rb"\r\n", rb"\r\n|\n|\r", rb"\r?\n", rb"[\r\n\0]"]


@pytest.mark.slow
@settings(max_examples=300)
@given(st.one_of(soup, clean), cuts)
@example(b"a\n.\r\n", [])
@example(b"a\r\n.\0x\r\n", [])
@example(b"a\x8d\x8a\xae\x8d\x8a", [])
def test_a_careless_upstream_sees_as_many_messages_as_we_or_we_told(octets: bytes, at: list[int]) -> None:
    read = Read(cut(octets + b"\r\n.\r\n", at))
    sent = read.wire + END_OF_DATA
    if read.reader.violation is None:
        assert {messages(sent, lax) for lax in LAX} == {1}
        # A server without 8BITMIME may clear the high bit (RFC 5321 §2.4, attack 2).
        seven = bytes(octet & 0x7F for octet in sent)
        assert read.reader.eight_bit or {messages(seven, lax) for lax in LAX} == {1}


TEXT = b"x" * 77 + b"\r\n"


@pytest.mark.parametrize("behind", [b"", b"QUIT\r\n", b".\r\n", b"\r\n.\r\n", TEXT * 300])
@pytest.mark.parametrize(
    "end", [b".\r\n", b"..\r\n.\r\n", b"x" * 100, b"\r\n.x", b"..\r\n", b"\r", b"\r\n", b"\r\n.", b"."]
)
@pytest.mark.parametrize("stuffed", [b"", b"..stuffed\r\n"])
def test_large_pieces_are_cut_in_another_way_and_read_alike(stuffed: bytes, end: bytes, behind: bytes) -> None:
    data = TEXT * 200 + stuffed + TEXT * 10 + end + behind
    assert len(data) > 16 * 1024
    whole, octets = DataReader(1 << 20), DataReader(1 << 20)
    one = whole.feed(data)
    many = []
    for at in range(0, len(data), 7):
        many.append(octets.feed(data[at : at + 7]))
        if many[-1].ended:
            break
    assert one.wire == b"".join(part.wire for part in many)
    assert one.content == b"".join(part.content for part in many)
    assert one.ended == many[-1].ended
    assert one.rest == (many[-1].rest + data[7 * len(many) :] if one.ended else b"")
    assert (whole.size, whole.violation, whole.eight_bit) == (octets.size, octets.violation, octets.eight_bit)


# Chunks (RFC 3030).


def read_chunks(pieces: list[bytes], max_line: int = MAX_LINE) -> tuple[ChunkReader, bytes, bytes]:
    """The reader, and what it made of the pieces: as DATA would have it, and as content."""
    reader = ChunkReader(max_line)
    parts = [*[reader.feed(piece) for piece in pieces], reader.finish()]
    assert [part.ended for part in parts] == [False] * len(pieces) + [True]
    return reader, b"".join(part.wire for part in parts), b"".join(part.content for part in parts)


# what came in chunks; what DATA has of it
CHUNKED: list[tuple[list[bytes], bytes]] = [
    ([], b""),
    ([b""], b""),
    ([b"a"], b"a\r\n"),
    ([b"a\r\n"], b"a\r\n"),
    ([b"a\r", b"\n"], b"a\r\n"),
    ([b"."], b"..\r\n"),
    ([b".", b"."], b"...\r\n"),
    ([b"..x\r\n"], b"...x\r\n"),
    ([b"a\r\n.\r\nMAIL\r\n"], b"a\r\n..\r\nMAIL\r\n"),
    ([b"a\r\n.", b"\r\nb"], b"a\r\n..\r\nb\r\n"),
    ([b"a\r\n", b".\r\n"], b"a\r\n..\r\n"),
    ([b"a\r", b"\n.\r", b"\n"], b"a\r\n..\r\n"),
    ([b"a.", b".b"], b"a..b\r\n"),
]


@pytest.mark.parametrize(("pieces", "wire"), CHUNKED)
def test_chunks_become_mail_data(pieces: list[bytes], wire: bytes) -> None:
    assert read_chunks(pieces)[1] == wire
    assert read_chunks(octet_by_octet(b"".join(pieces)))[1] == wire


@pytest.mark.parametrize(
    ("pieces", "violation"),
    [
        ([b"x\n.\r\n"], "a bare LF at octet 1 of the mail data"),
        ([b"ab\r", b".\r\n"], "a bare CR at octet 2 of the mail data"),
        ([b"a\r"], "a bare CR at octet 1 of the mail data"),
        ([b"a\r\n", b"\n"], "a bare LF at octet 3 of the mail data"),
        ([b"\0"], "a NUL at octet 0 of the mail data"),
    ],
)
def test_attack_4_what_no_mail_data_can_say_is_told(pieces: list[bytes], violation: str) -> None:
    assert read_chunks(pieces)[0].violation == violation


@given(st.one_of(soup, st.binary(max_size=40)), cuts)
def test_attack_4_a_message_in_chunks_is_one_message_with_the_same_content(octets: bytes, at: list[int]) -> None:
    reader, wire, content = read_chunks(cut(octets, at))
    assert content == (octets if octets.endswith(b"\r\n") or not octets else octets + b"\r\n")
    read = Read([wire + END_OF_DATA])
    assert (read.content, read.ended, read.rest) == (content, True, b"")
    as_data = read.reader
    assert (reader.size, reader.line_too_long, reader.eight_bit) == (
        as_data.size,
        as_data.line_too_long,
        as_data.eight_bit,
    )
    assert (reader.violation is None) == (as_data.violation is None)
