"""Values as they stand in a rule file, and what is wrong with them: what those share who read conditions, actions and cases.

    written.expected("a table of conditions")           # noted: rules.toml:3: rule[0].when: expected a table of conditions, got 'x'
    table = written.table(("name", "when"), needed=("when",))

Invariants: nothing raises, whatever stands there; what is wrong is noted, with file, line and key, and reading goes on, so that all errors are told
at once; who reads gets None where there is nothing to go on with. Opening files does not belong here (load.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from relayproxy.rules.locate import line_of, locate
from relayproxy.rules.wording import dotted, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from relayproxy.rules.locate import Place

T = TypeVar("T")

#: Keys and indices on the way to a value; who writes by hand needs a dozen.
MAX_DEPTH: Final = 40

JsonSchema = dict[str, Any]


class Entry(msgspec.Struct, frozen=True):
    """What may stand under one key: `read` notes what is wrong and gives None; `schema` and `description` are its JSON Schema."""

    read: Callable[[Written], Any]
    schema: JsonSchema
    description: str


class Complaint(NamedTuple):
    """What is wrong in a line of a file."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Lines(NamedTuple):
    """A file that is read by lines, and its name in messages."""

    file: str
    lines: Sequence[str]


class Lists(Protocol):
    """Files with patterns that a rule file names."""

    def __call__(self, name: str, /) -> Lines:
        """Raises ValueError, which says why it cannot be read."""


class Source:
    """A rule file; `text` is what `tomllib` has taken."""

    def __init__(self, file: str, text: str, lists: Lists) -> None:
        self.file = file
        self.lists = lists
        self.complaints: list[Complaint] = []
        self._lines = locate(text)

    def line(self, place: Place) -> int:
        return line_of(self._lines, place)

    def complain(self, place: Place, wrong: str) -> None:
        self.complaints.append(Complaint(self.file, self.line(place), f"{dotted(place)}: {wrong}"))


class Written(msgspec.Struct, frozen=True):
    """A value where it stands. `rule`: the name of the rule that it is of; `groups`: those that its templates may name; None: it has none, and texts are what they are."""

    value: Any
    place: Place
    source: Source
    rule: str = ""
    groups: frozenset[str] | None = frozenset()

    def of(self, key: str | int) -> Written:
        """What stands in it."""
        return Written(self.value[key], (*self.place, key), self.source, self.rule, self.groups)

    def within(self, rule: str, groups: frozenset[str] = frozenset()) -> Written:
        return msgspec.structs.replace(self, rule=rule, groups=groups)

    @property
    def is_too_deep(self) -> bool:
        return len(self.place) > MAX_DEPTH

    def wrong(self, text: str) -> None:
        self.source.complain(self.place, text)

    def expected(self, what: str) -> None:
        self.wrong(f"expected {what}, got {shown(self.value)}")

    def table(self, known: Iterable[str], *, needed: Iterable[str] = (), what: str = "a table") -> dict[str, Written]:
        """What stands in it under keys that are known. Where it is no table there is nothing."""
        if not isinstance(self.value, dict):
            self.expected(what)
            return {}
        names = tuple(known)
        found: dict[str, Written] = {}
        for key in self.value:
            if key in names:
                found[key] = self.of(key)
            else:
                self.of(key).wrong(f"unknown key; {nearest(key, names)}")
        for key in needed:
            if key not in self.value:
                self.wrong(f"expected the key {key}, which is missing")
        return found

    def text(self, what: str) -> str | None:
        if isinstance(self.value, str):
            return self.value
        self.expected(what)
        return None

    def parsed(self, parse: Callable[[str], T], what: str) -> T | None:
        """What `parse` makes of the text that stands there; its ValueError says what it expected."""
        if (text := self.text(what)) is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.wrong(_with_what_came(str(error), text))
            return None

    def choice(self, known: Mapping[str, T], what: str) -> T | None:
        if isinstance(self.value, str) and self.value in known:
            return known[self.value]
        if isinstance(self.value, str):
            self.wrong(f"expected {what}, got {shown(self.value)}; {nearest(self.value, known)}")
        else:
            self.expected(what)
        return None

    def only_true(self) -> bool:
        """Whether it is `true`; all else is wrong."""
        if self.value is True:
            return True
        self.expected("true")
        return False

    def integer(self, least: int, what: str) -> int | None:
        if isinstance(self.value, int) and not isinstance(self.value, bool) and self.value >= least:
            return self.value
        self.expected(what)
        return None

    def of_file(self, parse: Callable[[str], T]) -> list[T]:
        """Of `{ in = "file" }`: what `parse` makes of each line of it but comments and empty ones."""
        name = self.of("in").text("the name of a file")
        found: list[T] = []
        if len(self.value) > 1 or name is None:
            self.table(("in",))
            return found
        try:
            file, lines = self.source.lists(name)
        except ValueError as error:
            self.wrong(str(error))
            return found
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            try:
                found.append(parse(text))
            except ValueError as error:
                self.source.complaints.append(Complaint(file, number, _with_what_came(str(error), text)))
        return found

    def each(self, what: str) -> list[Written]:
        """The elements of a list; what is none stands for itself."""
        if not isinstance(self.value, list):
            return [self]
        if not self.value:
            self.wrong(f"expected {what}, got an empty list")
        return [self.of(index) for index in range(len(self.value))]

    def several(self, parse: Callable[[str], T], what: str) -> list[T]:
        """Of a text, `{ in = "file" }`, or a list of such."""
        found: list[T] = []
        for one in self.each(what):
            if is_file(one.value):
                found += one.of_file(parse)
            elif (parsed := one.parsed(parse, what)) is not None:
                found.append(parsed)
        return found


def is_file(value: object) -> bool:
    return isinstance(value, dict) and "in" in value


def _with_what_came(wrong: str, text: str) -> str:
    return wrong if ", got " in wrong or not wrong.startswith("expected ") else f"{wrong}, got {shown(text)}"
