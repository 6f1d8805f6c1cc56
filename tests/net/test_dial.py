"""Upstream urls, and the four ways in which a dial fails."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from relayproxy.net.dial import DialError, UpstreamUrl, dial

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from relayproxy.net.poller import Poller
    from relayproxy.net.stream import DeadlineStream

URLS = [
    # text, kind, host, port, as printed
    ("smtp://mail.example.com", "smtp", "mail.example.com", 25, "smtp://mail.example.com:25"),
    ("smtp://mail.example.com:587", "smtp", "mail.example.com", 587, "smtp://mail.example.com:587"),
    ("SMTP://Mail.Example.com.", "smtp", "Mail.Example.com.", 25, "smtp://Mail.Example.com.:25"),
    ("smtp://postfix_1:10025", "smtp", "postfix_1", 10025, "smtp://postfix_1:10025"),
    ("smtp://192.0.2.1:2525", "smtp", "192.0.2.1", 2525, "smtp://192.0.2.1:2525"),
    ("smtp://[2001:db8::1]", "smtp", "2001:db8::1", 25, "smtp://[2001:db8::1]:25"),
    ("smtp://[::1]:2525", "smtp", "::1", 2525, "smtp://[::1]:2525"),
    ("smtp+starttls://mail.example.com", "smtp", "mail.example.com", 587, "smtp+starttls://mail.example.com:587"),
    ("SMTPS://[2001:db8::1]", "smtp", "2001:db8::1", 465, "smtps://[2001:db8::1]:465"),
    ("smtps://192.0.2.1:25", "smtp", "192.0.2.1", 25, "smtps://192.0.2.1:25"),
    ("lmtp://mail.example.com", "lmtp", "mail.example.com", 24, "lmtp://mail.example.com:24"),
    ("LMTP://[::1]:2424", "lmtp", "::1", 2424, "lmtp://[::1]:2424"),
    ("lmtp+unix:/run/dovecot/lmtp", "lmtp", "", 0, "lmtp+unix:/run/dovecot/lmtp"),
    ("capture:", "capture", "", 0, "capture:"),
]


@pytest.mark.parametrize(("text", "kind", "host", "port", "printed"), URLS)
def test_urls(text: str, kind: str, host: str, port: int, printed: str) -> None:
    url = UpstreamUrl.parse(text)
    assert (url.kind, url.host, url.port, str(url)) == (kind, host, port, printed)
    assert UpstreamUrl.parse(str(url)) == url
    assert url.tls == {"smtp": "off", "smtp+starttls": "starttls", "smtps": "implicit"}.get(
        text.partition(":")[0].lower(), "off"
    )


WRONG = [
    ("", "expected smtp://, smtp"),
    ("mail.example.com", "expected smtp://, smtp"),
    ("mail.example.com:25", "got the scheme 'mail.example.com'"),
    ("http://mail.example.com", "got the scheme 'http'"),
    ("smtp+tls://mail.example.com", r"got the scheme 'smtp\+tls'"),
    ("lmtps://mail.example.com", "got the scheme 'lmtps'"),
    ("smtp:mail.example.com", "expected smtp://, smtp"),
    ("lmtp+unix:run/lmtp", "an absolute path after lmtp\\+unix:"),
    ("lmtp+unix://host/path\0", "an absolute path after lmtp\\+unix:"),
    ("lmtps://mail.example.com", "expected smtp://, smtp"),
    ("smtp://", "expected smtp://, smtp"),
    ("smtp://mail.example.com/", "path or query"),
    ("smtp://mail.example.com?x=y", "path or query"),
    ("smtp://mail.example.com:", "expected smtp://, smtp"),
    ("smtp://mail.example.com:0", "from 1 to 65535"),
    ("smtp://mail.example.com:65536", "from 1 to 65535"),
    ("smtp://mail.example.com:٢٥", "expected smtp://, smtp"),
    ("smtp://192.0.2.300", "expected an IPv4 address"),
    ("smtp://[192.0.2.1]", "expected an IPv6 address"),
    ("smtp://[2001:db8::1", "expected smtp://, smtp"),
    ("smtp://2001:db8::1", "expected smtp://, smtp"),
    ("smtp://münchen.example", "xn--"),
    ("smtp://a..b", "expected a host name"),
    ("smtp://a b", "expected a host name"),
    ("capture:/tmp", "got the scheme 'capture'"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_no_url_is_told_so(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        UpstreamUrl.parse(text)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="do not belong in a url") as caught:
        UpstreamUrl.parse("smtp://user:hunter2@mail.example.com")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_connection_is_had(poller: Poller, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = UpstreamUrl.parse(f"smtp://{host}:{listener.getsockname()[1]}")
        stream = await dial(url, 5, adopt=poller.adopt)
        far, _ = listener.accept()
        with far:
            far.sendall(b"220 hello\r\n")
            assert await stream.receive_some() == b"220 hello\r\n"
            assert stream.far_end == listener.getsockname()
            assert stream.near_end == far.getpeername()
        stream.close()


async def test_nagle_is_off() -> None:
    seen: list[int] = []

    def look(sock: socket.socket) -> None:
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        sock.close()
        raise ConnectionResetError(104, "Connection reset by peer")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(DialError) as caught:
                await dial(UpstreamUrl.parse(f"smtp://{host}:{listener.getsockname()[1]}"), 5, adopt=look)  # type: ignore[arg-type]
            assert caught.value.reason == "unreachable"
    assert all(seen)
    assert len(seen) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_nobody_adopts_is_closed(host: str) -> None:
    """epoll has a limit on watches: ENOSPC."""
    seen: list[socket.socket] = []

    def refuse(sock: socket.socket) -> DeadlineStream:
        seen.append(sock)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(DialError, match="no space left"):
        await dial(UpstreamUrl.parse(f"smtp://{host}:{listener.getsockname()[1]}"), 5, adopt=refuse)
    assert [sock.fileno() for sock in seen] == [-1]


async def test_what_takes_no_option_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[trio.SocketStream] = []

    def refuse(stream: trio.SocketStream, *_: object) -> None:
        seen.append(stream)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def never(_: socket.socket) -> DeadlineStream:
        raise AssertionError("a socket that could not be made ready is not handed on")

    with socket.create_server(("127.0.0.1", 0)) as listener, monkeypatch.context() as patch:
        patch.setattr(trio.SocketStream, "setsockopt", refuse)
        with pytest.raises(DialError, match="invalid argument"):
            await dial(UpstreamUrl.parse(f"smtp://localhost:{listener.getsockname()[1]}"), 5, adopt=never)
    assert seen[-1].socket.fileno() == -1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_refused(poller: Poller, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = UpstreamUrl.parse(f"smtp://{host}:{port}")
    with pytest.raises(DialError, match=f"smtp://{host}:{port}: .*refused") as caught:
        await dial(url, 5, adopt=poller.adopt)
    assert caught.value.reason == "refused"


async def test_timeout(autojump_clock: MockClock, poller: Poller) -> None:
    """A server whose backlog is full leaves connections unanswered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = UpstreamUrl.parse(f"smtp://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(DialError, match="no connection within 30 seconds") as caught:
            await dial(url, 30, adopt=poller.adopt)
        for filler in fillers:
            filler.close()
    assert caught.value.reason == "timeout"
    assert autojump_clock.current_time() >= 30


async def test_no_time_left(poller: Poller) -> None:
    with pytest.raises(DialError) as caught:
        await dial(UpstreamUrl.parse("smtp://localhost"), -1, adopt=poller.adopt)
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unresolved"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "unresolved"),
    ],
)
async def test_unresolved(poller: Poller, error: OSError, reason: str) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object) -> list[object]:  # type: ignore[override]
            raise error

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise error

    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(DialError) as caught:
        await partial(dial, adopt=poller.adopt)(UpstreamUrl.parse("smtp://mail.example.test"), 5)
    assert caught.value.reason == reason


async def test_a_unix_socket(poller: Poller, tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        stream = await dial(UpstreamUrl.parse(f"lmtp+unix:{path}"), 5, adopt=poller.adopt)
        far, _ = listener.accept()
        with far:
            far.sendall(b"220 hello\r\n")
            assert await stream.receive_some() == b"220 hello\r\n"
        stream.close()
    with pytest.raises(DialError) as caught:
        await dial(UpstreamUrl.parse(f"lmtp+unix:{path}"), 5, adopt=poller.adopt)
    assert caught.value.reason == "refused"
    with pytest.raises(DialError, match="no such file") as caught:
        await dial(UpstreamUrl.parse(f"lmtp+unix:{path}-not"), 5, adopt=poller.adopt)
    assert caught.value.reason == "unreachable"


async def test_a_unix_socket_whose_backlog_is_full_is_waited_for(
    autojump_clock: MockClock, poller: Poller, tmp_path: Path
) -> None:
    path = str(tmp_path / "lmtp")
    url = UpstreamUrl.parse(f"lmtp+unix:{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        (await dial(url, 5, adopt=poller.adopt)).close()
        with pytest.raises(DialError) as caught:
            await dial(url, 5, adopt=poller.adopt)
        assert caught.value.reason == "timeout"
        assert 5 <= autojump_clock.current_time() <= 5.5

        async def accept() -> None:
            await trio.sleep(1)
            listener.accept()[0].close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            (await dial(url, 5, adopt=poller.adopt)).close()
