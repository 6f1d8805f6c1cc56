"""Each value's line, for every form that TOML has."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from relayproxy.rules.locate import Place, line_of, locate

FILE = '''\
# a comment with [brackets] and "quotes
name = "x"  # = [
"quoted key" = 1
'literal.key' = 2
a.b . "c" = 3

[table]
list = [ # comment ]
  "one", 'two # no',
  """three
  lines ]""",
  [1,
   2],
  { x = 1, y.z = [ 3, 4 ] },
]
text = """
[not.a.header]
not = "a key"
\\""" still inside """"
raw = \'\'\'
[nor.this]
\'\'\'\'
date = 1979-05-27 07:32:00
after = true

[[array]]
key = 1
[array.inner]
key = 2
[[array.deep]]
key = 3
[[array]]
key = 4
[[array.deep]]
key = 5
[ spaced . "out" ]
key = 6
'''

PLACES: list[tuple[Place, int]] = [
    (("name",), 2),
    (("quoted key",), 3),
    (("literal.key",), 4),
    (("a",), 5),
    (("a", "b"), 5),
    (("a", "b", "c"), 5),
    (("table",), 7),
    (("table", "list"), 8),
    (("table", "list", 0), 9),
    (("table", "list", 1), 9),
    (("table", "list", 2), 10),
    (("table", "list", 3), 12),
    (("table", "list", 3, 1), 13),
    (("table", "list", 4), 14),
    (("table", "list", 4, "x"), 14),
    (("table", "list", 4, "y", "z", 1), 14),
    (("table", "text"), 16),
    (("table", "raw"), 20),
    (("table", "date"), 23),
    (("table", "after"), 24),
    (("array",), 26),
    (("array", 0), 26),
    (("array", 0, "key"), 27),
    (("array", 0, "inner"), 28),
    (("array", 0, "inner", "key"), 29),
    (("array", 0, "deep", 0), 30),
    (("array", 0, "deep", 0, "key"), 31),
    (("array", 1), 32),
    (("array", 1, "key"), 33),
    (("array", 1, "deep", 0, "key"), 35),
    (("spaced", "out"), 36),
    (("spaced", "out", "key"), 37),
]


@pytest.mark.parametrize(("place", "line"), PLACES)
def test_lines(place: Place, line: int) -> None:
    assert locate(FILE)[place] == line


def places(value: Any, place: Place = ()) -> set[Place]:
    found = {place} if place else set()
    if isinstance(value, dict):
        found.update(*(places(inner, (*place, key)) for key, inner in value.items()))
    if isinstance(value, list):
        found.update(*(places(inner, (*place, index)) for index, inner in enumerate(value)))
    return found


def test_every_value_that_tomllib_finds_has_a_line() -> None:
    assert set(locate(FILE)) == places(tomllib.loads(FILE))


def test_lines_end_with_lf_or_crlf() -> None:
    assert locate(FILE.replace("\n", "\r\n")) == locate(FILE)


@pytest.mark.parametrize(
    ("place", "line"),
    [(("array", 1, "missing"), 32), (("table", "list", 9), 8), (("nowhere", "at all"), 1), ((), 1)],
)
def test_what_is_missing_is_looked_for_around_it(place: Place, line: int) -> None:
    assert line_of(locate(FILE), place) == line
