"""XCLIENT and XFORWARD on the wire: PROTOCOL §1.10, attack 10."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp.carriers import MAX_LINE, UNAVAILABLE, Attributes, Xclient, Xforward, xforwards
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.grammar import to_xtext, xtext


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        (((b"ADDR", b"192.0.2.7"),), b"ADDR=192.0.2.7"),
        (((b"NAME", UNAVAILABLE), (b"ADDR", b"IPV6:2001:db8::1")), b"NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1"),
        (((b"HELO", b"a b=c+0A\xff"),), b"HELO=a+20b+3Dc+2B0A+FF"),
    ],
)
def test_the_line(attributes: Attributes, line: bytes) -> None:
    assert Xclient(attributes).wire() == b"XCLIENT " + line + b"\r\n"
    assert Xforward(attributes).wire() == b"XFORWARD " + line + b"\r\n"


@pytest.mark.parametrize(
    "attributes",
    [
        (),
        ((b"HELO", b""),),
        ((b"HELO", b"a\r\nRSET"),),
        ((b"HELO", b"a\0"),),
        ((b"HELO", b"a\x7f"),),
        ((b"ADDR", b"192.0.2.7"), (b"ADDR", b"10.0.0.1")),
        ((b"HELO=x ADDR", b"10.0.0.1"),),
        ((b"", b"10.0.0.1"),),
        ((b"helo", b"x"),),
        ((b"HELO", b"x" * 500),),
    ],
)
def test_what_could_be_read_as_something_else_is_not_sent(attributes: Attributes) -> None:
    """Attack 10."""
    for command in (Xclient(attributes), Xforward(attributes)):
        with pytest.raises(LocalProtocolError, match="cannot be sent"):
            command.wire()


@given(st.binary())
def test_xtext_is_undone(octets: bytes) -> None:
    written = to_xtext(octets)
    assert re.fullmatch(rb"[!-~]*", written)
    assert b"=" not in written
    if not re.search(rb"[\x00-\x1f\x7f]", octets):
        assert xtext(written) == octets


@given(
    st.lists(
        st.binary(min_size=1, max_size=260).map(lambda octets: re.sub(rb"[^!-~]", b"=", octets)), min_size=1, max_size=8
    )
)
def test_all_is_said_in_lines_that_fit(values: list[bytes]) -> None:
    attributes = tuple((b"A" * (1 + at), value) for at, value in enumerate(values))
    commands = list(xforwards(attributes))
    assert all(len(command.wire()) <= MAX_LINE for command in commands)
    said = [attribute for command in commands for attribute in command.attributes]
    assert [name for name, _ in said] == [name for name, _ in attributes]
    for (name, value), (_, heard) in zip(attributes, said, strict=True):
        fits = len(b"XFORWARD %b=%b\r\n" % (name, to_xtext(value))) <= MAX_LINE
        assert heard == (value if fits else UNAVAILABLE)


@pytest.mark.parametrize("line", [b"XCLIENT ADDR=10.0.0.1", b"xforward ADDR=10.0.0.1", b"XCLIENT"])
def test_of_a_client_they_are_never_carried_out(line: bytes) -> None:
    from relayproxy.smtp.commands import parse_command

    with pytest.raises(RemoteProtocolError) as caught:
        parse_command(line)
    assert caught.value.reply.code == 502
