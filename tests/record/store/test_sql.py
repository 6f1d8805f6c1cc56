"""SELECT in SQL: no transaction that matches is ever missed, and few that do not are read; against a real SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from recorded import Given, recorded
from sql_cases import EXACT, FAITHFUL, INEXACT, NOW, STORES, expressions

from relayproxy.record.full_text import searchable
from relayproxy.record.select import MAX_COMPARISONS, MAX_DEPTH, parse
from relayproxy.record.store import sql
from relayproxy.record.store.sql_patterns import FUNCTIONS, SqliteDialect
from relayproxy.record.store.sql_text import required_literal
from relayproxy.record.times import microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relayproxy.record.report import EnvelopeRecord

# A tokenizer that does not know a letter of Unicode 9, as one may be older than Python.
SCHEMA = """
CREATE TABLE transactions(
    number INTEGER PRIMARY KEY, id TEXT, session TEXT, time INTEGER, revision INTEGER, final INTEGER, outcome TEXT, acknowledged INTEGER, listener TEXT,
    client TEXT, helo TEXT, auth TEXT, upstream TEXT, sender TEXT, recipients TEXT, sender_sent TEXT, recipients_sent TEXT, code INTEGER, size INTEGER,
    subject TEXT, message_id TEXT, indexed INTEGER, released INTEGER);
CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize="unicode61 separators '𞤀'");
"""
INSERT = f"INSERT INTO transactions VALUES({','.join('?' * 23)})"


def joined(envelope: EnvelopeRecord | None) -> str | None:
    return None if envelope is None else "\n" + "".join([f"{one.address}\n" for one in envelope.recipients])


def stored(rows: Iterable[tuple[Given, bool]]) -> apsw.Connection:
    """A store in memory; with each row whether it is in the index of words."""
    connection = apsw.Connection(":memory:")
    for name, function in FUNCTIONS.items():
        connection.create_scalar_function(name, function, 2, deterministic=True)
    connection.execute(SCHEMA)
    for number, (facts, indexed) in enumerate(rows):
        record = facts.record
        received, sent, message, auth = (
            record.envelope.received,
            record.envelope.sent,
            record.message,
            record.client.auth,
        )
        connection.execute(
            INSERT,
            (
                number, record.transaction, record.session, microseconds(record.time), number, 1, record.outcome, record.acknowledged, record.listener,
                record.client.address, record.client.helo, auth and auth.user, record.upstream and record.upstream.name,
                received.sender, joined(received), sent and sent.sender, joined(sent), record.reply and record.reply.code,
                message and message.size.received, message and message.subject, message and message.id, indexed,
                record.held is not UNSET and not record.held.waits,
            ),
        )  # fmt: skip
        if indexed:
            words = searchable(record, facts.text)
            connection.execute("INSERT INTO words(rowid, text) VALUES(?, ?)", (number, words))
    return connection


def found(connection: apsw.Connection, expression: str) -> set[int]:
    condition, parameters = sql.compile(parse(expression, now=NOW), SqliteDialect())
    rows = connection.execute(f"SELECT number FROM transactions WHERE {condition}", parameters)  # noqa: S608
    return {int(str(number)) for (number,) in rows}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(STORES, st.lists(expressions(EXACT | INEXACT), min_size=1, max_size=12))
@example(
    [(Given(recorded(message=None, sent=None)), True)], ["!subject:a", "!(size:>1KiB | sent.sender:*)", "!auth:false"]
)
def test_whatever_matches_is_found(rows: list[tuple[Given, bool]], asked: list[str]) -> None:
    connection = stored(rows)
    for expression in asked:
        select = parse(expression, now=NOW)
        assert {number for number, (facts, _) in enumerate(rows) if select.matches(facts)} <= found(
            connection, expression
        ), expression


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(STORES, st.lists(expressions(EXACT), min_size=1, max_size=12))
@example(
    [(Given(recorded(recipients=("a@x.test", "b@y.test"))), True)], ["recipient:a*@y.test", "!recipient:a?x.test*"]
)
def test_and_nothing_else_where_sql_can_say_it(rows: list[tuple[Given, bool]], asked: list[str]) -> None:
    connection = stored(rows)
    for expression in asked:
        select = parse(expression, now=NOW)
        assert {number for number, (facts, _) in enumerate(rows) if select.matches(facts)} == found(
            connection, expression
        ), expression


@pytest.mark.parametrize(("expression", "subject", "sender", "recipients"), FAITHFUL)
def test_sql_says_of_a_pattern_what_the_pattern_says(
    expression: str, subject: str | None, sender: str, recipients: tuple[str, ...]
) -> None:
    facts = Given(recorded(message=(None, subject, 1), sender=sender, recipients=recipients))
    connection = stored([(facts, True)])
    assert bool(found(connection, expression)) == parse(expression, now=NOW).matches(facts)
    assert bool(found(connection, f"!{expression}")) == parse(f"!{expression}", now=NOW).matches(facts)


def test_a_letter_that_the_index_does_not_know_hides_nothing() -> None:
    connection = stored([(Given(recorded(), text="\U0001e900 pay"), True)])
    assert found(connection, "text:\U0001e900") == {0}
    assert found(connection, 'text:"\U0001e900 pay"') == {0}


NARROWED = [
    # expression, does it let through the usual transaction, which does not match
    ("outcome:held & tag:x", False),
    ("outcome:accepted & tag:x", True),
    ("outcome:held | tag:x", True),
    ("text:pony", False),
    ("!tls:true", True),
    ("!(outcome:accepted & tls:true)", True),
    ("!(outcome:accepted | tls:true)", False),
    ("header.subject:x & subject:/inv[0-9]+/", False),
]


@pytest.mark.parametrize(("expression", "read"), NARROWED)
def test_what_sql_cannot_say_narrows_nothing_and_the_rest_does(expression: str, read: bool) -> None:
    facts = Given(recorded())
    assert not parse(expression, now=NOW).matches(facts)
    assert bool(found(stored([(facts, True)]), expression)) == read


def test_a_word_is_found_before_it_is_in_the_index() -> None:
    facts = Given(recorded(), text="pony")
    assert found(stored([(facts, False), (facts, True), (Given(recorded()), True)]), "text:Pony") == {0, 1}


def test_no_value_is_part_of_the_condition() -> None:
    expression = """subject:"');DROP TABLE" | sender:x'y@x.test | text:"); NEAR(" | client:x'* | header.a:b | recipient:/x'y/ | transaction:xyzzy"""
    condition, parameters = sql.compile(parse(f"{expression} & outcome:accepted", now=NOW), SqliteDialect())
    assert condition.count("?") == len(parameters)
    assert not any(part in condition for part in ("DROP", "x'", "NEAR", "xyzzy", "accepted"))


def test_the_longest_expression_is_one_that_sqlite_takes() -> None:
    connection = stored([(Given(recorded()), True)])
    nested = "!(" * (MAX_DEPTH // 2) + "|".join(["subject:*a*"] * MAX_COMPARISONS) + ")" * (MAX_DEPTH // 2)
    assert found(connection, nested) in ({0}, set())
    alternating = "tag:a|(outcome:held&" * MAX_DEPTH + "tag:a" + ")" * MAX_DEPTH
    assert found(connection, alternating) == {0}


LITERALS = [
    ("inv[0-9]+", "inv"),
    ("^order no. 17$", "order no"),
    (r"a\.b\-c", "a.b-c"),
    ("colou?r", "colo"),
    ("ab*cd", "cd"),
    ("ab+c", "ab"),
    ("ab{2,3}c", "a"),
    ("ab{0}", "a"),
    (r"\d+ pay\b", " pay"),
    ("[^]abc]de", "de"),
    ("[[:alpha:]]x", "x"),
    (r"[\]]xy", "xy"),
    ("one|two", ""),
    ("(one)two", ""),
    (r"\x41bc", ""),
    (r"\Qa*\Ebc", ""),
    (r"\pNabc", ""),
    ("a{b", ""),
    ("", ""),
]


@pytest.mark.parametrize(("expression", "literal"), LITERALS)
def test_what_an_expression_needs(expression: str, literal: str) -> None:
    assert required_literal(expression) == literal
