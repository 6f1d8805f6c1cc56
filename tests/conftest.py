"""Dialogs are tests (dialog_collect.py)."""

from __future__ import annotations

from dialog_collect import pytest_collect_file

__all__ = ["pytest_collect_file"]
