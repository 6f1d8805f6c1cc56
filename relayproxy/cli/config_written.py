"""Settings as they were written, for what must hold between several of them: who asks need not care what is missing, nor what is no setting at all.

Defaults are the models' (relay/settings.py). What is not of its kind is left out: that has been told already. What must hold does not
belong here (config_listeners.py and its neighbours).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relayproxy.net.dial import UpstreamUrl
from relayproxy.relay.settings import Config, Listener, Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relayproxy.relay.settings import Settings
    from relayproxy.rules.locate import Place

#: Where a setting stands, and what is wrong with it.
Wrong = tuple["Place", str]


def value(table: Mapping[str, Any], model: type[Settings], key: str) -> Any:
    """What a key has, or has by default."""
    return table.get(key, model.model_fields[key].default)


def listeners(settings: Mapping[str, Any]) -> list[tuple[Place, dict[str, Any]]]:
    """The tables of the listeners, each with its place."""
    given = value(settings, Config, "listener")
    listed = enumerate(given) if isinstance(given, list) else ()
    return [(("listener", index), one) for index, one in listed if isinstance(one, dict)]


def upstreams(settings: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The tables of the upstreams; None where a name has none."""
    given = value(settings, Config, "upstream")
    named = given.items() if isinstance(given, dict) else ()
    return {name: one if isinstance(one, dict) else None for name, one in named}


def upstream_of(settings: Mapping[str, Any], listener: Mapping[str, Any]) -> dict[str, Any] | None:
    """The upstream that takes a listener's mail, as Config.upstream_of has it."""
    known = upstreams(settings)
    name = value(listener, Listener, "upstream")
    if name is None:
        name = next(iter(known), None)
    return known.get(name) if isinstance(name, str) else None


def urls(upstream: Mapping[str, Any]) -> list[UpstreamUrl]:
    """An upstream's; none where one of them is no url."""
    given = value(upstream, Upstream, "url")
    try:
        return [UpstreamUrl.parse(url) for url in ([given] if isinstance(given, str) else given)]
    except (TypeError, ValueError, AttributeError):
        return []
