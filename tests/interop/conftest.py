"""Real programs on both sides of relayproxy, which is a real process too; everything on loopback.

With RELAYPROXY_INTEROP_DIRECT=1 the clients speak straight to the upstreams: when a test fails, that tells whether it
would without us.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest
import real_upstreams
from real_clients import CLIENTS, Client
from real_relay import Relay, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

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
def postfix() -> Iterator[real_upstreams.PostfixUpstream]:
    with real_upstreams.postfix() as upstream:
        yield upstream


@pytest.fixture
def start_upstream(request: pytest.FixtureRequest) -> Iterator[StartUpstream]:
    """Starts an upstream by its name."""
    with ExitStack() as stack:

        def start(name: str, refuses: real_upstreams.Refuses = "nothing") -> real_upstreams.Upstream:
            if name == "postfix":
                shared: real_upstreams.PostfixUpstream = request.getfixturevalue("postfix")
                shared.clear()
                return shared
            if name == "aiosmtpd":
                return stack.enter_context(real_upstreams.aiosmtpd())
            return stack.enter_context(real_upstreams.smtp_sink(refuses))

        yield start


@pytest.fixture(params=["postfix", "aiosmtpd", "smtp-sink"])
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
