"""SELECT in SQL: no transaction that matches is ever missed, and few that do not are read; against a real SQLite."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from recorded import HELD, RELEASED, Given, recorded

from relayproxy.record.full_text import searchable
from relayproxy.record.report import AuthRecord
from relayproxy.record.select import MAX_COMPARISONS, MAX_DEPTH, parse
from relayproxy.record.store import sql
from relayproxy.record.store.sql_patterns import required_literal
from relayproxy.record.times import microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypothesis.strategies import SearchStrategy

    from relayproxy.record.report import EnvelopeRecord

NOW = 1_767_326_400 * 1_000_000_000

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
    for name, function in sql.FUNCTIONS.items():
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
    condition, parameters = sql.compile(parse(expression, now=NOW))
    rows = connection.execute(f"SELECT number FROM transactions WHERE {condition}", parameters)  # noqa: S608
    return {int(str(number)) for (number,) in rows}


# Letters that fold, or do not, in one of the engines and not in the other; what LIKE and RE2 take for more than itself.
LETTERS = "aAkKsSzß\u212a\u017füÜ%_\\.\n\0"
TEXTS = st.text(alphabet=LETTERS, max_size=5)
DOMAINS = st.sampled_from(
    ["x.test", "X.Test", "x.test.", "ks.test", "sub.x.test", "münchen.test", "xn--mnchen-3ya.test", "[192.0.2.1]"]
)
LOCALS = st.sampled_from(["a", "A", "k", "as", "a_s", "a%s", "ü", '"a s"', r'"a\\"s"', "a.", "s"])
ADDRESSES = st.builds("{}@{}".format, LOCALS, DOMAINS)
OUTCOMES = st.sampled_from(["accepted", "rejected", "unknown", "held"])
CLIENTS = st.sampled_from(["10.0.0.5", "10.9.0.1", "::1", "::ffff:10.0.0.5", "fe80::1%eth0", "unix:/run/a"])
TIMES = st.integers(0, 7200).map(
    lambda ago: (datetime.fromtimestamp(NOW // 10**9, UTC) - timedelta(seconds=ago)).isoformat(timespec="microseconds")[:26] + "Z"
)  # fmt: skip
WORDS = st.sampled_from(
    ["pay", "PAY", "Straße", "strasse", "grüße", "gru\u0308ße", "नमस्ते", "日本", "\U0001e900", "x_y", "K\u212a"]
)
BODIES = st.lists(WORDS, max_size=4).map(" ".join)

ROWS = st.builds(
    Given,
    st.builds(
        recorded,
        id_=st.sampled_from(["01JA", "01JB", "02K"]),
        session=st.sampled_from(["01SA", "02SB"]),
        time=TIMES,
        client=CLIENTS,
        helo=st.none() | TEXTS,
        tls=st.sampled_from([None, "TLSv1.2", "TLSv1.3"]),
        auth=st.sampled_from([None, AuthRecord("PLAIN", "app"), AuthRecord("EXTERNAL", None)]),
        upstream=st.sampled_from([None, "provider", "capture"]),
        sender=st.just("") | ADDRESSES,
        recipients=st.lists(ADDRESSES, max_size=3),
        sent=st.none() | st.tuples(st.just("") | ADDRESSES, st.lists(ADDRESSES, max_size=2)),
        message=st.none() | st.tuples(st.none() | TEXTS, st.none() | TEXTS | BODIES, st.integers(0, 2048)),
        code=st.sampled_from([None, 250, 251, 451, 550]),
        outcome=OUTCOMES,
        acknowledged=st.booleans(),
        tags=st.sampled_from([(), ("vip",), ("vip", "slow")]),
        held=st.sampled_from([UNSET, HELD, RELEASED]),
    ),
    header=st.sampled_from([None, b"X-Kind: one\r\n", b"x-kind: two\r\n"]),
    text=BODIES,
)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


GLOBS = st.lists(TEXTS | st.sampled_from(["*", "?", "*"]), max_size=4).map("".join)
EXPRESSIONS_OF_RE2 = st.sampled_from(
    ["/k/", "/^as+/", "/[ks]z/", "/ü|a/", "/ß$/", "/a.?s/", "/A\\.s/", r"/k\b/", "/s+a?k*z/", "/%_/", "/(ks)?a/"]
)
PATTERNS = GLOBS | EXPRESSIONS_OF_RE2
ADDRESS_PATTERNS = (
    st.builds("{}@{}".format, LOCALS | st.sampled_from(["*", "?", "a*", "*s"]), DOMAINS | st.sampled_from(["*", "x.*", "*.test", "M?nchen.test", "münchen*"]))
    | st.sampled_from(["", "*", "a*", "*s*", "*ü*", "*@x.test", "/^a/", "/x\\.test$/", "/münchen/", "/s@k/", "/./"])
)  # fmt: skip
EXACT = (
    st.builds("{}:{}".format, st.sampled_from(["subject", "message", "helo"]), PATTERNS.map(quoted))
    | st.builds("{}:{}".format, st.sampled_from(["sender", "recipient", "sent.sender", "sent.recipient"]), ADDRESS_PATTERNS.map(quoted))
    | st.builds("outcome:{}".format, OUTCOMES)
    | st.builds("size:{}{}".format, st.sampled_from("<=>"), st.sampled_from(["0B", "1KiB", "512B", "999999999999999TiB"]))
    | st.builds("{}:{}".format, st.sampled_from(["since", "until"]), st.sampled_from(["1h", "10m", "2026-01-02T03:00"]))
    | st.builds("client:{}".format, st.sampled_from(["10.0.0.5", "10.0.0.0/8", "10.*", "unix:*", "::/0", "fe80::/10"]))
    | st.builds("code:{}".format, st.sampled_from(["250", "25?", "5*", "*"]))
    | st.builds("{}:{}".format, st.sampled_from(["session", "transaction"]), st.sampled_from(["01", "01ja", "02K", "01SA"]))
    | st.sampled_from(["acknowledged:true", "acknowledged:false", "held:true", "held:false", "auth:app", "auth:*", "upstream:provider", "upstream:*", "listener:SUB*"])
)  # fmt: skip
INEXACT = (
    st.builds("text:{}".format, st.lists(WORDS, min_size=1, max_size=2).map(" ".join).map(quoted))
    | st.sampled_from(["header.x-kind:one", "tls:true", "tls:false", "tls:*3", "auth:false", "tag:vip", "tag:*"])
)  # fmt: skip


def expressions(leaves: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.recursive(
        leaves,
        lambda inner: (
            inner.map("!({})".format)
            | st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' & '.join(parts)})")
            | st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' | '.join(parts)})")
        ),
        max_leaves=4,
    )


STORES = st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=6)


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


FAITHFUL = [
    # expression, subject, sender and recipients of the only row
    ("subject:*k*", "\u212a", "", ()),  # RE2 folds it, LIKE does not
    ("subject:*s*", "\u017f", "", ()),
    ("subject:/ss?/", "\u017f", "", ()),
    ("subject:\u212a", "k", "", ()),
    ("subject:a*b", "a\0b", "", ()),  # LIKE ends at a NUL
    ("subject:a*b", "aü\0b", "", ()),
    ("subject:A?b", "aüb", "", ()),
    ("subject:/a.b/", "aüb", "", ()),
    ("subject:*Ü日?", "xxü日本", "", ()),
    ("subject:ẞ?*", "ßa", "", ()),
    ("subject:*x_y*", "axyb", "", ()),
    ("subject:*%*", "ab", "", ()),
    (r"subject:a\*", "ab", "", ()),
    ('sender:"a s@x.test"', None, '"a s"@x.test', ()),
    ("sender:as@*", None, r'"a\\s"@x.test', ()),
    ("sender:*@x.test", None, "a@x.test.", ()),
    ("sender:*@x.test.", None, "a@x.test", ()),
    ("sender:*@x?test", None, "a@\u212a.test", ()),
    ("sender:*@k.test", None, "\u212a@k.test", ()),
    ("sender:*@münchen.test", None, "a@xn--mnchen-3ya.test", ()),
    ("sender:*ü*", None, "a@XN--MNCHEN-3YA.test", ()),
    ("subject:/Üxy/", "aüxy", "", ()),
    ("sender:*@\u212a.test", None, "a@k.test", ()),
    ("sender:/ü|a/", None, "a@x.test", ()),
    ("recipient:*@x.test", None, "", ("a@x.test.", "b@y.test")),
    ('recipient:"a s@x.test"', None, "", ("b@x.test", '"a s"@x.test')),
    ("recipient:a@x.test", None, "", ("xa@x.test", "a@x.testx")),
    ("recipient:a*@y.test", None, "", ("a@x.test", "b@y.test")),
    ("recipient:a@x.test?b@y.test", None, "", ("a@x.test", "b@y.test")),
    ("recipient:*", None, "", ()),
    ("recipient:*@münchen.test", None, "", ("a@x.test", "b@MÜNCHEN.test")),
]


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
    expression = """subject:"');DROP TABLE" | sender:x'y@x.test | text:"); NEAR(" | client:x' | header.a:b | recipient:/x'y/ | transaction:xyzzy"""
    condition, parameters = sql.compile(parse(f"{expression} & outcome:accepted", now=NOW))
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
