"""The dialog format: lossless both ways, harmless to look at, and precise about what is wrong (DESIGN §7)."""

from __future__ import annotations

import dataclasses

import pytest
from dialog_script import lines_of
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.record.dialog import (
    Arrow,
    Comment,
    DialogError,
    Event,
    Gap,
    Leg,
    Line,
    Note,
    Session,
    escape,
    parse,
    print_dialog,
)

DESIGN = r"""relayproxy dialog 1
@ session 01J listener=submission
+0.000 C open 10.0.0.5:53122
+0.004 U open 203.0.113.5:587
+0.012 U< 220 smtp.example.com ESMTP
+0.013 C< 220 relay.example.test ESMTP
+0.020 C> MAIL FROM:<a@example.com> SIZE=328
     & C> RCPT TO:<jane@customer.example>
+0.030 C> AUTH PLAIN <redacted 24>
+0.050 C> |Subject: hi
     & C> |
     & C> |..stuffed as on the wire
     & C> |.
+0.061 U< 250 2.0.0 queued
+0.062 C tls TLSv1.3 TLS_AES_256_GCM_SHA384
+300.000001 C eof
+300.100 C close by us
@ record outcome = "accepted"

# a comment
"""

# what is printed -> the octets; each the other way round too
OCTETS = [
    ("", b"\r\n"),
    ("NOOP", b"NOOP\r\n"),
    (r"NOOP\x20", b"NOOP \r\n"),
    (r"NOOP\x09", b"NOOP\t\r\n"),
    (r"a\\b", b"a\\b\r\n"),
    ("a\\\\", b"a\\\r\n"),
    ("a\\", b"a"),
    ("a\\\\\\", b"a\\"),
    ("a \\", b"a "),
    ("\\", b""),
    (r"\x0d" + "\\", b"\r"),
    (r"\x0a" + "\\", b"\n"),
    (r"a\x0db\x0ac\x00", b"a\rb\nc\0\r\n"),
    (r"\x0d\x0a", b"\r\n\r\n"),
    ("Grüße", "Grüße\r\n".encode()),
    (r"\xff\xfe", b"\xff\xfe\r\n"),
    (r"\xc2\x9b31m", b"\xc2\x9b31m\r\n"),  # C1 CSI
    (r"\xe2\x80\xae", "\u202e\r\n".encode()),  # right-to-left override
    (r"\xe2\x80\x8b", "\u200b\r\n".encode()),  # zero width
    (r"\x7f\x1b[31m", b"\x7f\x1b[31m\r\n"),
    (r"\x7cno mail data", b"|no mail data\r\n"),
    (r"\x3credacted 7>", b"<redacted 7>\r\n"),  # a client that writes our mark itself
    ("<redacted 07> <redacted x>", b"<redacted 07> <redacted x>\r\n"),
    ("open", b"open\r\n"),
    ("*", b"*\r\n"),
]


def only(text: str) -> Session:
    (session,) = parse(text)
    return session


def test_the_example_of_the_design_reads_and_prints_as_it_is() -> None:
    assert print_dialog(parse(DESIGN)) == DESIGN


def test_what_the_example_means() -> None:
    session = only(DESIGN)
    assert session.id == "01J"
    assert session.attributes == (("listener", "submission"),)
    assert session.entries[0] == Event("C", "open", ("10.0.0.5:53122",), time=0)
    assert session.entries[5] == Line("C", ">", b"RCPT TO:<jane@customer.example>\r\n", joined=True)
    assert session.entries[6] == Line("C", ">", b"AUTH PLAIN \r\n", time=30_000, redacted=(Gap(11, 24),))
    assert session.entries[9] == Line("C", ">", b"..stuffed as on the wire\r\n", data=True, joined=True)
    assert session.entries[12] == Event("C", "tls", ("TLSv1.3", "TLS_AES_256_GCM_SHA384"), time=62_000)
    assert session.entries[13] == Event("C", "eof", time=300_000_001)
    assert session.entries[14] == Event("C", "close", by_us=True, time=300_100_000)
    assert session.entries[15:] == (Note("record", 'outcome = "accepted"'), Comment(""), Comment("# a comment"))
    assert [entry.number for entry in session.entries[:2]] == [3, 4]


@pytest.mark.parametrize(("text", "octets"), OCTETS)
def test_octets_and_their_text(text: str, octets: bytes) -> None:
    dialog = f"relayproxy dialog 1\nC> {text}".rstrip() + "\n"
    session = Session(entries=(Line("C", ">", octets),))
    if octets != b"\r\n\r\n":  # printed, an end of line is an end of line
        assert print_dialog([session]) == dialog
    assert parse(dialog) == [session]


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("C> a\\x41\\x5C", "C> aA\\\\"),
        ("   C> a\r", "C> a"),
        ("+1 C> a", "+1.000 C> a"),
        ("+01.5   C> a", "+1.500 C> a"),
        ("C>  two", "C>  two"),
        ("C> a\tb", r"C> a\x09b"),
        ("C> a\\x0d\\x0a\\", "C> a"),
        ("C> a\n  & C> b", "C> a\n& C> b"),
        ("+1 C> a\n& C> b", "+1.000 C> a\n     & C> b"),
        ("C> a\n# why\n& C> b", "C> a\n# why\n& C> b"),
        ("@config  limits.errors =  2 ", "@ config limits.errors =  2"),
        ("+300 @ sigterm", "+300.000 @ sigterm"),
        ("U   refused    a.test:25", "U refused a.test:25"),
        (r"C open unix:/a\x20b", r"C open unix:/a\x20b"),
    ],
)
def test_what_people_write_is_read_leniently_and_printed_one_way(written: str, printed: str) -> None:
    assert print_dialog(parse(f"relayproxy dialog 1\n{written}\n")) == f"relayproxy dialog 1\n{printed}\n"


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        ("X> a", "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #", '"X> a"'),
        ("C>a", "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #", '"C>a"'),
        ("+1", "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #", "nothing"),
        ("+x C> a", "a time such as +0.020 (seconds since the session began)", '"+x"'),
        ("+1.0000001 C> a", "a time such as +0.020 (seconds since the session began)", '"+1.0000001"'),
        ("+1 # comment", "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #", '"# comment"'),
        ("& C> a", "& only behind a line of the same leg and arrow", '"& C> a"'),
        ("C< a\n& C> b", "& only behind a line of the same leg and arrow", '"& C> b"'),
        ("C> a\nC eof\n& C> b", "& only behind a line of the same leg and arrow", '"& C> b"'),
        ("C> a\n& @ sigterm", "C>, C<, U> or U<", '"@ sigterm"'),
        ("C> a ", r"no white space at the end (write \x20 for one that belongs to the line)", '"a "'),
        (r"C> a\qb", r"\xNN, \\, or \ at the end of the line", r'"\qb"'),
        (r"C> a\x4", r"\xNN, \\, or \ at the end of the line", r'"\x4"'),
        ("C> a\x1b[1m", r"a printable character in column 5, or \x1b for this one", "U+001B"),
        ("C> \u202eabc", r"a printable character in column 4, or \xe2\x80\xae for this one", "U+202E"),
        (
            "C shut",
            "C>, C<, or an event (open, tls, eof, close, reset, refused, timeout, unresolved, unreachable)",
            '"C shut"',
        ),
        ("C", "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #", '"C"'),
        ("C refused", "U refused, since it is we that dial", '"C refused"'),
        ("C open a b", "one address behind open", '"C open a b"'),
        ("C open by us", "one address behind open", '"C open by us"'),
        ("C close now", 'nothing (or "by us") behind close', '"C close now"'),
        ("U tls", "a version and a cipher behind tls", '"U tls"'),
        ("@ session", "@ session ID KEY=VALUE ...", '"@ session "'),
        ("@ session a=b", "@ session ID KEY=VALUE ...", '"@ session a=b"'),
        ("@ session 1 listener", "KEY=VALUE behind the session's id", '"listener"'),
        (r"@ session 1 a=\xff", "valid UTF-8 in a word", r'"\xff"'),
        ("@ session 1 a=b\\", r"\xNN or \\", '"b\\"'),
        ("@ 1", "C>, C<, U>, U<, an event (C open, U close, ...), @ KEY or #", '"@ 1"'),
    ],
)
def test_an_error_says_where_what_was_expected_and_what_was_found(line: str, expected: str, found: str) -> None:
    with pytest.raises(DialogError) as caught:
        parse(f"relayproxy dialog 1\n# one\n{line}\nC> fine\n")
    number = 3 + line.count("\n")
    assert (caught.value.line, caught.value.expected, caught.value.found) == (number, expected, found)
    assert str(caught.value) == f"line {number}: expected {expected}, found {found}"


@pytest.mark.parametrize("text", ["", "\n", "C> QUIT\n", "relayproxy dialog 2\nC> QUIT\n"])
def test_a_dialog_says_that_it_is_one(text: str) -> None:
    with pytest.raises(DialogError, match=r"^line 1: expected relayproxy dialog 1, found"):
        parse(text)


def test_many_sessions() -> None:
    text = "relayproxy dialog 1\nC open\n@ session 1\n@ session 2 a=b c=\nC open\n"
    sessions = parse(text)
    assert [session.id for session in sessions] == [None, "1", "2"]
    assert sessions[2] == Session("2", (("a", "b"), ("c", "")), (Event("C", "open"),))
    assert print_dialog(sessions) == text
    assert parse("relayproxy dialog 1\n") == []
    assert print_dialog([]) == "relayproxy dialog 1\n"


@pytest.mark.parametrize(
    "sessions",
    [
        [Session("1"), Session(entries=(Event("C", "eof"),))],
        [Session()],
        [Session("")],
        [Session("1", (("a b", ""),))],
        [Session("1", entries=(Line("C", ">", b"", joined=True),))],
        [Session("1", entries=(Line("C", ">", b""), Line("C", "<", b"", joined=True)))],
        [Session("1", entries=(Line("C", ">", b""), Line("C", ">", b"", joined=True, time=1)))],
        [Session("1", entries=(Line("C", ">", b"a\r\n", redacted=(Gap(2, 1),)),))],
        [Session("1", entries=(Line("C", ">", b"abc\r\n", redacted=(Gap(2, 1), Gap(1, 1))),))],
        [Session("1", entries=(Event("C", "open", ("",)),))],
        [Session("1", entries=(Event("C", "open", by_us=True),))],
        [Session("1", entries=(Event("C", "timeout"),))],
        [Session("1", entries=(Event("C", "eof", time=-1),))],
        [Session("1", entries=(Line("C", ">", b"a", redacted=(Gap(1, -1),)),))],
        [Session("1", entries=(Note("session", "2"),))],
        [Session("1", entries=(Note("a b"),))],
        [Session("1", entries=(Note("a", "b\nC> DATA"),))],
        [Session("1", entries=(Note("a", " b"),))],
        [Session("1", entries=(Comment("C> DATA"),))],
        [Session("1", entries=(Comment("# \x1b[2J"),))],
    ],
)
def test_what_cannot_be_said_is_refused_and_not_said_wrong(sessions: list[Session]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is refused is the point
        print_dialog(sessions)


def test_an_expected_line_keeps_its_text_so_that_an_escaped_asterisk_is_none() -> None:
    line = only("relayproxy dialog 1\nC< 250 \\x2a *\n").entries[0]
    assert isinstance(line, Line)
    assert line.octets == b"250 * *\r\n"
    assert line.text == r"250 \x2a *"


# The properties. Octets are drawn so that the special ones come often.

octets = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b"\\", b"\\x41", b"|", b" ", b"*", b"a", b"\xc3", b"\xa9", b"\0", b"<redacted 3>"]
        ),
        max_size=12,
    ).map(b"".join),
)
legs: st.SearchStrategy[Leg] = st.sampled_from(["C", "U"])
arrows: st.SearchStrategy[Arrow] = st.sampled_from([">", "<"])
times = st.none() | st.integers(0, 10**15)
plain = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Zs")), max_size=10)
words = st.text(st.characters(codec="utf-8"), max_size=10)
keys = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True)
events = st.one_of(
    st.builds(Event, legs, st.sampled_from(["eof", "close", "reset"]), by_us=st.booleans(), time=times),
    st.builds(Event, legs, st.just("open"), st.lists(words.filter(bool), max_size=1).map(tuple), time=times),
    st.builds(Event, legs, st.just("tls"), st.lists(words.filter(bool), min_size=1, max_size=2).map(tuple), time=times),
    st.builds(Event, st.just("U"), st.sampled_from(["refused", "timeout", "unresolved", "unreachable"]), time=times),
)
notes = st.builds(Note, keys.filter(lambda key: key != "session"), plain, times)
comments = st.builds(Comment, st.just("") | plain.map(lambda text: f"#{text}"))


@st.composite
def chunks(draw: st.DrawFn) -> list[Line]:
    """Lines of one write; some with SASL taken out."""
    lines = list(lines_of(draw(legs), draw(arrows), draw(octets), data=draw(st.booleans()), time=draw(times)))
    for index, line in enumerate(lines):
        content = line.octets.removesuffix(b"\r\n")
        offsets = sorted(draw(st.lists(st.integers(0, len(content)), max_size=2)))
        gaps = tuple(Gap(offset, draw(st.integers(0, 999))) for offset in offsets)
        lines[index] = dataclasses.replace(line, redacted=gaps)
    return lines


entries = st.lists(chunks() | st.lists(events | notes | comments, max_size=2), max_size=6).map(
    lambda groups: tuple(entry for group in groups for entry in group)
)
attributes = st.lists(st.tuples(keys, words), max_size=3).map(tuple)
sessions = st.lists(st.builds(Session, words.filter(bool), attributes, entries), max_size=3)


@pytest.mark.slow
@given(sessions)
def test_any_session_is_printed_and_read_without_loss(value: list[Session]) -> None:
    text = print_dialog(value)
    assert parse(text) == value
    assert print_dialog(parse(text)) == text


@pytest.mark.slow
@given(sessions)
def test_what_is_printed_is_harmless_and_survives_editors(value: list[Session]) -> None:
    text = print_dialog(value)
    assert text.replace("\n", "").isprintable()
    assert text.splitlines() == text.split("\n")[:-1]
    assert all(line == line.rstrip() for line in text.split("\n"))
    assert parse(text.replace("\n", "\r\n")) == value


@given(octets)
def test_the_lines_of_a_chunk_are_its_octets(value: bytes) -> None:
    lines = list(lines_of("C", ">", value, time=5))
    assert b"".join(line.octets for line in lines) == value
    assert all(b"\r\n" not in line.octets[:-2] for line in lines)
    assert [line.joined for line in lines] == [index > 0 for index in range(len(lines))]
    assert [line.time for line in lines[:1]] == [5] * len(lines[:1])


@given(st.text(max_size=80))
def test_no_text_but_a_dialog_is_read_and_none_breaks_the_reader(text: str) -> None:
    try:
        value = parse(f"relayproxy dialog 1\n{text}")
    except DialogError:
        return
    assert parse(print_dialog(value)) == value


@given(octets)
def test_escaped_octets_are_one_printable_word_group(value: bytes) -> None:
    assert escape(value).isprintable()
