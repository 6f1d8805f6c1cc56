"""Rule files from disk (DESIGN §6): rules, their tests, the lists of patterns that they name, and Python files with functions.

    loaded = load(["rules/staging.toml", "relayproxy:staging-redirect"])
    loaded.rules.evaluate(...); loaded.cases; loaded.files

Invariants: either all of it is right, or none of it is taken and all that is wrong is told (RuleError). The only I/O of rules is here, but for what a Python file itself does.
How what stands in the files is read does not belong here (rule_syntax.py, python_file.py), nor when to read them again (`files` says what to look at).
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from relayproxy.rules.case_syntax import cases
from relayproxy.rules.python_file import PythonFileError, functions, is_python
from relayproxy.rules.rule_syntax import rules
from relayproxy.rules.ruleset import RuleSet
from relayproxy.rules.stages import problems
from relayproxy.rules.syntax import Lines, Source, Written
from relayproxy.rules.wording import nearest, not_toml, too_deep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relayproxy.rules.case_syntax import Case
    from relayproxy.rules.rule import Rule

#: Before the name of rules that come with relayproxy.
SHIPPED: Final = "relayproxy:"
FILE_KEYS: Final = ("rule", "test")
_PACKAGE: Final = Path(str(resources.files("relayproxy.rules")))

#: Time of the last change, size and inode; None: there was no such file.
Stamp: TypeAlias = tuple[int, int, int] | None


class RuleError(ValueError):
    """What is wrong with rule files, a line each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class Loaded(msgspec.Struct, frozen=True):
    """`files`: all that were read, lists of patterns too, each with its stamp from before it was."""

    rules: RuleSet
    cases: tuple[Case, ...]
    files: Mapping[Path, Stamp]


def load(sources: Iterable[str | Path]) -> Loaded:
    """The rules of these files, in order; `relayproxy:NAME` is a file that is shipped. Raises RuleError."""
    reading = _Reading()
    for source in sources:
        reading.read(str(source))
    reading.wrong += [f"{rule.where}: at: {what}" for rule, what in problems(reading.rules)]
    if reading.wrong:
        raise RuleError(dict.fromkeys(reading.wrong))
    return Loaded(RuleSet(tuple(reading.rules)), tuple(reading.cases), reading.files)


def stamp(file: Path) -> Stamp:
    """What tells a file that has changed from one that has not."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def shipped(package: Path = _PACKAGE) -> Path:
    """The folder of shipped rule files: in the package where it was installed, else at the top of the source tree."""
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent.parent / "rules"


class _Reading:
    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.cases: list[Case] = []
        self.files: dict[Path, Stamp] = {}
        self.wrong: list[str] = []
        self._names: dict[str, str] = {}
        self._lists: dict[Path, Lines] = {}
        self._python: set[Path] = set()

    def read(self, source: str) -> None:
        if is_python(source):
            self._read_python(source)
            return
        try:
            path = path_of(source)
            text = self._text(path)
            content: dict[str, Any] = tomllib.loads(text)
            reader = Source(source, text, lambda name: self._list(path.parent, name))
        except tomllib.TOMLDecodeError as error:
            self.wrong.append(not_toml(source, str(error)))
        except RecursionError:
            self.wrong.append(too_deep(source))
        except ValueError as error:
            self.wrong.append(f"{source}: {error}")
        else:
            written = Written(content, (), reader)
            written.table(FILE_KEYS)
            self.rules += rules(written, self._names)
            self.cases += cases(written)
            found = sorted(dict.fromkeys(reader.complaints), key=lambda one: (one.file != source, one.file, one.line))
            self.wrong += map(str, found)

    def _read_python(self, source: str) -> None:
        path = Path(source)
        try:
            if (at := path.resolve()) in self._python:
                self.wrong.append(f"{source}: expected each Python file once, got it again")
                return
            self._python.add(at)
            self.rules += functions(source, path, self._text(path))
        except PythonFileError as error:
            self.wrong += error.lines
        except (OSError, ValueError) as error:
            self.wrong.append(f"{source}: {error}")

    def _text(self, path: Path) -> str:
        """Raises ValueError."""
        self.files.setdefault(path, stamp(path))  # before: what changes meanwhile has changed since
        try:
            octets = path.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        try:
            return octets.decode()
        except UnicodeDecodeError as error:
            line = octets.count(b"\n", 0, error.start) + 1
            raise ValueError(f"expected UTF-8, found the byte 0x{octets[error.start]:02x} in line {line}") from error

    def _list(self, folder: Path, name: str) -> Lines:
        path = folder / name
        if path not in self._lists:
            try:
                self._lists[path] = Lines(str(path), self._text(path).split("\n"))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        return self._lists[path]


def path_of(source: str) -> Path:
    """Where a file is. Raises ValueError."""
    if not source.startswith(SHIPPED):
        return Path(source)
    name = source.removeprefix(SHIPPED)
    known = {path.stem: path for path in shipped().glob("*.toml")}
    if name not in known:
        raise ValueError(f"expected the name of a rule file that is shipped; {nearest(name, known)}")
    return known[name]
