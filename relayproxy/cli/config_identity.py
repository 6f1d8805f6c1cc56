"""What must hold between `identity` and the rest of an upstream (DESIGN §5): a setting that would have no effect is an error.

Telling upstream who the client is does not belong here (relay/carriers.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relayproxy.cli.config_written import upstreams, urls, value
from relayproxy.relay.settings import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relayproxy.cli.config_written import Wrong


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    for name, upstream in upstreams(settings).items():
        if upstream is None or value(upstream, Upstream, "identity") == "none":
            continue
        if any(url.kind == "capture" for url in urls(upstream)):
            wrong = "expected a server's url beside it, as capture: is told by the record who the client is"
            yield ("upstream", name, "identity"), wrong
