"""Times of records as numbers: microseconds since 1970 (UTC), which are compared, stored and subtracted. Pure; report.py's `timestamp` is the way back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(time: str) -> int:
    """Of a record's `time`."""
    return _second(time[:19]) * 1_000_000 + int(time[20:26])


@lru_cache(maxsize=4)  # a busy relay writes thousands of lines in one second
def _second(time: str) -> int:
    return microseconds_of(datetime.fromisoformat(time).replace(tzinfo=UTC)) // 1_000_000


def microseconds_of(time: datetime) -> int:
    """Of any time with a zone."""
    return (time - _EPOCH) // timedelta(microseconds=1)
