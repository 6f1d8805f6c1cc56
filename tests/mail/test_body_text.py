"""What a body says to people (RFC 2045, RFC 2046), whatever its octets."""

from __future__ import annotations

import time
from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.mail.body_text import TEXT, body_text
from relayproxy.mail.parts import DEPTH, PARTS

MULTIPART = b"Content-Type: multipart/mixed; boundary=b\r\n"


def test_a_message_of_many_parts_as_others_write_it() -> None:
    message = EmailMessage()
    message.set_content("Grüße aus München")
    message.add_alternative("<p>Gr&uuml;&szlig;e <b>aus</b> Rom</p>", subtype="html")
    message.add_attachment(b"\x89PNG secret", maintype="image", subtype="png")
    message.add_attachment("attached words", filename="a.txt", cte="base64")
    inner = EmailMessage()
    inner["Subject"] = "not body"
    inner.set_content("forwarded: €", charset="utf-8", cte="quoted-printable")
    message.add_attachment(inner)
    octets = message.as_bytes().replace(b"\n", b"\r\n")
    header, _, body = octets.partition(b"\r\n\r\n")
    text = body_text(header + b"\r\n", body)
    assert text.split() == "Grüße aus München Grüße aus Rom attached words forwarded: €".split()  # noqa: SIM905 - reads better


BODIES = [
    # header section, body, words
    (b"", b"hello\r\nworld", "hello world"),
    (b"", b"", ""),
    (b"Content-Type: nonsense\r\n", b"hello", "hello"),
    (b"Content-Type: image/png\r\n", b"hello", ""),
    (b"Content-Type: TEXT/Plain; Charset=ISO-8859-1\r\n", b"gr\xfc\xdfe", "grüße"),
    (b'Content-Type: text/plain;\r\n\tcharset="iso-8859-\\1"\r\n', b"gr\xfc\xdfe", "grüße"),
    (b"Content-Type: text/plain; charset=nothing\r\n", "grüße".encode(), "grüße"),
    (b"Content-Type: text/plain; charset=\xff\r\n", b"hello", "hello"),
    (b"Content-Type: text/plain; charset=rot13\r\n", b"hello", "hello"),
    (b"", b"gr\xfc\xdfe", "gr\ufffd\ufffde"),
    (b"Content-Transfer-Encoding: QUOTED-printable\r\n", b"a=3Db so=\r\nft", "a=b soft"),
    (b"Content-Transfer-Encoding: base64 \r\n", b"aGVs\r\nbG8", "hello"),
    (b"Content-Transfer-Encoding: base64\r\n", b"!!aGVsbG8=!! x", "hello"),
    (b"Content-Transfer-Encoding: uuencode\r\n", b"hello", "hello"),
    (b"Content-Type: text/html\r\n", b"a<br>b &amp; c <", "a b & c <"),
    (MULTIPART, b"preamble\r\n--b\r\n\r\none\r\n--b \t\r\nX: y\r\n\r\ntwo\r\n--b--\r\nepilogue", "one two"),
    (MULTIPART, b"--b\r\n\r\none\r\n--bb\r\n\r\ntwo", "one --bb two"),
    (MULTIPART, b"--b\n\r\n\r\none\n--b--", "one"),
    (MULTIPART, b"no parts", ""),
    (b"Content-Type: multipart/mixed\r\n", b"--b\r\n\r\none", ""),
    (
        MULTIPART,
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\none\r\n--b\r\n\r\ntwo",
        "one two",
    ),
    (b"Content-Type: message/rfc822\r\n", b"Subject: no\r\n\r\nyes", "yes"),
    (b"Content-Type: message/rfc822\r\n", b"Subject: no", ""),
]


@pytest.mark.parametrize(("header", "body", "words"), BODIES)
def test_a_body_says(header: bytes, body: bytes, words: str) -> None:
    assert body_text(header, body).split() == words.split()


def test_no_more_is_read_than_anybody_searches() -> None:
    assert len(body_text(b"", b"x" * (3 * TEXT))) == TEXT
    assert len(body_text(MULTIPART, (b"--b\r\n\r\n" + b"x" * (TEXT // 3) + b"\r\n") * 5)) == TEXT
    assert body_text(MULTIPART, b"--b\r\n\r\nx\r\n" * (2 * PARTS)).count("x") < PARTS
    wrapped = b"Content-Type: message/rfc822\r\n"
    assert body_text(wrapped, (wrapped + b"\r\n") * (DEPTH - 1) + b"\r\nx") == "x"
    assert body_text(wrapped, (wrapped + b"\r\n") * DEPTH + b"\r\nx") == ""


SLOW = [
    (MULTIPART, b"\r\n--bx" * 500_000),
    (MULTIPART, b"\r\n--b\r\n\r\nhi" * 300_000),
    (MULTIPART, b"\r\n--b" + b" " * 3_000_000),
    (MULTIPART, b"--b\r\n" + b"a:b\r\n" * 600_000),
    (b"Content-Type: text/html\r\n", b"<" * 3_000_000),
    (b"Content-Type: multipart/mixed;" + b';a="\\' * 100_000 + b"\r\n", b"x"),
    (b"Content-Type: message/rfc822\r\n", b"Content-Type: message/rfc822\r\n\r\n" * 50_000),
]


@pytest.mark.parametrize(("header", "body"), SLOW)
def test_none_is_slow(header: bytes, body: bytes) -> None:
    started = time.process_time()
    body_text(header, body)
    assert time.process_time() - started < 0.5


PIECES = st.sampled_from([
    b"--b", b"--b--", b"\r\n", b"\n", b"\r\n\r\n", b"Content-Type: ", b"multipart/mixed; boundary=b", b"message/rfc822", b"text/html; charset=", b"utf-16",
    b"iso-2022-jp", b"Content-Transfer-Encoding: ", b"base64", b"quoted-printable", b"=", b"=3", b'"', b"\\", b";", b"a", b"\xff", b"\0", b"&#x110000;", b"<",
])  # fmt: skip
OCTETS = st.lists(PIECES, max_size=30).map(b"".join) | st.binary()


@given(OCTETS, OCTETS)
@example(b"Content-Transfer-Encoding: base64\r\n", b"A")
def test_no_octets_raise(header: bytes, body: bytes) -> None:
    assert isinstance(body_text(header, body), str)
