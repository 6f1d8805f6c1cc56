"""A body on its way into the store, on a disk that hangs (PROTOCOL I11): nobody waits for it without end, and what becomes of it later harms nobody."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from stored_things import SOON

from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.interface import RecordError
from relayproxy.record.store.spool import PATIENCE, Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

NOISE = os.urandom(1 << 20)


class HangingDisk(Bodies):
    """Takes as much of a file as a pipe does, until it `goes_on`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ends: list[int] = []

    def create(self) -> tuple[Path, int]:
        path, descriptor = super().create()
        os.close(descriptor)
        reading, writing = os.pipe()
        self._ends.append(reading)
        return path, writing

    def goes_on(self) -> None:
        while self._ends:
            os.close(self._ends.pop())  # what waits fails


@contextmanager
def hanging(folder: Path) -> Iterator[HangingDisk]:
    disk = HangingDisk(folder / "bodies")
    disk.open()
    try:
        yield disk
    finally:
        disk.goes_on()
        disk.close()


async def test_a_disk_that_hangs_is_waited_for_so_long(tmp_path: Path, autojump_clock: MockClock) -> None:
    del autojump_clock
    with hanging(tmp_path) as disk:
        began = trio.current_time()
        with pytest.raises(RecordError, match="has not answered for 180 s"):
            await Spool(disk, 1000).add(NOISE)
        assert trio.current_time() - began == PATIENCE


async def test_who_is_cancelled_does_not_wait_and_the_file_goes_when_the_disk_returns(tmp_path: Path) -> None:
    with hanging(tmp_path) as disk:
        spool = Spool(disk, 1000)
        with trio.move_on_after(0.01) as scope:
            await spool.add(NOISE)
        assert scope.cancelled_caught
        spool.discard()
        (file,) = disk.folder.glob("*.zst")
        disk.goes_on()
        with trio.fail_after(SOON):
            while file.exists():
                await trio.lowlevel.checkpoint()
