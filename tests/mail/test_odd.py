"""Odd addresses (attacks 10, 30): what no wildcard may speak for, in the line of a RCPT and in a header field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.odd import is_disguised, is_odd, is_plain

ADDRESSES = [
    # local part without quotes, domain, is it odd, is the local part plain
    ("jane", "example.test", False, True),
    ("j.a..ne.", "EXAMPLE.test.", False, True),
    ("jane doe", "example.test", False, False),
    ("a, b", "example.test", False, False),
    ("", "example.test", False, False),
    ("jürgen", "münchen.test", False, True),
    ("jane", "mu\u0308nchen.test", False, True),
    ("jane", "xn--mnchen-3ya.test", False, True),
    ("jane", "[192.0.2.1]", False, True),
    ("jane", "", True, True),
    ("jane%evil.test", "example.test", True, True),
    ("evil.test!jane", "example.test", True, True),
    ("evil.test:jane", "example.test", True, False),
    ("jane@evil.test", "example.test", True, False),
    ("jane\uff20evil.test", "example.test", True, True),
    ("\u212aate", "example.test", True, True),
    ("a\u3002b", "example.test", False, False),
    ("jane", "evil\u3002example.test", True, True),
    ("jane", "\uff45xample.test", True, True),
    ("jane", "xn--9999999999.test", True, True),
    ("jane", "xn--eviltest-rm3g.test", True, True),
    ("jane", "ü" * 64 + ".test", True, True),
]


@pytest.mark.parametrize(("local", "domain", "odd", "plain"), ADDRESSES)
def test_what_is_read_as_two_is_odd_and_what_needs_quotes_is_not_plain(
    local: str, domain: str, *, odd: bool, plain: bool
) -> None:
    assert (is_odd(local, domain), is_plain(local)) == (odd, plain)


@given(st.text(max_size=10), st.text(max_size=10))
def test_whatever_is_in_disguise_is_odd(local: str, domain: str) -> None:
    assert is_odd(local, domain) or not (is_disguised(local) or is_disguised(domain))
