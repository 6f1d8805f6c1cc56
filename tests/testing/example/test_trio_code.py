"""Tests with trio: the same. With pytest-trio the test itself is `async def`."""

from __future__ import annotations

import trio
from app import sign_up


def test_who_signs_up_is_welcomed(relayproxy):
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            smtp = (relayproxy.host, relayproxy.port)
            nursery.start_soon(trio.to_thread.run_sync, sign_up, "jane@customer.example", smtp)
            mail = await relayproxy.arrives("recipient:jane@customer.example")
        assert mail.message["Subject"] == "Welcome"

    trio.run(run)
