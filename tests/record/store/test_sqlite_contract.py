"""SQLite keeps what every store promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conformance import StoreContract

from relayproxy.record.store.sqlite import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.record.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return open_store(f"sqlite:{tmp_path}/store.db")


class TestSqlite(StoreContract):
    pass
