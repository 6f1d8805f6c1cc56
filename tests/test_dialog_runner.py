"""The dialog runner fails when it must, and says where and why; played against a small relay that can be told to misbehave."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from dialog_collect import pytest_collect_file
from dialog_facts import Facts
from dialog_relay import DialRefusedByDialog
from dialog_runner import DialogMismatch, play
from dialog_script import configuration, find, is_whole, script
from dialog_wire import Leg
from trio.testing import MockClock

from relayproxy.net.stream import TrioStream
from relayproxy.record.dialog import DialogError, Line, Note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dialog_relay import Dial


@dataclasses.dataclass
class Faults:
    """What the small relay does wrong."""

    early_250: bool = False
    extra: bytes = b""
    extra_upstream: bytes = b""
    stays: bool = False
    keeps_upstream: bool = False
    raises: bool = False
    closes: bool = False
    dials_twice: bool = False
    log: tuple[dict[str, Any], ...] = ()


class Small:
    """Passes lines both ways in lock-step; after DATA, all lines up to the dot before it listens to upstream again."""

    def __init__(self, faults: Faults, dial: Dial) -> None:
        self.faults = faults
        self.dial = dial
        self.log: list[dict[str, Any]] = list(faults.log)
        self.bye = False
        self._buffers: dict[Leg, bytes] = {}

    async def line(self, leg: Leg, seconds: float = 300) -> bytes:
        buffer = self._buffers.get(leg, b"")
        with trio.fail_after(seconds):
            while b"\n" not in buffer:
                more = await leg.receive_some()
                if not more:
                    return b""
                buffer += more
        line, _, self._buffers[leg] = buffer.partition(b"\n")
        return line + b"\n"

    async def reply(self, leg: Leg) -> bytes:
        lines = [await self.line(leg)]
        while lines[-1][3:4] == b"-":
            lines.append(await self.line(leg))
        return b"".join(lines)

    async def session(self, client: Leg, address: str, port: int | None, listener: str | None) -> None:
        del address, port, listener
        try:
            upstream = await self.dial("smtp://upstream.test:25", 30)
        except DialRefusedByDialog as error:
            await client.send_all(b"421 4.4.1 " + error.reason.encode() + b"\r\n")
            await client.aclose()
            return
        try:
            await self.relay(client, upstream)
        except trio.TooSlowError:
            await client.send_all(b"421 4.4.2 too slow\r\n")
        except trio.BrokenResourceError:
            pass
        if self.faults.raises:
            raise RuntimeError("a fault of ours")
        if self.faults.stays:
            await trio.sleep_forever()
        await client.aclose()
        if not self.faults.keeps_upstream:
            await upstream.aclose()

    async def relay(self, client: Leg, upstream: Leg) -> None:
        await self.reply(upstream)
        await upstream.send_all(b"EHLO relay.test\r\n")
        hello = await self.reply(upstream)
        await client.send_all(b"220 relay.test\r\n" + self.faults.extra)
        if self.faults.dials_twice:
            await self.dial("smtp://other.test:25", 30)
        while command := await self.line(client):
            if self.bye:
                await client.send_all(b"421 4.3.2 bye\r\n")
                return
            if command.startswith(b"EHLO"):
                await client.send_all(hello)
                continue
            await self.pass_on(command, client, upstream)
            if command.startswith(b"QUIT") or self.faults.closes:
                return

    async def pass_on(self, command: bytes, client: Leg, upstream: Leg) -> None:
        await upstream.send_all(command + self.faults.extra_upstream)
        if self.faults.early_250 and command == b".\r\n":
            await client.send_all(b"250 taken\r\n")
            await self.reply(upstream)
        else:
            await client.send_all(await self.reply(upstream))
        if command.startswith(b"DATA"):
            await upstream.send_all(b"Received: from x\r\n\tby y;\r\n z\r\n")
            while (text := await self.line(client)) not in (b".\r\n", b""):
                await upstream.send_all(text)
            self._buffers[client] = text + self._buffers[client]
            line = {"event": "transaction", "outcome": "accepted", "recipients": [{"reply": {"code": 250}}]}
            self.log.append({**line, "kept": {"header": "Subject: hi\r\n", "body": "", "sent": None}})

    def sigterm(self) -> None:
        self.bye = True

    def store(self, how: str) -> None:
        raise AssertionError(f"it has no store to be {how}")

    def check_recording(self, client: Leg, upstreams: Sequence[Leg]) -> None:
        pass

    def authority(self) -> str:
        raise AssertionError("it has no TLS")

    def close(self) -> list[dict[str, Any]]:
        return self.log


def against(faults: Faults) -> Callable[[Mapping[str, Any], Dial], Small]:
    return lambda _, dial: Small(faults, dial)


def run(text: str, faults: Faults | None = None, *, bytewise: bool = False) -> None:
    play(
        f"relayproxy dialog 1\n{textwrap.dedent(text).strip()}\n", start=against(faults or Faults()), bytewise=bytewise
    )


BEGIN = "@ upstream offers PIPELINING SIZE\n"
MESSAGE = """
    @ upstream offers PIPELINING SIZE
    @ client says EHLO
    @ envelope a@example.test b@example.test c@example.test
    @ data
    C> |Subject: hi
    & C> |
    & C> |.
    U> |Received: **
    U> |Subject: h*
    U> |
    U> |.
    U< 250 2.0.0 queued
    C< 250 2.0.0 queued
    @ record outcome = "accept*"
    @ record recipients.0.reply.code = 250
    @ kept body = ""
    @ kept sent = null
    @ quit
"""
LONG = """
    # what the short forms stand for
    +0 C open 10.0.0.5:53122
    U open upstream.test
    U< 220 upstream.test ESMTP
    U> EHLO relay.test
    U< 250-upstream.test
    & U< 250 SIZE
    C< 220 relay.test
    C> EHLO client.test
    C< 250-upstream.test
    C< 250 SIZE
    C> NOOP \\xff
    U> NOOP \\xff
    U< 250 a * \\\\ b
    C< 250 a \\x2a \\\\ b
    C> QUIT
    U> QUIT
    U< 221 bye
    C< 221 bye
    C close by us
    U close by us
"""


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("text", [MESSAGE, LONG], ids=["short", "long"])
def test_a_dialog_that_holds(text: str, bytewise: bool) -> None:
    run(text, bytewise=bytewise)


def test_virtual_time() -> None:
    run(BEGIN + "+300 C< 421 4.4.2 too slow\nC close by us\nU close by us")
    run(BEGIN + "@ quiet 299\n+300.3 C< 421 *\nC close by us\nU close by us")
    run("U timeout smtp://upstream.test:25\n+30 C< 421 4.4.1 timeout\nC close by us")


def test_the_ways_a_dial_fails() -> None:
    for reason in ("refused", "unresolved", "unreachable"):
        run(f"U {reason}\nC< 421 4.4.1 {reason}\nC close by us")


def test_a_signal_a_stall_and_a_reset() -> None:
    run(BEGIN + "@ sigterm\nC> NOOP\nC< 421 4.3.2 bye\nC close by us\nU close by us")
    run(BEGIN + "@ stall U\nC> NOOP\n@ quiet 10\n@ resume U\nU> NOOP\nU< 250 ok\nC< 250 ok")
    run(BEGIN + "C> NOOP\nU> NOOP\nU reset\nC close by us")
    run(BEGIN + "C eof\nC close by us\nU close by us")


PLAIN = BEGIN + "@ client says EHLO\n"
STARTTLS = '@ config listener.tls = "starttls"\n' + PLAIN + "C> STARTTLS\nC< 220 *\n"
UPSTREAM_TLS = '@ config upstream.default.url = "smtps://upstream.test"\n'


def run_real(text: str, *, bytewise: bool = False) -> None:
    """Against the relay itself: the small one has no TLS."""
    play(f"relayproxy dialog 1\n{text}\n", bytewise=bytewise)


@pytest.mark.parametrize("bytewise", [False, True])
def test_tls(bytewise: bool) -> None:
    run_real(STARTTLS + "C tls TLSv1.3 *\nC> NOOP\nU> NOOP\nU< 250 ok\nC< 250 ok\n@ quit", bytewise=bytewise)
    run_real(
        UPSTREAM_TLS + "U open\nU tls TLSv1.3\nU< 421 no\nU close by us\nC< 421 no\nC close by us", bytewise=bytewise
    )
    run_real(UPSTREAM_TLS + "@ certificate expired\nU open\nU tls failed\nU close by us\nC< 421 *\nC close by us")
    run_real(UPSTREAM_TLS + "U open\n@ hello\nU close\nU close by us\nC< 421 *\nC close by us")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STARTTLS + "C tls TLSv1.2 *", "expected this, came: tls TLSv1.3 TLS_AES_256_GCM_SHA384"),
        (STARTTLS + "C tls failed", "expected this, came: tls TLSv1.3 TLS_AES_256_GCM_SHA384"),
        (UPSTREAM_TLS + "@ certificate expired\nU open\nU tls TLSv1.3 *", "expected this, came: tls failed .*EXPIRED"),
        (PLAIN + "U tls TLSv1.3 *", "expected this, came: tls failed"),
        (PLAIN + "@ hello", "expected that our handshake begins"),
        (UPSTREAM_TLS + "U open\nU< 220 x", "before this comes, came"),
        # Under TLS what is expected is still exact.
        (STARTTLS + "C tls TLSv1.3 *\nC> NOOP\nU> NOOP\nU< 250 ok\nC< 250 no", "C< 250 ok"),
    ],
)
def test_tls_that_does_not_hold(text: str, said: str) -> None:
    with pytest.raises(DialogMismatch, match=said):
        run_real(text)


def test_a_redacted_line_is_sent_with_made_up_octets() -> None:
    run(BEGIN + "C> AUTH PLAIN <redacted 4>\nU> AUTH PLAIN xxxx\nU< 535 no\nC< 535 no")


def test_sessions_in_turn() -> None:
    run("@ session 1\nU refused\nC< 421 *\nC close by us\n@ session 2\nU refused\nC< 421 *\nC close by us")


@pytest.mark.parametrize(
    ("text", "faults", "said"),
    [
        # the wrong thing, or nothing
        (
            "U open\nU< 220 a\nU> HELO *",
            {},
            r"line 4: expected this, came(?s:.)*\n>   4  U> HELO(?s:.)*\n\^ +U> EHLO relay.test",
        ),
        (BEGIN + "C> NOOP\nU> NOOP\nC< 250 *", {}, r"line 5: expected this, came(?s:.)*\(nothing\)"),
        (BEGIN + "C> NOOP\nU> NOOP\nU< 250 a*b\nC< 250 a\\x2ac", {}, r"C< 250 a\*b"),
        (BEGIN + "C> NOOP\nU> NOOP \\", {}, r"U> NOOP"),
        (BEGIN + "+200 C< 421 *", {}, r"\(nothing\)"),
        (BEGIN + "+310 C< 421 *", {}, r"expected at \+310.000, came at \+300.000"),
        (BEGIN + "@ quiet 10\n+5 C> NOOP", {}, r"this was to be at \+5.000, and it is \+10.000 already"),
        (BEGIN + "U close by us", {}, "expected this, came"),
        ("C> EHLO x\nC< 250**", {}, "we are dialling smtp://upstream.test:25, and the script has no U open here"),
        (BEGIN + "U open", {}, "expected that we dial; we do not"),
        ("U open other.test", {}, "expected that we dial other.test; we dial smtp://upstream.test:25"),
        # more than the script says
        (MESSAGE, {"early_250": True}, r"before this comes, came(?s:.)*\n>  13 +U< 250(?s:.)*C< 250 taken"),
        (BEGIN + "C> NOOP", {"extra": b"junk"}, r"before this comes, came(?s:.)*C< junk\\"),
        (BEGIN, {"extra": b"250 more\r\n"}, "behind the end of the script nothing more was expected, came"),
        (BEGIN + "C> NOOP\nU> NOOP", {"extra_upstream": b"RSET\r\n"}, r"nothing more was expected(?s:.)*U> RSET"),
        (BEGIN + "C> NOOP", {}, r"nothing more was expected(?s:.)*U> NOOP"),
        (BEGIN + "@ quiet 400", {}, r"before this comes, came(?s:.)*C< 421"),
        (
            BEGIN + "C> NOOP\nU> NOOP\nU< 250 ok\nC< 250 ok",
            {"closes": True},
            r"nothing more was expected(?s:.)*C close by us",
        ),
        (BEGIN + "C> NOOP\nU> NOOP\nU< 250 ok\nC< 250 ok\nC> NOOP", {"closes": True}, "we have closed this connection"),
        (BEGIN, {"dials_twice": True}, "a dial was not expected"),
        # what stays behind
        (BEGIN, {"stays": True}, "both peers have closed, and the session has not ended within 60 s"),
        (BEGIN, {"keeps_upstream": True}, "has not closed the upstream's connection"),
        (BEGIN, {"raises": True}, r"the session raised an exception(?s:.)*RuntimeError: a fault of ours"),
        # facts
        (BEGIN + '@ record outcome = "accepted"', {}, r"expected 1 transaction line\(s\)(?s:.)*found    0 \(none\)"),
        (MESSAGE.replace('"accept*"', '"rejected"'), {}, r'expected outcome = "rejected"\n.*found    "accepted"'),
        (MESSAGE.replace("code = 250", "kode = 250"), {}, "found    nothing of that name"),
        (MESSAGE.replace("code = 250", "code = 250.0"), {}, "found    250"),
        (MESSAGE + '@ record outcome = "accepted"', {}, r"expected 2 transaction line\(s\)"),
        (MESSAGE.replace('body = ""', 'body = "x"'), {}, r'expected kept.body = "x"\n.*found    ""'),
        (
            MESSAGE.replace("sent = null", 'sent header = "*"'),
            {},
            "expected kept.sent.header(?s:.)*nothing of that name",
        ),
        (MESSAGE.replace("sent = null", "none"), {}, r"expected kept = null\n.*found    \{\"header\""),
        (
            MESSAGE.replace('@ record outcome = "accept*"', "@ record none")
            .replace("@ record rec", "# ")
            .replace("@ kept", "# "),
            {},
            "expected no trans",
        ),
        (BEGIN + "@ log violation", {}, "expected a log line violation"),
        (
            BEGIN + "@ log limit limit=errors",
            {"log": ({"event": "limit", "limit": "sessions"},)},
            '"limit": "sessions"',
        ),
        (BEGIN + "@ log no limit", {"log": ({"event": "limit"},)}, "expected no log line limit"),
        (BEGIN, {"log": ({"event": "error"},)}, "expected no error but those of @ log error"),
    ],
)
def test_what_does_not_hold_fails_and_is_told(text: str, faults: dict[str, Any], said: str) -> None:
    with pytest.raises(DialogMismatch, match=said):
        run(text, Faults(**faults))


def test_loose_lets_the_legs_run_apart() -> None:
    run("@ loose\n" + textwrap.dedent(MESSAGE).replace("C< 250 2.0.0 queued", "C< 250 taken"), Faults(early_250=True))


def test_upstream_s_trouble_is_the_script_s_own() -> None:
    run(BEGIN, Faults(log=({"event": "error", "where": "upstream"},)))


def test_expected_log_lines() -> None:
    lines = ({"event": "violation", "what": "bare LF at 3", "reply": {"code": 554}}, {"event": "error"})
    run(BEGIN + "@ log violation what='bare LF*' reply.code=554\n@ log error\n@ log no limit", Faults(log=lines))


def test_a_mismatch_shows_the_dialog_with_the_place_and_what_happened() -> None:
    with pytest.raises(DialogMismatch) as caught:
        run(BEGIN + "C> NOOP\nU> NOOP x\nU< 250 ok")
    assert str(caught.value) == textwrap.dedent(
        """\
        line 4: expected this, came

            1  relayproxy dialog 1
            2  @ upstream offers PIPELINING SIZE
            3  C> NOOP
        >   4  U> NOOP x
        ^     expected this, came:
        ^         U> NOOP
            5  U< 250 ok

        What happened:

        +0.000 C open
        +0.000 U open smtp://upstream.test:25
        +0.000 U< 220 upstream.test ESMTP
        +0.000 U> EHLO relay.test
        +0.000 U< 250-upstream.test
             & U< 250-PIPELINING
             & U< 250 SIZE
        +0.000 C< 220 relay.test
        +0.000 C> NOOP
        +0.000 U> NOOP"""
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected a dialog with something in it"),
        ("@ config a = 1", "line 2: expected a session in which something happens"),
        ("@ upstram offers", "line 2: expected a note of abrupt, certificate, client, config,"),
        ("@ upstream", "line 2: expected @ upstream offers KEYWORD"),
        ("@ envelope a@b.test", "line 2: expected @ envelope SENDER RECIPIENT"),
        ("C open\nC open", "line 3: expected one client in a session"),
        ("U< 220 x", "line 2: expected U open before anything else of upstream's"),
        ("U open\nU close\nU< 220 x", "line 4: expected nothing more on a connection that its peer closed"),
        ("@ record a", "line 2: expected @ record PATH = JSON"),
        ("@ record a = b", "line 2: expected @ record PATH = JSON"),
        ("@ kept boddy = 1", r"line 2: expected @ kept \[sent\] header\|body = JSON"),
        ("@ kept body = x", r"line 2: expected @ kept \[sent\] header\|body = JSON"),
        ("@ log", r"line 2: expected @ log \[no\] EVENT"),
        ("@ quiet long", "line 2: expected @ quiet SECONDS"),
        ("@ stall X", r"line 2: expected @ stall C\|U"),
        ("@ abrupt X", r"line 2: expected @ abrupt C\|U"),
        ("@ certificate best", r"line 2: expected @ certificate good\|expired"),
        ("@ config = 1", "line 2: expected @ config KEY = TOML"),
        ("U open\nU< 220 x\nU> EH*\\", r"line 4: expected no \* in a line without an end of line"),
        ("U open\nU< 220 x\nU> <redacted 3>", "line 4: expected an expected line without <redacted N>"),
    ],
)
def test_a_script_that_makes_no_sense_is_an_error_and_no_mismatch(text: str, said: str) -> None:
    with pytest.raises(DialogError, match=said):
        run(text)


def test_configuration_is_laid_over_the_usual_one() -> None:
    notes = [
        Note("config", "limits.errors = 2"),
        Note("config", 'listener.clients = ["::1"]'),
        Note("config", "limits.recipients = 1"),
    ]
    result = configuration(notes)
    assert result["limits"] == {"errors": 2, "recipients": 1}
    assert result["listener"] == [{"tls": "off", "clients": ["::1"]}]
    assert result["hostname"] == "relay.test"
    assert "limits" not in configuration([])


def test_facts_of_consecutive_lines_are_of_one_record() -> None:
    facts = Facts()
    facts.record(1, "a = 1")
    facts.record(2, 'b.0 = ["x*", {"c": null}]')
    facts.turn()
    facts.record(3, "a = 2")
    first = {"event": "transaction", "a": 1, "b": [["xy", {"c": None}]]}
    assert facts.unmet([first, {"event": "session"}, {"event": "transaction", "a": 2}]) == []
    assert [unmet.number for unmet in facts.unmet([first, {"event": "transaction", "a": True}])] == [3]


@pytest.mark.parametrize(
    ("line", "unread", "count"),
    [
        ("C< 250 ok", b"250 ok\r\nmore", 8),
        ("C< 250 ok", b"250 o", None),
        ("C< 250 ok", b"250 OK\r\n", 0),
        ("C< 250 ok", b"250 ok \r\n", 0),
        ("C< *", b"\r\n", 2),
        ("C< 2*0*k", b"250 ok\r\n", 8),
        ("C< 2*0*k", b"250 oh\r\n", 0),
        ("C< 250 *", b"250 a\nb\r\n", 0),  # a bare LF is never just part of the line
        (r"C< 250 \x2a", b"250 x\r\n", 0),
        (r"C< 250 \x0a*", b"250 \nx\r\n", 8),
        ("C< 250**", b"250-a\r\n250-b\r\n250 c\r\n220", 21),
        ("C< 250**", b"250-a\r\n250-b\r\n", None),
        ("C< 250**", b"250-a\r\n250", None),
        ("C< 250**", b"550 a\r\n", 0),
        ("U> |To:**", b"To: a,\r\n b,\r\n\tc\r\nCc: d\r\n", 17),
        ("U> |To:**", b"To: a\r\n", 7),
        ("U> |To:**", b"To: a\r\n b", None),
        ("U> |To: a", b"To: a\r\n b\r\n", 7),
        ("U> ab\\", b"abc", 2),
        ("U> ab\\", b"a", None),
        ("U> ab\\", b"ac", 0),
    ],
)
def test_what_an_expected_line_takes(line: str, unread: bytes, count: int | None) -> None:
    (expected,) = script([line], 1)
    assert isinstance(expected, Line)
    assert find(expected, bytearray(unread)) == count


def test_whole() -> None:
    assert is_whole("relayproxy dialog 1\n@ whole\nC> x\n")
    assert not is_whole("relayproxy dialog 1\nC> @ whole\n")


def test_the_wire_is_a_stream_of_trio_s() -> None:
    async def look() -> None:
        leg = Leg(lambda _: None)
        await leg.send_all(b"abc")
        assert bytes(leg.unread) == b"abc"
        leg.far_send(b"de")
        assert await leg.receive_some(1) == b"d"
        leg.far_eof()
        assert await leg.receive_some() == b"e"
        assert await leg.receive_some() == b""
        await leg.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await leg.send_all(b"x")
        leg.far_reset()
        with pytest.raises(trio.BrokenResourceError):
            await leg.receive_some()
        await leg.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await leg.receive_some()

    trio.run(look)


def test_the_wire_under_the_relay_s_own_streams() -> None:
    async def look() -> None:
        leg = Leg(lambda _: None)
        stream = TrioStream(leg, leg.receive_nowait)
        with pytest.raises(trio.WouldBlock):
            stream.receive_nowait()
        leg.far_send(b"ab")
        assert stream.receive_nowait() == b"ab"
        stream.receive_by = trio.current_time() + 300
        with pytest.raises(trio.TooSlowError):
            await stream.receive_some()
        stream.receive_by = math.inf
        leg.far_stall(stalled=True)
        leg.far_send(b"421 early\r\n")
        assert not await stream.send_or_hear(b"body")
        assert bytes(leg.unread) == b""
        stream.close()
        assert leg.closed

    trio.run(look, clock=MockClock(autojump_threshold=0))


def test_a_file_is_one_test_as_written_and_one_octet_by_octet(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    def collect(name: str, text: str) -> list[pytest.Item]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        collector = pytest_collect_file(tmp_path / name, request.session)
        return [] if collector is None else [item for item in collector.collect() if isinstance(item, pytest.Item)]

    assert [item.name for item in collect("a.dialog", "relayproxy dialog 1\nC> NOOP\n")] == ["a", "a[bytewise]"]
    assert [item.name for item in collect("b.dialog", "relayproxy dialog 1\n@ whole\nC> NOOP\n")] == ["b"]
    assert collect("c.txt", "relayproxy dialog 1\n") == []
    for item in collect("d.dialog", "relayproxy dialog 1\nC: NOOP\n"):
        with pytest.raises(DialogError) as caught:
            item.runtest()
        assert str(item.repr_failure(caught)).startswith(f"{tmp_path / 'd.dialog'}: line 2: expected C>, C<, U>, U<")


@pytest.mark.slow
def test_the_collected_items_live_with_the_plugins(tmp_path: Path) -> None:
    # A folder of its own with our conftest and options: what a plugin expects of an item shows only in a real run.
    here = Path(__file__).parent
    for name in (
        "conftest",
        "dialog_collect",
        "dialog_facts",
        "dialog_relay",
        "dialog_report",
        "dialog_runner",
        "dialog_script",
        "dialog_tls",
        "dialog_wire",
        "memory_store",
        "postgresql",
        "wire_check",
    ):
        shutil.copy(here / f"{name}.py", tmp_path)
    shutil.copy(here.parent / "pyproject.toml", tmp_path)
    (tmp_path / "broken.dialog").write_text("relayproxy dialog 1\nC: NOOP\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert "broken.dialog: line 2: expected C>, C<, U>, U<" in done.stdout
    assert "2 failed" in done.stdout
    assert "INTERNALERROR" not in done.stdout
