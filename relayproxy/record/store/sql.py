r"""An expression of SELECT as a condition in SQL: what a database can tell of it, so that few transactions have to be read.

The condition is a necessary one: it holds for each row whose transaction matches, and maybe for others, so who reads filters again with `Select.matches`.
It is over a table whose columns are of the record:

    transactions(number, id, session, time in microseconds since 1970, outcome, acknowledged, listener, client, helo, auth = the user, upstream = its name,
                 sender, recipients, sender_sent, recipients_sent, code, size = as received, subject, message_id, released)

Null stands where the record has null; `recipients` and `recipients_sent` are the addresses joined and surrounded by "\n". How words are found is the dialect's own: in SQLite
`words` is a table of FTS5 whose rows have the numbers of transactions and the text of `full_text.searchable`, and `indexed` is whether there is one yet.

Theory of operation: each condition has two bounds, one that holds wherever it does (`over`) and one that holds nowhere else (`under`); they are the same
where SQL can say it exactly. Not swaps them, and makes null, which is how SQL says that there is nothing to compare, a truth.
All values are parameters. What differs between databases is their `Dialect`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, assert_never

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
from relayproxy.record.store.sql_text import FALSE, TRUE, UNSEEN, Bounds, Sql

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from relayproxy.mail.pattern import AddressPattern, Pattern
    from relayproxy.record.conditions import TextField
    from relayproxy.record.select import Select
    from relayproxy.record.store.sql_text import Parameter

#: The largest integer of them all.
_LARGEST: Final = (1 << 63) - 1
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


class Dialect(Protocol):
    """What one database can say, and another says in another way."""

    def text(self, column: str, pattern: Pattern) -> Bounds:
        """A text, or a number, is as the pattern has it."""

    def address(self, column: str, pattern: AddressPattern) -> Bounds:
        """An address is, in its canonical form."""

    def addresses(self, column: str, pattern: AddressPattern) -> Bounds:
        r"""One of several is; the column has them joined and surrounded by "\n"."""

    def network(self, column: str, wanted: IPv4Network | IPv6Network) -> Bounds:
        """An IP address is in that network."""

    def begins(self, column: str, prefix: str) -> Sql:
        """An id begins so, in any case of letters."""

    def words(self, words: Iterable[str]) -> Bounds:
        """A transaction has all of these words."""


def compile(select: Select, dialect: Dialect) -> tuple[str, tuple[Parameter, ...]]:  # noqa: A001 - what it does
    """A condition for WHERE, and the parameters for its question marks."""
    return _bounds(select.condition, dialect).over


def _bounds(condition: Condition, dialect: Dialect) -> Bounds:  # noqa: C901, PLR0911 - one a case
    match condition:
        case All(of):
            inner = [_bounds(one, dialect) for one in of]
            return Bounds(_all([one.over for one in inner]), _all([one.under for one in inner]))
        case AnyOf(of):
            inner = [_bounds(one, dialect) for one in of]
            return Bounds(_any([one.over for one in inner]), _any([one.under for one in inner]))
        case Not(of):
            over, under = _bounds(of, dialect)
            return Bounds(_not(under), _not(over))
        case Anonymous():
            # The column has null also for one who has logged in by a mechanism that does not show the user.
            return Bounds(Sql("auth IS NULL"), FALSE)
        case Header() | Encrypted() | Captured() | Text("tls" | "tag"):
            return UNSEEN
        case Words(words):
            return dialect.words(words)
        case Text(field, pattern):
            return dialect.text(_COLUMNS[field], pattern)
        case Sender(leg, pattern):
            return dialect.address("sender" if leg == "received" else "sender_sent", pattern)
        case Recipient(leg, pattern):
            return dialect.addresses("recipients" if leg == "received" else "recipients_sent", pattern)
        case ClientIn(network):
            return dialect.network("client", network)
        case Id(of, prefix):
            exact = dialect.begins("id" if of == "transaction" else "session", prefix)
        case _:
            exact = _exact(condition)
    return Bounds(exact, exact)


def _exact(condition: OutcomeIs | Waiting | Acknowledged | Size | Time) -> Sql:
    match condition:
        case OutcomeIs(outcome):
            return Sql("outcome = ?", (outcome,))
        case Waiting(wanted):
            return Sql(f"((outcome = 'held' AND NOT released) IS {'' if wanted else 'NOT '}TRUE)")
        case Acknowledged(wanted):
            return Sql("acknowledged" if wanted else "NOT acknowledged")
        case Size(comparison, octets):
            return Sql(f"size {comparison} ?", (min(octets, _LARGEST),))
        case Time(comparison, microseconds):
            return Sql(f"time {comparison} ?", (microseconds,))
        case _:
            assert_never(condition)


def _all(conditions: Iterable[Sql]) -> Sql:
    parts = [condition for condition in conditions if condition != TRUE]
    if FALSE in parts:
        return FALSE
    return _joined(" AND ", parts) if parts else TRUE


def _any(conditions: Iterable[Sql]) -> Sql:
    parts = [condition for condition in conditions if condition != FALSE]
    if TRUE in parts:
        return TRUE
    return _joined(" OR ", parts) if parts else FALSE


def _joined(word: str, parts: list[Sql]) -> Sql:
    if len(parts) == 1:
        return parts[0]
    return Sql(
        f"({word.join([part.text for part in parts])})", tuple([one for part in parts for one in part.parameters])
    )


def _not(condition: Sql) -> Sql:
    if condition == TRUE:
        return FALSE
    if condition == FALSE:
        return TRUE
    return Sql(f"(({condition.text}) IS NOT TRUE)", condition.parameters)
