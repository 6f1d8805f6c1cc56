"""Durations and sizes, as people write them in configurations, rules and expressions: "30s", "14d", "10KiB" (DESIGN §5).

What may stand where does not belong here.
"""

from __future__ import annotations

import re
from typing import Final

DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE: Final = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB|TiB)")
_OCTETS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def seconds(text: str) -> float | None:
    """None where it is no duration."""
    match = DURATION.fullmatch(text)
    return None if match is None else float(match[1]) * _SECONDS[match[2]]


def octets(text: str) -> int | None:
    """None where it is no size."""
    match = SIZE.fullmatch(text)
    return None if match is None else int(match[1]) * _OCTETS[match[2]]
