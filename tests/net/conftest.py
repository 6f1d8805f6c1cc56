"""Connected pairs of streams, of every kind that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stream_pairs import poller, transports

if TYPE_CHECKING:
    from stream_contract import MakePair
    from stream_pairs import Transport, Transports

__all__ = ["poller", "transports"]


@pytest.fixture(params=["edge-tcp", "edge-unix", "trio-tcp", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(transports: Transports) -> Transports:
    return transports


@pytest.fixture
def make_pair(transports: Transports) -> MakePair:
    async def make(*, small: bool = False) -> Transport:
        return transports(small=small)

    return make
