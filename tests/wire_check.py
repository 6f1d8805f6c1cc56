"""What a store was given of a session, against what really went over its wires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from relayproxy.record.wire import WireData, WireEvent, WireOctets, in_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memory_store import MemoryWriter

    from relayproxy.record.store.interface import Message, TransactionWrite
    from relayproxy.record.wire import WireEntry

#: Octets, or how many of them there were that nobody can tell any more.
Piece = bytes | int


class NotAsOnTheWire(AssertionError):  # noqa: N818 - it says what is the matter
    """The recording is wrong."""


def check_wire(
    writer: MemoryWriter, session: str, client: tuple[bytes, bytes], upstreams: Sequence[tuple[bytes, bytes]]
) -> None:
    """That a session's recording is what its peers (said, heard), the upstreams in the order of their connections."""
    entries = list(in_order(writer.wire(session)))
    transactions = writer.transactions()
    said, heard = client
    from_client = [entry for entry in entries if entry.leg == "C"]
    try:
        _check("C>", from_client, ">", said, transactions, whole=False)
    except NotAsOnTheWire:
        # A header of those who must send one is the client's address, and no part of the session.
        _check("C>", from_client, ">", _without_proxy_header(said), transactions, whole=False)
    _check("C<", from_client, "<", heard, transactions, whole=True)
    connections: list[list[WireEntry]] = []
    for entry in entries:
        if entry.leg == "U":
            if isinstance(entry, WireEvent) and entry.name == "open":
                connections.append([])
            elif isinstance(entry, WireEvent) and not connections:
                continue  # a dial that failed
            connections[-1].append(entry)
    if len(connections) != len(upstreams):
        raise NotAsOnTheWire(f"{len(upstreams)} upstream connections, {len(connections)} recorded: {entries}")
    for number, (connection, (u_said, u_heard)) in enumerate(zip(connections, upstreams, strict=True), 1):
        _check(f"U< {number}", connection, "<", u_said, transactions, whole=False)
        _check(f"U> {number}", connection, ">", u_heard, transactions, whole=True)


def _without_proxy_header(said: bytes) -> bytes:
    if said.startswith(b"PROXY "):
        return said[said.index(b"\r\n") + 2 :]
    return said[16 + int.from_bytes(said[14:16]) :] if said.startswith(b"\r\n\r\n\0\r\nQUIT\n") else said


def _check(
    name: str,
    entries: list[WireEntry],
    arrow: str,
    real: bytes,
    transactions: Mapping[str, TransactionWrite],
    *,
    whole: bool,
) -> None:
    pattern = b""
    told: list[Piece] = []
    messages: dict[str, bytes] = {}
    for entry in entries:
        if isinstance(entry, WireOctets) and entry.arrow == arrow:
            told += _with_gaps(entry)
        elif isinstance(entry, WireData) and arrow == ">":
            if entry.transaction not in messages:
                write = transactions.get(entry.transaction)
                messages[entry.transaction] = b"" if write is None else _on_wire(entry, write.message, entries)
            octets = messages[entry.transaction]
            messages[entry.transaction] = octets[entry.octets :]
            kept = octets[: entry.octets]
            told.append(kept)
            if len(kept) < entry.octets:
                told.append(entry.octets - len(kept))
    for piece in told:
        pattern += re.escape(piece) if isinstance(piece, bytes) else b".{%d}" % piece
    match = re.compile(pattern, re.DOTALL).match(real)
    # What follows may be a handshake that came to nothing (RFC 8446 §5.1).
    if match is None or (whole and match.end() != len(real) and not real.startswith(b"\x16\x03", match.end())):
        raise NotAsOnTheWire(f"{name}: the wire had\n{real!r}\nrecorded was\n{told!r}")


def _with_gaps(entry: WireOctets) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for offset, length in entry.gaps:
        pieces += [entry.octets[at:offset], length]
        at = offset
    return [*pieces, entry.octets[at:]]


def _on_wire(first: WireData, message: Message | None, entries: list[WireEntry]) -> bytes:
    """A kept message as its data was on the wire."""
    if message is None or message.body is None or message.body.octets is None:
        return b""
    if first.leg == "C":
        content = message.header + message.separator + message.body.octets
        if first.chunk:
            return content
    else:
        header = message.header if message.header_sent is None else message.header_sent
        body = message.body_sent or message.body
        separator = b"\r\n" if message.separator else b""
        content = header + separator + (body.octets or b"")
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    data = (b"." if stuffed.startswith(b".") else b"") + stuffed + (b".\r\n" if message.whole else b"")
    dots = [
        dot
        for entry in entries
        if isinstance(entry, WireData) and entry.leg == first.leg and entry.transaction == first.transaction
        for dot in entry.dots
    ]
    for dot in dots:
        if dot < len(data):  # of what is kept
            data = data[:dot] + b"." + data[dot:]
    return data
