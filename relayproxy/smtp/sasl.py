r"""SASL as a relay sees it: which mechanisms may pass, what an exchange shows of the user, and how one looks where every answer is right.

RFC 4422, RFC 4954; PLAIN RFC 4616, CRAM-MD5 RFC 2195, SCRAM RFC 5802 and RFC 7677, OAUTHBEARER RFC 7628; LOGIN and XOAUTH2 by their vendors' papers.
Sans-IO. `passable` filters what a server offers; `Witness` watches an exchange from the middle; `prompts` are the challenges of a server that
takes whatever comes.

Invariants: mechanisms whose stream would become opaque (security layers: DIGEST-MD5, GSSAPI, NTLM) or that bind to a TLS channel which ends with us
(-PLUS, EXTERNAL) never pass, nor does one that nobody knows (PROTOCOL §1.9). A witness tells the user only where the form is the
mechanism's own, so that nothing mistyped is told as one, and never a secret (attack 21).
Proving who we are does not belong here (sasl_client.py), nor when a line is a response (dialogue.py).
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Final

from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What may go through us. A -PLUS of a server is stripped, so a SCRAM client that could bind says so ("y"), and the server then fails it: RFC 5802 §6.
PASSED: Final = frozenset(b"CRAM-MD5 LOGIN OAUTHBEARER PLAIN SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-512 XOAUTH2".split())
#: What is offered where anything is accepted.
ACCEPTED: Final = b"PLAIN LOGIN CRAM-MD5 XOAUTH2 OAUTHBEARER"
#: Challenges of one exchange, SCRAM has two; a server that has always one more would be never answered.
MAX_CHALLENGES: Final = 16

#: What is cut out of a response and looked for in a reply: shorter, and it would be found in any text.
_SHORTEST: Final = 3
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
#: Octets of a user that are told.
_LONGEST: Final = 255

# RFC 4616 §2:  message = [authzid] UTF8NUL authcid UTF8NUL passwd
_PLAIN: Final = re.compile(rb"[^\0]*\0(?P<user>[^\0]+)\0[^\0]+", re.DOTALL)
# RFC 2195 §2: the user, a space, the digest in hexadecimal; "the user name may have spaces".
_CRAM_MD5: Final = re.compile(rb"(?P<user>.+) [0-9A-Fa-f]{32}", re.DOTALL)
# RFC 5802 §7
#   client-first-message = gs2-header client-first-message-bare;  gs2-header = gs2-cbind-flag "," [ authzid ] ","
#   client-first-message-bare = [reserved-mext ","] username "," nonce ["," extensions];  username = "n=" saslname
_SCRAM: Final = re.compile(
    rb"(?:[ny]|p=[A-Za-z0-9.-]+),(?:a=[^,]+)?,n=(?P<user>(?:[^\0,=]|=2C|=3D)+),r=[!-+\--~]+(?:,[^\0]*)?"
)
# RFC 7628 §3.1
#   client-resp  = (gs2-header kvsep *kvpair kvsep) / kvsep;  kvpair = key "=" value kvsep;  kvsep = %x01
_OAUTHBEARER: Final = re.compile(
    rb"(?:[ny]|p=[A-Za-z0-9.-]+),(?:a=(?P<user>(?:[^\0,=]|=2C|=3D)+))?,\x01(?:[A-Za-z]+=[^\x00\x01]*\x01)+\x01"
)
# Google's: "user=" userName "^A" "auth=Bearer " accessToken "^A^A"
_XOAUTH2: Final = re.compile(rb"user=(?P<user>[^\x00\x01]+)\x01auth=[^\x00\x01]+\x01\x01")

#: By mechanism: what its first response looks like. (LOGIN's is the user and nothing else.)
_FIRST: Final = {
    b"PLAIN": _PLAIN,
    b"CRAM-MD5": _CRAM_MD5,
    b"SCRAM-SHA-1": _SCRAM,
    b"SCRAM-SHA-256": _SCRAM,
    b"SCRAM-SHA-512": _SCRAM,
    b"OAUTHBEARER": _OAUTHBEARER,
    b"XOAUTH2": _XOAUTH2,
}


def passable(offered: bytes) -> bytes:
    """Of the mechanisms that a server offers, those that may go through us, in its order."""
    return b" ".join([mechanism for mechanism in offered.split() if mechanism in PASSED])


def encode(octets: bytes) -> bytes:
    """As a challenge or a response stands on its line."""
    return binascii.b2a_base64(octets, newline=False)


def decode(line: bytes) -> bytes:
    """What a challenge or a response says; "=" is an empty one (RFC 4954 §4). Raises ValueError."""
    return b"" if line == b"=" else binascii.a2b_base64(line, strict_mode=True)


def prompts(mechanism: bytes, nonce: bytes) -> tuple[bytes, ...]:
    """The challenges of a server that takes whatever comes, one for each response; the first is not said where an initial response came.

    `nonce` is what CRAM-MD5's client has to answer: unique, in angle brackets (RFC 2195 §2).
    """
    match mechanism:
        case b"LOGIN":
            return b"Username:", b"Password:"
        case b"CRAM-MD5":
            return (nonce,)
        case _:
            return (b"",)


class Witness:
    """Watches one exchange."""

    __slots__ = ("_heard", "_mechanism", "_secrets", "_user", "cancelled", "fits")

    def __init__(self, mechanism: bytes) -> None:
        self._mechanism = mechanism
        self._heard = 0
        self._user: bytes | None = None
        self._secrets: list[bytes] = []
        #: Given up by the client, or for what it sent instead of a response.
        self.cancelled = False
        #: Whether the responses so far have the mechanism's form.
        self.fits = True

    @property
    def heard(self) -> int:
        """How many responses there were."""
        return self._heard

    def hear(self, line: bytes) -> None:
        """A response of the client's, as it stands on its line."""
        self._heard += 1
        try:
            said = decode(line)
        except ValueError:
            self._secrets.append(line)
            self.fits = False
            return
        self._secrets += _pieces(line, said)
        if self._heard == 1 and self._mechanism == b"LOGIN":
            self._take(said)
        elif self._heard == 1 and (pattern := _FIRST.get(self._mechanism)) is not None:
            match = pattern.fullmatch(said)
            if match is None:
                self.fits = False
            elif match["user"] is not None:
                name: bytes = match["user"]
                self._take(
                    name.replace(b"=2C", b",").replace(b"=3D", b"=") if pattern in (_SCRAM, _OAUTHBEARER) else name
                )

    def _take(self, user: bytes) -> None:
        if user and _CONTROL.search(user) is None:
            self._user = user[:_LONGEST]
        else:
            self.fits = False

    def user(self, *, accepted: bool) -> bytes | None:
        """Who the client says it is, where that may be told. `accepted`: somebody knew the user.

        Nothing but that shows that LOGIN's first response was no password in the wrong place.
        """
        return self._user if accepted or self._mechanism != b"LOGIN" else None

    def tellable(self, reply: Reply) -> Reply:
        """The last reply as it may be written down: a server that repeats what the client sent is not quoted."""
        text = b"\n".join(reply.lines)
        user = self.user(accepted=reply.severity == 2)
        if not any(piece in text for piece in self._secrets if piece != user):
            return reply
        enhanced = b"" if reply.enhanced is None else reply.enhanced.encode("ascii") + b" "
        hidden = len(text) - len(enhanced)
        return Reply(reply.code, (b"%b<redacted %d>" % (enhanced, hidden),), reply.origin)


def _pieces(line: bytes, said: bytes) -> Iterable[bytes]:
    """What a reply must not repeat: the response as a whole, and each part of it."""
    parts = {line.rstrip(b"="), said, *re.split(rb"[\x00\x01]", said), *re.split(rb"[\x00\x01 ]", said)}
    return [part for part in parts if len(part) >= _SHORTEST]
