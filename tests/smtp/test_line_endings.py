"""Bare CR and LF made CRLF: PROTOCOL §1.5, attack 1."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.smtp.data import END_OF_DATA, ChunkReader, DataReader, DataSlice
from relayproxy.smtp.line_endings import Normaliser, lines_before

soup = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\r\n.", b"\xe4"]), max_size=14).map(
    b"".join
)
cuts = st.lists(st.integers(0, 30), max_size=5)


def repaired(pieces: list[bytes], max_line: int = 1000) -> tuple[bytes, bytes, Normaliser]:
    """What leaves of mail data, as on the wire and as content."""
    reader, normaliser = DataReader(max_line), Normaliser(max_line)
    parts: list[DataSlice] = []
    for piece in pieces:
        part = reader.feed(piece)
        parts.append(normaliser.take(part, clean=reader.violation is None))
        if parts[-1].ended:
            break
    return b"".join(part.wire for part in parts), b"".join(part.content for part in parts), normaliser


def cut(octets: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, *[place for place in at if place < len(octets)], len(octets)})
    return [octets[a:b] for a, b in pairwise(places)]


# mail data as it came, what leaves of it (without the end of data), how many were bare
REPAIRED: list[tuple[bytes, bytes, int]] = [
    (b".\r\n", b"", 0),
    (b"a\r\n.\r\n", b"a\r\n", 0),
    (b"..a\r\n..\r\n.\r\n", b"..a\r\n..\r\n", 0),
    (b"a\nb\r\n.\r\n", b"a\r\nb\r\n", 1),
    (b"a\rb\r\n.\r\n", b"a\r\nb\r\n", 1),
    (b"a\n.\r\nMAIL FROM:<x@y>\r\n.\r\n", b"a\r\n..\r\nMAIL FROM:<x@y>\r\n", 1),
    (b"a\n.\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n", 2),
    (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", 1),  # a line of a dot that was stuffing, and an end
    (b"a\r.\r\n.\r\n", b"a\r\n..\r\n", 1),
    (b"a\n\r\n.\r\n", b"a\r\n\r\n", 1),
    (b"\n.\r\n.\r\n", b"\r\n..\r\n", 1),
    (b"a\r\r\n.\r\n", b"a\r\n\r\n", 1),
    (b".\n.\r\n.\r\n", b"\r\n..\r\n", 1),
]


@pytest.mark.parametrize(("octets", "wire", "bare"), REPAIRED)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_each_bare_one_becomes_crlf_and_a_dot_behind_it_is_content(
    octets: bytes, wire: bytes, bare: int, piece: int
) -> None:
    left, content, normaliser = repaired([octets[i : i + piece] for i in range(0, len(octets), piece)])
    assert (left, normaliser.repairs, normaliser.violation) == (wire, bare, None)
    assert normaliser.size == len(content)


@given(soup, cuts)
@example(b"a\n.", [3])
@example(b"\n", [])
def test_what_leaves_is_one_message_to_every_reader(octets: bytes, at: list[int]) -> None:
    """Whoever ends lines at LF, at CR or at CRLF, and however the octets came: one end, the last."""
    octets += b"\r\n.\r\n"
    wire, content, normaliser = repaired(cut(octets, at))
    whole = wire + END_OF_DATA
    assert normaliser.violation is None
    for end in (b"\r\n", b"\n", b"\r"):
        lines = whole.replace(b"\r\n", end).split(end)
        assert lines.index(b".") == len(lines) - 2
    read = DataReader(1000)
    part = read.feed(whole)
    assert (part.content, part.ended, part.rest, read.violation) == (content, True, b"", None)
    assert content == repaired([octets])[1] == re.sub(rb"\r\n|\r|\n", b"\r\n", DataReader(1000).feed(octets).content)


@given(soup, cuts)
def test_what_needs_no_repair_leaves_as_it_came(octets: bytes, at: list[int]) -> None:
    octets += b"\r\n.\r\n"
    reader = DataReader(1000)
    plain = reader.feed(octets)
    if reader.violation is None:
        assert repaired(cut(octets, at))[:2] == (plain.wire, plain.content)


@given(soup, cuts)
def test_chunks_are_repaired_alike(octets: bytes, at: list[int]) -> None:
    """Content that ends in a bare one has an end; all other content gets a CRLF where it has none."""
    reader, normaliser = ChunkReader(1000, bare_ends=True), Normaliser(1000)
    parts: list[DataSlice] = []
    for piece in (*cut(octets, at), None):
        part = reader.finish() if piece is None else reader.feed(piece)
        parts.append(normaliser.take(part, clean=reader.violation is None))
    content = b"".join(part.content for part in parts)
    expected = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    assert content == (expected if expected.endswith(b"\r\n") or not expected else expected + b"\r\n")
    part = DataReader(1000).feed(b"".join(part.wire for part in parts) + END_OF_DATA)
    assert (part.content, part.ended, part.rest) == (content, True, b"")


def test_nul_is_not_repaired() -> None:
    assert repaired([b"a\n\0\r\n.\r\n"])[2].violation == "a NUL at octet 3 of the mail data"


def test_lines_are_measured_as_they_leave() -> None:
    assert not repaired([b"aaa\n" * 100 + b"\r\n.\r\n"], max_line=5)[2].line_too_long
    assert repaired([b"aaaa\n" * 100 + b"\r\n.\r\n"], max_line=5)[2].line_too_long


@pytest.mark.parametrize(("lines", "octets"), [(0, 0), (1, 2), (2, 5), (3, 6), (4, 8), (9, 8)])
def test_lines_before(lines: int, octets: int) -> None:
    assert lines_before(b"a\nb\r\n\rc\nd", lines) == octets
