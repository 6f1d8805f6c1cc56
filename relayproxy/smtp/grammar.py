r"""The grammar of SMTP arguments, as patterns over octets (RFC 5321 §4.1.2, §4.1.3, RFC 6531 §3.3, RFC 3461 §4, RFC 1870 §4).

Each pattern stands below the production that it keeps. Where a pattern takes more than its production, the peer that made it necessary
is named; nothing that is taken can be read in two ways, and all of it leaves octet for octet as it came.

Invariants: patterns see octets, never `str`: `\d` and `int()` would take digits that no other mail program takes (PROTOCOL §1.2).
Repetitions are possessive, so that no input costs more than linear time (attack 20). Functions raise ValueError, which says what was expected
and quotes nothing of what came: it may have been a secret. Which reply that makes does not belong here (commands.py).
"""

# ruff: noqa: ERA001 - the productions quoted here are no code
from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final

#: RFC 5321 §4.5.3.1.3: a path, with its punctuation, without its source route (which we cut).
MAX_PATH: Final = 256
#: RFC 5321 §4.5.3.1.2. (The 64 octets of §4.5.3.1.1 for a local-part are not held: VERP and SRS make longer ones.)
MAX_DOMAIN: Final = 255
#: RFC 3461 §4.4 (ENVID adds at most 107 octets to MAIL), §4.2 (ORCPT adds at most 500 to RCPT), RFC 4954 §3 (AUTH=: 500).
MAX_ENVID: Final = 100
MAX_ORCPT: Final = 500
MAX_AUTH: Final = 500

# RFC 5321 §2.4, §4.1.2: no argument has a control character. A CR, LF or NUL that stands in a line is somebody's
# second command (attacks 10, 14).
CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")

# RFC 5322 §3.2.3
#   atext          = ALPHA / DIGIT / "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "/" / "=" / "?" / "^" /
#                    "_" / "`" / "{" / "|" / "}" / "~"
# RFC 6531 §3.3
#   atext          =/ UTF8-non-ascii
# (`utf8` below holds the second; the classes then need say no more than "not ASCII".)
ATEXT: Final = rb"A-Za-z0-9!#$%&'*+\-/=?^_`{|}~"
_UTF8: Final = rb"\x80-\xff"

# RFC 5321 §4.1.2
#   Local-part     = Dot-string / Quoted-string
#   Dot-string     = Atom *("."  Atom)
#   Atom           = 1*atext
#   Quoted-string  = DQUOTE *QcontentSMTP DQUOTE
#   QcontentSMTP   = qtextSMTP / quoted-pairSMTP
#   quoted-pairSMTP  = %d92 %d32-126
#   qtextSMTP      = %d32-33 / %d35-91 / %d93-126         (RFC 6531 §3.3: =/ UTF8-non-ascii)
# Dots may stand anywhere: Japanese carriers have given out `a..b@` and `a.@` for years, and servers take them.
_DOT_STRING: Final = rb"[" + ATEXT + rb"." + _UTF8 + rb"]++"
_QUOTED_STRING: Final = rb'"(?>(?:[ !#-\[\]-~' + _UTF8 + rb']++|\\[ -~])*)"'
_LOCAL_PART: Final = rb"(?:" + _DOT_STRING + rb"|" + _QUOTED_STRING + rb")"

# RFC 5321 §4.1.2
#   Domain         = sub-domain *("." sub-domain)
#   sub-domain     = Let-dig [Ldh-str]                    (RFC 6531 §3.3: =/ U-label)
#   Let-dig        = ALPHA / DIGIT
#   Ldh-str        = *( ALPHA / DIGIT / "-" ) Let-dig
# `_` counts as a letter (Windows and container names have it), one dot may end the whole (a DNS habit).
_LET_DIG: Final = rb"[A-Za-z0-9_" + _UTF8 + rb"]++"
_SUB_DOMAIN: Final = _LET_DIG + rb"(?:-++" + _LET_DIG + rb")*"
_DOMAIN: Final = rb"(?>" + _SUB_DOMAIN + rb"(?:\." + _SUB_DOMAIN + rb")*\.?)"

# RFC 5321 §4.1.3
#   address-literal  = "[" ( IPv4-address-literal / IPv6-address-literal / General-address-literal ) "]"
#   IPv4-address-literal  = Snum 3("."  Snum)
#   IPv6-address-literal  = "IPv6:" IPv6-addr
#   General-address-literal  = Standardized-tag ":" 1*dcontent
#   Standardized-tag  = Ldh-str
#   dcontent       = %d33-90 / %d94-126
#   Snum           = 1*3DIGIT     ; representing a decimal integer value in the range 0 through 255
_SNUM: Final = rb"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
_IPV4: Final = re.compile(_SNUM + rb"(?:\." + _SNUM + rb"){3}")
_LITERAL: Final = rb"\[[!-Z^-~]++\]"
_GENERAL_LITERAL: Final = re.compile(rb"[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+")

# RFC 5321 §4.1.2
#   Reverse-path   = Path / "<>"
#   Forward-path   = Path                 ; RCPT: "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path
#   Path           = "<" [ A-d-l ":" ] Mailbox ">"
#   A-d-l          = At-domain *( "," At-domain )
#   At-domain      = "@" Domain
#   Mailbox        = Local-part "@" ( Domain / address-literal )
# A local-part alone passes whatever it is, not only as Postmaster: machines send cron's mail as `<root>`, and upstream knows what it means.
PATH: Final = re.compile(
    rb"<(?:(@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:)?"
    rb"(" + _LOCAL_PART + rb")(?:@(" + _DOMAIN + rb"|" + _LITERAL + rb"))?)?>"
)

# RFC 5321 §4.1.1.1: ehlo = "EHLO" SP ( Domain / address-literal ) CRLF. Clients say whatever their machine is called; the
# name decides nothing (§4.1.4), so any printable word passes, and whoever writes it into a field escapes it (attack 11).
HELO_NAME: Final = re.compile(rb"[!-~]{1,255}")

# RFC 5321 §4.1.2
#   esmtp-param    = esmtp-keyword ["=" esmtp-value]
#   esmtp-keyword  = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
#   esmtp-value    = 1*(%d33-60 / %d62-126)               (RFC 6531 §3.3: =/ UTF8-non-ascii)
PARAMETER: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~" + _UTF8 + rb"]++))?")

# RFC 1870 §4:  size-value ::= 1*20DIGIT;  RFC 3030 §2:  chunk-size ::= 1*DIGIT
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")

# RFC 3461 §4
#   xtext = *( xchar / hexchar )
#   xchar = any ASCII CHAR between "!" (33) and "~" (126) inclusive, except for "+" and "=".
#   hexchar = ASCII "+" immediately followed by two upper case hexadecimal digits
_XTEXT: Final = re.compile(rb"(?:[!-*,-<>-~]++|\+[0-9A-F]{2})*")
# RFC 6533 §3: an ORCPT of type utf-8 may have UTF-8 as it is (utf-8-addr-unitext), beside xtext.
_UNITEXT: Final = re.compile(rb"(?:[!-*,-<>-~" + _UTF8 + rb"]++|\+[0-9A-F]{2})+")
_HEXCHAR: Final = re.compile(rb"\+([0-9A-F]{2})")
_NOT_XCHAR: Final = re.compile(rb"[^!-*,-<>-~]")
# RFC 3461 §4.2
#   original-recipient-address = addr-type ";" 1*xtext
#   addr-type = atom
_ORCPT: Final = re.compile(rb"([" + ATEXT + rb"]++);(.++)", re.DOTALL)

# RFC 3461 §4.1
#   notify-esmtp-value = "NEVER" / 1#notify-list-element
#   notify-list-element = "SUCCESS" / "FAILURE" / "DELAY"
NOTIFY: Final = re.compile(rb"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}", re.IGNORECASE)

# RFC 4954 §4, RFC 4422 §3.1:  sasl-mech = 1*20mech-char;  mech-char = %x41-5A / DIGIT / "-" / "_"
MECHANISM: Final = re.compile(rb"[A-Za-z0-9_-]{1,20}")
# RFC 4954 §8:  initial-response = base64 / "="
#   base64         = base64-terminal / ( 1*(4base64-char) [base64-terminal] )
#   base64-terminal = (2base64-char "==") / (3base64-char "=")
BASE64: Final = re.compile(rb"=|(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")

# Characters that a peer which maps before it splits would take for "." or "@" (UTS 46, attacks 10, 30). No U-label has them (RFC 5892 §2).
_FALSE_SEPARATORS: Final = frozenset("\u3002\uff0e\uff61\uff20\ufe52\ufe6b")
_C1: Final = frozenset(map(chr, range(0x80, 0xA0)))


def number(octets: bytes) -> int:
    """The value of 1 to 20 ASCII digits."""
    if _NUMBER.fullmatch(octets) is None:
        raise ValueError("expected 1 to 20 digits")
    return int(octets)


def utf8(octets: bytes) -> str:
    """Text of UTF8-non-ascii and ASCII (RFC 6531 §3.3, RFC 3629 §4), without the C1 controls (RFC 5198 §2)."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("expected ASCII or UTF-8") from None
    if not (octets.isascii() or _C1.isdisjoint(text)):
        raise ValueError("expected no C1 control characters")
    return text


def is_address_literal(octets: bytes) -> bool:
    """Whether this is an address-literal, brackets included."""
    if octets[:1] != b"[" or octets[-1:] != b"]":
        return False
    inner = octets[1:-1]
    if inner[:5].lower() == b"ipv6:":
        # "%" would begin a zone id, which means nothing to another machine.
        try:
            IPv6Address(inner[5:].decode("ascii"))
        except ValueError:
            return False
        return b"%" not in inner
    return (_IPV4.fullmatch(inner) or _GENERAL_LITERAL.fullmatch(inner)) is not None


def path(octets: bytes, start: int = 0) -> tuple[bytes, bytes, int]:
    """Local-part, domain and end of the path that begins at `start`; the source route is checked and cut (RFC 5321 §C, §F.2).

    `<>` gives two empty parts; a path without a domain has that part empty. Octets as written, quotes included.
    """
    match = PATH.match(octets, start)
    if match is None:
        raise ValueError("expected a path in angle brackets, such as <user@example.com>")
    route, local, domain = match.groups(b"")
    if len(local) + len(domain) + 3 > MAX_PATH:
        raise ValueError(f"expected a path of at most {MAX_PATH} octets")
    if domain:
        _check_domain(domain)
    elif route:
        raise ValueError("expected a domain behind a source route")
    elif not local.isascii():
        # Names of this machine, such as <postmaster>, are ASCII; <a\uff20b.test> is an address to who maps before he splits (attack 10).
        raise ValueError("expected a domain behind a local part that is not ASCII")
    if not (local.isascii() and route.isascii()):
        utf8(local)
        utf8(route)
    return local, domain, match.end()


def _check_domain(domain: bytes) -> None:
    if domain[:1] == b"[":
        if not is_address_literal(domain):
            raise ValueError("expected an address literal such as [192.0.2.1], [IPv6:2001:db8::1]")
    elif len(domain) > MAX_DOMAIN:
        raise ValueError(f"expected a domain of at most {MAX_DOMAIN} octets")
    elif not (domain.isascii() or _FALSE_SEPARATORS.isdisjoint(utf8(domain))):
        raise ValueError("expected U-labels separated by ASCII dots")


def xtext(octets: bytes) -> bytes:
    """What xtext stands for. Control characters are refused in the decoded form too: `+0A` in AUTH= has made header lines (attack 10)."""
    if _XTEXT.fullmatch(octets) is None:
        raise ValueError(
            'expected xtext (printable ASCII; "+", "=" and others as "+" with two upper case hexadecimal digits)'
        )
    return _decoded(octets)


def to_xtext(octets: bytes) -> bytes:
    """Octets as xtext. What may stand in it is for who reads it to say: `xtext` refuses control characters, however they are written."""
    return _NOT_XCHAR.sub(lambda match: b"+%02X" % ord(match[0]), octets)


def _decoded(octets: bytes) -> bytes:
    if b"+" in octets:
        octets = _HEXCHAR.sub(lambda match: bytes((int(match[1], 16),)), octets)
        if CONTROL.search(octets):
            raise ValueError("expected xtext without control characters")
    return octets


def original_recipient(octets: bytes) -> tuple[bytes, bytes]:
    """Address type and decoded address of an ORCPT value (RFC 3461 §4.2, RFC 6533 §3)."""
    if len(octets) > MAX_ORCPT:
        raise ValueError(f"expected an ORCPT of at most {MAX_ORCPT} octets")
    match = _ORCPT.fullmatch(octets)
    if match is None:
        raise ValueError('expected an address type, ";" and xtext')
    kind, address = match.groups()
    if kind.lower() != b"utf-8":
        return kind, xtext(address)
    if _UNITEXT.fullmatch(address) is None:
        raise ValueError("expected xtext or UTF-8")
    utf8(address)
    return kind, _decoded(address)
