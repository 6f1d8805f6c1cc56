"""Real programs on both sides of relayproxy, which is a real process too; everything on loopback.

With RELAYPROXY_INTEROP_DIRECT=1 the clients speak straight to the upstreams: when a test fails, that tells whether it
would without us.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import pytest
import real_exim
import real_postfix
import real_process
import real_stunnel
import real_upstreams
from real_certificates import Certificates
from real_clients import CLIENTS, Client
from real_relay import Relay, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from real_postfix import PostfixUpstream

DIRECT = os.environ.get("RELAYPROXY_INTEROP_DIRECT") == "1"


@dataclass(frozen=True)
class Route:
    """Where clients connect, and the relay that is there, if one is."""

    port: int
    relay: Relay | None

    def transactions(self) -> list[dict[str, object]]:
        """The relay ends, in good order; its transaction lines."""
        return self.relay.stop() if self.relay else []


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


@pytest.fixture
def start_upstream(request: pytest.FixtureRequest) -> Iterator[StartUpstream]:
    """Starts an upstream by its name."""
    with ExitStack() as stack:

        def start(name: str, refuses: real_upstreams.Refuses = "nothing") -> real_upstreams.Upstream:
            if name == "postfix":
                shared: PostfixUpstream = request.getfixturevalue("postfix")
                shared.clear()
                return shared
            if name == "aiosmtpd":
                return stack.enter_context(real_upstreams.aiosmtpd())
            if name == "exim":
                certificates: Certificates = request.getfixturevalue("certificates")
                return stack.enter_context(real_exim.exim(certificates.server()))
            return stack.enter_context(real_upstreams.smtp_sink(refuses))

        yield start


@pytest.fixture
def start_secure(
    start_upstream: StartUpstream, certificates: Certificates
) -> Iterator[Callable[[str], real_upstreams.SecureUpstream]]:
    """Starts one that can do TLS."""
    with ExitStack() as stack:

        def start(name: str) -> real_upstreams.SecureUpstream:
            files = certificates.server()
            if name in {"postfix", "exim"}:
                return cast("real_upstreams.SecureUpstream", start_upstream(name))
            if name == "stunnel":
                return stack.enter_context(real_stunnel.stunnel(files))
            return stack.enter_context(real_upstreams.aiosmtpd(files))

        yield start


@pytest.fixture(params=["postfix", "exim", "aiosmtpd", "smtp-sink"])
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
        with running(port, tmp_path) as relay:
            yield Route(relay.port, relay)

    return to
