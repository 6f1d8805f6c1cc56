"""Names that are not resolved in time: who waits for one stops nobody else."""

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from relayproxy.net import resolver
from relayproxy.net.dial import DialError, UpstreamUrl, dial
from relayproxy.net.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from relayproxy.net.poller import Poller


class Silent:
    """A resolver that answers nothing under .silent until it is told to: by then there is no such name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.began, self.go_on = threading.Event(), threading.Event()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: Any, port: Any, family: int = 0, type_: int = 0, proto: int = 0, flags: int = 0) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name.endswith(".silent") and not flags & socket.AI_NUMERICHOST:
            self.asked.append(name)
            self.began.set()
            self.go_on.wait()
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real(host, port, family, type_, proto, flags)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silent]:
    silent = Silent()
    monkeypatch.setattr(socket, "getaddrinfo", silent.getaddrinfo)
    yield silent
    silent.go_on.set()


async def unresolved(name: str, poller: Poller, told: list[str] | None = None) -> None:
    with pytest.raises(DialError, match="the name was not resolved") as caught:
        await dial(UpstreamUrl.parse(f"smtp://{name}"), 1e9, adopt=poller.adopt)
    if told is not None:
        told.append(str(caught.value))


async def test_names_that_are_not_resolved_stop_neither_others_nor_what_waits_for_a_disk(
    poller: Poller, silent: Silent
) -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(unresolved, "a.silent" if number % 2 else "b.silent", poller, told)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(20):
                url = UpstreamUrl.parse(f"smtp://localhost:{listener.getsockname()[1]}")
                (await dial(url, 20, adopt=poller.adopt)).close()
                spool = Spool(0)
                await spool.add(b"x")
                assert [piece async for piece in spool.pieces()] == [b"x"]
                spool.close()
            silent.go_on.set()
    assert sorted(silent.asked) == ["a.silent", "b.silent"]
    assert (len(told), len(set(told))) == (50, 2)
    silent.asked.clear()
    await unresolved("a.silent", poller)
    assert silent.asked == ["a.silent"]  # anew


async def test_who_leaves_takes_the_answer_from_nobody(poller: Poller, silent: Silent) -> None:
    first = trio.CancelScope()

    async def leaves() -> None:
        with first:
            await unresolved("a.silent", poller)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaves)
        nursery.start_soon(unresolved, "a.silent", poller)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        silent.go_on.set()
    assert silent.asked == ["a.silent"]


async def test_a_lookup_that_never_ends_is_given_up(mock_clock: MockClock, poller: Poller, silent: Silent) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(unresolved, "a.silent", poller))
        assert await trio.to_thread.run_sync(silent.began.wait, 20)
        mock_clock.jump(resolver.LOOKUP_SECONDS)
    assert silent.asked == ["a.silent"]
