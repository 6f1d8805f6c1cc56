"""testssl.sh looks at our listener, and finds nothing serious."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import DIRECT
from real_cast import took_part
from real_process import program

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import SecureRoutes, StartSecure
    from real_clients import Tls

# Tens of seconds, most of them testssl's own sleeps.
pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(DIRECT, reason="about the relay itself"),
]

SERIOUS = {"MEDIUM", "HIGH", "CRITICAL"}
#: What it finds and we mean.
MEANT = {
    "cert_revocation": "who trusts an authority of an installation's own asks nobody whether it has revoked a leaf"
}


def scan(port: int, ca: Path, work: Path, *options: str) -> dict[str, tuple[str, str]]:
    """What it found out: severity and words."""
    path = work / "testssl.json"
    took_part("testssl.sh", "scanner")
    argv = [program("testssl"), "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1"]
    argv += ["--add-ca", str(ca), "--jsonfile", str(path), *options, f"localhost:{port}"]
    done = subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, cwd=work, timeout=280)
    assert path.exists(), done
    return {found["id"]: (found["severity"], found["finding"]) for found in json.loads(path.read_text())}


def serious(found: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: finding for name, finding in found.items() if finding[0] in SERIOUS and name not in MEANT}


@pytest.mark.parametrize(
    ("tls", "options"),
    [
        # protocols, ciphers, certificate, all vulnerabilities that it knows
        ("implicit", ("-p", "-s", "-S", "-U")),
        # the same contexts behind STARTTLS: protocols, certificate, renegotiation, injection of ChangeCipherSpec
        ("starttls", ("-t", "smtp", "-p", "-S", "-R", "-I")),
    ],
)
def test_nothing_serious_is_found(
    tls: Tls, options: tuple[str, ...], start_secure: StartSecure, secure_route: SecureRoutes, tmp_path: Path
) -> None:
    upstream = start_secure("aiosmtpd")
    with secure_route(upstream.ports, "smtp", tls) as way:
        assert way.relay
        assert way.ca
        found = scan(way.port, way.ca, tmp_path, *options)
        way.relay.stop()
    assert not serious(found)
    # It got through to the end, and what it finds would be seen.
    assert {name: found[name][0] for name in MEANT} == {"cert_revocation": "HIGH"}
    assert found["TLS1_3"][0] == "OK", found
    assert found["cert_chain_of_trust"][0] == "OK", found["cert_chain_of_trust"]
    assert found["CCS"][0] == "OK", found
    assert "scanProblem" not in found
