"""The grammar of arguments: RFC 5321 §4.1.2, §4.1.3, RFC 6531 §3.3, RFC 3461 §4."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp import grammar

PATHS = [
    (b"<>", b"", b""),
    (b"<a@x>", b"a", b"x"),
    (b"<Jane.Doe+tag@Example.COM>", b"Jane.Doe+tag", b"Example.COM"),
    (b"<!#$%&'*+-/=?^_`{|}~@x-y.z>", b"!#$%&'*+-/=?^_`{|}~", b"x-y.z"),
    (b"<postmaster>", b"postmaster", b""),
    (b"<root>", b"root", b""),
    (b'<"a b"@x>', b'"a b"', b"x"),
    (b'<"a@b"@x>', b'"a@b"', b"x"),
    (b'<"a>b"@x>', b'"a>b"', b"x"),
    (b'<"a\\"\\\\b"@x>', b'"a\\"\\\\b"', b"x"),
    (b'<""@x>', b'""', b"x"),
    (b"<user%far@x>", b"user%far", b"x"),
    (b"<far!user@x>", b"far!user", b"x"),
    (b"<a@[192.0.2.1]>", b"a", b"[192.0.2.1]"),
    (b"<a@[IPv6:2001:db8::1]>", b"a", b"[IPv6:2001:db8::1]"),
    (b"<a@[IPv6:::ffff:192.0.2.1]>", b"a", b"[IPv6:::ffff:192.0.2.1]"),
    (b"<a@[tag:any!thing]>", b"a", b"[tag:any!thing]"),
    # more than the productions: carriers' dots, underscores, the dot of the DNS
    (b"<a..b@x>", b"a..b", b"x"),
    (b"<a.@x>", b"a.", b"x"),
    (b"<a@app_1.local>", b"a", b"app_1.local"),
    (b"<a@x.example.>", b"a", b"x.example."),
    (b"<a@xn--bcher-kva.example>", b"a", b"xn--bcher-kva.example"),
    # source routes are cut: RFC 5321 §C, §F.2
    (b"<@relay:a@x>", b"a", b"x"),
    (b"<@a,@b.example:c@d>", b"c", b"d"),
    # RFC 6531
    ("<jürgen@bücher.example>".encode(), "jürgen".encode(), "bücher.example".encode()),
    ('<"ü b"@x>'.encode(), '"ü b"'.encode(), b"x"),
    # long, but not too long
    (b"<" + b"l" * 250 + b"@x.y>", b"l" * 250, b"x.y"),
]


@pytest.mark.parametrize(("octets", "local", "domain"), PATHS)
@pytest.mark.parametrize("rest", [b"", b" SIZE=1", b">", b"@"])
def test_a_path_is_local_part_and_domain_as_written(octets: bytes, local: bytes, domain: bytes, rest: bytes) -> None:
    assert grammar.path(octets + rest) == (local, domain, len(octets))
    assert grammar.path(b"FROM:" + octets + rest, 5) == (local, domain, 5 + len(octets))


NO_PATHS = [
    b"", b"a@x", b"<", b"<a@x", b"a@x>", b"< a@x>", b"<a@x >", b"<a b@x>", b"<@x>", b"<a@>", b"<a@b@c>", b"<a@@b>", b"<<a@x>>",
    b"<a@-x>", b"<a@x->", b"<a@.x>", b"<a@x..y>", b"<a@x.-y>", b"<a@x!y>", b"<a@x/y>", b"<a@x:25>", b"<a,b@x>", b"<a;b@x>", b"<(c)a@x>",
    b'<"a@x>', b'<a"@x>', b'<"a"b@x>', b'<"a".b@x>', b'<"a\\"@x>', b'<"\\', b'<"a\r\nb"@x>', b'<"a\x00"@x>', b'<"a\\\n"@x>', b"<a\r@x>", b"<a@x\n>", b"<a\x7f@x>",
    b"<a@[1.2.3]>", b"<a@[1.2.3.256]>", b"<a@[1.2.3.4.5]>", b"<a@[1.2.3.4>", b"<a@1.2.3.4]>", b"<a@[]>", b"<a@[IPv6:]>", b"<a@[IPv6:1.2.3.4]>", b"<a@[IPv6:::1%eth0]>",
    b"<a@[IPv6:1:2:3]>", b"<a@[::1]>", b"<a@[x]>", b"<a@[t:]>", b"<a@[t:a]b]>", b"<a@[t:a b]>",
    b"<@a>", b"<@a:>", b"<@a,b:c@d>", b"<@a,:c@d>", b"<@a:c>", b"<:a@x>", b"<@[1.2.3.4]:a@x>",
    b"<\xff@x>", b"<a@\xc3>", b"<a@\xc0\xaf>", b"<\xed\xa0\x80@x>", b"<\xc2\x85@x>", b"<\xc2\x9b@x>", b'<"\xe2\x80"@x>', b"<@\xff:a@x>",
    "<a@evil\u3002example>".encode(), "<a@evil\uff0eexample>".encode(), "<a@b\uff20c>".encode(),
    b"<" + b"l" * 252 + b"@x.y>", b"<a@" + b"x." * 130 + b"y>",
]  # fmt: skip


@pytest.mark.parametrize("octets", NO_PATHS)
def test_what_is_no_path_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        grammar.path(octets)


@pytest.mark.parametrize(
    ("octets", "value"),
    [(b"0", 0), (b"00012", 12), (b"328", 328), (b"9" * 20, 10**20 - 1)],
)
def test_a_number_is_ascii_digits(octets: bytes, value: int) -> None:
    assert grammar.number(octets) == value


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"1_0",
        b"+5",
        b"-1",
        b" 5",
        b"5 ",
        b"0x10",
        b"1e3",
        b"5\n",
        b"1.0",
        "\u0663".encode(),
        "\uff15".encode(),
        b"9" * 21,
    ],
)
def test_nothing_else_is_a_number(octets: bytes) -> None:
    with pytest.raises(ValueError, match="digits"):
        grammar.number(octets)


@pytest.mark.parametrize(
    ("octets", "decoded"),
    [(b"", b""), (b"a@x", b"a@x"), (b"a+2Bb+3D", b"a+b="), (b"<>", b"<>"), (b"+C3+BC", "ü".encode()), (b"+20", b" ")],
)
def test_xtext_decodes(octets: bytes, decoded: bytes) -> None:
    assert grammar.xtext(octets) == decoded


@pytest.mark.parametrize(
    "octets",
    [
        b"+",
        b"+2",
        b"+2b",
        b"+GG",
        b"a=b",
        b"a b",
        b"\xc3\xbc",
        b"+00",
        b"+0A",
        b"+0D",
        b"a+0D+0AMAIL",
        b"+1B",
        b"+7F",
        b"\n",
    ],
)
def test_xtext_hides_no_controls(octets: bytes) -> None:
    with pytest.raises(ValueError, match="xtext"):
        grammar.xtext(octets)


@pytest.mark.parametrize(
    ("octets", "kind", "address"),
    [
        (b"rfc822;a@x", b"rfc822", b"a@x"),
        (b"RFC822;a+2Bb@x", b"RFC822", b"a+b@x"),
        ("utf-8;ü@x".encode(), b"utf-8", "ü@x".encode()),
        (b"utf-8;\\x{FC}@x", b"utf-8", b"\\x{FC}@x"),
        (b"x400;a;b", b"x400", b"a;b"),
    ],
)
def test_an_original_recipient_has_a_type(octets: bytes, kind: bytes, address: bytes) -> None:
    assert grammar.original_recipient(octets) == (kind, address)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"a@x",
        b";a@x",
        b"rfc822;",
        b"rfc822;a=b",
        b"rfc822;\xc3\xbc",
        b"utf-8;\xff",
        b"utf-8;a+0Ab",
        b"r c;a",
        b"rfc822;a+0Ab",
        b"rfc822;" + b"a" * 494,
    ],
)
def test_what_is_no_original_recipient_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        grammar.original_recipient(octets)


@given(st.binary(max_size=80))
def test_no_octets_raise_anything_but_value_error(octets: bytes) -> None:
    for parse in (grammar.path, grammar.xtext, grammar.number, grammar.utf8, grammar.original_recipient):
        try:
            parse(octets)
        except ValueError as error:
            assert type(error) is ValueError  # noqa: PT017 - a UnicodeDecodeError would quote the octets


@pytest.mark.parametrize(
    "hostile",
    [b"<" + b"a-" * 2000, b"<a@" + b"x-" * 2000, b"<a@" + b"x." * 2000, b'<"' + b"\\a" * 2000, b"<" + b"@a," * 1300, b"<@" + b"a-" * 2000 + b":", b"<a@[" + b"a:" * 2000],
    ids=repr,
)  # fmt: skip
def test_no_octets_cost_more_than_linear_time(hostile: bytes) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match="expected"):
        grammar.path(hostile)
    assert time.process_time() - start < 0.05
