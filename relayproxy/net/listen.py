"""Where clients come in: listening sockets, and taking connections from them.

Invariants: an address that is in use by somebody alive is never taken away (a Unix socket is replaced only if nobody answers there); a
Unix socket is its owner's alone (0600), and its file goes with the listener; no trouble with one connection, nor a shortage of descriptors, ends the accepting.
Who may connect, and how many, does not belong here (relay/).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import wait_readable

from relayproxy.net.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relayproxy.net.address import Peername

#: Connections that wait for us; the kernel lowers it to what it allows.
BACKLOG: Final = 4096
#: Connections taken before other tasks get a turn.
BATCH: Final = 64
#: Seconds without accepting where descriptors or memory ran out: the connections wait in the backlog meanwhile.
SHORTAGE_PAUSE: Final = 0.1

#: ENOSPC is epoll's: no more watches for this user.
_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
#: Linux reports errors of the connection, not of ours, from accept(2): "treat them like EAGAIN by retrying".
_GONE = {
    errno.ECONNABORTED, errno.ECONNRESET, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ETIMEDOUT,
}  # fmt: skip

#: systemd passes sockets from this descriptor on (sd_listen_fds(3)).
_FIRST_INHERITED = 3


def bind(address: Address, environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """Listen there; localhost is both families, a name all that it stands for. OSError says which address it was."""
    try:
        match address.kind:
            case "unix":
                sockets = [_bind_unix(address.host)]
            case "fd":
                sockets = _inherited(address.host, environ)
            case "tcp":
                sockets = _bind_tcp(address.host, address.port)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error
    for sock in sockets:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Accepted sockets inherit it. Replies wait for each other: with Nagle's algorithm each costs the peer's delayed ACK, 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sockets


def bound_name(sock: socket.socket) -> str:
    """The address of a listening socket as parse_address reads it, with the port that it got."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(Address("unix", os.fsdecode(name)))
    return str(Address("tcp", name[0], name[1]))


async def accept(
    listener: socket.socket,
    spawn: Callable[[socket.socket, Peername], None],
    *,
    on_shortage: Callable[[OSError], None] | None = None,
) -> None:
    """Hand every connection to `spawn`, until cancelled. A shortage of descriptors or memory is told, and waited out."""
    unix_name = bound_name(listener) if listener.family == socket.AF_UNIX else None
    while True:
        await wait_readable(listener)
        try:
            for _ in range(BATCH):
                _accept_one(listener, spawn, unix_name)
        except BlockingIOError:
            pass  # all that were there are taken
        except OSError as error:
            if error.errno not in _SHORTAGE:
                raise
            if on_shortage is not None:
                on_shortage(error)
            await trio.sleep(SHORTAGE_PAUSE)


def _accept_one(
    listener: socket.socket, spawn: Callable[[socket.socket, Peername], None], unix_name: str | None
) -> None:
    try:
        sock, name = listener.accept()
    except OSError as error:
        if error.errno in _GONE:
            return
        raise
    try:
        spawn(sock, (name[0], name[1]) if unix_name is None else (unix_name, None))
    except BaseException:
        sock.close()
        raise


def _bind_tcp(host: str, port: int) -> list[socket.socket]:
    if host.lower() == "localhost":
        return _bind_localhost(port)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    names = dict.fromkeys((family, name) for family, _, _, _, name in found)
    sockets: list[socket.socket] = []
    try:
        for family, name in names:
            sockets.append(_listen(family, (*name[:1], _port_of(sockets, port), *name[2:])))
    except BaseException:
        _close_all(sockets)
        raise
    return sockets


def _bind_localhost(port: int) -> list[socket.socket]:
    """Both families on one port, whatever the resolver says; one alone where the machine has no other."""
    for attempts_left in reversed(range(5 if port == 0 else 1)):
        sockets: list[socket.socket] = []
        try:
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with suppress(_NoSuchFamily):
                    sockets.append(_listen(family, (host, _port_of(sockets, port))))
        except OSError:
            _close_all(sockets)
            if not attempts_left:
                raise
        else:
            if sockets:
                return sockets
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


class _NoSuchFamily(Exception):  # noqa: N818  it is caught where it is meant
    """The machine has no IPv6, or no IPv4."""


def _port_of(sockets: list[socket.socket], port: int) -> int:
    """The port asked for, or, of several sockets on a free one, what the first got."""
    return int(sockets[0].getsockname()[1]) if sockets else port


def _listen(family: int, name: tuple[str | int, ...]) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise _NoSuchFamily from error
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL and name[0] in {"127.0.0.1", "::1"}:
            raise _NoSuchFamily from error
        raise
    return sock


class _UnixListener(socket.socket):
    """Takes its file with it when it closes, as long as it is still its own."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file: tuple[Path, int, int] | None = None

    def bind_to(self, path: Path) -> None:
        self.bind(str(path))
        status = path.lstat()
        self._file = path, status.st_dev, status.st_ino

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            path, *identity = file
            with suppress(OSError):  # it is gone, or its folder is not ours to change
                status = path.lstat()
                if [status.st_dev, status.st_ino] == identity:
                    path.unlink()
        super().close()


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = _UnixListener()
    mask = os.umask(0o177)  # 0600 from its first moment on
    try:
        sock.bind_to(Path(path))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _remove_stale(path: str) -> None:
    """Remove what a relay that was killed left behind; anything else that is there stays, and bind fails."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog is somebody alive, too
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except OSError:
            pass


def _inherited(name: str, environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets of that name among those that the service manager opened for us."""
    names: list[str] = []
    if environ.get("LISTEN_PID") == str(os.getpid()) and re.fullmatch(
        r"[0-9]{1,4}", environ.get("LISTEN_FDS", ""), re.ASCII
    ):
        count = int(environ["LISTEN_FDS"])
        given = environ.get("LISTEN_FDNAMES", "").split(":") if environ.get("LISTEN_FDNAMES") else []
        names = (given + ["unknown"] * count)[:count]
    found = [descriptor for descriptor, its in enumerate(names, _FIRST_INHERITED) if its == name]
    if not found:
        had = ", ".join(sorted(set(names))) or "none"
        raise OSError(errno.ENOENT, f"no socket of that name was passed to us (LISTEN_FDNAMES: {had})")
    sockets = []
    for descriptor in found:
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
