"""A recorded session, played back as its users see it, against what really went over its wires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from memory_store import MemoryReader

from relayproxy.record.dialog import Event, Line, Note, parse, print_dialog
from relayproxy.record.playback import dialog_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memory_store import MemoryWriter

    from relayproxy.record.dialog import Arrow, Entry, Leg
    from relayproxy.record.store.interface import Reader


class NotAsOnTheWire(AssertionError):  # noqa: N818 - it says what is the matter
    """The recording is wrong."""


def check_wire(
    writer: MemoryWriter, session: str, client: tuple[bytes, bytes], upstreams: Sequence[tuple[bytes, bytes]]
) -> None:
    """That a session's dialog is what its peers (said, heard), the upstreams in the order of their connections, and is a dialog."""
    reader = MemoryReader(writer)
    stored = reader.session(session)
    assert stored is not None
    dialog = dialog_of(stored, reader.of_session(session), cast("Reader", reader))
    text = print_dialog([dialog])
    if print_dialog(parse(text)) != text or parse(text) != [dialog]:
        raise NotAsOnTheWire(f"what is read of it is not what was printed:\n{text}")
    said, heard = client
    try:
        _check("C>", dialog.entries, "C", ">", said, whole=False)
    except NotAsOnTheWire:
        # A header of those who must send one is the client's address, and no part of the session.
        _check("C>", dialog.entries, "C", ">", _without_proxy_header(said), whole=False)
    _check("C<", dialog.entries, "C", "<", heard, whole=True)
    connections = _connections(dialog.entries)
    if len(connections) != len(upstreams):
        raise NotAsOnTheWire(f"{len(upstreams)} upstream connections, {len(connections)} recorded:\n{text}")
    for number, (connection, (u_said, u_heard)) in enumerate(zip(connections, upstreams, strict=True), 1):
        _check(f"U< {number}", connection, "U", "<", u_said, whole=False)
        _check(f"U> {number}", connection, "U", ">", u_heard, whole=True)


def _connections(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Upstream's, each from its `open` on."""
    connections: list[list[Entry]] = []
    for entry in entries:
        if isinstance(entry, Event) and (entry.leg, entry.name) == ("U", "open"):
            connections.append([])
        elif connections:
            connections[-1].append(entry)
    return connections


def _without_proxy_header(said: bytes) -> bytes:
    if said.startswith(b"PROXY "):
        return said[said.index(b"\r\n") + 2 :]
    return said[16 + int.from_bytes(said[14:16]) :] if said.startswith(b"\r\n\r\n\0\r\nQUIT\n") else said


def _check(name: str, entries: Iterable[Entry], leg: Leg, arrow: Arrow, real: bytes, *, whole: bool) -> None:
    """What was blanked or not kept is so many octets, whatever they were."""
    pattern = b""
    for entry in entries:
        match entry:
            case Line() if (entry.leg, entry.arrow) == (leg, arrow):
                at = 0
                for gap in entry.redacted:
                    pattern += re.escape(entry.octets[at : gap.offset]) + b".{%d}" % gap.length
                    at = gap.offset
                pattern += re.escape(entry.octets[at:])
            case Note(key="unkept") if entry.text.startswith(f"{leg}{arrow} "):
                pattern += b".{%d}" % int(entry.text.split()[1])
            case _:
                pass
    match = re.compile(pattern, re.DOTALL).match(real)
    # What follows may be a handshake that came to nothing (RFC 8446 §5.1).
    if match is None or (whole and match.end() != len(real) and not real.startswith(b"\x16\x03", match.end())):
        raise NotAsOnTheWire(f"{name}: the wire had\n{real!r}\nrecorded was\n{pattern!r}")
