"""PROTOCOL §4, column DF, on a disk that is really full: nothing passes unrecorded, what upstream has taken is never refused, and it recovers by itself."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import trio
from kept_mail import kept
from relay_on_sockets import END_OF_DATA, serving, upstream_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay_on_sockets import Client

MIB = 1 << 20


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A file system of so many octets, or a skip."""
    with TemporaryDirectory(prefix="relayproxy-disk-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


async def send(client: Client, name: str, size: int = 200_000) -> int:
    """A message that nothing makes smaller; the code of the first refusal, or of the last reply."""
    for line in ("MAIL FROM:<a@client.test>", "RCPT TO:<b@upstream.test>", "DATA"):
        code, _ = await client.say(line)
        if code >= 400:
            return code
    noise = os.urandom(size // 2).hex().encode()
    lines = b"\r\n".join(noise[at : at + 76] for at in range(0, len(noise), 76))
    await client.send(b"Subject: %b\r\n\r\n%b" % (name.encode(), lines))
    await client.send(END_OF_DATA)
    return (await client.reply())[0]


@pytest.mark.slow
async def test_a_full_disk_refuses_for_now_and_recovers() -> None:
    with small_disk(6 * MIB) as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(3 * MIB))
        record = {"store": f"sqlite:{disk / 'relay.db'}"}
        async with upstream_server() as upstream, serving(disk / "state", upstream=upstream, record=record) as relay:
            client = await relay.connect()
            await client.hello()
            codes: list[int] = []
            with trio.fail_after(30):
                while not codes or codes[-1] == 250:
                    codes.append(await send(client, f"m{len(codes)}"))
            accepted = codes.count(250)
            assert codes[-1] == 452
            assert upstream.messages == accepted, "no dot of what was refused has left"
            assert (await client.say("RSET"))[0] == 250
            assert await send(client, "next") == 452, "nor is a next one begun"
            await relay.log.wait_for("error", where="record")
            filler.unlink()
            with trio.fail_after(20):
                while (greeting := await (later := await relay.connect()).reply())[0] != 220:
                    assert (greeting[0], greeting[1][:5]) == (421, "4.3.2")
                    await trio.sleep(0.05)  # it tries by itself, twice a second
            assert (await later.say("EHLO client.test"))[0] == 250
            assert await send(later, "again") == 250
            assert upstream.messages == accepted + 1
        subjects = [stored.record.message.subject for stored, _ in kept(disk / "relay.db") if stored.record.message]
    assert subjects == [*(f"m{number}" for number in range(accepted)), "again"]


@pytest.mark.slow
async def test_mail_passes_unrecorded_where_that_is_asked_for() -> None:
    with small_disk(6 * MIB) as disk:
        (disk / "filler").write_bytes(bytes(3 * MIB))
        record = {"store": f"sqlite:{disk / 'relay.db'}", "on_failure": "continue"}
        async with upstream_server() as upstream, serving(disk / "state", upstream=upstream, record=record) as relay:
            client = await relay.connect()
            await client.hello()
            for number in range(30):
                assert await send(client, f"m{number}") == 250
            assert upstream.messages == 30
            lines = await relay.log.wait_for("transaction", 30)
            await relay.log.wait_for("error", where="record")
    truncated = [line["message"].get("truncated", False) for line in lines]
    assert not truncated[0]
    assert truncated[-1]
