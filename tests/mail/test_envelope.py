"""The envelope: what MAIL and RCPT said, as one value and back."""

from __future__ import annotations

import pytest

from relayproxy.mail.envelope import Envelope, Recipient
from relayproxy.smtp.commands import Mail, Path, Rcpt, parse_command

LINES = [
    b"MAIL FROM:<a@example.com> SIZE=328 BODY=8BITMIME RET=HDRS",
    b"RCPT TO:<Jane.Doe+x@Customer.example> NOTIFY=NEVER ORCPT=rfc822;jane@customer.example",
    b'RCPT TO:<"odd local"@example.net>',
    b"RCPT TO:<Jane.Doe+x@Customer.example>",
]


def envelope(lines: list[bytes]) -> Envelope:
    mail, *recipients = (parse_command(line) for line in lines)
    assert isinstance(mail, Mail)
    return Envelope.of(mail, [recipient for recipient in recipients if isinstance(recipient, Rcpt)])


def test_an_envelope_says_what_was_said() -> None:
    assert [command.wire() for command in envelope(LINES).commands] == [line + b"\r\n" for line in LINES]


def test_its_parts_have_names() -> None:
    whole = envelope(LINES[:3])
    assert whole.sender.address == b"a@example.com"
    assert whole.parameters == ((b"SIZE", b"328"), (b"BODY", b"8BITMIME"), (b"RET", b"HDRS"))
    assert whole.recipients[1] == Recipient(Path(b'"odd local"', b"example.net"))
    assert Envelope(Path(b"", b"")).commands == (Mail(Path(b"", b"")),)


@pytest.mark.parametrize(
    ("lines", "is_ascii"),
    [
        ([b"MAIL FROM:<>"], True),
        ([b"MAIL FROM:<>", b"RCPT TO:<a@b.example>"], True),
        (["MAIL FROM:<ä@b.example> SMTPUTF8".encode(), b"RCPT TO:<a@b.example>"], False),
        ([b"MAIL FROM:<> SMTPUTF8", b"RCPT TO:<a@b.example>", "RCPT TO:<a@bücher.example>".encode()], False),
    ],
)
def test_one_address_that_is_not_ascii_makes_the_envelope_so(lines: list[bytes], is_ascii: bool) -> None:
    assert envelope(lines).is_ascii == is_ascii
