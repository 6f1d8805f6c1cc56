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
ESCAPED: Final = "in a user, a password or a path @ : / ? # and % are written %40 %3A %2F %3F %23 %25"
_SCHEME: Final = "postgresql://"
# Whatever the scheme, and whatever stands before it. Up to the last @, since an @ in a password is easily left as it is.
_PASSWORD: Final = re.compile(r"(//[^:]*:|^[^:/]*:(?!//)(?:[^:/@]*:)?).*@", re.DOTALL)
_NAME: Final = re.compile(r"([\w.%-]+)\s*=")
_SECRET: Final = re.compile("pass?w|pass(?!file)|secret|token|scram_", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class PostgresqlUrl:
    """A database, as libpq takes it. As a text it has no password."""

    url: str

    def __str__(self) -> str:
        return without_password(self.url)

    __repr__ = __str__


def without_password(url: str) -> str:
    """The same to be shown, be it a URL or not: `***` in the place of what may be a password."""
    return "&".join([_parameter(one) for one in _PASSWORD.sub(r"\1***@", url).split("&")])


def _parameter(written: str) -> str:
    for name in _NAME.finditer(written):
        if _SECRET.search(unquote(name[1])):
            return written[: name.end()] + "***"
    return written


def location(url: str) -> str | PostgresqlUrl | None:
    """A path, as written, to a file of SQLite's, or a database of PostgreSQL's; None: nothing is recorded. Raises ValueError, which says what was expected."""
    if url == "none":
        return None
    if url.startswith(_SCHEME) and len(url) > len(_SCHEME) and not re.search(r"[\0-\x20\x7f\ud800-\udfff]", url):
        authority, _, path = url.removeprefix(_SCHEME).partition("?")[0].partition("/")
        if authority.count("@") > 1 or "@" in path:  # libpq would take a piece of a password for a host, and say so
            raise ValueError(f"{EXPECTED}; {ESCAPED}")
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
