"""No expression of ours takes long on a text that is made for that: its time grows as the text does (PROTOCOL attacks 19 and 20).
And each means the same to every Python 3.11.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import relayproxy
from relayproxy.mail.address_list import addresses
from relayproxy.mail.field_text import field_value
from relayproxy.mail.parameters import file_names
from relayproxy.record.privacy import Privacy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THIS = Path(__file__).resolve()
ROOT = THIS.parent.parent

SMALL, LARGE = 2048, 16_384
#: Of the processor, for LARGE: an expression takes 10 ms or so where it is linear, 150 and more where it is not.
SECONDS = 0.05
#: What is linear takes 8 times as long for LARGE as it does for SMALL, what is quadratic 64 times.
GROWTH = 24

#: What may begin a search, keep it from its end, or hide that from it.
PIECES = [
    "\\", '"', "'", "(", "<", "[", "{", "=?", "=?a?q?", "a@", ".", ":", ";", ",", "/", "=", "%", "&", "*", "+", "-", " ", "\t", "\r", "\n", "\r\n", "\0", "a", "7",
]  # fmt: skip
#: For readers, of which each step costs more.
FEWER = ["\\", '"', "(", "[", "=?a?q?", "a@", ";", " ", "a"]

#: A group that is repeated and keeps what it took. Before 3.11.5, as on Debian 12, Python takes it for something else where there are
#: repetitions or choices within it: `a(?:bc++)*+b` is not found in "ab". An atomic group of a repetition, as in `a(?>(?:bc++)*)b`, says the
#: same and is read right; so is one character, or a set, repeated like that.
KEEPING_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]*\})\+")

#: What the operator wrote is read there.
TRUSTED = ("cli.", "rules.allow_patterns.", "rules.locate.", "record.select.", "record.store.location.")
#: Whole responses are matched with these, by a table.
WHOLE = {"smtp.sasl._PLAIN", "smtp.sasl._CRAM_MD5"}
#: Slow by themselves, and never given what makes them so: READERS hold whoever uses them to that.
PREPARED = {
    "mail.parameters._COMMENT", "record.privacy._ADDRESS", "mail.address_list._WORDS", "mail.field_text._WORD", "mail.field_text._SPACED_WORD",
}  # fmt: skip
READERS: dict[str, Callable[[bytes], object]] = {
    "addresses": addresses,
    "field_value": lambda octets: [field_value(name, octets.decode()) for name in ("To", "Subject")],
    "file_names": lambda octets: file_names(b"a/b; name=" + octets),
    "spans": Privacy.parse(["addresses"]).spans,
}


def _searched(module: Any) -> dict[str, bool]:
    """Its expressions, and whether any use of each looks further than where a text begins."""
    own = {name for name, value in vars(module).items() if isinstance(value, re.Pattern)}
    names = {
        name: value.__name__ not in ("match", "fullmatch")
        for name, value in vars(module).items()
        if isinstance(getattr(value, "__self__", None), re.Pattern)
    }
    if own:
        tree = list(ast.walk(ast.parse(inspect.getsource(module))))
        loads = [node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
        anchored = [
            node.value.id
            for node in tree
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in ("match", "fullmatch", "pattern")
        ]  # fmt: skip
        names |= {name: loads.count(name) > anchored.count(name) for name in own}
    return names


def expressions() -> Iterator[tuple[str, re.Pattern[Any], bool]]:
    """All of the modules, by name, and whether they are searched for."""
    for each in pkgutil.walk_packages(relayproxy.__path__, "relayproxy."):
        if each.name.endswith("__main__"):
            continue
        module = importlib.import_module(each.name)
        for name, searched in _searched(module).items():
            full = f"{each.name}.{name}".removeprefix("relayproxy.")
            value = vars(module)[name]
            yield full, getattr(value, "__self__", value), searched and full not in WHOLE


def repeating() -> Iterator[tuple[str, re.Pattern[Any], bool]]:
    """Those of them that may take long."""
    for full, pattern, searched in expressions():
        if re.search(r"[*+}]", _source(pattern)) and not full.startswith(TRUSTED) and full not in PREPARED:
            yield full, pattern, searched


def _source(pattern: re.Pattern[Any]) -> str:
    return pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")


def _own_pieces(pattern: re.Pattern[Any]) -> list[str]:
    """Those that it is made of."""
    source = _source(pattern)
    return [
        piece
        for piece in PIECES
        if piece == "\\"
        or all(
            one.isalnum() or one in source or ascii(one)[1:-1] in source or (one.isspace() and r"\s" in source)
            for one in piece
        )
    ]


def _seconds(read: Callable[[Any], object], piece: str, size: int, *, octets: bool) -> float:
    text = piece * (size // len(piece))
    began = time.thread_time()
    read(text.encode() if octets else text)
    return time.thread_time() - began


def slow(
    read: Callable[[Any], object], pieces: list[str], enough: float, *, octets: bool = True
) -> Iterator[tuple[str, float]]:
    """`enough`: so much takes SMALL of what is worth another look."""
    for one, other in itertools.product(pieces, repeat=2):
        small = _seconds(read, one + other, SMALL, octets=octets)
        if small > enough:
            large = min(_seconds(read, one + other, LARGE, octets=octets) for _ in range(2))
            if large > max(SECONDS, GROWTH * small):
                yield one + other, large


def test_no_expression_is_slower_than_its_text_is_long() -> None:
    found = {}
    for name, pattern, searched in repeating():

        def read(text: Any, pattern: re.Pattern[Any] = pattern, searched: bool = searched) -> object:
            return deque(pattern.finditer(text), 0) if searched else (pattern.match(text), pattern.fullmatch(text))

        if odd := list(
            itertools.islice(
                slow(read, _own_pieces(pattern), SECONDS / 32, octets=isinstance(pattern.pattern, bytes)), 3
            )
        ):
            found[name] = odd
    assert found == {}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_is_slow(reader: str) -> None:
    def read(octets: bytes) -> None:
        with suppress(ValueError):
            READERS[reader](octets)

    assert list(itertools.islice(slow(read, FEWER, SECONDS / 8), 3)) == []


def test_no_group_is_repeated_in_the_way_that_early_pythons_read_wrong() -> None:
    assert [name for name, pattern, _ in expressions() if KEEPING_GROUP.search(_source(pattern))] == []
    sources = [path for folder in ("relayproxy", "tests", "deploy") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in sources if path != THIS and KEEPING_GROUP.search(path.read_text())] == []
