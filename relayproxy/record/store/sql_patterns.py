r"""Patterns as SQLite conditions, and the functions of ours that these call.

SQLite's LIKE folds the case of ASCII alone, ends at a NUL, and knows no regular expressions; a Python function does all that, and takes ten times
as long. So LIKE is asked where it says the same, and a function for the rest. Every condition here is exact: it is true where the pattern matches,
else false or null.

Invariants: values and patterns are parameters, never part of the condition. `FUNCTIONS` have to be registered on each connection that such a
condition runs on, and `PRAGMA case_sensitive_like` has to stay as it is. Which column is asked for what does not belong here (sql.py).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from relayproxy.mail.ip import is_in
from relayproxy.mail.pattern import AddressPattern, Pattern
from relayproxy.record.conditions import address_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Network, IPv6Network

#: What SQLite binds.
Parameter = str | int | bytes


class Sql(NamedTuple):
    """A condition in brackets, or one that needs none, and what its question marks stand for, in order."""

    text: str
    parameters: tuple[Parameter, ...] = ()


_TRUE: Final = Sql("1")

# What RE2 takes for letters of ASCII, and LIKE does not: the long s, and the Kelvin sign.
_ASCII_FOLDED: Final = re.compile("[\u017f\u212a]")


def text(column: str, pattern: Pattern) -> Sql:
    """A text is as the pattern has it."""
    # First what is seen at once: `length` counts characters, up to the first NUL.
    plain = f"octet_length({column}) = length({column}) OR instr({column}, char(0)) = 0"
    if re.search("(?i)[ks]", pattern.text):
        plain += f" AND instr({column}, char(0x17f)) = 0 AND instr({column}, char(0x212a)) = 0"
    return _found(column, plain, pattern, Sql(f"re(?, {column})", (pattern.text,)))


def address(column: str, pattern: AddressPattern) -> Sql:
    """An address is, in its canonical form."""
    called = Sql(f"re_address(?, {column})", (pattern.text,))
    if not pattern.text.isascii():
        return _international(column, pattern, called)
    return _found(column, f"{_canonical(column)} AND {column} NOT LIKE '%.'", pattern.pattern, called)


def addresses(column: str, pattern: AddressPattern) -> Sql:
    r"""One of several is; the column has them joined and surrounded by "\n"."""
    called = Sql(f"re_addresses(?, {column})", (pattern.text,))
    if not pattern.text.isascii():
        return _international(column, pattern, called)
    glob = pattern.pattern.glob
    if glob is None or "\0" in glob:
        return called
    plain = f"{_canonical(column)} AND instr({column}, '.' || char(10)) = 0"
    like = Sql(f"{column} LIKE ? ESCAPE '\\'", (f"%\n{_like(glob)}\n%",))
    # A wildcard may reach into the next address, unless all that it can do is to reach the line's end.
    inner = glob.strip("*")
    if inner and not re.search(r"[*?\n]", inner):
        return _either(plain, like, called)
    return _either(plain, _where(like, called), called)


def network(column: str, wanted: IPv4Network | IPv6Network) -> Sql:
    """An IP address is in that network."""
    return Sql(f"in_network(?, {column})", (str(wanted),))


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
        like = Sql(f"{column} LIKE ? ESCAPE '\\'", (_like(glob),))
        return _either(plain, like, called) if glob.isascii() else _where(_either(plain, like, _TRUE), called)
    literal = required_literal(pattern.expression or "")
    if not literal or not literal.isascii() or "\0" in literal:
        return called
    like = Sql(f"{column} LIKE ? ESCAPE '\\'", (f"%{_escaped(literal)}%",))
    return _where(_either(plain, like, _TRUE), called)


# AND and OR evaluate both sides where they are not the whole of WHERE; iif does not.


def _either(plain: str, like: Sql, called: Sql) -> Sql:
    return Sql(f"iif({plain}, {like.text}, {called.text})", (*like.parameters, *called.parameters))


def _where(cheap: Sql, called: Sql) -> Sql:
    return Sql(f"iif({cheap.text}, {called.text}, 0)", (*cheap.parameters, *called.parameters))


def _like(glob: str) -> str:
    """What LIKE is asked: the glob itself where it is ASCII, and else one that matches no less, with any character in place of one that has case."""
    any_case = [one if one.isascii() or unicodedata.category(one) == "Lo" else "?" for one in glob]
    return _escaped(re.sub(r"\*+", "*", "".join(any_case))).replace("*", "%").replace("?", "_")


def _escaped(literal: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", literal)


# Tokens of RE2's syntax: what stands for many characters or for none, an escaped sign, two kinds of repetition, a character.
_TOKEN: Final = re.compile(
    r"(?P<gap>\\[dDwWsSbBAz]|\.|\^|\$|\[\^?\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*\])"
    r"|\\(?P<sign>[^A-Za-z0-9])"
    r"|(?P<optional>[*?]|\{[0-9]+(?:,[0-9]*)?\})"
    r"|(?P<again>\+)"
    r"|(?P<literal>[^\\|()\[{*?+.^$])",
    re.DOTALL,
)


def required_literal(expression: str) -> str:
    r"""A text that is in everything that the expression matches, in some case of its letters; "" where none is easily seen.

    Seen is what is written plainly: there is none where there are groups, alternatives or rarer escapes.
    """
    runs: list[str] = []
    run, at = "", 0
    while at < len(expression):
        token = _TOKEN.match(expression, at)
        if token is None:
            return ""
        at = token.end()
        match token.lastgroup:
            case "sign" | "literal":
                run += token[token.lastgroup]
                continue
            case "optional":
                run = run[:-1]
        runs.append(run)
        run = ""
    return max([*runs, run], key=len)


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
