"""AUTH with real programs on both sides: passed through, taken whatever it is, and our own with upstream. Of the
secrets nothing is found in anything that relayproxy has written.
"""

from __future__ import annotations

import base64
import smtplib
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DIRECT
from real_clients import SECURE_CLIENTS, Login, Mail, Way, with_smtplib
from real_process import missing
from real_upstreams import KNOWN, SECRET, USER, wait_for
from test_delivery import MESSAGE, SENDER, check_content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Route, SecureRoutes, StartSecure
    from real_clients import Tls
    from real_upstreams import Scheme, SecureUpstream

pytestmark = [pytest.mark.interop, pytest.mark.slow]
needs_the_relay = pytest.mark.skipif(DIRECT, reason="about the relay itself")

MAIL = Mail(SENDER, KNOWN[0], MESSAGE)
WRONG = "Mellon-Friend.8-times"
#: Each mechanism of each client, and the upstreams in turn, as far as they know it. (curl takes OAUTHBEARER wherever it
#: can, and can do no SCRAM as Debian builds it.)
CLIENTS = [
    ("smtplib", "PLAIN", "postfix"),
    ("smtplib", "LOGIN", "exim"),
    ("smtplib", "CRAM-MD5", "postfix"),
    ("openssl", "PLAIN", "exim"),
    ("swaks", "PLAIN", "exim"),
    ("swaks", "LOGIN", "postfix"),
    ("swaks", "CRAM-MD5", "aiosmtpd"),
    ("curl", "PLAIN", "aiosmtpd"),
    ("curl", "LOGIN", "aiosmtpd"),
    ("curl", "CRAM-MD5", "exim"),
    ("curl", "OAUTHBEARER", "aiosmtpd"),
    ("msmtp", "PLAIN", "postfix"),
    ("msmtp", "LOGIN", "exim"),
    ("msmtp", "CRAM-MD5", "postfix"),
    ("msmtp", "SCRAM-SHA-256", "postfix"),
    ("msmtp", "XOAUTH2", "aiosmtpd"),
    ("msmtp", "OAUTHBEARER", "aiosmtpd"),
    ("nodemailer", "PLAIN", "aiosmtpd"),
    ("nodemailer", "LOGIN", "postfix"),
    ("nodemailer", "CRAM-MD5", "exim"),
    ("nodemailer", "XOAUTH2", "aiosmtpd"),
    ("s-nail", "PLAIN", "postfix"),
    ("s-nail", "LOGIN", "haraka"),
    ("s-nail", "CRAM-MD5", "dovecot-submission"),
    ("smtplib", "PLAIN", "haraka"),
    ("curl", "CRAM-MD5", "haraka"),
    ("nodemailer", "PLAIN", "dovecot-submission"),
    ("curl", "LOGIN", "dovecot-submission"),
    ("msmtp", "SCRAM-SHA-256", "dovecot-submission"),
]
UPSTREAMS = [
    *(("postfix", mechanism) for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256")),
    *(("exim", mechanism) for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5")),
    *(("haraka", mechanism) for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5")),
    *(("dovecot-submission", mechanism) for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256")),
    *(("aiosmtpd", mechanism) for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")),
]


def forms(secret: str) -> Iterator[bytes]:
    """As it is, and as it stands in base64 behind any number of octets: those characters that are its own only."""
    octets = secret.encode()
    yield octets
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + octets)
        yield encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6]


@pytest.mark.parametrize("user", ["", "a", "ab", "abc"])
def test_the_control_finds_a_secret(user: str) -> None:
    """Wherever in an encoded line it stands."""
    for line in (f"\0{user}\0{SECRET}", f"user={user}\1auth=Bearer {SECRET}\1\1", SECRET):
        written = base64.b64encode(line.encode())
        assert any(form in written for form in forms(SECRET)), line


def check_nothing_is_told(way: Route) -> None:
    assert way.relay
    written = way.relay.written()
    for secret in (SECRET, WRONG):
        for form in forms(secret):
            assert all(form not in text for text in written), f"{form!r} was written"


def check_arrived(upstream: SecureUpstream, way: Route, user: str | None, protocol: str) -> None:
    arrived = wait_for(upstream, 1)
    assert [(m.sender, m.recipients, m.user) for m in arrived] == [(SENDER, (KNOWN[0],), user)]
    check_content(arrived[0].content, MESSAGE, way, protocol)


def started(start_secure: StartSecure, name: str, mechanism: str) -> SecureUpstream:
    upstream = start_secure(name)
    if mechanism not in upstream.mechanisms:
        missing(f"{name} has no {mechanism}: saslpasswd2 or its modules are not installed")
    return upstream


def check_told(way: Route, mechanism: str, refused: int = 0) -> dict[str, Any]:
    """The transaction line of the one message, behind at least so many refusals; none of them tells a secret."""
    assert way.relay
    lines: list[dict[str, Any]] = way.transactions()
    told = [(line["mechanism"], line["outcome"]) for line in way.relay.events("auth")]
    assert told == [(mechanism, "refused")] * (len(told) - 1) + [(mechanism, "accepted")]
    assert len(told) > refused  # nodemailer tries a token twice
    assert [line["outcome"] for line in lines] == ["accepted"]
    check_nothing_is_told(way)
    return lines[0]


@pytest.mark.parametrize(("client", "mechanism", "name"), CLIENTS)
def test_clients_log_in(
    client: str, mechanism: str, name: str, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    """First with a wrong password, which upstream refuses; then with the right one."""
    upstream, send = started(start_secure, name, mechanism), SECURE_CLIENTS[client]
    with secure_route(upstream.ports, "smtp+starttls", "starttls") as way:
        said = send(way.port, MAIL, tmp_path, Way("starttls", way.ca, Login(mechanism, USER, WRONG)))
        assert f"{said.code} {said.text}".startswith(upstream.denied)
        assert not upstream.arrived()
        said = send(way.port, MAIL, tmp_path, Way("starttls", way.ca, Login(mechanism, USER, SECRET)))
        assert said.code == 250
        check_arrived(upstream, way, USER, "ESMTPSA")
        if way.relay:
            line = check_told(way, mechanism, refused=1)
            assert line["client"]["auth"] == {"mechanism": mechanism, "user": USER}


@pytest.mark.parametrize(("tls", "scheme"), [("off", "smtp"), ("implicit", "smtps")])
def test_clients_log_in_on_other_legs(
    tls: Tls, scheme: Scheme, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = started(start_secure, "postfix", "PLAIN")
    with secure_route(upstream.ports, scheme, tls) as way:
        login = Login("PLAIN", USER, SECRET)
        assert with_smtplib(way.port, MAIL, tmp_path, Way(tls, way.ca, login)).code == 250
        check_arrived(upstream, way, USER, "ESMTPA" if tls == "off" else "ESMTPSA")
        if way.relay:
            check_told(way, "PLAIN")


@needs_the_relay
@pytest.mark.parametrize(
    ("client", "mechanism"),
    [
        ("smtplib", "LOGIN"),
        ("openssl", "PLAIN"),
        ("swaks", "CRAM-MD5"),
        ("curl", "OAUTHBEARER"),
        ("msmtp", "XOAUTH2"),
        ("nodemailer", "XOAUTH2"),
    ],
)
def test_whatever_clients_say_is_taken(
    client: str, mechanism: str, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    """Upstream, which knows other passwords, hears nothing of it."""
    upstream = start_secure("aiosmtpd")
    with secure_route(upstream.ports, "smtps", "starttls", listener='auth = "any"') as way:
        login = Login(mechanism, "anybody@client.test", WRONG)
        assert SECURE_CLIENTS[client](way.port, MAIL, tmp_path, Way("starttls", way.ca, login)).code == 250
        check_arrived(upstream, way, None, "ESMTPSA")
        line = check_told(way, mechanism)
    # Of LOGIN nothing shows that its user is no password in the wrong place.
    assert line["client"]["auth"] == {
        "mechanism": mechanism,
        "user": None if mechanism == "LOGIN" else "anybody@client.test",
    }


@needs_the_relay
@pytest.mark.parametrize(("name", "mechanism"), UPSTREAMS)
def test_we_log_in(
    name: str, mechanism: str, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    """With our own credentials; the client has none."""
    upstream = started(start_secure, name, mechanism)
    with secure_route(upstream.ports, "smtp+starttls", "off", upstream=credentials(mechanism, SECRET, tmp_path)) as way:
        assert with_smtplib(way.port, MAIL, tmp_path).code == 250
        check_arrived(upstream, way, USER, "ESMTP")
        line = check_told(way, mechanism)
    assert line["client"]["auth"] is None


@needs_the_relay
@pytest.mark.parametrize(("name", "mechanism"), UPSTREAMS)
def test_our_password_is_wrong(
    name: str, mechanism: str, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    """That is nothing that a client could mend: it hears 4yz, and nothing goes upstream."""
    upstream = started(start_secure, name, mechanism)
    with secure_route(upstream.ports, "smtps", "off", upstream=credentials(mechanism, WRONG, tmp_path)) as way:
        code = connect(way)
        assert 400 <= code < 500
        assert way.relay
        way.relay.stop()
        told = way.relay.events("auth")
        assert [(line["leg"], line["mechanism"], line["outcome"]) for line in told] == [
            ("upstream", mechanism, "refused")
        ]
        check_nothing_is_told(way)
    assert not upstream.arrived()


def credentials(mechanism: str, secret: str, folder: Path) -> str:
    """In the configuration is only where the secret is."""
    path = folder / "secret"
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    where = f'token_command = ["cat", "{path}"]' if mechanism == "XOAUTH2" else f'password_file = "{path}"'
    return f'credentials = {{ user = "{USER}", {where}, mechanism = "{mechanism}" }}'


def connect(way: Route) -> int:
    """The code with which the relay greets."""
    smtp = smtplib.SMTP(timeout=60)
    try:
        return smtp.connect("127.0.0.1", way.port)[0]
    finally:
        smtp.close()
