"""A stored session becomes a dialog in which every octet stands that was on the wire, and none besides."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs
from stored import BODY, HEADER, TRACED, message, on_the_wire, reader_of, record, session, wire

from relayproxy.record.dialog import HEADING, Line, Note, parse, print_dialog
from relayproxy.record.mail_data import stuffed
from relayproxy.record.playback import arrow_of, dialog_lines, dialog_of, entries
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.wire import WireData, WireEntry, WireEvent, WireOctets
from relayproxy.smtp.data import stuff

if TYPE_CHECKING:
    from relayproxy.record.dialog import Arrow, Leg
    from relayproxy.record.store.interface import Reader

WHOLE = r"""relayproxy dialog 1
@ session S1 listener=submission began=2026-01-02T03:04:05.100000Z
+0.000 C open 10.0.0.5:53122
+0.004 U open 203.0.113.5:587
+0.012 U< 220 smtp.example.com ESMTP
+0.013 C< 220 relay.example.test ESMTP
+0.014 C> EHLO app-1
+0.015 U> EHLO relay.example.test
+0.016 U< 250 smtp.example.com
+0.017 C< 250-relay.example.test
     & C< 250 8BITMIME
+0.020 C> MAIL FROM:<a@example.com>
     & C> RCPT TO:<jane@customer.example>
     & C> DATA
+0.021 U> MAIL FROM:<a@example.com>
     & U> RCPT TO:<jane@customer.example>
     & U> DATA
+0.030 U< 250 2.1.0 ok
     & U< 250 2.1.5 ok
     & U< 354 go
+0.031 C< 250 2.1.0 ok
     & C< 250 2.1.5 ok
     & C< 354 go
+0.050 C> |From: a@example.com
     & C> |To: jane@customer.example
     & C> |Subject: hi
     & C> |
     & C> |hello
     & C> |..a dot
     & C> |.
+0.051 U> |Received: by relay.test
     & U> |From: a@example.com
     & U> |To: jane@customer.example
     & U> |Subject: hi
     & U> |
     & U> |hello
     & U> |..a dot
     & U> |.
+0.061 U< 250 2.0.0 queued
+0.061500 C< 250 2.0.0 queued
+0.061600 C> QUIT
+0.061700 C< 221 2.0.0 bye
+0.061800 U close by us
+0.062 C close
"""


def played(reader: Reader) -> str:
    stored = reader.session("S1")
    assert stored
    return "\n".join([HEADING, *dialog_lines(stored, reader.of_session("S1"), reader)]) + "\n"


def told(*entries: WireEntry, **kept: Any) -> list[str]:
    """The lines of a session of these entries, whose transaction's message is as told."""
    reader = reader_of(session(entries), TransactionWrite(record(), message(**kept), final=True))
    return played(reader).splitlines()[2:]


def test_a_whole_session() -> None:
    assert (
        played(reader_of(session(wire()), TransactionWrite(record(), message(header_sent=TRACED), final=True))) == WHOLE
    )


def test_a_read_ends_where_it_ended() -> None:
    told_so = told(
        WireOctets(1, "C", ">", b"NO"), WireOctets(2, "C", ">", b"OP\r"), WireOctets(3, "C", ">", b"\nNOOP\r\nQ")
    )
    assert told_so == [
        "+0.000001 C> NO\\",
        r"+0.000002 C> OP\x0d" + "\\",
        r"+0.000003 C> \x0a" + "\\",
        "     & C> NOOP",
        "     & C> Q\\",
    ]


@pytest.mark.parametrize(
    ("octets", "gaps", "lines"),
    [
        (b"AUTH PLAIN \r\n", [(11, 24)], ["AUTH PLAIN <redacted 24>"]),
        (b"\r\n\r\n", [(0, 3), (2, 4)], ["<redacted 3>", "<redacted 4>"]),
        (b"", [(0, 5)], ["<redacted 5>\\"]),
        (b"NOOP\r\n", [(6, 5)], ["NOOP", "<redacted 5>\\"]),
        (b"a\r\nb", [(2, 5)], ["a\\x0d\\", "<redacted 5>\\x0ab\\"]),
        (b"\r\n", [(1, 2), (1, 3)], ["\\x0d\\", "<redacted 2><redacted 3>\\x0a\\"]),
    ],
)
def test_what_was_blanked_stands_where_it_stood(octets: bytes, gaps: list[tuple[int, int]], lines: list[str]) -> None:
    (first, *rest) = told(WireOctets(0, "C", ">", octets, tuple(gaps)))
    assert [first.removeprefix("+0.000 C> "), *(line.removeprefix("     & C> ") for line in rest)] == lines


def test_mail_data_is_cut_where_it_was_cut() -> None:
    size = on_the_wire(HEADER + b"\r\n" + BODY)
    lines = told(WireData(1000, "C", 8, "T1"), WireData(2000, "C", size - 8 - 4, "T1"), WireData(3000, "C", 4, "T1"))
    assert lines[0] == "+0.001 C> |From: a@\\"
    assert lines[1] == "+0.002 C> |example.com"
    assert lines[-3:] == ["     & C> |..a dot\\x0d\\", "+0.003 C> |\\x0a\\", "     & C> |."]


def test_dots_that_need_not_have_been_there() -> None:
    """A client sent `.From:`, and an only dot more in the middle; told with an entry that ends before they stand."""
    content = HEADER + b"\r\n" + BODY
    hello = 1 + content.index(b"hello")
    size = on_the_wire(content) + 2
    lines = told(WireData(0, "C", 10, "T1", dots=(0, hello)), WireData(1, "C", size - 10, "T1"))
    assert lines[0] == "+0.000 C> |.From: a@e\\"
    assert lines[-3:] == ["     & C> |.hello", "     & C> |..a dot", "     & C> |."]


def test_a_body_that_begins_with_a_dot_is_stuffed() -> None:
    content = b".\r\n"
    lines = told(WireData(0, "C", on_the_wire(HEADER + b"\r\n" + content), "T1"), content=content)
    assert lines[-2:] == ["     & C> |..", "     & C> |."]


def test_chunks_are_the_content_itself() -> None:
    content = HEADER + b"\r\n" + BODY
    lines = told(
        WireOctets(1000, "C", ">", b"BDAT 20\r\n"),
        WireData(1000, "C", 20, "T1", chunk=True),
        WireOctets(1000, "C", ">", b"BDAT %d LAST\r\n" % (len(content) - 20)),
        WireData(2000, "C", len(content) - 20, "T1", chunk=True),
    )
    assert lines[:3] == ["+0.001 C> BDAT 20", "     & C> |From: a@example.com\\x0d\\", "     & C> BDAT 58 LAST"]
    assert lines[3:5] == [r"+0.002 C> |\x0a" + "\\", "     & C> |To: jane@customer.example"]
    assert lines[-1] == "     & C> |.a dot"


def test_a_message_that_was_cut_off_has_no_end_and_what_was_not_kept_is_counted() -> None:
    lines = told(WireData(0, "C", len(HEADER) + 4, "T1"), content=b"", whole=False)
    assert lines[-2:] == ["     & C> |", "+0.000 @ unkept C> 2"]


def test_without_a_body_its_octets_are_counted() -> None:
    reader = reader_of(session(wire()), TransactionWrite(record(), message(header_sent=TRACED, body=None), final=True))
    lines = played(reader).splitlines()
    assert "+0.050 @ unkept C> 19" in lines
    assert "+0.051 @ unkept U> 19" in lines
    assert len(lines) == WHOLE.count("\n") - 6 + 2


def test_without_a_message_its_octets_are_counted() -> None:
    lines = played(reader_of(session(wire()), TransactionWrite(record(), None, final=True))).splitlines()
    size = on_the_wire(HEADER + b"\r\n" + BODY)
    assert f"+0.050 @ unkept C> {size}" in lines
    assert [entry for entry in parse("\n".join(lines))[0].entries if isinstance(entry, Note)] == [
        Note("unkept", f"C> {size}", 50000),
        Note("unkept", f"U> {size + len(TRACED) - len(HEADER)}", 51000),
    ]


def test_a_redacted_message_comes_once_where_it_began() -> None:
    lines = told(
        WireData(1000, "C", 100, "T1"), WireData(2000, "C", 900, "T1"), header=b"Subject: <redacted 7>\r\n", content=b"x\r\n", exact=False
    )  # fmt: skip
    assert lines == ["+0.001 @ redacted C> 1000", r"+0.001 C> |Subject: \x3credacted 7>", "     & C> |", "     & C> |x", "     & C> |."]  # fmt: skip


def test_a_line_without_end_is_cut_and_nothing_is_lost() -> None:
    content = b"x" * (3 << 20)
    kept = message(content=content)
    reader = reader_of(session([WireData(0, "C", on_the_wire(HEADER + b"\r\n" + content), "T1")]), TransactionWrite(record(), kept))  # fmt: skip
    stored = reader.session("S1")
    assert stored
    lines = [entry for entry in entries(stored, reader.of_session("S1"), reader) if isinstance(entry, Line)]
    assert max(len(line.octets) for line in lines) < (1 << 20) + 10
    assert b"".join(line.octets for line in lines) == HEADER + b"\r\n" + content + b".\r\n"


# Any session.

Told = tuple[WireEntry, bytes]

octets = st.lists(
    st.one_of(st.sampled_from([b"\r\n", b"\r\n.", b".", b"\r", b"\n", b"|", b"\\", b" ", b"<redacted 7>", b"\0", b"\xff"]), st.binary(max_size=5)),
    max_size=12,
).map(b"".join)  # fmt: skip
legs: st.SearchStrategy[Leg] = st.sampled_from(["C", "U"])
arrows: st.SearchStrategy[Arrow] = st.sampled_from([">", "<"])
events = st.builds(
    WireEvent,
    st.just(0),
    legs,
    st.sampled_from(["eof", "close", "reset"]),
    st.just(()),
    by_us=st.booleans(),
)


@st.composite
def commands(draw: st.DrawFn) -> WireOctets:
    told = draw(octets)
    gaps = draw(st.lists(st.tuples(st.integers(0, len(told)), st.integers(0, 999_999_999)), max_size=3).map(sorted))
    return WireOctets(0, draw(legs), draw(arrows), told, tuple(gaps))


@st.composite
def mail(draw: st.DrawFn, leg: Leg, transaction: str, wire: bytes, extra: list[int], *, chunk: bool) -> list[Told]:
    cuts = sorted({0, *draw(st.lists(st.integers(0, len(wire)), max_size=4)), len(wire)})
    return [
        (WireData(0, leg, end - start, transaction, chunk, tuple(dot for dot in extra if start <= dot < end)), wire[start:end])
        for start, end in itertools.pairwise(cuts)
    ]  # fmt: skip


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[Told], list[TransactionWrite]]:
    """Entries with the octets that were on the wire, gaps left out, and transactions."""
    others = st.lists(
        st.one_of(commands().map(lambda told: (told, told.octets)), events.map(lambda told: (told, b""))), max_size=3
    )
    entries: list[Told] = [*draw(others)]
    transactions: list[TransactionWrite] = []
    for number in range(draw(st.integers(0, 2))):
        header, content, header_sent, chunk = draw(st.tuples(octets, octets, st.none() | octets, st.booleans()))
        kept = message(header, content, header_sent=header_sent)
        transactions.append(TransactionWrite(record(transaction=f"T{number}"), kept, final=True))
        sides: list[tuple[Leg, bytes]] = [("C", header), ("U", header if header_sent is None else header_sent)]
        for leg, head in sides:
            whole = head + b"\r\n" + content
            data, extra = (whole, []) if chunk else with_dots(draw, stuff(whole) + b".\r\n")
            entries += draw(mail(leg, f"T{number}", data, extra, chunk=chunk))
            entries += draw(others)
    pauses = draw(st.lists(st.integers(0, 2), min_size=len(entries), max_size=len(entries)))
    times = itertools.accumulate(pauses)
    return [
        (structs.replace(told, time=time), there) for (told, there), time in zip(entries, times, strict=True)
    ], transactions


def with_dots(draw: st.DrawFn, data: bytes) -> tuple[bytes, list[int]]:
    """Dots more, before lines that need none, and where they stand."""
    starts = [0, *(at + 2 for at in range(len(data) - 5) if data.startswith(b"\r\n", at))]
    plain = [at for at in starts if not data.startswith(b".", at)]
    chosen = sorted(draw(st.lists(st.sampled_from(plain), unique=True, max_size=3))) if plain else []
    for count, at in enumerate(chosen):
        data = data[: at + count] + b"." + data[at + count :]
    return data, [at + count for count, at in enumerate(chosen)]


@given(sessions())
def test_any_session_is_the_same_when_it_is_printed_parsed_and_printed(
    told: tuple[list[Told], list[TransactionWrite]],
) -> None:
    wire, transactions = [entry for entry, _ in told[0]], told[1]
    reader = reader_of(session(wire), *transactions)
    stored = reader.session("S1")
    assert stored
    made = dialog_of(stored, reader.of_session("S1"), reader)
    text = played(reader)
    assert parse(text) == [made]
    assert print_dialog(parse(text)) == text
    lines = [entry for entry in made.entries if isinstance(entry, Line)]
    assert not any(isinstance(entry, Note) for entry in made.entries)
    assert all(line.octets.count(b"\r\n") <= 1 for line in lines)
    for leg, arrow in itertools.product(("C", "U"), "><"):
        there = [
            octets
            for entry, octets in told[0]
            if not isinstance(entry, WireEvent) and (entry.leg, arrow_of(entry)) == (leg, arrow)
        ]
        assert b"".join(line.octets for line in lines if (line.leg, line.arrow) == (leg, arrow)) == b"".join(there)
    gaps = [length for entry in wire if isinstance(entry, WireOctets) for _, length in entry.gaps]
    assert [gap.length for line in lines for gap in line.redacted] == gaps


@given(octets)
@example(b".a\r\n..\r\n\r\n.\r\r\n.\n.")
def test_however_content_is_cut_it_is_stuffed_alike(content: bytes) -> None:
    for at in range(len(content) + 1):
        assert b"".join(stuffed([content[:at], b"", content[at:]])) == stuff(content)
    assert b"".join(stuffed([content[at : at + 1] for at in range(len(content))])) == stuff(content)


@pytest.mark.slow
def test_a_message_is_never_in_memory_whole() -> None:
    """30 MiB in pieces of 64 KiB, of which no more than a few may be there at once."""
    line = b"x" * 76 + b"\r\n"
    piece = line * (65536 // len(line))
    count = (30 << 20) // len(piece)

    size = len(HEADER) + 2 + len(piece) * count + 3
    reader = reader_of(
        session([WireData(0, "C", size, "T1")]), TransactionWrite(record(), message(content=piece * count), final=True)
    )
    stored = reader.session("S1")
    assert stored
    tracemalloc.start()
    try:
        lines = sum(1 for _ in dialog_lines(stored, reader.of_session("S1"), reader))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines == 1 + 3 + 1 + count * (65536 // len(line)) + 1
    assert peak < 2 << 20
