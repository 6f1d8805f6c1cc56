"""What a real client said to a real server through the relay is said to that server again, and answered the same; what it took then it takes once more.

And to the mock of its recording the client says it again, hears the same, to the letter, and ends the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DIRECT
from real_clients import CLIENTS, SECURE_CLIENTS, Client, Login, Mail, Said, Way
from real_process import missing
from real_upstreams import KNOWN, SECRET, UNKNOWN, USER, Upstream, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from conftest import Route, SecureRoutes, StartSecure
    from real_certificates import Certificates

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(DIRECT, reason="without a relay nothing is recorded"),
]

SERVERS = ["postfix", "exim", "opensmtpd", "haraka", "aiosmtpd", "smtp-sink"]
#: Each client and each server once; all with each other takes minutes, and is by hand: RELAYPROXY_INTEROP_ALL=1.
PAIRS = [
    (client, server)
    for client in CLIENTS
    for server in SERVERS
    if os.environ.get("RELAYPROXY_INTEROP_ALL") == "1" or client == "swaks" or server == "aiosmtpd"
]

SENDER = "app@client.test"
# With all that a server would add.
MESSAGE = (
    b"From: App <app@client.test>\r\nTo: jane@sink.test\r\nSubject: hi\r\nDate: Fri, 02 Jan 2026 03:04:05 +0000\r\n"
    b"Message-ID: <1@client.test>\r\n\r\nhello\r\n..\r\n\r\n"
)


def replayed(store: Path, to: str, *, cwd: Path | None = None) -> tuple[int, list[dict[str, Any]], str]:
    """The exit status, what is told of each session, and what is for people."""
    argv = [sys.executable, "-m", "relayproxy", "replay", "sender:*", "--to", to, "--json"]
    argv += ["--store", f"sqlite:{store}"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=100, cwd=cwd or store.parent)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@contextmanager
def mocked(store: Path, cwd: Path) -> Iterator[int]:
    """The port of the recorded server, which must be asked for all that was recorded, and nothing else."""
    argv = [sys.executable, "-m", "relayproxy", "mock", "sender:*", "--store", f"sqlite:{store}", "--listen"]
    argv += ["127.0.0.1:0", "--strict", "--until-used"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd) as served:
        try:
            assert served.stdout is not None
            yield int(json.loads(served.stdout.readline())["address"].rpartition(":")[2])
            _, told = served.communicate(timeout=30)
            assert served.returncode == 0, told
        finally:
            served.kill()


@pytest.mark.parametrize(("client", "upstream"), PAIRS, indirect=True)
def test_it_is_answered_the_same(
    client: Client, upstream: Upstream, route: Callable[[int], AbstractContextManager[Route]], tmp_path: Path
) -> None:
    # smtp-sink refuses nobody.
    recipients = (KNOWN[0],) if upstream.name == "smtp-sink" else (KNOWN[0], UNKNOWN)
    with route(upstream.port) as way:
        said = [client(way.port, Mail(SENDER, recipient, MESSAGE), tmp_path) for recipient in recipients]
        way.transactions()
    before = len(wait_for(upstream, 1))
    (tmp_path / "relayproxy.toml").write_text(f'state = "{tmp_path / "state"}"\n', encoding="utf-8")
    status, told, errors = replayed(tmp_path / "relayproxy.db", f"smtp://127.0.0.1:{upstream.port}")
    assert [(one["same"], one["differences"]) for one in told] == len(recipients) * [(True, [])], errors
    assert status == 0
    arrived = wait_for(upstream, 2 * before)
    assert len(arrived) == 2 * before
    assert [content.content.partition(b"From: ")[2] for content in arrived] == 2 * before * [MESSAGE[6:]]
    with mocked(tmp_path / "relayproxy.db", tmp_path) as port:
        assert [client(port, Mail(SENDER, recipient, MESSAGE), tmp_path) for recipient in recipients] == said


@pytest.mark.parametrize("name", ["postfix", "exim", "aiosmtpd"])
@pytest.mark.parametrize("program", ["smtplib", "swaks", "msmtp"])
def test_a_login_is_ours_and_tls_the_target_s(
    program: str,
    name: str,
    start_secure: StartSecure,
    secure_route: SecureRoutes,
    tmp_path: Path,
    certificates: Certificates,
) -> None:
    upstream = start_secure(name)
    if "PLAIN" not in upstream.mechanisms:
        missing(f"{name} has no PLAIN: saslpasswd2 or its modules are not installed")
    with secure_route(upstream.ports, "smtp+starttls", "starttls") as way:
        through = Way("starttls", way.ca, Login("PLAIN", USER, SECRET))
        said = SECURE_CLIENTS[program](way.port, Mail(SENDER, KNOWN[0], MESSAGE), tmp_path, through)
        assert said.code == 250
        way.transactions()
    (tmp_path / "secret").write_text(SECRET, encoding="ascii")
    (tmp_path / "relayproxy.toml").write_text(
        f"""
state = "{tmp_path / "state"}"

[upstream.sink]
url = "smtp+starttls://localhost:{upstream.ports["smtp+starttls"]}"
ca = "{certificates.ca}"
credentials = {{ user = "{USER}", password_file = "secret" }}
""",
        encoding="utf-8",
    )
    status, told, errors = replayed(tmp_path / "relay" / "relayproxy.db", "sink", cwd=tmp_path)
    assert [(one["same"], one["differences"]) for one in told] == [(True, [])], errors
    assert status == 0
    assert [(one.user, one.tls is not None) for one in wait_for(upstream, 2)] == 2 * [(USER, True)]
    if name == "aiosmtpd":  # what is recorded of the others is no other in this
        assert hears_of_the_mock(tmp_path, certificates, program) == said


def hears_of_the_mock(folder: Path, certificates: Certificates, program: str) -> Said:
    files = certificates.server()
    (folder / "relayproxy.toml").write_text(
        f'state = "{folder / "state"}"\n[tls]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\n',
        encoding="utf-8",
    )
    with mocked(folder / "relay" / "relayproxy.db", folder) as port:
        through = Way("starttls", certificates.ca, Login("PLAIN", USER, SECRET))
        return SECURE_CLIENTS[program](port, Mail(SENDER, KNOWN[0], MESSAGE), folder, through)
