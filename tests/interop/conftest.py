"""Real programs on both sides of relayproxy, which is a real process too; everything on loopback.

With RELAYPROXY_INTEROP_DIRECT=1 the clients speak straight to the upstreams: when a test fails, that tells whether it
would without us.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import pytest
import real_cast
import real_dovecot
import real_exim
import real_haraka
import real_opensmtpd
import real_postfix
import real_process
import real_stunnel
import real_upstreams
from real_certificates import Certificates, Files
from real_clients import CLIENTS, Client, Tls
from real_relay import Relay, Setting, export, running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from real_haraka import HarakaUpstream
    from real_postfix import PostfixUpstream

DIRECT = os.environ.get("RELAYPROXY_INTEROP_DIRECT") == "1"
TABLE = os.environ.get("RELAYPROXY_INTEROP_TABLE") == "1"


def pytest_runtest_setup() -> None:
    real_cast.begins()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Who took part in a test that passed or failed; of one that is skipped nothing is told."""
    report = yield
    if report.failed or (report.when == "call" and report.passed):
        area = item.path.stem.removeprefix("test_").replace("_", " ")
        real_cast.ended(area, passed=report.passed)
    return report


def pytest_sessionfinish(exitstatus: int) -> None:
    """A run that came to its end, whatever it found, tells what it found."""
    if TABLE and not DIRECT and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        real_cast.write()


@dataclass(frozen=True)
class Route:
    """Where clients connect, and the relay that is there, if one is; `ca` signed the certificate that they meet."""

    port: int
    relay: Relay | None
    ca: Path | None = None

    def transactions(self) -> list[dict[str, object]]:
        """The relay ends, in good order; its transaction lines."""
        return self.relay.stop() if self.relay else []


class Authority(NamedTuple):
    """What signs the certificates that relays mint: where it is kept, and its own certificate."""

    state: Path
    certificate: Path


class StartUpstream(Protocol):
    def __call__(self, name: str, refuses: real_upstreams.Refuses = "nothing") -> real_upstreams.Upstream: ...


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    with real_process.folder() as work:
        yield Certificates(work)


@pytest.fixture(scope="session")
def postfix(certificates: Certificates) -> Iterator[PostfixUpstream]:
    with real_postfix.postfix(certificates.server()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def haraka(certificates: Certificates) -> Iterator[HarakaUpstream]:
    with real_haraka.haraka(certificates.server()) as upstream:
        yield upstream


@pytest.fixture
def start_upstream(request: pytest.FixtureRequest) -> Iterator[StartUpstream]:
    """Starts an upstream by its name."""
    fresh: dict[str, Callable[[Files], AbstractContextManager[real_upstreams.SecureUpstream]]] = {
        "exim": real_exim.exim,
        "dovecot-submission": real_dovecot.submission,
    }
    with ExitStack() as stack:

        def start(name: str, refuses: real_upstreams.Refuses = "nothing") -> real_upstreams.Upstream:
            if name in {"postfix", "haraka"}:
                shared: PostfixUpstream | HarakaUpstream = request.getfixturevalue(name)
                shared.clear()
                return shared
            if name == "aiosmtpd":
                return stack.enter_context(real_upstreams.aiosmtpd())
            if name == "opensmtpd":
                return stack.enter_context(real_opensmtpd.opensmtpd())
            if name in fresh:
                certificates: Certificates = request.getfixturevalue("certificates")
                return stack.enter_context(fresh[name](certificates.server()))
            return stack.enter_context(real_upstreams.smtp_sink(refuses))

        yield start


class StartSecure(Protocol):
    def __call__(self, name: str) -> real_upstreams.SecureUpstream: ...


@pytest.fixture
def start_secure(start_upstream: StartUpstream, certificates: Certificates) -> Iterator[StartSecure]:
    """Starts one that can do TLS."""
    with ExitStack() as stack:

        def start(name: str) -> real_upstreams.SecureUpstream:
            files = certificates.server()
            if name == "aiosmtpd":
                return stack.enter_context(real_upstreams.aiosmtpd(files))
            if name == "stunnel":
                return stack.enter_context(real_stunnel.stunnel(files))
            return cast("real_upstreams.SecureUpstream", start_upstream(name))

        yield start


@pytest.fixture(params=["postfix", "exim", "opensmtpd", "haraka", "aiosmtpd", "smtp-sink"])
def upstream(request: pytest.FixtureRequest, start_upstream: StartUpstream) -> real_upstreams.Upstream:
    """Each of them in turn."""
    return start_upstream(request.param)


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Client:
    """Each of them in turn."""
    return CLIENTS[request.param]


@pytest.fixture
def route(tmp_path: Path) -> Callable[[int], AbstractContextManager[Route]]:
    """relayproxy in front of an upstream's port."""

    @contextmanager
    def to(port: int) -> Iterator[Route]:
        if DIRECT:
            yield Route(port, None)
            return
        with running(Setting.in_clear(port), tmp_path) as relay:
            yield Route(relay.port, relay)

    return to


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    """One for all relays: to export its certificate takes a process of its own."""
    with real_process.folder() as work:
        yield Authority(work / "state", export(work / "state", work))


class SecureRoutes(Protocol):
    def __call__(
        self, ports: Mapping[real_upstreams.Scheme, int], scheme: real_upstreams.Scheme, tls: Tls, /, **lines: str
    ) -> AbstractContextManager[Route]: ...


@pytest.fixture
def secure_route(tmp_path: Path, certificates: Certificates, request: pytest.FixtureRequest) -> SecureRoutes:
    """relayproxy in front of an upstream, with TLS on the legs that are to have it; `lines` as in Setting, or the host."""
    directly: dict[Tls, real_upstreams.Scheme] = {"off": "smtp", "starttls": "smtp+starttls", "implicit": "smtps"}

    @contextmanager
    def to(
        ports: Mapping[real_upstreams.Scheme, int], scheme: real_upstreams.Scheme, tls: Tls, /, **lines: str
    ) -> Iterator[Route]:
        if DIRECT:
            yield Route(ports[directly[tls]], None, certificates.ca)
            return
        authority: Authority = request.getfixturevalue("authority")
        lines["listener"] = f'tls = "{tls}"\n{lines.get("listener", "")}'
        if scheme != "smtp":
            lines["upstream"] = f'ca = "{certificates.ca}"\n{lines.get("upstream", "")}'
        host = lines.pop("host", "localhost")
        setting = Setting(f"{scheme}://{host}:{ports[scheme]}", state=authority.state, **lines)
        work = tmp_path / "relay"  # nobody else writes here
        work.mkdir()
        with running(setting, work) as relay:
            yield Route(relay.port, relay, authority.certificate)

    return to
