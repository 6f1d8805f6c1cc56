"""Identical recipients collapse into one, within a RCPT and across RCPTs (DESIGN §6)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rule_pieces import JANE, JOE, QA

from relayproxy.mail.canonical import canonical
from relayproxy.rules.facts import Recipient
from relayproxy.rules.recipients import collapsed


def test_the_first_stands_for_the_others() -> None:
    jane = Recipient(JANE, 0, {"NOTIFY": "NEVER"})
    assert collapsed([jane, Recipient(JOE, 1), Recipient(f"{JANE}.", 2), Recipient(JANE), Recipient(JANE, 2)]) == (
        Recipient(JANE, 0, {"NOTIFY": "NEVER"}, also=(2,)),
        Recipient(JOE, 1),
    )


def test_names_of_people_differ_by_case() -> None:
    both = (Recipient("Jane@customer.example", 0), Recipient(JANE, 1))
    assert collapsed(both) == both


recipients = st.tuples(st.sampled_from([JANE, JANE.replace("customer", "CUSTOMER"), JOE, QA]), st.integers(-1, 3)).map(
    lambda pair: Recipient(*pair)
)


@given(st.lists(recipients, max_size=6), st.lists(recipients, max_size=6))
def test_nobody_is_lost_and_the_order_of_collapsing_does_not_matter(
    one: list[Recipient], more: list[Recipient]
) -> None:
    whole = collapsed([*one, *more])
    assert collapsed([*collapsed(one), *more]) == whole
    assert [canonical(left.address) for left in whole] == list(
        dict.fromkeys(canonical(r.address) for r in [*one, *more])
    )
    assert {origin for left in whole for origin in (left.origin, *left.also)} | {-1} == {
        -1, *[given.origin for given in [*one, *more]]
    }  # fmt: skip
