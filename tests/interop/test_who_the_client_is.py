"""Who the client is: Postfix and haproxy are told it by us, and haproxy tells it to us. On loopback a client has an address of its own, too."""

from __future__ import annotations

import re
import smtplib
import ssl
from typing import TYPE_CHECKING

import pytest
from real_cast import took_part
from real_haproxy import haproxy
from real_relay import Setting, running
from real_upstreams import KNOWN, wait_for
from test_delivery import MESSAGE, SENDER

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import StartUpstream
    from real_certificates import Certificates
    from real_haproxy import Says
    from real_postfix import PostfixUpstream, Trust

pytestmark = [pytest.mark.interop, pytest.mark.slow]

#: None of the programs between has it.
CLIENT = "127.0.0.77"
#: What Postfix knows of a message's client, and of who came in front of that.
LOGGED = re.compile(
    r"smtpd\[[0-9]+\]: [0-9A-Za-z]+: client=unknown\[(?P<client>[^\]]+)\](?:.*, orig_client=unknown\[(?P<original>[^\]]+)\])?"
)


def send(port: int, implicit: ssl.SSLContext | None = None) -> None:
    """One message, as CLIENT."""
    took_part("smtplib", "client")
    source = (CLIENT, 0)
    with (
        smtplib.SMTP_SSL("localhost", port, "client.test", timeout=60, source_address=source, context=implicit)
        if implicit
        else smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60, source_address=source)
    ) as smtp:
        smtp.sendmail(SENDER, [KNOWN[0]], MESSAGE)


def logged(postfix: PostfixUpstream, behind: int) -> list[tuple[str, str | None]]:
    """Who brought each message that came since the log had so many characters, as Postfix sees it."""
    return [(match["client"], match["original"]) for match in LOGGED.finditer(postfix.log()[behind:])]


@pytest.mark.parametrize(
    ("identity", "trust", "scheme"),
    [
        ("xclient", "xclient", "smtp"),
        ("xclient", "xclient", "smtp+starttls"),
        ("proxy-v1", "proxy", "smtp"),
        ("proxy-v2", "proxy", "smtp+starttls"),
        ("proxy-v1", "proxy-tls", "smtps"),
        ("proxy-v2", "proxy-tls", "smtps"),
    ],
)
def test_postfix_takes_the_client_for_the_client(
    identity: str, trust: Trust, scheme: str, postfix: PostfixUpstream, certificates: Certificates, tmp_path: Path
) -> None:
    postfix.clear()
    behind = len(postfix.log())
    more = f'identity = "{identity}"\n' + ("" if scheme == "smtp" else f'ca = "{certificates.ca}"\n')
    setting = Setting(f"{scheme}://localhost:{postfix.trusting[trust]}", upstream=more)
    with running(setting, tmp_path) as relay:
        send(relay.port)
        assert [line["client"]["address"] for line in relay.stop()] == [CLIENT]
    wait_for(postfix, 1)
    assert logged(postfix, behind) == [(CLIENT, None)]


def test_postfix_is_told_each_transaction_of_the_client_and_its_name(postfix: PostfixUpstream, tmp_path: Path) -> None:
    postfix.clear()
    behind = len(postfix.log())
    setting = Setting(f"smtp://127.0.0.1:{postfix.trusting['xforward']}", upstream='identity = "xforward"')
    with running(setting, tmp_path) as relay:
        send(relay.port)
        (line,) = relay.stop()
    wait_for(postfix, 1)
    assert logged(postfix, behind) == [("127.0.0.1", CLIENT)]
    assert f"orig_queue_id={line['session']}" in postfix.log()[behind:]


@pytest.mark.parametrize("identity", ["xclient", "xforward"])
def test_a_postfix_that_does_not_trust_us_gets_nothing(identity: str, postfix: PostfixUpstream, tmp_path: Path) -> None:
    postfix.clear()
    setting = Setting(f"smtp://127.0.0.1:{postfix.port}", upstream=f'identity = "{identity}"')
    with running(setting, tmp_path) as relay:
        with pytest.raises(smtplib.SMTPConnectError) as caught:
            send(relay.port)
        assert relay.stop() == []
        assert relay.events("error")[0]["what"].endswith(
            f": the server does not offer {identity.upper()} with ADDR to us"
        )
    assert (caught.value.smtp_code, str(caught.value.smtp_error)[:7]) == (421, "b'4.3.5")
    assert not postfix.arrived()


@pytest.mark.parametrize("identity", ["proxy-v1", "proxy-v2"])
def test_haproxy_is_told_who_the_client_is(identity: str, start_upstream: StartUpstream, tmp_path: Path) -> None:
    upstream = start_upstream("aiosmtpd")
    with haproxy(upstream.port, hears=True) as between:
        setting = Setting(f"smtp://127.0.0.1:{between.port}", upstream=f'identity = "{identity}"')
        with running(setting, tmp_path) as relay:
            send(relay.port)
            relay.stop()
        wait_for(upstream, 1)
        between.wait_for_client(CLIENT)


@pytest.mark.parametrize("says", ["send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("tls", ["off", "implicit"])
def test_haproxy_tells_us_who_the_client_is(
    says: Says, tls: str, start_upstream: StartUpstream, certificates: Certificates, tmp_path: Path
) -> None:
    """The header comes in front of TLS."""
    upstream = start_upstream("aiosmtpd")
    listener = f'tls = "{tls}"\nclients = ["{CLIENT}"]\nproxy_protocol = ["127.0.0.1"]\n'
    files = certificates.server()
    pair = "" if tls == "off" else f'certificate = "{files.certificate}"\nkey = "{files.key}"\n'
    with running(Setting(f"smtp://127.0.0.1:{upstream.port}", listener=listener, tls=pair), tmp_path) as relay:
        with haproxy(relay.port, says=says) as front:
            send(front.port, None if tls == "off" else ssl.create_default_context(cafile=certificates.ca))
        (line,) = relay.stop()
    assert (line["client"]["address"], line["outcome"]) == (CLIENT, "accepted")
    assert (line["client"]["tls"] is None) == (tls == "off")
    (message,) = wait_for(upstream, 1)
    assert f"([{CLIENT}])".encode() in message.content.partition(b"\r\n")[0]


def test_what_haproxy_tells_us_we_tell_postfix(postfix: PostfixUpstream, tmp_path: Path) -> None:
    postfix.clear()
    behind = len(postfix.log())
    listener = f'clients = ["{CLIENT}"]\nproxy_protocol = ["127.0.0.1"]\n'
    setting = Setting(f"smtp://127.0.0.1:{postfix.trusting['xclient']}", listener, 'identity = "xclient"')
    with running(setting, tmp_path) as relay:
        with haproxy(relay.port, says="send-proxy-v2") as front:
            send(front.port)
        relay.stop()
    wait_for(postfix, 1)
    assert logged(postfix, behind) == [(CLIENT, None)]
