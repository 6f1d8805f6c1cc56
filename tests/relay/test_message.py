"""A message as it is judged: however its octets were cut, and as a plain reading of the whole of it has it (PROTOCOL I4, §1.5)."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from relayproxy.mail.header import HeaderSection, decode
from relayproxy.relay.message import Intake
from relayproxy.relay.settings import Limits
from relayproxy.smtp.data import END_OF_DATA, ChunkReader, DataReader, stuff

if TYPE_CHECKING:
    from relayproxy.smtp.data import DataSlice

IDENTITY = "ABCDEFGHIJ-main"
TRACE = b"Received: from x by y;\r\n\tMon, 23 Nov 2026 22:14:00 +0000\r\n"
OURS = (
    b"Received: from x by y\r\n\tid 01ABCDEFGHJKMNPQRSTVWXYZ00@%b;\r\n\tMon, 23 Nov 2026 22:14:00 +0000\r\n"
    % IDENTITY.encode()
)
LIMITS = Limits.model_validate({"header_bytes": "400B", "header_fields": 6, "received_fields": 2, "line_bytes": "120B"})
MAX_SIZE = 600

parts = st.sampled_from(
    [
        b"From: a@example.com\r\n",
        b"Subject: =?utf-8?q?=C3=BC?=\r\n",
        b"subject:\r\n folded\r\n",
        b"Message-ID: <1@example.com>\r\n",
        b"MESSAGE-ID : <2@example.com>\r\n",
        b"Received: from c by d\r\n",
        OURS,
        b"no field\r\n",
        b" \r\n",
        b"\r\n",
        b"text\r\n",
        b".\r\n",
        b"..dots\r\n",
        b"x" * 60,
        b"Gr\xc3\xbc\xdfe\r\n",
        b"\r",
        b"\n",
        b"\0",
    ]
)
mail = st.lists(parts, max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=6)


def cut(octets: bytes, at: list[int]) -> list[bytes]:
    borders = [0, *sorted(min(border, len(octets)) for border in at), len(octets)]
    return [octets[a:b] for a, b in pairwise(borders) if a < b]


class Taken:
    """What became of a message that came in these pieces."""

    def __init__(
        self, pieces: list[bytes], *, chunks: bool, eight_bit_passes: bool, normalise: bool, trace: bytes
    ) -> None:
        reader = ChunkReader(LIMITS.line_bytes, bare_ends=normalise) if chunks else DataReader(LIMITS.line_bytes)
        self.intake = intake = Intake(
            reader,
            LIMITS,
            max_size=MAX_SIZE,
            eight_bit_passes=eight_bit_passes,
            normalise=normalise,
            trace=trace,
            identity=IDENTITY,
        )
        self.left = b""
        for piece in pieces:
            self._take(reader.feed(piece))
        if isinstance(reader, ChunkReader):
            self._take(reader.finish())
        assert intake.whole or intake.objection is not None

    def _take(self, part: DataSlice) -> None:
        refused = self.intake.objection is not None
        octets = self.intake.add(part)
        assert not (octets and (refused or self.intake.objection is not None))
        self.left += octets

    @property
    def facts(self) -> tuple[object, ...]:
        intake = self.intake
        seen = (intake.size, intake.overrun, intake.eight_bit, intake.repairs)
        if intake.objection is not None:  # which of several is found first is a matter of where the cuts are
            return seen
        header = bytes(intake.header or b"")
        says = (intake.message_id, intake.subject, intake.malformed, intake.header_sent)
        return (*seen, self.left, header, intake.separator, *says, intake.digests(), intake.body_digest, intake.growth)


@given(mail, cuts, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([b"", TRACE]))
@example(b"", [], False, True, False, TRACE)
@example(b"From: a\r\n", [3], False, True, False, TRACE)
@example(b"\r\ntext\r\n", [2], True, True, False, TRACE)
@example(b"From: a\r\n\r\n..dots\r\n", [9, 11, 12], False, True, True, b"")
@example(OURS + b"\r\ntext\r\n", [50], False, True, False, TRACE)
def test_a_message_in_one_piece_is_the_message_in_many(
    content: bytes,
    at: list[int],
    chunks: bool,
    eight_bit_passes: bool,
    normalise: bool,
    trace: bytes,
) -> None:
    if chunks:
        octets = content
    else:
        octets = stuff(content + (b"" if content.endswith(b"\r\n") or not content else b"\r\n")) + END_OF_DATA

    def taken(pieces: list[bytes]) -> Taken:
        return Taken(pieces, chunks=chunks, eight_bit_passes=eight_bit_passes, normalise=normalise, trace=trace)

    whole = taken([octets])
    for pieces in (cut(octets, at), cut(octets, list(range(len(octets))))):
        other = taken(pieces)
        assert (other.intake.objection is None) == (whole.intake.objection is None)
        assert other.facts == whole.facts


@given(mail)
@example(b"\r\n.\r\n")
def test_facts_are_those_of_a_plain_reading(content: bytes) -> None:
    content += b"" if content.endswith(b"\r\n") or not content else b"\r\n"
    octets = stuff(content) + END_OF_DATA
    taken = Taken([octets], chunks=False, eight_bit_passes=True, normalise=False, trace=TRACE)
    intake = taken.intake
    if intake.objection is not None:
        return
    header, empty, body = (b"", b"\r\n", content[2:]) if content.startswith(b"\r\n") else content.partition(b"\r\n\r\n")
    if empty and not content.startswith(b"\r\n"):
        header, empty = header + b"\r\n", b"\r\n"
    assert taken.left == TRACE + octets.removesuffix(END_OF_DATA)
    assert (bytes(intake.header or b""), intake.separator) == (header, empty)
    section = HeaderSection(header)
    for name, told in ((b"message-id", intake.message_id), (b"subject", intake.subject)):
        values = [decode(field.value) for field in section.fields if field.name.lower() == name]
        assert told == (values[0] if values else None)
    assert intake.malformed == (section.malformed is not None)
    digest = sha256(body).hexdigest()
    assert intake.digests() == ((sha256(header).hexdigest(), digest), (sha256(TRACE + header).hexdigest(), digest))
    assert (intake.size, intake.growth) == (len(content), len(TRACE))
