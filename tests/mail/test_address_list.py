"""Where addresses stand in To and its like: RFC 5322 §3.4, §4.4; PROTOCOL attacks 19, 20, 30."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mail.address_list import MAX_ELEMENTS, addresses, found

Row = tuple[bytes, list[tuple[bytes, str | None]]]

PLAIN: list[Row] = [
    (b"", []),
    (b" ", []),
    (b",", []),
    (b" ,\t;, ", []),
    (b" a@b.test", [(b"a@b.test", "a@b.test")]),
    (b"a@b.test,c@d.test", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"a@b.test,,\r\n\tc@d.test ,", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"<a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"< a@b.test\r\n >", [(b"a@b.test", "a@b.test")]),
    (b"Jane <a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"Jane<a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"John Q. Public\r\n <a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b'"Doe, Jane" <a@b.test>, b@c.test', [(b"a@b.test", "a@b.test"), (b"b@c.test", "b@c.test")]),
    (b'"x@y.test" <a@b.test>', [(b"a@b.test", "a@b.test")]),  # a name
    (b'"\\"<x@y.test>\\"" <a@b.test>', [(b"a@b.test", "a@b.test")]),
    (b"a@b.test (x@y.test)", [(b"a@b.test", "a@b.test")]),
    (b"(x, y) a@b.test (z)", [(b"a@b.test", "a@b.test")]),
    (b"Jane (the, other) Doe <a@b.test> (z)", [(b"a@b.test", "a@b.test")]),
    (b"a@b.test <c@d.test>", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"Team: a@b.test, J <c@d.test>;", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"Team:a@b.test;Other:c@d.test;", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"Team: a@b.test", [(b"a@b.test", "a@b.test")]),
    (b"undisclosed-recipients:;", []),
    (b"a@b.test; c@d.test", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),  # Outlook
    (b"root", [(b"root", "root")]),
    (b"Cron <root>", [(b"root", "root")]),
    (b"a..b.@c.test", [(b"a..b.@c.test", "a..b.@c.test")]),
    (b'"a, b"@c.test', [(b'"a, b"@c.test', '"a, b"@c.test')]),
    (b'"a\r\n b"@c.test', [(b'"a\r\n b"@c.test', '"a b"@c.test')]),
    (b"a@[192.0.2.1], b@[IPv6:::1]", [(b"a@[192.0.2.1]", "a@[192.0.2.1]"), (b"b@[IPv6:::1]", "b@[IPv6:::1]")]),
    ("Jürgen <jü@bü.test>".encode(), [("jü@bü.test".encode(), "jü@bü.test")]),
    (b"J\xfcrgen <j@b.test>", [(b"j@b.test", "j@b.test")]),  # Latin-1
    (b"=?utf-8?q?J=C3=BC_=28S=29=2C?= <a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b'"=?utf-8?q?J=C3=BC?=" <a@b.test>', [(b"a@b.test", "a@b.test")]),
    (b"a@b.test (=?utf-8?q?J=C3=BC?=)", [(b"a@b.test", "a@b.test")]),
    (b"=?utf-8?q?T=C3=BC?=: a@b.test;", [(b"a@b.test", "a@b.test")]),
    (b"mailto:a@b.test", [(b"a@b.test", "a@b.test")]),  # a group of that name
]


@pytest.mark.parametrize(("value", "there"), PLAIN)
def test_addresses_of_mailboxes_are_found_where_they_stand(value: bytes, there: list[tuple[bytes, str | None]]) -> None:
    assert [(value[one.start : one.end], one.address) for one in found(value)] == there
    assert addresses(value) == found(value)


# Each is odd as a whole; and what a lenient reader could take for an address.
ODD: list[tuple[bytes, list[tuple[bytes, str]]]] = [
    (b"Jane Doe", []),
    (b"<>", []),
    (b"(a@b.test)", []),
    (b'"a@b.test"', []),
    (b"@b.test", []),
    (b"a@", []),
    (b"a@b.test c@d.test", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"<a@b.test> <c@d.test>", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"<a@b.test", [(b"a@b.test", "a@b.test")]),
    (b"a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"Jane [S] <a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"Jane [a@b.test]", [(b"a@b.test", "a@b.test")]),
    (b"<mailto:a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"'a@b.test'", [(b"a@b.test", "a@b.test")]),
    (b"'a@b.test' <c@d.test>", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"user (x) @ (y) host", [(b"user (x) @ (y) host", "user@host")]),
    (b"a . b\r\n @ c . test", [(b"a . b\r\n @ c . test", "a.b@c.test")]),
    (b'"a b".c@d.test', [(b'"a b".c@d.test', '"a b.c"@d.test')]),
    (b'a."b"@c.test', [(b'a."b"@c.test', "a.b@c.test")]),
    (b"<@r.test:a@b.test>", [(b"a@b.test", "a@b.test")]),
    (b"a@[x y]", [(b"a@[x y]", "a@[x y]")]),
    (b"a@b@c.test", [(b"a@b", "a@b")]),
    (b'"Jane <a@b.test>, c@d.test', [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),  # a quote without an end
    (b"(Jane <a@b.test>, c@d.test", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"((x) y) a@b.test", [(b"a@b.test", "a@b.test")]),
    (b"(x \\) y) a@b.test", [(b"a@b.test", "a@b.test")]),
    (b"(<x) a@b.test", [(b"a@b.test", "a@b.test")]),
    (b"a@b.test\0", [(b"a@b.test", "a@b.test")]),
    (b"a@b.test\nCc: c@d.test", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b"a@b.test\r", [(b"a@b.test", "a@b.test")]),
    (b"\xff@b.test", [(b"\xff@b.test", "\ufffd@b.test")]),
    # encoded words: whoever decodes them first reads something else
    (b"=?utf-8?q?a=40b=2Etest?= <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b"=?utf-8?b?PGFAYi50ZXN0Pg==?= <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b"=?utf-8?q?=22?= <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b"=?utf-8?q?=28?= <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b"=?utf-7?q?+AEA-?= <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b"=?nobody-knows?q?a?= <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b"=?utf-8?q?a <c@d.test>", [(b"c@d.test", "c@d.test")]),
    (b'=?utf-8?q?a"?= <c@d.test>"', []),
    (b"=?utf-8?q?a=40b?=@c.test", [(b"=?utf-8?q?a=40b?=@c.test", "=?utf-8?q?a=40b?=@c.test")]),
    (b"=?utf-8?q?a=40?=: c@d.test", [(b"c@d.test", "c@d.test")]),
]


@pytest.mark.parametrize(("value", "there"), ODD)
def test_what_readers_read_differently_is_odd_and_searched(value: bytes, there: list[tuple[bytes, str]]) -> None:
    assert [(value[one.start : one.end], one.address) for one in found(value)] == [(value, None)]
    assert [(value[one.start : one.end], one.address) for one in addresses(value)] == there


IN_BETWEEN: list[Row] = [
    (b"a@b.test, Jane Doe , c@d.test", [(b"a@b.test", "a@b.test"), (b"Jane Doe", None), (b"c@d.test", "c@d.test")]),
    (b"Jane Doe; c@d.test", [(b"Jane Doe", None), (b"c@d.test", "c@d.test")]),
    (b"[a, b] c@d.test", [(b"[a", None), (b"b] c@d.test", None)]),
    (b"T: U: a@b.test, c@d.test; e@f.test", [(b"U: a@b.test", None), (b"c@d.test", "c@d.test"), (b"e@f.test", "e@f.test")]),
    (b"T: a@b.test; U: c@d.test", [(b"a@b.test", "a@b.test"), (b"c@d.test", "c@d.test")]),
    (b'a@b.test, x "y, z" w, c@d.test', [(b"a@b.test", "a@b.test"), (b'x "y, z" w', None), (b"c@d.test", "c@d.test")]),
    (b"a@b.test,\r\n ", [(b"a@b.test", "a@b.test"), (b"\r\n ", None)]),  # a line of white space alone
    (b"a@b.test\r\n \r\n , c@d.test", [(b"a@b.test\r\n \r\n ", None), (b"c@d.test", "c@d.test")]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "there"), IN_BETWEEN)
def test_what_is_odd_ends_where_the_next_element_begins(value: bytes, there: list[tuple[bytes, str | None]]) -> None:
    assert [(value[one.start : one.end], one.address) for one in found(value)] == there


def test_a_long_list_is_odd_from_where_nobody_looks() -> None:
    value = b"a@b.test," * (MAX_ELEMENTS + 2)
    there = found(value)
    assert [one.address for one in there[-2:]] == ["a@b.test", None]
    assert (len(there), there[-1].end) == (MAX_ELEMENTS + 1, len(value))
    assert len(addresses(value)) == MAX_ELEMENTS + 2


hostile = pytest.mark.parametrize(
    "part",
    [
        b",", b"(", b")", b"()", b"((x)", b")(", b'"', b'""', b'"a', b'("', b'\\"', b'"\\', b"<", b">", b"<>", b",<", b"a,", b"a@", b"@a", b"a@b,", b"a ", b"a (x) ", b"a . ", b"a:;",
        b"a <a@b>", b"a@[", b"[", b"=?", b"=?a?q?", b"=?utf-8?q?a?= ", b"\r\n ", b"\r", b"\0", b"\xff@\xff,", b'"a"@b,', b'a,\0"b', b"a,\0(b",
    ],
)  # fmt: skip


@hostile
def test_attacks_19_and_20_a_hostile_value_takes_linear_time(part: bytes) -> None:
    size = 8 * 1024
    for before in (b"", b'"', b"a@b (", b"x:"):
        value = (before + part * (size // len(part)))[:size]
        started = time.process_time()
        found(value)
        addresses(value)
        assert time.process_time() - started < 0.5  # it takes a fiftieth of that; what is quadratic takes seconds


soup = st.lists(
    st.sampled_from(
        [b"a", b"a@b.test", b"@", b".", b",", b";", b":", b"<", b">", b'"', b"(", b")", b"\\", b" ", b"\r\n ", b"[", b"]", b"'", b"\xff", b"\n", b"\0",
         b"=?utf-8?q?", b"?=", b"=?utf-8?q?=22?=", "ü".encode(), b"<c@d.test>", b'"e f"', b"(g)", b"T:"]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip


@given(st.one_of(soup, st.binary(max_size=40)))
def test_for_any_octets_ranges_are_in_order_and_no_address_is_outside(value: bytes) -> None:
    at = 0
    outside = b""
    for one in found(value):
        assert at <= one.start < one.end <= len(value)
        outside += value[at : one.start] + b"|"
        at = one.end
        assert one.address is None or one.address.encode() == value[one.start : one.end].replace(b"\r\n", b"")
    outside += value[at:]
    # Without what was found, an address stands in quotes or in a comment only.
    assert addresses(outside.replace(b"|", b"")) == [] or b'"' in outside or b"(" in outside
    within = [(one.start, one.end) for one in found(value)]
    for one in addresses(value):
        assert any(start <= one.start < one.end <= end for start, end in within)
