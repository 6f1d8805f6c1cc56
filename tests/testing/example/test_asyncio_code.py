"""Tests with asyncio: the same, but that mail is awaited. With pytest-asyncio or anyio the test itself is `async def`."""

from __future__ import annotations

import asyncio

from app import sign_up


def test_who_signs_up_is_welcomed(relayproxy):
    async def run() -> None:
        signing_up = asyncio.to_thread(sign_up, "jane@customer.example", (relayproxy.host, relayproxy.port))
        mail, _ = await asyncio.gather(relayproxy.arrives("recipient:jane@customer.example"), signing_up)
        assert mail.message["Subject"] == "Welcome"

    asyncio.run(run())
