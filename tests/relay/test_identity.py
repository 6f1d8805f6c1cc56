"""The installation's name: made once, kept, and never half of one."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from relayproxy.relay.identity import instance

if TYPE_CHECKING:
    from pathlib import Path


def test_the_name_is_made_once(tmp_path: Path) -> None:
    state = tmp_path / "of" / "ours"
    name = instance(state)
    assert re.fullmatch("[0-9a-z]{10}", name)
    assert instance(state) == name
    assert [entry.name for entry in state.iterdir()] == ["instance"]
    assert instance(tmp_path) != name


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_name_that_is_there_is_taken(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "instance").write_bytes(b"0123456xyz" + end)
    assert instance(tmp_path) == "0123456xyz"


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (b"", "found nothing"),
        (b"\n", r"found '\\n'"),
        (b"012345678\n", "found '012345678"),
        (b"0123456789a\n", "found '0123456789a"),
        (b"012345678A\n", "found '012345678A"),
        (b"01234 6789\n", "found '01234 6789"),
        ("012345678é".encode(), r"found '012345678\\"),
        (b"0" * 1_000_000, "found '0{64}'"),
    ],
)
def test_what_is_no_name_is_told_so(tmp_path: Path, found: bytes, shown: str) -> None:
    (tmp_path / "instance").write_bytes(found)
    with pytest.raises(OSError, match=rf"instance: expected 10 characters of 0-9 and a-z, {shown}"):
        instance(tmp_path)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            instance(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert instance(tmp_path)
