r"""Patterns (DESIGN §6): `*` any characters, `?` any one, all of the value; `/.../` a search with a regular expression.

Both are made expressions of RE2, so that a match takes linear time, whatever the pattern and whatever the value.
Case: RE2's simple case folding, a character for a character, on both sides: k, K and the Kelvin sign are one, ß and ss are two.
Otherwise characters are compared as they are, composed or not.

    Pattern.parse("*invoice*").matches("Your Invoice")                      # True
    Pattern.parse("/order (?P<number>[0-9]+)/").groups("Order 17")          # {"number": "17"}
    AddressPattern.parse("*@münchen.test").matches("a@XN--MNCHEN-3YA.test") # True

Where patterns are loaded from does not belong here, nor what a store can do with one (record/store/sql_patterns.py).
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import re2  # type: ignore[import-untyped]

from relayproxy.mail.canonical import canonical_again, dequoted, split, with_u_labels
from relayproxy.mail.odd import is_odd, is_plain

if TYPE_CHECKING:
    from collections.abc import Callable

#: Characters. A match takes time by the length of the pattern times that of the value.
MAX_LENGTH: Final = 1024

_WILDCARDS: Final = re.compile(r"(\*+|\?)")
_ANYTHING: Final = re.compile(r"[*?]+")
# The beginning of an expression that stands for itself, whatever follows it but what makes its last character one of several, or none.
_BEGINS_WITH: Final = re.compile(r"\^?([A-Za-z0-9 _@,:;/<>=!#%&'\"~-]+)(?![*?{+])")
#: What simple case folding makes ASCII.
_TO_ASCII: Final = str.maketrans(
    string.ascii_uppercase + "\N{KELVIN SIGN}\N{LATIN SMALL LETTER LONG S}", string.ascii_lowercase + "ks"
)
#: Characters: what is folded once for all patterns that are tried one behind the other.
_WORTH_KEEPING: Final = range(256, 64 * 1024)


class PatternError(ValueError):
    """A pattern is none, in words: what was expected, and what RE2 says of it."""


def _options(*, dot_is_any: bool) -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.dot_nl = dot_is_any
    options.log_errors = False  # it would write to standard error; what it says is in the exception
    return options


_GLOB: Final = _options(dot_is_any=True)
_EXPRESSION: Final = _options(dot_is_any=False)


class Pattern:
    """Of a text. `glob` and `expression`: one is what it says, without slashes; the other is None."""

    # `_pieces`: of a plain glob what stands between its stars, which is found an order of magnitude faster than RE2 is called.
    __slots__ = ("_match", "_pieces", "_regexp", "expression", "glob", "text")

    def __init__(self, text: str, glob: str | None, expression: str | None) -> None:
        self.text = text
        self.glob = glob
        self.expression = expression
        is_plain = glob is not None and glob.isascii() and "?" not in glob
        self._pieces = tuple(_ANYTHING.split(glob.lower())) if glob is not None and is_plain else None
        try:
            if glob is not None:
                self._regexp = re2.compile(_written_out(glob), _GLOB)
                self._match: Callable[[bytes], object] = self._regexp.fullmatch
            else:
                self._regexp = re2.compile(expression, _EXPRESSION)
                self._match = self._regexp.search
        except re2.error as error:
            wanted = "a pattern" if expression is None else "a regular expression (RE2) between the slashes"
            what = error.args[0]
            raise PatternError(
                f"expected {wanted}: {what.decode('utf-8', 'replace') if isinstance(what, bytes) else what}"
            ) from None
        except UnicodeEncodeError:
            raise PatternError("expected a pattern that is UTF-8") from None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises PatternError."""
        if len(text) > MAX_LENGTH:
            raise PatternError(f"expected a pattern of at most {MAX_LENGTH} characters, got {len(text)}")
        expression = _expression(text)
        return cls(text, text if expression is None else None, expression)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({self.text!r})"

    @property
    def names(self) -> frozenset[str]:
        """Of its named groups."""
        return frozenset(self._regexp.groupindex) if self.expression is not None else frozenset()

    @property
    def needle(self) -> str:
        """What stands in `folded(value)` of each value that it matches; "" where nothing is known to."""
        if self.glob is not None:
            return max(_ANYTHING.split(self.glob.lower()), key=len) if self.glob.isascii() else ""
        found = _BEGINS_WITH.match(self.expression or "")
        return "" if found is None or "|" in (self.expression or "") else found[1].lower()

    def matches(self, value: str) -> bool:
        if self._pieces is not None:
            return _has_in_order(folded(value), self._pieces)
        return self._match(value.encode("utf-8", "replace")) is not None

    def groups(self, value: str) -> dict[str, str] | None:
        """What its named groups found, "" for those that found nothing; None where it does not match."""
        if not self.matches(value):
            return None
        if self.expression is None or not self._regexp.groupindex:
            return {}
        found: dict[str, str] = self._regexp.search(value.encode("utf-8", "replace").decode()).groupdict("")
        return found


class AddressPattern:
    """Of an address, in its canonical form. One with other letters than ASCII is tried on the form with U-labels too.

    `pattern` is the one that canonical forms are matched with, `text` is as written.
    """

    __slots__ = ("_international", "pattern", "text")

    def __init__(self, text: str, pattern: Pattern) -> None:
        self.text = text
        self.pattern = pattern
        self._international = not text.isascii()

    @classmethod
    def parse(cls, text: str) -> AddressPattern:
        """Raises PatternError."""
        return cls(text, Pattern.parse(text if _expression(text) is not None else _address_glob(text)))

    def __repr__(self) -> str:
        return f"AddressPattern.parse({self.text!r})"

    def matches(self, value: str) -> bool:
        """`value` may be in any form."""
        plain = canonical_again(value)
        return self.pattern.matches(plain) or (self._international and self.pattern.matches(with_u_labels(plain)))

    def spares(self, address: str) -> bool:
        """Whether it speaks for an address in a header field: as `matches`, but one for many addresses says nothing of odd ones."""
        if not self.matches(address):
            return False
        glob = self.pattern.glob
        if glob is not None and "*" not in glob and "?" not in glob:
            return True
        local, domain = split(address)
        local = dequoted(local)
        return is_plain(local) and not is_odd(local, domain)

    def groups(self, value: str) -> dict[str, str] | None:
        """As of a pattern."""
        plain = canonical_again(value)
        found = self.pattern.groups(plain)
        return self.pattern.groups(with_u_labels(plain)) if found is None and self._international else found


def _expression(text: str) -> str | None:
    if len(text) < 2 or text[0] != "/" or text[-1] != "/":
        return None
    if len(text) == 2:
        raise PatternError("expected a regular expression (RE2) between the slashes, found nothing")
    return text[1:-1]


def folded(value: str) -> str:
    """As it is compared with what is ASCII."""
    return _folded_once(value) if len(value) in _WORTH_KEEPING else _in_lower_case(value)


def _in_lower_case(value: str) -> str:
    return value.lower() if value.isascii() else value.translate(_TO_ASCII)


_folded_once: Final = lru_cache(maxsize=8)(_in_lower_case)


def _has_in_order(value: str, pieces: tuple[str, ...]) -> bool:
    """Whether the value is these pieces with anything between them."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return value == first
    at, end = len(first), len(value) - len(last)
    if at > end or not value.startswith(first) or not value.endswith(last):
        return False
    for piece in pieces[1:-1]:
        found = value.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _written_out(glob: str) -> str:
    return "".join([_WRITTEN.get(piece[:1]) or re2.escape(piece) for piece in _WILDCARDS.split(glob) if piece])


_WRITTEN: Final = {"*": ".*", "?": "."}


def _address_glob(glob: str) -> str:
    """A glob as canonical as it can be; its letters are matched in any case, whatever it is. Raises PatternError."""
    local, domain = split(glob)
    named = domain.rstrip(".")
    if len(local) < len(glob) and (not named or (named != domain and named[-1] in "*?")):
        # `*@` and `*@*.` are what is left where a variable is not set, and would be everybody's.
        raise PatternError(f"expected a domain behind the @, found {repr(domain) if domain else 'nothing'}")
    local = dequoted(local)
    return f"{local}@{unicodedata.normalize('NFC', domain.removesuffix('.'))}" if domain else local
