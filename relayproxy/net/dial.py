"""Opening a connection to an upstream: its url, its address, and the ways in which that fails.

Invariants: a url that we cannot keep is refused when it is read, with what was expected (it may hold a password: it is not quoted
whole); a connection is ready to send at once (TCP_NODELAY); every failure has one of four reasons, because the client hears a different
421 for each (PROTOCOL §1.1.2) and a dialog may ask for each (DESIGN §7).
An address is dialled directly. Names go through the resolver and happy eyeballs (RFC 8305's idea, trio's making); a smart host is
asked for by name, so MX records are not looked up. Failover between urls does not belong here (relay/connect.py).
"""

from __future__ import annotations

import errno
import os
import re
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from relayproxy.net.resolver import resolve_in_own_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.net.stream import DeadlineStream

Reason = Literal["refused", "timeout", "unresolved", "unreachable"]

#: Where TLS begins: never; with STARTTLS (RFC 3207); before the first octet of SMTP (RFC 8314 §3.3).
Tls = Literal["off", "starttls", "implicit"]

Kind = Literal["smtp", "lmtp", "capture"]

#: Seconds between two tries to connect where nobody tells when to try.
FULL_PAUSE: Final = 0.01
#: By scheme: what is spoken there, where TLS begins, and the port where none is written (RFC 5321 §4.5.4.2, RFC 6409 §3.1, RFC 8314 §7.3; LMTP has
#: none of its own, and 24, private mail systems, is what is used).
_SCHEMES: Final[dict[str, tuple[Kind, Tls, int]]] = {
    "smtp": ("smtp", "off", 25),
    "smtp+starttls": ("smtp", "starttls", 587),
    "smtps": ("smtp", "implicit", 465),
    "lmtp": ("lmtp", "off", 24),
}
_LMTP_UNIX: Final = "lmtp+unix"
_URL = re.compile(r"[A-Za-z+]+://(?:\[(?P<v6>[^\]/@]*)\]|(?P<host>[^:/@?#\[\]]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?", re.ASCII
)
_EXPECTED = "expected smtp://, smtp+starttls://, smtps:// or lmtp://, then host[:port] or [v6][:port]; or lmtp+unix:/path, or capture:"


class UpstreamUrl(msgspec.Struct, frozen=True, gc=False):
    """Where mail goes. `host` is a name or an address as it was written, without brackets; "" with `capture`, and where there is a `path`."""

    kind: Kind
    host: str = ""
    port: int = 0
    #: The address family where `host` is an address: it needs no resolver.
    family: int | None = None
    tls: Tls = "off"
    #: Of a Unix socket.
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> UpstreamUrl:
        """Read a url as it stands in the configuration; ValueError says what was expected."""
        if text.lower() == "capture:":
            return cls("capture")
        scheme, colon, rest = text.partition(":")
        if scheme.lower() == _LMTP_UNIX:
            return cls("lmtp", family=socket.AF_UNIX, path=_path(rest))
        if not colon or scheme.lower() not in _SCHEMES:
            raise ValueError(f"{_EXPECTED}, got the scheme {scheme!r}" if colon else f"{_EXPECTED}, got {text!r}")
        if "@" in rest:
            raise ValueError(f"{_EXPECTED}, got one with a user or password in it, which do not belong in a url")
        match = _URL.fullmatch(text)
        if match is None:
            extra = (
                ", got one with a path or query behind the host"
                if re.search(r"[/?#]", rest.removeprefix("//"))
                else f", got {text!r}"
            )
            raise ValueError(_EXPECTED + extra)
        kind, tls, usual = _SCHEMES[scheme.lower()]
        port = int(match["port"]) if match["port"] else usual
        if not 0 < port <= 0xFFFF:
            raise ValueError(f"expected a port from 1 to 65535, got {port}")
        if match["v6"] is not None:
            return cls(kind, _address(match["v6"], 6), port, socket.AF_INET6, tls)
        host = match["host"]
        if re.fullmatch(r"[0-9.]+", host):
            return cls(kind, _address(host, 4), port, socket.AF_INET, tls)
        if not _NAME.fullmatch(host):
            raise ValueError(
                f"expected a host name of letters, digits, hyphens and dots (xn-- for others), got {host!r}"
            )
        return cls(kind, host, port, None, tls)

    def __str__(self) -> str:
        if self.kind == "capture":
            return "capture:"
        if self.path:
            return f"{_LMTP_UNIX}:{self.path}"
        scheme = next(name for name, (kind, tls, _) in _SCHEMES.items() if (kind, tls) == (self.kind, self.tls))
        host = f"[{self.host}]" if self.family == socket.AF_INET6 else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def short(self) -> str:
        """Without the port where that is the scheme's own, as one writes it."""
        text = str(self)
        scheme = _SCHEMES.get(text.partition(":")[0])
        return text if scheme is None else text.removesuffix(f":{scheme[2]}")


def _path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"expected an absolute path after {_LMTP_UNIX}:, got {text!r}")
    return text


def _address(text: str, version: int) -> str:
    try:
        if ip_address(text).version == version:
            return text
    except ValueError:
        pass
    raise ValueError(f"expected an IPv{version} address, got {text!r}")


class DialError(Exception):
    """There is no connection; `reason` as a dialog names it."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason: Reason = reason


_REASONS: dict[int | None, Reason] = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}


async def dial(url: UpstreamUrl, seconds: float, *, adopt: Callable[[socket.socket], DeadlineStream]) -> DeadlineStream:
    """Connect within so many seconds, and let `adopt` (Poller.adopt) make a stream of the socket. Raises DialError."""
    sock: socket.socket | None = None
    try:
        if url.family is not None:
            sock = await _dial_address(url, url.family, seconds)
        else:
            with trio.move_on_after(max(0.0, seconds)):
                sock = await _dial_name(url)
        if sock is not None:
            return _adopted(sock, adopt)
    except socket.gaierror as error:
        raise DialError("unresolved", f"{url}: the name was not resolved: {error.strerror}") from error
    except OSError as error:
        raise DialError(_reason(error), f"{url}: {_words(error)}") from error
    raise DialError("timeout", f"{url}: no connection within {seconds:g} seconds")


def _adopted(sock: socket.socket, adopt: Callable[[socket.socket], DeadlineStream]) -> DeadlineStream:
    try:
        return adopt(sock)
    except BaseException:
        sock.close()  # nobody has it: epoll may have no room for one more (ENOSPC)
        raise


async def _dial_address(url: UpstreamUrl, family: int, seconds: float) -> socket.socket | None:
    """None: there was no answer in time."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if await _connect(sock, url.path or (url.host, url.port), seconds):
            return sock
    except BaseException:
        sock.close()
        raise
    sock.close()
    return None


async def _connect(sock: socket.socket, name: tuple[str, int] | str, seconds: float) -> bool:
    error = sock.connect_ex(name)
    if error == errno.EINPROGRESS:
        # On loopback the handshake is over when the first call returns, but only a second says so: that is cheaper than a wait.
        error = sock.connect_ex(name)
    if error == errno.EAGAIN:
        # A Unix socket whose backlog is full (connect(2)): Linux tells nobody when there is room again.
        with trio.move_on_after(max(0.0, seconds)) as patience:
            while (error := sock.connect_ex(name)) == errno.EAGAIN:  # noqa: ASYNC110  there is no event
                await trio.sleep(FULL_PAUSE)
        if patience.cancelled_caught:
            return False
    if error == errno.EALREADY:
        with trio.move_on_after(max(0.0, seconds)) as patience:
            await trio.lowlevel.wait_writable(sock)
        if patience.cancelled_caught:
            return False
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error not in {0, errno.EISCONN}:
        raise OSError(error, os.strerror(error))
    return True


async def _dial_name(url: UpstreamUrl) -> socket.socket:
    resolve_in_own_threads()
    stream = await trio.open_tcp_stream(url.host, url.port)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # trio's stream asks for little unsent data in the kernel; we hold what does not fit ourselves, so back to the system's way.
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
        except BaseException:
            stream.socket.close()
            raise
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock


def _causes(error: OSError) -> list[OSError]:
    """What went wrong: of a name with several addresses, with each of them."""
    if isinstance(error.__cause__, ExceptionGroup):
        return [cause for cause in error.__cause__.exceptions if isinstance(cause, OSError)] or [error]
    return [error]


def _reason(error: OSError) -> Reason:
    reasons = {_REASONS.get(cause.errno, "unreachable") for cause in _causes(error)}
    return reasons.pop() if len(reasons) == 1 else "unreachable"


def _words(error: OSError) -> str:
    return "; ".join(dict.fromkeys((cause.strerror or str(cause)).lower() for cause in _causes(error)))
