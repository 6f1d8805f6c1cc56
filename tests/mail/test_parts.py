"""A body's parts are what any program may see as one, however the octets come (RFC 2046; PROTOCOL attack 19)."""

from __future__ import annotations

import pytest
from hypothesis import given
from mime_bodies import ANY_BODY, ANY_HEADER, CUTS, MULTIPART, cut

from relayproxy.mail.header import HeaderSection
from relayproxy.mail.parts import (
    DEPTH,
    LONGEST_SECTION,
    PARTS,
    Begin,
    Between,
    Content,
    End,
    Event,
    Structure,
)


def events_of(header: bytes | HeaderSection, pieces: list[bytes]) -> list[Event]:
    structure = Structure(header if isinstance(header, HeaderSection) else HeaderSection(header))
    events = [event for piece in pieces for event in structure.feed(piece)] + structure.finish()
    joined: list[Event] = []
    for event in events:
        match event, joined[-1] if joined else None:
            case Content(more), Content(octets):
                joined[-1] = Content(octets + more)
            case Between(more), Between(octets):
                joined[-1] = Between(octets + more)
            case _:
                joined.append(event)
    return joined


def told(events: list[Event]) -> str:
    """Parts in brackets: section, "|", content; what is between them."""
    words = []
    for event in events:
        match event:
            case Begin(_, section):
                words.append("[" + section.decode("latin-1") + "|")
            case Content(octets) | Between(octets):
                words.append(octets.decode("latin-1"))
            case End():
                words.append("]")
    return "".join(words).replace("\r\n", "/").replace("\n", "`")


TWO = b'Content-Type: multipart/mixed; boundary="b"; boundary="c"\r\n'
BODIES = [
    # header section, body, parts; "/" is CRLF, "`" a bare LF
    (b"", b"hello\r\n", "[|hello/]"),
    (b"", b"", "[|]"),
    (MULTIPART, b"pre\r\n--b\r\n\r\none\r\n--b--\r\npost", "[|pre/--b/[/|one]/--b--/post]"),
    (MULTIPART, b"--b\r\nA: b\r\n\r\none\r\n\r\n--b--", "[|--b/[A: b//|one/]/--b--]"),
    (MULTIPART, b"--b \t\r\n\r\none\r\n--b--\t", "[|--b \t/[/|one]/--b--\t]"),
    (MULTIPART, b"--b\n\r\none\n--b--\n", "[|--b`[/|one]`--b--`]"),
    # No part ends without its end, and what has no empty line is all header section.
    (MULTIPART, b"--b\r\n\r\none\r\n", "[|--b/[/|one/]]"),
    (MULTIPART, b"--b\r\nA: b\r\n--b\r\n--b\r\n\r\n--b", "[|--b/[A: b|]/--b/[|]--b/[/|]--b[|]]"),
    # A boundary is a whole line.
    (MULTIPART, b"--b\r\n\r\n--bb\r\n --b\r\n--b x\r\n-b\r\nx--b\r\n", "[|--b/[/|--bb/ --b/--b x/-b/x--b/]]"),
    # A multipart goes on behind its end: some read it so.
    (MULTIPART, b"--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo", "[|--b/[/|one]/--b--/--b/[/|two]]"),
    (TWO, b"--b\r\n\r\none\r\n--c\r\n\r\ntwo", "[|--b/[/|one]/--c/[/|two]]"),
    # The outer multipart's boundary ends all that is in it.
    (
        MULTIPART,
        b"--b\r\nContent-Type: multipart/x; boundary=c\r\n\r\n--c\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--c",
        "[|--b/[Content-Type: multipart/x; boundary=c//|--c/[/|one]]/--b/[/|two/--c]]",
    ),
    (b"Content-Type: message/rfc822\r\n", b"A: b\r\n\r\none", "[|[A: b//|one]]"),
    (
        b"Content-Type: multipart/digest; boundary=b\r\n",
        b"--b\r\n\r\nA: b\r\n\r\none",
        "[|--b/[/|[A: b//|one]]]",
    ),
    (
        MULTIPART,
        b"--b\r\nContent-Type: message/global\r\n\r\n--b--",
        "[|--b/[Content-Type: message/global//|[|]]--b--]",
    ),
]


@pytest.mark.parametrize(("header", "body", "parts"), BODIES)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_parts_are(header: bytes, body: bytes, parts: str, size: int) -> None:
    assert told(events_of(header, list(cut(body, [size])))) == parts


ODD_TYPES = [
    b"Content-Type: MULTIPART/x; BOUNDARY=b\r\n",
    b"content-type : multipart / mixed;\r\n\tboundary = b\r\n",
    b"Content-Type: (odd) multipart/mixed; boundary=b (it is)\r\n",
    b'Content-Type: multipart/mixed; boundary="b\r\n',
    b'Content-Type: multipart/mixed; boundary="b "\r\n',
    b"Content-Type: multipart/mixed boundary=b\r\n",
    b"Content-Type: multipart/mixed; boundary*0=b\r\n",
    b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b\r\n",
    b"Subject: x\r\nContent-Type: multipart/mixed; boundary=x; boundary=b\r\n",
]


@pytest.mark.parametrize("header", ODD_TYPES)
def test_what_some_read_as_a_multipart_is_one(header: bytes) -> None:
    assert told(events_of(header, [b"--b\r\n\r\none"])) == "[|--b/[/|one]]"


@given(ANY_HEADER, ANY_BODY, CUTS)
def test_parts_hold_all_octets_however_they_come(header: HeaderSection, body: bytes, sizes: list[int]) -> None:
    events = events_of(header, [body])
    assert events_of(header, list(cut(body, sizes))) == events
    octets = [
        event.section if isinstance(event, Begin) else event.octets for event in events if not isinstance(event, End)
    ]
    assert b"".join(octets) == body
    assert len([event for event in events if isinstance(event, Begin)]) == len(events) - len(octets)


NOT_ALL = [
    (MULTIPART, b"--b\r\n\r\n\r\n" * PARTS),
    (b"Content-Type: message/rfc822\r\n", b"Content-Type: message/rfc822\r\n\r\n" * DEPTH),
    (
        MULTIPART,
        b"--b\r\n" + b"a: b\r\n" * (LONGEST_SECTION // 6 + 1) + b"Content-Disposition: x; filename=a.exe\r\n\r\n",
    ),
    (MULTIPART, b"--b" + b" " * 10_000 + b"\r\n\r\n"),
    (MULTIPART, b"--b" + b" " * 10_000 + b"x\r\n\r\n"),
    (b"Content-Type: multipart/mixed\r\n", b"--b\r\n\r\none"),
    (b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n", b"YQ==\r\n"),
    (b"Content-Type: x/y\r\n" * 5, b""),
    (MULTIPART + b"Content-Transfer-Encoding: base64\r\n", b"LS1iDQo=\r\n"),
    (
        MULTIPART + b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: Quoted-Printable (x)\r\n",
        b"=2D-b\r\n",
    ),
    (b"Content-Type: =?utf-8?Q?multipart/mixed=3B_boundary=3Da?=\r\n", b"--a\r\n\r\none"),
    (b"Content-Type: =?x?Q?message?=/rfc822\r\n", b"A: b\r\n\r\none"),
]


@pytest.mark.parametrize(("header", "body"), NOT_ALL)
@pytest.mark.parametrize("size", [100, 65536])
def test_what_could_be_looked_into_and_is_not_is_told(header: bytes, body: bytes, size: int) -> None:
    structure = Structure(HeaderSection(header))
    octets = b""
    for piece in cut(body, [size]):
        for event in structure.feed(piece):
            octets += event.section if isinstance(event, Begin) else b"" if isinstance(event, End) else event.octets
    for event in structure.finish():
        octets += event.section if isinstance(event, Begin) else b"" if isinstance(event, End) else event.octets
    assert octets == body
    assert not structure.complete


def test_up_to_its_limits_all_is_looked_into() -> None:
    for header, body in [
        (MULTIPART, b"--b\r\n\r\n\r\n" * (PARTS - 1)),
        (b"Content-Type: message/rfc822\r\n", b"Content-Type: message/rfc822\r\n\r\n" * (DEPTH - 1)),
        (MULTIPART + b"Content-Transfer-Encoding: 8bit\r\n", b"--b\r\n\r\n"),
        (b"Content-Type: text/plain; name==?utf-8?Q?multipart/mixed?=\r\nContent-Transfer-Encoding: base64\r\n", b""),
    ]:
        structure = Structure(HeaderSection(header))
        structure.feed(body)
        structure.finish()
        assert structure.complete


@pytest.mark.parametrize("beyond", [0, 1, 2, 3, 4, 5, 6, 7, 8])
def test_a_section_that_is_too_long_ends_in_one_place(beyond: int) -> None:
    """Where its limit is about a line end, and about a line that is a delimiter only to what the section says."""
    start = b"Content-Type: multipart/mixed; boundary=c\r\nX: "
    section = start + b"x" * (LONGEST_SECTION - len(start) - beyond)
    body = b"--b\r\n" + section + b"\r\n--c\r\n\r\none\r\n--c--\r\n--b--\r\n"
    whole = events_of(MULTIPART, [body])
    assert events_of(MULTIPART, [body[: LONGEST_SECTION - 20], *cut(body[LONGEST_SECTION - 20 :], [1])]) == whole
