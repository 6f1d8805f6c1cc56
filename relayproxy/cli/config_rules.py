"""The rules and the guard of a configuration, and what must hold between them and the rest of it (DESIGN §5, §6).

    loaded = read(config)          # raises RuleError
    guarded(config)               # whom mail may go to, in a line for people

How rules are written does not belong here (rules/load.py), nor what an entry of the guard allows (rules/guard.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from relayproxy.cli.config_written import value
from relayproxy.mail.pattern import PatternError
from relayproxy.relay.rulebook import guard_of
from relayproxy.relay.settings import Guard as GuardSettings
from relayproxy.relay.settings import Record
from relayproxy.rules.actions import misfit
from relayproxy.rules.function import bound
from relayproxy.rules.guard import Guard
from relayproxy.rules.load import Loaded, RuleError, load
from relayproxy.rules.redirect_all import redirect_all
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from relayproxy.cli.config_written import Wrong
    from relayproxy.relay.settings import Config


#: Behind what is wrong with rules that are read again.
_OF_THE_START: Final = "(upstreams and store are those that the relay was started with)"


def guard_redirection(settings: MutableMapping[str, Any]) -> None:
    """Where all mail is redirected, and nothing says whom the guard allows, it allows that address."""
    rules = settings.get("rules")
    if isinstance(rules, dict) and isinstance(address := rules.get("redirect_all"), str):
        settings.setdefault("guard", {"allow": [address]})


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    guard, record = settings.get("guard"), settings.get("record")
    if not isinstance(guard, dict):
        return
    captures = value(guard, GuardSettings, "otherwise") == "capture"
    if captures and isinstance(record, dict) and value(record, Record, "store") == "none":
        yield (
            ("guard", "otherwise"),
            'expected "refuse", or a store beside it that keeps what others would get, as store is "none"',
        )
    rules = settings.get("rules")
    if isinstance(rules, dict) and isinstance(address := rules.get("redirect_all"), str):
        try:
            judge = Guard.parse(value(guard, GuardSettings, "allow"))
            allowed = judge.allows(address.encode()) or not Guard.parse([address]).allows(address.encode())
        except (PatternError, TypeError, ValueError, AttributeError):
            return  # what is no list, pattern or address has been told
        if not allowed:  # or it is no address, which has been told
            yield (
                ("rules", "redirect_all"),
                f"expected an address that the guard allows ({judge.what}), got {address!r}",
            )


def guard_captures(config: Config) -> bool:
    """Whether the guard keeps what it does not let pass."""
    return config.guard is not None and config.guard.otherwise == "capture"


def read(config: Config, running: Config | None = None) -> Loaded:
    """The rules of its files, and behind them those that redirect all. Raises RuleError, also where they ask for what the configuration does not have.

    `running`: the configuration of a relay that takes no more than rules and guard of this one; upstreams and store are those that it was started with.
    """
    loaded = fitted(load(config.rules.files), config, running)
    guard, address = guard_of(config), config.rules.redirect_all
    if guard is None or address is None:
        return loaded
    return msgspec.structs.replace(loaded, rules=RuleSet((*loaded.rules.rules, *redirect_all(address, guard))))


def fitted(loaded: Loaded, config: Config, running: Config | None = None) -> Loaded:
    """Rules that know what a configuration has. Raises RuleError where they ask for what it does not have."""
    has = running or config
    upstreams, has_store = frozenset(has.upstream), has.record.store is not None
    wrong = [
        f"{rule.where}: {what}"
        for rule in loaded.rules.rules
        for action in rule.then
        if (what := misfit(action, upstreams, has_store=has_store)) is not None
    ]
    if running is not None:
        wrong = [f"{line} {_OF_THE_START}" for line in wrong]
        if guard_captures(config) and running.record.store is None:
            wrong.append(f'guard.otherwise: expected "refuse", as record.store is "none" {_OF_THE_START}')
    if wrong:
        raise RuleError(wrong)
    rules = tuple([bound(rule, upstreams, has_store=has_store) for rule in loaded.rules.rules])
    return msgspec.structs.replace(loaded, rules=RuleSet(rules))


def guarded(config: Config) -> str | None:
    """Who may get mail and what becomes of the others, in a line for people; None where there is no guard."""
    guard = guard_of(config)
    if guard is None or config.guard is None:
        return None
    others = "refused (550)" if config.guard.otherwise == "refuse" else "captured"
    if config.rules.redirect_all is not None:
        others = f"sent to {config.rules.redirect_all}"
    return f"guard: mail may go to {guard.what}; what is for others is {others}"
