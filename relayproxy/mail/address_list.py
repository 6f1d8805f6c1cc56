r"""Where addresses stand in a field such as To (RFC 5322 §3.4, §4.4, RFC 6532 §3.2, RFC 2047 §5): `found` and `addresses`.

    found(b' "Doe, J." <j@x.test>, k@x.test (K)')      # [Found(12, 20, "j@x.test"), Found(23, 31, "k@x.test")]
    found(b' J. Doe [j@x.test], k@x.test')             # [Found(1, 18, None), Found(20, 28, "k@x.test")]
    addresses(b' J. Doe [j@x.test], k@x.test')         # [Found(9, 17, "j@x.test"), Found(20, 28, "k@x.test")]

Theory of operation: elements stand between commas and semicolons (RFC 5322 has those at the end of a group, Outlook anywhere). An element is either a mailbox
that every program reads alike, and the octets of its addr-spec are told; or it is odd, and told as a whole: whoever must be sure takes all of it away. So what is left
is sure, whatever came, without knowing what each reader makes of odd input. In odd elements `addresses` looks for all that a lenient reader could take.

What mail programs are known to do, and what it makes of an element here:

- An address without angle brackets before one in them (`a@x.test <b@x.test>`): some take the first, some the second. Both are told.
- A quoted display name, or a comment, with an address in it: a name to all, `"a@x.test" <b@x.test>` has one address. Alone, without an address behind it,
  it is one to some (nodemailer): odd.
- Encoded words (RFC 2047): to be decoded when all else is read, but some (Outlook, much code around `email.header`) decode first, and then find an address or a quote in
  them. A mailbox with one that decodes to such, or that has such octets inside, or whose character set is unknown, is odd. (`addresses` does not look into them.)
- Comments in comments, and such as `(x> y)` or `(a \) b)`: some see their end elsewhere (postal-mime): odd.
- Spaces and comments inside of an addr-spec, source routes, `mailto:`, groups in groups, local parts of several words, domain literals of any text: odd.

Invariants: nothing raises, whatever the octets; the work is linear in them (attacks 19, 20): repetitions are possessive, comments nest to a bounded depth, an element that was
scanned is never scanned again from its middle. Which addresses are wanted does not belong here (address_edits.py).
"""

# ruff: noqa: ERA001 - the productions quoted here are no code
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.mail.canonical import dequoted, quoted
from relayproxy.mail.words import MAX_DECODED, decode, unfold

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How deep comments nest that are taken for such.
MAX_DEPTH: Final = 5
#: Elements of a field that are looked at one by one, ten times the addresses that an envelope may have; what is behind them is odd.
MAX_ELEMENTS: Final = 10_000

# RFC 5322 §3.2.2. A line of white space alone (obs-FWS) is the end of the section to some.
#   FWS            = ([*WSP CRLF] 1*WSP) / obs-FWS
#   ctext          = %d33-39 / %d42-91 / %d93-126 / obs-ctext
#   ccontent       = ctext / quoted-pair / comment
#   comment        = "(" *([FWS] ccontent) [FWS] ")"
#   CFWS           = (1*([FWS] comment) [FWS]) / FWS
# A comment in a comment, a quoted pair, quotes and angle brackets: some (postal-mime) see its end, or an address, where others do not.
_FWS: Final = rb"[ \t]++|\r\n[ \t]++(?=[^\r\n])"
_CFWS: Final = rb"(?>(?:" + _FWS + rb"|\((?:[!#-'*-;=?-\[\]-~\x80-\xff]++|" + _FWS + rb")*\))*)"
# RFC 5322 §3.2.3, §3.2.4 (RFC 6532 §3.2: =/ UTF8-non-ascii). Octets of any character set are common in names.
#   atext          = ALPHA / DIGIT / "!" / "#" / ...
#   quoted-string  = [CFWS] DQUOTE *([FWS] qcontent) [FWS] DQUOTE [CFWS]
#   qtext          = %d33 / %d35-91 / %d93-126 / obs-qtext
#   quoted-pair    = ("\" (VCHAR / WSP)) / obs-qp
_ATEXT: Final = rb"A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff"
_DOT_STRING: Final = rb"[" + _ATEXT + rb".]++"
_QUOTED: Final = rb'"(?>(?:[!#-\[\]-~\x80-\xff]++|\\[\t -~\x80-\xff]|' + _FWS + rb')*)"'
# RFC 5322 §3.4.1, without CFWS inside. Dots may stand anywhere in a local part: Japanese carriers have given out such.
#   addr-spec      = local-part "@" domain
#   domain         = dot-atom / domain-literal / obs-domain
_DOMAIN: Final = rb"(?:[A-Za-z0-9_.\-\x80-\xff]++|\[[A-Za-z0-9:.\-]++\])"
_ADDR_SPEC: Final = rb"(?:" + _DOT_STRING + rb"|" + _QUOTED + rb")@" + _DOMAIN
# RFC 5322 §3.4, §4.1 (obs-phrase has dots: `John Q. Public`). cron's mail has local parts alone.
#   mailbox        = name-addr / addr-spec
#   name-addr      = [display-name] angle-addr
#   angle-addr     = [CFWS] "<" addr-spec ">" [CFWS] / obs-angle-addr
#   group          = display-name ":" [group-list] ";" [CFWS]
_WORD: Final = rb"(?:" + _DOT_STRING + rb"|" + _QUOTED + rb")" + _CFWS
_ELEMENT: Final = re.compile(
    _CFWS + rb"(?:"
    rb"(" + _ADDR_SPEC + rb"|" + _DOT_STRING + rb")" + _CFWS + rb"(?=[,;]|\Z)"
    rb"|(?:(" + _ADDR_SPEC + rb")" + _CFWS + rb"|(?>(?:" + _WORD + rb")*))"
    rb"<(?:" + _FWS + rb")*(" + _ADDR_SPEC + rb"|" + _DOT_STRING + rb")(?:" + _FWS + rb")*>" + _CFWS + rb"(?=[,;]|\Z)"
    rb"|(?>(?:" + _WORD + rb")+)(:))"
)  # fmt: skip
_BETWEEN: Final = re.compile(rb"(?:[,;]++|" + _FWS + rb")*")


def _comment(depth: int) -> bytes:
    nested = rb"|" + _comment(depth - 1) if depth > 1 else rb""
    return rb"\((?>(?:[^()\\]++|\\." + nested + rb")*)\)"


# What lenient readers take, any octets in it.
_ANY_COMMENT: Final = _comment(MAX_DEPTH)
_ANY_QUOTED: Final = rb'"(?>(?:[^"\\]++|\\.)*)"'
_ANY_CFWS: Final = rb"(?>(?:[\x00- ]++|" + _ANY_COMMENT + rb")+)"
# What is odd goes on to a comma or semicolon outside of quotes and comments; one that does not end has no end.
_ODD: Final = re.compile(rb'(?s:(?:[^",;(\\]++|\\.|' + _ANY_QUOTED + rb"|" + _ANY_COMMENT + rb")*)")
# RFC 5322 §4.4, with CFWS around "@" and dots
#   obs-local-part = word *("." word)
#   obs-domain     = atom *("." atom)
_ANY_WORD: Final = rb"(?>(?:" + _DOT_STRING + rb"|" + _ANY_QUOTED + rb")+)"
_ANY_LABELS: Final = rb"[A-Za-z0-9_.\-\x80-\xff]++"


def _dotted(words: bytes) -> bytes:
    return words + rb"(?>(?:(?<=\.)" + _ANY_CFWS + words + rb"|" + _ANY_CFWS + rb"(?=\.)" + words + rb")*)"


# One token after another, so that no octet is the beginning of more than one search.
_LOOSE: Final = re.compile(
    rb"(?s:"
    rb"(" + _dotted(_ANY_WORD) + rb")"
    rb"(?:" + _ANY_CFWS + rb"?@" + _ANY_CFWS + rb"?(" + _dotted(_ANY_LABELS) + rb"|\[[^\[\]]*+\]))?"
    rb"|" + _ANY_COMMENT + rb'|\\.|[^"(\\' + _ATEXT + rb".]++|.)"
)  # fmt: skip
_WORDS: Final = re.compile(rb"(?s:" + _ANY_COMMENT + rb"|(" + _ANY_QUOTED + rb"|\[[^\[\]]*+\]|[" + _ATEXT + rb".]++))")

# RFC 2047 §2, and no octet inside that ends an atom: to who decodes last it would be something else than to who decodes first.
_ENCODED_WORD: Final = re.compile(
    rb"=\?[A-Za-z0-9_.:-]{1,40}(?:\*[A-Za-z0-9-]{0,40})?\?[BbQq]\?[!#-'*+\-./0-9=A-Z^-~]*+\?="
)
_REMARK: Final = re.compile(r"\([^()]*+\)")
_STRUCTURE: Final = re.compile(r'[\x00-\x1f"()<>@\\]|=\?')


class Found(NamedTuple):
    """A range of a value, and the address that stands there; None where it is an odd element."""

    start: int
    end: int
    address: str | None


def found(value: bytes) -> list[Found]:
    """The addresses of all mailboxes in order, and odd elements. Outside of these ranges there are names, comments, space and punctuation."""
    ranges: list[Found] = []
    at, in_group, looked_at = 0, False, 0
    while (start := _end(_BETWEEN, value, at)) < len(value):
        in_group = in_group and value.find(b";", at, start) < 0
        match = _ELEMENT.match(value, start)
        mailbox = None if match is None else _mailbox(value, match)
        looked_at += 1
        if match is None or mailbox is None or (match[4] and in_group) or looked_at > MAX_ELEMENTS:
            at = _end(_ODD, value, start)
            if looked_at > MAX_ELEMENTS or not value.startswith((b",", b";"), at):
                at = len(value)
            end = start + len(value[start:at].rstrip(b" \t"))
            # A line end before that space may be none that all take for folding: it goes too.
            ranges.append(Found(start, at if value.endswith((b"\r", b"\n"), start, end) else end, None))
        else:
            at, in_group = match.end(), in_group or match[4] is not None
            ranges += mailbox
    return ranges


def addresses(value: bytes) -> list[Found]:
    """The addresses of all mailboxes, and in odd elements all that a lenient reader could take for one."""
    return [
        one
        for element in found(value)
        for one in ([element] if element.address is not None else _loose(value, element.start, element.end))
    ]


def _end(pattern: re.Pattern[bytes], value: bytes, start: int) -> int:
    """Of a pattern that matches nothing too."""
    match = pattern.match(value, start)
    return start if match is None else match.end()


def _mailbox(value: bytes, match: re.Match[bytes]) -> list[Found] | None:
    """Its addresses, none for the name of a group; None where it is odd after all."""
    specs = [match.span(group) for group in (1, 2, 3) if match[group] is not None]
    if b"=?" in match[0]:
        names, at = b"", match.start()
        for start, end in specs:
            if b"=?" in value[start:end]:
                return None
            names, at = names + value[at:start] + b" ", end
        if not _is_plain(names + value[at : match.end()]):
            return None
    try:
        return [Found(start, end, unfold(value[start:end]).decode("utf-8")) for start, end in specs]
    except UnicodeDecodeError:
        return None


def _is_plain(names: bytes) -> bool:
    """Whether names mean the same to those who decode encoded words before all else."""
    words = _ENCODED_WORD.findall(names)
    if len(words) != names.count(b"=?") or len(names) > MAX_DECODED:
        return False
    return _STRUCTURE.search(_REMARK.sub("", decode(b" ".join(words)))) is None


def _loose(value: bytes, start: int, end: int) -> Iterator[Found]:
    for match in _LOOSE.finditer(value, start, end):
        if match[2] is None:
            continue
        first, last = match.span()
        words = _WORDS.findall(match[1])
        if words[0][:1] == b"'" == value[last : last + 1]:
            first, words[0] = first + 1, words[0][1:]  # 'user@example.com': so Outlook puts it
        local = "".join(dequoted(word.decode("utf-8", "replace")) for word in words if word)
        domain = b"".join(_WORDS.findall(match[2])).decode("utf-8", "replace")
        yield Found(first, last, f"{quoted(local)}@{domain}")
