"""What must hold between `identity` and the rest of an upstream (DESIGN §5): a setting that would have no effect is an error.

Settings are looked at as they were written, since what is wrong with them otherwise has been told already. Telling upstream who the client
is does not belong here (relay/carriers.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relayproxy.cli.locate import Place

#: Where a setting stands, and what is wrong with it.
Wrong = tuple["Place", str]


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    upstreams = settings.get("upstream", {})
    for name, upstream in upstreams.items() if isinstance(upstreams, dict) else ():
        if isinstance(upstream, dict) and upstream.get("identity", "none") != "none" and _keeps(upstream):
            wrong = "expected a server's url beside it, as capture: is told by the record who the client is"
            yield ("upstream", name, "identity"), wrong


def _keeps(upstream: Mapping[str, Any]) -> bool:
    """Whether mail goes to no server."""
    urls = upstream.get("url", "capture:")
    listed = urls if isinstance(urls, list) else [urls]
    return any(isinstance(url, str) and url.lower() == "capture:" for url in listed)
