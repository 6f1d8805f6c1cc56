"""Attack 21 (DESIGN §9.6): what is quoted of a client's line holds no secret, however the line is mistyped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.record.redact import redact, redact_sasl

LINES = [
    # plain commands stay
    (b"", b""),
    (b"EHLO app-1", b"EHLO app-1"),
    (b"MAIL FROM:<a@b> SIZE=x", b"MAIL FROM:<a@b> SIZE=x"),
    (b"mail from:<author@auth.example>", b"mail from:<author@auth.example>"),
    (b"RCPT TO:<auth@x.test>", b"RCPT TO:<auth@x.test>"),
    (b"MAILFROM:<a@b>", b"MAILFROM:<a@b>"),
    (b"DATA now", b"DATA now"),
    (b"ETRN x", b"ETRN x"),
    # and those that are one slip away
    (b"QIUT", b"QIUT"),
    (b"EHLOO x", b"EHLOO x"),
    (b"RCPTT TO:<a@b>", b"RCPTT TO:<a@b>"),
    (b"STARTLS", b"STARTLS"),
    # AUTH keeps its verb and a mechanism that the world knows
    (b"AUTH", b"AUTH"),
    (b"AUTH PLAIN", b"AUTH PLAIN"),
    (b"AUTH PLAIN AGFsaWNlAHNlY3JldA==", b"AUTH PLAIN <redacted 20>"),
    (b"auth  plain  AGFs", b"auth  plain  <redacted 4>"),
    (b"AUTH\tLOGIN\tdXNlcg==", b"AUTH\tLOGIN\t<redacted 8>"),
    (b"AUTH PLAIN a b c", b"AUTH PLAIN <redacted 5>"),
    (b"AUTH XOAUTH2 dXNlcj1h", b"AUTH XOAUTH2 <redacted 8>"),
    (b"AUTH SCRAM-SHA-256 biws", b"AUTH SCRAM-SHA-256 <redacted 4>"),
    (b"AUTH hunter2", b"AUTH <redacted 7>"),
    (b"AUTH:PLAIN:AGFs", b"AUTH:PLAIN:<redacted 4>"),
    (b"AUTH=PLAIN AGFs", b"AUTH=<redacted 10>"),
    (b"  AUTH PLAIN AGFs", b"  AUTH PLAIN <redacted 4>"),
    # mistyped
    (b"AUT PLAIN x", b"AUT PLAIN <redacted 1>"),
    (b"AUHT LOGIN x", b"AUHT LOGIN <redacted 1>"),
    (b"AAUTH PLAIN x", b"AAUTH PLAIN <redacted 1>"),
    (b"UATH PLAIN x", b"UATH PLAIN <redacted 1>"),
    (b"AUTHPLAIN x", b"AUTHPLAIN <redacted 1>"),
    (b"AUTHhunter2", b"AUTH<redacted 7>"),
    (b"AUTHENTICATE PLAIN x", b"AUTH<redacted 16>"),
    (b"\x00AUTH PLAIN x", b"\x00AUTH PLAIN <redacted 1>"),
    # behind another verb
    (b"NOOP AUTH PLAIN AGFs", b"NOOP AUTH PLAIN <redacted 4>"),
    (b"EHLO xAUTH PLAIN AGFs", b"EHLO xAUTH PLAIN <redacted 4>"),
    (b"EHLO x\nAUTH PLAIN AGFs", b"EHLO x\nAUTH PLAIN <redacted 4>"),
    (b"RSET AUTHPLAIN AGFs", b"RSET AUTHPLAIN <redacted 4>"),
    # MAIL's AUTH= (RFC 4954 §5)
    (b"MAIL FROM:<a@b> AUTH=<>", b"MAIL FROM:<a@b> AUTH=<>"),
    (b"MAIL FROM:<a@b> AUTH=e+3Dmc2@x SIZE=3", b"MAIL FROM:<a@b> AUTH=<redacted 9> SIZE=3"),
    (b"MAIL FROM:<a@b> auth = me SIZE=3", b"MAIL FROM:<a@b> auth = <redacted 19>"),  # rather too much
    (b"MAIL FROM:<a@b> AUT=me AUTHH=you", b"MAIL FROM:<a@b> AUT=<redacted 2> AUTHH=<redacted 3>"),
    # a bearer's token (RFC 4468)
    (b"BURL imap://a;URLAUTH=x LAST", b"BURL <redacted 23>"),
    # what is no command may be a password, base64, or somebody's mail
    (b"hunter2", b"<redacted 7>"),
    (b"c2VjcmV0", b"<redacted 8>"),
    (b"Dear Jane,", b"<redacted 10>"),
    (b"PASS hunter2", b"<redacted 12>"),
    (b"a1 LOGIN me hunter2", b"<redacted 19>"),
    (b"*", b"<redacted 1>"),
    (b"\x16\x03\x01\x02\x00", b"<redacted 5>"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "quoted"), LINES)
def test_attack_21_what_is_quoted(line: bytes, quoted: bytes) -> None:
    assert redact(line) == quoted


SECRET = b"c2VjcmV0LXBhc3N3b3Jk"
VERBS = st.sampled_from(
    [b"AUTH", b"auth", b"AUT", b"AUHT", b"AUTHH", b"ATUH", b"AUTG", b"A\x00UTH", b"PASS", b"", b"X", b"334"]
)
MECHANISMS = st.sampled_from([b"PLAIN", b"login", b"CRAM-MD5", b"XOAUTH2", b"UNHEARD-OF", b""])
GAPS = st.sampled_from([b" ", b"  ", b"\t", b":", b" \t "])


@given(st.sampled_from([b"", b" ", b"NOOP ", b"RSET ", b"QUIT "]), VERBS, GAPS, MECHANISMS, GAPS)
def test_attack_21_a_secret_behind_auth_is_never_quoted(
    before: bytes, verb: bytes, gap: bytes, mechanism: bytes, other: bytes
) -> None:
    if before.strip() and verb not in (b"AUTH", b"auth", b"AUT", b"AUHT"):
        return  # a known verb with an argument that nobody can know to be a secret
    assert SECRET not in redact(before + verb + gap + mechanism + other + SECRET)


@given(
    st.one_of(
        st.binary(),
        st.lists(st.sampled_from([b"AUTH", b"=", b" ", b"x", b"MAIL", b"<>", b"PLAIN", b":", b"<redacted 3>"])).map(
            b"".join
        ),
    )
)
def test_any_line_can_be_redacted_and_redacting_again_changes_nothing(line: bytes) -> None:
    once = redact(line)
    assert redact(once) == once


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"MAIL" + b" AUTH=x" * 5000, b"MAIL" + b" AUTH=<redacted 1>" * 5000),
        (b"AUTH" * 5000, b"AUTH<redacted 19996>"),
        (b"NOOP " + b"AUTH " * 5000, b"NOOP AUTH <redacted 24995>"),
        (b"A" * 50000, b"<redacted 50000>"),
        (b" " * 50000, b"<redacted 50000>"),
    ],
    ids=["parameters", "verbs", "words", "letters", "spaces"],
)
def test_a_long_line_is_no_trouble(line: bytes, told: bytes) -> None:
    assert redact(line) == told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"dGFuc3RhYWY=", b"<redacted 12>"),
        (b"QUIT", b"<redacted 4>"),
        (b"mail hunter2", b"<redacted 12>"),
        (b"author2024", b"<redacted 10>"),
        (b"AUTH hunter2", b"<redacted 12>"),
        (b"AUTH PLAIN AGFs", b"AUTH PLAIN <redacted 4>"),
        (b"AUHT LOGIN", b"AUHT LOGIN"),
        (b"", b""),
    ],
)
def test_of_a_line_in_an_exchange_nothing_is_told_whatever_it_looks_like(line: bytes, told: bytes) -> None:
    assert redact_sasl(line) == told


@given(st.binary(max_size=60))
def test_so_it_is_twice(line: bytes) -> None:
    assert redact_sasl(redact_sasl(line)) == redact_sasl(line)
