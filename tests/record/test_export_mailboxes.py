"""Messages as mail programs keep them: what Python's own readers of mbox and maildir find is what was recorded."""

from __future__ import annotations

import mailbox
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stored import record

from relayproxy.record.export.mailboxes import mbox, unix_lines
from relayproxy.record.export.maildir import Maildir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relayproxy.record.report import TransactionRecord

MESSAGE = b"Subject: hi\r\n\r\nFrom me\r\n>From you\r\n Fromage\r\nFrom\r\nbare \r and \n\r\n"


def from_(sender: str) -> TransactionRecord:
    told = record()
    received = msgspec.structs.replace(told.envelope.received, sender=sender)
    return msgspec.structs.replace(told, envelope=msgspec.structs.replace(told.envelope, received=received))


def test_a_message_of_an_mbox() -> None:
    assert b"".join(mbox(record(), [MESSAGE])) == (
        b"From a@example.com Fri Jan  2 03:04:05 2026\n"
        b"Subject: hi\n\n>From me\n>>From you\n Fromage\nFrom\nbare \r and \n\n\n"
    )


@pytest.mark.parametrize(
    ("sender", "word"), [("", "MAILER-DAEMON"), ('"a b"@x.test', '"a-b"@x.test'), ("ü@x.test", "ü@x.test")]
)
def test_who_a_message_is_from(sender: str, word: str) -> None:
    first = b"".join(mbox(from_(sender), [b"\r\n"])).split(b"\n")[0].decode()
    assert first == f"From {word} Fri Jan  2 03:04:05 2026"


def test_who_sent_it_on() -> None:
    told = record()
    sent = msgspec.structs.replace(told.envelope.received, sender="other@example.com")
    told = msgspec.structs.replace(told, envelope=msgspec.structs.replace(told.envelope, sent=sent))
    assert next(mbox(told, [], sent=True)).startswith(b"From other@example.com ")


def test_a_message_without_a_line_end_is_still_one_of_its_own() -> None:
    assert b"".join(mbox(record(), [b"a: b\r\n\r\nx"])).endswith(b"\nx\n\n")


@given(
    st.lists(st.sampled_from([b"From ", b">", b"F", b"rom ", b"\r", b"\n", b"\r\n", b"x"]), max_size=20).map(b"".join)
)
@example(b"x From y\r\n>From \r\r\nFrom z\r\n\r")
def test_however_a_message_is_cut_each_line_can_be_unquoted(message: bytes) -> None:
    lines = message.replace(b"\r\n", b"\n")
    for at in range(len(message) + 1):
        pieces = [message[:at], message[at : at + 2], message[at + 2 :]]
        assert b"".join(unix_lines(pieces)) == lines
        _, _, quoted = b"".join(mbox(record(), pieces)).partition(b"\n")
        assert quoted == re.sub(rb"(?m)^(?=>*From )", b">", lines) + (
            b"\n" if not lines or lines.endswith(b"\n") else b"\n\n"
        )


def test_python_reads_the_mbox(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    messages = [MESSAGE, b"Subject: two\r\n\r\nFrom the\r\n\r\n", b"Subject: three\r\n\r\n"]
    path.write_bytes(b"".join(piece for message in messages for piece in mbox(from_(""), [message])))
    read = mailbox.mbox(path)
    assert [message["Subject"] for message in read] == ["hi", "two", "three"]
    first, second, _ = read
    assert second.get_payload() == ">From the\n\n"
    assert first.get_from() == "MAILER-DAEMON Fri Jan  2 03:04:05 2026"
    read.close()


def test_python_reads_the_maildir(tmp_path: Path) -> None:
    made = Maildir(tmp_path / "box" / "mail")
    made.add(record(transaction="T1"), [MESSAGE[:10], MESSAGE[10:]])
    made.add(record(transaction="T2"), [b"Subject: two\r\n\r\n"])
    made.add(record(transaction="T2"), [b"Subject: two\r\n\r\n"])  # again: it is there once
    read = mailbox.Maildir(tmp_path / "box" / "mail", create=False)
    assert sorted(message["Subject"] for message in read) == ["hi", "two"]
    assert {message.get_date() for message in read} == {1767323045.12}
    found = sorted((tmp_path / "box" / "mail").glob("*/*"))
    assert [path.parent.name for path in found] == ["new", "new"]
    assert [path.stat().st_mode & 0o777 for path in found] == [0o600, 0o600]
    assert found[0].read_bytes() == MESSAGE.replace(b"\r\n", b"\n")


def test_a_message_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    made = Maildir(tmp_path)
    with pytest.raises(OSError, match="No space"):
        made.add(record(), fails())
    assert [path for path in tmp_path.glob("*/*") if path.is_file()] == []
