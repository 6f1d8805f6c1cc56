"""Command lines out of octets, in whatever pieces they come (RFC 5321 §2.3.8, §4.5.3.1.4; PROTOCOL §1.2, attack 15).

Invariants: only CRLF ends a line; a bare CR or LF is an octet of it, for the grammar to refuse. How octets are cut into pieces changes neither lines nor errors.
No octet is searched twice, but for a CR that was the last. What an over-long line brings is dropped as it comes, so that a client holds
at most one line and one read of our memory. Mail data does not belong here (data.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from relayproxy.smtp import local_replies
from relayproxy.smtp.errors import RemoteProtocolError

if TYPE_CHECKING:
    from relayproxy.smtp.replies import Reply

_WORD: Final = re.compile(rb"[ \t]*([A-Za-z]{0,16})")


class LineTooLongError(RemoteProtocolError):
    """Its octets are gone, but for the `verb` that it began with: what follows may have been meant for something else than commands (attacks 4 to 6).

    Behind BDAT come octets, and how many nobody knows any more: fatal.
    """

    def __init__(self, what: str, reply: Reply, verb: bytes) -> None:
        super().__init__(what, reply, fatal=verb == b"BDAT")
        self.verb = verb


class LineBuffer:
    """Octets that came and were not taken yet.

    A line may have `max_line` octets, its CRLF included; `max_sasl` if it is one of a SASL exchange, either of them if it is AUTH, which
    begins one (RFC 4954 §4). A longer one is dropped up to its CRLF, as long as that comes within `max_discard` more.
    """

    # `_data[_start:]` is held; a CRLF, if there is one, begins at `_searched` or later. `_dropped` counts the octets of an over-long
    # line that are gone. Taking lines moves `_start` only: a group of commands that came in one piece is copied once, into its lines.
    __slots__ = (
        "_data",
        "_dropped",
        "_max_discard",
        "_max_line",
        "_max_sasl",
        "_searched",
        "_start",
        "_too_long",
        "_verb",
        "held",
    )

    def __init__(self, max_line: int, max_discard: int, max_sasl: int) -> None:
        self._max_line = max_line
        self._max_sasl = max_sasl
        self._max_discard = max_discard
        self._too_long = local_replies.LINE_TOO_LONG  # for the line that is being dropped
        self._verb = b""  # what that line began with
        self._data = b""
        self._start = 0
        self._searched = 0
        self._dropped = 0
        #: Octets that came and were not taken yet, those of an over-long line that are gone not among them.
        self.held = 0

    def feed(self, data: bytes) -> None:
        """Take octets that came. Call `next_line` until it gives None before feeding more: that is what bounds memory."""
        self.held += len(data)
        start = self._start
        if start == len(self._data):
            self._data = data
            self._searched = 0
        else:
            self._data = self._data[start:] + data
            self._searched -= start
        self._start = 0

    @property
    def untold(self) -> int:
        """Octets of which no line was given yet: those held, and those of an over-long line that are gone."""
        return self.held + self._dropped

    def peek(self) -> int | None:
        """The first octet of the next line; None where nothing of it has come (what is left of an over-long line is none)."""
        if self._dropped or self._start == len(self._data):
            return None
        return self._data[self._start]

    def next_line(self, *, sasl: bool = False) -> bytes | None:
        """The next line without its CRLF, or None until more has come. `sasl`: it is one of a SASL exchange.

        Raises RemoteProtocolError: 500 once a line was over-long and its end has come, fatal 421 once it is so long that
        its end is not waited for. What was held is gone then.
        """
        if self._searched >= len(self._data):
            return None
        start = self._start
        end = self._data.find(b"\r\n", self._searched)
        if end < 0:
            self._note_open_line(sasl=sasl)
            return None
        octets = self._dropped + end + 2 - start
        self._start = self._searched = end + 2
        self.held -= end + 2 - start
        if octets <= self._max_line and not sasl:
            return self._data[start:end]
        limit = self._limit(start, sasl=sasl)
        if octets <= limit:
            return self._data[start:end]
        self._dropped = 0
        if octets > limit + self._max_discard:
            raise self._endless(limit)
        raise LineTooLongError(f"expected a line of at most {limit} octets, got {octets}", self._too_long, self._verb)

    def _limit(self, start: int, *, sasl: bool) -> int:
        """Octets that the line which begins there may have."""
        if not self._dropped:  # else the beginning is gone, and what it was is known
            match = None if sasl else _WORD.match(self._data, start)
            self._verb = b"" if match is None else match[1].upper()
            auth = self._verb == b"AUTH"
            self._too_long = local_replies.AUTH_LINE_TOO_LONG if sasl or auth else local_replies.LINE_TOO_LONG
        if self._too_long is local_replies.LINE_TOO_LONG:
            return self._max_line
        return self._max_sasl if sasl else max(self._max_line, self._max_sasl)

    def _note_open_line(self, *, sasl: bool) -> None:
        length = len(self._data)
        octets = self._dropped + length - self._start
        # A CR that came last may be half of a CRLF: it is kept, and looked at again.
        self._searched = length - 1 if self._data.endswith(b"\r") and length > self._start else length
        if octets < min(self._max_line, self._max_sasl):
            return
        limit = self._limit(self._start, sasl=sasl)
        if octets < limit:
            return
        if octets >= limit + self._max_discard:
            raise self._endless(limit)
        self._data = self._data[self._searched :]
        self.held = len(self._data)
        self._dropped = octets - self.held
        self._start = self._searched = 0

    def _endless(self, limit: int) -> RemoteProtocolError:
        self.clear()
        return RemoteProtocolError(
            f"expected the end of a line within {limit + self._max_discard} octets",
            local_replies.LINE_WITHOUT_END,
            fatal=True,
        )

    def take(self, most: int) -> bytes:
        """At most so many octets of what is held, as they came: what follows a command in another framing (a chunk) starts here."""
        start = self._start
        data = self._data[start : start + most]
        self._start = self._searched = start + len(data)
        self.held -= len(data)
        return data

    def clear(self) -> None:
        """Forget everything that came."""
        self._data = b""
        self._start = self._searched = self._dropped = self.held = 0
