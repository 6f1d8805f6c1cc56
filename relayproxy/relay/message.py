"""One message on its way through: judged while it streams, with nothing kept but its header section.

`Intake.add` takes the slices that the strict reader gives, repairs their line endings where that is wanted, and returns the octets that may leave. The header section is held until it is
whole (it has a limit), so that Received stands on top of it and both leave in one write with the first of the body.
Invariants: what leaves is the client's own wire form, whole slices that the reader accepted (PROTOCOL I4, §1.5); the first thing found
wrong is the `objection`, after it nothing leaves, and reading goes on to the true end of data.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from relayproxy.mail.edits import headers_changed
from relayproxy.mail.header import HeaderSection, find_body
from relayproxy.mail.trace import own_id, received_count
from relayproxy.smtp import local_replies
from relayproxy.smtp.data import stuff
from relayproxy.smtp.line_endings import Normaliser, lines_before

if TYPE_CHECKING:
    from hashlib import _Hash

    from relayproxy.relay.settings import Limits
    from relayproxy.smtp.data import ContentReader, DataSlice
    from relayproxy.smtp.replies import Reply


_NOTHING: Final = sha256()


class Objection(NamedTuple):
    """Why a message is refused: the reply, and in words; `limit` names the limit that was reached."""

    reply: Reply
    what: str
    limit: str | None = None


class _AsReceived:
    """A message as it was before it was repaired, cut into header section and body where the repaired one is."""

    __slots__ = ("_cut", "body", "body_hash", "header", "separator")

    def __init__(self) -> None:
        self.header = b""  # until the cut all of it
        self.separator = b""
        #: Of the body, what was added last.
        self.body = b""
        self._cut = False
        self.body_hash = sha256()

    def add(self, content: bytes) -> None:
        if self._cut:
            self.body_hash.update(content)
            self.body = content
        else:
            self.header += content

    def cut(self, repaired: bytes, end: int, start: int) -> None:
        """`repaired`: what was added so far, as it leaves; where its header section ends, and where its body begins."""
        raw, self._cut = self.header, True
        lines, empty = repaired.count(b"\r\n", 0, end), repaired.count(b"\r\n", end, start)
        header, body = lines_before(raw, lines), lines_before(raw, lines + empty)
        self.header, self.separator, self.body = raw[:header], raw[header:body], raw[body:]
        self.body_hash.update(self.body)

    def forget(self) -> None:
        """The message is refused: no more of it is wanted."""
        self._cut = True
        self.header = b""

    @property
    def digests(self) -> tuple[str, str]:
        return sha256(self.header).hexdigest(), self.body_hash.hexdigest()


class Intake:
    """A message as it is read. After the end: `header`, `digests`, `size`."""

    __slots__ = (
        "_body",
        "_content",
        "_edited",
        "_eight_bit_passes",
        "_ended",
        "_holds_header",
        "_identity",
        "_limits",
        "_max_size",
        "_normaliser",
        "_reader",
        "_received",
        "_sent_body",
        "_sent_size",
        "_trace",
        "_wire",
        "body",
        "header",
        "objection",
        "separator",
    )  # fmt: skip

    def __init__(
        self,
        reader: ContentReader,
        limits: Limits,
        *,
        max_size: int,
        eight_bit_passes: bool,
        normalise: bool,
        trace: bytes,
        identity: str,
        holds_header: bool = False,
    ) -> None:
        """`holds_header`: the header section leaves with `release`, and not before."""
        self._holds_header = holds_header
        self._edited: HeaderSection | None = None
        self._sent_body: _Hash | None = None
        self._sent_size = 0
        self._normaliser = Normaliser(limits.line_bytes) if normalise else None
        self._received = _AsReceived() if normalise else None
        self._reader = reader
        self._limits = limits
        self._max_size = max_size
        self._eight_bit_passes = eight_bit_passes
        self._trace = trace
        self._identity = identity
        self._content = b""
        self._wire = b""
        self._body = _NOTHING  # until there is a body
        self._ended = False
        #: Of the body, what the last slice brought, as it leaves.
        self.body = b""
        #: The empty line between header section and body, as it leaves.
        self.separator = b""
        self.header: HeaderSection | None = None
        self.objection: Objection | None = None

    @property
    def _body_size(self) -> int:
        """Of what leaves if nobody edits it."""
        total = self._reader.size if self._normaliser is None else self._normaliser.size
        return total - len(bytes(self.header or b"")) - len(self.separator)

    @property
    def size(self) -> int:
        """Octets as RFC 1870 counts them: unstuffed, without the final dot."""
        return self._reader.size

    @property
    def overrun(self) -> bool:
        """The client goes on sending long after its message was refused for size: reading to the end has a bound too."""
        return self._reader.size > 2 * self._max_size

    @property
    def eight_bit(self) -> bool:
        return self._reader.eight_bit

    @property
    def repairs_lines(self) -> bool:
        """Whether bare CR and LF are made CRLF."""
        return self._normaliser is not None

    @property
    def repairs(self) -> int:
        """Bare CR and LF that were made CRLF."""
        return 0 if self._normaliser is None else self._normaliser.repairs

    def add(self, part: DataSlice) -> bytes:
        """Take a slice; the octets that may leave because of it."""
        self._ended = part.ended
        if self._normaliser is not None and self._received is not None:
            self._received.add(part.content)
            part = self._normaliser.take(part, clean=self._reader.violation is None)
        if self.header is not None:
            self.body = part.content
            self._body.update(part.content)
            self._judge_data()
            return b"" if self.objection else part.wire
        if self.objection is not None:
            return b""
        content, wire, searched = part.content, part.wire, 0
        if self._wire:
            searched = len(self._content)
            content, wire = self._content + content, self._wire + wire
        if (found := find_body(content, searched)) is not None:
            return self._header_is_whole(content, wire, *found)
        if part.ended:
            return self._header_is_whole(content, wire, len(content), len(content))
        self._content, self._wire = content, wire
        if len(content) > self._limits.header_bytes:
            self._object(local_replies.HEADER_OVER_LIMIT, "the header section is too long", "header_bytes")
        self._judge_data()
        if self.objection:
            self._content = self._wire = b""  # refused: no more of it is needed
            if self._received is not None:
                self._received.forget()
        return b""

    def _header_is_whole(self, content: bytes, wire: bytes, end: int, start: int) -> bytes:
        """Of what came so far, and of the same as it leaves: where the header section ends, and where the body begins."""
        header = self.header = HeaderSection(content[:end])
        if self._received is not None:
            self._received.cut(content, end, start)
        self.separator = content[end:start]
        body = self.body = content[start:]
        self._body = sha256(body)
        self._content = self._wire = b""
        self._judge_data()
        self._judge_header(header, end)
        if self.objection is not None:
            return b""
        if self._holds_header:
            self._wire = wire
            return b""
        return self._trace + wire

    def goes_to(self, *, max_size: int | None, eight_bit_passes: bool) -> Objection | None:
        """An upstream that was not known when it began: what that one does not take is refused, of what has come and of what will. `max_size` None: known to fit."""
        if max_size is not None:
            self._max_size = min(self._max_size, max_size)
        self._eight_bit_passes = self._eight_bit_passes and eight_bit_passes
        self._judge_data()
        return self.objection

    def edit(self, header: HeaderSection) -> None:
        """It leaves with this header section."""
        self._edited = None if self.header is None or bytes(header) == bytes(self.header) else header

    def release(self) -> bytes:
        """What was held: the header section as it leaves, and what came behind it in the same slice."""
        wire, self._wire = self._wire, b""
        if self._edited is None:
            return self._trace + wire
        return stuff(self._trace + bytes(self._edited) + self.separator + self.body)

    @property
    def top(self) -> bytes:
        """What leaves in front of the body, unstuffed: where another body was put behind a header section without an end, with that end."""
        header = self.header_sent
        return (bytes(self.header or b"") if header is None else header) + (
            self.separator or (b"\r\n" if self._sent_size else b"")
        )

    def body_leaves(self, octets: bytes) -> None:
        """Of another body than the one that came, these leave."""
        if self._sent_body is None:
            self._sent_body = sha256()
        self._sent_body.update(octets)
        self._sent_size += len(octets)

    def _object(self, reply: Reply, what: str, limit: str | None = None) -> None:
        if self.objection is None:
            self.objection = Objection(reply, what, limit)

    def _judge_data(self) -> None:
        reader = self._normaliser or self._reader
        if reader.violation is not None:
            reply = local_replies.NUL_IN_MESSAGE if reader.has_nul else local_replies.BAD_LINE_ENDINGS
            self._object(reply, reader.violation)
        if reader.line_too_long:
            self._object(local_replies.LINE_OVER_LIMIT, "a line of mail data is too long", "line_bytes")
        if reader.size > self._max_size:
            self._object(local_replies.MESSAGE_TOO_BIG, "the message is too big", "message_bytes")
        if reader.eight_bit and not self._eight_bit_passes:
            self._object(local_replies.EIGHT_BIT_REFUSED, "8-bit content, and upstream does not offer 8BITMIME")

    def _judge_header(self, header: HeaderSection, size: int) -> None:
        if size > self._limits.header_bytes:
            self._object(local_replies.HEADER_OVER_LIMIT, "the header section is too long", "header_bytes")
        elif header.starts_with_space:
            self._object(local_replies.BAD_HEADER_START, "the first line of the message begins with white space")
        elif header.field_count > self._limits.header_fields:
            self._object(local_replies.HEADER_OVER_LIMIT, "too many header fields", "header_fields")
        elif (hops := received_count(header)) > self._limits.received_fields:
            self._object(local_replies.TOO_MANY_HOPS, "too many Received fields", "received_fields")
        elif hops and (ours := own_id(header, self._identity)) is not None:
            self._object(local_replies.LOOP, f"the message has been here before: a Received field has the id {ours}")

    @property
    def whole(self) -> bool:
        """The message came to its end and its header section was read."""
        return self._ended and self.header is not None

    @property
    def malformed(self) -> bool:
        """The header section breaks the grammar; it passes as it came all the same."""
        return self.header is not None and self.header.malformed is not None

    @property
    def message_id(self) -> str | None:
        return None if self.header is None else self.header.first_text(b"Message-ID")

    @property
    def subject(self) -> str | None:
        return None if self.header is None else self.header.first_text(b"Subject")

    @property
    def body_digest(self) -> bytes:
        """SHA-256 of the body as received, of all that came."""
        return (self._body if self._received is None else self._received.body_hash).digest()

    def digests(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """SHA-256 of header section and body, without the empty line between them: as received, and as sent."""
        raw = bytes(self.header) if self.header is not None else b""
        header, body = sha256(raw).hexdigest(), self._body.hexdigest()
        received = (header, body) if self._received is None else self._received.digests
        if self._sent_body is not None:
            body = self._sent_body.hexdigest()
        leaves = self._trace + (raw if self._edited is None else bytes(self._edited))
        return received, (header if leaves == raw else sha256(leaves).hexdigest(), body)

    @property
    def received(self) -> tuple[bytes, bytes, bytes]:
        """As it came: header section, or what there is of it, the empty line, and of the body what the last slice brought."""
        if self._received is not None:
            return self._received.header, self._received.separator, self._received.body
        return self._content if self.header is None else bytes(self.header), self.separator, self.body

    @property
    def header_sent(self) -> bytes | None:
        """The header section as it leaves; None while there is none, and where it leaves as it came."""
        if self.header is None or (not self._trace and self._received is None and self._edited is None):
            return None
        return self._trace + bytes(self._edited or self.header)

    @property
    def headers_changed(self) -> tuple[str, ...]:
        """Names of the fields that rules touched."""
        return () if self._edited is None or self.header is None else headers_changed(self.header, self._edited)

    @property
    def growth(self) -> int:
        """Octets that leave more than came."""
        if self._edited is None and self._sent_body is None and self._received is None:
            return 0 if self.header is None else len(self._trace)
        body = self._body_size if self._sent_body is None else self._sent_size
        return len(self.top) + body - self._reader.size
