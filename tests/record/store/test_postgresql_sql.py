"""SELECT as PostgreSQL has it: no transaction that matches is ever missed, and few that do not are read; against a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recorded import Given, recorded
from sql_cases import EXACT, FAITHFUL, INEXACT, NOW, STORES, expressions

from relayproxy.record.full_text import searchable
from relayproxy.record.select import MAX_COMPARISONS, MAX_DEPTH, parse
from relayproxy.record.store.interface import TransactionWrite
from relayproxy.record.store.postgresql.patterns import PostgresqlDialect
from relayproxy.record.store.postgresql.reader import numbered
from relayproxy.record.store.postgresql.schema import LIGHT, WORD
from relayproxy.record.store.rows import transaction_columns
from relayproxy.record.store.sql import compile as compile_

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from postgresql import Server

pytestmark = pytest.mark.interop


#: Of columns, as the store has them.
TYPES = {"text": 'text COLLATE "C"'}


class Table:
    """One that has the columns of a store's."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._connection = connection
        typed = [f"{name} {TYPES.get(kind, kind)}" for name, kind in LIGHT.items()]
        statement = f"CREATE TEMP TABLE transactions(number bigint, {', '.join(typed)}, words text[], released boolean)"
        connection.execute(statement.encode())

    def holds(self, rows: Iterable[tuple[Given, bool]]) -> None:
        """Nothing else; with each row whether its words are indexed."""
        self._connection.execute("TRUNCATE transactions")
        for number, (facts, indexed) in enumerate(rows):
            columns = [
                value.replace("\0", "\ufffd") if isinstance(value, str) else value
                for value in transaction_columns(TransactionWrite(facts.record))
            ]
            words = sorted({word[:WORD] for word in searchable(facts.record, facts.text).split()}) if indexed else None
            released = facts.record.outcome == "held" and not facts.record.waits
            values = (number, *columns, words, released)
            self._connection.execute(
                f"INSERT INTO transactions VALUES ({', '.join(['%s'] * len(values))})".encode(),  # noqa: S608
                values,
            )

    def found(self, expression: str) -> set[int]:
        condition, parameters = compile_(parse(expression, now=NOW), PostgresqlDialect())
        cursor = psycopg.RawCursor(self._connection)
        query = f"SELECT number FROM transactions WHERE {condition}"  # noqa: S608
        cursor.execute(numbered(query).encode(), parameters)
        return {int(str(number)) for (number,) in cursor.fetchall()}


@pytest.fixture(scope="module")
def table(postgresql: Server) -> Iterator[Table]:
    with psycopg.connect(postgresql.url("postgres").url, autocommit=True) as connection:
        yield Table(connection)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STORES, st.lists(expressions(EXACT | INEXACT), min_size=1, max_size=12))
@example(
    [(Given(recorded(message=None, sent=None)), True)], ["!subject:a", "!(size:>1KiB | sent.sender:*)", "!auth:false"]
)
def test_whatever_matches_is_found(table: Table, rows: list[tuple[Given, bool]], asked: list[str]) -> None:
    table.holds(rows)
    for expression in asked:
        select = parse(expression, now=NOW)
        assert {number for number, (facts, _) in enumerate(rows) if select.matches(facts)} <= table.found(expression), (
            expression
        )


@pytest.mark.parametrize(("expression", "subject", "sender", "recipients"), FAITHFUL)
def test_what_is_odd_is_found(
    table: Table, expression: str, subject: str | None, sender: str, recipients: tuple[str, ...]
) -> None:
    facts = Given(recorded(message=(None, subject, 1), sender=sender, recipients=recipients))
    table.holds([(facts, True)])
    for asked in (expression, f"!{expression}"):
        assert bool(table.found(asked)) >= parse(asked, now=NOW).matches(facts)


NARROWED = [
    "outcome:held",
    "outcome:held & tag:x",
    "sender:b@*",
    "!sender:a@example.com",
    "recipient:*@example.com",
    "!recipient:jane@customer.example",
    "subject:bill*",
    "subject:/bill [0-9]+/",
    "!subject:your*",
    "client:192.0.2.0/24",
    "!client:10.0.0.0/8",
    "client:::1",
    "code:5*",
    "size:>1KiB",
    "since:1m",
    "text:pony",
    "transaction:01k",
    "held:true",
    "!acknowledged:true",
]


@pytest.mark.parametrize("expression", NARROWED)
def test_the_usual_transaction_is_not_read_where_it_does_not_match(table: Table, expression: str) -> None:
    facts = Given(recorded())
    assert not parse(expression, now=NOW).matches(facts)
    table.holds([(facts, True)])
    assert table.found(expression) == set()


def test_the_longest_expression_is_one_that_postgresql_takes(table: Table) -> None:
    table.holds([(Given(recorded()), True)])
    nested = "!(" * (MAX_DEPTH // 2) + "|".join(["subject:*a*"] * MAX_COMPARISONS) + ")" * (MAX_DEPTH // 2)
    assert table.found(nested) in ({0}, set())
    alternating = "tag:a|(outcome:held&" * MAX_DEPTH + "tag:a" + ")" * MAX_DEPTH
    assert table.found(alternating) == {0}
