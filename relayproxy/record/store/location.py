"""Where a store is, as it is written: `sqlite:PATH`, `postgresql://...`, or `none`. One reading for all who take one (configuration, flags, verbs). Pure.

Invariants: what is shown of a URL has no password in it, however it is written. What the parts of a URL mean is libpq's to say (postgresql/connection.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

EXPECTED: Final = (
    "sqlite:PATH, such as sqlite:relayproxy.db or sqlite:/var/lib/relayproxy/relayproxy.db,"
    " or postgresql://[USER@]HOST[:PORT]/DATABASE"
)
_SCHEME: Final = "postgresql://"
# Up to the last @, since an @ in a password is easily left as it is.
_PASSWORD: Final = re.compile(r"(?<=//)([^:/?#@]*):.*@")


@dataclass(frozen=True, slots=True, repr=False)
class PostgresqlUrl:
    """A database, as libpq takes it. As a text it has no password."""

    url: str

    def __str__(self) -> str:
        return without_password(self.url)

    __repr__ = __str__


def without_password(url: str) -> str:
    """The same URL to be shown: `***` in the place of passwords. What is no URL of PostgreSQL's stays as it is."""
    if not re.match("postgres(?:ql)?:", url, re.IGNORECASE):
        return url
    place, mark, query = _PASSWORD.sub(r"\1:***@", url).partition("?")
    return place + mark + "&".join([_parameter(one) for one in query.split("&")])


def _parameter(written: str) -> str:
    name, sign, _ = written.partition("=")
    secret = re.search("password|secret|token", unquote(name), re.IGNORECASE)
    return f"{name}=***" if sign and secret else written


def location(url: str) -> str | PostgresqlUrl | None:
    """A path, as written, to a file of SQLite's, or a database of PostgreSQL's; None: nothing is recorded. Raises ValueError, which says what was expected."""
    if url == "none":
        return None
    if url.startswith(_SCHEME) and len(url) > len(_SCHEME) and not re.search(r"[\0-\x20\x7f]", url):
        return PostgresqlUrl(url)
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
