r"""SELECT as SQLite can say it: patterns as conditions, and the functions of ours that these call.

SQLite's LIKE folds the case of ASCII alone, ends at a NUL, and knows no regular expressions; a Python function does all that, and takes ten times
as long. So LIKE is asked where it says the same, and a function for the rest. Every condition on a pattern is exact: it is true where the pattern matches,
else false or null.

Invariants: values and patterns are parameters, never part of the condition. `FUNCTIONS` have to be registered on each connection that such a
condition runs on, and `PRAGMA case_sensitive_like` has to stay as it is. Which column is asked for what does not belong here (sql.py).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final
from unicodedata import ucd_3_2_0

from relayproxy.mail.ip import is_in
from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.record.conditions import address_matches
from relayproxy.record.store.sql_text import FALSE, TRUE, Bounds, Sql, as_like, escaped, required_literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from ipaddress import IPv4Network, IPv6Network

# What RE2 takes for letters of ASCII, and LIKE does not: the long s, and the Kelvin sign.
_ASCII_FOLDED: Final = re.compile("[\u017f\u212a]")


class SqliteDialect:
    """A condition of SELECT, as SQLite has it (sql.py `Dialect`)."""

    def text(self, column: str, pattern: Pattern) -> Bounds:
        return _exactly(_text(column, pattern))

    def address(self, column: str, pattern: AddressPattern) -> Bounds:
        return _exactly(_address(column, pattern))

    def addresses(self, column: str, pattern: AddressPattern) -> Bounds:
        return _exactly(_addresses(column, pattern))

    def network(self, column: str, wanted: IPv4Network | IPv6Network) -> Bounds:
        """A function says whether an IP address is in it."""
        return _exactly(Sql(f"in_network(?, {column})", (str(wanted),)))

    def begins(self, column: str, prefix: str) -> Sql:
        return Sql(f"{column} LIKE ?", (f"{prefix}%",))

    def words(self, words: Iterable[str]) -> Bounds:
        """Letters that are younger than Unicode 3.2 may be none to the index's tokenizer, and a word of them alone nothing."""
        sure = [word for word in sorted(words) if any(ucd_3_2_0.category(character)[0] in "LN" for character in word)]
        asked = " ".join([f'"{word}"' for word in sure])
        found = Sql("(NOT indexed OR number IN (SELECT rowid FROM words WHERE words MATCH ?))", (asked,))
        return Bounds(found if sure else TRUE, FALSE)


def _exactly(condition: Sql) -> Bounds:
    return Bounds(condition, condition)


def _text(column: str, pattern: Pattern) -> Sql:
    """A text is as the pattern has it."""
    # First what is seen at once: `length` counts characters, up to the first NUL.
    plain = f"octet_length({column}) = length({column}) OR instr({column}, char(0)) = 0"
    if re.search("(?i)[ks]", pattern.text):
        plain += f" AND instr({column}, char(0x17f)) = 0 AND instr({column}, char(0x212a)) = 0"
    return _found(column, plain, pattern, Sql(f"re(?, {column})", (pattern.text,)))


def _address(column: str, pattern: AddressPattern) -> Sql:
    """An address is, in its canonical form."""
    called = Sql(f"re_address(?, {column})", (pattern.text,))
    if not pattern.text.isascii():
        return _international(column, pattern, called)
    return _found(column, f"{_canonical(column)} AND {column} NOT LIKE '%.'", pattern.pattern, called)


def _addresses(column: str, pattern: AddressPattern) -> Sql:
    r"""One of several is; the column has them joined and surrounded by "\n"."""
    called = Sql(f"re_addresses(?, {column})", (pattern.text,))
    if not pattern.text.isascii():
        return _international(column, pattern, called)
    glob = pattern.pattern.glob
    if glob is None or "\0" in glob:
        return called
    plain = f"{_canonical(column)} AND instr({column}, '.' || char(10)) = 0"
    like = Sql(f"{column} LIKE ? ESCAPE '\\'", (f"%\n{as_like(glob)}\n%",))
    # A wildcard may reach into the next address, unless all that it can do is to reach the line's end.
    inner = glob.strip("*")
    if inner and not re.search(r"[*?\n]", inner):
        return _either(plain, like, called)
    return _either(plain, _where(like, called), called)


def _canonical(column: str) -> str:
    """All that can be seen of an address without reading it: no other letters than ASCII, nothing quoted."""
    return f"octet_length({column}) = length({column}) AND instr({column}, '\"') = 0"


def _international(column: str, pattern: AddressPattern, called: Sql) -> Sql:
    glob = pattern.pattern.glob
    if not (glob is None or glob.isascii() or _ASCII_FOLDED.search(glob)):  # it matches nothing that is all ASCII
        return _where(Sql(f"octet_length({column}) <> length({column}) OR {column} LIKE '%xn--%'"), called)
    return called


def _found(column: str, plain: str, pattern: Pattern, called: Sql) -> Sql:
    """`plain` values are those for which LIKE says what the pattern says."""
    if (glob := pattern.glob) is not None:
        if "\0" in glob:
            return called
        like = Sql(f"{column} LIKE ? ESCAPE '\\'", (as_like(glob),))
        return _either(plain, like, called) if glob.isascii() else _where(_either(plain, like, TRUE), called)
    literal = required_literal(pattern.expression or "")
    if not literal or not literal.isascii() or "\0" in literal:
        return called
    like = Sql(f"{column} LIKE ? ESCAPE '\\'", (f"%{escaped(literal)}%",))
    return _where(_either(plain, like, TRUE), called)


# AND and OR evaluate both sides where they are not the whole of WHERE; iif does not.


def _either(plain: str, like: Sql, called: Sql) -> Sql:
    return Sql(f"iif({plain}, {like.text}, {called.text})", (*like.parameters, *called.parameters))


def _where(cheap: Sql, called: Sql) -> Sql:
    return Sql(f"iif({cheap.text}, {called.text}, 0)", (*cheap.parameters, *called.parameters))


# The functions. A value that is no text (null) is not as any pattern has it.

_pattern: Final = lru_cache(maxsize=64)(Pattern.parse)
_address_pattern: Final = lru_cache(maxsize=64)(AddressPattern.parse)
_network: Final = lru_cache(maxsize=64)(ip_network)


def _re(pattern: Any, value: Any) -> bool:
    return isinstance(value, str) and _pattern(pattern).matches(value)


def _re_address(pattern: Any, value: Any) -> bool:
    return isinstance(value, str) and address_matches(_address_pattern(pattern), value)


def _re_addresses(pattern: Any, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return any(address_matches(_address_pattern(pattern), one) for one in value.split("\n") if one)


def _in_network(network: Any, value: Any) -> bool:
    return isinstance(value, str) and _is_in(network, value)


@lru_cache(maxsize=4096)  # clients are few
def _is_in(network: str, value: str) -> bool:
    return is_in(value, (_network(network),))


#: By their names in SQL; each takes two arguments and is deterministic.
FUNCTIONS: Final[Mapping[str, Callable[..., bool]]] = {
    "re": _re,
    "re_address": _re_address,
    "re_addresses": _re_addresses,
    "in_network": _in_network,
}
