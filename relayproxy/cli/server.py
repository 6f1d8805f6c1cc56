"""A server that a flag names: a url, or an upstream of the configuration, with its TLS and credentials.

What is done with it does not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayproxy.cli import Failed
from relayproxy.net.dial import UpstreamUrl

if TYPE_CHECKING:
    from relayproxy.relay.settings import Config


def server(flag: str, to: str, config: Config) -> str | UpstreamUrl:
    """The name of an upstream, or a url. Raises Failed."""
    if to in config.upstream:
        if config.upstream[to].captures:
            raise Failed(f"{flag}: expected a server, got {to}, which is capture:")
        return to
    try:
        url = UpstreamUrl.parse(to)
    except ValueError as error:
        known = ", ".join(sorted(config.upstream))
        raise Failed(f"{flag}: {error}; or the name of an upstream of the configuration ({known})") from error
    if url.kind == "capture":
        raise Failed(f"{flag}: expected a server, got capture:")
    return url
