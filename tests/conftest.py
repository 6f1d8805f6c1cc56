"""Dialogs are tests (dialog_collect.py); `--hypothesis-profile=long` looks for what is rare."""

from __future__ import annotations

import pytest
from dialog_collect import pytest_collect_file
from hypothesis import settings
from postgresql import postgresql

__all__ = ["postgresql", "pytest_collect_file"]

pytest.register_assert_rewrite("stream_contract", "conformance", "stored_things")
# How long an example takes says how busy the machine is.
settings.register_profile("house", settings(), deadline=None)
settings.register_profile("long", settings(), deadline=None, max_examples=20_000)
settings.load_profile("house")
