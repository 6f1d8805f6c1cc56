"""PROTOCOL §4, column DF, on a disk that is really full: nothing passes unrecorded, what upstream has taken is never refused, and it recovers by itself."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import trio
from kept_mail import kept
from relay_on_sockets import END_OF_DATA, serving, upstream_server

from relayproxy.record.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay_on_sockets import Client, Running

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


async def fill(client: Client, size: int) -> list[str]:
    """Send until it is refused; who sent what was accepted, in order."""
    codes = [250]
    with trio.fail_after(60):
        while codes[-1] == 250:
            codes.append(await send(client, f"m{len(codes)}", size))
    assert codes[-1] == 452
    return [f"m{number}" for number in range(1, len(codes) - 1)]


def take_all(disk: Path) -> Path:
    """A file with all the room that is left."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return filler


async def until_taken(relay: Running, name: str) -> None:
    """Send until it is accepted."""
    with trio.fail_after(30):
        while True:
            client = await relay.connect()
            if (await client.reply())[0] == 220:
                await client.say("EHLO client.test")
                if await send(client, name) == 250:
                    return
            await trio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("size", [60_000, 900_000], ids=["rows", "files"])
async def test_a_full_disk_is_made_room_on_by_keep_from_a_start_on(size: int) -> None:
    with small_disk(8 * MIB) as disk, TemporaryDirectory() as state:
        store = f"sqlite:{disk / 'relay.db'}"
        async with upstream_server() as upstream:
            async with serving(Path(state), upstream=upstream, record={"store": store}) as relay:
                client = await relay.connect()
                await client.hello()
                accepted = await fill(client, size)
            take_all(disk)
            record = {"store": store, "keep": {"bytes": "2MiB"}}
            async with serving(Path(state), upstream=upstream, record=record) as relay:
                await until_taken(relay, "again")
        with SqliteStore(disk / "relay.db").reader() as reader:
            told = [stored.record.message for stored in reader.transactions()]
        subjects = [message.subject for message in told if message is not None]
        left = [name for name in subjects if name in accepted]
        assert left
        assert left == accepted[-len(left) :], "the oldest went, and nothing else"
        assert subjects[-1] == "again"


@pytest.mark.slow
async def test_keep_holds_on_a_small_disk_from_the_first_message() -> None:
    with small_disk(8 * MIB) as disk, TemporaryDirectory() as state:
        record = {"store": f"sqlite:{disk / 'relay.db'}", "keep": {"bytes": "2MiB"}}
        async with upstream_server() as upstream, serving(Path(state), upstream=upstream, record=record) as relay:
            client = await relay.connect()
            await client.hello()
            for number in range(200):
                assert await send(client, f"m{number}", 60_000) == 250


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["refuse", "continue"])
async def test_a_full_disk_keeps_no_relay_from_starting(on_failure: str) -> None:
    with small_disk(4 * MIB) as disk, TemporaryDirectory() as state:
        filler = take_all(disk)
        record = {"store": f"sqlite:{disk / 'relay.db'}", "on_failure": on_failure}
        async with upstream_server() as upstream, serving(Path(state), upstream=upstream, record=record) as relay:
            client = await relay.connect()
            if on_failure == "refuse":
                assert (await client.reply())[1].startswith("4.3.2")
            else:
                await client.hello()
                assert await send(client, "unrecorded") == 250
            filler.unlink()
            await until_taken(relay, "later")
        told = [stored.record.message for stored, _ in kept(disk / "relay.db")]
        assert told[-1] is not None
        assert told[-1].subject == "later"


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


@pytest.mark.slow
async def test_what_does_not_fit_keeps_no_other_record_out() -> None:
    with small_disk(5 * MIB) as disk, TemporaryDirectory() as state:
        record = {"store": f"sqlite:{disk / 'relay.db'}", "on_failure": "continue"}
        async with upstream_server() as upstream, serving(Path(state), upstream=upstream, record=record) as relay:
            client = await relay.connect()
            await client.hello()
            sent = [*(f"large-{number}" for number in range(12)), *(f"small-{number}" for number in range(5))]
            for name in sent:
                assert await send(client, name, 1_000_000 if name.startswith("large") else 2) == 250
        with SqliteStore(disk / "relay.db").reader() as reader:
            told = {stored.record.message.subject: stored for stored in reader.transactions() if stored.record.message}
    assert list(told) == sent
    assert {stored.record.outcome for stored in told.values()} == {"accepted"}
    whole = {name: stored.message is not None and stored.message.body is not None for name, stored in told.items()}
    assert whole["large-0"]
    assert not whole["large-11"]
    for stored in told.values():
        assert stored.record.message is not None
        assert stored.record.message.truncated is True or whole[stored.record.message.subject or ""]
