"""Replies: what an SMTP server answers (RFC 5321 §4.2, enhanced status codes RFC 2034, 3463).

A `Reply` is the parse; what leaves is made from it (`Reply.wire`), never copied: CR, LF and other control octets
cannot get through, lines over 512 octets are split (PROTOCOL §1.6), each line shows the same code.
`ReplyReader` makes replies of what a hostile upstream sends. Invariants: only CRLF ends a line; how octets are cut into pieces changes
nothing; what breaks the grammar is never repaired but the end of the connection (attack 12): two readers that repair differently count
replies differently, and then nobody knows which recipient was refused (I6).
Deciding what a reply means for the dialogue does not belong here (dialogue.py).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

Origin = Literal["upstream", "proxy", "rule"]

#: RFC 5321 §4.5.3.1.5: octets of a reply line, with its code and CRLF.
MAX_REPLY_LINE: Final = 512
#: The same without `250-` and CRLF.
_MAX_TEXT: Final = MAX_REPLY_LINE - 6
#: What we read is more than what we write: PROTOCOL §1.6.
MAX_LINE_READ: Final = 4096
#: A challenge is one line, however long (RFC 4954 §4): it is read and written as it is.
MAX_CHALLENGE: Final = 12288
_CHALLENGE: Final = 334

# RFC 3463 §2, at the start of the text and followed by a space or the end
#   status-code = class "." subject "." detail
#   class       = "2"/"4"/"5"
#   subject     = 1*3digit
#   detail      = 1*3digit
_ENHANCED: Final = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?= |\Z)")

# RFC 5321 §4.2
#   Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
#   Reply-code = %x32-35 %x30-35 %x30-39
# PROTOCOL §1.6: any second digit, and any text without CR, LF and NUL.
_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\r\n\0]*+))?")

# What cannot become part of a line, whatever follows; a CR that came last may still.
_STRAY: Final = re.compile(rb"[\n\0]|\r(?!\n|\Z)")

# C0 and DEL to "?"; C1 is 80 to 9F in one-octet character sets and U+0080 to U+009F (C2 80 to C2 9F) in UTF-8: terminals obey both (attack 22).
_PLAIN: Final = bytes(c if 32 <= c < 127 or c >= 128 else ord("?") for c in range(256))
# surrogateescape makes lone surrogates of octets that are not UTF-8
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\udc80-\udcff]")


#: Octets of a line that is looked up before it is parsed.
_OFTEN_SAID: Final = 128
#: The same of a reply of several lines that came at once.
_OFTEN_SAID_AT_ONCE: Final = 1024


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A whole reply: three digits and one or more lines of text (octets; no CR, LF; enhanced code included).

    `origin` says who made it: the upstream server, relayproxy itself (smtp/local_replies.py), or a rule.
    """

    code: int
    lines: tuple[bytes, ...] = (b"",)
    origin: Origin = "upstream"

    @property
    def severity(self) -> int:
        """2 done, 3 go on, 4 not now, 5 no (RFC 5321 §4.2.1): what the dialogue goes by, so that codes unknown to us pass."""
        return self.code // 100

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code of the first line, where its class is the reply's own (RFC 2034 §4)."""
        found = self.parted[0]
        return None if found is None else found.decode("ascii")

    @property
    def text(self) -> bytes:
        r"""The lines, joined by "\n", without the enhanced code that `enhanced` gives (octets as they came)."""
        return self.parted[1]

    @property
    def parted(self) -> tuple[bytes | None, bytes]:
        """`enhanced`, in octets, and `text`."""
        lines = self.lines
        first = lines[0] if lines else b""
        match = _ENHANCED.match(first)
        if match is None or first[0] - 48 != self.code // 100:
            return None, first if len(lines) == 1 else b"\n".join(lines)
        enhanced = match[0]
        if len(lines) == 1:
            return enhanced, first[len(enhanced) + 1 :]
        return enhanced, b"\n".join([_without(line, enhanced) for line in lines])

    @property
    def wire(self) -> bytes:
        """The octets that leave. Raises LocalProtocolError where the code is none (that can only be our own doing)."""
        code, lines = self.code, self.lines
        if not 200 <= code <= 599:
            raise LocalProtocolError(f"expected a reply code of 200 to 599, got {code}")
        if len(lines) == 1 and len(line := lines[0]) <= _MAX_TEXT and line.isascii():
            return _one_line(code, line)
        if code == _CHALLENGE and len(lines) == 1:
            return b"%d %b\r\n" % (code, _clean(lines[0]))
        return _many_lines(code, lines)


def worst(replies: Iterable[Reply]) -> Reply:
    """The first that stands for all of them, of which there is one: a refusal if there is any, and one that may be tried again before one for good."""
    return min(replies, key=lambda reply: {4: 0, 5: 1}.get(reply.severity, 2))


@lru_cache(maxsize=512)
def _said(line: bytes) -> Reply | None:
    """The reply that a line alone is, if it is one. Servers say the same few things over and over."""
    match = _LINE.fullmatch(line)
    if match is None or match[2] == b"-":
        return None
    return Reply(int(match[1]), (match[3] or b"",))


@lru_cache(maxsize=512)
def _one_line(code: int, line: bytes) -> bytes:
    return b"%d %b\r\n" % (code, line.translate(_PLAIN))


@lru_cache(maxsize=16)
def _said_at_once(octets: bytes) -> Reply | None:
    """The reply of several lines that octets are, all of them, if they are one: servers answer each session's EHLO with the same."""
    *lines, rest = octets.split(b"\r\n")
    found = [match for line in lines if (match := _LINE.fullmatch(line)) is not None]
    if rest or len(found) < len(lines) or len({match[1] for match in found}) != 1:
        return None
    if found[-1][2] == b"-" or any(match[2] != b"-" for match in found[:-1]):
        return None
    return Reply(int(found[0][1]), tuple([match[3] or b"" for match in found]))


@lru_cache(maxsize=16)  # and so do we
def _many_lines(code: int, lines: tuple[bytes, ...]) -> bytes:
    texts = [part for line in lines for part in _split(_clean(line))] or [b""]
    more = [b"%d-%b\r\n" % (code, text) for text in texts[:-1]]
    return b"%b%d %b\r\n" % (b"".join(more), code, texts[-1])


def _without(line: bytes, enhanced: bytes) -> bytes:
    """RFC 2034 §4 puts the code on each line; a line that shows another one keeps it as text."""
    after = len(enhanced)
    if line.startswith(enhanced) and line[after : after + 1] in (b" ", b""):
        return line[after + 1 :]
    return line


def _clean(line: bytes) -> bytes:
    """Without control characters; octets that are not UTF-8 go as well, for nothing says what they would do to a terminal."""
    if line.isascii():
        return line.translate(_PLAIN)
    return _UNFIT.sub("?", line.decode("utf-8", "surrogateescape")).encode("utf-8")


def _split(line: bytes) -> list[bytes]:
    """Texts of at most 506 octets, cut between characters, each with the enhanced code of the first (RFC 2034 §4)."""
    if len(line) <= _MAX_TEXT:
        return [line]
    match = _ENHANCED.match(line)
    prefix = b"" if match is None else match[0] + b" "
    parts, start, room = [], 0, _MAX_TEXT
    while len(line) - start > room:
        end = start + room
        while line[end] & 0xC0 == 0x80:  # in the middle of a character (RFC 3629 §3)
            end -= 1
        parts.append(line[start:end])
        start, room = end, _MAX_TEXT - len(prefix)
    parts.append(line[start:])
    return [parts[0], *[prefix + part for part in parts[1:]]]


class ReplyReader:
    """Octets from upstream to replies.

    `max_bytes` and `max_lines` bound one whole reply, `max_line` one line of it, each with CRLF.
    """

    # `_data[_start:]` is held; its first CRLF begins at `_searched` or later. `_texts` and `_octets` are the lines of an unfinished
    # reply and what they took. `_broken` stays: after a violation there is no telling where the next reply begins.
    __slots__ = (
        "_broken", "_code", "_data", "_max_bytes", "_max_line", "_max_lines", "_octets", "_often", "_often_at_once", "_searched", "_start", "_texts",
        "held",
    )  # fmt: skip

    def __init__(self, max_bytes: int, max_lines: int, max_line: int = MAX_LINE_READ) -> None:
        self._often = min(_OFTEN_SAID, max_line, max_bytes)
        self._often_at_once = min(_OFTEN_SAID_AT_ONCE, max_line, max_bytes)
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._max_line = max_line
        self._data = b""
        self._start = 0
        self._searched = 0
        self._code = b""
        self._texts: list[bytes] = []
        self._octets = 0
        self._broken: str | None = None
        #: Octets of which no reply was made yet.
        self.held = 0

    def feed(self, data: bytes) -> None:
        """Take octets that came. Call `next_reply` until it gives None before feeding more: that is what bounds memory."""
        if self._broken is not None:
            return
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
    def begun(self) -> bytes:
        """The first octet of what no reply was made of yet; none where there is nothing."""
        return self._code[:1] if self._texts else self._data[self._start : self._start + 1]

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None until more has come.

        Raises RemoteProtocolError, always fatal, and again whenever it is asked: nothing that comes later is a reply.
        """
        while self._searched < len(self._data):
            data, start = self._data, self._start
            end = data.find(b"\r\n", self._searched)
            if end < 0:
                self._note_open_line()
                break
            octets = end + 2 - start
            if octets <= self._often and not self._texts and (known := _said(data[start:end])) is not None:
                self._start = self._searched = end + 2
                self.held -= octets
                return known
            if not start and (known := self._at_once()) is not None:
                return known
            match = _LINE.fullmatch(data, start, end)
            if match is None:
                raise self._violation(_what_is_wrong(data[start:end], len(self._texts) + 1))
            code, separator, text = match.groups(b"")
            self._start = self._searched = end + 2
            if octets > self._line_limit(start) or octets > self._max_bytes:
                raise self._violation(f"a reply line of {octets} octets")
            if separator != b"-" and not self._texts:
                self.held -= octets
                return Reply(int(code), (text,))
            self._note_line(code, text, octets)
            if separator != b"-":
                return self._finish()
        if self._broken is not None:
            raise self._violation(self._broken)
        return None

    def _at_once(self) -> Reply | None:
        """The reply that all is that has come, if it is a usual one of several lines."""
        known = _said_at_once(self._data) if len(self._data) <= self._often_at_once and not self._texts else None
        if known is None or len(known.lines) > self._max_lines:
            return None
        self._start = self._searched = len(self._data)
        self.held = 0
        return known

    def _note_line(self, code: bytes, text: bytes, octets: int) -> None:
        texts = self._texts
        if texts and code != self._code:
            # Postfix judges by the first line, others by the last: what one takes for refused the other has delivered.
            raise self._violation(
                f"reply codes that differ: {self._code.decode()} and then {code.decode()} in line {len(texts) + 1}"
            )
        self._code = code
        texts.append(text)
        self._octets += octets
        if self._octets > self._max_bytes:
            raise self._violation(f"a reply of more than {self._max_bytes} octets")
        if len(texts) > self._max_lines:
            raise self._violation(f"a reply of more than {self._max_lines} lines")

    def _finish(self) -> Reply:
        reply = Reply(int(self._code), tuple(self._texts))
        self.held -= self._octets
        self._texts = []
        self._octets = 0
        return reply

    def _note_open_line(self) -> None:
        """No CRLF yet. A server that ends its lines otherwise is told from a slow one at once, not when time is up."""
        data, start = self._data, self._start
        if (stray := _STRAY.search(data, self._searched)) is not None:
            raise self._violation(_what_is_wrong(data[start : stray.end()], len(self._texts) + 1))
        half = data.endswith(b"\r")
        octets = len(data) - start + (1 if half else 2)  # what the line will have at least
        self._searched = len(data) - half
        if octets > (limit := self._line_limit(start)):
            raise self._violation(f"a reply line of more than {limit} octets")
        if self._octets + octets > self._max_bytes:
            raise self._violation(f"a reply of more than {self._max_bytes} octets")

    def _line_limit(self, start: int) -> int:
        return max(self._max_line, MAX_CHALLENGE) if self._data.startswith(b"334 ", start) else self._max_line

    def _violation(self, what: str) -> RemoteProtocolError:
        # Late: the page of replies is made of the Reply above.
        from relayproxy.smtp.local_replies import UPSTREAM_VIOLATION  # noqa: PLC0415

        if self._broken is None:
            self._broken = what
        self._data = b""
        self._start = self._searched = 0
        self._texts = []
        self._octets = self.held = 0
        return RemoteProtocolError(f"the server sent {self._broken}", UPSTREAM_VIOLATION, fatal=True)


def _what_is_wrong(line: bytes, number: int) -> str:
    stray = _STRAY.search(line)
    if stray is not None:
        name = {b"\r": "CR", b"\n": "LF", b"\0": "NUL"}[stray[0]]
        return f"a bare {name} in line {number} of a reply, octet {stray.start()}"
    # Nothing of it is quoted: it may be what we have just sent, a password (attack 21).
    return f'in line {number} of a reply something else than a code of 200 to 599 and "-", a space or CRLF'
