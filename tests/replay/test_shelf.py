"""Recorded transactions are found by sender and recipients, in their order, and no others are looked at."""

from __future__ import annotations

from typing import Final

import pytest

from relayproxy.mail.pattern import AddressPattern
from relayproxy.replay.recorded import Answer, Recipient, RecordedSession, RecordedTransaction, welcome
from relayproxy.replay.shelf import Shelf
from relayproxy.smtp.local_replies import SYNTAX_ERROR

A: Final = "a@x.test"


def who(address: str) -> Recipient:
    return Recipient(address, address, [], AddressPattern.parse(address) if "*" in address else None)


def transaction(sender: str, *recipients: str) -> RecordedTransaction:
    return RecordedTransaction("s", who(sender), {one: who(one) for one in recipients})


def session(*transactions: RecordedTransaction) -> RecordedSession:
    return RecordedSession("s", welcome(), [], [], {}, [*transactions])


FIRST: Final = session(
    transaction(A, "b@x.test", "c@x.test"), transaction("z@x.test", "b@x.test"), transaction("*@x.test", "d@x.test")
)
SECOND: Final = session(transaction(A, "*@x.test"), transaction(A, "b@x.test"), transaction("*@x.test", "*@y.test"))
EVERY: Final = [*FIRST.transactions, *SECOND.transactions]


def numbers(shelf: Shelf, *recipients: str, whose: RecordedSession | None = None) -> list[int]:
    return [EVERY.index(one) for one in dict.fromkeys(shelf.found(A, recipients, whose))]


@pytest.mark.parametrize(
    ("recipients", "found"),
    [
        ([], [0, 2, 3, 4, 5]),
        (["b@x.test"], [0, 3, 4, 5]),
        (["c@x.test"], [0, 3, 5]),
        (["b@x.test", "c@x.test"], [0, 3, 5]),
        (["d@x.test"], [2, 3, 5]),
        (["e@x.test"], [3, 5]),
    ],
)
def test_by_what_is_rarest_and_by_patterns(recipients: list[str], found: list[int]) -> None:
    assert numbers(Shelf([FIRST, SECOND], repeats=False), *recipients) == found


def test_of_one_session() -> None:
    assert numbers(Shelf([FIRST, SECOND], repeats=False), whose=SECOND) == [3, 4, 5]


@pytest.mark.parametrize(("repeats", "found"), [(False, [2, 5]), (True, [2, 5, 4, 3, 0])])
def test_what_is_used_is_gone_or_comes_last(repeats: bool, found: list[int]) -> None:
    shelf = Shelf([FIRST, SECOND], repeats=repeats)
    for number in (0, 4, 3, 3):
        shelf.use(EVERY[number])
    assert numbers(shelf) == found
    assert shelf.left == 3


def test_what_no_server_was_asked_for_comes_behind_the_others() -> None:
    refused = transaction(A)
    refused.sender.answers.append(Answer(SYNTAX_ERROR))
    other = transaction(A)
    shelf = Shelf([session(refused, other)], repeats=False)
    assert [*shelf.found(A, [])] == [other, refused]
    assert shelf.left == 1
