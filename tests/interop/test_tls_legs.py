"""TLS on either leg: real programs look at the certificate of ours, real servers see ours look at theirs, and the
record tells what each leg had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conftest import DIRECT
from real_clients import SECURE_CLIENTS, Mail, Way, with_curl, with_openssl, with_smtplib
from real_stunnel import stunnel
from real_upstreams import KNOWN, Arrived, smtp_sink, wait_for
from test_delivery import FIELDS, MESSAGE, SENDER, check_accepted, check_content

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Route, SecureRoutes, StartSecure
    from real_certificates import Certificates, Kind
    from real_clients import Said, Tls
    from real_upstreams import Scheme, SecureUpstream

pytestmark = [pytest.mark.interop, pytest.mark.slow]
needs_the_relay = pytest.mark.skipif(DIRECT, reason="about the relay itself")

MAIL = Mail(SENDER, KNOWN[0], MESSAGE)
TLS: tuple[Tls, ...] = ("starttls", "implicit")
VERSIONS = {"TLSv1.2", "TLSv1.3"}


def check_arrived(
    upstream: SecureUpstream, way: Route, tls: Tls, scheme: Scheme, message: bytes = MESSAGE, *, protocol: str = ""
) -> list[Arrived]:
    """Once, byte for byte, and upstream knows of TLS where there was some. Without the relay it has the client's."""
    arrived = wait_for(upstream, 1)
    assert [(m.sender, m.recipients) for m in arrived] == [(SENDER, (KNOWN[0],))]
    check_content(arrived[0].content, message, way, protocol or ("ESMTP" if tls == "off" else "ESMTPS"))
    if way.relay:
        assert (arrived[0].tls in VERSIONS) == (scheme != "smtp"), arrived[0].tls
    return arrived


def check_told(
    way: Route, upstream: SecureUpstream, tls: Tls, scheme: Scheme, message: bytes = MESSAGE
) -> dict[str, Any]:
    """The transaction line, with TLS on the legs that had it."""
    assert way.relay
    lines: list[dict[str, Any]] = way.transactions()
    check_accepted(lines, (KNOWN[0],), upstream.ports[scheme], len(message))
    ours, theirs = lines[0]["client"]["tls"], lines[0]["upstream"]["tls"]
    assert (ours is None, theirs is None) == (tls == "off", scheme == "smtp")
    if ours:
        assert ours["version"] in VERSIONS
        assert ours["cipher"]
        assert ours["sni"] == "localhost"
    if theirs:
        assert theirs["version"] in VERSIONS
        assert theirs["cipher"]
        assert (theirs["verified"], theirs["why"], theirs["sni"]) == (True, None, "localhost")
        assert set(theirs["certificate"]["names"]) == {"localhost", "127.0.0.1"}
    return lines[0]


@pytest.mark.parametrize("name", list(SECURE_CLIENTS))
@pytest.mark.parametrize("tls", TLS)
def test_clients_get_in(
    name: str, tls: Tls, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = start_secure("aiosmtpd")
    with secure_route(upstream.ports, "smtp+starttls", tls) as way:
        assert SECURE_CLIENTS[name](way.port, MAIL, tmp_path, Way(tls, way.ca)).code == 250
        protocol = "SMTP" if name == "s-nail" else "ESMTPS"  # behind TLS, too, it says HELO where it need not log in
        arrived = check_arrived(upstream, way, tls, "smtp+starttls", protocol=protocol)
        if way.relay:
            line = check_told(way, upstream, tls, "smtp+starttls")
            assert line["upstream"]["tls"]["version"] == arrived[0].tls


@pytest.mark.parametrize("name", ["postfix", "exim", "haraka", "aiosmtpd", "stunnel"])
@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_upstreams_are_met(
    name: str, scheme: Scheme, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = start_secure(name)
    with secure_route(upstream.ports, scheme, "starttls") as way:
        assert with_smtplib(way.port, MAIL, tmp_path, Way("starttls", way.ca)).code == 250
        arrived = check_arrived(upstream, way, "starttls", scheme)
        if way.relay:
            line = check_told(way, upstream, "starttls", scheme)
            assert line["upstream"]["tls"]["version"] == arrived[0].tls


@needs_the_relay
@pytest.mark.parametrize("tls", ["off", *TLS])
@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
def test_legs_are_combined(
    tls: Tls, scheme: Scheme, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = start_secure("postfix")
    with secure_route(upstream.ports, scheme, tls) as way:
        assert with_curl(way.port, MAIL, tmp_path, Way(tls, way.ca)).code == 250
        check_arrived(upstream, way, tls, scheme)
        check_told(way, upstream, tls, scheme)


@needs_the_relay
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_client_of_one_version(
    version: str, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = start_secure("aiosmtpd")
    only = "-" + version.lower().replace("v", "").replace(".", "_")
    with secure_route(upstream.ports, "smtps", "implicit") as way:
        assert with_openssl(way.port, MAIL, tmp_path, Way("implicit", way.ca), only).code == 250
        line = check_told(way, upstream, "implicit", "smtps")
    assert line["client"]["tls"]["version"] == version


@needs_the_relay
@pytest.mark.parametrize("tls", TLS)
def test_a_client_asks_for_another_name(
    tls: Tls, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    """It gets a certificate for that one."""
    upstream, asked = (
        start_secure("aiosmtpd"),
        ("-servername", "smtp.other.test", "-verify_hostname", "smtp.other.test"),
    )
    with secure_route(upstream.ports, "smtps", tls) as way:
        assert with_openssl(way.port, MAIL, tmp_path, Way(tls, way.ca), *asked).code == 250
        lines: list[dict[str, Any]] = way.transactions()
    assert [line["client"]["tls"]["sni"] for line in lines] == ["smtp.other.test"]


@needs_the_relay
@pytest.mark.parametrize("tls", TLS)
def test_a_certificate_of_our_own(
    tls: Tls, start_secure: StartSecure, certificates: Certificates, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream, ours = start_secure("aiosmtpd"), certificates.server()
    lines = f'certificate = "{ours.certificate}"\nkey = "{ours.key}"'
    with secure_route(upstream.ports, "smtps", tls, tls=lines) as way:
        assert with_curl(way.port, MAIL, tmp_path, Way(tls, certificates.ca)).code == 250
        check_told(way, upstream, tls, "smtps")


@needs_the_relay
def test_an_upstream_by_its_address(start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path) -> None:
    """Its certificate names that (PROTOCOL §1.9); nobody is asked for by an address (RFC 6066 §3)."""
    upstream = start_secure("exim")
    with secure_route(upstream.ports, "smtps", "off", host="127.0.0.1") as way:
        assert with_curl(way.port, MAIL, tmp_path).code == 250
        lines: list[dict[str, Any]] = way.transactions()
    assert (lines[0]["upstream"]["tls"]["verified"], lines[0]["upstream"]["tls"]["sni"]) == (True, None)


@pytest.mark.parametrize(("tls", "scheme"), [("starttls", "smtp+starttls"), ("implicit", "smtps")])
def test_thirty_mebibytes(
    tls: Tls, scheme: Scheme, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    line = b".a line of a large body, as a text editor would wrap it for a reader to see: 0\r\n"
    message = FIELDS % b"large" + line * ((30 << 20) // len(line)) + b"the end\r\n"
    upstream = start_secure("aiosmtpd")
    with secure_route(upstream.ports, scheme, tls) as way:
        assert with_curl(way.port, Mail(SENDER, KNOWN[0], message), tmp_path, Way(tls, way.ca)).code == 250
        check_arrived(upstream, way, tls, scheme, message)


@pytest.mark.parametrize("tls", TLS)
def test_clients_see_who_we_are(
    tls: Tls, start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path, certificates: Certificates
) -> None:
    """That they look, and would not take another: with another authority curl goes away, and nothing arrives."""
    upstream = start_secure("aiosmtpd")
    other = certificates.server("unknown-issuer").certificate
    with (
        secure_route(upstream.ports, "smtp+starttls", tls) as way,
        pytest.raises(AssertionError, match="SSL certificate problem"),
    ):
        with_curl(way.port, MAIL, tmp_path, Way(tls, other))
    assert not upstream.arrived()


@needs_the_relay
@pytest.mark.parametrize(
    ("kind", "words"), [("expired", "expired"), ("other-name", "elsewhere.test"), ("unknown-issuer", "issuer")]
)
@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_an_upstream_that_is_not_the_one(
    kind: Kind, words: str, scheme: Scheme, certificates: Certificates, secure_route: SecureRoutes
) -> None:
    """The client hears so before it has sent anything; the log says why; stunnel has let nothing through."""
    with stunnel(certificates.server(kind)) as upstream:
        with secure_route(upstream.ports, scheme, "starttls") as way:
            assert way.relay
            said = greeting(way)
            way.relay.stop()
        assert (said.code, said.text[:5]) == (421, "4.7.5")
        failures = [line for line in way.relay.events("tls") if line["level"] != "info"]
        assert words in str(failures), way.relay.lines
        assert not upstream.arrived()


@needs_the_relay
def test_an_upstream_without_tls(secure_route: SecureRoutes) -> None:
    """smtp-sink offers no STARTTLS (attack 8): nothing goes on in clear."""
    with smtp_sink() as sink:
        with secure_route({"smtp+starttls": sink.port}, "smtp+starttls", "starttls") as way:
            said = greeting(way)
        assert (said.code, said.text[:5]) == (421, "4.7.4")
        assert not sink.arrived()


@needs_the_relay
@pytest.mark.parametrize("shown", [True, False])
def test_an_upstream_that_asks_for_a_certificate(
    *, shown: bool, certificates: Certificates, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    ours = certificates.client("relay.test")
    lines = f'certificate = "{ours.certificate}"\nkey = "{ours.key}"' if shown else ""
    with stunnel(certificates.server(), certificates.ca) as upstream:
        with secure_route(upstream.ports, "smtps", "starttls", upstream=lines) as way:
            said = with_smtplib(way.port, MAIL, tmp_path, Way("starttls", way.ca)) if shown else greeting(way)
            assert said.code == (250 if shown else 421)
        assert len(wait_for(upstream, 1) if shown else upstream.arrived()) == shown


@needs_the_relay
@pytest.mark.parametrize("tls", TLS)
def test_clients_that_must_show_a_certificate(
    tls: Tls, start_secure: StartSecure, certificates: Certificates, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = start_secure("aiosmtpd")
    shown = certificates.client("client.test")
    with secure_route(upstream.ports, "smtps", tls, tls=f'client_ca = "{certificates.ca}"') as way:
        with pytest.raises(AssertionError):
            with_curl(way.port, MAIL, tmp_path, Way(tls, way.ca))
        assert not upstream.arrived()
        assert with_curl(way.port, MAIL, tmp_path, Way(tls, way.ca, certificate=shown)).code == 250
        line = check_told(way, upstream, tls, "smtps")
    assert line["client"]["tls"]["verified"] is True
    assert "client.test" in line["client"]["tls"]["certificate"]["subject"]


def greeting(way: Route) -> Said:
    """What the relay says to a client that only connects."""
    import smtplib

    from real_clients import Said

    smtp = smtplib.SMTP(timeout=60)
    try:
        code, text = smtp.connect("127.0.0.1", way.port)
    finally:
        smtp.close()
    return Said(code, text.decode())
