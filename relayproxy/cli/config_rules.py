"""What must hold between [rules], [guard] and the rest (DESIGN §5, §6), and who is guarded, in words.

Rules themselves are read elsewhere (rules/load.py), and what an entry of the guard allows is said there (rules/guard.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relayproxy.cli.config_written import value
from relayproxy.mail.pattern import PatternError
from relayproxy.relay.settings import Guard as GuardSettings
from relayproxy.relay.settings import Record
from relayproxy.rules.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from relayproxy.cli.config_written import Wrong
    from relayproxy.relay.settings import Config


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


def guarded(config: Config) -> str | None:
    """Who may get mail and what becomes of the others, in a line for people; None where there is no guard."""
    if config.guard is None:
        return None
    others = "refused (550)" if config.guard.otherwise == "refuse" else "captured"
    if config.rules.redirect_all is not None:
        others = f"sent to {config.rules.redirect_all}"
    return f"guard: mail may go to {Guard.parse(config.guard.allow).what}; what is for others is {others}"
