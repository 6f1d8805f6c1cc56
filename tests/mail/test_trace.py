"""Our Received field: RFC 5321 §4.4; PROTOCOL §1.8, attacks 11, 31."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.mail.header import HeaderSection
from relayproxy.mail.trace import MAX_IDENTITY, MAX_PATH, TRACE_MARGIN, Stamp, own_id, received_count

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
PLAIN: dict[str, Any] = {
    "helo": b"app-1.example",
    "client_address": "192.0.2.1",
    "hostname": "relay.example.test",
    "protocol": b"ESMTP",
    "identity": f"{ID}@abcdefghij-default",
    "for_": b"jane@customer.example",
    "nanoseconds": 1_795_472_045_123_456_789,
}


def field(**changes: Any) -> bytes:
    parts = {**PLAIN, **changes}
    own = {name: parts.pop(name) for name in ("protocol", "for_", "nanoseconds")}
    return Stamp(**parts).field(**own)


def test_the_field() -> None:
    assert field() == (
        b"Received: from app-1.example ([192.0.2.1])\r\n"
        b"\tby relay.example.test with ESMTP\r\n"
        b"\tid 01ARZ3NDEKTSV4RRFFQ69G5FAV@abcdefghij-default\r\n"
        b"\tfor <jane@customer.example>;\r\n"
        b"\tMon, 23 Nov 2026 22:14:05 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"client_address": "2001:db8::1"}, b" ([IPv6:2001:db8::1])\r\n"),
        ({"client_address": "fe80::1%eth0"}, b" ([IPv6:fe80::1])\r\n"),
        ({"client_address": "::ffff:192.0.2.1"}, b" ([IPv6:::ffff:"),
        ({"client_address": "unix:/run/relay.sock"}, b" (local)\r\n"),
        ({"client_address": ""}, b" (local)\r\n"),
        ({"client_address": "1.2.3.4]) by evil ("}, b" (local)\r\n"),
        ({"helo": b"[IPv6:2001:db8::1]"}, b"from [IPv6:2001:db8::1] ("),
        ({"helo": b"under_score"}, b"from under_score ("),
        ({"helo": b""}, b"from unknown ("),
        ({"protocol": b"UTF8SMTP"}, b" with UTF8SMTP\r\n"),
        ({"for_": None}, b"-default;\r\n\tMon, "),
        ({"for_": b""}, b"-default;\r\n\tMon, "),
        ({"for_": b"o'hara+x/y@b.example"}, b"for <o'hara+x/y@b.example>;\r\n"),
        # what could end something early is left out
        ({"for_": b'"a>; b"@c.example'}, b"-default;\r\n\tMon, "),
        ({"for_": b"a@[192.0.2.1]"}, b"-default;\r\n\tMon, "),
        ({"for_": "ü@b.example".encode()}, b"-default;\r\n\tMon, "),
        ({"for_": b"a@b\r\nX: y"}, b"-default;\r\n\tMon, "),
        ({"for_": b"a" * MAX_PATH}, b"for <" + b"a" * MAX_PATH + b">"),
        ({"for_": b"a" * (MAX_PATH + 1)}, b"-default;\r\n\tMon, "),
        ({"nanoseconds": 0}, b";\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"),
    ],
)
def test_its_parts(changes: dict[str, Any], part: bytes) -> None:
    assert part in field(**changes)


@pytest.mark.parametrize(
    ("helo", "shown"),
    [
        (b"x) by y; z", b"x__by_y__z"),
        (b"x\r\n\r\nbody", b"x____body"),
        (b"(comment)", b"_comment_"),
        (b'"q"<a@b>\\', b"_q__a_b__"),
        ("bücher.example".encode(), b"b__cher.example"),
        (b"\0\x1b[0m", b"__[0m"),
        (b"a" * 300, b"a" * 255),
    ],
)
def test_attack_11_a_name_cannot_leave_its_place(helo: bytes, shown: bytes) -> None:
    assert field(helo=helo).startswith(b"Received: from " + shown + b" ([192.0.2.1])\r\n\tby relay.example.test ")


def test_the_margin_is_the_longest_field_and_no_more() -> None:
    longest = {
        "helo": b"h" * 1000,
        "client_address": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "hostname": "n" * 255,
        "protocol": b"UTF8SMTPSA",
        "identity": "i" * MAX_IDENTITY,
        "for_": b"f" * MAX_PATH,
    }
    octets = field(**longest)
    # an IPv6 address with an IPv4 one in it is six longer, but Python does not write it so
    assert TRACE_MARGIN - 6 <= len(octets) <= TRACE_MARGIN
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    with pytest.raises(ValueError, match="host name of 255"):
        field(**{**longest, "hostname": "n" * 300})


@given(
    st.one_of(st.binary(max_size=400), st.text(max_size=40).map(str.encode)),
    st.one_of(st.text(max_size=60), st.ip_addresses().map(str)),
    st.one_of(st.none(), st.binary(max_size=300)),
    st.integers(0, 4_000_000_000_000_000_000),
)
@example(b"", "::1%\r\nX: y", b"\r\n\r\n", 0)
def test_whatever_comes_in_it_is_one_field(helo: bytes, address: str, path: bytes | None, nanoseconds: int) -> None:
    octets = field(helo=helo, client_address=address, for_=path, nanoseconds=nanoseconds)
    assert len(octets) <= TRACE_MARGIN
    section = HeaderSection(octets + b"Subject: x\r\n")
    assert (section.malformed, [part.name for part in section.fields]) == (None, [b"Received", b"Subject"])
    assert re.fullmatch(rb"[\t\r\n -~]+", octets)
    assert octets.count(b"(") == octets.count(b")") == octets.count(b";") == 1
    assert octets.count(b"\r\n\tby ") == octets.count(b"\r\n\tid ") == 1
    date = (
        format_datetime(datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC))
        .removeprefix("0")
        .replace(", 0", ", ")
    )
    assert octets.endswith(f"\t{date}\r\n".encode())


def test_hops_are_counted_folded_or_not_in_any_case() -> None:
    section = HeaderSection(b"Received: a\r\nRECEIVED:\r\n b\r\n c\r\nX-Received: d\r\nreceived: e\r\n")
    assert received_count(section) == 3


OURS = "abcdefghij-default"

LOOPS: list[tuple[bytes, bool]] = [
    (b"", False),
    (field(), True),
    (field(for_=None), True),
    (b"Received: from x by y; z\r\n" + field() + b"Subject: hi\r\n", True),
    (field().replace(b"Received", b"RECEIVED"), True),
    (field().replace(b"\r\n\tid ", b" id\r\n\t  "), True),  # folded again on its way
    (field().replace(b"\r\n\t", b" "), True),
    (b"Received: by x id " + ID.encode() + b"@abcdefghij-default\r\n", True),
    # somebody else's, another listener of ours, another installation
    (field(identity=f"{ID}@abcdefghij-other"), False),
    (field(identity=f"{ID}@abcdefghij-default2"), False),
    (field(identity=f"{ID}@xabcdefghij-default"), False),
    (field(identity=f"{ID}@abcdefghij-default.example"), False),
    (field(identity="SHORT@abcdefghij-default"), False),
    (field(identity=f"{ID.lower()}@abcdefghij-default"), False),
    # not in Received, not behind id
    (field().replace(b"Received", b"X-Received"), False),
    (b"Subject: id " + ID.encode() + b"@abcdefghij-default\r\n", False),
    (b"Received: by x nid " + ID.encode() + b"@abcdefghij-default;\r\n", False),
    (field(helo=f" id {ID}@{OURS} ".encode(), identity=f"{ID}@other"), False),
    (b"Received: x\r\nY: z\r\n" + b"X: id " + ID.encode() + b"@abcdefghij-default\r\n", False),
]


@pytest.mark.parametrize(("raw", "ours"), LOOPS)
def test_attack_31_our_own_mark_is_known_again(raw: bytes, ours: bool) -> None:
    assert own_id(HeaderSection(raw), OURS) == (f"{ID}@{OURS}" if ours else None)


def test_a_dot_in_our_name_is_a_dot() -> None:
    raw = field(identity=f"{ID}@aXb-default")
    assert own_id(HeaderSection(raw), "a.b-default") is None
    assert own_id(HeaderSection(raw + b"Subject: @a.b-default\r\n"), "a.b-default") is None
