"""That the rig sees what it is there to see: damaged, dropped, doubled and refused mail, and targets that are missed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from rig import SUMS, Failed, Held, Load, Quantiles, Rate, Sink, SinkProcess, smtpload
from tables import Results, missed, ratio_table, scenario_table, summarize, target_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def binary() -> str:
    if not shutil.which("cc"):
        pytest.skip("no C compiler to build smtpload with")
    try:
        return smtpload()
    except subprocess.CalledProcessError:
        pytest.skip("smtpload does not build here: OpenSSL's headers are missing")


@pytest.fixture
def sink(binary: str, tmp_path: Path) -> Iterator[SinkProcess]:
    process = SinkProcess(binary, tmp_path, None)
    deadline = time.monotonic() + 10
    while True:  # it gives no sign when it is ready
        try:
            socket.create_connection(("127.0.0.1", process.port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
    yield process
    process.end()


async def load(binary: str, port: int, *arguments: str) -> Load:
    argv = [binary, "load", "--port", str(port), "--timeout", "5", *arguments]
    done = await trio.run_process(argv, capture_stdout=True, check=False)
    return msgspec.json.decode(done.stdout, type=Load)


def took(before: Sink, after: Sink) -> tuple[int, int]:
    """Messages, and the sum of their bodies."""
    return after.messages - before.messages, (int(after.checksum, 16) - int(before.checksum, 16)) % SUMS


async def serve(nursery: trio.Nursery, handler: Callable[[trio.SocketStream], object]) -> int:
    listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, handler, 0)
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def pump(source: trio.SocketStream, target: trio.SocketStream, spoil: Callable[[bytes], bytes]) -> None:
    async for octets in source:
        await target.send_all(spoil(bytes(octets)))
    await target.send_eof()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "same"),
    [(lambda octets: octets, True), (lambda octets: octets.replace(b"id: ", b"Id: "), False)],
    ids=["clean", "damaged"],
)
async def test_damage_is_seen(sink: SinkProcess, binary: str, spoil: Callable[[bytes], bytes], same: bool) -> None:
    async def relay(client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", sink.port) as upstream, trio.open_nursery() as both:
            both.start_soon(pump, client, upstream, spoil)
            both.start_soon(pump, upstream, client, bytes)

    before = sink.stats()
    async with trio.open_nursery() as nursery:
        result = await load(binary, await serve(nursery, relay), "--messages", "20", "--per-session", "0")
        nursery.cancel_scope.cancel()
    messages, summed = took(before, sink.stats())
    assert (result.messages, messages) == (20, 20)
    assert (summed == int(result.checksum, 16)) is same


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, 2], ids=["dropped", "doubled"])
async def test_mail_that_is_dropped_or_doubled_is_seen(sink: SinkProcess, binary: str, times: int) -> None:
    """A relay that says 250 to everything and delivers so many times."""

    async def deliver(body: bytes) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", sink.port) as upstream:
            await upstream.receive_some()
            for command in (b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA", body + b"\r\n.", b"QUIT"):
                await upstream.send_all(command + b"\r\n")
                await upstream.receive_some()

    async def liar(client: trio.SocketStream) -> None:
        async with client:
            await client.send_all(b"220 x\r\n")
            octets = b""
            end = b"\r\n"
            async for received in client:
                octets += bytes(received)
                if not octets.endswith(end):
                    continue
                unit, octets = octets.removesuffix(end), b""
                if end != b"\r\n":
                    for _ in range(times):
                        await deliver(unit)
                end = b"\r\n.\r\n" if unit == b"DATA" else b"\r\n"
                await client.send_all({b"DATA": b"354 go\r\n", b"QUIT": b"221 x\r\n"}.get(unit, b"250 ok\r\n"))

    before = sink.stats()
    async with trio.open_nursery() as nursery:
        result = await load(binary, await serve(nursery, liar), "--messages", "20", "--per-session", "0")
        nursery.cancel_scope.cancel()
    messages, summed = took(before, sink.stats())
    assert (result.messages, messages) == (20, 20 * times)
    assert summed != int(result.checksum, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replies", "failures"),
    [
        (["421 busy"], {"421@greet"}),
        (["220 x", "250 x", "550 no", "221 x"], {"550@mail"}),
        (["220 x", "250 x", "250 x", "450 later", "221 x"], {"450@rcpt"}),
        (["220 x", "250 x", "250 x", "250 x", "354 x"], {"eof@body", "reset@body"}),
    ],
)
async def test_failures_are_counted(binary: str, replies: list[str], failures: set[str]) -> None:
    async def server(client: trio.SocketStream) -> None:
        async with client:
            for reply in replies:
                await client.send_all(reply.encode() + b"\r\n")
                if not await client.receive_some():
                    break

    async with trio.open_nursery() as nursery:
        result = await load(binary, await serve(nursery, server), "--messages", "3", "--size", "512")
        nursery.cancel_scope.cancel()
    assert (result.messages, result.failed) == (0, 3)
    assert set(result.failures) <= failures


@pytest.mark.slow
def test_the_end_of_a_message_is_found_at_any_split(sink: SinkProcess) -> None:
    """The sink is the judge of all others: its sum must not depend on how the octets came."""
    content = b"A: 1\r\n\r\n.\r\n..\r\n.x\r\nbare\n.\nlf\r\n\r\rcr\r\n.\r.\r\nend.\r\n\r\n.\r\n"
    lines = content.split(b"\r\n")
    wire = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines) + b".\r\n"
    sums = set()
    with socket.create_connection(("127.0.0.1", sink.port), 10) as client, client.makefile("rb") as replies:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def say(octets: bytes) -> None:
            client.sendall(octets)
            while replies.readline()[3:4] == b"-":
                pass

        replies.readline()
        say(b"EHLO x\r\n")
        before = sink.stats()
        for split in range(1, len(wire)):
            for command in (b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n"):
                say(command)
            client.sendall(wire[:split])
            before, earlier = sink.stats(), before  # it has read the first part when it answers this
            if split > 1:
                sums.add(took(earlier, before))
            say(wire[split:])
        before, earlier = sink.stats(), before
        sums.add(took(earlier, before))
        for command in (b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"BDAT %d LAST\r\n" % len(content) + content):
            say(command)
        sums.add(took(before, sink.stats()))
    assert len(sums) == 1
    assert sums.pop()[0] == 1


def rate(per_second: float, *, intact: bool = True, recorded: bool | None = None, session_ms: float = 1) -> Rate:
    quantiles = Quantiles(session_ms, session_ms)
    run = Load(messages=100, failed=0, msgs_s=per_second, session_ms=quantiles, transaction_ms=quantiles)
    return Rate(run, 1, 0.9, 0.1, 0, intact=intact, recorded=recorded, memory_before=1024, memory_peak=2048)


def results(ours: Rate) -> Results:
    peers = {"direct": rate(9000, session_ms=1), "postfix-prequeue": rate(1000, session_ms=3), "relayproxy": ours}
    return {"S1": {peer: summarize([measured]) for peer, measured in peers.items()}}


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (rate(1300, recorded=True), []),
        (rate(1100), ["new session per message, to Postfix: 1.10x, must be at least 1.2"]),
        (rate(1300, intact=False), ["scenarios with loss or damage, 32 clients: 1.00, must be at most 0"]),
        (rate(1300, recorded=False), ["S1: not every message has its line in the log"]),
    ],
)
def test_what_fails_the_run(ours: Rate, expected: list[str]) -> None:
    assert missed(results(ours)) == expected


def test_a_peer_that_did_not_run_fails_it_only_where_it_is_us() -> None:
    failed: Results = {"S1": {"haproxy": Failed("not installed", cannot=True), "relayproxy": Failed("ended with 2")}}
    assert missed(failed) == ["S1: relayproxy was not measured: ended with 2"]
    assert scenario_table("S1", failed).endswith("\nhaproxy: not installed\nrelayproxy: ended with 2")


def test_sessions_that_are_not_held_on_both_legs_fail_it() -> None:
    held: Results = {"S6": {"relayproxy": Held(2000, 0, 1500, 9, 8, 1)}}
    assert missed(held) == ["S6: 0 of 2000 sessions lost, 1500 open upstream"]


def test_medians_leave_out_disturbed_rounds_but_not_their_losses() -> None:
    disturbed = msgspec.structs.replace(rate(10, intact=False), other_cpu=0.5)
    summary = summarize([rate(1000), rate(1200), disturbed])
    assert not isinstance(summary, Held | Failed)
    assert (summary.rate, summary.intact, summary.noisy) == (1100, False, False)


def test_a_round_that_failed_is_a_failure() -> None:
    summary = summarize([rate(1000), Failed("not ready after 30 s"), rate(1000)])
    assert not isinstance(summary, Held | Failed)
    assert summary.failures == {"not ready after 30 s": 1}


def test_tables_name_ratio_must_and_aim() -> None:
    found = results(rate(1300))
    assert "1.30 (1.00)" in ratio_table(found)
    row = next(line for line in target_table(found).splitlines() if "per message, to Postfix" in line)
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["1.30x", "1.2x yes", "2.2x NO"]
