r"""Pieces of SQL that every store's conditions are made of, and what can be said of a pattern with LIKE. Pure.

Invariants: values and patterns are parameters, never part of a condition. What an expression asks for does not belong here (sql.py), nor what one
database can say that another cannot (sql_patterns.py, postgresql/patterns.py).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

#: What is bound; lists only by databases that know arrays.
Parameter = str | int | bytes | list[str]


class Sql(NamedTuple):
    """A condition in brackets, or one that needs none, and what its question marks stand for, in order."""

    text: str
    parameters: tuple[Parameter, ...] = ()


TRUE: Final = Sql("TRUE")
FALSE: Final = Sql("FALSE")


class Bounds(NamedTuple):
    """What holds wherever a condition does, and what holds nowhere else."""

    over: Sql
    under: Sql


UNSEEN: Final = Bounds(TRUE, FALSE)


def as_like(glob: str, *, other: str = "") -> str:
    """What LIKE is asked, with a backslash for its escape: the glob itself where it is ASCII, and else one that matches no less: any character stands in place of
    one that has case, or that is one of `other`.
    """
    any_case = [
        one if (one.isascii() or unicodedata.category(one) == "Lo") and one not in other else "?" for one in glob
    ]
    return escaped(re.sub(r"\*+", "*", "".join(any_case))).replace("*", "%").replace("?", "_")


def escaped(literal: str) -> str:
    """A text that LIKE takes for itself."""
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
