r"""An expression of SELECT as a condition in SQL: what SQLite can tell of it, so that few transactions have to be read.

The condition is a necessary one: it holds for each row whose transaction matches, and maybe for others, so who reads filters again with `Select.matches`.
It is over a table whose columns are of the record:

    transactions(number, id, session, time in microseconds since 1970, outcome, acknowledged, listener, client, helo, auth = the user, upstream = its name,
                 sender, recipients, sender_sent, recipients_sent, code, size = as received, subject, message_id, indexed, released)

Null stands where the record has null; `recipients` and `recipients_sent` are the addresses joined and surrounded by "\n". `words` is a table of FTS5 whose rows
have the numbers of transactions and the text of `full_text.searchable`; `indexed` is whether there is one yet.

Theory of operation: each condition has two bounds, one that holds wherever it does (`over`) and one that holds nowhere else (`under`); they are the same
where SQL can say it exactly. Not swaps them, and makes null, which is how SQL says that there is nothing to compare, a truth.
All values are parameters. The functions that a connection needs are `FUNCTIONS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, assert_never
from unicodedata import ucd_3_2_0

from relayproxy.record.conditions import (
    Acknowledged,
    All,
    Anonymous,
    AnyOf,
    Captured,
    ClientIn,
    Condition,
    Encrypted,
    Header,
    Id,
    Not,
    OutcomeIs,
    Recipient,
    Sender,
    Size,
    Text,
    Time,
    Waiting,
    Words,
)
from relayproxy.record.store import sql_patterns
from relayproxy.record.store.sql_patterns import FUNCTIONS, Parameter, Sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.record.conditions import TextField
    from relayproxy.record.select import Select

__all__ = ["FUNCTIONS", "Parameter", "compile"]

#: SQLite's largest integer.
_LARGEST: Final = (1 << 63) - 1
_TRUE: Final = Sql("1")
_FALSE: Final = Sql("0")
#: Columns of texts; what is in none is seen in the record only.
_COLUMNS: Final[dict[TextField, str]] = {
    "subject": "subject",
    "message": "message_id",
    "client": "client",
    "listener": "listener",
    "upstream": "upstream",
    "helo": "helo",
    "auth": "auth",
    "code": "code",
}


class _Bounds(NamedTuple):
    over: Sql
    under: Sql


_UNSEEN: Final = _Bounds(_TRUE, _FALSE)


def compile(select: Select) -> tuple[str, tuple[Parameter, ...]]:  # noqa: A001 - what it does
    """A condition for WHERE, and the parameters for its question marks."""
    return _bounds(select.condition).over


def _bounds(condition: Condition) -> _Bounds:  # noqa: PLR0911 - one a case
    match condition:
        case All(of):
            inner = [_bounds(one) for one in of]
            return _Bounds(_all([one.over for one in inner]), _all([one.under for one in inner]))
        case AnyOf(of):
            inner = [_bounds(one) for one in of]
            return _Bounds(_any([one.over for one in inner]), _any([one.under for one in inner]))
        case Not(of):
            over, under = _bounds(of)
            return _Bounds(_not(under), _not(over))
        case Anonymous():
            # The column has null also for one who has logged in by a mechanism that does not show the user.
            return _Bounds(Sql("auth IS NULL"), _FALSE)
        case Words(words):
            return _Bounds(_words(words), _FALSE)
        case Header() | Encrypted() | Captured() | Text("tls" | "tag"):
            return _UNSEEN
        case _:
            exact = _exact(condition)
            return _Bounds(exact, exact)


_Exact = Text | Sender | Recipient | OutcomeIs | Waiting | Acknowledged | Size | Time | ClientIn | Id


def _exact(condition: _Exact) -> Sql:  # noqa: C901, PLR0911 - one a case
    match condition:
        case Text(field, pattern):
            return sql_patterns.text(_COLUMNS[field], pattern)
        case Sender(leg, pattern):
            return sql_patterns.address("sender" if leg == "received" else "sender_sent", pattern)
        case Recipient(leg, pattern):
            return sql_patterns.addresses("recipients" if leg == "received" else "recipients_sent", pattern)
        case OutcomeIs(outcome):
            return Sql("outcome = ?", (outcome,))
        case Waiting(wanted):
            return Sql(f"(outcome = 'held' AND NOT released) = {wanted:d}")
        case Acknowledged(wanted):
            return Sql("acknowledged" if wanted else "NOT acknowledged")
        case Size(comparison, octets):
            return Sql(f"size {comparison} ?", (min(octets, _LARGEST),))
        case Time(comparison, microseconds):
            return Sql(f"time {comparison} ?", (microseconds,))
        case ClientIn(network):
            return sql_patterns.network("client", network)
        case Id(of, prefix):
            return Sql(f"{'id' if of == 'transaction' else 'session'} LIKE ?", (f"{prefix}%",))
        case _:
            assert_never(condition)


def _all(conditions: Iterable[Sql]) -> Sql:
    parts = [condition for condition in conditions if condition != _TRUE]
    if _FALSE in parts:
        return _FALSE
    return _joined(" AND ", parts) if parts else _TRUE


def _any(conditions: Iterable[Sql]) -> Sql:
    parts = [condition for condition in conditions if condition != _FALSE]
    if _TRUE in parts:
        return _TRUE
    return _joined(" OR ", parts) if parts else _FALSE


def _joined(word: str, parts: list[Sql]) -> Sql:
    if len(parts) == 1:
        return parts[0]
    return Sql(
        f"({word.join([part.text for part in parts])})", tuple([one for part in parts for one in part.parameters])
    )


def _not(condition: Sql) -> Sql:
    if condition == _TRUE:
        return _FALSE
    if condition == _FALSE:
        return _TRUE
    return Sql(f"(({condition.text}) IS NOT TRUE)", condition.parameters)


def _words(words: Iterable[str]) -> Sql:
    """Letters that are younger than Unicode 3.2 may be none to the index's tokenizer, and a word of them alone nothing."""
    sure = [word for word in sorted(words) if any(ucd_3_2_0.category(character)[0] in "LN" for character in word)]
    if not sure:
        return _TRUE
    return Sql(
        "(NOT indexed OR number IN (SELECT rowid FROM words WHERE words MATCH ?))",
        (" ".join([f'"{word}"' for word in sure]),),
    )
