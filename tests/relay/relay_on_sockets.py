"""A relay on real sockets for tests: in this process or in one of its own, a client that speaks SMTP by hand, and an upstream."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from relayproxy.cli.recording import recording
from relayproxy.net.dial import dial
from relayproxy.net.poller import Poller
from relayproxy.record.log import Reporter
from relayproxy.record.store.sqlite import SqliteStore
from relayproxy.relay.service import Relay
from relayproxy.relay.settings import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.recorder import Recorder
    from relayproxy.record.store.interface import Stored
    from relayproxy.relay.rulebook import Rulebook

END_OF_DATA: Final = b"\r\n.\r\n"
#: What no test takes, so that a relay that hangs fails it and does not stop it.
PATIENCE: Final = 20.0


class Log:
    """What the relay told (a Target of relayproxy.record.sink); `keep` says which lines are remembered."""

    def __init__(self, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        self.lines: list[dict[str, Any]] = []
        #: While set, writing fails with this.
        self.trouble: OSError | None = None
        self._keep = keep
        self._token = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()

    def write(self, data: bytes, /) -> int:
        if self.trouble is not None:
            raise self.trouble
        told = [json.loads(line) for line in data.splitlines()]
        self._token.run_sync_soon(self._take, [line for line in told if self._keep(line)])
        return len(data)

    def _take(self, told: list[dict[str, Any]]) -> None:
        self.lines += told
        self._changed.set()
        self._changed = trio.Event()

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def of(self, event: str, **facts: object) -> list[dict[str, Any]]:
        return [
            line
            for line in self.lines
            if line["event"] == event and all(line.get(key) == value for key, value in facts.items())
        ]

    async def wait_for(self, event: str, count: int = 1, **facts: object) -> list[dict[str, Any]]:
        with trio.fail_after(PATIENCE):
            while len(found := self.of(event, **facts)) < count:
                await self._changed.wait()
        return found


class Client:
    """Speaks SMTP, one line at a time, and says what it hears as (code, rest of the last line)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._heard = b""

    async def reply(self) -> tuple[int, str]:
        with trio.fail_after(PATIENCE):
            while True:
                line, newline, rest = self._heard.partition(b"\r\n")
                if not newline:
                    data = await self.stream.receive_some()
                    if not data:
                        raise EOFError(f"the relay closed behind {self._heard!r}")
                    self._heard += data
                    continue
                self._heard = rest
                if line[3:4] != b"-":
                    return int(line[:3]), line[4:].decode()

    async def send(self, octets: bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(octets)

    async def say(self, line: str) -> tuple[int, str]:
        await self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def hello(self) -> None:
        assert (await self.reply())[0] == 220
        assert (await self.say("EHLO client.test"))[0] == 250

    async def envelope(self) -> None:
        assert (await self.say("MAIL FROM:<a@client.test>"))[0] == 250
        assert (await self.say("RCPT TO:<b@upstream.test>"))[0] == 250

    async def begin_message(self, octets: bytes = b"Subject: hi\r\n\r\nhalf of it") -> None:
        await self.envelope()
        assert (await self.say("DATA"))[0] == 354
        await self.send(octets)

    async def message(self) -> tuple[int, str]:
        await self.begin_message()
        await self.send(END_OF_DATA)
        return await self.reply()

    async def ended(self) -> bool:
        """Whether the relay has closed in order, and nothing more was said; a reset is not in order: it can eat the last reply."""
        with trio.fail_after(PATIENCE):
            try:
                return not self._heard and not await self.stream.receive_some()
            except trio.BrokenResourceError:
                return False

    async def gone(self) -> bool:
        """Whether the connection is gone, however that came, and nothing more was said."""
        with trio.fail_after(PATIENCE):
            try:
                return not self._heard and not await self.stream.receive_some()
            except trio.BrokenResourceError:
                return True


class Upstream:
    """Takes all mail. What is special is set by the test; what came is in `conversations`, by connection, when `keep` is set."""

    def __init__(self) -> None:
        self.port = 0
        self.keep = True
        self.conversations: list[bytearray] = []
        self.messages = 0
        self.octets = 0
        self.open = 0
        #: Commands (or "." for end of data) that are not answered.
        self.silent_to: set[str] = set()
        #: Extensions.
        self.offers: tuple[bytes, ...] = (b"PIPELINING", b"SIZE")
        self._changed = trio.Event()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not true():
                await self._changed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        conversation = bytearray()
        if self.keep:
            self.conversations.append(conversation)
        self.open += 1
        self._change()
        try:
            async with stream:
                await self._converse(stream, conversation)
        except trio.BrokenResourceError:
            pass  # killed relays reset
        finally:
            self.open -= 1
            self._change()

    async def _converse(self, stream: trio.SocketStream, conversation: bytearray) -> None:
        await stream.send_all(b"220 upstream.test ESMTP\r\n")
        buffer = b""
        in_data = False
        while data := await stream.receive_some(1 << 18):
            if self.keep:
                conversation += data
            self._change()
            self.octets += len(data)
            buffer += data
            while True:
                if in_data:
                    _, end, rest = buffer.partition(END_OF_DATA)
                    if not end:
                        buffer = buffer[-4:]
                        break
                    buffer, in_data = rest, False
                    self.messages += 1
                    verb = "."
                else:
                    line, end, buffer = buffer.partition(b"\r\n")
                    if not end:
                        buffer = line
                        break
                    verb = line[:4].decode().upper()
                    in_data = verb == "DATA" and verb not in self.silent_to
                if verb in self.silent_to:
                    continue
                await stream.send_all(
                    {
                        "EHLO": b"".join(b"250-%b\r\n" % line for line in (b"upstream.test", *self.offers))
                        + b"250 HELP\r\n",
                        "AUTH": b"334 VXNlcm5hbWU6\r\n",
                        "DATA": b"354 go on\r\n",
                        "QUIT": b"221 2.0.0 bye\r\n",
                    }.get(verb, b"250 2.0.0 ok\r\n")
                )
                if verb == "QUIT":
                    return


@asynccontextmanager
async def upstream_server() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
        upstream.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, upstream.serve, [listener])
        yield upstream
        nursery.cancel_scope.cancel()


class Running:
    """A relay that serves, in this process."""

    def __init__(self, relay: Relay, log: Log, reporter: Reporter, recorder: Recorder | None) -> None:
        self.relay = relay
        self._recorder = recorder
        self.log = log
        self.reporter = reporter
        self.addresses: list[str] = []
        self.scope = trio.CancelScope()
        self._clients: list[Client] = []

    async def connect(self, at: int = 0, local: str | None = None) -> Client:
        """A client; what is left of it is closed with the relay."""
        self._clients.append(await connect(self.addresses[at], local))
        return self._clients[-1]

    def connect_talking(self, octets: bytes) -> Client:
        """A client that has sent all this before the relay could so much as accept it."""
        host, _, port = self.addresses[0].rpartition(":")
        sock = socket.create_connection((host, int(port)))
        sock.sendall(octets)
        sock.setblocking(False)
        self._clients.append(Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock))))
        return self._clients[-1]

    async def recorded(self) -> None:
        """All that was told so far is in the store, and its writer is done with it."""
        if self._recorder is not None:
            for _ in range(2):  # what goes in with the first is held until that has returned
                await self._recorder.writer.commit([])

    async def serve(self) -> None:
        with self.scope:
            self.relay.bind()
            await self.relay.serve()

    async def close_clients(self) -> None:
        while self._clients:
            await self._clients.pop().stream.aclose()


async def connect(address: str, local: str | None = None) -> Client:
    if address.startswith("unix:"):
        return Client(await trio.open_unix_socket(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    return Client(await trio.open_tcp_stream(host.strip("[]"), int(port), local_address=local))


@asynccontextmanager
async def serving(
    state: Path,
    *,
    addresses: tuple[str, ...] = ("127.0.0.1:0",),
    upstream: Upstream | None = None,
    upstream_url: str = "capture:",
    upstream_more: dict[str, Any] | None = None,
    log: Log | None = None,
    prepare: Callable[[socket.socket], None] = lambda _: None,
    listener: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    rulebook: Rulebook | None = None,
    **config: Any,
) -> AsyncIterator[Running]:
    """A relay that listens; `prepare` sees each accepted socket first. All is over behind it, in order."""
    log = log or Log()
    reporter = Reporter(log, format_="json")
    poller = Poller()

    def adopt(sock: socket.socket) -> DeadlineStream:
        prepare(sock)
        return poller.adopt(sock)

    settings = Config.model_validate(
        {
            "hostname": "relay.test",
            "state": str(state),
            "listener": [
                {"name": f"at-{number}", "address": address, **(listener or {})}
                for number, address in enumerate(addresses)
            ],
            "upstream": {
                "default": {
                    "url": f"smtp://127.0.0.1:{upstream.port}" if upstream else upstream_url,
                    **(upstream_more or {}),
                }
            },
            "record": {"store": f"sqlite:{state / 'relayproxy.db'}", **(record or {})},
            **config,
        }
    )
    await trio.Path(state).mkdir(exist_ok=True)
    with recording(settings, reporter) as recorder:
        relay = Relay(
            settings,
            reporter,
            dial=partial(dial, adopt=poller.adopt),
            adopt=adopt,
            recorder=recorder,
            rulebook=rulebook,
        )
        async with _running(Running(relay, log, reporter, recorder), poller, len(addresses)) as running:
            yield running


@asynccontextmanager
async def _running(running: Running, poller: Poller, listeners: int) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        await nursery.start(poller.run)
        async with trio.open_nursery() as serving_:
            serving_.start_soon(running.serve)
            if running.log.trouble is None:
                running.addresses = [line["address"] for line in await running.log.wait_for("listening", listeners)]
            try:
                yield running
            finally:
                with trio.CancelScope(shield=True):
                    await running.close_clients()
                running.relay.shut_down()
                running.relay.shut_down()
        nursery.cancel_scope.cancel()
    running.log.trouble = None
    assert await trio.to_thread.run_sync(running.reporter.close, 5.0)


class Process:
    """A relay in a process of its own."""

    def __init__(self, process: trio.Process, address: str, told: bytes) -> None:
        """`told`: what was read of its log."""
        self.process = process
        self.address = address
        self.lines: list[dict[str, Any]] = []
        self._told = told
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        self.clients.append(await connect(self.address))
        return self.clients[-1]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()

    def peak_memory(self) -> int:
        """Octets; what was resident at most."""
        return self._memory("VmHWM:")

    def memory(self) -> int:
        """Octets; what is resident now."""
        return self._memory("VmRSS:")

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (size,) = [line.split()[1] for line in status.splitlines() if line.startswith(field)]
        return int(size) * 1024

    def descriptors(self) -> int:
        """How many are open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def tells(self, event: str, count: int = 1, **facts: object) -> None:
        """Wait until so many such lines are in its log."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while count > sum(
                {**(told := json.loads(line)), "event": event, **facts} == told
                for line in self._told.splitlines(keepends=True)
                if line.endswith(b"\n")
            ):
                self._told += await self.process.stdout.receive_some()

    async def ended(self) -> int:
        """Its exit status; `lines` is then the whole log."""
        with trio.fail_after(PATIENCE):
            assert self.process.stdout is not None
            async for data in self.process.stdout:
                self._told += data
            self.lines = [json.loads(line) for line in self._told.splitlines()]
            return await self.process.wait()


def _limit_descriptors(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


async def until_stored(store: Path, count: int, fits: Callable[[Stored], bool] = lambda _: True) -> list[Stored]:
    """As soon as so many transactions that fit are in a store, those."""
    with trio.fail_after(PATIENCE), SqliteStore(store).reader() as reader:
        while len(found := [stored for stored in reader.transactions() if fits(stored)]) < count:
            await trio.lowlevel.checkpoint()
        return found


class AtPort(Protocol):
    """Whatever listens on this machine."""

    @property
    def port(self) -> int: ...


@asynccontextmanager
async def relay_process(
    folder: Path,
    upstream: AtPort | None,
    *,
    listen: str | None = "127.0.0.1:0",
    log: str | None = None,
    toml: str = "",
    descriptors: int | None = None,
) -> AsyncIterator[Process]:
    """`python -m relayproxy run`. With `log` there is nothing to tell when it listens: `listen` is then a Unix socket. `descriptors`: no more
    than so many open files.

    Upstream and listener are in `toml` where they are None here.
    """
    config = folder / "relayproxy.toml"
    config.write_text(f'hostname = "relay.test"\nstate = "{folder / "state"}"\n{toml}\n', encoding="utf-8")
    flags = ["--log", log or "-"]
    flags += [] if listen is None else ["--listen", listen]
    flags += [] if upstream is None else ["--upstream", f"smtp://127.0.0.1:{upstream.port}"]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "relayproxy", "run", str(config), *flags, "--log-format", "json"],
        stdout=subprocess.PIPE,
        preexec_fn=None if descriptors is None else partial(_limit_descriptors, descriptors),
    )
    try:
        assert process.stdout is not None
        address, told = listen or "", b""
        if log is None:
            with trio.fail_after(PATIENCE):
                while b'"event":"listening"' not in told or not told.endswith(b"\n"):
                    more = bytes(await process.stdout.receive_some())
                    assert more, "it listens before it ends"
                    told += more
            lines = [json.loads(line) for line in told.splitlines()]
            address = next(line["address"] for line in lines if line["event"] == "listening")
        relay = Process(process, address, told)
        yield relay
        for client in relay.clients:
            await client.stream.aclose()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()
