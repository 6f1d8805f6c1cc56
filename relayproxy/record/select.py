r"""SELECT: which transactions, written as one line (DESIGN §4). Parsed, and judged of a transaction; pure.

    expression = term *("|" term)
    term       = factor *("&" factor)
    factor     = "!" factor / "(" expression ")" / field ":" value
    value      = word / DQUOTE text DQUOTE / "/" regular expression "/"

A word ends at white space, `&`, `|`, `(`, `)` and `"`; in quotes `\"` and `\\` stand for what is behind the backslash; a regular expression ends at the first
slash that has no backslash before it and white space, an operator or nothing behind it. Which fields there are, and what their values mean, is in
select_fields.py; what they ask of a transaction in conditions.py.

    select = parse("sender:*@x.test & !outcome:accepted & since:1h", now=time.time_ns())
    select.matches(facts)

What a store makes of it does not belong here (store/sql.py).
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.record.conditions import All, AnyOf, Condition, Facts, Not
from relayproxy.record.select_fields import Value, condition, is_field, nearest, shown

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["DialogFile", "Facts", "IdPrefix", "Latest", "Select", "SelectError", "Selection", "parse", "selection"]

#: Characters of an expression, comparisons in it, and brackets and `!` in each other: what SQLite takes, with room to spare.
MAX_LENGTH: Final = 10_000
MAX_COMPARISONS: Final = 500
MAX_DEPTH: Final = 50
#: Columns of an expression that are shown with an error in it.
_SHOWN: Final = 100

_SPACE: Final = re.compile(r"\s*+")
_FIELD: Final = re.compile(r'([^\s:&|!()"]++):')
_WORD: Final = re.compile(r'[^\s&|()"]++')
_QUOTED: Final = re.compile(r'"((?:[^"\\]++|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(r'\\(["\\])')
_EXPRESSION: Final = re.compile(r"/(?>(?:[^/\\]++|\\.|/(?![\s&|)]|\Z))*)/", re.DOTALL)
_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")
_A_COMPARISON: Final = "a field and its value, such as sender:*@example.test"


class SelectError(ValueError):
    """An expression is none: the expression, a caret below the spot, what was expected there and what was found."""

    def __init__(self, expression: str, column: int, what: str) -> None:
        self.expression = expression
        #: Index of the character.
        self.column = column
        self.what = what
        super().__init__(f"{_pointed_at(expression, column)}\n{what}")


class Select(msgspec.Struct, frozen=True):
    """A parsed expression."""

    text: str
    condition: Condition

    def matches(self, facts: Facts) -> bool:
        return self.condition.matches(facts)


class Latest(msgspec.Struct, frozen=True):
    """The transaction that began last."""


class IdPrefix(msgspec.Struct, frozen=True):
    """How the id of one transaction or session begins, or all of it."""

    text: str


class DialogFile(msgspec.Struct, frozen=True):
    """A file in the dialog format (dialog.py)."""

    path: str


#: What one SELECT argument of the command line names.
Selection = Latest | IdPrefix | DialogFile | Select


def selection(text: str, *, now: int) -> Selection:
    """Which of them an argument is; `now` as for `parse`. Raises SelectError."""
    word = text.strip()
    if word == "latest":
        return Latest()
    field = _FIELD.match(word.lstrip("!( "))
    if word.endswith(".dialog") and (field is None or not is_field(field[1])):
        return DialogFile(text)
    if _ID.fullmatch(word):
        return IdPrefix(word)
    if field is None and _WORD.fullmatch(word) and not word.startswith("!"):
        raise SelectError(
            text, text.index(word), f"expected an id, latest, a .dialog file, or {_A_COMPARISON}; found {shown(word)}"
        )
    return parse(text, now=now)


def parse(text: str, *, now: int) -> Select:
    """Read an expression; `now`: nanoseconds since 1970. Raises SelectError."""
    return Select(text, _Parser(text, now).whole())


class _Parser:
    __slots__ = ("_at", "_comparisons", "_now", "_text")

    def __init__(self, text: str, now: int) -> None:
        self._text = text
        self._now = now
        self._at = 0
        self._comparisons = 0

    def whole(self) -> Condition:
        if len(self._text) > MAX_LENGTH:
            self._fail(f"expected an expression of at most {MAX_LENGTH} characters, found {len(self._text)}")
        found = self._expression(0)
        if self._next():
            self._unexpected("& or |, or the end (what has spaces or operators in it stands in quotes)")
        return found

    def _expression(self, depth: int) -> Condition:
        terms = [self._term(depth)]
        while self._take("|"):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else AnyOf(tuple(terms))

    def _term(self, depth: int) -> Condition:
        factors = [self._factor(depth)]
        while self._take("&"):
            factors.append(self._factor(depth))
        return factors[0] if len(factors) == 1 else All(tuple(factors))

    def _factor(self, depth: int) -> Condition:
        if self._next() in ("!", "(") and depth == MAX_DEPTH:
            self._fail(f"expected at most {MAX_DEPTH} brackets and ! in each other")
        if self._take("!"):
            return Not(self._factor(depth + 1))
        if self._take("("):
            opened = self._at - 1
            inner = self._expression(depth + 1)
            if not self._take(")"):
                if self._next():
                    self._unexpected("&, | or )")
                self._fail("expected a ) for this (, found the end", opened)
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        self._next()
        match = _FIELD.match(self._text, self._at)
        if match is None:
            self._unexpected(_A_COMPARISON)
        field = match[1]
        if not is_field(field):
            self._fail(f"expected a field, found {shown(field)}; {nearest(field)}")
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._fail(f"expected at most {MAX_COMPARISONS} comparisons")
        self._at = match.end()
        start = self._at
        value = self._value(field)
        try:
            return condition(field, value)
        except ValueError as error:
            self._fail(str(error), start)

    def _value(self, field: str) -> Value:
        """What stands here, at once behind the colon."""
        text, start = self._text, self._at
        if text.startswith('"', start):
            if match := _QUOTED.match(text, start):
                self._at = match.end()
                return Value(_ESCAPED.sub(r"\1", match[1]), quoted=True, now=self._now)
            self._fail('expected a " that ends the value, found the end')
        pattern, wanted = _WORD, f'a value at once behind {field}: ("" is the empty one; operators stand in quotes)'
        if text.startswith("/", start):
            pattern, wanted = _EXPRESSION, "a / at its end, or quotes around what only begins with one"
        if match := pattern.match(text, start):
            self._at = match.end()
            return Value(match[0], quoted=False, now=self._now)
        return self._unexpected(wanted)

    # The text.

    def _next(self) -> str:
        """The next character that is no white space; "" at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, symbol: str) -> bool:
        if self._next() != symbol:
            return False
        self._at += 1
        return True

    def _unexpected(self, wanted: str) -> NoReturn:
        match = _WORD.match(self._text, self._at)
        found = match[0] if match else self._text[self._at : self._at + 1]
        if found.isspace() or not found:
            self._fail(f"expected {wanted}, found {'a space' if found else 'the end'}")
        self._fail(f"expected {wanted}, found {shown(found)}")

    def _fail(self, what: str, column: int | None = None) -> NoReturn:
        raise SelectError(self._text, self._at if column is None else column, what)


def _pointed_at(expression: str, column: int) -> str:
    """The expression on one line, or what is around the spot where it is long, and below it a caret."""
    start = max(0, column - _SHOWN // 2)
    end = start + _SHOWN
    before = ("..." if start else "") + _one_line(expression[start:column])
    behind = _one_line(expression[column:end]) + ("..." if end < len(expression) else "")
    return f"{before}{behind}\n{' ' * sum(map(_columns, before))}^"


def _one_line(text: str) -> str:
    """Each character that has no place in a line is a space."""
    return "".join([character if character.isprintable() else " " for character in text])


def _columns(character: str) -> int:
    """That a terminal takes for it."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
