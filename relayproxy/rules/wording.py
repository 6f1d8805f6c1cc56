"""What is wrong with a file that people wrote, in words: what came, where, and the nearest name that is known (DESIGN §4).

Of rules and of the configuration alike. What was expected is said by whoever reads a value.
"""

from __future__ import annotations

import difflib
import re
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.rules.locate import Place

#: Characters of a value that are shown.
_LONGEST: Final = 80
#: Characters from which on a part of a name says something.
_SHORTEST: Final = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names of which it is the beginning or the end, else the one that comes closest, or all of them where none comes close.

    Letters alone mislead: to who writes `redirect`, `redirect_recipient` is nearer than `reject`.
    """
    names = sorted(known)
    parts = [one for one in names if one.startswith(name) or one.endswith((f"_{name}", f".{name}"))]
    if len(name) >= _SHORTEST and parts:
        return f"the nearest known is {either(parts)}"
    if (close := close_to(name, names)) is not None:
        return f"the nearest known is {close}"
    return f"known are {', '.join(names)}"


def close_to(name: str, known: Iterable[str], *, alike: float = 0.6) -> str | None:
    """The known name that comes closest; None where none is as much like it, from 0 to 1."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=alike)), None)


def not_toml(file: object, what: str) -> str:
    """In our form; the place is nowhere but in the text of tomllib's message."""
    if match := re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", what, re.DOTALL):
        return f"{file}:{match[2]}: expected TOML, at column {match[3]}: {match[1]}"
    return f"{file}: expected TOML, at its end: {what.removesuffix(' (at end of document)')}"


def too_deep(file: object) -> str:
    """What is nested deeper than Python's calls may be is nothing that tomllib can read."""
    return f"{file}: expected TOML that is nested less deep"


def dotted(place: Place) -> str:
    """listener[0].address"""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


def shown(value: object) -> str:
    """What came instead."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case datetime() | date() | time():
            return "a date or time"
        case _:
            text = repr(value)
            return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def either(words: Iterable[str]) -> str:
    """a, b or c"""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
