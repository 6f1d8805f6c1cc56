"""What a dialog says about the log and the store: `@ record PATH = JSON`, `@ kept PATH = JSON` and `@ log EVENT KEY=VALUE ...`, compared with what there is."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

_ABSENT = object()
_KEPT = (["header"], ["body"], ["whole"], ["sent"], ["sent", "header"], ["sent", "body"])


class FactError(ValueError):
    """A note cannot be read: what was expected."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """A fact that does not hold; `number` is the line of the dialog, 0 where none is to blame."""

    number: int
    expected: str
    found: str


@dataclass(slots=True)
class Facts:
    """Consecutive `@ record` and `@ kept` lines speak of one transaction line, the next group of the next one."""

    records: list[list[tuple[int, str, Any]]] = field(default_factory=list)
    logs: list[tuple[int, bool, str, dict[str, str]]] = field(default_factory=list)
    none: int = 0
    _open: bool = False

    def turn(self) -> None:
        """Something else than a fact came: the next `@ record` or `@ kept` begins a new group."""
        self._open = False

    def record(self, number: int, text: str) -> None:
        if text == "none":
            self.none = number
            return
        if (fact := _path_and_value(text)) is None:
            raise FactError("@ record PATH = JSON, such as: @ record reply.code = 250; or: @ record none")
        self._add(number, *fact)

    def kept(self, number: int, text: str) -> None:
        if text == "none":
            self._add(number, "kept", None)
            return
        path, value = _path_and_value(text) or ("", None)
        if (words := path.split()) not in _KEPT:
            raise FactError(r'@ kept [sent] header|body = JSON, such as: @ kept sent body = "x\r\n"; or: @ kept none')
        self._add(number, ".".join(["kept", *words]), value)

    def _add(self, number: int, path: str, value: Any) -> None:
        if not self._open:
            self.records.append([])
        self.records[-1].append((number, path, value))
        self._open = True

    def log(self, number: int, text: str) -> None:
        try:
            words = shlex.split(text)
        except ValueError:
            words = []
        wanted = words[:1] != ["no"]
        event, *rest = (words if wanted else words[1:]) or [""]
        if not event or not all("=" in word for word in rest):
            raise FactError('@ log [no] EVENT KEY=VALUE ..., such as: @ log violation what="*bare LF*"')
        pairs = (word.partition("=") for word in rest)
        self.logs.append((number, wanted, event, {key: value for key, _, value in pairs}))

    def unmet(self, lines: list[dict[str, Any]]) -> list[Unmet]:
        """All that does not hold of these lines of the log."""
        transactions = [line for line in lines if line.get("event") == "transaction"]
        return [*self._unmet_records(transactions), *self._unmet_logs(lines)]

    def _unmet_records(self, transactions: list[dict[str, Any]]) -> list[Unmet]:
        unmet: list[Unmet] = []
        for facts, record in zip(self.records, transactions, strict=False):
            for number, path, value in facts:
                found = look_up(record, path)
                if not agrees(found, value):
                    shown = "nothing of that name" if found is _ABSENT else json.dumps(found, ensure_ascii=False)
                    unmet.append(Unmet(number, f"{path} = {json.dumps(value, ensure_ascii=False)}", shown))
        outcomes = ", ".join(str(record.get("outcome")) for record in transactions) or "none"
        if self.records and len(self.records) != len(transactions):
            number = self.records[min(len(transactions), len(self.records) - 1)][0][0]
            expected = f"{len(self.records)} transaction line(s), one for each group of @ record and @ kept"
            unmet.append(Unmet(number, expected, f"{len(transactions)} ({outcomes})"))
        if self.none and transactions:
            unmet.append(Unmet(self.none, "no transaction line", f"{len(transactions)} ({outcomes})"))
        return unmet

    def _unmet_logs(self, lines: list[dict[str, Any]]) -> list[Unmet]:
        unmet: list[Unmet] = []
        left = list(lines)
        for number, wanted, event, fields in self.logs:
            place = next((at for at, line in enumerate(left) if _is_log(line, event, fields)), None)
            if wanted and place is None:
                of_kind = [json.dumps(line, ensure_ascii=False) for line in left if line.get("event") == event]
                what = " ".join([event, *(f"{key}={value}" for key, value in fields.items())])
                unmet.append(Unmet(number, f"a log line {what}", "\n    ".join(of_kind) or f"no {event}"))
            elif place is not None:
                line = left.pop(place)
                if not wanted:
                    unmet.append(Unmet(number, f"no log line {event}", json.dumps(line, ensure_ascii=False)))
        # Upstream's troubles are what the script itself staged; any other error is a fault of ours.
        errors = (line for line in left if line.get("event") == "error" and line.get("where") != "upstream")
        unmet += (
            Unmet(0, "no error but those of @ log error", json.dumps(line, ensure_ascii=False)) for line in errors
        )
        return unmet


def _path_and_value(text: str) -> tuple[str, Any] | None:
    path, equals, value = text.partition("=")
    try:
        return (path.strip(), json.loads(value)) if equals and path.strip() else None
    except ValueError:
        return None


def _is_log(line: dict[str, Any], event: str, fields: dict[str, str]) -> bool:
    if line.get("event") != event:
        return False
    for key, value in fields.items():
        found = look_up(line, key)
        text = found if isinstance(found, str) else json.dumps(found) if found is not _ABSENT else None
        if text is None or not agrees(text, value):
            return False
    return True


def look_up(value: Any, path: str) -> Any:
    """`recipients.0.reply.code` of a JSON value; a marker that agrees with nothing where there is none."""
    for word in path.split("."):
        if isinstance(value, dict):
            value = value.get(word, _ABSENT)
        elif isinstance(value, list) and word.isdecimal() and int(word) < len(value):
            value = value[int(word)]
        else:
            return _ABSENT
    return value


def agrees(found: Any, expected: Any) -> bool:
    """Equal, where `*` in an expected string stands for anything."""
    if isinstance(expected, str) and isinstance(found, str):
        pattern = ".*".join(map(re.escape, expected.split("*")))
        return re.fullmatch(pattern, found, re.DOTALL) is not None
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(agrees, found, expected))
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(agrees(found[key], expected[key]) for key in expected)
    return type(found) is type(expected) and bool(found == expected)
