"""Where in a TOML file a value stands: for error messages, which come after parsing, when no library remembers lines.

`locate` is only used on text that `tomllib` has taken, so that it need not check anything; it looks for keys, headers and the ends of
values (TOML 1.0: https://toml.io/en/v1.0.0). Reading values does not belong here.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

#: Keys of tables, and indices of arrays, from the top of the file.
Place = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|'
    r"'''(?:[^']|'(?!''))*'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_KEY: Final = re.compile(r'[ \t]*("(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+)[ \t]*')
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")


def locate(text: str) -> dict[Place, int]:
    """The line of each key, header and element of an array, counted from 1."""
    return _Locator(text).lines


def line_of(lines: dict[Place, int], place: Place) -> int:
    """The line of a value, or of the nearest table around it: what is missing has no line of its own."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


class _Locator:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._arrays: dict[Place, int] = {}
        self.lines: dict[Place, int] = {}
        table: Place = ()
        while self._peek():
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _peek(self) -> str:
        """The next character that says something; "" at the end."""
        self._skip(_BLANK)
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self._text, self._at):
            self._at = match.end()

    def _note(self, place: Place) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        for length in range(1, len(place) + 1):
            self.lines.setdefault(place[:length], self._line)

    def _header(self) -> Place:
        """[a.b] or [[a.b]]; where a name on the way is an array of tables, its last one is meant."""
        is_array = self._text.startswith("[[", self._at)
        self._at += 1 + is_array
        start = self._at
        keys = self._keys()
        parent: Place = ()
        for key in keys[:-1]:
            parent = self._last((*parent, key))
        table = (*parent, keys[-1])
        if is_array:
            self._arrays[table] = self._arrays.get(table, -1) + 1
            table = self._last(table)
        end, self._at = self._at, start
        self._note(table)
        self._at = end + 1 + is_array
        return table

    def _last(self, place: Place) -> Place:
        return (*place, self._arrays[place]) if place in self._arrays else place

    def _keys(self) -> Place:
        keys: list[str] = []
        while match := _KEY.match(self._text, self._at):
            self._at = match.end()
            name = match[1]
            keys.append(str(tomllib.loads(f"x = {name}")["x"]) if name[0] in "\"'" else name)
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return tuple(keys)

    def _pair(self, table: Place) -> None:
        start = self._at
        place = (*table, *self._keys())
        end, self._at = self._at, start
        self._note(place)
        self._at = end + 1  # the =
        self._value(place)

    def _value(self, place: Place) -> None:
        match self._peek():
            case "[":
                self._at += 1
                index = 0
                while self._peek() != "]":
                    self._note((*place, index))
                    self._value((*place, index))
                    self._comma()
                    index += 1
                self._at += 1
            case "{":
                self._at += 1
                while self._peek() != "}":
                    self._pair(place)
                    self._comma()
                self._at += 1
            case '"' | "'":
                self._skip(_STRING)
            case _:
                self._skip(_SCALAR)

    def _comma(self) -> None:
        if self._peek() == ",":
            self._at += 1
