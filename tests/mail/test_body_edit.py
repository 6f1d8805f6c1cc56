"""What is taken out is gone to every reader, and nothing else has changed (DESIGN §6; PROTOCOL §1.11)."""

from __future__ import annotations

import re
import time
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mime_bodies import ANY_BODY, ANY_HEADER, CUTS, HOSTILE, MULTIPART, cut

from relayproxy.mail.body_edit import Stripper, plain_body
from relayproxy.mail.edits import AddField, DeleteField, HeaderEdit
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.mime import Scanner
from relayproxy.mail.pattern import Pattern

EXE = Pattern.parse("*.exe")


def stripped(
    header: bytes | HeaderSection, body: bytes, sizes: list[int], pattern: Pattern = EXE
) -> tuple[bytes, Stripper]:
    stripper = Stripper(header if isinstance(header, HeaderSection) else HeaderSection(header), pattern)
    out = b"".join([stripper.feed(piece) for piece in cut(body, sizes)]) + stripper.finish()
    return out, stripper


def made(header: bytes, edits: tuple[HeaderEdit, ...]) -> bytes:
    """The section with such edits as there are here."""
    section = HeaderSection(header)
    for edit in edits:
        match edit:
            case DeleteField(name, None):
                section.delete(name.encode())
            case AddField(name, value, None):
                section.add(name.encode(), value.encode())
            case _:
                raise AssertionError(edit)
    return bytes(section)


NOTICE = b"Content-Type: text/plain; charset=us-ascii\r\n\r\nThe attachment %b was removed."
PART = b"--b\r\nX: y\r\nContent-Disposition: attachment; filename=%b\r\n\r\nx\xff\r\n\r\n"
KEPT = PART % b"a.txt"
BODIES = [
    (b"pre\r\n" + PART % b"a.exe" + KEPT + b"--b--\r\npost\r\n", b"pre\r\n--b\r\n" + NOTICE % b"a.exe" + b"\r\n" + KEPT + b"--b--\r\npost\r\n"),
    (KEPT + PART % b"a.exe", KEPT + b"--b\r\n" + NOTICE % b"a.exe" + b"\r\n"),
    # A part that has nothing, or not even an empty line.
    (b"--b\r\nContent-Type: x/y; name=a.exe\r\n\r\n--b--\r\n", b"--b\r\n" + NOTICE % b"a.exe" + b"\r\n--b--\r\n"),
    (b"--b\r\nContent-Type: x/y; name=a.exe\r\n--b--\r\n", b"--b\r\n" + NOTICE % b"a.exe" + b"\r\n--b--\r\n"),
    (b"--b\r\nContent-Type: x/y; name=a.exe", b"--b\r\n" + NOTICE % b"a.exe"),
    # All of a message or a multipart, and what is in one that stays.
    (
        b"--b\r\nContent-Type: message/rfc822; name=a.exe\r\n\r\nSubject: x\r\n\r\n" + KEPT.replace(b"--b", b"--c") + b"\r\n" + KEPT,
        b"--b\r\n" + NOTICE % b"a.exe" + b"\r\n" + KEPT,
    ),
    (
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/signed; boundary=c\r\n\r\n" + (PART % b"a.exe").replace(b"--b", b"--c") + b"--c--\r\n",
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/signed; boundary=c\r\n\r\n--c\r\n" + NOTICE % b"a.exe" + b"\r\n--c--\r\n",
    ),
    (
        b"--b\r\nContent-Type: multipart/x; boundary=c; name=a.exe\r\n\r\n--c\r\n\r\none\r\n--c\r\n\r\ntwo\r\n--c--\r\n\r\n" + KEPT,
        b"--b\r\n" + NOTICE % b"a.exe" + b"\r\n" + KEPT,
    ),
    # What is shown of a name ends no line, and is short.
    (PART % b'"=?utf-8?Q?gr=C3=BC=0D=0A--b.exe?="' + KEPT, b"--b\r\n" + NOTICE % b"gr???--b.exe" + b"\r\n" + KEPT),
    (PART % (b"x" * 300 + b".exe") + KEPT, b"--b\r\n" + NOTICE % (b"x" * 200) + b"\r\n" + KEPT),
    (KEPT, KEPT),
]  # fmt: skip


@pytest.mark.parametrize(("body", "left"), BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_what_matches_is_replaced_and_nothing_else(body: bytes, left: bytes, size: int) -> None:
    out, stripper = stripped(MULTIPART, body, [size])
    assert out == left
    assert stripper.edits == ()


ALONE = [
    (b"Content-Disposition: attachment; filename=a.exe\r\nSubject: x\r\n", b"Subject: x\r\nMIME-Version: 1.0\r\n"),
    (
        b"MIME-Version: 1.0\r\ncontent-type: x/y; name=a.exe\r\nContent-Type: z\r\nContent-ID: <1>\r\nSubject: x\r\n",
        b"MIME-Version: 1.0\r\nSubject: x\r\n",
    ),
]


@pytest.mark.parametrize(("header", "left"), ALONE)
@pytest.mark.parametrize("body", [b"MZ\xff\r\n", b"", b"MZ\r\n\r\n--b\r\n"])
def test_a_message_that_is_an_attachment_becomes_text(header: bytes, left: bytes, body: bytes) -> None:
    out, stripper = stripped(header, body, [3])
    assert out == b"The attachment a.exe was removed.\r\n"
    assert made(header, stripper.edits) == left + (
        b"Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n"
    )


_FILE_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=60)
_FILES = st.lists(st.tuples(_FILE_NAMES, st.booleans(), st.binary(max_size=200)), max_size=5)


@st.composite
def messages(draw: st.DrawFn) -> EmailMessage:
    """As Python's email package writes them."""
    message = EmailMessage()
    message.set_content(draw(st.sampled_from(["hello\n", "Grüße\n", "\n"])))
    if draw(st.booleans()):
        message.add_alternative("<p>hello</p>", subtype="html")
    for name, matches, octets in draw(_FILES):
        name_of_it = name + (".exe" if matches else ".txt")
        message.add_attachment(octets, maintype="application", subtype="x", filename=name_of_it)
    if draw(st.booleans()):
        inner = draw(messages())
        message.add_attachment(inner, filename=draw(st.sampled_from(["a.eml", "b.exe", None])))
    return message


def leaves(octets: bytes) -> list[tuple[str | None, object]]:
    """Names and contents, as the standard library sees them."""
    parts = message_from_bytes(octets, policy=policy.default).walk()
    return [(part.get_filename(), part.get_payload(decode=True)) for part in parts if not part.is_multipart()]


@pytest.mark.slow
@given(messages(), CUTS)
def test_another_reader_finds_none_of_that_name_and_all_others(message: EmailMessage, sizes: list[int]) -> None:
    octets = message.as_bytes(policy=policy.SMTP)
    header, body = re.split(rb"(?<=\r\n)\r\n", octets, maxsplit=1)
    out, _ = stripped(header, body, [size * 11 for size in sizes])
    after = leaves(header + b"\r\n" + out)
    assert not [name for name, _ in after if name is not None and EXE.matches(name)]
    told = [content for name, content in after if isinstance(content, bytes) and content.startswith(b"The attachment ")]
    assert [leaf for leaf in after if leaf[1] not in told] == kept(message_from_bytes(octets, policy=policy.default))
    assert out == body if not told else out != body


def kept(message: MIMEPart) -> list[tuple[str | None, object]]:
    """Of what the standard library sees, what is in nothing that goes."""
    name = message.get_filename()
    if name is not None and EXE.matches(name):
        return []
    if not message.is_multipart():
        return [(name, message.get_payload(decode=True))]
    return (
        [leaf for part in message.iter_parts() for leaf in kept(part)]
        if message.get_content_maintype() == "multipart"
        else kept(message.get_content())
    )


_LINE_FAULT = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@given(ANY_HEADER, ANY_BODY, CUTS)
def test_whatever_comes_none_is_left_and_lines_stay_lines(header: HeaderSection, body: bytes, sizes: list[int]) -> None:
    out, stripper = stripped(header, body, [len(body) + 1])
    assert stripped(header, body, sizes)[0] == out
    left = HeaderSection(made(bytes(header), stripper.edits))
    scanner = Scanner(left)
    scanner.feed(out)
    scanner.finish()
    assert "a.exe" not in scanner.attachments
    assert len(_LINE_FAULT.findall(out)) <= len(_LINE_FAULT.findall(body))
    assert out.endswith(b"\r\n") or not body.endswith(b"\r\n")


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_megabyte_costs_little(body: bytes) -> None:
    started = time.process_time()
    assert stripped(MULTIPART, body, [65536])[0] == body
    assert time.process_time() - started < 0.4


TEXTS = [
    ("", b"", "7bit"),
    ("one\ntwo", b"one\r\ntwo\r\n", "7bit"),
    ("one\r\ntwo\rthree\n\n", b"one\r\ntwo\r\nthree\r\n\r\n", "7bit"),
    ("x" * 998, b"x" * 998 + b"\r\n", "7bit"),
    ("a line with ü, and one = sign", b"a line with =C3=BC, and one =3D sign\r\n", "quoted-printable"),
    ("для", b"0LTQu9GPDQo=\r\n", "base64"),
]


@pytest.mark.parametrize(("text", "octets", "encoding"), TEXTS)
def test_another_body_is(text: str, octets: bytes, encoding: str) -> None:
    edits, body = plain_body(HeaderSection(MULTIPART + b"Subject: x\r\n"), text)
    assert body == octets
    assert made(MULTIPART + b"Subject: x\r\n", edits) == (
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: %b\r\n" % encoding.encode()
    )


@given(
    st.text(st.sampled_from("ab =.\r\n\t\0ü€\U0001f600") | st.characters(codec="utf-8"), max_size=300)
    | st.just("x" * 999)
)
def test_another_body_says_its_text_in_lines_that_anybody_takes(text: str) -> None:
    edits, body = plain_body(HeaderSection(MULTIPART), text)
    message = message_from_bytes(made(MULTIPART, edits) + b"\r\n" + body, policy=policy.default)
    wanted = re.sub(r"\r\n|\r|\n", "\r\n", text)
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode() == wanted + ("" if wanted.endswith("\r\n") or not wanted else "\r\n")
    assert body.isascii()
    assert b"\0" not in body
    assert not _LINE_FAULT.search(body)
    assert max(map(len, body.split(b"\r\n"))) <= 998
