"""What a marker asks for, and the configuration that is made of it: the words are those of the configuration (relay/settings.py).

Invariants: what is wrong is told with the marker's name, all of it at once; neither the environment nor a ./relayproxy.toml has a say; a relay listens on a free port of this machine alone and has a store of its own,
whatever is asked for. Running it does not belong here (relay.py).
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from relayproxy.cli.config import ConfigError, Written, load_with_rules
from relayproxy.rules.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from relayproxy.relay.settings import Config
    from relayproxy.rules.load import Loaded

MARK: Final = "@pytest.mark.{}"
#: By marker, its keywords.
KEYWORDS: Final = {
    "relayproxy": ("upstream", "rules", "redirect_all", "allow", "tls", "auth", "config"),
    "smtp_cassette": ("path", "mode", "upstream", "strict", "repeats", "tls", "allow", "config"),
}
#: The one address that a relay of a test listens at.
_ADDRESS: Final = "127.0.0.1:0"


class MarkerError(ValueError):
    """What is wrong with a marker, a line each."""

    def __init__(self, name: str, lines: Iterable[str]) -> None:
        super().__init__("\n".join([f"{MARK.format(name)}: {line}" for line in lines]))


class _Wrong(ValueError):  # noqa: N818  it is caught where it is meant
    """What is wrong with one that no configuration could have."""


def asked_for(name: str, marks: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """The keywords of all markers of that name, the nearest first: that of a test goes before those of its class and its module. Raises MarkerError."""
    known = KEYWORDS[name]
    asked: dict[str, Any] = {}
    wrong: list[str] = []
    for arguments, keywords in marks:
        if arguments:
            wrong.append(f"expected keywords ({', '.join(known)}), got {arguments[0]!r}")
        wrong += [f"{key}: unknown keyword; {nearest(key, known)}" for key in keywords if key not in known]
        asked = {**keywords, **asked}
    if wrong:
        raise MarkerError(name, dict.fromkeys(wrong))
    return asked


def loaded(
    asked: Mapping[str, Any], folder: Path, state: Path, base: Path, name: str = "relayproxy"
) -> tuple[Config, Loaded]:
    """The configuration of a relay whose store is in `folder`, and its rules; `base`: what paths are relative to; `name`: the marker's. Raises MarkerError."""
    try:
        return load_with_rules(environ={}, written=Written(_settings(asked, folder, state), base))
    except ConfigError as error:
        raise MarkerError(name, error.lines) from error
    except _Wrong as error:
        raise MarkerError(name, [str(error)]) from error


def _settings(asked: Mapping[str, Any], folder: Path, state: Path) -> dict[str, Any]:
    given = asked.get("config", {})
    if not isinstance(given, dict):
        raise _Wrong(f"config: expected a dictionary, as a configuration is one, got {given!r}")
    settings = {"state": str(state), "drain": "0.2s", "limits": {}, **given}
    limits, record = settings["limits"], settings.setdefault("record", {})
    if isinstance(limits, dict):
        settings["limits"] = {"sessions": 100, **limits}  # more may ask for more file descriptors than a run has
    if isinstance(record, dict):
        if "store" in record:
            raise _Wrong("config: expected no record.store, since each test has its own")
        settings["record"] = {**record, "store": f"sqlite:{folder / 'relayproxy.db'}"}
    settings["listener"] = _listeners(asked, given.get("listener", [{}]))
    if (upstream := asked.get("upstream")) is not None and isinstance(known := given.get("upstream", {}), dict):
        name, settings["upstream"] = _upstreams(upstream, known)
        settings["listener"][0]["upstream"] = name
    for keyword, table, key in (
        ("rules", "rules", "files"),
        ("redirect_all", "rules", "redirect_all"),
        ("allow", "guard", "allow"),
    ):
        if (value := asked.get(keyword)) is not None and isinstance(before := settings.get(table, {}), dict):
            settings[table] = {**before, key: value if key == keyword == "redirect_all" else _listed(value)}
    return settings


def _upstreams(asked: Any, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The one that is asked for: one of the configuration's, by name; or one more, with what that says of it. Its name, and all there are."""
    if isinstance(asked, str) and asked in known:
        return asked, {**known}
    if isinstance(asked, str) and known and ":" not in asked:
        raise _Wrong(f"upstream: expected a URL, or an upstream of config, got {asked!r}; {nearest(asked, known)}")
    of_it = asked if isinstance(asked, dict) else {"url": asked}
    name = "capture" if of_it.get("url") == "capture:" else "default"
    before = known.get(name, {})
    return name, {**known, name: {**before, **of_it} if isinstance(before, dict) else before}


def _listeners(asked: Mapping[str, Any], given: Any) -> Any:
    """One, with what is asked for in `config` besides."""
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise _Wrong(f"config: expected one listener, [{{...}}], got {given!r}")
    if "address" in given[0]:
        raise _Wrong("config: expected no listener[0].address, since each test has a free port of 127.0.0.1")
    words = {key: asked[key] for key in ("tls", "auth") if asked.get(key) is not None}
    return [{"tls": "off", **given[0], **words, "address": _ADDRESS}]


def _listed(value: Any) -> list[Any]:
    """As a configuration has it: a list, in which paths are text."""
    several = value if isinstance(value, list | tuple) else [value]
    return [str(one) if isinstance(one, PurePath) else one for one in several]
