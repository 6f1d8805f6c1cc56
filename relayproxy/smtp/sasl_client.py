"""SASL's client side, for credentials of our own: PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-256, XOAUTH2.

RFC 4616, RFC 2195, RFC 5802 with RFC 7677, RFC 4013 (SASLprep); LOGIN and XOAUTH2 by their vendors' papers. Sans-IO: a `Proof` turns challenges
into responses, octets without base64.

Invariants: a password leaves as it is only where the leg is private (`choose`); SCRAM believes no server that has not shown
that it knows the password too, nor one that would make guessing it cheap. Nothing that this module raises quotes a secret.
Where secrets come from does not belong here (relay/credentials.py).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

#: Strongest first: the server learns no password by the first, none that it does not know by the second.
WITH_PASSWORD: Final = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN")
BEARER: Final = "XOAUTH2"
#: What may be said where others can hear it.
VEILED: Final = frozenset({"SCRAM-SHA-256", "CRAM-MD5"})

#: RFC 7677 §4 asks for so many at least; beyond, a server makes us work for nothing (attack 16, turned round).
_ITERATIONS: Final = range(4096, 1_000_001)

# RFC 5802 §7:  server-first-message = [reserved-mext ","] nonce "," salt "," iteration-count ["," extensions]
_SERVER_FIRST: Final = re.compile(
    rb"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/]+={0,2}),i=(?P<count>[1-9][0-9]{0,9})(?:,.*)?", re.DOTALL
)
# server-final-message = (server-error / verifier) ["," extensions];  verifier = "v=" base64
_SERVER_FINAL: Final = re.compile(rb"v=(?P<signature>[A-Za-z0-9+/]+={0,2})(?:,.*)?", re.DOTALL)


class UpstreamUnproven(Exception):  # noqa: N818  it is a fact, and reads as one
    """The server broke its mechanism, or does not know what it should. The text says how."""


def choose(offered: bytes, *, fixed: str | None, private: bool) -> str | None:
    """The mechanism to log in with, of those that a server offers; None where there is none. `private`: nobody else can hear it."""
    known = offered.decode("ascii").split()
    wanted = WITH_PASSWORD if fixed is None else (fixed,)
    return next((one for one in wanted if one in known and (private or one in VEILED)), None)


class Proof:
    """One exchange. Makes of `user` and `secret` what the mechanism says of them; ValueError where they have no place in it."""

    __slots__ = ("_done", "_steps", "initial", "is_slow")

    def __init__(self, mechanism: str, user: str, secret: str, *, nonce: bytes) -> None:
        """`nonce`: printable, without comma, and never used before (RFC 5802 §5.1)."""
        self._steps = _steps(mechanism, user, secret, nonce)
        #: Whether a response may take a second of a processor: SCRAM's iterations are there for that.
        self.is_slow = mechanism == "SCRAM-SHA-256"
        self._done = not self.is_slow
        #: The initial response; None where the server begins.
        self.initial = next(self._steps)

    def respond(self, challenge: bytes) -> bytes:
        """The response to a challenge. Raises UpstreamUnproven."""
        try:
            response = self._steps.send(challenge)
        except StopIteration:
            raise UpstreamUnproven("it has one challenge too many") from None
        if response == b"":
            self._done = True
        return response or b""

    def check(self) -> None:
        """The server has said that we are who we are: whether it may be believed. Raises UpstreamUnproven."""
        if not self._done:
            raise UpstreamUnproven("it did not show that it knows the password")


def _steps(mechanism: str, user: str, secret: str, nonce: bytes) -> Generator[bytes | None, bytes, None]:
    match mechanism:
        case "PLAIN":
            return _plain(user.encode(), secret.encode())
        case "LOGIN":
            return _login(user.encode(), secret.encode())
        case "CRAM-MD5":
            return _cram_md5(user.encode(), secret.encode())
        case "SCRAM-SHA-256":
            return _scram(saslprep(user), saslprep(secret), nonce)
        case "XOAUTH2":
            return _xoauth2(user.encode(), secret.encode())
    raise ValueError(f"expected a mechanism that is known, got {mechanism!r}")


def _plain(user: bytes, password: bytes) -> Generator[bytes | None, bytes, None]:
    """RFC 4616 §2:  message = [authzid] UTF8NUL authcid UTF8NUL passwd."""
    yield b"\0%b\0%b" % (user, password)


def _login(user: bytes, password: bytes) -> Generator[bytes | None, bytes, None]:
    """What the server asks is text for people: the first is the user, the second the password."""
    yield None
    yield user
    yield password


def _cram_md5(user: bytes, password: bytes) -> Generator[bytes | None, bytes, None]:
    """RFC 2195 §2."""
    challenge = yield None
    digest = hmac.new(password, challenge, hashlib.md5).hexdigest()
    yield b"%b %b" % (user, digest.encode("ascii"))


def _xoauth2(user: bytes, token: bytes) -> Generator[bytes | None, bytes, None]:
    """A refusal comes as a challenge (JSON), which wants an empty response before the reply that says so."""
    yield b"user=%b\x01auth=Bearer %b\x01\x01" % (user, token)
    yield b""


def _scram(user: str, password: str, nonce: bytes) -> Generator[bytes | None, bytes, None]:
    """RFC 5802 §3, §5, with SHA-256 (RFC 7677), without channel binding."""
    bare = b"n=%b,r=%b" % (user.replace("=", "=3D").replace(",", "=2C").encode(), nonce)
    server_first = yield b"n,," + bare
    match = _SERVER_FIRST.fullmatch(server_first)
    if match is None or not match["nonce"].startswith(nonce) or match["nonce"] == nonce:
        raise UpstreamUnproven("its first message is no SCRAM, or has not our nonce in it")
    if (iterations := int(match["count"])) not in _ITERATIONS:
        raise UpstreamUnproven(f"it wants {iterations} iterations, not {_ITERATIONS.start} to {_ITERATIONS.stop - 1}")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), _unbase64(match["salt"]), iterations)
    without_proof = b"c=biws,r=" + match["nonce"]
    auth_message = b",".join((bare, server_first, without_proof))
    client_key = _hmac(salted, b"Client Key")
    signature = _hmac(hashlib.sha256(client_key).digest(), auth_message)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    server_final = yield b"%b,p=%b" % (without_proof, binascii.b2a_base64(proof, newline=False))
    match = _SERVER_FINAL.fullmatch(server_final)
    expected = _hmac(_hmac(salted, b"Server Key"), auth_message)
    if match is None or not hmac.compare_digest(_unbase64(match["signature"]), expected):
        raise UpstreamUnproven("it does not know the password")
    yield b""


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _unbase64(octets: bytes) -> bytes:
    try:
        return binascii.a2b_base64(octets, strict_mode=True)
    except binascii.Error:
        raise UpstreamUnproven("its message has base64 that is none") from None


# RFC 4013 §2.3, the tables of RFC 3454 appendix C; A.1 since what is stored must not hold what Unicode may yet define.
_PROHIBITED: Final = (
    stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4, stringprep.in_table_c5,
    stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8, stringprep.in_table_c9, stringprep.in_table_a1,
)  # fmt: skip


def saslprep(text: str) -> str:
    """RFC 4013: what is typed differently and looks the same becomes the same. ValueError for what must not be in it."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(c) for c in prepared for prohibited in _PROHIBITED):
        raise ValueError("expected no character that SASLprep prohibits (RFC 4013)")
    # RFC 3454 §6: right-to-left text is nothing but that, and begins and ends with it.
    if any(stringprep.in_table_d1(c) for c in prepared) and (
        any(stringprep.in_table_d2(c) for c in prepared)
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ValueError("expected text of one direction (RFC 4013)")
    return prepared
