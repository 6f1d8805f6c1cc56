"""How relayproxy begins and ends, as a process: the line that says ready, SIGTERM at each stage, peers that vanish."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from typing import TYPE_CHECKING

import pytest
from real_cast import took_part
from real_process import free_port, listens, until
from real_relay import Relay, Setting, running
from real_upstreams import KNOWN, Upstream, smtp_sink, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import StartUpstream

pytestmark = [pytest.mark.interop, pytest.mark.slow]

HALF = b"Subject: half\r\n\r\nthe first half\r\n"
REST = b"and the rest\r\n.\r\n"


@contextlib.contextmanager
def session(relay: Relay) -> Iterator[smtplib.SMTP]:
    """A client that has been greeted; it hangs up where the test leaves it."""
    took_part("smtplib", "client")
    smtp = smtplib.SMTP("127.0.0.1", relay.port, local_hostname="client.test", timeout=30)
    try:
        smtp.ehlo()
        yield smtp
    finally:
        smtp.close()


def begin_message(smtp: smtplib.SMTP) -> None:
    """Up to the middle of the mail data."""
    assert smtp.mail("app@client.test")[0] == 250
    assert smtp.rcpt(KNOWN[0])[0] == 250
    assert smtp.docmd("DATA")[0] == 354
    smtp.send(HALF)


def hung_up(smtp: smtplib.SMTP) -> bool:
    """The relay has closed; then so do we, since it waits for that a while (lingering close)."""
    assert smtp.sock
    with contextlib.suppress(ConnectionError):
        if smtp.sock.recv(1):
            return False
    smtp.close()
    return True


def refused(port: int) -> bool:
    return not listens(port)


@pytest.fixture
def sink(start_upstream: StartUpstream) -> Upstream:
    return start_upstream("aiosmtpd")


def test_it_says_where_it_listens_before_any_session(sink: Upstream, tmp_path: Path) -> None:
    with running(Setting.in_clear(sink.port), tmp_path) as relay:
        with session(relay) as smtp:
            assert smtp.quit()[0] == 221
        relay.stop()
        assert relay.lines[0]["event"] == "listening"
        assert [line["listener"] for line in relay.events("listening")] == ["interop"]


def test_sigterm_lets_a_transaction_end(sink: Upstream, tmp_path: Path) -> None:
    with running(Setting.in_clear(sink.port), tmp_path) as relay, session(relay) as busy, session(relay) as idle:
        begin_message(busy)
        relay.terminate()
        assert idle.getreply()[0] == 421
        assert hung_up(idle)
        until(lambda: refused(relay.port), "nobody listening any more")
        busy.send(REST)
        assert busy.getreply() == (250, b"2.0.0 taken")
        assert busy.getreply()[0] == 421
        assert hung_up(busy)
        assert relay.ended() == 0
        assert [line["outcome"] for line in relay.events("transaction")] == ["accepted"]
    assert [m.content.endswith(HALF + REST.removesuffix(b".\r\n")) for m in wait_for(sink, 1)] == [True]


def test_sigterm_waits_for_upstreams_verdict(tmp_path: Path) -> None:
    """The final dot has left: giving up now would have the client send the message again."""
    with (
        smtp_sink(slow=True) as upstream,
        running(Setting.in_clear(upstream.port), tmp_path) as relay,
        session(relay) as smtp,
    ):
        begin_message(smtp)
        smtp.send(REST)
        relay.terminate()
        assert smtp.getreply()[0] == 250
        assert smtp.getreply()[0] == 421
        assert hung_up(smtp)
        assert relay.ended() == 0
        assert [line["outcome"] for line in relay.events("transaction")] == ["accepted"]
        assert len(wait_for(upstream, 1)) == 1


def test_a_transaction_that_outlasts_the_drain_is_not_delivered(sink: Upstream, tmp_path: Path) -> None:
    with running(Setting.in_clear(sink.port, drain="300ms"), tmp_path) as relay, session(relay) as smtp:
        begin_message(smtp)
        relay.terminate()
        code, text = smtp.getreply()
        assert (code, text[:5]) == (421, b"4.3.2")
        assert hung_up(smtp)
        assert relay.ended() == 0
        assert [line["outcome"] for line in relay.events("transaction")] == ["tempfailed"]  # the client heard 421
    assert sink.arrived() == []


# smtp-sink writes what it gets as it comes: its files do not tell.
@pytest.mark.parametrize("name", ["postfix", "aiosmtpd"])
def test_a_client_that_vanishes_in_mid_message_delivers_nothing(
    name: str, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    upstream = start_upstream(name)
    with running(Setting.in_clear(upstream.port), tmp_path) as relay:
        with session(relay) as smtp:
            begin_message(smtp)
            assert smtp.sock
            smtp.sock.shutdown(socket.SHUT_WR)
            assert hung_up(smtp)
        assert [line["outcome"] for line in relay.stop()] == ["aborted"]
    assert upstream.arrived() == []


def test_no_upstream_is_a_421_greeting(tmp_path: Path) -> None:
    with running(Setting.in_clear(free_port()), tmp_path) as relay:
        with pytest.raises(smtplib.SMTPConnectError) as caught:
            smtplib.SMTP("127.0.0.1", relay.port, timeout=30)
        assert (caught.value.smtp_code, bytes(str(caught.value.smtp_error), "ascii")[:7]) == (421, b"b'4.4.1")
        assert relay.stop() == []
