"""The rules and the guard of a running relay: of its configuration, and read again from the same sources (DESIGN §6 "Rule files reload")."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from relayproxy.cli.config import ConfigError, load_with_rules
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules, guard_of
from relayproxy.relay.workers import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from relayproxy.cli.config import Flags
    from relayproxy.relay.settings import Config
    from relayproxy.rules.load import Loaded


def rulebook(config: Config, loaded: Loaded, path: Path | None, flags: Flags) -> Rulebook:
    """Of a configuration that is right, and its rules; `path` and `flags` are what it was made of."""
    return Rulebook(
        _rules(config, loaded),
        Drawn(config.rules.seed, time.monotonic),
        Workers(config.limits.rule_threads, config.limits.rule_time),
        partial(_read_again, path, flags),
    )


def _rules(config: Config, loaded: Loaded) -> Rules:
    captures = config.guard is not None and config.guard.otherwise == "capture"
    return Rules(loaded.rules, guard_of(config), captures, loaded.files)


def _read_again(path: Path | None, flags: Flags) -> Rules:
    """Raises ValueError: all that is wrong, a line each."""
    try:
        return _rules(*load_with_rules(path, flags))
    except ConfigError as error:
        raise ValueError(str(error)) from error
