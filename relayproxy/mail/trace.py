"""The trace that we leave, and that tells us a message has been here before (RFC 5321 §4.4, RFC 3848, PROTOCOL §1.8).

`received_field` is the one field that is put on top of every message. What a client said goes into it escaped: a name in EHLO is
free text to whoever sends it (attack 11).
Invariants: at most TRACE_MARGIN octets, whatever comes in; one line of the id is ours alone: `id SESSION@INSTANCE-LISTENER`.
Counting against a limit does not belong here (relay/message.py).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relayproxy.mail.header import HeaderSection

#: Octets that a message may grow by on its way through us (RFC 1870 §6.3): all parts of the field at their longest.
TRACE_MARGIN: Final = 1024
#: RFC 5321 §4.5.3.1.2: a domain; longer names are cut.
MAX_NAME: Final = 255
#: RFC 5321 §4.5.3.1.3: a path without its brackets; a longer one is left out.
MAX_PATH: Final = 254
_NOT_IN_A_NAME: Final = re.compile(rb"[^A-Za-z0-9.:_\[\]-]")
# A path is repeated only where nothing in it could end the comment, the field or the line.
_PLAIN_PATH: Final = re.compile(rb"[!#-'*+\--9=?A-Z^-~@.]+")


def received_field(
    *,
    helo: bytes,
    client_address: str,
    hostname: str,
    protocol: str,
    identity: str,
    for_: bytes | None,
    nanoseconds: int,
) -> bytes:
    """The Received field, CRLF and all. `identity` stands behind `id`; `for_` only where there is one recipient."""
    name = _NOT_IN_A_NAME.sub(b"?", helo[:MAX_NAME]) or b"unknown"
    recipient = b""
    if for_ and len(for_) <= MAX_PATH and _PLAIN_PATH.fullmatch(for_) is not None:
        recipient = b"\r\n\tfor <%b>" % for_
    return b"Received: from %b (%b)\r\n\tby %b with %b\r\n\tid %b%b; %b\r\n" % (
        name,
        _literal(client_address),
        hostname.encode("ascii"),
        protocol.encode("ascii"),
        identity.encode("ascii"),
        recipient,
        _date(nanoseconds // 1_000_000_000),
    )


@lru_cache(maxsize=1024)
def _literal(address: str) -> bytes:
    """RFC 5321 §4.1.3; a client on a Unix socket has no address."""
    plain = address.partition("%")[0].encode("ascii", "replace")
    if address.startswith("unix") or not plain or _NOT_IN_A_NAME.search(plain):
        return b"local"
    return b"[IPv6:%b]" % plain if b":" in plain else b"[%b]" % plain


@lru_cache(maxsize=4)
def _date(second: int) -> bytes:
    """RFC 5322 §3.3, in UTC with a numeric offset."""
    return format_datetime(datetime.fromtimestamp(second, UTC)).encode("ascii")


def received_count(section: HeaderSection) -> int:
    """Received fields: the hops so far."""
    return section.count(b"Received")


def is_own(section: HeaderSection, identity: str) -> bool:
    """Whether a Received field in it was written by the installation and listener of that name (what follows the @ in `id`)."""
    mark = b"@%b" % identity.encode("ascii")
    if mark not in bytes(section):
        return False
    pattern = re.compile(rb"\sid\s+[0-9A-Z]{26}" + re.escape(mark) + rb"[\s;]")
    return any(pattern.search(field.value + b";") for field in section.get_all(b"Received"))
