"""What may be quoted of a line that a client sent (attack 21, DESIGN §9.6).

A quotation helps the reader of a log; a secret in a log cannot be taken back. So a line is quoted only where it is plain what it is: its
verb is one of SMTP's, or one slip of the finger away from one. All else, a password typed behind a 334 that was lost, base64, mail
data out of step, a line of another protocol, is told by its length alone.
Of AUTH, however spelled and wherever it stands, the verb and a mechanism that the world knows stay; what follows becomes
`<redacted N>`, N octets. The same holds for the identity in MAIL's AUTH= (RFC 4954 §5) and for BURL's URL, which is a bearer's token (RFC 4468).

Invariants: total (any octets), pure, and idempotent. `redact` judges the line alone; which lines are part of a SASL exchange because
of what was said before does not belong here (that follows from the dialogue's state): for them there is `redact_sasl`.
"""

from __future__ import annotations

import re
from typing import Final

_VERBS: Final = frozenset(
    b"ATRN BDAT DATA EHLO ETRN EXPN HELO HELP LHLO MAIL MAILFROM NOOP QUIT RCPT RCPTTO RSET SAML SEND SOML STARTTLS TURN VRFY "
    b"X-LINK2STATE XCLIENT XEXCH50 XFORWARD".split()
)
#: IANA's registry of SASL mechanisms, as far as mail uses it, and the vendors' own. A word that is not here may be a password.
_MECHANISMS: Final = frozenset(
    b"ANONYMOUS CRAM-MD5 DIGEST-MD5 EXTERNAL GS2-KRB5 GS2-KRB5-PLUS GSSAPI KERBEROS_V4 LOGIN NTLM OAUTHBEARER OTP PLAIN "
    b"SCRAM-SHA-1 SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SCRAM-SHA-512 SCRAM-SHA-512-PLUS SKEY XOAUTH XOAUTH2".split()
)

_WORD: Final = re.compile(rb"[^ \t:<=]*")
_SPACE: Final = re.compile(rb"[ \t:]*")
# Behind another verb: a parameter whose keyword may be AUTH, misspelled or not (what is
# blanked already stays as it is); and AUTH as a word of its own.
_PARAMETER: Final = re.compile(rb"(?<![^ \t>])([A-Za-z]{3,5})([ \t]*=[ \t]*)(?!<redacted [0-9]+>)([^ \t]+)")
_INNER_WORD: Final = re.compile(rb"(?<![A-Za-z])[A-Za-z]{3,}")
_REDACTED: Final = re.compile(rb"<redacted [0-9]+>")


def redact(line: bytes) -> bytes:
    """The line, without its CRLF, as it may be written down."""
    if _REDACTED.fullmatch(line):
        return line
    start = len(line) - len(line.lstrip(b" \t"))
    word = _word(line, start)
    end = start + len(word)
    if (prefix := _auth_prefix(word)) is not None:
        return _auth(line, start + prefix)
    if word.upper() == b"BURL":
        return line[:end] + _blank(line[end:], keep_space=True)
    if not _is_verb(word.upper()):
        return _blank(line)
    return _inner(line, end)


def looks_like_auth(line: bytes) -> bool:
    """Whether it begins with AUTH, give or take one slip."""
    return _auth_prefix(_word(line, len(line) - len(line.lstrip(b" \t")))) is not None


def is_identity(keyword: bytes) -> bool:
    """Whether a parameter of that name is MAIL's AUTH=, give or take one slip."""
    return _one_slip(keyword.upper(), b"AUTH")


def redact_sasl(line: bytes) -> bytes:
    """A line that came in a SASL exchange, or out of step behind one: nothing of it is told, but that it is AUTH with a known mechanism."""
    words = line.split(None, 2)[:2]
    begins_one = len(words) == 2 and _one_slip(words[0].upper(), b"AUTH") and words[1].upper() in _MECHANISMS
    return redact(line) if begins_one else _blank(line)


def _word(line: bytes, start: int) -> bytes:
    match = _WORD.match(line, start)
    return b"" if match is None else match[0]


def _blank(octets: bytes, *, keep_space: bool = False) -> bytes:
    if _REDACTED.fullmatch(octets.strip(b" \t:=")):
        return octets
    kept = len(octets) - len(octets.lstrip(b" \t:=")) if keep_space else 0
    hidden = len(octets) - kept
    return octets[:kept] + b"<redacted %d>" % hidden if hidden else octets


def _auth(line: bytes, end: int) -> bytes:
    """`end`: behind the verb, which a mechanism may follow without a space."""
    match = _SPACE.match(line, end)
    start = end if match is None else match.end()
    mechanism = _word(line, start)
    if mechanism.upper() in _MECHANISMS:
        start += len(mechanism)
    return line[:start] + _blank(line[start:], keep_space=True)


def _inner(line: bytes, start: int) -> bytes:
    """A known verb's arguments: AUTH may stand among them, as MAIL's parameter or because two lines became one."""
    line = line[:start] + _PARAMETER.sub(_parameter, line[start:])
    for match in _INNER_WORD.finditer(line, start):
        prefix = _auth_prefix(match[0])
        if prefix is None:
            continue
        end = match.start() + prefix
        glued = _word(line, end).upper() in _MECHANISMS
        if glued or (end == match.end() and line[end : end + 1] in (b" ", b"\t", b":")):
            return _auth(line, end)
    return line


def _parameter(match: re.Match[bytes]) -> bytes:
    keyword, equals, value = match.groups()
    if not is_identity(keyword) or value == b"<>":  # "no identity" is no secret
        return match[0]
    return keyword + equals + b"<redacted %d>" % len(value)


def _auth_prefix(word: bytes) -> int | None:
    """How many octets of the word are AUTH, give or take one slip: AUT, AUHT, AAUTH; None: it is another word."""
    upper = word.upper()
    if upper in _VERBS:
        return None
    for length in (4, 5, 3):
        if len(upper) >= length and _one_slip(upper[:length], b"AUTH"):
            return length
    return None


def _is_verb(word: bytes) -> bool:
    return word in _VERBS or any(_one_slip(word, verb) for verb in _VERBS)


def _one_slip(typed: bytes, meant: bytes) -> bool:
    """Whether at most one key was missed, doubled, mistaken, or two were struck in the wrong order."""
    if abs(len(typed) - len(meant)) > 1:
        return False
    if typed == meant:
        return True
    at = next((i for i, (a, b) in enumerate(zip(typed, meant, strict=False)) if a != b), min(len(typed), len(meant)))
    return (
        typed[at + 1 :] == meant[at + 1 :]
        or typed[at + 1 :] == meant[at:]
        or typed[at:] == meant[at + 1 :]
        or (typed[at : at + 2] == meant[at : at + 2][::-1] and typed[at + 2 :] == meant[at + 2 :])
    )
