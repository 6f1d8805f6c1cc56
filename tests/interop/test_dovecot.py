"""Dovecot behind relayproxy: a mail store by LMTP, at a port and at a Unix socket, and submission, which wants AUTH and relays on."""

from __future__ import annotations

import smtplib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from conftest import DIRECT, Route
from real_cast import took_part
from real_clients import Login, Mail, Way, with_smtplib
from real_dovecot import lmtp
from real_relay import Setting, running
from real_upstreams import KNOWN, SECRET, UNKNOWN, USER
from test_auth import credentials
from test_delivery import BODY, FIELDS, MESSAGE, SENDER, check_accepted, check_content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import SecureRoutes, StartSecure
    from real_clients import Client, Tls
    from real_dovecot import LmtpUpstream
    from real_upstreams import Scheme

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.skipif(DIRECT, reason="about the relay itself")]

MAIL = Mail(SENDER, KNOWN[0], MESSAGE)


@pytest.fixture
def store() -> Iterator[LmtpUpstream]:
    with lmtp() as upstream:
        yield upstream


@contextmanager
def session(port: int) -> Iterator[smtplib.SMTP]:
    took_part("smtplib", "client")
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=60) as smtp:
        smtp.ehlo()
        yield smtp


def test_a_mail_store_keeps_what_was_sent(client: Client, store: LmtpUpstream, tmp_path: Path) -> None:
    check_kept(client, store, f"lmtp://127.0.0.1:{store.port}", tmp_path)


def test_a_mail_store_at_a_unix_socket(store: LmtpUpstream, tmp_path: Path) -> None:
    check_kept(with_smtplib, store, f"lmtp+unix:{store.socket}", tmp_path)


def check_kept(client: Client, store: LmtpUpstream, url: str, tmp_path: Path) -> None:
    with running(Setting(url), tmp_path) as relay:
        assert client(relay.port, MAIL, tmp_path).code == 250
        lines = relay.stop()
    assert [line["outcome"] for line in lines] == ["accepted"]
    assert lines[0]["reply"]["origin"] == "upstream"
    (one,) = store.arrived()
    assert (one.sender, one.recipients) == (SENDER, (KNOWN[0],))
    check_content(one.content, MESSAGE, Route(relay.port, relay))


def test_a_mail_store_has_nobody_of_that_name(client: Client, store: LmtpUpstream, tmp_path: Path) -> None:
    with running(Setting(f"lmtp://127.0.0.1:{store.port}"), tmp_path) as relay:
        said = client(relay.port, Mail(SENDER, UNKNOWN, MESSAGE), tmp_path)
        lines = relay.stop()
    assert f"{said.code} {said.text}".startswith(store.unknown)
    assert [(line["outcome"], line["recipients"][0]["reply"]["origin"]) for line in lines] == [("rejected", "upstream")]
    assert store.arrived() == []


def test_a_mail_store_takes_a_recipient_a_transaction(store: LmtpUpstream, tmp_path: Path) -> None:
    """Of those that are refused none counts; who hears 452 may come in the next one, and the store has each message once."""
    with running(Setting(f"lmtp://127.0.0.1:{store.port}"), tmp_path) as relay:
        with session(relay.port) as smtp:
            refused = smtp.sendmail(SENDER, [UNKNOWN, *KNOWN], MESSAGE, mail_options=["BODY=8BITMIME"])
            assert {address: code for address, (code, _) in refused.items()} == {UNKNOWN: 550, KNOWN[1]: 452}
            assert smtp.sendmail(SENDER, [KNOWN[1]], MESSAGE, mail_options=["BODY=8BITMIME"]) == {}
        relay.stop()
    assert [one.recipients for one in store.arrived()] == [(address,) for address in KNOWN]
    assert all(one.content.endswith(b"\r\n" + MESSAGE) for one in store.arrived())


@pytest.mark.parametrize(("tls", "scheme"), [("off", "smtp"), ("starttls", "smtp+starttls"), ("implicit", "smtps")])
@pytest.mark.parametrize("ours", [True, False])
def test_submission_relays_what_was_sent(
    tls: Tls, scheme: Scheme, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path, *, ours: bool
) -> None:
    """Logged in with our credentials, or by the client's AUTH as it is passed through."""
    upstream = start_secure("dovecot-submission")
    lines = {"upstream": credentials("SCRAM-SHA-256", SECRET, tmp_path)} if ours else {}
    with secure_route(upstream.ports, scheme, tls, **lines) as way:
        login = None if ours else Login("PLAIN", USER, SECRET)
        assert with_smtplib(way.port, MAIL, tmp_path, Way(tls, way.ca, login)).code == 250
        check_accepted(way.transactions(), (KNOWN[0],), upstream.ports[scheme], len(MESSAGE))
    (one,) = upstream.arrived()
    assert (one.sender, one.recipients, one.user) == (SENDER, (KNOWN[0],), USER)
    assert (one.tls is None) == (scheme == "smtp")
    protocol = "ESMTP" + ("" if tls == "off" else "S") + ("" if ours else "A")
    check_content(one.content, MESSAGE, way, protocol)


def test_without_auth_submission_refuses(start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path) -> None:
    upstream = start_secure("dovecot-submission")
    with secure_route(upstream.ports, "smtp", "off") as way:
        assert with_smtplib(way.port, MAIL, tmp_path).code == 530
        assert [line["outcome"] for line in way.transactions()] == ["rejected"]
    assert upstream.arrived() == []


def test_refusals_come_through_submission(
    start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    """Of one recipient among several, and of a message."""
    upstream = start_secure("dovecot-submission")
    ours = credentials("PLAIN", SECRET, tmp_path)
    with secure_route(upstream.ports, "smtp", "off", upstream=ours) as way:
        with session(way.port) as smtp:
            refused = smtp.sendmail(SENDER, [KNOWN[0], UNKNOWN, KNOWN[1]], MESSAGE, mail_options=["BODY=8BITMIME"])
            assert {address: f"{code} {text.decode()}" for address, (code, text) in refused.items()} == {
                UNKNOWN: upstream.unknown
            }
            with pytest.raises(smtplib.SMTPDataError) as caught:
                smtp.sendmail(SENDER, KNOWN, FIELDS % b"unwanted" + BODY, mail_options=["BODY=8BITMIME"])
        assert caught.value.args == (554, upstream.unwanted.removeprefix("554 ").encode())
        lines = way.transactions()
    assert [line["outcome"] for line in lines] == ["accepted", "rejected"]
    (one,) = upstream.arrived()
    assert one.recipients == KNOWN
    assert one.content.endswith(b"\r\n" + MESSAGE)
