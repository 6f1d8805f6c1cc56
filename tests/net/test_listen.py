"""Listening sockets and accepting."""

from __future__ import annotations

import os
import resource
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from relayproxy.net.address import Peername, parse_address
from relayproxy.net.listen import accept, bind, bound_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(text: str, stack: ExitStack) -> list[socket.socket]:
    return [stack.enter_context(sock) for sock in bind(parse_address(text))]


def test_a_free_port_is_named(stack: ExitStack) -> None:
    (sock,) = listen("127.0.0.1:0", stack)
    name = bound_name(sock)
    assert parse_address(name).port != 0
    assert name.startswith("127.0.0.1:")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_localhost_is_both_families_on_one_port(stack: ExitStack) -> None:
    sockets = listen("localhost:0", stack)
    names = [bound_name(sock).rpartition(":") for sock in sockets]
    assert names[0][0] == "127.0.0.1"
    assert [host for host, _, _ in names[1:]] in ([], ["[::1]"])
    assert len({port for _, _, port in names}) == 1


def test_a_port_that_is_taken_is_an_error_with_its_address(stack: ExitStack) -> None:
    (sock,) = listen("127.0.0.1:0", stack)
    for host in ("127.0.0.1", "localhost"):
        address = f"{host}:{sock.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use"):
            bind(parse_address(address))


def test_a_unix_socket_is_its_owners_alone(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    (sock,) = listen(f"unix:{path}", stack)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bound_name(sock) == f"unix:{path}"


def test_a_stale_unix_socket_is_replaced_a_live_one_is_not(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    listen(f"unix:{path}", stack)
    with pytest.raises(OSError, match="in use"):
        bind(parse_address(f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_socket_takes_its_file_with_it_and_nobody_elses(stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    (sock,) = listen(f"unix:{path}", stack)
    sock.close()
    assert not path.exists()
    (old,) = listen(f"unix:{path}", stack)
    path.rename(tmp_path / "kept")  # so that the inode is not used again
    listen(f"unix:{path}", stack)
    old.close()
    assert path.is_socket()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    path.write_text("dear diary")
    with pytest.raises(OSError, match="in use"):
        bind(parse_address(f"unix:{path}"))
    assert path.read_text() == "dear diary"


def test_no_inherited_socket_of_that_name() -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "one:two"}
    with pytest.raises(OSError, match=r"cannot listen on fd:three: no socket of that name was passed to us .*one, two"):
        bind(parse_address("fd:three"), environ)
    with pytest.raises(OSError, match="none"):
        bind(parse_address("fd:one"), {**environ, "LISTEN_PID": "1"})


@pytest.mark.slow
def test_socket_activation(stack: ExitStack) -> None:
    (sock,) = listen("127.0.0.1:0", stack)
    child = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='submission')\n"
        "from relayproxy.net.address import parse_address\n"
        "from relayproxy.net.listen import bind, bound_name\n"
        "print(*map(bound_name, bind(parse_address('fd:submission'))))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", child, str(sock.fileno())]
    shown = subprocess.run(command, pass_fds=[sock.fileno()], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{bound_name(sock)}\n"


async def accepted(listener: socket.socket, count: int) -> list[tuple[socket.socket, Peername]]:
    """The next connections."""
    found: list[tuple[socket.socket, Peername]] = []
    async with trio.open_nursery() as nursery:

        def spawn(sock: socket.socket, name: Peername) -> None:
            found.append((sock, name))
            if len(found) == count:
                nursery.cancel_scope.cancel()

        with trio.fail_after(5):
            await accept(listener, spawn)
    return found


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "unix:{}/s"])
async def test_connections_are_handed_over(stack: ExitStack, tmp_path: Path, text: str) -> None:
    try:
        (listener,) = listen(text.format(tmp_path), stack)
    except OSError:
        pytest.skip(f"this machine has no {text}")
    clients = [stack.enter_context(socket.socket(listener.family)) for _ in range(100)]
    for client in clients:
        client.connect(listener.getsockname())
    found = await accepted(listener, 100)
    for sock, _ in found:
        stack.enter_context(sock)
    if listener.family == socket.AF_UNIX:
        assert {name for _, name in found} == {(bound_name(listener), None)}
    else:
        assert {name for _, name in found} == {client.getsockname()[:2] for client in clients}
        assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock, _ in found)


async def test_a_connection_that_was_reset_before_does_no_harm(stack: ExitStack) -> None:
    (listener,) = listen("127.0.0.1:0", stack)
    gone = socket.create_connection(listener.getsockname())
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    found = await accepted(listener, 2)
    for sock, _ in found:
        stack.enter_context(sock)
    assert found[-1][1] == client.getsockname()


async def test_a_shortage_of_descriptors_is_waited_out(
    autojump_clock: trio.testing.MockClock, stack: ExitStack
) -> None:
    (listener,) = listen("127.0.0.1:0", stack)
    stack.enter_context(socket.create_connection(listener.getsockname()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told: list[OSError] = []

    def relieve(error: OSError) -> None:
        told.append(error)
        if len(told) == 3:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    found: list[socket.socket] = []
    async with trio.open_nursery() as nursery:

        def spawn(sock: socket.socket, _: Peername) -> None:
            found.append(stack.enter_context(sock))
            nursery.cancel_scope.cancel()

        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await accept(listener, spawn, on_shortage=relieve)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(told) == 3
    assert autojump_clock.current_time() >= 0.3
    assert found
