"""`capture:` keeps what came, durable and once, or answers that it could not; octets on disk, which no dialog sees."""

from __future__ import annotations

import resource
import stat
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from relay_on_sockets import END_OF_DATA, serving

if TYPE_CHECKING:
    from pathlib import Path


def kept(state: Path) -> list[Path]:
    """All that lies in the folder of captures, hidden files too."""
    folder = state / "captures"
    return sorted(folder.iterdir()) if folder.exists() else []


async def test_a_message_is_kept_as_it_would_have_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"..Subject: hi\r\n\r\n..\r\n..\r\n.x\r\n\r\n")
        assert kept(tmp_path) == []
        await client.send(b".\r\n")
        code, text = await client.reply()
        (line,) = await relay.log.wait_for("transaction")
    assert (code, text) == (250, f"2.0.0 Captured as {line['transaction']}")
    (path,) = kept(tmp_path)
    assert path.name == f"{line['transaction']}.eml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    trace, _, content = path.read_bytes().partition(b"\r\n.Subject: hi\r\n")
    assert trace.startswith(b"Received: from client.test ([127.0.0.1])\r\n")
    assert content == b"\r\n.\r\n.\r\nx\r\n\r\n"
    assert line["message"]["size"]["sent"] == path.stat().st_size
    assert (line["outcome"], line["upstream"]["name"], line["reply"]["origin"]) == ("accepted", "capture", "proxy")


async def test_a_message_of_many_blocks_and_the_next_one(tmp_path: Path) -> None:
    body = b"".join(b"..%d %s\r\n" % (number, b"x" * 70) for number in range(20_000))
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        for _ in range(2):
            await client.begin_message(b"Subject: long\r\n\r\n" + body)
            await client.send(b".\r\n")
            assert (await client.reply())[0] == 250
    first, second = kept(tmp_path)
    for path in (first, second):
        assert path.read_bytes().endswith(b"Subject: long\r\n\r\n" + body.replace(b"..", b"."))


@pytest.mark.parametrize("octets", [b"Subject: hi\r\n\r\nhalf", b"Subject: hi\r\n\r\n" + b"x\r\n" * 300_000])
async def test_nothing_is_kept_of_a_message_without_its_end(tmp_path: Path, octets: bytes) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(octets)
        await client.stream.aclose()
        (line,) = await relay.log.wait_for("transaction")
        assert line["outcome"] == "aborted"
        await relay.log.wait_for("session", state="closed")
        assert kept(tmp_path) == []


async def test_nothing_is_kept_of_a_message_that_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"Subject: hi\r\n\r\n" + b"x\r\n" * 300_000 + b"bare\nLF")
        await client.send(END_OF_DATA)
        assert (await client.reply())[0] == 554
        assert kept(tmp_path) == []
        assert (await client.message())[0] == 250
        assert len(kept(tmp_path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource limits")
async def test_a_disk_that_cannot_take_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            await client.begin_message(b"Subject: hi\r\n\r\n" + b"x\r\n" * 100_000)
            await client.send(END_OF_DATA)
            code, text = await client.reply()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, text.split()[0]) == (452, "4.3.1")
        assert kept(tmp_path) == []
        (error,) = await relay.log.wait_for("error")
        assert "File too large" in error["what"]
        assert (await client.message())[0] == 250
        refused, accepted = await relay.log.wait_for("transaction", 2)
        assert (refused["outcome"], accepted["outcome"]) == ("tempfailed", "accepted")
        assert len(relay.log.of("error")) == 1
        assert len(kept(tmp_path)) == 1


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        await trio.Path(tmp_path / "captures").write_text("in the way")
        client = await relay.connect()
        await client.hello()
        assert (await client.message())[0] == 451
        assert len(await relay.log.wait_for("error")) == 1
