"""A message as people read it."""

from __future__ import annotations

import unicodedata
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.record.mail_view import mail_view


def shown(octets: bytes, *, piece: int = 1 << 20) -> list[str]:
    header, _, body = octets.partition(b"\r\n\r\n")
    return [*mail_view(header + b"\r\n", [body[at : at + piece] for at in range(0, len(body), piece)])]


def octets_of(message: EmailMessage) -> bytes:
    return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


def invoice() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Büro <app@example.test>"
    message["X-Other"] = "not shown"
    message["Subject"] = "Grüße aus Köln"
    message.set_content("Grüße,\n\n\tRechnung über 5 €\n", cte="base64")
    message.add_alternative("<a href='https://x.test'>hier</a>\n", subtype="html", cte="quoted-printable")
    message.add_attachment(b"%PDF" * 30, maintype="application", subtype="pdf", filename="Rechnung März.pdf")
    return message


AS_READ = """\
From: Büro <app@example.test>
Subject: Grüße aus Köln

[multipart/mixed]
[1 multipart/alternative]
[1.1 text/plain, utf-8, base64, 46 B]
Grüße,

        Rechnung über 5 €

[1.2 text/html, utf-8, quoted-printable, 37 B]
<a href='https://x.test'>hier</a>

[2 application/pdf "Rechnung März.pdf", base64, 166 B]"""


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_fields_and_text_are_decoded_and_parts_numbered_however_octets_come(piece: int) -> None:
    assert "\n".join(shown(octets_of(invoice()), piece=piece)) == AS_READ


def test_a_message_in_a_message_has_its_fields_and_the_numbers_of_imap() -> None:
    outer = EmailMessage()
    outer["Subject"] = "Fwd"
    outer.set_content("below\n")
    outer.add_attachment(invoice())
    lines = shown(octets_of(outer))
    assert lines[:6] == ["Subject: Fwd", "", "[multipart/mixed]", "[1 text/plain, utf-8, 7 B]", "below", ""]
    assert lines[6:11] == [
        "[2 message/rfc822]",
        "From: Büro <app@example.test>",
        "Subject: Grüße aus Köln",
        "[2 multipart/mixed]",
        "[2.1 multipart/alternative]",
    ]
    assert lines[-1] == '[2.2 application/pdf "Rechnung März.pdf", base64, 166 B]'


def test_a_long_text_is_cut_and_says_so() -> None:
    text = b"Subject: x\r\n\r\n" + (b"x" * 78 + b"\r\n") * 40_000
    lines = shown(text, piece=65536)
    assert lines[-2:] == ["[cut here: 3.1 MiB in all]", ""]
    assert sum(map(len, lines)) < 2.1 * (1 << 20)


def test_where_programs_may_see_more_that_is_told() -> None:
    section = b"Content-Type: multipart/mixed\r\n"  # and no boundary
    assert shown(section + b"\r\nx\r\n")[-1] == "[not all of it could be told apart: some programs may see more in it]"


TYPES = (
    b"text/plain",
    b"text/html; charset=utf-16",
    b"multipart/mixed; boundary=b",
    b"message/rfc822",
    b"image/png; name=\x1b[5m",
)
PIECES = st.one_of(
    st.sampled_from(
        (b"--b\r\n", b"--b--\r\n", b"\r\n", b"From: \x1b]0;x\x07\r\n", b"Subject: =?utf-8?b?G1s1bQ==?=\r\n")
    ),
    st.sampled_from(TYPES).map(lambda kind: b"Content-Type: " + kind + b"\r\n"),
    st.sampled_from((b"base64", b"quoted-printable", b"x")).map(
        lambda name: b"Content-Transfer-Encoding: " + name + b"\r\n"
    ),
    st.binary(max_size=30),
)


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_whatever_comes_nothing_drives_a_terminal(octets: bytes) -> None:
    for line in shown(octets):
        assert not [one for one in line if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
