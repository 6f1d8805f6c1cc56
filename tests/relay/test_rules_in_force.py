"""Rule files that change: what is in force is what they say in the end, however they change meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dialog_relay
import pytest
import trio
from dialog_runner import play

from relayproxy.relay.rulebook import MOST_KEYS, Drawn, Rulebook, Rules
from relayproxy.relay.workers import Workers
from relayproxy.rules.load import load
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dialog_relay import Dial, Driven

RULE = '[[rule]]\nname = "{}"\nthen = [{{ accept = true }}]\n'


class Changing:
    """A file of one rule that becomes each of `texts` in turn, every time behind its reader's back: it has been read already."""

    def __init__(self, path: Path, *texts: str) -> None:
        self._path = path
        self._next = list(texts)
        self.told: list[str | None] = []
        path.write_text(RULE.format("first"))
        self.book = Rulebook(self._read(), Drawn(1, trio.current_time), Workers(1, 5.0), self._read)

    def _read(self) -> Rules:
        try:
            loaded = load([self._path])
            return Rules(loaded.rules, files=loaded.files)
        finally:
            if self._next:
                self._path.write_text(self._next.pop(0))

    async def look(self) -> str:
        """The name of the rule that is in force then."""
        await self.book.look(lambda _, error=None, **_more: self.told.append(error))
        return self.book.rules.rules[0].name


async def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    changing = Changing(tmp_path / "a.toml", RULE.format("the second"), RULE.format("in the end"))
    assert [await changing.look() for _ in range(3)] == ["the second", "in the end", "in the end"]
    assert changing.told == [None, None]


async def test_a_file_that_is_mended_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    changing = Changing(tmp_path / "a.toml", "[[rule]]\n", RULE.format("mended"))
    assert [await changing.look() for _ in range(3)] == ["first", "mended", "mended"]
    assert [error is None for error in changing.told] == [False, True]


async def test_a_file_that_stays_wrong_is_told_once(tmp_path: Path) -> None:
    changing = Changing(tmp_path / "a.toml", "[[rule]]\n")
    assert [await changing.look() for _ in range(3)] == ["first"] * 3
    assert len(changing.told) == 1


async def test_what_goes_wrong_in_our_own_reading_leaves_what_was_in_force() -> None:
    def read() -> Rules:
        raise RuntimeError("words of a file")

    book = Rulebook(Rules(RuleSet()), Drawn(1, trio.current_time), Workers(1, 5.0), read)
    before, told = book.rules, []
    await book.reload(lambda _, error=None, **_more: told.append(error))
    assert book.rules is before
    (error,) = told
    assert str(error).startswith(f"a fault of ours: RuntimeError ({__name__}:")


async def test_a_list_of_patterns_that_a_reload_brings_is_looked_at_too(tmp_path: Path) -> None:
    changing = Changing(
        tmp_path / "a.toml", RULE.format("x").replace("then", 'when = { sender = { in = "list" } }\nthen')
    )
    (tmp_path / "list").write_text("a@a.test")
    await changing.look()
    assert changing.told == [None]
    (tmp_path / "list").unlink()
    await changing.look()
    assert [str(error).endswith("list: cannot be read: No such file or directory") for error in changing.told[1:]] == [
        True
    ]


def test_clients_that_leave_are_noticed_while_a_file_is_read_that_does_not_end(tmp_path: Path) -> None:
    go_on = threading.Event()

    def read() -> Rules:
        go_on.wait()
        return Rules(RuleSet())

    def start(config: Mapping[str, Any], dial: Dial) -> Driven:
        has_changed = Rules(RuleSet(), files={tmp_path: None})
        return dialog_relay.start(
            config, dial, Rulebook(has_changed, Drawn(1, trio.current_time), Workers(1, 5.0), read)
        )

    try:
        play("relayproxy dialog 1\nU open\n@ quiet 6\nC close\n+10 U close by us\n@ record none\n", start=start)
    finally:
        go_on.set()


def test_rules_know_who_a_client_says_it_is_though_no_record_does() -> None:
    """DESIGN §6 `auth`, by LOGIN as by PLAIN. (What is recorded cannot be tried by backtest, then.)"""
    play(
        """relayproxy dialog 1
@ config listener.auth = "any"
@ rule {name = "app", when = {auth = "app"}, then = [{reject = true}]}
@ upstream offers PIPELINING SIZE 8BITMIME
@ client says EHLO
C> AUTH LOGIN
C< 334 *
C> YXBw
C< 334 *
C> c2VjcmV0
C< 235 *
C> MAIL FROM:<a@x.test>
C< 550 *
@ record client.auth = {"mechanism": "LOGIN", "user": null}
@ quit
"""
    )


@pytest.mark.slow
def test_of_what_came_first_no_more_is_remembered_than_that_many() -> None:
    drawn = Drawn(1, lambda: 0.0)

    def is_first(key: int) -> bool:
        return drawn.first("greylist", (str(key),), times=1, within=3600)

    assert all(is_first(key) for key in range(MOST_KEYS))
    assert not is_first(0)  # and it is the newest again
    assert is_first(MOST_KEYS)
    assert not is_first(0)
    assert is_first(1), "the oldest is forgotten"
