"""The relay as a service, over real sockets: who may come in, how many, how it ends, and what it leaves behind."""

from __future__ import annotations

import errno
import gc
import os
import socket
import stat
import sys
import weakref
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from relay_on_sockets import END_OF_DATA, PATIENCE, Client, Log, connect, serving, upstream_server
from trio.testing import wait_all_tasks_blocked

from relayproxy.record.store.sqlite import SqliteStore
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules
from relayproxy.relay.workers import Workers
from relayproxy.rules.load import load

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "rules", ["", '[[rule]]\nthen = [{ tag = "x" }]\n', '[[rule]]\nwhen = { body = "*x*" }\nthen = [{ hold = "x" }]\n']
)
async def test_a_session_that_has_ended_is_freed_at_once(tmp_path: Path, rules: str) -> None:
    """And not when Python looks for circles, which it seldom does here."""
    (tmp_path / "rules.toml").write_text(rules)
    book = Rulebook(Rules(load([tmp_path / "rules.toml"]).rules, None), Drawn(1, trio.current_time), Workers(1, 5.0))
    sockets: list[weakref.ref[socket.socket]] = []
    gc.disable()
    try:
        async with (
            upstream_server() as upstream,
            serving(
                tmp_path, upstream=upstream, rulebook=book, prepare=lambda sock: sockets.append(weakref.ref(sock))
            ) as relay,
        ):
            client = await relay.connect()
            await client.hello()
            assert (await client.message())[0] == 250
            assert (await client.say("QUIT"))[0] == 221
            await relay.log.wait_for("session", state="closed")
            with trio.fail_after(PATIENCE):
                while sockets[0]() is not None:
                    await trio.lowlevel.checkpoint()
    finally:
        gc.enable()


# Where clients connect.


async def test_each_listener_says_where_it_listens(tmp_path: Path) -> None:
    addresses = ("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/relay")
    async with serving(tmp_path, addresses=addresses) as relay:
        told = {line["listener"]: line["address"] for line in relay.log.of("listening")}
        assert [line["event"] for line in relay.log.lines] == ["listening"] * 3
        assert list(told) == ["at-0", "at-1", "at-2"]
        assert told["at-0"].startswith("127.0.0.1:")
        assert told["at-1"].startswith("[::1]:")
        assert told["at-2"] == addresses[2]
        for number in range(3):
            client = await relay.connect(number)
            assert (await client.reply())[0] == 220


@pytest.mark.parametrize(("address", "seen"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")])
async def test_tcp_clients_are_told_by_address_and_port(tmp_path: Path, address: str, seen: str) -> None:
    async with serving(tmp_path, addresses=(address,)) as relay:
        client = await relay.connect()
        await client.hello()
        assert (await client.message())[0] == 250
        (line,) = await relay.log.wait_for("transaction")
        port = client.stream.socket.getsockname()[1]
        assert line["client"] == {"address": seen, "port": port, "helo": "client.test", "tls": None, "auth": None}


async def test_localhost_is_both_families(tmp_path: Path) -> None:
    async with serving(tmp_path, addresses=("localhost:0",)) as relay:
        relay.addresses = [line["address"] for line in await relay.log.wait_for("listening", 2)]
        assert {address.rpartition(":")[0] for address in relay.addresses} == {"127.0.0.1", "[::1]"}
        for number in range(2):
            assert (await (await relay.connect(number)).reply())[0] == 220


async def test_a_unix_socket_is_its_owners_and_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "relay"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    # `clients` speaks of IP addresses: whoever may open the socket may come.
    async with serving(tmp_path, addresses=(f"unix:{path}",), listener={"clients": ["192.0.2.1"]}) as relay:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = await relay.connect()
        await client.hello()
        assert (await client.message())[0] == 250
        (line,) = await relay.log.wait_for("transaction")
        assert (line["client"]["address"], line["client"]["port"]) == (f"unix:{path}", None)


async def test_a_port_that_is_taken_is_an_error_that_says_which(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match=f"cannot listen on {address}"), flatten_subgroups=True):
            async with serving(tmp_path, addresses=(address,)):
                pass


# Who may come in.


async def test_clients_that_are_not_welcome_hear_554(tmp_path: Path) -> None:
    """DESIGN §5: clients = who may connect, others 554 and close (attack 27)."""
    async with serving(tmp_path, listener={"clients": ["127.0.0.2", "::1"]}) as relay:
        stranger = await relay.connect()
        code, words = await stranger.reply()
        assert (code, words[:5]) == (554, "5.7.1")
        assert await stranger.ended()
        friend = await relay.connect(local="127.0.0.2")
        assert (await friend.reply())[0] == 220
        (violation,) = await relay.log.wait_for("violation")
        assert violation["reply"]["code"] == 554


@pytest.mark.parametrize(
    ("limits", "limit", "another"),
    [
        ({"sessions": 1}, "sessions", "127.0.0.2"),
        ({"sessions_per_client": 1}, "sessions_per_client", "127.0.0.1"),
    ],
)
async def test_sessions_over_the_limit_hear_421(
    tmp_path: Path, limits: dict[str, int], limit: str, another: str
) -> None:
    """PROTOCOL §1.13, attack 18; a place that is left is free again."""
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream, limits=limits) as relay:
        first = await relay.connect()
        await first.hello()
        second = await relay.connect(local=another)
        code, words = await second.reply()
        assert (code, words[:5]) == (421, "4.3.2")
        assert await second.ended()
        (told,) = await relay.log.wait_for("limit")
        assert (told["limit"], told["client"]) == (limit, another)
        assert upstream.open == 1, "nothing is spent on who has no place"
        assert (await first.say("QUIT"))[0] == 221
        await first.stream.aclose()
        await relay.log.wait_for("session", state="closed")
        third = await relay.connect(local=another)
        await third.hello()


async def test_sessions_per_client_counts_each_client_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, limits={"sessions_per_client": 1}) as relay:
        for local in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            await (await relay.connect(local=local)).hello()


# How a connection ends.


async def test_recipients_over_the_limit_are_told_once_a_transaction(tmp_path: Path) -> None:
    async with serving(tmp_path, limits={"recipients": 1}) as relay:
        client = await relay.connect()
        await client.hello()
        for _ in range(2):
            await client.envelope()
            for _ in range(5):
                assert (await client.say("RCPT TO:<c@upstream.test>"))[0] == 452
            assert (await client.say("RSET"))[0] == 250
        assert (await client.say("QUIT"))[0] == 221
        await relay.log.wait_for("session", state="closed")
        assert len(relay.log.of("limit", limit="recipients")) == 2


@pytest.mark.parametrize(
    ("config", "code"),
    [({"listener": {"clients": ["192.0.2.1"]}}, 554), ({"limits": {"sessions_per_client": 1}}, 421)],
)
async def test_who_is_turned_away_hears_it_though_it_was_talking(
    tmp_path: Path, config: dict[str, Any], code: int
) -> None:
    """PROTOCOL §1.1 (8): closing with unread input resets the connection and eats the reply."""
    async with serving(tmp_path, **config) as relay:
        place = await relay.connect()  # takes the one place that there is
        assert (await place.reply())[0] in {220, code}
        client = relay.connect_talking(b"EHLO client.test\r\n" + b"NOOP\r\n" * 4000)
        assert (await client.reply())[0] == code
        assert await client.ended()
        await place.stream.aclose()


async def test_who_sends_mail_data_too_early_hears_554(tmp_path: Path) -> None:
    """Attack 5, over sockets: the reply arrives although the rest of the message is never read."""
    async with serving(tmp_path) as relay:
        client = await relay.connect()
        await client.hello()
        await client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n" + b"Subject: hi\r\n" * 7000)
        assert [(await client.reply())[0] for _ in range(3)] == [250, 250, 554]
        assert await client.ended()


async def test_a_half_closed_client_hears_all_its_replies(tmp_path: Path) -> None:
    """PROTOCOL §1.1 (7): the end of what it sends is not the end of the client."""
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message()
        await client.send(END_OF_DATA + b"MAIL FROM:<c@x.test>\r\nRCPT TO:<d@x.test>\r\nRSET\r\nQUIT\r\n")
        await client.stream.send_eof()
        assert [(await client.reply())[0] for _ in range(5)] == [250, 250, 250, 250, 221]
        assert await client.ended()
        assert upstream.messages == 1
        lines = await relay.log.wait_for("transaction", 2)
        assert [line["outcome"] for line in lines] == ["accepted", "aborted"]


async def test_half_a_message_of_a_half_closed_client_gets_no_dot(tmp_path: Path) -> None:
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"Subject: hi\r\n\r\nhalf\r\n.")
        await client.stream.send_eof()
        assert await client.ended()
        await upstream.until(lambda: upstream.open == 0)
        assert upstream.conversations[0].endswith(b"\r\nhalf")
        (line,) = await relay.log.wait_for("transaction")
        assert line["outcome"] == "aborted"


@pytest.mark.slow
async def test_a_client_that_never_reads_is_given_up(tmp_path: Path) -> None:
    """Attack 17: nothing piles up for it, and its time is bounded."""

    def narrow(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    config: dict[str, Any] = {"limits": {"junk_commands": 1_000_000}, "timeouts": {"client": {"write": "100ms"}}}
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream, prepare=narrow, **config) as relay:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = relay.addresses[0].rpartition(":")
        await sock.connect((host, int(port)))
        client = Client(trio.SocketStream(sock))
        await client.hello()
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"HELP\r\n" * 1_000_000)
        await client.stream.aclose()
        (line,) = await relay.log.wait_for("session", state="closed")
        assert line["why"] == "the client was lost"
        await upstream.until(lambda: upstream.open == 0)
        assert bytes(upstream.conversations[0]).endswith(b"QUIT\r\n")


# How the service ends.


async def test_shutting_down_over_sockets(tmp_path: Path) -> None:
    """DESIGN §9.8: accept no more, 421 to the idle, let a message end."""
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream) as relay:
        idle = await relay.connect()
        await idle.hello()
        busy = await relay.connect()
        await busy.hello()
        await busy.begin_message()
        relay.relay.shut_down()
        assert (await idle.reply())[0] == 421
        assert await idle.ended()
        with pytest.raises(OSError, match="all attempts to connect"):
            await relay.connect()
        await busy.send(END_OF_DATA)
        assert (await busy.reply())[0] == 250
        assert (await busy.reply())[0] == 421
        assert await busy.ended()
        assert upstream.messages == 1


async def test_the_drain_has_an_end(tmp_path: Path) -> None:
    """PROTOCOL §4, S6: at its end 421, and upstream is closed without a dot; a client that is heard hears it."""
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream, drain="50ms") as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message()
        relay.relay.shut_down()
        code, words = await client.reply()
        assert (code, words[:5]) == (421, "4.3.2")
        assert await client.ended()
        await upstream.until(lambda: upstream.open == 0)
        assert upstream.messages == 0
        assert upstream.conversations[0].endswith(b"half of it")


async def test_the_drains_end_stops_a_client_that_sends_without_end(tmp_path: Path) -> None:
    async with (
        upstream_server() as upstream,
        serving(tmp_path, upstream=upstream) as relay,
        trio.open_nursery() as flood,
    ):
        upstream.keep = False
        client = await relay.connect()
        await client.hello()
        await client.begin_message(b"Subject: hi\r\n\r\n")

        async def send() -> None:
            try:
                while True:
                    await client.stream.send_all(b"on and on\r\n" * 1000)
            except trio.BrokenResourceError:
                pass

        flood.start_soon(send)
        await upstream.until(lambda: upstream.octets > 100_000)
        relay.relay.shut_down()
        relay.relay.shut_down()
        (line,) = await relay.log.wait_for("transaction")
        assert (line["outcome"], line["reply"]["code"]) == ("tempfailed", 421)
        await upstream.until(lambda: upstream.open == 0)
        assert upstream.messages == 0
        flood.cancel_scope.cancel()


# What is told.


async def test_the_last_words_of_an_upstream_that_resets_under_our_writing_are_heard(tmp_path: Path) -> None:
    """PROTOCOL §1.6: it refuses and closes though it has not read all, so that what we send next fails; why is there to read."""
    clogged = trio.Event()

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 upstream.test\r\n")
        async for command in stream:
            await stream.send_all(b"354 go on\r\n" if command == b"DATA\r\n" else b"250 ok\r\n")
            if command == b"DATA\r\n":
                break
        await clogged.wait()
        os.write(stream.socket.fileno(), b"554 5.6.0 spam\r\n")  # and no task has its turn before we close
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        url = f"smtp://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with serving(tmp_path, upstream_url=url) as relay:
            client = await relay.connect()
            await client.hello()
            await client.begin_message()
            nursery.start_soon(client.send, (b"\r\n" + b"x" * 70) * 300_000 + END_OF_DATA)
            await wait_all_tasks_blocked(0.1)
            clogged.set()
            code, words = await client.reply()
            assert (code, words[:5]) == (554, "5.6.0")
            (line,) = await relay.log.wait_for("transaction")
            assert (line["outcome"], line["message"]["size"]["sent"]) == ("rejected", None)
        nursery.cancel_scope.cancel()


async def test_no_transaction_line_is_lost_while_the_log_cannot_be_written(tmp_path: Path) -> None:
    """DESIGN §7: without a store the next MAIL hears 451 4.3.0, and what waits is written once it can be, in order."""
    record = {"store": "none"}
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream, record=record) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message()
        relay.log.trouble = FULL
        await client.send(END_OF_DATA)
        assert (await client.reply())[0] == 250, "nothing local makes a failure of upstream's 250 (I2)"
        while relay.reporter.healthy:
            await wait_all_tasks_blocked()
        await client.send(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@upstream.test>\r\nDATA\r\n")
        assert [(await client.reply())[0] for _ in range(3)] == [451, 503, 503]
        assert (await client.say("MAIL FROM:<a@client.test>"))[1][:5] == "4.3.0"
        assert upstream.conversations[0].count(b"MAIL") == 1
        relay.log.trouble = None
        await relay.log.wait_for("transaction", 3)
        while not relay.reporter.healthy:
            await wait_all_tasks_blocked()
        assert (await client.message())[0] == 250
        second = await relay.connect()
        await second.hello()
        assert (await second.message())[0] == 250, "whoever comes later is served as well"
        lines = await relay.log.wait_for("transaction", 5)
        assert [line["outcome"] for line in lines] == ["accepted", "tempfailed", "tempfailed", "accepted", "accepted"]
        assert [line["reply"]["origin"] for line in lines] == ["upstream", "proxy", "proxy", "upstream", "upstream"]
        assert len({line["transaction"] for line in lines}) == 5


async def test_a_log_that_cannot_be_written_stops_nothing_that_is_in_the_store(tmp_path: Path) -> None:
    """DESIGN §7: the store holds the record."""
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream) as relay:
        client = await relay.connect()
        await client.hello()
        await client.begin_message()
        relay.log.trouble = FULL
        await client.send(END_OF_DATA)
        assert (await client.reply())[0] == 250
        while relay.reporter.healthy:
            await wait_all_tasks_blocked()
        assert (await client.message())[0] == 250
    with SqliteStore(tmp_path / "relayproxy.db").reader() as reader:
        assert [stored.record.outcome for stored in reader.transactions()] == ["accepted", "accepted"]


async def test_a_session_that_is_cancelled_behind_its_dot_is_unknown(tmp_path: Path) -> None:
    """DESIGN §2: the dot has left, the reply was not seen; never guessed, whatever ends us. Both legs are closed."""
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream) as relay:
        upstream.silent_to = {"."}
        client = await relay.connect()
        await client.hello()
        await client.begin_message()
        await client.send(END_OF_DATA)
        await upstream.until(lambda: upstream.messages == 1)
        relay.scope.cancel()
        (line,) = await relay.log.wait_for("transaction")
        assert (line["outcome"], line["acknowledged"]) == ("unknown", False)
        assert await client.gone()
        await upstream.until(lambda: upstream.open == 0)


@pytest.mark.slow
async def test_the_time_of_a_transaction_is_when_mail_came_and_a_refusal_takes_its_time(tmp_path: Path) -> None:
    """DESIGN §7: `time` is MAIL's, and the wait for a MAIL that upstream refused was a wait for upstream."""
    mail_left: list[datetime] = []

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 upstream.test\r\n")
        async for command in stream:
            if command.startswith(b"MAIL"):
                mail_left.append(datetime.now(UTC))
            await stream.send_all(b"550 5.7.1 no\r\n" if command.startswith(b"MAIL") else b"250 ok\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        url = f"smtp://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with serving(tmp_path, upstream_url=url) as relay:
            client = await relay.connect()
            assert (await client.reply())[0] == 220
            assert (await client.say("EHLO client.test"))[0] == 250
            assert (await client.say("MAIL FROM:<a@client.test>"))[0] == 550
            (line,) = await relay.log.wait_for("transaction")
        nursery.cancel_scope.cancel()
    assert datetime.fromisoformat(line["time"]) <= mail_left[0]
    assert 0 < line["seconds"]["upstream"] <= line["seconds"]["total"]


async def test_every_message_of_many_clients_is_one_line(tmp_path: Path) -> None:
    """32 clients, a third of which vanish in mid-message: as many lines as MAILs, each id once, accepted ones as many as taken."""
    messages, clients = 10, 32
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream) as relay:

        async def send(number: int) -> None:
            client = await relay.connect()
            await client.hello()
            for _ in range(messages):
                assert (await client.message())[0] == 250
            if number % 3:
                assert (await client.say("QUIT"))[0] == 221
            else:
                await client.begin_message()
            await client.stream.aclose()

        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(send, number)
        await relay.log.wait_for("session", clients, state="closed")
        lines = relay.log.of("transaction")
        vanished = len(range(0, clients, 3))
        assert Counter(line["outcome"] for line in lines) == {"accepted": clients * messages, "aborted": vanished}
        assert len({line["transaction"] for line in lines}) == len(lines)
        assert upstream.messages == clients * messages
        told = relay.log.of("session", state="closed")
        assert sum(line["transactions"] for line in told) == len(lines)


# What is left behind.


def _objects() -> Counter[str]:
    """What the relay is made of; record.dialog has a Session too, and tests that ran before keep theirs."""
    gc.collect()
    kinds = [type(it) for it in gc.get_objects()]
    # That of some libraries' is no text.
    ours = [kind for kind in kinds if str(kind.__module__).startswith("relayproxy.")]
    return Counter(kind.__qualname__ for kind in ours if kind.__module__ != "relayproxy.record.dialog")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
async def test_a_thousand_sessions_at_once_and_gone_leave_nothing(tmp_path: Path) -> None:
    """No task, no socket, no byte: half of them end in order, half vanish in the middle of a message."""
    at_once = 1000
    log = Log(keep=lambda line: line.get("state") == "closed" or line["event"] in ("listening", "error"))
    limits = {"sessions": 2 * at_once, "sessions_per_client": 2 * at_once}
    async with upstream_server() as upstream, serving(tmp_path, upstream=upstream, log=log, limits=limits) as relay:
        upstream.keep = False

        async def hold(number: int, all_here: trio.Event, arrived: list[int]) -> None:
            client = await connect(relay.addresses[0])
            await client.hello()
            await client.begin_message()
            arrived.append(number)
            if len(arrived) == at_once:
                all_here.set()
            await all_here.wait()
            if number % 2:
                await client.send(END_OF_DATA)
                assert (await client.reply())[0] == 250
                assert (await client.say("QUIT"))[0] == 221
            await client.stream.aclose()

        async def come_and_go() -> tuple[int, int, Counter[str], int]:
            log.lines.clear()
            all_here, arrived = trio.Event(), list[int]()
            async with trio.open_nursery() as nursery:
                for number in range(at_once):
                    nursery.start_soon(hold, number, all_here, arrived)
            await log.wait_for("session", at_once, state="closed")
            await upstream.until(lambda: upstream.open == 0)
            await relay.recorded()
            await wait_all_tasks_blocked()
            log.lines.clear()
            objects = _objects()
            return (
                trio.lowlevel.current_statistics().tasks_living,
                _descriptors(),
                objects,
                sys.getallocatedblocks(),
            )

        await come_and_go()  # caches fill, buffers grow
        tasks, descriptors, objects, blocks = await come_and_go()
        tasks_then, descriptors_then, objects_then, blocks_then = await come_and_go()
        assert tasks_then == tasks
        assert descriptors_then == descriptors
        # The poller's two loops remember the stream that they looked at last.
        assert max(objects["EdgeStream"], objects_then["EdgeStream"]) <= 2
        # The store's thread has something in hand now and then; what stays is there whenever one looks.
        left = objects_then - objects
        for _ in range(50):
            left &= _objects() - objects
        assert not left.keys() - {"EdgeStream"}
        assert not {"Session", "Peer", "ClientLeg", "SmtpUpstream", "Transaction", "Intake"} & objects.keys()
        # Whatever is kept is in blocks of memory. Caches and the test's own lists make for some hundred; a block a session would show each time.
        rounds = [blocks_then - blocks]
        while rounds[-1] > at_once / 2 and len(rounds) < 4:
            blocks, blocks_then = blocks_then, (await come_and_go())[3]
            rounds.append(blocks_then - blocks)
        assert rounds[-1] < at_once / 2, rounds
