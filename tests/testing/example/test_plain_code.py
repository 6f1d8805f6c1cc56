"""Tests in plain code."""

from __future__ import annotations

import smtplib
import ssl

import pytest
from app import sign_up


def test_who_signs_up_is_welcomed(relayproxy):
    sign_up("jane@customer.example", smtp=(relayproxy.host, relayproxy.port))
    mail = relayproxy.wait_for("recipient:jane@customer.example")
    assert mail.message["Subject"] == "Welcome"
    assert "https://example.test/confirm?token=" in mail.message.get_body().get_content()


def test_everybody_gets_one_mail(relayproxy):
    for name in ("jane", "joe"):
        sign_up(f"{name}@customer.example", smtp=(relayproxy.host, relayproxy.port))
    assert [relayproxy.wait_for().recipients for _ in range(2)] == [["jane@customer.example"], ["joe@customer.example"]]
    assert len(relayproxy.transactions("subject:Welcome")) == 2


@pytest.mark.relayproxy(allow=["*@example.test"])
def test_a_customer_is_not_reached_from_here(relayproxy):
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        sign_up("jane@customer.example", smtp=(relayproxy.host, relayproxy.port))
    assert relayproxy.wait_for().outcome == "rejected"


@pytest.mark.relayproxy(tls="starttls")
def test_under_tls(relayproxy):
    context = ssl.create_default_context(cafile=relayproxy.ca)
    with smtplib.SMTP(relayproxy.host, relayproxy.port) as server:
        server.starttls(context=context)
        server.sendmail("app@example.test", ["jane@customer.example"], "Subject: hi\r\n\r\nhello\r\n")
    assert relayproxy.wait_for("tls:true").message["Subject"] == "hi"


@pytest.mark.smtp_cassette(strict=True)
def test_a_customer_who_does_not_exist(smtp_cassette):
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="nobody of that name"):
        sign_up("nobody@customer.example", smtp=(smtp_cassette.host, smtp_cassette.port))


@pytest.mark.smtp_cassette(
    upstream={
        "url": "smtp+starttls://smtp.example.com:587",
        "ca": "provider-ca.pem",
        "credentials": {"user": "app", "password_env": "PROVIDER_PASSWORD"},
    }
)
def test_a_customer_of_a_provider(smtp_cassette):
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="nobody of that name"):
        sign_up("nobody@customer.example", smtp=(smtp_cassette.host, smtp_cassette.port))
