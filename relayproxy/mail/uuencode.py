"""Names of files that are uuencoded in a text (POSIX uuencode; PROTOCOL attack 19): no MIME says of them, and old mail programs show them as attachments.

    finder = Uuencoded()
    for piece in body:
        names += finder.feed(piece)
    names += finder.finish()

Invariants: a line is enough, whatever follows; what is found does not depend on how octets are cut into pieces; memory holds a line's beginning at most.
What a name may be read as does not belong here (parameters.py), nor how many there may be (mime.py).
"""

from __future__ import annotations

import re
from typing import Final

_LONGEST_LINE: Final = 2048
#   begin-line := ("begin" / "begin-base64") SP mode SP name
# The word itself goes first: what begins with a constant is searched for quickly.
_BEGIN: Final = re.compile(rb"begin(?<=[\r\n]begin)(?:-base64)?[ \t]{1,8}[0-7]{3,4}[ \t]{1,8}([^\r\n]{1,1024})")


class Uuencoded:
    """One stream of octets."""

    def __init__(self) -> None:
        #: A line that has not ended, behind the line end before it; "" where its beginning was looked at.
        self._line = b"\n"

    def feed(self, octets: bytes) -> list[bytes]:
        """Names in the lines that have ended."""
        data = self._line + octets
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        if end < 0 or len(data) - end <= _LONGEST_LINE:
            names = _BEGIN.findall(data, 0, max(end, 0))
            self._line = data[end:] if end >= 0 else b""
        else:
            names = _BEGIN.findall(data)
            self._line = b""
        return names

    def finish(self) -> list[bytes]:
        """Names in the last line."""
        return _BEGIN.findall(self._line)
