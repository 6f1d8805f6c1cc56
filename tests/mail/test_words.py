"""What values say to people: RFC 2047, RFC 5322 §2.2.3; PROTOCOL attack 19."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.header import decode, unfold
from relayproxy.mail.words import readings

UNFOLDED = [
    (b" hi", b" hi"),
    (b" hi\r\n there", b" hi there"),
    (b"\r\n\thi\r\n  there ", b"\thi  there "),
    (b"a\r\nb\r\n", b"a\r\nb\r\n"),
    (b"a\r b\n c", b"a\r b\n c"),
]


@pytest.mark.parametrize(("value", "line"), UNFOLDED)
def test_unfolding_takes_the_line_ends_only(value: bytes, line: bytes) -> None:
    assert unfold(value) == line


DECODED = [
    (b"", ""),
    (b" hi ", "hi"),
    (b" hi\r\n\tthere", "hi\tthere"),
    ("Grüße".encode(), "Grüße"),
    (b"Gr\xfc\xdfe", r"Gr\xfc\xdfe"),
    (b"<1@x>", "<1@x>"),
    # RFC 2047 §8's table, and its neighbours
    (b"=?ISO-8859-1?Q?a?=", "a"),
    (b"=?ISO-8859-1?Q?a?= b", "a b"),
    (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
    (b"=?ISO-8859-1?Q?a?=  =?ISO-8859-1?Q?b?=", "ab"),
    (b"=?ISO-8859-1?Q?a?=\r\n    =?ISO-8859-1?Q?b?=", "ab"),
    (b"=?ISO-8859-1?Q?a_b?=", "a b"),
    (b"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
    (b"x =?utf-8?b?w7w=?= y", "x ü y"),
    (b"=?utf-8?B?w7w?=", "ü"),  # without padding
    (b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),  # cut inside a character
    (b"=?utf-8?Q?=C3?= =?iso-8859-1?Q?=FC?=", r"\xc3ü"),
    (b"=?utf-8*de?q?=C3=BC?=", "ü"),  # RFC 2231 §5
    (b"=?utf-8?q?a b?=", "a b"),  # a space where none may be
    (b"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "日本"),
    (b"=?koi8-u?q?=C1?=", "а"),  # noqa: RUF001
    (b"=?utf-8?q??=", ""),
    # not encoded-words: they stay (§6.2)
    (b"=?utf-8?q?a", "=?utf-8?q?a"),
    (b"=?utf-8?x?a?=", "=?utf-8?x?a?="),
    (b"=?utf-8?b?a?=", "=?utf-8?b?a?="),  # base64 of no octet
    (b"=?nothing?q?a?= =?utf-8?q?b?=", "=?nothing?q?a?= b"),
    (b"=??q?a?=", "=??q?a?="),
    # codecs that are no character sets, or worse
    (b"=?zlib?b?eJxLBAAAYgBi?=", "=?zlib?b?eJxLBAAAYgBi?="),
    (b"=?rot13?q?a?=", "=?rot13?q?a?="),
    (b"=?base64?q?YQ=3D=3D?=", "=?base64?q?YQ=3D=3D?="),
    (b"=?idna?q?xn--a?=", "=?idna?q?xn--a?="),
    (b"=?punycode?q?a-b?=", "=?punycode?q?a-b?="),
    (b"=?unicode_escape?q?=5Cu0041?=", "=?unicode_escape?q?=5Cu0041?="),
    (b"=?utf-7?q?+2AA-?=", "=?utf-7?q?+2AA-?="),
    (b"=?../../evil?q?a?=", "=?../../evil?q?a?="),
    (b"=?os.path?q?a?=", "=?os.path?q?a?="),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), DECODED)
def test_what_a_value_says(value: bytes, text: str) -> None:
    assert decode(value) == text


def test_a_value_is_read_up_to_a_limit() -> None:
    assert decode(b"x" * 100_000) == "x" * 16384 + "…"


@pytest.mark.parametrize(
    "bomb", [b"=?", b"=?utf-8?q?", b"=?utf-8?b?YQ==?= ", b"=?utf-8?q?=", b"=?a*b?q?", b"\r\n ", b"=?utf-8?q?=?="]
)
def test_attack_19_chains_take_no_time(bomb: bytes) -> None:
    started = time.process_time()
    decode(bomb * (262_144 // len(bomb)))
    assert time.process_time() - started < 0.5


soup = st.lists(
    st.sampled_from(
        [
            b"=?",
            b"?=",
            b"?q?",
            b"?B?",
            b"utf-8",
            b"utf-16",
            b"utf-32",
            b"utf-7",
            b"+2AA-",
            b"nothing",
            b"gb18030",
            b"hz",
            b"iso2022_kr",
            b"=D8",
            b"AAAA2AAA",
            b"=",
            b"?",
            b" ",
            b"\r\n ",
            b"\xff",
            b"~{",
            b"=1B$)C",
        ]
    )
).map(b"".join)
charsets = st.sampled_from(
    [
        b"utf-8",
        b"utf-16",
        b"utf_16_le",
        b"utf-32",
        b"hz",
        b"iso-2022-jp",
        b"iso-2022-kr",
        b"gb18030",
        b"johab",
        b"big5hkscs",
        b"cp1125",
    ]
)


READINGS = [
    (b"hi", ["hi"]),
    (b"=?utf-8?q?=C3=BC?=", ["ü"]),
    (b"=?nothing?q?a=FC?= b", ["=?nothing?q?a=FC?= b", r"a\xfc b", "aü b"]),
    (b"=?utf-7?q?+AGU-?=", ["=?utf-7?q?+AGU-?=", "+AGU-", "e"]),
    (b"=?nothing?q?a?= =?utf-8?q?b?=", ["=?nothing?q?a?= b", "ab"]),
]


@pytest.mark.parametrize(("value", "texts"), READINGS)
def test_what_a_value_may_say_to_others(value: bytes, texts: list[str]) -> None:
    assert list(dict.fromkeys(readings(value))) == texts


@given(st.one_of(soup, st.binary()))
def test_no_value_raises_and_all_text_can_be_written(value: bytes) -> None:
    texts = readings(value)
    assert texts[0] == decode(value)
    "".join(texts).encode("utf-8")


@given(charsets, st.binary())
def test_no_character_set_raises(charset: bytes, octets: bytes) -> None:
    text = b"".join(b"=%02X" % octet for octet in octets)
    decode(b"=?%b?q?%b?=" % (charset, text)).encode("utf-8")
