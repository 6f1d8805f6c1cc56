"""SASL's client side against the vectors of its papers: RFC 4616, RFC 2195, RFC 7677 (and RFC 4013), Google's for XOAUTH2."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.smtp.sasl_client import Proof, UpstreamUnproven, choose, saslprep

NONCE = b"rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def scram() -> Proof:
    return Proof("SCRAM-SHA-256", "user", "pencil", nonce=NONCE)


def test_plain_of_rfc_4616() -> None:
    proof = Proof("PLAIN", "tim", "tanstaaftanstaaf", nonce=b"")
    assert proof.initial == b"\0tim\0tanstaaftanstaaf"
    proof.check()
    with pytest.raises(UpstreamUnproven):
        proof.respond(b"")


def test_login() -> None:
    proof = Proof("LOGIN", "tim", "tanstaaf", nonce=b"")
    assert proof.initial is None
    assert proof.respond(b"User Name\0") == b"tim"
    assert proof.respond(b"Password\0") == b"tanstaaf"
    proof.check()
    with pytest.raises(UpstreamUnproven):
        proof.respond(b"Once more:")


def test_cram_md5_of_rfc_2195() -> None:
    proof = Proof("CRAM-MD5", "tim", "tanstaaftanstaaf", nonce=b"")
    assert proof.initial is None
    assert proof.respond(b"<1896.697170952@postoffice.reston.mci.net>") == b"tim b913a602c7eda7a495b4e6e7334d3890"
    proof.check()


def test_xoauth2_of_google() -> None:
    proof = Proof("XOAUTH2", "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg", nonce=b"")
    assert base64.b64encode(proof.initial or b"") == (
        b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
    )
    proof.check()
    assert proof.respond(b'{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}') == b""
    with pytest.raises(UpstreamUnproven):
        proof.respond(b"{}")


def test_scram_of_rfc_7677() -> None:
    proof = scram()
    assert proof.initial == b"n,,n=user,r=" + NONCE
    assert proof.respond(SERVER_FIRST) == CLIENT_FINAL
    with pytest.raises(UpstreamUnproven):
        proof.check()  # 235 without the server's signature
    assert proof.respond(SERVER_FINAL) == b""
    proof.check()


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"e=other-error",
        SERVER_FIRST.replace(b"rOpr", b"xOpr"),  # not our nonce
        SERVER_FIRST.replace(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b""),  # nothing of the server's
        SERVER_FIRST.replace(b"4096", b"1"),
        SERVER_FIRST.replace(b"4096", b"4095"),
        SERVER_FIRST.replace(b"4096", b"4294967295"),
        SERVER_FIRST.replace(b"gQ==", b"gQ"),
        b"m=must-be-understood," + SERVER_FIRST,
    ],
)
def test_scram_goes_on_with_no_server_that_makes_no_sense(first: bytes) -> None:
    with pytest.raises(UpstreamUnproven):
        scram().respond(first)


@pytest.mark.parametrize(
    "final", [b"", b"e=invalid-proof", SERVER_FINAL[:-3] + b"A==", b"v=AAAA", b"v=A", CLIENT_FINAL]
)
def test_scram_believes_no_server_that_does_not_know_the_password(final: bytes) -> None:
    proof = scram()
    proof.respond(SERVER_FIRST)
    with pytest.raises(UpstreamUnproven):
        proof.respond(final)
    with pytest.raises(UpstreamUnproven):
        proof.check()


printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(printable, printable, st.binary(min_size=1, max_size=20))
def test_scram_and_a_server_that_knows_the_password_agree(user: str, password: str, salt: bytes) -> None:
    proof = Proof("SCRAM-SHA-256", user, password, nonce=NONCE)
    bare = (proof.initial or b"").removeprefix(b"n,,")
    assert bare == b"n=" + user.replace("=", "=3D").replace(",", "=2C").encode() + b",r=" + NONCE
    first = b"r=%bxyz,s=%b,i=4096" % (NONCE, base64.b64encode(salt))
    final = proof.respond(first)
    without_proof, _, shown = final.rpartition(b",p=")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 4096)
    message = b",".join((bare, first, without_proof))
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    signature = hmac.digest(stored, message, "sha256")
    key = bytes(a ^ b for a, b in zip(base64.b64decode(shown), signature, strict=True))
    assert hashlib.sha256(key).digest() == stored
    server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
    assert proof.respond(b"v=" + base64.b64encode(server)) == b""
    proof.check()


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_no_challenge_is_too_strange(challenges: list[bytes]) -> None:
    for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"):
        proof = Proof(mechanism, "user", "pencil", nonce=NONCE)
        try:
            for challenge in challenges:
                proof.respond(challenge)
        except UpstreamUnproven as told:
            assert "pencil" not in str(told)  # noqa: PT017 - it need not be raised


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        # RFC 4013 §3
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_saslprep_of_rfc_4013(typed: str, prepared: str) -> None:
    assert saslprep(typed) == prepared


@pytest.mark.parametrize("typed", ["\u0007", "\u0627\u0031", "\u0627a\u0628", "\ue000", "\u0221", "\ud800"])
def test_what_saslprep_prohibits(typed: str) -> None:
    with pytest.raises(ValueError, match="RFC 4013"):
        saslprep(typed)


@pytest.mark.parametrize(
    ("offered", "fixed", "private", "chosen"),
    [
        (b"LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256", None, True, "SCRAM-SHA-256"),
        (b"LOGIN PLAIN CRAM-MD5", None, True, "CRAM-MD5"),
        (b"LOGIN PLAIN", None, True, "PLAIN"),
        (b"LOGIN", None, True, "LOGIN"),
        (b"LOGIN PLAIN", None, False, None),
        (b"LOGIN PLAIN CRAM-MD5", None, False, "CRAM-MD5"),
        (b"LOGIN PLAIN SCRAM-SHA-256", "LOGIN", True, "LOGIN"),
        (b"LOGIN PLAIN", "LOGIN", False, None),
        (b"PLAIN", "SCRAM-SHA-256", True, None),
        (b"PLAIN XOAUTH2", None, True, "PLAIN"),
        (b"PLAIN XOAUTH2", "XOAUTH2", True, "XOAUTH2"),
        (b"XOAUTH2", "XOAUTH2", False, None),
        (b"XOAUTH2 GSSAPI SCRAM-SHA-256-PLUS", None, True, None),
        (b"", None, True, None),
    ],
)
def test_the_strongest_is_chosen_and_none_that_others_could_hear(
    offered: bytes, fixed: str | None, private: bool, chosen: str | None
) -> None:
    assert choose(offered, fixed=fixed, private=private) == chosen
