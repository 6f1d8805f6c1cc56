r"""Odd addresses: those that somebody could send elsewhere than to the domain behind their last `@`, or read as another address (attacks 10, 30).

    is_odd("jane%evil.test", "example.test")  # True: who routes by %
    is_odd("jane", "example.test")            # False

Who speaks for many addresses at once, by a wildcard or an expression, is not to be taken to mean these. In the line of a RCPT `is_odd` is all there is; in a field
`is_plain` must hold too, since programs that read header fields do not agree on quotes. Invariant: nothing raises, whatever the text.
Who asks, and what follows, does not belong here.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from relayproxy.mail.canonical import canonical_domain, with_u_labels

# The percent hack, UUCP paths, an address in an address, and a host in front of a colon (RFC 5321 §F.2 says why source routes went; relays that split once
# more are still about).
_ROUTING: Final = frozenset("%!@:")
_FULL_STOP: Final = "\u3002"  # to IDNA 2003 a dot, and the only one of those that NFKC leaves as it is
# atext (RFC 5322 §3.2.3, RFC 6532 §3.2) and dots, but for the ideographic full stop.
_PLAIN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\u0080-\u3001\u3003-\U0010ffff]++")


def is_odd(local: str, domain: str) -> bool:
    """Of a local part without quotes and a domain in any form; without a domain whoever gets it sends it where he will."""
    if not domain or not _ROUTING.isdisjoint(local) or is_disguised(local) or is_disguised(domain):
        return True
    domain = canonical_domain(domain)
    return not domain.isascii() or ("xn--" in domain and any(map(_is_false, domain.split("."))))


def is_plain(local: str) -> bool:
    """Whether all programs that read a header field find the end of this local part, without quotes, at the same place, and in it nothing to split at."""
    return _PLAIN.fullmatch(local) is not None


def is_disguised(text: str) -> bool:
    """Whether a character in it stands for others to whoever maps before he compares (NFKC): full-width letters and signs, the Kelvin sign, ligatures."""
    return not text.isascii() and any(unicodedata.normalize("NFKC", character) != character for character in text)


def _is_false(label: str) -> bool:
    """Whether it begins like an A-label and is none that a U-label makes."""
    if not label.startswith("xn--"):
        return False
    shown = with_u_labels("@" + label)[1:]
    return shown == label or _FULL_STOP in shown or is_disguised(shown)
