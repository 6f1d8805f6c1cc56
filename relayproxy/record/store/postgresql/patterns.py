r"""SELECT as PostgreSQL can say it. Pure.

It has no functions of ours, so most conditions on patterns have two bounds (sql.py): LIKE is asked, which says the same as a pattern about texts of ASCII, and about others
no less where a character that has case may be any; the rest is seen by who reads. NUL, which no text here can hold, stands in the columns as U+FFFD, which is not ASCII.

Invariants: values and patterns are parameters, never part of the condition. Columns have the collation "C": ILIKE folds ASCII alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.record.store.postgresql.schema import WORD
from relayproxy.record.store.sql_text import FALSE, UNSEEN, Bounds, Sql, as_like, escaped, required_literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from relayproxy.mail.pattern import AddressPattern, Pattern

# What RE2 takes for letters of ASCII, and ILIKE does not: the long s, and the Kelvin sign; who has such a text has these letters anywhere.
_FOLDED: Final = "kKsS"
_ASCII_FOLDED: Final = re.compile("[\u017f\u212a]")
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|([1-9]|)[0-9])"
_IPV4: Final = rf"^({_OCTET}\.){{3}}{_OCTET}$"


class PostgresqlDialect:
    """A condition of SELECT, as PostgreSQL has it (sql.py `Dialect`)."""

    def text(self, column: str, pattern: Pattern) -> Bounds:
        if column == "code":
            column = "code::text"
        asked = _asked(column, pattern)
        return UNSEEN if asked is None else _in_case(_ascii(column), column, asked)

    def address(self, column: str, pattern: AddressPattern) -> Bounds:
        if not pattern.text.isascii():
            return _international(column, pattern)
        asked = _asked(column, pattern.pattern)
        if asked is None:
            return UNSEEN
        plain = f"{_canonical(column)} AND {column} NOT LIKE '%.'"
        return _in_case(plain, column, asked._replace(otherwise=None))

    def addresses(self, column: str, pattern: AddressPattern) -> Bounds:
        if not pattern.text.isascii():
            return _international(column, pattern)
        glob = pattern.pattern.glob
        if glob is None or "\0" in glob:
            return UNSEEN
        plain = f"{_canonical(column)} AND {column} NOT LIKE '%.\n%'"
        # A wildcard may reach into the next address, unless all that it can do is to reach the line's end.
        inner = glob.strip("*")
        is_exact = bool(inner) and not re.search(r"[*?\n]", inner)
        return _in_case(plain, column, _Asked(Sql(f"{column} ILIKE ?", (f"%\n{as_like(glob)}\n%",)), is_exact, None))

    def network(self, column: str, wanted: IPv4Network | IPv6Network) -> Bounds:
        if wanted.version == 6:
            return Bounds(Sql(f"{column} LIKE '%:%'"), FALSE)  # with their zones, and IPv4 within them
        inside = Sql(f"{column}::inet <<= ?::inet", (str(wanted),))
        is_ipv4 = f"{column} ~ '{_IPV4}'"
        return Bounds(_case(is_ipv4, inside, Sql(f"{column} LIKE '%:%'")), _case(is_ipv4, inside, FALSE))

    def begins(self, column: str, prefix: str) -> Sql:
        return Sql(f"starts_with(upper({column}), ?)", (prefix.upper(),))

    def words(self, words: Iterable[str]) -> Bounds:
        return Bounds(Sql("(words IS NULL OR words @> ?::text[])", ([word[:WORD] for word in sorted(words)],)), FALSE)


class _Asked(NamedTuple):
    """A condition with LIKE: whether it says the same as the pattern, and what to ask of a text that is not all ASCII; None: nothing."""

    like: Sql
    is_exact: bool
    otherwise: Sql | None


def _asked(column: str, pattern: Pattern) -> _Asked | None:
    if (glob := pattern.glob) is not None:
        loose = Sql(f"{column} ILIKE ?", (as_like(glob.replace("\0", "?"), other=_FOLDED),))
        if not glob.isascii() or "\0" in glob:
            return _Asked(loose, is_exact=False, otherwise=loose)
        return _Asked(Sql(f"{column} ILIKE ?", (as_like(glob),)), is_exact=True, otherwise=loose)
    literal = required_literal(pattern.expression or "")
    if not literal or not literal.isascii() or "\0" in literal:
        return None
    return _Asked(Sql(f"{column} ILIKE ?", (f"%{escaped(literal)}%",)), is_exact=False, otherwise=None)


def _in_case(plain: str, column: str, asked: _Asked) -> Bounds:
    """`plain` values are those about which LIKE says no less than the pattern."""
    over = _case(plain, asked.like, asked.otherwise or Sql(f"{column} IS NOT NULL"))
    return Bounds(over, _case(plain, asked.like, FALSE) if asked.is_exact else FALSE)


def _case(condition: str, then: Sql, otherwise: Sql) -> Sql:
    return Sql(
        f"(CASE WHEN {condition} THEN {then.text} ELSE {otherwise.text} END)", (*then.parameters, *otherwise.parameters)
    )


def _ascii(column: str) -> str:
    return f"octet_length({column}) = length({column})"


def _canonical(column: str) -> str:
    """All that can be seen of an address without reading it: no other letters than ASCII, nothing quoted."""
    return f"{_ascii(column)} AND strpos({column}, '\"') = 0"


def _international(column: str, pattern: AddressPattern) -> Bounds:
    glob = pattern.pattern.glob
    if glob is None or glob.isascii() or _ASCII_FOLDED.search(glob):
        return UNSEEN
    # It matches nothing that is all ASCII.
    return Bounds(Sql(f"(octet_length({column}) <> length({column}) OR {column} ILIKE '%xn--%')"), FALSE)
