"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest

from relayproxy.mail.units import octets, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [("30s", 30), ("1.5m", 90), ("250ms", 0.25), ("14d", 1_209_600), ("30", None), ("-1s", None), ("1_0s", None), ("٣s", None), (" 1s", None)],
)  # fmt: skip
def test_a_duration(text: str, value: float | None) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("0B", 0), ("10KiB", 10_240), ("2MiB", 2_097_152), ("10", None), ("10KB", None), ("1.5KiB", None), ("", None)],
)
def test_a_size(text: str, value: int | None) -> None:
    assert octets(text) == value
