"""`capture:` keeps what came, durable and once, or answers that it could not; octets on disk, which no dialog sees."""

from __future__ import annotations

import resource
import stat
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from relay_on_sockets import END_OF_DATA, serving

from relayproxy.relay.capture import CaptureUpstream
from relayproxy.smtp.data import stuff


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


@pytest.mark.parametrize("pieces", [
    # RFC 3030: a chunk may begin with a dot, and what is stuffed for DATA is no part of the file.
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
    (path,) = kept(tmp_path)
    content = path.read_bytes()
    assert content.endswith(b"Subject: x\r\n\r\nline one\r\n.dot\r\n..two\r\n")
    assert line["message"]["size"]["sent"] == len(content)
    header, body = content.split(b"\r\n\r\n", 1)
    assert line["message"]["digest"]["sent"]["body"] == sha256(body).hexdigest()
    assert line["message"]["digest"]["sent"]["header"] == sha256(header + b"\r\n").hexdigest()


@given(st.lists(st.sampled_from([b".", b"..", b"\r\n", b"x", b"\r\n."]), max_size=12), st.data())
async def test_however_a_message_is_cut_the_file_is_the_same(parts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(parts) + b"\r\n"
    wire = stuff(content)
    with TemporaryDirectory() as folder:
        upstream = CaptureUpstream("capture", Path(folder))
        await upstream.start_data("ID")
        while wire:
            # Slices never end inside of a CRLF or of CRLF "." (smtp/data.py): a CR, or a dot that is stuffing, has company.
            size = data.draw(st.integers(1, len(wire)))
            while size < len(wire) and (wire[size - 1 : size] == b"\r" or wire[:size].endswith(b"\r\n.")):
                size += 1
            await upstream.send(wire[:size])
            wire = wire[size:]
        assert (await upstream.finish(b"")).code == 250
        assert (Path(folder) / "ID.eml").read_bytes() == content
