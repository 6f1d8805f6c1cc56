"""Certificates of a test authority, and connected pairs of TLS streams over every kind of transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stream_pairs import poller, transports
from tls_pairs import Files, Pair, client_of, handshake, server_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_contract import MakePair
    from stream_pairs import Transports

    from relayproxy.tls.contexts import ClientTls, ServerTls


__all__ = ["poller", "transports"]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server(files: Files) -> ServerTls:
    return server_of(files)


@pytest.fixture(scope="session")
def client(files: Files) -> ClientTls:
    return client_of(files)


@pytest.fixture(params=["edge-tcp", "trio-tcp", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(server: ServerTls, client: ClientTls, transports: Transports) -> Callable[..., Awaitable[Pair]]:
    """Makes connected TLS streams, the server's first."""

    async def make(*, small: bool = False) -> Pair:
        return await handshake(server, client, transports(small=small))

    return make


@pytest.fixture
def make_pair(pair: MakePair) -> MakePair:
    return pair
