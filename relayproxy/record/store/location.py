"""Where a store is, as it is written: `sqlite:PATH`, or `none`. One reading for all who take one (configuration, flags, verbs). Pure."""

from __future__ import annotations

from typing import Final

EXPECTED: Final = "sqlite:PATH, such as sqlite:relayproxy.db or sqlite:/var/lib/relayproxy/relayproxy.db"


def path_of(url: str) -> str | None:
    """The path as written; None: nothing is recorded. Raises ValueError, which says what was expected."""
    if url == "none":
        return None
    kind, colon, path = url.partition(":")
    if (
        kind != "sqlite"
        or not colon
        or not path
        or path.startswith((":", "file:"))
        or path.endswith("/")
        or "\0" in path
    ):
        raise ValueError(f'{EXPECTED}, or "none"')
    return path
