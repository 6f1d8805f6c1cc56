"""The rules and the guard of a running relay: of its configuration, and read again from the same sources (DESIGN §6 "Rule files reload").

Invariant: what is read again asks for nothing that the relay was not started with.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from relayproxy.cli import without_passwords
from relayproxy.cli.config import ConfigError, load_with_rules
from relayproxy.cli.config_rules import guard_captures, guarded
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules, guard_of
from relayproxy.relay.settings import Settings
from relayproxy.relay.workers import Workers
from relayproxy.rules.wording import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relayproxy.cli.config import Flags
    from relayproxy.relay.settings import Config
    from relayproxy.rules.load import Loaded
    from relayproxy.rules.locate import Place

_UNGUARDED: Final = "mail may go to anybody: there is no guard"
#: What is in force as soon as it has been read; all else that the configuration says takes a restart.
_READ_AGAIN: Final[frozenset[Place]] = frozenset({("guard",), ("rules", "files"), ("rules", "redirect_all")})


def rulebook(config: Config, loaded: Loaded, path: Path | None = None, flags: Flags | None = None) -> Rulebook:
    """Of a configuration that is right, and its rules; `path` and `flags` are what it was made of: without flags nothing is read again."""
    return Rulebook(
        _rules(config, loaded),
        Drawn(config.rules.seed, time.monotonic),
        Workers(config.limits.rule_threads, config.limits.rule_time),
        None if flags is None else partial(_read_again, config, path, flags),
    )


def _rules(config: Config, loaded: Loaded) -> Rules:
    whom = (guarded(config) or _UNGUARDED).removeprefix("guard: ")
    return Rules(loaded.rules, guard_of(config), guard_captures(config), loaded.files, whom)


def _read_again(running: Config, path: Path | None, flags: Flags) -> Rules:
    """Raises ValueError: all that is wrong, a line each."""
    try:
        config, loaded = load_with_rules(path, flags, running=running)
    except ConfigError as error:
        raise ValueError(without_passwords("\n".join(error.lines))) from error
    restart = tuple([dotted(place) for place in _changed(running, config) if not _is_read_again(place)])
    return _rules(config, loaded)._replace(restart=restart)


def _is_read_again(place: Place) -> bool:
    return any(place[: len(known)] == known for known in _READ_AGAIN)


def _changed(old: object, new: object, place: Place = ()) -> Iterator[Place]:
    """Where two configurations differ, key by key as far as both have the table."""
    match old, new:
        case Settings(), Settings():
            yield from _changed(dict(old), dict(new), place)
        case dict(), dict():
            for key in old | new:
                yield from _changed(old.get(key), new.get(key), (*place, key))
        case (Settings(), *_), (Settings(), *_) if len(old) == len(new):
            for index, (one, other) in enumerate(zip(old, new, strict=True)):
                yield from _changed(one, other, (*place, index))
        case _ if old != new:
            yield place
