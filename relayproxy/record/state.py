"""The state folder, where an installation keeps its name, its authority, and what waits for the store: where it is if nothing says so, and that it cannot be used.

What is in it does not belong here (relay/identity.py, tls/authority.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def default_state(environ: Mapping[str, str] = os.environ) -> str:
    """By the XDG Base Directory Specification, which has a path that is not absolute ignored."""
    base = environ.get("XDG_STATE_HOME", "")
    return f"{base if base.startswith('/') else '~/.local/state'}/relayproxy"


def unusable(state: Path, error: OSError) -> str:
    """In words for people."""
    return f"the state folder {state} cannot be used: {error.filename or state}: {error.strerror or error}; state in the configuration moves it"
