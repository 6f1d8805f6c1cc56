"""Bare CR and LF made CRLF, for a listener that repairs instead of refusing (`line_endings = "normalise"`; PROTOCOL §1.5, attack 1).

Parse, then stuff anew: the strict reader (data.py) has found the one end of data and undone the stuffing before anything is changed here, and what was
changed is stuffed as new content. So a dot behind a bare CR or LF is content, and what leaves has one end to every reader.

Invariants: what has no bare CR or LF leaves as it came, octet for octet. Slices never end inside of a CRLF. NUL is not repaired, but told.
Whether to repair does not belong here (the listener's setting).
"""

from __future__ import annotations

import re
from typing import Final

from relayproxy.smtp.data import ContentReader, DataSlice, stuff, stuff_inside

_ENDS: Final = re.compile(rb"\r\n|\r|\n")


class Normaliser(ContentReader):
    """Slices of one message, repaired. Its facts (`size`, ...) are those of what leaves; `repairs` counts the bare ones that were there."""

    __slots__ = ("_at_line_start", "_follows_repair", "repairs")

    def __init__(self, max_line: int) -> None:
        super().__init__(max_line)
        self.repairs = 0
        self._at_line_start = True
        self._follows_repair = (
            False  # the last slice ended in what was a bare one: a dot that comes now is not stuffed yet
        )

    def take(self, part: DataSlice, *, clean: bool) -> DataSlice:
        """The slice as it leaves. `clean`: its reader has found no bare CR or LF so far."""
        content, wire = part.content, part.wire
        if content:
            bare = 0 if clean else content.count(b"\r") + content.count(b"\n") - 2 * content.count(b"\r\n")
            if bare:
                content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
                self.repairs += bare
            if bare or self._follows_repair:
                wire = stuff(content) if self._at_line_start else stuff_inside(content)
            self._at_line_start = content.endswith(b"\r\n")
            self._follows_repair = self._at_line_start and not part.content.endswith(b"\r\n")
            self._note(content, content)
        return DataSlice(wire, content, part.ended, part.rest)


def lines_before(raw: bytes, lines: int) -> int:
    """Where so many lines end in octets that were not repaired yet."""
    end = 0
    for found, match in enumerate(_ENDS.finditer(raw), 1):
        if found > lines:
            break
        end = match.end()
    return end if lines else 0
