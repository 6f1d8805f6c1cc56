"""What went over the wire in one session, on both legs: octets with their times, mail data by its length alone (DESIGN §7, "wire").

Theory of operation: entries of what was read and written, gathered (tape.py) and made one blob by `encode`. Mail data is not among them: it is in the store
once, by its digest, and `octets` of a `WireData` says how many of them stand there.

Invariants: the octets of all entries of a leg and arrow, in order, are those on the wire, but for what was blanked (`gaps`: where, and how many octets) and for
mail data. Pure. Making lines of it does not belong here (playback.py), nor keeping it (store/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.record.dialog import Arrow, EventName, Leg  # noqa: TC001 - msgspec reads annotations when it runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class WireOctets(msgspec.Struct, array_like=True, tag="o", frozen=True, gc=False):
    """Octets of one read or one write, in command framing.

    `time`: microseconds since the session began. `gaps`: (offset, length): `length` octets were taken out before `octets[offset]`.
    """

    time: int
    leg: Leg
    arrow: Arrow
    octets: bytes
    gaps: tuple[tuple[int, int], ...] = ()


class WireData(msgspec.Struct, array_like=True, tag="d", frozen=True, gc=False):
    """So many octets of mail data as on the wire, the final dot's line included, of this transaction's message: as received (`>` of leg C), or as sent.

    `chunk`: they came in BDAT, so they are the content itself, without stuffing and without an end. `dots`: offsets in the message's data on
    the wire, of this entry alone, of dots that unstuffing took away and that stuffing would not put there.
    """

    time: int
    leg: Leg
    octets: int
    transaction: str
    chunk: bool = False
    dots: tuple[int, ...] = ()


class WireEvent(msgspec.Struct, array_like=True, tag="e", frozen=True, gc=False):
    """What happened to a connection but for octets; as `dialog.Event`."""

    time: int
    leg: Leg
    name: EventName
    arguments: tuple[str, ...] = ()
    by_us: bool = False


WireEntry = WireOctets | WireData | WireEvent

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[WireEntry]).decode


def encode(entries: Iterable[WireEntry]) -> bytes:
    """One blob of them."""
    return _encode(list(entries))


def decode(blob: bytes) -> list[WireEntry]:
    """The entries of a blob. Raises ValueError where it is none."""
    return _decode(blob)


def in_order(parts: Iterable[bytes]) -> Iterator[WireEntry]:
    """The entries of a session's blobs by time; those of the same time, and of one leg and arrow, as they were written."""
    entries = [entry for part in parts for entry in decode(part)]
    return iter(sorted(entries, key=lambda entry: entry.time))
