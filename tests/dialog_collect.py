"""Each tests/dialogs/*.dialog is a test, and a second one with what peers send cut into single octets (dialog_runner.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from dialog_runner import DialogMismatch, play
from dialog_script import is_whole

from relayproxy.record.dialog import DialogError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class DialogItem(pytest.Item):
    def __init__(self, *, bytewise: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bytewise = bytewise
        self.obj = play  # pytest-trio looks at every item's function

    def runtest(self) -> None:
        play(self.path.read_text(encoding="utf-8"), bytewise=self._bytewise)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, DialogMismatch | DialogError):
            return f"{self.path}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


class DialogFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        text = self.path.read_text(encoding="utf-8")
        yield DialogItem.from_parent(self, name=self.path.stem)
        if not is_whole(text):
            yield DialogItem.from_parent(self, name=f"{self.path.stem}[bytewise]", bytewise=True)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".dialog":
        return DialogFile.from_parent(parent, path=file_path)
    return None
