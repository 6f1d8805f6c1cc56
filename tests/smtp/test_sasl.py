"""SASL from the middle: the user where the mechanism shows it, never the secret; what may pass; what a server that takes everything asks."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relayproxy.smtp import sasl
from relayproxy.smtp.commands import Auth, SaslCancel, SaslResponse, parse_response
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.replies import Reply


def witness(mechanism: bytes, *responses: bytes) -> sasl.Witness:
    made = sasl.Witness(mechanism)
    for response in responses:
        made.hear(sasl.encode(response))
    return made


@pytest.mark.parametrize(
    ("mechanism", "responses", "user"),
    [
        # RFC 4616 §4
        (b"PLAIN", [b"\0tim\0tanstaaftanstaaf"], b"tim"),
        (b"PLAIN", [b"Ursel\0Kurt\0xipj3plmq"], b"Kurt"),
        (b"LOGIN", [b"tim", b"tanstaaftanstaaf"], b"tim"),
        # RFC 2195 §2
        (b"CRAM-MD5", [b"tim b913a602c7eda7a495b4e6e7334d3890"], b"tim"),
        (b"CRAM-MD5", [b"tim smith b913a602c7eda7a495b4e6e7334d3890"], b"tim smith"),
        # RFC 5802 §5, RFC 7677 §3
        (b"SCRAM-SHA-1", [b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", b"c=biws,r=x,p=y"], b"user"),
        (b"SCRAM-SHA-256", [b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"], b"user"),
        (b"SCRAM-SHA-512", [b"y,a=boss,n=a=2Cb=3Dc,r=rOprNGfwEbeRWgbNEkqO"], b"a,b=c"),
        # RFC 7628 §4.1
        (b"OAUTHBEARER", [b"n,a=user@example.com,\x01host=server.example.com\x01port=587\x01auth=Bearer vF9dft4q==\x01\x01"], b"user@example.com"),
        (b"OAUTHBEARER", [b"n,,\x01auth=Bearer vF9dft4q==\x01\x01"], None),
        # Google's paper
        (b"XOAUTH2", [b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4q\x01\x01"], b"someuser@example.com"),
    ],
)  # fmt: skip
def test_the_user_is_seen_where_the_mechanism_shows_it(
    mechanism: bytes, responses: list[bytes], user: bytes | None
) -> None:
    seen = witness(mechanism, *responses)
    assert seen.user(accepted=True) == user
    assert seen.fits


@pytest.mark.parametrize(
    ("mechanism", "responses"),
    [
        (b"PLAIN", [b"tim\0tanstaaf"]),
        (b"PLAIN", [b"tim tanstaaf"]),
        (b"PLAIN", [b"\0\0tanstaaf"]),
        (b"PLAIN", [b"\0tim\0tan\0staaf"]),
        (b"PLAIN", [b"\0ti\nm\0tanstaaf"]),
        (b"LOGIN", [b"\0tim\0tanstaaf", b"tanstaaf"]),
        (b"LOGIN", [b"", b"tanstaaf"]),
        (b"CRAM-MD5", [b"\0tim\0tanstaaf"]),
        (b"CRAM-MD5", [b"tanstaaf"]),
        (b"SCRAM-SHA-256", [b"\0tim\0tanstaaf"]),
        (b"SCRAM-SHA-256", [b"n,,n=us=er,r=x"]),
        (b"OAUTHBEARER", [b"user=x\x01auth=Bearer token\x01\x01"]),
        (b"XOAUTH2", [b"\0tim\0tanstaaf"]),
    ],
)
def test_what_is_mistyped_tells_no_user(mechanism: bytes, responses: list[bytes]) -> None:
    seen = witness(mechanism, *responses)
    assert seen.user(accepted=True) is None
    assert not seen.fits


def test_no_more_of_a_user_is_told_than_a_name_takes() -> None:
    assert witness(b"PLAIN", b"\0" + b"u" * 1000 + b"\0x").user(accepted=True) == b"u" * 255


def test_the_user_of_login_is_told_once_it_has_succeeded() -> None:
    seen = witness(b"LOGIN", b"may be a password", b"may be a user")
    assert seen.user(accepted=False) is None
    reply = Reply(535, (b"5.7.8 unknown: may be a password",))
    assert seen.tellable(reply).lines == (b"5.7.8 <redacted 26>",)
    assert witness(b"PLAIN", b"\0tim\0tanstaaf").user(accepted=False) == b"tim"


@given(st.sampled_from(sorted(sasl.PASSED)), st.lists(st.binary(max_size=60), max_size=4))
def test_no_response_is_too_strange(mechanism: bytes, responses: list[bytes]) -> None:
    user = witness(mechanism, *responses).user(accepted=True)
    assert user is None or re.fullmatch(rb"[^\x00-\x1f\x7f]+", user)


text = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=3, max_size=20).map(str.encode)


@given(text, text, st.binary(max_size=5))
def test_what_repeats_a_response_is_not_told(user: bytes, secret: bytes, around: bytes) -> None:
    assume(user != secret)
    line = sasl.encode(b"\0%b\0%b" % (user, secret))
    seen = sasl.Witness(b"PLAIN")
    seen.hear(line)
    for piece in (secret, line, b"\0%b\0%b" % (user, secret)):
        told = seen.tellable(Reply(535, (b"5.7.8 no", around + piece + around)))
        assert told.code == 535
        assert re.fullmatch(rb"5\.7\.8 <redacted [0-9]+>", told.lines[0])
        assert len(told.lines) == 1


def test_what_repeats_nothing_or_only_the_user_is_told() -> None:
    seen = witness(b"PLAIN", b"\0tim\0tanstaaf")
    reply = Reply(535, (b"5.7.8 tim is not welcome",))
    assert seen.tellable(reply) is reply


@pytest.mark.parametrize(
    ("offered", "passed"),
    [
        (b"", b""),
        (b"LOGIN PLAIN", b"LOGIN PLAIN"),
        (b"DIGEST-MD5 GSSAPI NTLM EXTERNAL ANONYMOUS X-MINE", b""),
        (b"SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1 SCRAM-SHA-512 XOAUTH2 OAUTHBEARER CRAM-MD5", b"SCRAM-SHA-256 SCRAM-SHA-1 SCRAM-SHA-512 XOAUTH2 OAUTHBEARER CRAM-MD5"),
    ],
)  # fmt: skip
def test_what_may_pass(offered: bytes, passed: bytes) -> None:
    assert sasl.passable(offered) == passed


@given(st.binary(max_size=80))
def test_a_response_is_base64_or_a_star_and_leaves_as_it_came(line: bytes) -> None:
    if re.fullmatch(rb"\*|(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", line):
        assert parse_response(line).wire() == line + b"\r\n"
    else:
        with pytest.raises(RemoteProtocolError) as refused:
            parse_response(line)
        assert refused.value.reply.code == 501
        assert not refused.value.fatal


@given(st.binary(max_size=80))
def test_all_base64_is_a_response(octets: bytes) -> None:
    line = sasl.encode(octets)
    assert parse_response(line) == SaslResponse(line)
    assert sasl.decode(line) == octets
    assert isinstance(parse_response(b"*"), SaslCancel)


@pytest.mark.parametrize("octets", [b"=", b"*", b"AA", b"QUIT\r\n", b"A\r\nA"])
def test_a_response_that_is_none_is_not_sent(octets: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        SaslResponse(octets).wire()


def test_no_secret_is_in_a_repr() -> None:
    """Exceptions, debuggers and assertions show those."""
    assert repr(Auth(b"PLAIN", b"AHRpbQB0YW5zdGFhZg==")) == "Auth(b'PLAIN', <redacted 20>)"
    assert repr(Auth(b"LOGIN")) == "Auth(b'LOGIN', None)"
    assert repr([SaslResponse(b"dGFuc3RhYWY=")]) == "[SaslResponse(<redacted 12>)]"
