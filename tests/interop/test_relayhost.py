"""Postfix and Exim with relayproxy as their relayhost: what is handed to them arrives at an upstream once, byte for byte; what upstream refuses they
bounce, and what it puts off they keep and send again. Nothing is lost, and nothing doubled.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DIRECT
from real_dovecot import lmtp
from real_process import free_port, until
from real_relay import Setting, running
from real_senders import SENDERS, empty, hand_over
from real_upstreams import KNOWN, UNKNOWN, Arrived, aiosmtpd, cut
from test_delivery import FIELDS, MESSAGE, SENDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from conftest import Route, SecureRoutes, StartSecure
    from real_clients import Tls
    from real_senders import StartSender
    from real_upstreams import Refuses, Scheme

    Routes = Callable[[int], AbstractContextManager[Route]]

pytestmark = [pytest.mark.interop, pytest.mark.slow]
OURS = re.compile(rb"Received: from mta\.test \(\[127\.0\.0\.1\]\)\s+by relay\.test\s")
needs_the_relay = pytest.mark.skipif(DIRECT, reason="about the relay itself")


@pytest.fixture(params=list(SENDERS))
def start_sender(request: pytest.FixtureRequest) -> StartSender:
    """Each of them in turn."""
    return SENDERS[request.param]


def check_sent(one: Arrived, recipients: tuple[str, ...], message: bytes, *, relayed: bool) -> None:
    """Our field, the MTA's, and what was handed to it."""
    assert (one.sender, one.recipients) == (SENDER, recipients)
    if relayed:
        assert OURS.match(one.content), one.content[:300]
    assert cut(one.content, *[b"Received"] * (1 + relayed)) == message


@pytest.mark.parametrize("name", ["aiosmtpd", "haraka"])
@pytest.mark.parametrize("tls", ["off", "starttls"])
def test_one_of_several_recipients_is_refused(
    start_sender: StartSender, name: str, tls: Tls, start_secure: StartSecure, secure_route: SecureRoutes
) -> None:
    """It pipelines in front of an upstream that cannot, and of one that can. Whoever sent the message gets a notice, the same way."""
    if DIRECT and (start_sender, name, tls) == (SENDERS["exim"], "haraka", "off"):
        pytest.skip(
            "Exim closes its side behind its QUIT, and then Haraka answers no more: with us in between they get on"
        )
    upstream = start_secure(name)
    recipients = (KNOWN[0], UNKNOWN, KNOWN[1])
    scheme: Scheme = "smtp" if tls == "off" else "smtp+starttls"
    with secure_route(upstream.ports, scheme, tls) as way:
        with start_sender(way.port, tls, way.ca) as sender:
            hand_over(sender, SENDER, recipients, MESSAGE)
            empty(sender)
            assert sender.pipelined() or not way.relay
        lines: list[dict[str, Any]] = way.transactions()
    sent, notice = sorted(upstream.arrived(), key=lambda one: one.sender, reverse=True)
    check_sent(sent, KNOWN, MESSAGE, relayed=way.relay is not None)
    assert (notice.sender, notice.recipients) == ("", (SENDER,))
    assert upstream.unknown.encode() in notice.content
    if way.relay:
        assert sorted(line["outcome"] for line in lines) == ["accepted", "accepted"]
        (line,) = (line for line in lines if line["envelope"]["received"]["sender"] == SENDER)
        told = {one["received"]: one["reply"]["code"] for one in line["recipients"]}
        assert told == dict(zip(recipients, (250, 550, 250), strict=True))
        assert (line["client"]["tls"] is None) == (tls == "off")


@pytest.mark.parametrize("what", ["recipient", "message"])
def test_what_is_put_off_is_sent_again(start_sender: StartSender, what: Refuses, route: Routes) -> None:
    with aiosmtpd() as upstream, route(upstream.port) as way:
        upstream.puts_off = what
        with start_sender(way.port) as sender:
            hand_over(sender, SENDER, KNOWN, MESSAGE)
            until(sender.put_off, "a message that was put off")
            assert upstream.arrived() == []
            empty(sender, again=True)
        lines: list[dict[str, Any]] = way.transactions()
        (one,) = upstream.arrived()
        check_sent(one, KNOWN, MESSAGE, relayed=way.relay is not None)
        assert len(upstream.put_off) == (2 if what == "recipient" else 1)
    if way.relay:
        assert [line["outcome"] for line in lines] == ["tempfailed", "accepted"]


def test_one_of_two_recipients_is_put_off(start_sender: StartSender, route: Routes) -> None:
    """The other has the message by then, and does not get it again."""
    with aiosmtpd() as upstream, route(upstream.port) as way:
        upstream.puts_off, upstream.put_off = "recipient", [KNOWN[0]]
        with start_sender(way.port) as sender:
            hand_over(sender, SENDER, KNOWN, MESSAGE)
            until(sender.put_off, "a recipient that was put off")
            (first,) = upstream.arrived()
            empty(sender, again=True)
        lines: list[dict[str, Any]] = way.transactions()
        (_, second) = upstream.arrived()
    check_sent(first, (KNOWN[0],), MESSAGE, relayed=way.relay is not None)
    check_sent(second, (KNOWN[1],), MESSAGE, relayed=way.relay is not None)
    if way.relay:
        assert [line["outcome"] for line in lines] == ["accepted", "accepted"]


@needs_the_relay
def test_an_upstream_that_is_away_is_waited_for(start_sender: StartSender, tmp_path: Path) -> None:
    """It hears our own 421."""
    with running(Setting.in_clear(port := free_port()), tmp_path) as relay, start_sender(relay.port) as sender:
        hand_over(sender, SENDER, KNOWN, MESSAGE)
        until(sender.put_off, "a message that was put off")
        with aiosmtpd(port=port) as upstream:
            empty(sender, again=True)
            (one,) = upstream.arrived()
        check_sent(one, KNOWN, MESSAGE, relayed=True)
        assert [line["outcome"] for line in relay.stop()] == ["accepted"]
        assert relay.events("error")


def test_twenty_messages_are_put_off_once_each(start_sender: StartSender, route: Routes) -> None:
    messages = [FIELDS.replace(b"<1@", b"<%d@" % n) % b"hi" + b"hello\r\n" for n in range(20)]
    with aiosmtpd() as upstream, route(upstream.port) as way:
        upstream.puts_off = "message"
        with start_sender(way.port) as sender:
            for message in messages:
                hand_over(sender, SENDER, KNOWN, message)
            empty(sender, again=True)
        lines: list[dict[str, Any]] = way.transactions()
        arrived = upstream.arrived()
        assert len(upstream.put_off) == len(messages)
    fields = [b"Received"] * (2 if way.relay else 1)
    assert sorted(cut(one.content, *fields) for one in arrived) == sorted(messages)
    if way.relay:
        assert Counter(line["outcome"] for line in lines) == {"tempfailed": 20, "accepted": 20}


@needs_the_relay
def test_a_mail_store_takes_one_recipient_at_a_time(start_sender: StartSender, tmp_path: Path) -> None:
    """The second hears 452 of us (LMTP has an answer for each, SMTP one for all): it is sent to in a transaction of its own."""
    with lmtp() as upstream, running(Setting(f"lmtp://127.0.0.1:{upstream.port}"), tmp_path) as relay:
        with start_sender(relay.port) as sender:
            hand_over(sender, SENDER, KNOWN, MESSAGE)
            empty(sender, again=True)
        lines = relay.stop()
        arrived = upstream.arrived()
    assert [one.recipients for one in arrived] == [(address,) for address in KNOWN]
    for one, address in zip(arrived, KNOWN, strict=True):
        check_sent(one, (address,), MESSAGE, relayed=True)
    assert [line["outcome"] for line in lines] == ["accepted", "accepted"]
