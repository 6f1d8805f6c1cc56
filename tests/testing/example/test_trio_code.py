"""Tests with trio (and pytest-trio)."""

from __future__ import annotations

import pytest
import trio
from app import sign_up


@pytest.mark.trio
async def test_who_signs_up_is_welcomed(relayproxy):
    async with trio.open_nursery() as nursery:
        smtp = (relayproxy.host, relayproxy.port)
        nursery.start_soon(trio.to_thread.run_sync, sign_up, "jane@customer.example", smtp)
        mail = await relayproxy.arrives("recipient:jane@customer.example")
    assert mail.message["Subject"] == "Welcome"
