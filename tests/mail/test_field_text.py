"""Text as a field's value: RFC 5322 §2.1.1, RFC 2047, RFC 6532; PROTOCOL §1.11, attack 10."""

from __future__ import annotations

import re
import time
from email.headerregistry import HeaderRegistry
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.field_text import field_value, wire_address
from relayproxy.mail.header import HeaderSection, decode, unfold

WRITTEN = [
    ("Subject", "", False, b""),
    ("Subject", "hi", False, b"hi"),
    ("Subject", " hi  there ", False, b"hi  there"),
    ("Subject", "Grüße", False, b"=?utf-8?q?Gr=C3=BC=C3=9Fe?="),
    ("Subject", "Order 17 für  Jürgen, now", False, b"Order 17 =?utf-8?q?f=C3=BCr__J=C3=BCrgen=2C?= now"),
    ("Subject", "日本語", False, b"=?utf-8?b?5pel5pys6Kqe?="),
    ("Subject", "Grüße", True, "Grüße".encode()),
    (
        "Subject",
        "a =?utf-8?q?b?= c",
        False,
        b"a =?utf-8?q?=3D=3Futf-8=3Fq=3Fb=3F=3D?= c",
    ),  # is to be read as it is here
    ("Subject", "ü =?", True, "ü =?utf-8?q?=3D=3F?=".encode()),
    ("To", "Jane <j@x.test>, k@x.test", False, b"Jane <j@x.test>, k@x.test"),
    ("to", "Jürgen Müller <j@x.test>", False, b"=?utf-8?q?J=C3=BCrgen_M=C3=BCller?= <j@x.test>"),
    ("Cc", '"Müller, \\"J\\"" <j@x.test>', False, b"=?utf-8?q?M=C3=BCller=2C_=22J=22?= <j@x.test>"),
    ("From", "j@x.test (Jürgen), K <k@x.test>", False, b"j@x.test (=?utf-8?q?J=C3=BCrgen?=), K <k@x.test>"),
    ("Reply-To", "Tür: Ä <j@x.test>;", False, b"=?utf-8?q?T=C3=BCr?=: =?utf-8?b?w4Q=?= <j@x.test>;"),
    ("Bcc", "Jane <j@bücher.test>", False, b"Jane <j@xn--bcher-kva.test>"),
    ("Bcc", "Jane <j@X.test>", False, b"Jane <j@X.test>"),
    ("To", "Jürgen <jü@bücher.test>", True, "Jürgen <jü@xn--bcher-kva.test>".encode()),
    ("To", "=?utf-8?q?J?= <j@x.test>", False, b"=?utf-8?q?=3D=3Futf-8=3Fq=3FJ=3F=3D?= <j@x.test>"),
    ("Subject", "w " * 60, False, b"w" + b" w" * 34 + b"\r\n" + b" w" * 25),
]


@pytest.mark.parametrize(("name", "text", "utf8", "value"), WRITTEN)
def test_text_is_written_as_its_field_has_it(name: str, text: str, utf8: bool, value: bytes) -> None:
    assert field_value(name, text, utf8=utf8) == value


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("Subject", "a\r\nBcc: x@y.test", "one line without control characters, got '\\r'"),
        ("Subject", "a\0", "control characters, got '\\x00'"),
        ("Subject", "a\tb", "control characters, got '\\t'"),
        ("Subject", "a\x85b", "control characters, got '\\x85'"),
        ("Subject", "a\ud800", "control characters, got '\\ud800'"),
        ("To", "jü@x.test", "expected an ASCII address, for the message came without SMTPUTF8, got 'jü@x.test'"),
        ("To", "x" * 998, "expected a value of To with white space every 998 octets"),
    ],
)
def test_what_cannot_be_written_is_refused(name: str, text: str, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        field_value(name, text)


def test_a_word_that_is_too_long_for_a_line_becomes_encoded_words() -> None:
    for text in ("x" * 5000, "a" + " " * 3000 + "b"):
        value = field_value("X-Data", text)
        assert max(map(len, value.split(b"\r\n"))) <= 76
        assert decode(value) == text


def test_a_word_that_fits_a_line_of_its_own_has_it() -> None:
    assert field_value("To", "x" * 997) == b"\r\n " + b"x" * 997
    assert field_value("Subject", "x" * 200) == b"x" * 200


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=300)
names = st.sampled_from(["Subject", "X-Quite-A-Long-Name-For-A-Field-Of-Any-Message-That-Was-Ever-Sent-And-Read"])


@given(
    names,
    st.one_of(texts, st.lists(st.sampled_from(["=?", "?=", " ", "utf-8?q?", "ü", "a"])).map("".join)),
    st.booleans(),
)
def test_what_is_read_is_what_was_written(name: str, text: str, utf8: bool) -> None:
    value = field_value(name, text, utf8=utf8)
    assert decode(value) == text.strip(" ")
    section = HeaderSection(b"")
    section.add(name.encode(), value)
    assert (section.malformed, section.count(name.encode())) == (None, 1)
    assert utf8 or value.isascii()
    for word in re.findall(rb"=\?utf-8\?[bq]\?[^?]*\?=", value):
        assert len(word) <= 75
        decode(word).encode("ascii", "backslashreplace")
        assert "\\x" not in decode(word) or "\\x" in text  # whole characters
    for line in (name.encode() + b": " + value).split(b"\r\n"):
        assert len(line) <= (76 if b"=?" in value else 78) or b" " not in line.strip() or line.startswith(name.encode())


@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zs"], exclude_characters='"\\()<>@,;:[]'),
        min_size=1,
        max_size=8,  # longer names are two words, between which Python 3.11 puts a space
    )
)
def test_names_of_addresses_are_read_by_others(name: str) -> None:
    value = field_value("To", f'"{name}" <j@x.test>')
    assert value.isascii()
    header: Any = HeaderRegistry()("to", unfold(value).decode())
    (address,) = header.addresses
    assert (address.display_name, address.addr_spec) == (name, "j@x.test")


ADDRESSES = [
    ("j@x.test", b"j@x.test"),
    ("J@X.Test.", b"J@x.test"),
    ("j@bücher.test", b"j@xn--bcher-kva.test"),
    ("a..b@x.test", b'"a..b"@x.test'),
    ('"a"@x.test', b"a@x.test"),
    ('"a@b"@x.test', b'"a@b"@x.test'),
    ('"a\\"b"@x.test', b'"a\\"b"@x.test'),
    ("j@[192.0.2.1]", b"j@[192.0.2.1]"),
    ("postmaster", b"postmaster"),
]


@pytest.mark.parametrize(("address", "octets"), ADDRESSES)
def test_an_address_is_written_so_that_all_read_it(address: str, octets: bytes) -> None:
    assert wire_address(address) == octets


@pytest.mark.parametrize(
    "address",
    ["", "<a@b.test>", "a@b.test\r\n", "a\0@b.test", "a@b.test, c@d.test", "a@", "a b@c.test", "@r.test:a@b.test", "a@b c", "a@b.test>", "a@[x", "a@-", "a@" + "b" * 300, "a@b\uff0etest", "\ud800@b.test", "ü@b.test"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected "):
        wire_address(address)


def test_an_address_may_be_utf8_where_the_message_may() -> None:
    assert wire_address("ü@b.test", utf8=True) == "ü@b.test".encode()


def test_attack_20_hostile_text_takes_linear_time() -> None:
    for part in ('"\\', "(\\(", '"', "(", "a ", "ü ", "a@", '"a" ', "=?", " "):
        started = time.process_time()
        for name in ("To", "Subject"):
            text = "x" + part * (8 * 1024 // len(part))
            try:
                field_value(name, text)
            except ValueError as error:
                assert "white space" in str(error)  # noqa: PT017
        assert time.process_time() - started < 0.5
