"""SELECT: which transactions, written as one line (DESIGN §4). Parsed, and judged of a transaction; pure.

What a store makes of it does not belong here (store/).
"""

from __future__ import annotations


class Select:
    """A parsed expression."""
