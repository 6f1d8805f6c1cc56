"""What takes its time is in the store while it runs (PROTOCOL §4, column SIGKILL), what does not is written no more often for it, and what a session says within a
moment is one part of its wire. On a clock of its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import trio
import trio.testing
from memory_store import MemoryReader, MemoryWriter

from relayproxy.net.stream import TrioStream
from relayproxy.record.log import Reporter
from relayproxy.record.playback import dialog_lines
from relayproxy.record.recorder import Policy, Recorder
from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.interface import RecordError, TransactionWrite
from relayproxy.record.store.spool import Spool
from relayproxy.relay.service import LOOK, Relay
from relayproxy.relay.settings import Config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from socket import socket

    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.store.interface import Reader, Write

#: Seconds after which what takes its time is there, and a time in which nothing is.
LONG = 0.5
SHORT = 0.15


class SlowStore(MemoryWriter):
    """Who commits has to wait."""

    async def commit(self, writes: Sequence[Write], *, durable: bool = False) -> None:
        await super().commit(writes, durable=durable)
        await trio.sleep(LONG)


class Nowhere:
    """Where a log goes that nobody reads."""

    def write(self, data: bytes, /) -> int:
        return len(data)

    def reopen(self) -> bool:
        return False

    def close(self) -> None: ...


class Client:
    """Says lines to a relay that captures, which has no sockets."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send(self, octets: bytes) -> None:
        await self._stream.send_all(octets)

    async def say(self, line: bytes = b"") -> int:
        if line:
            await self.send(line + b"\r\n")
        heard = b""
        while not heard.endswith(b"\r\n"):
            heard += await self._stream.receive_some()
        return int(heard.splitlines()[-1][:3])


class SilentAtRcpt:
    """An upstream that answers nothing any more once a recipient was named."""

    async def dial(self, url: UpstreamUrl, seconds: float) -> DeadlineStream:
        del url, seconds
        near, far = trio.testing.memory_stream_pair()
        trio.lowlevel.spawn_system_task(self._serve, near)
        return TrioStream(far)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        line = b"greeting"
        while line and not line.startswith(b"RCPT"):
            await stream.send_all(b"220 hi\r\n" if line == b"greeting" else b"250 ok\r\n")
            line = bytes(await stream.receive_some())


class Started:
    """The store that is written to, and who speaks."""

    def __init__(self, client: Client, store: MemoryWriter) -> None:
        self.client = client
        self.store = store

    @property
    def told(self) -> list[tuple[str, int, bool]]:
        """Of each write of a transaction: its outcome, how many recipients it knows, and whether it is the last."""
        writes = [write for write in self.store.writes if isinstance(write, TransactionWrite)]
        return [(write.record.outcome, len(write.record.recipients), write.final) for write in writes]

    @property
    def wire(self) -> list[bytes]:
        (session,) = self.store.sessions()
        return self.store.wire(session)

    @property
    def recorded(self) -> list[str]:
        """What the store has of the session, line by line, without times."""
        (id_,) = self.store.sessions()
        reader = MemoryReader(self.store)
        session = reader.session(id_)
        assert session is not None
        lines = dialog_lines(session, reader.of_session(id_), cast("Reader", reader))
        return [re.sub(r"^(\+\S+|    &) ", "", line) for line in lines]

    async def send(self) -> None:
        """A message."""
        assert await self.client.say(b"MAIL FROM:<a@client.test>") == 250
        assert await self.client.say(b"RCPT TO:<b@upstream.test>") == 250
        assert await self.client.say(b"DATA") == 354
        assert await self.client.say(b"Subject: hi\r\n\r\nhi\r\n.") == 250


def _no_sockets(_: socket) -> DeadlineStream:
    raise AssertionError("no socket is accepted here")


async def _no_dial(_: UpstreamUrl, _seconds: float) -> DeadlineStream:
    raise AssertionError("nobody is dialled here")


def play(
    folder: Path,
    script: Callable[[Started], Awaitable[None]],
    *,
    before_dot: bool = True,
    store_class: type[MemoryWriter] = MemoryWriter,
    upstream: SilentAtRcpt | None = None,
    streams: Callable[
        [], tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]
    ] = trio.testing.memory_stream_pair,
) -> None:
    """Run it with a session that has said EHLO."""
    url, dial = ("capture:", _no_dial) if upstream is None else ("smtp://127.0.0.1", upstream.dial)
    config = Config.model_validate(
        {"hostname": "relay.test", "state": str(folder), "upstream": {"default": {"url": url}}}
    )
    store, reporter = store_class(), Reporter(Nowhere(), format_="json")
    recorder = Recorder(store, Policy(before_dot), lambda: Spool(Bodies(folder), 1 << 20))

    async def main() -> None:
        relay = Relay(config, reporter, dial=dial, adopt=_no_sockets, recorder=recorder)
        near, far = streams()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.watch)
            nursery.start_soon(relay.session, TrioStream(far), "10.0.0.5", 53122, config.listener[0])
            client = Client(near)
            assert await client.say() == 220
            assert await client.say(b"EHLO client.test") == 250
            await script(Started(client, store))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert reporter.close(5)


def test_one_that_waits_is_there_with_what_is_known_and_again_with_more(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        client = started.client
        assert await client.say(b"MAIL FROM:<a@client.test>") == 250
        await trio.sleep(LONG)
        assert started.told == [("aborted", 0, False)]
        assert len(started.store.sessions()) == 1, "it is known whose it is"
        await trio.sleep(10)
        assert len(started.told) == 1, "once, where nothing is new"
        assert await client.say(b"RCPT TO:<b@upstream.test>") == 250
        assert await client.say(b"RCPT TO:<c@upstream.test>") == 250
        await trio.sleep(LONG)
        assert await client.say(b"DATA") == 354
        await trio.sleep(LONG)
        assert started.told == [("aborted", 0, False), ("aborted", 2, False), ("aborted", 2, False)]
        assert await client.say(b"Subject: hi\r\n\r\nhi\r\n.") == 250
        await trio.sleep(LONG)
        assert started.told[3:] == [("unknown", 2, False), ("accepted", 2, True)]

    play(tmp_path, script)


def test_one_that_does_not_wait_is_written_no_more_often_than_it_must(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        for _ in range(3):
            assert await started.client.say(b"MAIL FROM:<a@client.test>") == 250
            await trio.sleep(SHORT)
            assert await started.client.say(b"RCPT TO:<b@upstream.test>") == 250
            assert await started.client.say(b"DATA") == 354
            assert await started.client.say(b"Subject: hi\r\n\r\nhi\r\n.") == 250
        assert await started.client.say(b"MAIL FROM:<a@client.test>") == 250
        assert await started.client.say(b"RSET") == 250
        await trio.sleep(LONG)
        assert started.told == [("unknown", 1, False), ("accepted", 1, True)] * 3 + [("aborted", 0, True)]

    play(tmp_path, script)


def test_behind_its_record_nothing_but_its_outcome_is_written(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        await started.send()
        assert started.told == [("unknown", 1, False), ("accepted", 1, True)]

    play(tmp_path, script, store_class=SlowStore)


def test_a_mail_that_was_refused_is_over(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        assert await started.client.say(b"MAIL FROM:<a@client.test> SIZE=99999999999") == 552
        await trio.sleep(LONG)
        assert [(outcome, final) for outcome, _, final in started.told] == [("rejected", True)]

    play(tmp_path, script)


def test_a_store_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        assert await started.client.say(b"MAIL FROM:<a@client.test>") == 250
        started.store.trouble = RecordError("the store is full", full=True)
        await trio.sleep(LONG)
        assert started.told == []

    play(tmp_path, script)


def test_where_records_are_written_behind_none_is_written_before(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        assert await started.client.say(b"MAIL FROM:<a@client.test>") == 250
        await trio.sleep(LONG)
        assert started.told == []

    play(tmp_path, script, before_dot=False)


def test_the_wire_of_messages_that_follow_each_other_is_one_part(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        for _ in range(3):
            await started.send()
        assert started.wire == []
        await trio.sleep(LONG)
        (part,) = started.wire
        assert part.count(b"RCPT TO") == 3
        await started.send()
        assert await started.client.say(b"NOOP") == 250
        await trio.sleep(LONG)
        assert [part.count(b"RCPT TO") for part in started.wire] == [3, 1]

    play(tmp_path, script)


def test_what_is_said_in_the_middle_of_a_message_is_recorded_while_it_comes(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        client = started.client
        assert await client.say(b"MAIL FROM:<a@client.test>") == 250
        assert await client.say(b"RCPT TO:<b@upstream.test>") == 250
        assert await client.say(b"DATA") == 354
        await client.send(b"Subject: hi\r\n")
        await trio.sleep(LONG)
        assert started.recorded[-2:] == ["C< 354 Start mail input; end with <CRLF>.<CRLF>", "@ unkept C> 13"]
        await client.send(b"\r\nhi\r\n")
        await trio.sleep(LOOK + LONG)
        assert started.recorded[-2:] == ["@ unkept C> 13", "@ unkept C> 6"]
        assert await client.say(b".") == 250

    play(tmp_path, script)


def test_what_was_said_is_recorded_while_upstream_is_silent(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        assert await started.client.say(b"MAIL FROM:<a@client.test>") == 250
        await started.client.send(b"RCPT TO:<b@upstream.test>\r\n")
        await trio.sleep(LONG)
        assert started.recorded[-2:] == ["C> RCPT TO:<b@upstream.test>", "U> RCPT TO:<b@upstream.test>"]

    play(tmp_path, script, upstream=SilentAtRcpt())


def test_what_has_not_left_yet_is_not_recorded(tmp_path: Path) -> None:
    async def script(started: Started) -> None:
        client = started.client
        assert await client.say(b"MAIL FROM:<a@client.test>") == 250
        await client.send(b"RCPT TO:<b@upstream.test>\r\n")
        await trio.sleep(LOOK + LONG)
        assert started.recorded[-1] == "C> RCPT TO:<b@upstream.test>", "its reply was not taken yet"
        assert await client.say() == 250
        await trio.sleep(LOOK + LONG)
        assert started.recorded[-1] == "C< 250 2.1.5 Recipient OK"

    play(tmp_path, script, streams=trio.testing.lockstep_stream_pair)
