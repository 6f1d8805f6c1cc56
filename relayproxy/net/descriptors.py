"""File descriptors: how many this process may have (attack 18).

What runs out of them can neither accept nor dial, so whoever lets clients in has to know how many there are.
How many a session needs does not belong here (relay/).
"""

from __future__ import annotations

import resource
from contextlib import suppress


def make_room(wanted: int) -> int:
    """Raise our limit of open files to `wanted` as far as the system lets us; how many of those there may then be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    with suppress(OSError, ValueError):  # a sandbox may forbid what the limits allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
