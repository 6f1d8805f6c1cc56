"""The one form in which addresses are compared (DESIGN §6, RFC 5321 §4.1.2, RFC 5890)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.canonical import canonical, dequoted, split, with_u_labels

ADDRESSES = [
    # as written, canonical, with U-labels
    ("", "", ""),
    ("Jane@Example.TEST", "Jane@example.test", "Jane@example.test"),
    ("jane@example.test.", "jane@example.test", "jane@example.test"),
    ("jane@example.test..", "jane@example.test.", "jane@example.test."),
    ("Postmaster", "Postmaster", "Postmaster"),
    ('"jane"@x.test', "jane@x.test", "jane@x.test"),
    ('"jane doe"@X.test', "jane doe@x.test", "jane doe@x.test"),
    (r'"a\"b\\c"@x.test', r'a"b\c@x.test', r'a"b\c@x.test'),
    ('"a@b.test"@x.test', "a@b.test@x.test", "a@b.test@x.test"),
    ('"a@b.test"', "a@b.test", "a@b.test"),
    ("a@b@x.test", "a@b@x.test", "a@b@x.test"),
    ("a@[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8::1]", "a@[ipv6:2001:db8::1]"),
    ("a@MÜNCHEN.test", "a@xn--mnchen-3ya.test", "a@münchen.test"),
    ("a@mu\u0308nchen.test", "a@xn--mnchen-3ya.test", "a@münchen.test"),
    ("a@XN--mnchen-3ya.test", "a@xn--mnchen-3ya.test", "a@münchen.test"),
    ("ü@x.test", "ü@x.test", "ü@x.test"),
    ("a@straße.test", "a@xn--strae-oqa.test", "a@straße.test"),
    ("a@日本.test", "a@xn--wgv71a.test", "a@日本.test"),
    # labels that say one thing and mean another stay as they are
    ("a@xn--9999999999.test", "a@xn--9999999999.test", "a@xn--9999999999.test"),
    ("a@xn--a-.test", "a@xn--a-.test", "a@xn--a-.test"),
    ("a@" + "ü" * 64, "a@" + "ü" * 64, "a@" + "ü" * 64),
]


@pytest.mark.parametrize(("written", "plain", "international"), ADDRESSES)
def test_an_address_has_one_canonical_form(written: str, plain: str, international: str) -> None:
    assert canonical(written) == plain
    assert with_u_labels(plain) == international


def test_the_parts_of_an_address() -> None:
    assert split('"a@b"@x.test') == ('"a@b"', "x.test")
    assert split('"a@b"') == ('"a@b"', "")
    assert dequoted(r'"a\"b"') == 'a"b'
    assert dequoted('a"b"') == 'a"b"'


@given(st.text(alphabet='a@."\\üÜ\u0308-xn', max_size=30) | st.text())
def test_no_text_raises_and_a_domain_stays_the_same(text: str) -> None:
    plain = canonical(text)
    domain = split(text)[1]
    assert canonical(with_u_labels("a@" + split("a@" + domain)[1].lower())) == canonical("a@" + domain)
    assert isinstance(with_u_labels(plain), str)


@pytest.mark.parametrize(
    "text", ["@" * 200_000, '"' + '\\"' * 200_000, "a@" + "ü" * 200_000, "a@xn--" + "9" * 200_000, "a@" + "ü." * 5_000]
)
def test_a_long_one_takes_no_time(text: str) -> None:
    started = time.process_time()
    with_u_labels(canonical(text))
    assert time.process_time() - started < 0.5
