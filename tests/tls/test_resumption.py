"""Which sessions with upstreams are kept to be gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relayproxy.tls.resumption import LOOK_AGAIN, Known, Sessions
from relayproxy.tls.verification import Findings

if TYPE_CHECKING:
    from OpenSSL import SSL


def known(at: float) -> Known:
    return Known(cast("SSL.Session", object()), Findings(required=True), at)


def test_the_one_whose_certificate_was_looked_at_last_is_kept() -> None:
    sessions = Sessions()
    new, old, newest = known(10), known(5), known(10)
    for one, kept in ((new, new), (old, new), (newest, newest)):
        sessions.keep("mx.test", one)
        assert sessions.of("mx.test", 11) is kept
    assert sessions.of("other.test", 11) is None


def test_after_ten_minutes_a_certificate_is_looked_at_anew() -> None:
    sessions = Sessions()
    sessions.keep("mx.test", known(10))
    assert sessions.of("mx.test", 10 + LOOK_AGAIN - 1) is not None
    assert sessions.of("mx.test", 10 + LOOK_AGAIN) is None


def test_where_a_server_refuses_to_go_on_it_is_never_tried_again() -> None:
    sessions = Sessions()
    sessions.keep("mx.test", known(10))
    sessions.give_up("mx.test")
    sessions.keep("mx.test", known(11))
    assert sessions.of("mx.test", 12) is None
