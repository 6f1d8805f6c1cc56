"""What waits comes back as it was, any number of times, and memory is bounded."""

from __future__ import annotations

import os
import resource
import signal
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from relayproxy.net.spool import BLOCK, Spool, SpoolError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZES = [
    # memory, pieces
    (0, []),
    (0, [b"x"]),
    (100, [b"x" * 100]),
    (100, [b"x" * 100, b"y"]),
    (100, [b"a", b"", b"b" * 300, b"c" * 5]),
    (2 * BLOCK, [os.urandom(3 * BLOCK + 7)]),
    (1000, [os.urandom(999)] * 1500),
]


@pytest.mark.parametrize(("memory", "pieces"), SIZES)
async def test_it_comes_back_as_often_as_asked(memory: int, pieces: list[bytes], tmp_path: Path) -> None:
    spool = Spool(memory, tmp_path)
    for piece in pieces:
        await spool.add(piece)
    assert spool.size == sum(map(len, pieces))
    for _ in range(2):
        read = [piece async for piece in spool.pieces()]
        assert b"".join(read) == b"".join(pieces)
        assert max(map(len, read), default=0) <= BLOCK
    spool.close()
    assert spool.size == 0
    spool.close()


async def test_its_file_has_no_name_and_nobody_else_can_open_it(tmp_path: Path) -> None:
    spool = Spool(10, tmp_path)
    await spool.add(b"x" * 10)
    assert _open_files(tmp_path) == []  # still in memory
    await spool.add(b"x")
    assert [(file.st_mode & 0o777, file.st_nlink, file.st_size) for file in _open_files(tmp_path)] == [(0o600, 0, 11)]
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - no need of a thread
    spool.close()
    with trio.fail_after(5):
        while _open_files(tmp_path):  # noqa: ASYNC110 - a thread closes it and tells nobody
            await trio.sleep(0.001)


def _open_files(folder: Path) -> list[os.stat_result]:
    """This process's, in that folder."""
    found = []
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no need of a path
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder)):  # noqa: PTH115 - what is gone has no path
                found.append(os.fstat(int(fd)))
    return found


async def test_memory_is_bounded_whatever_the_pieces(tmp_path: Path) -> None:
    spool = Spool(BLOCK, tmp_path)
    large, small = b"x" * 65536, b"y"
    await spool.add(large)
    tracemalloc.start()
    for _ in range(100):
        await spool.add(large)
    for _ in range(3000):
        await spool.add(small)
    async for _ in spool.pieces():
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * BLOCK
    spool.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system refuses to let a file grow past half a block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, was)


@pytest.mark.usefixtures("small_files")
async def test_no_room_is_told_as_such(tmp_path: Path) -> None:
    spool = Spool(10, tmp_path)
    with pytest.raises(SpoolError, match=f"{tmp_path}: File too large") as caught:
        await spool.add(b"x" * BLOCK)
    assert caught.value.full
    spool.close()


async def test_what_failed_is_written_with_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "not there"
    spool = Spool(1, folder)
    with pytest.raises(SpoolError, match="No such file") as caught:
        await spool.add(b"one")
    assert not caught.value.full
    folder.mkdir()
    await spool.add(b"two")
    assert [piece async for piece in spool.pieces()] == [b"onetwo"]
    spool.close()


async def test_what_a_cancelled_task_added_is_there(tmp_path: Path) -> None:
    spool = Spool(1, tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await spool.add(b"one")
    await spool.add(b"two")
    assert [piece async for piece in spool.pieces()] == [b"onetwo"]
    spool.close()
