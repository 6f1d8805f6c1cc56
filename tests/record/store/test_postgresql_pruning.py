"""Which days an id may be of."""

from __future__ import annotations

import time

import pytest

from relayproxy.record.store.postgresql.pruning import many_days, near
from relayproxy.relay.identity import Ids

DAY = 86_400_000_000


@pytest.mark.parametrize("asked", ["whole", "beginning"])
def test_an_id_says_its_day_and_those_beside_it(asked: str) -> None:
    today = time.time_ns() // 1000 // DAY
    id_ = Ids().new().lower()[: 26 if asked == "whole" else 10]
    assert near(id_, "day") == f"day >= {today - 1} AND day < {today + 2}"
    assert near(id_, "time") == f"time >= {(today - 1) * DAY} AND time < {(today + 2) * DAY}"
    assert near(id_, "time", later=True) == f"time >= {(today - 1) * DAY}"


@pytest.mark.parametrize(
    "id_", ["", "01J", "01JABCDEF", "T1", "81JABCDEFG", "01JABCDEFU", "0" * 27, "01JABCDEF%", "01JABCDEFG\n"]
)
def test_what_is_no_id_says_nothing(id_: str) -> None:
    assert near(id_, "day") == "true"


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (14 * 86400.0, None),
        (60 * 86400.0, None),
        (60 * 86400.0 + 1, "max_locks_per_transaction is 61 at least"),
        (365 * 86400.0, "max_locks_per_transaction is 365 at least"),
        (None, "as many as there are days"),
    ],
)
def test_many_days_take_a_server_that_is_set_for_them(age: float | None, told: str | None) -> None:
    said = many_days(age)
    assert (told is None) == (said is None)
    assert (told or "") in (said or "")
