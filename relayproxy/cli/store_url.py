"""Which store a verb reads: a flag, else RELAYPROXY_STORE, else `[record] store` of the configuration, else ./relayproxy.db (DESIGN §4).

A path is relative to the folder of the configuration that it stands in, or that there is; else to the working directory.
Of the configuration nothing else is read, and nothing is checked: those who only look should not wait for that (`relayproxy check` does it).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relayproxy.cli import Failed

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT: Final = "sqlite:relayproxy.db"
_FILE: Final = Path("relayproxy.toml")


def store_url(store: str | None, config: Path | None, environ: Mapping[str, str] = os.environ) -> str:
    """The store's URL. Raises Failed where the configuration cannot be read."""
    if (given := store or environ.get("RELAYPROXY_STORE")) is not None:
        return given
    path = config or _default(environ)
    return DEFAULT if path is None else _rebased(_written(path), path.absolute().parent)


def _default(environ: Mapping[str, str]) -> Path | None:
    if given := environ.get("RELAYPROXY_CONFIG"):
        return Path(given)
    return _FILE if _FILE.exists() else None


def _written(path: Path) -> str:
    try:
        settings = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise Failed(f"{path}: cannot be read: {error.strerror}", who="") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or TOML that is nested too deep
        raise Failed(f"{path}: expected TOML: {error}", who="") from error
    record = settings.get("record", {})
    url = record.get("store", DEFAULT) if isinstance(record, dict) else record
    if not isinstance(url, str):
        raise Failed(f"{path}: record.store: expected a text such as {DEFAULT}, got something else", who="")
    return url


def _rebased(url: str, folder: Path) -> str:
    scheme, colon, path = url.partition(":")
    return f"{scheme}:{folder / Path(path).expanduser()}" if colon and path and scheme == "sqlite" else url
