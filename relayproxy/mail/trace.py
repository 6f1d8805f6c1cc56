"""The trace that we leave, and that tells us a message has been here before (RFC 5321 §4.4, §6.3, RFC 3848, RFC 6531 §4.3, PROTOCOL §1.8).

`Stamp` makes the one field that is put on top of every message. What a client said goes into it escaped: a name in EHLO is
free text to whoever sends it (attack 11).
Invariants: at most TRACE_MARGIN octets, whatever comes in; the field is one field, whatever comes in; `id SESSION@INSTANCE-LISTENER` is
written by us alone and says whose it is.
Counting against a limit does not belong here (relay/message.py).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relayproxy.mail.header import HeaderSection

#: RFC 5321 §4.5.3.1.2: a domain; a longer name is cut.
MAX_NAME: Final = 255
#: RFC 5321 §4.5.3.1.3: a path without its brackets; a longer one is left out.
MAX_PATH: Final = 254
#: An id (26), "@", an instance (10), "-" and a listener's name (64), with room to spare.
MAX_IDENTITY: Final = 128
_LONGEST_ADDRESS: Final = b"[IPv6:ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]"
_LONGEST_PROTOCOL: Final = b"UTF8SMTPSA"

# RFC 5321 §4.4, folded (RFC 5322 §2.2.3) so that usual names keep lines within 78
#   Stamp         = From-domain By-domain Opt-info [CFWS] ";" FWS date-time
#   From-domain   = "FROM" FWS Extended-Domain        ; Domain FWS "(" TCP-info ")"
#   By-domain     = CFWS "BY" FWS Extended-Domain
#   Opt-info      = [Via] [With] [ID] [For]
_FRONT: Final = b"Received: from %b (%b)\r\n\tby %b"
_FIELD: Final = b"%b with %b\r\n\tid %b%b;\r\n\t%b\r\n"
_FOR: Final = b"\r\n\tfor <%b>"

#: Octets that a message may grow by on its way through us (RFC 1870 §6.3): all parts of the field at their longest.
TRACE_MARGIN: Final = len(
    _FIELD
    % (
        _FRONT % (b"x" * MAX_NAME, _LONGEST_ADDRESS, b"x" * MAX_NAME),
        _LONGEST_PROTOCOL,
        b"x" * MAX_IDENTITY,
        _FOR % (b"x" * MAX_PATH),
        b"Mon, 23 Nov 2026 22:14:00 +0000",
    )
)

_IN_A_NAME: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:_[]-"
_NAME: Final = bytes(octet if octet in _IN_A_NAME else ord("_") for octet in range(256))
# A path is repeated only where nothing in it could end the comment, the field or the line: no quotes, brackets, spaces, 8-bit.
_PLAIN_PATH: Final = re.compile(rb"[!#-'*+\--9=?A-Z^-~@.]+")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Stamp:
    """The Received fields of one session: what is the same in all of them is put together once."""

    __slots__ = ("_front", "_identity")

    def __init__(self, *, helo: bytes, client_address: str, hostname: str, identity: str) -> None:
        """`helo` is what the client called itself, `client_address` where it is (an IP address, or anything else for a client without one),
        `identity` what stands behind `id`.
        """
        self._front = _FRONT % (
            helo[:MAX_NAME].translate(_NAME) or b"unknown",
            _literal(client_address),
            hostname.encode("ascii"),
        )
        self._identity = identity.encode("ascii")

    def field(self, *, protocol: bytes, for_: bytes | None, nanoseconds: int) -> bytes:
        """The field, CRLF and all.

        `protocol` is one of RFC 3848's names; `for_` is given only where there is one recipient (Bcc); `nanoseconds` since 1970. Raises ValueError
        where our own names are too long.
        """
        recipient = b""
        if for_ and len(for_) <= MAX_PATH and _PLAIN_PATH.fullmatch(for_) is not None:
            recipient = _FOR % for_
        field = _FIELD % (self._front, protocol, self._identity, recipient, _date(nanoseconds // 1_000_000_000))
        if len(field) > TRACE_MARGIN:
            raise ValueError(f"expected a host name of {MAX_NAME} octets and an identity of {MAX_IDENTITY} at most")
        return field


@lru_cache(maxsize=1024)
def _literal(address: str) -> bytes:
    """RFC 5321 §4.1.3; a client on a Unix socket has no address."""
    try:
        plain = ip_address(address.partition("%")[0])  # a zone has no place in a literal
    except ValueError:
        return b"local"
    return b"[%b%b]" % (b"IPv6:" if plain.version == 6 else b"", str(plain).encode("ascii"))


@lru_cache(maxsize=4)  # a busy relay writes thousands in one second
def _date(second: int) -> bytes:
    """RFC 5322 §3.3, in UTC with a numeric offset; `strftime` would speak the language of the place."""
    time = datetime.fromtimestamp(second, UTC)
    return f"{_DAYS[time.weekday()]}, {time.day} {_MONTHS[time.month - 1]} {time.year} {time:%H:%M:%S} +0000".encode(
        "ascii"
    )


def received_count(section: HeaderSection) -> int:
    """Received fields: the hops so far, ours not yet among them."""
    return section.count(b"Received")


def own_id(section: HeaderSection, identity: str) -> str | None:
    """The `id` of a Received field in it that the listener of that name wrote (what follows the @); None where there is none."""
    mark = b"@%b" % identity.encode("ascii")
    if mark not in bytes(section):
        return None
    pattern = re.compile(rb"[ \t\r\n]id[ \t\r\n]+([0-9A-Z]{26}" + re.escape(mark) + rb")(?=[ \t\r\n;]|\Z)")
    found = (pattern.search(field.value) for field in section.get_all(b"Received"))
    return next((match[1].decode("ascii") for match in found if match is not None), None)
