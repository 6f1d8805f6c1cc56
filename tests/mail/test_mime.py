"""Rules know what is attached and what is said, whatever the octets (DESIGN §6; PROTOCOL attack 19)."""

from __future__ import annotations

import time
import tracemalloc
from email.message import EmailMessage

import pytest
from hypothesis import given
from mime_bodies import ANY_BODY, ANY_HEADER, CUTS, HOSTILE, MULTIPART, cut

from relayproxy.mail.body_text import TEXT
from relayproxy.mail.header import HeaderSection
from relayproxy.mail.mime import NAMES, UUENCODED, Scanner


def scanned(header: bytes | HeaderSection, body: bytes, sizes: tuple[int, ...] = (65536,)) -> Scanner:
    scanner = Scanner(header if isinstance(header, HeaderSection) else HeaderSection(header))
    for piece in cut(body, list(sizes)):
        scanner.feed(piece)
    scanner.finish()
    return scanner


def test_a_message_as_others_write_it() -> None:
    message = EmailMessage()
    message.set_content("Grüße")
    message.add_attachment(
        b"\x89PNG", maintype="image", subtype="png", filename="grüße aus münchen, mit einem langen namen und €.png"
    )
    message.add_attachment("words", filename="a.txt")
    inner = EmailMessage()
    inner.set_content("forwarded")
    inner.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="inner.exe")
    message.add_attachment(inner, filename="mail.eml")
    header, _, body = message.as_bytes().replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
    scanner = scanned(header + b"\r\n", body, (7,))
    assert scanner.attachments == (
        "grüße aus münchen, mit einem langen namen und €.png",
        "a.txt",
        "mail.eml",
        "inner.exe",
    )
    assert scanner.text.split() == ["Grüße", "words", "forwarded"]
    assert scanner.complete


PART = b"--b\r\nContent-Disposition: attachment; filename=%b\r\n\r\nx\r\n"
ATTACHED = [
    # header section, body, attachments
    (b"Content-Disposition: attachment; filename=a.exe\r\n", b"x", ("a.exe",)),
    (b'Content-Type: application/x; name="a.exe"\r\n', b"x", ("a.exe",)),
    (b'Content-Type: multipart/mixed; boundary=b; name="a.exe"\r\n', b"--b\r\n\r\n", ()),
    (b'Content-Type: multipart/mixed; x="; boundary=b; name=a.exe\r\n', b"x", ("a.exe",)),
    (b"Content-Type: multipart/mixed; boundary=a; boundary=b; name=a.exe\r\n", b"--b\r\n\r\n", ("a.exe",)),
    (b"Content-Type: a/b; name=a.exe\r\n" + MULTIPART, b"--b\r\n\r\n", ("a.exe",)),
    (MULTIPART, PART % b"a.exe" + PART % b"b.exe" + PART % b"a.exe", ("a.exe", "b.exe")),
    (MULTIPART, b"--b\r\nContent-Type: x/y; name=a.txt\r\nContent-Disposition: inline;\r\n\tfilename=a.exe\r\n\r\n", ("a.exe", "a.txt")),
    (MULTIPART, b"--b\r\nContent-Disposition: x; filename=a.txt\r\ncontent-disposition : x; filename=a.exe\r\n\r\n", ("a.txt", "a.exe")),
    (MULTIPART, b"--b\r\nno field\r\nContent-Disposition: x; filename=a.exe\r\n\r\n", ("a.exe",)),
    (MULTIPART, b"--b\r\nContent-Disposition: x; filename=a.exe", ("a.exe",)),
    (MULTIPART, b"--b--\r\n" + PART % b"a.exe", ("a.exe",)),
    (
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: multipart/x; boundary=c\r\n\r\n" + PART.replace(b"--b", b"--c") % b"a.exe",
        ("a.exe",),
    ),
    (MULTIPART, b"--b\r\n\r\nContent-Disposition: attachment; filename=a.exe\r\n", ()),
    # uuencoded, as old programs write and show it
    (b"", b"hello\r\nbegin 644 evil.exe\r\nM\r\n`\r\nend\r\n", ("evil.exe",)),
    (b"", b"begin 0755\t=?utf-8?Q?my?= evil.exe \nM", ("my evil.exe",)),
    (b"", b'begin-base64 644 "evil.exe"', ("evil.exe",)),
    (b"Content-Type: application/x\r\n", b"begin 644 evil.exe", ("evil.exe",)),
    (MULTIPART, b"--b\r\n\r\nbegin 644 evil.exe\r\n--b\r\n\r\nbegin 644 evil.com\r\n--b--", ("evil.exe", "evil.com")),
    (b"Content-Transfer-Encoding: quoted-printable\r\n", b"begin=20644=20evil=2Eexe\r\n", ("evil.exe",)),
    (b"Content-Transfer-Encoding: base64\r\n", b"aGkKYmVnaW4gNjQ0IGV2aWwuZXhlCg==\r\n", ("evil.exe",)),
    (b"", b"so begin 644 a.exe\r\nbegin 64 a.exe\r\nbegin 648 a.exe\r\nbegin 644\r\na.exe\r\nbegin with a.exe", ()),
]  # fmt: skip


@pytest.mark.parametrize(("header", "body", "attachments"), ATTACHED)
@pytest.mark.parametrize("size", [1, 1000])
def test_attachments_are(header: bytes, body: bytes, attachments: tuple[str, ...], size: int) -> None:
    assert scanned(header, body, (size,)).attachments == attachments


def test_a_name_that_stands_in_a_text_is_told_from_one_of_a_part() -> None:
    scanner = scanned(MULTIPART, PART % b"a.exe" + b"begin 644 b.exe\r\n" + PART % b"c.exe" + b"begin 644 c.exe\r\n")
    assert scanner.attachments == ("a.exe", "c.exe", "b.exe")
    assert scanner.uuencoded == {"b.exe", "c.exe"}


@given(ANY_HEADER, ANY_BODY, CUTS)
def test_facts_are_the_same_however_octets_come(header: HeaderSection, body: bytes, sizes: list[int]) -> None:
    whole, in_pieces = scanned(header, body), scanned(header, body, tuple(sizes))
    assert whole.attachments == in_pieces.attachments
    assert whole.text == in_pieces.text
    assert whole.complete == in_pieces.complete


def test_names_are_bounded_and_that_is_told() -> None:
    scanner = scanned(MULTIPART, b"".join(PART % (b"%d" % n + b"x" * 3000) for n in range(NAMES // 3000 + 1)))
    assert sum(map(len, scanner.attachments)) <= NAMES
    assert not scanner.complete
    scanner = scanned(b"", b"".join(b"begin 644 %d\r\n" % n for n in range(UUENCODED + 1)))
    assert len(scanner.attachments) == UUENCODED
    assert not scanner.complete
    assert scanned(b"", b"begin 644 a\r\n" * (UUENCODED + 1)).complete


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_megabyte_costs_little(body: bytes) -> None:
    def cost() -> float:
        started = time.process_time()
        scanned(MULTIPART, body)
        return time.process_time() - started

    assert min(cost() for _ in range(3)) < 0.4  # what all else in this process leaves behind may be collected meanwhile


FILE = b"--b\r\nContent-Type: a/b\r\n\r\n" + b"x" * (16 << 20)
KEPT = [
    # body, octets of memory
    (FILE, 1 << 20),
    (b"--b\r\n\r\n" + b"x" * (4 * TEXT), 8 * TEXT),
    (HOSTILE["parts"], 1 << 20),
    (HOSTILE["messages in messages"], 1 << 20),
    (HOSTILE["a section without an end"], 3 * TEXT),
    (HOSTILE["a delimiter without an end"], 4 * TEXT),
]


@pytest.mark.parametrize(("body", "limit"), KEPT, ids=range(len(KEPT)))
def test_memory_does_not_grow_with_the_body(body: bytes, limit: int) -> None:
    tracemalloc.start()
    scanned(MULTIPART, body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < limit
