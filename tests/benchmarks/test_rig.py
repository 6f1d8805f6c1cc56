"""That the rig sees what it is there to see: damaged, dropped, doubled and refused mail, mail in clear that was to go by TLS, and
targets that are missed."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

import msgspec
import pytest
import trio
from certificates import Certificates
from rig import SUMS, Failed, Held, Load, Options, Quantiles, Rate, Rig, Scenario, Sink, SinkProcess, Tls, smtpload
from tables import OURS, Results, missed, ratio_table, scenario_table, summarize, target_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    Handler = Callable[[trio.SocketStream], Awaitable[None]]
    Wrap = Callable[[trio.SocketStream], trio.abc.Stream]


@pytest.fixture(scope="module")
def binary() -> str:
    if not shutil.which("cc"):
        pytest.skip("no C compiler to build smtpload with")
    try:
        return smtpload()
    except subprocess.CalledProcessError:
        pytest.skip("smtpload does not build here: OpenSSL's headers are missing")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def sink(binary: str, tmp_path: Path) -> Iterator[SinkProcess]:
    with sinking(SinkProcess(binary, tmp_path, None)) as process:
        yield process


@contextmanager
def sinking(process: SinkProcess) -> Iterator[SinkProcess]:
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


async def serve(nursery: trio.Nursery, handler: Handler) -> int:
    listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, handler, 0)
    port: int = listeners[0].socket.getsockname()[1]
    return port


def spoil(octets: bytes) -> bytes:
    return octets.replace(b"id: ", b"Id: ")


def octets_relay(port: int, to_client: Wrap, to_upstream: Wrap, change: Callable[[bytes], bytes]) -> Handler:
    """What comes from the client is changed; each leg is wrapped in what it speaks."""

    async def pump(source: trio.abc.Stream, target: trio.abc.Stream, change: Callable[[bytes], bytes]) -> None:
        async for octets in source:
            await target.send_all(change(bytes(octets)))

    async def relay(client: trio.SocketStream) -> None:
        near, far = to_client(client), to_upstream(await trio.open_tcp_stream("127.0.0.1", port))
        async with near, far, trio.open_nursery() as legs:
            legs.start_soon(pump, near, far, change)
            await pump(far, near, bytes)
            legs.cancel_scope.cancel()

    return relay


async def send_twenty(binary: str, relay: Handler, tls: Tls = "none") -> Load:
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, relay)
        result = await load(binary, port, "--tls", tls, "--messages", "20", "--per-session", "0")
        nursery.cancel_scope.cancel()
    return result


def plain(stream: trio.SocketStream) -> trio.abc.Stream:
    return stream


def server_tls(certificates: Certificates) -> Wrap:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return lambda stream: trio.SSLStream(stream, context, server_side=True, https_compatible=True)


def client_tls(certificates: Certificates) -> Wrap:
    context = ssl.create_default_context(cafile=certificates.authority)
    return lambda stream: trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "same"), [(bytes, True), (spoil, False)], ids=["clean", "damaged"])
async def test_damage_is_seen(sink: SinkProcess, binary: str, change: Callable[[bytes], bytes], same: bool) -> None:
    before = sink.stats()
    result = await send_twenty(binary, octets_relay(sink.port, plain, plain, change))
    messages, summed = took(before, sink.stats())
    assert (result.messages, messages) == (20, 20)
    assert (summed == int(result.checksum, 16)) is same


@pytest.mark.slow
@pytest.mark.parametrize(("change", "same"), [(bytes, True), (spoil, False)], ids=["clean", "damaged"])
async def test_damage_within_tls_is_seen(
    binary: str, tmp_path: Path, certificates: Certificates, change: Callable[[bytes], bytes], same: bool
) -> None:
    with sinking(SinkProcess(binary, tmp_path, None, "implicit", certificates)) as sink:
        before = sink.stats()
        relay = octets_relay(sink.port, server_tls(certificates), client_tls(certificates), change)
        result = await send_twenty(binary, relay, "implicit")
        after = sink.stats()
    messages, summed = took(before, after)
    assert (result.messages, messages, after.tls, after.clear) == (20, 20, 1, 0)
    assert (summed == int(result.checksum, 16)) is same


@pytest.mark.slow
async def test_a_relay_that_goes_on_in_clear_is_seen(binary: str, tmp_path: Path, certificates: Certificates) -> None:
    """Nothing is lost, all is well on the client's leg, and STARTTLS was there to be used."""
    with sinking(SinkProcess(binary, tmp_path, None, "starttls", certificates)) as sink:
        result = await send_twenty(binary, octets_relay(sink.port, server_tls(certificates), plain, bytes), "implicit")
        after = sink.stats()
    assert (result.messages, after.messages, after.tls, after.clear) == (20, 20, 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_measurement_with_tls(binary: str, tmp_path: Path, tls: Tls) -> None:
    assert binary
    rig = Rig(Options(0.1, "free"), tmp_path)
    measured = rig.measure("direct", Scenario("", clients=2, tls=tls, warm=0.1))
    assert isinstance(measured, Rate)
    assert (measured.intact, measured.load.failures, measured.clear, measured.resumed) == (True, {}, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("tls", get_args(Tls))
def test_relayproxy_is_measured_in_each_mode(binary: str, tmp_path: Path, tls: Tls) -> None:
    assert binary
    measured = Rig(Options(0.1, "free"), tmp_path).measure(OURS, Scenario("", clients=2, tls=tls, warm=0.1))
    assert isinstance(measured, Rate), measured
    assert (measured.intact, measured.recorded, measured.load.failures) == (True, True, {})
    assert bool(measured.clear) is (tls == "none")


@pytest.mark.slow
def test_idle_sessions_with_tls_are_held(binary: str, tmp_path: Path) -> None:
    assert binary
    held = Rig(Options(0.1, "free"), tmp_path).measure("direct", Scenario("", idle=20, tls="implicit"))
    assert isinstance(held, Held)
    assert (held.ready, held.lost, held.upstream_open) == (20, 0, 20)


@pytest.mark.slow
def test_a_peer_without_the_mode_says_so(binary: str, tmp_path: Path) -> None:
    assert binary
    refused = Rig(Options(0.1, "free"), tmp_path).measure("aiosmtpd", Scenario("", tls="starttls"))
    assert refused == Failed("TLS starttls: not for this peer", cannot=True)


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
    ("tls", "replies", "failures"),
    [
        ("none", ["421 busy"], {"421@greet"}),
        ("none", ["220 x", "250 x", "550 no", "221 x"], {"550@mail"}),
        ("none", ["220 x", "250 x", "250 x", "450 later", "221 x"], {"450@rcpt"}),
        ("none", ["220 x", "250 x", "250 x", "250 x", "354 x"], {"eof@body", "reset@body"}),
        ("starttls", ["220 x", "250 x", "502 no", *["250 x"] * 2, "354 x", "250 x"], {"502@starttls"}),
        ("starttls", ["220 x", "250 x", "220 go", "250 x"], {"tls@starttls"}),
        ("implicit", ["220 x"], {"tls@greet"}),
    ],
)
async def test_failures_are_counted(binary: str, tls: Tls, replies: list[str], failures: set[str]) -> None:
    async def server(client: trio.SocketStream) -> None:
        async with client:
            for reply in replies:
                await client.send_all(reply.encode() + b"\r\n")
                if not await client.receive_some():
                    break

    async with trio.open_nursery() as nursery:
        result = await load(binary, await serve(nursery, server), "--tls", tls, "--messages", "3")
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


def rate(
    per_second: float, *, intact: bool = True, recorded: bool | None = None, session_ms: float = 1, clear: int = 0
) -> Rate:
    quantiles = Quantiles(session_ms, session_ms)
    run = Load(messages=100, failed=0, msgs_s=per_second, session_ms=quantiles, transaction_ms=quantiles)
    return Rate(
        run, 1, 0.9, 0.1, 0, intact=intact, recorded=recorded, memory_before=1024, memory_peak=2048, clear=clear
    )


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


def test_tls_targets() -> None:
    found: Results = {
        name: {peer: summarize([rate(per_second)]) for peer, per_second in peers.items()}
        for name, peers in {
            "S4": {"postfix-prequeue": 400, "nodemailer": 150, "relayproxy": 250},
            "S5": {"nodemailer": 2000, "relayproxy": 2300},
            "S5s": {"nodemailer": 2000, "relayproxy": 5000},
        }.items()
    }
    found["S6t"] = {"relayproxy": Held(1000, 0, 1000, 130, 121, 1)}
    assert missed(found) == [
        "STARTTLS on both legs, new session, to nodemailer: 1.67x, must be at least 2",
        "TLS, 100 messages a session, to nodemailer: 1.15x, must be at least 1.2",
        "idle session, TLS on both legs: 121.00 KiB, must be at most 120",
    ]
    assert "| the same, to Postfix with TLS on one leg " in target_table(found)


def test_mail_in_clear_fails_the_run_only_where_it_is_ours_and_tls_was_asked_for() -> None:
    found: Results = {
        name: {peer: summarize([rate(1000), rate(1000, clear=7)]) for peer in ("postfix-prequeue", "relayproxy")}
        for name in ("S4i", "S1")
    }
    assert "S4i: 7 messages went upstream without TLS" in missed(found)
    assert not any(line.startswith("S1: 7") for line in missed(found))
    assert [row.split("|")[-2].strip() for row in scenario_table("S4i", found).splitlines()[-2:]] == ["no", "no"]


def test_what_upstream_sessions_were_resumed_is_told() -> None:
    resumed = msgspec.structs.replace(rate(1000), resumed=0.98)
    found: Results = {"S4": {"direct": summarize([rate(1000)]), "relayproxy": summarize([resumed])}}
    rows = scenario_table("S4", found).splitlines()[-2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["yes", "yes, 98% resumed"]
