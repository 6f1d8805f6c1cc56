r"""Mail data: where it ends, what it says, and how it is written (RFC 5321 §4.1.1.4, §4.5.2, §2.3.8; RFC 1870, 3030; PROTOCOL §1.5).

Two readers, of what follows DATA and of what BDAT brings, give the same slices and the same facts: what is behind them need not know
how a message was framed.

Theory of operation: octets are handed on as they came, in slices of whole units: a CR, CRLF, CRLF "." or CRLF "." CR at the end of what
came may be the start of CRLF "." CRLF, and waits for what follows. Three things come of that. No octet of an end of data ever leaves
with a slice. A dot behind CRLF is always in the same slice as its CRLF, so one `replace` takes the stuffing off. A bare CR or LF shows
within one slice, so a slice is judged whole before any of it leaves. The first line has no CRLF before it and is looked at by itself.

Invariants: only CRLF "." CRLF ends data, and "." CRLF at its very start; whatever else is wrong, reading goes on to that true end, for what
comes before it is never a command (PROTOCOL §1.5). A slice whose reader has no `violation` means the same to readers that end lines at LF
or at CR or strings at NUL (attacks 1, 14). How octets are cut into pieces changes neither facts nor bytes. Memory: one slice.
What to answer does not belong here, nor what the lines say (mail/).
"""

from __future__ import annotations

import io
import re
from itertools import islice
from typing import Final

import msgspec

from relayproxy.smtp.errors import LocalProtocolError

#: The line that ends mail data, behind the CRLF of the last one.
END_OF_DATA: Final = b".\r\n"

_DOT: Final = 46  # a number is found in octets in a fifth of the time that b"." is
_STUFFED: Final = b"\r\n."
_END: Final = b"\r\n.\r\n"
# `re` finds these in half the time that `bytes.find` takes: it looks for the CR alone.
_find_stuffed: Final = re.compile(rb"\r\n\.(\r\n)?").search
_find_end: Final = re.compile(rb"\r\n\.\r\n").search
_ENDS: Final = re.compile(rb"\r\n|\Z").match
_STRAY: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
#: A dot that unstuffing takes away, and that stuffing would not put there.
_ODD_DOT: Final = re.compile(rb"\r\n\.(?!\.)")
#: Of those, how many of a message are remembered.
MOST_DOTS: Final = 10_000
_NAMES: Final = {b"\r": "a bare CR", b"\n": "a bare LF", b"\0": "a NUL"}
#: What io.IncrementalNewlineDecoder has seen where all lines end in CRLF.
_CLEAN: Final = (None, "\r\n")


#: Octets from which a piece is taken to be the middle of a message, rather than all of it.
_LARGE: Final = 16 * 1024


class DataSlice(msgspec.Struct, frozen=True, gc=False):
    """What one read brought.

    `wire` may leave exactly as it is; all of a message's, and then `END_OF_DATA`, are the whole of its data. `content` is the
    same without stuffing. `ended`: this was the last; `rest` is what came behind the end, in command framing again.
    """

    wire: bytes
    content: bytes
    ended: bool
    rest: bytes


_NOTHING: Final = DataSlice(b"", b"", ended=False, rest=b"")


class ContentReader:
    """What is known of one message's content, of all that was handed on so far:

    - `size`: octets as RFC 1870 §3 counts them (unstuffed, CRLF is two, the end of data none);
    - `violation`: the first CR or LF that is no CRLF, or NUL, in words, with its offset in the data as it came; `has_nul`: it is a NUL;
    - `line_too_long`, and `eight_bit` for octets over 127.
    """

    __slots__ = (
        "_line",
        "_max_line",
        "_newlines",
        "_offset",
        "eight_bit",
        "has_nul",
        "line_too_long",
        "size",
        "violation",
    )

    def __init__(self, max_line: int) -> None:
        """`max_line` bounds a line, unstuffed and with its CRLF."""
        self.size = 0
        self.violation: str | None = None
        self.has_nul = False
        self.line_too_long = False
        self.eight_bit = False
        self._max_line = max_line
        self._line = 0  # octets that the last line has so far
        self._offset = 0  # octets handed on
        # Tells which line ends it has seen, in one pass in C: a quarter of the time that counting CR, LF and CRLF takes.
        self._newlines = io.IncrementalNewlineDecoder(None, translate=False)

    def _note(self, wire: bytes, content: bytes) -> None:
        if self.violation is None or not self.eight_bit:
            text = wire.decode("latin-1")
            if self.violation is None:
                self._newlines.decode(text, final=True)  # final: a CR at the end of a slice is bare
                if self._newlines.newlines not in _CLEAN or 0 in wire:
                    self._find_violation(wire)
            if not self.eight_bit:
                self.eight_bit = not text.isascii()  # text knows; octets would have to be looked through
        self._offset += len(wire)
        length = len(content)
        self.size += length
        if self._line + length > self._max_line:
            self._measure_lines(content)
        last = content.rfind(b"\r\n")
        self._line = length - last - 2 if last >= 0 else self._line + length

    def _find_violation(self, wire: bytes) -> None:
        stray = _STRAY.search(wire)
        if stray is None:
            raise AssertionError("the two scans of mail data do not agree")
        self.has_nul = stray[0] == b"\0"
        self.violation = f"{_NAMES[stray[0]]} at octet {self._offset + stray.start()} of the mail data"

    def _measure_lines(self, content: bytes) -> None:
        """From each line's start leap to the last CRLF that is in reach: all lines in between are short."""
        start = -self._line
        while not self.line_too_long and start + self._max_line < len(content):
            last = content.rfind(b"\r\n", max(start, 0), max(start + self._max_line, 0))
            if last < 0:
                self.line_too_long = True
            start = last + 2


class DataReader(ContentReader):
    """The data of one message, from behind the CRLF of 354 to its end."""

    __slots__ = ("_at_start", "_dots", "_dots_left", "_ended", "_held")

    def __init__(self, max_line: int, *, tells_dots: bool = True) -> None:
        """`tells_dots`: whether anybody will `take_dots`."""
        super().__init__(max_line)
        self._held = b""  # what may become the end of data: a prefix of `_END`; at the start of its last three octets
        self._at_start = True
        self._ended = False
        self._dots: list[int] = []
        self._dots_left = MOST_DOTS if tells_dots else 0

    def take_dots(self) -> list[int]:
        """Where in the data, since this was last asked, a dot was taken off a line that would not have had one (RFC 5321 §4.5.2 allows it)."""
        if not self._dots:
            return self._dots
        dots, self._dots = self._dots, []
        return dots

    def _unstuff(self, wire: bytes, *, dotted: bool) -> bytes:
        content = wire[dotted:].replace(_STUFFED, b"\r\n")
        if len(content) < len(wire):
            self._find_odd_dots(wire, dotted=dotted)
        return content

    def _find_odd_dots(self, wire: bytes, *, dotted: bool) -> None:
        if self._dots_left:
            found = odd_dots(wire, at_line_start=dotted, most=self._dots_left)
            self._dots += [self._offset + at for at in found]
            self._dots_left -= len(found)

    def feed(self, data: bytes) -> DataSlice:
        """Take octets that came. Raises LocalProtocolError behind the end of data."""
        if self._ended:
            raise LocalProtocolError("mail data behind its end")
        if self._held:
            data = self._held + data
        dotted = False
        if self._at_start:
            if len(data) < len(END_OF_DATA) and END_OF_DATA.startswith(data):
                self._held = data
                return _NOTHING
            self._at_start = False
            dotted = data.startswith(b".")
            if dotted and data.startswith(END_OF_DATA):
                self._ended = True
                return DataSlice(b"", b"", ended=True, rest=data[3:])
        stuffed = end = _find_stuffed(data) if _DOT in data else None  # base64 has none, and is worth the look
        if stuffed is not None and stuffed[1] is None:
            if len(data) > _LARGE and (part := self._middle(data, stuffed.start(), dotted=dotted)) is not None:
                return part
            end = _find_end(data, stuffed.end())
        wire = content = self._hold_back(data) if end is None else data[: end.start() + 2]
        if dotted or stuffed is not end:
            content = self._unstuff(wire, dotted=dotted)
        self._note(wire, content)
        if end is None:
            return DataSlice(wire, content, ended=False, rest=b"")
        self._ended = True
        return DataSlice(wire, content, ended=True, rest=data[end.end() :])

    def _middle(self, data: bytes, stuffed: int, *, dotted: bool) -> DataSlice | None:
        """The slice of data that is the middle of a large message; None where it has the end of it. `stuffed`: where CRLF "." is first.

        One cut finds the end and undoes the stuffing, in two thirds of the time that replacing alone takes.
        """
        lines = [data[:stuffed], *data[stuffed + 3 :].split(_STUFFED)]
        # Behind CRLF "." stands a CRLF: as the beginning of a piece, or taken for that of the next cut, which leaves an empty one.
        if lines[-1].startswith(b"\r\n") or any(_ENDS(line) for line in lines[1:-1]):
            return None
        wire = self._hold_back(data)
        if len(wire) < len(data):
            lines = wire.split(_STUFFED)
        content = b"\r\n".join(lines)
        if dotted:
            content = content[1:]
        if len(content) < len(wire):
            self._find_odd_dots(wire, dotted=dotted)
        self._note(wire, content)
        return DataSlice(wire, content, ended=False, rest=b"")

    def _hold_back(self, data: bytes) -> bytes:
        """All but the octets at the end that may be the beginning of CRLF "." CRLF."""
        for length in (4, 3, 2, 1):
            if data.endswith(_END[:length]):
                self._held = data[-length:]
                return data[:-length]
        self._held = b""
        return data


class ChunkReader(ContentReader):
    """The content of one message that comes in chunks (RFC 3030): any octets at all, without stuffing and without an end of its own.

    `wire` of its slices is the content as DATA would have it. A CR at the end of what came may be half of a CRLF, and waits.
    """

    __slots__ = ("_at_line_start", "_bare_ends", "_ended_bare", "_held")

    def __init__(self, max_line: int, *, bare_ends: bool = False) -> None:
        """`bare_ends`: a bare CR or LF ends a line too (line_endings.py), so that content which ends in one wants no CRLF."""
        super().__init__(max_line)
        self._held = b""
        self._at_line_start = True  # what was handed on ends a line: a dot that comes next must be stuffed
        self._bare_ends = bare_ends
        self._ended_bare = False

    def feed(self, octets: bytes) -> DataSlice:
        """Take octets of a chunk."""
        content = self._held + octets if self._held else octets
        self._held = b""
        if content.endswith(b"\r"):
            content, self._held = content[:-1], b"\r"
        return self._hand_on(content, ended=False)

    def finish(self) -> DataSlice:
        """The last chunk was the last: what is left, with the CRLF that DATA's content must end in (PROTOCOL §1.5)."""
        content, self._held = self._held, b""
        if not (self._at_line_start and not content) and not (self._bare_ends and (content or self._ended_bare)):
            content += b"\r\n"
        return self._hand_on(content, ended=True)

    def _hand_on(self, content: bytes, *, ended: bool) -> DataSlice:
        if not content:
            return DataSlice(b"", b"", ended=ended, rest=b"")
        wire = stuff_inside(content)
        if self._at_line_start and content.startswith(b"."):
            wire = b"." + wire
        self._at_line_start = content.endswith(b"\r\n")
        self._ended_bare = content.endswith(b"\n")
        self._note(content, content)
        return DataSlice(wire, content, ended=ended, rest=b"")


def odd_dots(wire: bytes, *, at_line_start: bool, most: int) -> list[int]:
    """Where in mail data a dot stands that unstuffing takes away and that stuffing would not put there, the first so many (RFC 5321 §4.5.2 lets it pass).

    A line's dot is never the last octet of a slice.
    """
    found = [0] if at_line_start and wire.startswith(b".") and not wire.startswith(b"..") else []
    found += [match.end() - 1 for match in islice(_ODD_DOT.finditer(wire), most)]
    return found[:most]


class Stuffer:
    """`stuff` for content in pieces, cut anywhere."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = b"\r\n"  # the last octets of what came, as far as they may be the beginning of CRLF "."

    def feed(self, content: bytes) -> bytes:
        if not content:
            return b""
        wire = stuff_inside(content)
        if self._last == b"\r\n" and content.startswith(b"."):
            wire = b"." + wire
        elif self._last.endswith(b"\r") and content.startswith(b"\n."):
            wire = b"\n." + wire[1:]
        self._last = (self._last + content[-2:])[-2:]
        return wire


def stuff(content: bytes) -> bytes:
    """Content as it stands on the wire: a dot more before each line that begins with one (RFC 5321 §4.5.2).

    The last thing done to content: whatever changes it afterwards could end it (PROTOCOL §1.5). It must have no bare CR or LF.
    """
    stuffed = stuff_inside(content)
    return b"." + stuffed if content.startswith(b".") else stuffed


def stuff_inside(content: bytes) -> bytes:
    """`stuff` for content that begins in the middle of a line: a dot there is none at the beginning of a line."""
    # To find out that there is nothing to do takes half the time that `replace` does.
    return content.replace(_STUFFED, b"\r\n..") if _DOT in content and _find_stuffed(content) else content
