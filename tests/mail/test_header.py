"""The header section: RFC 5322 §2.2; PROTOCOL §1.11, attack 13."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayproxy.mail.header import Field, HeaderSection, decode, find_body

BODIES: list[tuple[bytes, tuple[int, int] | None]] = [
    (b"", None),
    (b"\r", None),
    (b"\r\n", (0, 2)),
    (b"\r\nbody", (0, 2)),
    (b"\r\n\r\n", (0, 2)),
    (b"A: b\r\n", None),
    (b"A: b\r\n\r", None),
    (b"A: b\r\n\r\n", (6, 8)),
    (b"A: b\r\n\r\nC: d\r\n\r\n", (6, 8)),
    (b"A: b\r\n \r\n\r\n", (9, 11)),  # a line of white space alone is no empty line
    (b"A: b\n\nx\r\n\r\n", (9, 11)),  # only CRLF ends a line
    (b"A: b\r\n\n\r\r\n\r\n", (10, 12)),
    (b"no colon\r\n\r\nx", (10, 12)),
]


@pytest.mark.parametrize(("content", "found"), BODIES)
def test_the_first_empty_line_ends_the_section(content: bytes, found: tuple[int, int] | None) -> None:
    assert find_body(content) == found
    seen, start = None, 0
    for length in range(len(content) + 1):  # as it comes, searching on from where the last search ended
        seen = seen or find_body(content[:length], start)
        start = length
    assert seen == found


RAW = (
    b"Received: from a by b;\r\n\tMon, 23 Nov 2026 22:14:00 +0000\r\n"
    b"from: a@example.com\r\n"
    b"Subject:hi\r\n there\r\n"
    b"RECEIVED: from c by d\r\n"
    b"X-Empty:\r\n"
    b"To: b@example.net\r\n"
)


def test_fields_are_ranges_of_what_came() -> None:
    section = HeaderSection(RAW)
    assert [field.name for field in section.fields] == [
        b"Received",
        b"from",
        b"Subject",
        b"RECEIVED",
        b"X-Empty",
        b"To",
    ]
    assert section.fields[2] == Field(b"Subject", b"hi\r\n there", 79, 99)
    assert b"".join(RAW[field.start : field.end] for field in section.fields) == RAW
    assert section.malformed is None


def test_names_have_no_case() -> None:
    section = HeaderSection(RAW)
    assert [field.value for field in section.get_all(b"received")] == [
        b" from a by b;\r\n\tMon, 23 Nov 2026 22:14:00 +0000",
        b" from c by d",
    ]
    assert section.count(b"rEceived") == 2
    assert [field.value for field in section.get_all(b"FROM")] == [b" a@example.com"]
    assert (section.count(b"X-None"), section.get_all(b"X-None")) == (0, [])


def test_a_line_without_a_name_is_no_field_of_any_name() -> None:
    section = HeaderSection(b"A: b\r\nno colon\r\n")
    assert (section.first_text(b""), section.count(b""), section.delete(b"")) == (None, 0, 0)
    assert section.fields[1] == Field(b"", b"no colon", 6, 16)


FAULTS: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"A: b\r\n", None),
    (b"A:b\r\n \tc\r\nD:\r\n", None),
    (b"A: Gr\xc3\xbc\xdfe\r\n", None),
    (b"!-9;~: x\r\n", None),
    (b"A:" + b"x" * 5000 + b"\r\n", None),
    (b"Received: x\r\nReceived: y\r\nX: 1\r\nX: 2\r\n", None),
    # attack 13
    (b" A: b\r\n", "white space at the beginning in field 1"),
    (b"\tA: b\r\nB: c\r\n", "white space at the beginning in field 1"),
    (b"A: b\r\nSubject : a\r\n", "white space before the colon in field 2"),
    (b"A: b\r\nNoColonLine\r\nC: d\r\n", "no colon in field 2"),
    (b"A: b\r\n \r\nC: d\r\n", "a line of white space alone in field 1"),
    (b"A: b\r\n \t\r\n", "a line of white space alone in field 1"),
    (b"A:\r\n \r\n x\r\n", "a line of white space alone in field 1"),
    (b"From a@example.com Mon Nov 23 22:14:00 2026\r\nA: b\r\n", "an mbox separator in field 1"),
    (b">From a@example.com Mon Nov 23 22:14:00 2026\r\n", "an mbox separator in field 1"),
    (b"A: b\r\nSubj\0ect: x\r\n", "a NUL in the name in field 2"),
    (b"A: b\0\r\n", "a NUL in field 1"),
    (b"A: b\rc\r\n", "a bare CR or LF in field 1"),
    (b"A: b\nC: d\r\n", "a bare CR or LF in field 1"),
    (b"A: b\r\r\n", "a bare CR or LF in field 1"),
    (b"A\n: b\r\n", "a name that is none in field 1"),
    (b": b\r\n", "a name that is none in field 1"),
    (b"A b: c\r\n", "a name that is none in field 1"),
    ("Größe: 1\r\n".encode(), "a name that is none in field 1"),
    (b"Subject\r\n : a\r\n", "no colon in field 1"),
    (b"A: b\r\n\r\nC: d\r\n", "an empty line in field 2"),
    (b"\r\n", "an empty line in field 1"),
    (b"A: b", "no CRLF at the end in field 1"),
    (b"A: b\r\nC", "no colon in field 2"),
    (b"From: a\r\nTo: b\r\nfrom: c\r\n", "more than one From field"),
    (b"Content-Type: a\r\nCONTENT-TYPE: b\r\n", "more than one Content-Type field"),
]


@pytest.mark.parametrize(("raw", "fault"), FAULTS)
def test_what_others_may_read_differently_is_told_and_stays(raw: bytes, fault: str | None) -> None:
    section = HeaderSection(raw)
    assert section.malformed == fault
    assert section.starts_with_space == raw.startswith((b" ", b"\t"))
    assert b"".join(raw[field.start : field.end] for field in section.fields) == bytes(section) == raw


def test_a_name_with_a_space_before_the_colon_is_still_that_name() -> None:
    # RFC 5322 §4.5.8 takes it: what is compared with rules is what most readers see.
    section = HeaderSection(b"Subject \t: a\r\n")
    assert section.get_all(b"subject") == [Field(b"Subject", b" a", 0, 14)]


Edit = Callable[[HeaderSection], object]

EDITS: list[tuple[str, Edit, bytes]] = [
    ("add at the end", lambda s: s.add(b"X", b"y"), RAW + b"X: y\r\n"),
    ("add with its own space", lambda s: s.add(b"X", b"\ty"), RAW + b"X:\ty\r\n"),
    ("add folded", lambda s: s.add(b"X", b"\r\n y\r\n\tz"), RAW + b"X:\r\n y\r\n\tz\r\n"),
    ("add empty", lambda s: s.add(b"X", b""), RAW + b"X: \r\n"),
    ("insert on top", lambda s: s.insert(0, b"X", b"y"), b"X: y\r\n" + RAW),
    ("insert behind folding", lambda s: s.insert(1, b"X", b"y"), RAW[:58] + b"X: y\r\n" + RAW[58:]),
    ("insert at the end", lambda s: s.insert(6, b"X", b"y"), RAW + b"X: y\r\n"),
    ("insert past the end", lambda s: s.insert(99, b"X", b"y"), RAW + b"X: y\r\n"),
    ("change keeps name and place", lambda s: s.change(b"subject", 1, b"ho"), RAW.replace(b"hi\r\n there", b" ho")),
    ("change the second", lambda s: s.change(b"Received", 2, b"x"), RAW.replace(b"from c by d", b"x")),
    ("change an empty one", lambda s: s.change(b"x-empty", 1, b"x"), RAW.replace(b"Empty:", b"Empty: x")),
    ("change to what it was", lambda s: s.change(b"received", 1, s.get_all(b"Received")[0].value), RAW),
    ("change none", lambda s: s.change(b"X-None", 1, b"x"), RAW),
    ("change the third of two", lambda s: s.change(b"Received", 3, b"x"), RAW),
    ("change the zeroth", lambda s: s.change(b"Received", 0, b"x"), RAW),
    ("delete one", lambda s: s.delete(b"received", 1), RAW[58:]),
    ("delete the other", lambda s: s.delete(b"received", 2), RAW.replace(b"RECEIVED: from c by d\r\n", b"")),
    ("delete all", lambda s: s.delete(b"Received"), RAW[58:].replace(b"RECEIVED: from c by d\r\n", b"")),
    ("delete none", lambda s: s.delete(b"X-None"), RAW),
    ("delete the third of two", lambda s: s.delete(b"Received", 3), RAW),
    ("delete the zeroth", lambda s: s.delete(b"Received", 0), RAW),
    ("delete from the end", lambda s: s.delete(b"Received", -1), RAW),
]


@pytest.mark.parametrize(("edit", "raw"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_an_edit_touches_nothing_else(edit: Edit, raw: bytes) -> None:
    section = HeaderSection(RAW)
    edit(section)
    assert bytes(section) == raw
    assert [(field.name, field.value) for field in section.fields] == [
        (field.name, field.value) for field in HeaderSection(raw).fields
    ]


def test_edits_tell_whether_they_found_something() -> None:
    section = HeaderSection(RAW)
    assert [section.change(b"Received", n, b"x") for n in (-1, 0, 1, 2, 3)] == [False, False, True, True, False]
    assert [section.delete(b"Received", 3), section.delete(b"Received"), section.delete(b"Received")] == [0, 2, 0]


BROKEN_EDITS: list[tuple[str, bytes, Edit, bytes]] = [
    ("a last line without an end", b"A: b", lambda s: s.add(b"X", b"y"), b"A: b\r\nX: y\r\n"),
    ("and its change", b"A: b", lambda s: s.change(b"a", 1, b"c"), b"A: c"),
    ("and its end", b"A: b\r\nC: d", lambda s: s.delete(b"C"), b"A: b\r\n"),
    ("space before the colon", b"A : b\r\n", lambda s: s.change(b"a", 1, b"c"), b"A : c\r\n"),
    ("a line that is none stays", b"x\r\nA: b\r\ny\r\n", lambda s: s.delete(b"A"), b"x\r\ny\r\n"),
    ("nothing", b"", lambda s: s.add(b"X", b"y"), b"X: y\r\n"),
]


@pytest.mark.parametrize(
    ("before", "edit", "after"), [row[1:] for row in BROKEN_EDITS], ids=[row[0] for row in BROKEN_EDITS]
)
def test_a_malformed_section_can_be_edited(before: bytes, edit: Edit, after: bytes) -> None:
    section = HeaderSection(before)
    edit(section)
    assert bytes(section) == after


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        (b"", b"x", "expected a field name"),
        (b"A b", b"x", "expected a field name"),
        (b"A:", b"x", "expected a field name"),
        (b"A\r\nB", b"x", "expected a field name"),
        (b"A\0", b"x", "expected a field name"),
        ("Ä".encode(), b"x", "expected a field name"),
        (b"A\n", b"x", "expected a field name"),
        (b"A", b"x\r\nBcc: evil@example.net", "expected a value of A"),
        (b"A", b"x\nBcc: evil@example.net", "expected a value of A"),
        (b"A", b"x\rBcc: evil@example.net", "expected a value of A"),
        (b"A", b"x\r\n", "expected a value of A"),
        (b"A", b"x\r\n\r\nbody", "expected a value of A"),
        (b"A", b"x\r\n \r\n y", "expected a value of A"),  # the end of the section, to some
        (b"A", b"x\r\n \t", "expected a value of A"),
        (b"A", b"x\r\n ", "expected a value of A"),
        (b"A", b"x\0", "expected a value of A"),
        (b"A", b"x" * 996, "at most 998 octets, got 999 in line 1 of A"),
        (b"A", b"x\r\n " + b"x" * 998, "at most 998 octets, got 999 in line 2 of A"),
    ],
)
def test_what_is_put_in_is_one_field_or_nothing(name: bytes, value: bytes, what: str) -> None:
    section = HeaderSection(b"A: b\r\n")
    with pytest.raises(ValueError, match=re.escape(what)):
        section.add(name, value)
    with pytest.raises(ValueError, match=re.escape(what)):
        section.insert(0, name, value)
    if name == b"A":
        with pytest.raises(ValueError, match=re.escape(what)):
            section.change(name, 1, value)
    assert bytes(section) == b"A: b\r\n"


def test_a_line_of_998_octets_can_be_put_in() -> None:
    section = HeaderSection(b"")
    section.add(b"A", b"x" * 995 + b"\r\n " + b"x" * 997)
    assert section.malformed is None


def test_nothing_is_put_on_top_of_white_space() -> None:
    section = HeaderSection(b" x\r\nA: b\r\n")
    with pytest.raises(ValueError, match="begins with white space"):
        section.insert(0, b"X", b"y")
    with pytest.raises(ValueError, match="index from 0"):
        section.insert(-1, b"X", b"y")
    section.insert(1, b"X", b"y")
    assert bytes(section) == b" x\r\nX: y\r\nA: b\r\n"


@pytest.mark.parametrize(
    "part",
    [b"A", b"A: b\r\n", b"\r\n x", b"\r", b"\r\n", b"A \t", b"A: \t", b"\r\n ", b"\r\n\t \t", b"From ", b": ", b"\0"],
)
def test_attack_13_a_large_section_takes_no_time(part: bytes) -> None:
    for raw in (part * (65536 // len(part)), b"A: b" + part * (65536 // len(part))):
        started = time.process_time()
        section = HeaderSection(raw)
        _ = section.malformed
        assert sum(field.end - field.start for field in section.fields) == len(raw)
        assert time.process_time() - started < 0.5


# Properties

soup = st.lists(
    st.sampled_from(
        [
            b"\r\n",
            b"\r",
            b"\n",
            b"\0",
            b" ",
            b"\t",
            b":",
            b"A",
            b"a: b\r\n",
            b"From: x\r\n",
            b"From ",
            b" fold\r\n",
            b"\xff",
            b"\r\n\r\n",
        ]
    )
).map(b"".join)
sections = st.one_of(soup, st.binary(max_size=60))
names = st.sampled_from([b"A", b"a", b"From", b"X"])


@given(sections)
@example(b"A: b\r\n" * 3)
def test_reading_is_the_identity_on_any_octets(raw: bytes) -> None:
    section = HeaderSection(raw)
    assert [raw[field.start : field.end] for field in section.fields if field.start == field.end] == []
    assert b"".join(raw[field.start : field.end] for field in section.fields) == raw
    for field in section.fields:
        octets = raw[field.start : field.end]
        assert octets.startswith(field.name)
        assert octets.removesuffix(b"\r\n").endswith(field.value)
        assert field.name == b"" or re.fullmatch(
            rb"%b[ \t]*:" % re.escape(field.name), octets.removesuffix(b"\r\n").removesuffix(field.value)
        )
    _ = section.malformed, section.count(b"a"), section.get_all(b"From")
    assert bytes(section) == raw


@given(sections, names)
@example(b"a: b\r\nA : c\r\n", b"A")
def test_what_is_asked_of_a_section_is_as_its_fields_are(raw: bytes, name: bytes) -> None:
    fields = HeaderSection(raw).fields
    named = [field for field in fields if field.name.lower() == name.lower()]
    section = HeaderSection(raw)  # whose fields nobody has asked for
    assert (section.field_count, section.count(name)) == (len(fields), len(named))
    assert section.first_text(name) == (decode(named[0].value) if named else None)
    again = HeaderSection(raw)
    assert (again.malformed, again.fields) == (section.malformed, fields)
    assert section.get_all(name) == named


@settings(max_examples=60)
@given(sections, st.integers(0, 5), names, st.one_of(st.binary(max_size=20), soup))
def test_what_was_put_in_is_one_field_and_goes_without_a_trace(
    raw: bytes, index: int, name: bytes, value: bytes
) -> None:
    section = HeaderSection(raw)
    before = [raw[field.start : field.end] for field in section.fields]
    try:
        section.insert(index, name, value)
    except ValueError:
        assert bytes(section) == raw
        return
    after = [bytes(section)[field.start : field.end] for field in section.fields]
    assert len(after) == len(before) + 1
    at = min(index, len(before))
    assert (after[at], after[:at], after[at + 1 :]) == (
        after[at],
        [*before[: at - 1], *[b.removesuffix(b"\r\n") + b"\r\n" for b in before[at - 1 : at]]] if at else [],
        before[at:],
    )
    nth = [field.start for field in section.get_all(name)].index(section.fields[at].start) + 1
    assert section.delete(name, nth) == 1
    assert bytes(section) in (raw, raw + b"\r\n")


def test_what_fields_of_a_name_say() -> None:
    section = HeaderSection(b"To: a\r\nSubject: =?utf-8?q?=C3=BC?=\r\nsubject:  b\r\n c\r\n")
    assert list(section.names) == [b"to", b"subject"]
    assert section.texts(b"Subject") == ("ü", "b c")
    assert section.texts(b"Cc") == ()
    section.change(b"Subject", 1, b"x")
    section.add(b"Cc", b"d")
    assert section.texts(b"Subject") == ("x", "b c")
    assert section.texts(b"Cc") == ("d",)
