"""Every store keeps what all promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conformance import StoreContract

from relayproxy.record.store.opening import store_at
from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relayproxy.record.store.opening import Store


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield SqliteStore(tmp_path / "store.db")
        return
    with request.getfixturevalue("postgresql").store() as url:
        yield store_at(url, tmp_path / "waiting")


class TestStores(StoreContract):
    pass
