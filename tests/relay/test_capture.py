"""`capture:` keeps what came in the store, durable and once, or answers that it could not; octets on disk, which no dialog sees."""

from __future__ import annotations

import resource
import stat
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import trio
from kept_mail import kept
from relay_on_sockets import END_OF_DATA, relay_process, serving, until_stored, upstream_server

from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path


STORE = "relayproxy.db"


async def test_a_message_is_kept_as_it_would_have_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"..Subject: hi\r\n\r\n..\r\n..\r\n.x\r\n\r\n")
        assert kept(tmp_path / STORE) == []
        await client.send(b".\r\n")
        code, text = await client.reply()
        (line,) = await relay.log.wait_for("transaction")
    assert (code, text) == (250, f"2.0.0 Captured as {line['transaction']}")
    ((stored, octets),) = kept(tmp_path / STORE)
    assert stored.record.transaction == line["transaction"]
    assert stat.S_IMODE((tmp_path / STORE).stat().st_mode) == 0o600
    trace, _, content = octets.partition(b"\r\n.Subject: hi\r\n")
    assert trace.startswith(b"Received: from client.test ([127.0.0.1])\r\n")
    assert content == b"\r\n.\r\n.\r\nx\r\n\r\n"
    assert line["message"]["size"]["sent"] == len(octets)
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
    (_, first), (_, second) = kept(tmp_path / STORE)
    for octets in (first, second):
        assert octets.endswith(b"Subject: long\r\n\r\n" + body.replace(b"..", b"."))
    bodies = [path for path in (tmp_path / "relayproxy.db-bodies").iterdir() if path.suffix == ".zst"]
    assert len(bodies) == 1, "kept once"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in bodies)


@pytest.mark.parametrize("octets", [b"Subject: hi\r\n\r\nhalf", b"Subject: hi\r\n\r\n" + b"x\r\n" * 600_000])
async def test_a_message_without_its_end_is_told_as_such(tmp_path: Path, octets: bytes) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(octets)
        await client.stream.aclose()
        (line,) = await relay.log.wait_for("transaction")
        assert line["outcome"] == "aborted"
        await relay.log.wait_for("session", state="closed")
    with SqliteStore(tmp_path / STORE).reader() as reader:
        (stored,) = reader.transactions()
        assert stored.record.outcome == "aborted"
        assert stored.message is not None
        assert not stored.message.whole
        came = b"".join(reader.message(stored) or ())
        assert came
        assert octets.startswith(came)


async def test_whatever_is_left_out_of_records_it_is_kept_whole(tmp_path: Path) -> None:
    record = {"messages": "none", "redact": ["subject", "body"], "commit": "behind"}
    async with serving(tmp_path, record=record) as relay:
        client = await relay.connect()
        await client.hello()
        assert (await client.message())[0] == 250
        (line,) = await relay.log.wait_for("transaction")
    assert line["message"]["subject"] == "<redacted 2>"
    ((_, octets),) = kept(tmp_path / STORE)
    assert b"Subject: hi" in octets


@pytest.mark.slow
@pytest.mark.parametrize("commit", ["before-dot", "behind"])
@pytest.mark.parametrize("whole", [True, False])
async def test_what_need_not_be_kept_in_the_end_is_gone(tmp_path: Path, *, whole: bool, commit: str) -> None:
    """While the guard might have had it kept, it waited on disk."""
    noise = b"".join(sha256(b"%d" % number).hexdigest().encode() + b"\r\n" for number in range(20_000))
    toml = f"""
[record]
store = "sqlite:{tmp_path}/kept.db"
messages = "digest"
commit = "{commit}"
[guard]
allow = ["*@upstream.test"]
otherwise = "capture"
[limits]
spool_memory = "10KiB"
"""
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml=toml) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"Subject: hi\r\n\r\n" + noise)
        await upstream.until(lambda: upstream.octets > len(noise) // 2)
        if whole:
            await client.send(END_OF_DATA)
            assert (await client.reply())[0] == 250
        await client.stream.aclose()
        await relay.tells("session", state="closed")
        relay.terminate()
        assert await relay.ended() == 0
    (stored,) = await until_stored(tmp_path / "kept.db", 1)
    assert stored.message is None
    assert [path.name for path in (tmp_path / "kept.db-bodies").glob("*.zst")] == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource limits")
async def test_a_disk_that_cannot_take_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
        try:
            noise = b"".join(sha256(b"%d" % number).hexdigest().encode() + b"\r\n" for number in range(40_000))
            await client.begin_message(b"Subject: hi\r\n\r\n" + noise)
            await client.send(END_OF_DATA)
            code, text = await client.reply()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, text.split()[0]) == (452, "4.3.1")
        assert kept(tmp_path / STORE) == []
        (error, *_) = await relay.log.wait_for("error")
        assert "File too large" in error["what"]
        with trio.fail_after(10):
            # It is removed in a thread, which tells nobody.
            while left := [*(tmp_path / f"{STORE}-bodies").glob("*.zst")]:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert not left
        with trio.fail_after(10):
            while (await client.message())[0] != 250:
                await client.say("RSET")
    assert len(kept(tmp_path / STORE)) == 1


@pytest.mark.parametrize("pieces", [
    # RFC 3030: a chunk may begin with a dot, and what is stuffed for DATA is no part of the message.
    [b"BDAT 24\r\nSubject: x\r\n\r\nline one\r\n", b"BDAT 13 LAST\r\n.dot\r\n..two\r\n"],
    [b"BDAT 13\r\nSubject: x\r\n\r", b"BDAT 2\r\n\nl", b"BDAT 9\r\nine one\r\n", b"BDAT 1\r\n.", b"BDAT 12 LAST\r\ndot\r\n..two\r\n"],
])  # fmt: skip
async def test_a_message_in_chunks_is_kept_as_it_came(tmp_path: Path, pieces: list[bytes]) -> None:
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.envelope()
        for piece in pieces:
            await client.send(piece)
            assert (await client.reply())[0] == 250
        (line,) = await relay.log.wait_for("transaction")
    ((_, content),) = kept(tmp_path / STORE)
    assert content.endswith(b"Subject: x\r\n\r\nline one\r\n.dot\r\n..two\r\n")
    assert line["message"]["size"]["sent"] == len(content)
    header, body = content.split(b"\r\n\r\n", 1)
    assert line["message"]["digest"]["sent"]["body"] == sha256(body).hexdigest()
    assert line["message"]["digest"]["sent"]["header"] == sha256(header + b"\r\n").hexdigest()
