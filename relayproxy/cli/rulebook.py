"""The rules and the guard of a running relay: of its configuration, and read again from the same sources (DESIGN §6 "Rule files reload").

Invariant: what is read again asks for nothing that the relay was not started with.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from relayproxy.cli.config import ConfigError, load_with_rules
from relayproxy.cli.config_rules import guard_captures
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules, guard_of
from relayproxy.relay.workers import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.cli.config import Flags
    from relayproxy.relay.settings import Config
    from relayproxy.rules.load import Loaded


def rulebook(config: Config, loaded: Loaded, path: Path | None = None, flags: Flags | None = None) -> Rulebook:
    """Of a configuration that is right, and its rules; `path` and `flags` are what it was made of: without flags nothing is read again."""
    return Rulebook(
        _rules(config, loaded),
        Drawn(config.rules.seed, time.monotonic),
        Workers(config.limits.rule_threads, config.limits.rule_time),
        None if flags is None else partial(_read_again, config, path, flags),
    )


def _rules(config: Config, loaded: Loaded) -> Rules:
    return Rules(loaded.rules, guard_of(config), guard_captures(config), loaded.files)


def _read_again(running: Config, path: Path | None, flags: Flags) -> Rules:
    """Raises ValueError: all that is wrong, a line each."""
    try:
        return _rules(*load_with_rules(path, flags, running=running))
    except ConfigError as error:
        raise ValueError("\n".join(error.lines)) from error
