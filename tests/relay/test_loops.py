"""Mail that has passed a relay before is refused by it, and by no other (PROTOCOL §1.8, attack 31)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from relay_on_sockets import END_OF_DATA, serving, upstream_server

if TYPE_CHECKING:
    from pathlib import Path

    from relay_on_sockets import Running

BEEN_HERE = (554, "5.4.6 Mail loop: the message has passed this relay before")


async def sent_through(relay: Running, message: bytes, at: int = 0) -> tuple[int, str]:
    client = await relay.connect(at)
    await client.hello()
    await client.begin_message(message)
    await client.send(END_OF_DATA)
    return await client.reply()


def as_it_left(conversation: bytearray) -> bytes:
    return bytes(conversation).partition(b"DATA\r\n")[2].partition(END_OF_DATA)[0]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "unix:{}/relay"])
async def test_two_relays_of_one_state_folder_are_two(tmp_path: Path, address: str) -> None:
    async with serving(tmp_path) as second:
        url = f"smtp://{second.addresses[0]}"
        async with serving(tmp_path, addresses=(address.format(tmp_path),), upstream_url=url) as first:
            assert (await sent_through(first, b"Subject: hi\r\n\r\nto the end"))[0] == 250


async def test_what_comes_back_is_known_by_the_same_listener_of_the_same_relay_also_after_a_restart(
    tmp_path: Path,
) -> None:
    """Whatever stands in between: here a server that sends on all that it gets."""
    address = f"unix:{tmp_path / 'relay'}"
    async with upstream_server() as upstream:
        async with serving(tmp_path, addresses=(address, "127.0.0.1:0"), upstream=upstream) as relay:
            assert (await sent_through(relay, b"Subject: hi\r\n\r\nround and round"))[0] == 250
            back = b"Received: from the relay by something else; z\r\n" + as_it_left(upstream.conversations[0])
            assert await sent_through(relay, back) == BEEN_HERE
            assert (await sent_through(relay, back, at=1))[0] == 250
        async with serving(tmp_path, addresses=(address,), upstream=upstream) as again:
            assert await sent_through(again, back) == BEEN_HERE
            (told,) = await again.log.wait_for("violation")
            _, _, own = told["what"].partition("the message has been here before: a Received field has the id ")
            assert f"id {own}\r\n".encode() in back
