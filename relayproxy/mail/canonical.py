r"""Addresses in the one form in which they are compared (DESIGN §6): `canonical`.

The domain is in lower case, its U-labels are A-labels (RFC 5890 §2.3.2.1), one dot at its end is gone; a quoted local part is dequoted
(RFC 5321 §4.1.2: quoted or not it is the same mailbox). The local part keeps its case.
Invariants: nothing raises, whatever the text; the work is linear in it. U-labels become A-labels as RFC 5895 §2 has it, by lower case and NFC and no more:
full-width letters and their like are not taken for others, `ß` and `ss` are two names (IDNA 2008), and whether a label may be registered is not asked.
Reading an address off the wire does not belong here (smtp/grammar.py).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

#: RFC 1035 §2.3.4. A longer label is none, and the conversion takes quadratic time.
MAX_LABEL: Final = 63

_QUOTED: Final = re.compile(r'"((?:[^"\\]++|\\.)*)"', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_TO_BE_QUOTED: Final = re.compile(r'(["\\])')
# RFC 5322 §3.2.3, RFC 6532 §3.2:  dot-atom-text = 1*atext *("." 1*atext)
_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\u0080-\U0010ffff]++"
_DOT_ATOM: Final = re.compile(_ATEXT + r"(?:\." + _ATEXT + r")*")


def split(address: str) -> tuple[str, str]:
    """Local part, as written, and domain, split at the last unquoted `@`; the domain is "" where there is none."""
    quoted = _QUOTED.match(address)
    at = address.rfind("@", quoted.end() if quoted else 0)
    return (address, "") if at < 0 else (address[:at], address[at + 1 :])


def dequoted(local: str) -> str:
    """The local part that is meant (RFC 5321 §4.1.2)."""
    quoted = _QUOTED.fullmatch(local)
    return local if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted[1])


def quoted(local: str) -> str:
    """A local part that is meant, as it is written: in quotes where it is no dot-atom (RFC 5322 §3.2.3)."""
    return local if _DOT_ATOM.fullmatch(local) else '"' + _TO_BE_QUOTED.sub(r"\\\1", local) + '"'


def canonical(address: str) -> str:
    """The address as it is compared. "" is the null sender."""
    local, domain = split(address)
    local = dequoted(local)
    return f"{local}@{canonical_domain(domain)}" if domain else local


#: The same, for who asks for the same few addresses many times, as many patterns do.
canonical_again: Final = lru_cache(maxsize=1024)(canonical)


def canonical_domain(domain: str) -> str:
    """A domain, or an address literal, as it is compared."""
    domain = domain.removesuffix(".")
    return domain.lower() if domain.isascii() else ".".join(map(_a_label, domain.split(".")))


def with_u_labels(address: str) -> str:
    """A canonical address as people write it: A-labels of the domain as U-labels."""
    at = address.rfind("@")  # none behind the one before the domain
    if "xn--" not in address[at + 1 :]:
        return address
    return address[: at + 1] + ".".join(map(_u_label, address[at + 1 :].split(".")))


def _a_label(label: str) -> str:
    label = unicodedata.normalize("NFC", label.lower())
    if label.isascii() or len(label) > MAX_LABEL:
        return label
    return "xn--" + label.encode("punycode", "replace").decode("ascii")


def _u_label(label: str) -> str:
    if not label.startswith("xn--") or len(label) > MAX_LABEL:
        return label
    try:
        written = label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return written if _a_label(written) == label else label
