"""The recorded server over a socket: whatever was recorded, said again to the mock of its own recording, is answered the same."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import dialog_relay
import pytest
import trio
from dialog_runner import play as play_dialog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_store import MemoryReader

from relayproxy.record.dialog import parse
from relayproxy.record.log import Reporter
from relayproxy.record.playback import dialog_of
from relayproxy.relay.settings import Config
from relayproxy.replay.cassette import Cassette
from relayproxy.replay.compare import compare
from relayproxy.replay.login import Credentials
from relayproxy.replay.mocked import Front, Mocked, mocking
from relayproxy.replay.player import play
from relayproxy.replay.recorded import recorded_of
from relayproxy.replay.script import Message, Script, ScriptError, Step, script_of
from relayproxy.replay.stand_in import Manner
from relayproxy.smtp.commands import Command, Data, Mail, Quit, Rcpt, Rset
from relayproxy.smtp.commands import Path as Mailbox
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from dialog_relay import Dial, Driven

    from relayproxy.record.store.interface import Reader

PATIENCE: Final = 20.0
DIALOGS: Final = sorted((Path(__file__).parent.parent / "dialogs").rglob("*.dialog"))
#: What is not the same, and cannot be.
OTHERWISE: Final = {
    "attack-04-an-over-long-bdat": "the line that is left out changes what is behind it",
    "attack-05-behind-an-over-long-data": "likewise",
    "attack-05-body-behind-refused-data": "what came early is not said again",
    "attack-05-body-behind-refused-data-pipelined": "likewise",
    "1.4-mail-auth-is-dropped": "a MAIL is left out",
    "1.4-parameters-that-were-not-offered-are-555": "AUTH= is not said again",
    "hold-what-records-leave-out": "its addresses were not kept",
    "1.3-errors-are-not-charged-behind-a-refused-mail": "a limit of the recorded relay's",
    "errors-that-are-recorded": "likewise",
    "reset-between-chunks-behind-a-closed-gate": "a mock has no gate: it answers RSET between chunks by itself",
    "s6-upstream-vanishes-between-chunks": "which chunk was refused is not known to who takes mail data",
}
#: All of them take half a minute, nearly all of it to record them: MOCK_ALL=1.
SOME: Final = [
    path
    for number, path in enumerate(DIALOGS)
    if number % 5 == 0 or path.stem in OTHERWISE or os.environ.get("MOCK_ALL")
]


def read(*lines: str) -> Script:
    return script_of(parse("\n".join(["relayproxy dialog 1", *lines, ""]))[0])


@asynccontextmanager
async def mocked(
    scripts: Sequence[Script],
    folder: Path,
    manner: Manner | None = None,
    log: dialog_relay.MemoryTarget | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Mocked, str]]:
    """The server that these were recorded of, and where it listens."""
    sessions = [recorded_of(script) for script in scripts]
    config = Config.model_validate({"hostname": "mock.test", "state": str(folder)})
    cassette = Cassette(sessions, **more)
    config = mocking(config, cassette, Front(tls="off"))
    reporter = Reporter(log or dialog_relay.MemoryTarget(), format_="json")
    served = Mocked(config, cassette, reporter, manner=manner)
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(served.run)
                yield served, address
                served.shut_down()
    finally:
        reporter.close(PATIENCE)


async def connected(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def differences(scripts: Sequence[Script], mock_of: Sequence[Script], folder: Path) -> str:
    """What is told of these, played to the mock of those."""
    told: list[str] = []
    async with mocked(mock_of, folder) as (served, address):
        for script in scripts:
            comparison = compare(script, await play(script, await connected(address)))
            told += [] if comparison.same else comparison.lines()
    tape = served.cassette
    return "\n".join([*told, *[line for one in tape.unexpected for line in one.lines()], *tape.unused])


# Of a relay's recordings.


def recordings(path: Path) -> list[Script]:
    """What the sessions of a dialog are, as a relay records them; without those of which nothing can be said again."""
    found: list[Script] = []

    def start(config: Mapping[str, Any], dial: Dial) -> Driven:
        driven = cast("Any", dialog_relay.start(config, dial))
        close = driven.close

        def close_and_read() -> list[dict[str, Any]]:
            reader = MemoryReader(driven.writer)
            for id_ in driven.writer.sessions():
                session = reader.session(id_)
                assert session is not None
                with suppress(ScriptError):
                    found.append(script_of(dialog_of(session, reader.of_session(id_), cast("Reader", reader))))
            return cast("list[dict[str, Any]]", close())

        driven.close = close_and_read
        return cast("Driven", driven)

    play_dialog(path.read_text(encoding="utf-8"), start=start)
    return found


@pytest.mark.parametrize("path", SOME, ids=lambda path: path.stem)
def test_the_mock_of_a_recording_answers_the_same(path: Path, tmp_path: Path) -> None:
    scripts = recordings(path)
    told = trio.run(differences, scripts, scripts, tmp_path)
    assert (told != "") == (path.stem in OTHERWISE), told


# Of what any server may say.


def replies(*codes: str) -> st.SearchStrategy[Reply]:
    return st.sampled_from(codes).map(lambda text: Reply(int(text[:3]), (text[4:].encode(),)))


OK: Final = Reply(250, (b"2.0.0 ok",))
TRIED: Final = replies("250 2.1.0 ok", "250 ok", "451 4.7.1 later", "550 5.1.1 nobody", "452 too many", "251 elsewhere")
DATA: Final = replies("354 go", "354 go", "451 4.3.0 later", "554 5.5.1 no")
VERDICTS: Final = replies("250 2.0.0 queued", "250 ok", "451 4.3.0 later", "554 5.7.1 spam", "552 too big")
WHO: Final = st.sampled_from([b"jane", b"joe", b"jim"])


@st.composite
def transactions(draw: st.DrawFn) -> list[Step]:
    sender = draw(replies("250 2.1.0 ok", "250 ok", "250 fine", "450 4.7.1 later", "553 5.1.8 no"))
    steps: list[Step] = [Step(Mail(Mailbox(draw(WHO), b"x.test")), sender)]
    if sender.severity != 2:
        return steps
    to: list[Command] = [Rcpt(Mailbox(local, b"y.test")) for local in draw(st.lists(WHO, max_size=3))]
    pipelined = draw(st.booleans())
    steps += [Step(one, draw(TRIED), waits=not pipelined) for one in to]
    if (
        not any(step.reply is not None and step.reply.severity == 2 for step in steps[1:])
        or draw(st.integers(0, 3)) == 0
    ):
        return [*steps, Step(Rset(), draw(replies("250 2.0.0 flushed", "250 ok")))]
    data = draw(DATA)
    steps.append(Step(Data(), data, waits=not pipelined))
    if data.severity != 3:
        return [*steps, Step(Rset(), OK)]
    return [*steps, Step(Message(b"Subject: hi\r\n\r\nhello\r\n.\r\n", ended=True), draw(VERDICTS))]


def session(parts: Sequence[list[Step]], number: int = 0) -> Script:
    greeting = read("C< 220 mx.test", "C> EHLO client.test", "C< 250-mx.test", "C< 250 PIPELINING").steps
    steps = (*greeting, *[step for part in parts for step in part], Step(Quit(), Reply(221, (b"2.0.0 bye",))))
    return Script(f"session {number}", None, ("127.0.0.1", None), steps)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(transactions(), max_size=3), min_size=1, max_size=3))
def test_any_recorded_sessions_are_answered_the_same_however_connections_are_shared(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[list[Step]]]
) -> None:
    recorded = [session(several, number) for number, several in enumerate(parts)]
    every = [one for several in parts for one in several]

    async def check() -> None:
        folder = tmp_path_factory.mktemp("mock")
        assert await differences(recorded, recorded, folder) == ""
        each = [session([one], number) for number, one in enumerate(every)]
        # Enough connections come, and none too many, for what had no transaction to be used up too.
        if every and all(parts):
            assert await differences(each, recorded, folder) == ""
            assert await differences([session(every)], recorded, folder) == ""

    trio.run(check)


# Over the wire.


@asynccontextmanager
async def talking(address: str) -> AsyncIterator[Talk]:
    async with await connected(address) as stream:
        yield Talk(stream)


class Talk:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._came = b""

    async def say(self, *lines: str) -> list[str]:
        """What is heard to each; "" is the greeting, "<end>" the end of the connection, "<reset>" a harder one."""
        if said := [line for line in lines if line]:
            await self._stream.send_all("\r\n".join([*said, ""]).encode())
        return [await self._hear() for _ in lines]

    async def send(self, line: str) -> None:
        await self._stream.send_all(f"{line}\r\n".encode())

    async def _hear(self) -> str:
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            while b"\n" not in self._came:
                try:
                    octets = await self._stream.receive_some()
                except trio.BrokenResourceError:
                    return "<reset>"
                if not octets:
                    return "<end>"
                self._came += octets
            line, _, self._came = self._came.partition(b"\n")
            lines.append(line.decode().rstrip())
        return "|".join(lines)


GREETED: Final = (
    "C< 220 mx.test",
    "C> EHLO app-1",
    "C< 250-mx.test",
    "C< 250-AUTH PLAIN SCRAM-SHA-1 LOGIN",
    "C< 250 DSN",
)
CHUNKING: Final = (*GREETED[:3], "C< 250 CHUNKING")
MAIL: Final = ("C> MAIL FROM:<a@x.test>", "C< 250 2.1.0 ok", "C> RCPT TO:<b@x.test>", "C< 250 2.1.5 ok")
REFUSED: Final = (MAIL[0], "C< 553 5.1.8 no", MAIL[2])
SAID: Final = ("", "EHLO me.test", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>")


@pytest.mark.parametrize(
    ("lines", "said", "heard"),
    [
        (("C< 554 5.7.1 not you",), ("", "EHLO me.test", "QUIT"), ["554 5.7.1 not you", "503 5.5.1 Bad sequence of commands", "221 2.0.0 Closing connection"]),
        (("C< 421 4.3.2 full",), ("", "EHLO me.test"), ["421 4.3.2 full", "<end>"]),
        (("C close by us",), ("",), ["<end>"]),
        (("C< 220 mx.test", "C> EHLO app-1", "C< 550 5.7.1 go away"), SAID[:2], ["220 mx.test ESMTP relayproxy", "550 5.7.1 go away"]),
        ((*GREETED, *MAIL[:3], "C close by us"), SAID[2:], ["250 2.1.0 ok", "<end>"]),
        ((*GREETED, *MAIL[:3], "C reset by us"), SAID[2:], ["250 2.1.0 ok", "<reset>"]),
        ((*GREETED, *MAIL, "C close by us"), (*SAID[2:], "NOOP"), ["250 2.1.0 ok", "250 2.1.5 ok", "<end>"]),
        ((*GREETED, *MAIL[:3], "C< 421 4.3.0 bye"), (*SAID[2:], "NOOP"), ["250 2.1.0 ok", "421 4.3.0 bye", "<end>"]),
        ((*GREETED, MAIL[0], "C< 451 4.4.2 lost", "C> RSET", "C< 421 4.4.2 gone"), (SAID[2], "NOOP"), ["451 4.4.2 lost", "421 4.4.2 gone"]),
        ((*GREETED, *REFUSED, "C< 421 4.7.0 enough"), (*SAID[2:], "NOOP"), ["553 5.1.8 no", "421 4.7.0 enough", "<end>"]),
        ((*GREETED, *REFUSED, "C< 503 5.5.1 MAIL", "C> DATA", "C< 421 4.7.0 enough"), (*SAID[2:], "DATA", "NOOP"), ["553 5.1.8 no", "503 5.5.1 Bad sequence of commands", "421 4.7.0 enough", "<end>"]),
        ((*GREETED, *MAIL, "C> DATA", "C reset by us"), (*SAID[2:], "DATA"), ["250 2.1.0 ok", "250 2.1.5 ok", "<reset>"]),
        ((*GREETED, *MAIL, "C> DATA", "C< 354 go", "C> |.", "C close by us"), (*SAID[2:], "DATA", ".", "NOOP"), ["250 2.1.0 ok", "250 2.1.5 ok", "354 go", "<end>", "<end>"]),
        ((*CHUNKING, *MAIL, "C> DATA", "C< 354 go", "C> |.", "C< 250 ok"), (*SAID[2:], "BDAT 0 LAST"), ["250 2.1.0 ok", "250 2.1.5 ok", "250 ok"]),
    ],
)  # fmt: skip
async def test_how_a_server_ends_it(
    tmp_path: Path, lines: tuple[str, ...], said: tuple[str, ...], heard: list[str]
) -> None:
    async with mocked([read(*lines)], tmp_path) as (served, address), talking(address) as client:
        if said[0]:
            await client.say(*SAID[:2])
        assert [reply for line in said for reply in await client.say(line)] == heard
    assert served.cassette.failed(strict=True) is False


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (SAID[2:], ["250 2.1.0 ok", "<end>"]),
        (("RSET", *SAID[2:]), ["250 2.0.0 Reset", "250 2.1.0 ok", "<end>"]),
        (("MAIL FROM:<bad", "NOOP", "RSET", *SAID[2:]), ["501 5.5.2", "250 2.0.0 OK", "250 2.0.0 Reset", "250 2.1.0 ok", "<end>"]),
        (("HELP", *SAID[2:]), ["214 2.0.0", "250 2.1.0 ok", "<end>"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("last", [*MAIL[1:2], None])
async def test_in_a_group_what_was_answered_before_the_end_is_heard(
    tmp_path: Path, said: tuple[str, ...], heard: list[str], last: str | None
) -> None:
    """`last` None: MAIL itself is not answered."""
    script = read(*GREETED, *MAIL[:1], *([] if last is None else [last]), "C close by us")
    async with mocked([script], tmp_path) as (_, address), talking(address) as client:
        await client.say(*SAID[:2])
        came = await client.say(*said)
        heard = heard if last else [*heard[:-2], "<end>", "<end>"]
        assert [one.startswith(other) for one, other in zip(came, heard, strict=True)] == [True] * len(heard), came


TO_DOT: Final = (*GREETED, *MAIL, "C> DATA", "C< 354 go", "C> |.")


@pytest.mark.parametrize(
    ("lines", "said", "outcome", "code", "acknowledged"),
    [
        ((*TO_DOT, "C< 250 2.0.0 queued", "C close by us"), ("DATA", "."), "accepted", 250, True),
        ((*TO_DOT, "C< 250 2.0.0 queued", "C reset by us"), ("DATA", "."), "accepted", 250, True),
        ((*TO_DOT, "C< 554 5.7.1 no", "C close by us"), ("DATA", "."), "rejected", 554, True),
        ((*TO_DOT, "C close by us"), ("DATA", "."), "unknown", 421, False),
        ((*TO_DOT, "C reset by us"), ("DATA", "."), "unknown", 421, False),
        ((*TO_DOT[:-2], "C close by us"), ("DATA",), "tempfailed", 421, False),
        ((*GREETED, *MAIL, "C close by us"), (), "aborted", 250, True),
        ((*GREETED, *MAIL[:3], "C close by us"), (), "tempfailed", 421, False),
    ],
)
async def test_what_is_told_of_a_transaction_whose_server_ended_it(
    tmp_path: Path, lines: tuple[str, ...], said: tuple[str, ...], outcome: str, code: int, acknowledged: bool
) -> None:
    log = dialog_relay.MemoryTarget()
    async with mocked([read(*lines)], tmp_path, log=log) as (_, address), talking(address) as client:
        for line in (*SAID, *said):
            await client.say(line)
    (record,) = [one for line in log.written.splitlines() if (one := json.loads(line))["event"] == "transaction"]
    assert (record["outcome"], record["reply"]["code"], record["acknowledged"]) == (outcome, code, acknowledged)
    assert record["upstream"] == {"name": "recording", "host": None, "address": None, "port": None, "tls": None}


async def test_a_relay_s_own_refusals_are_what_they_are(tmp_path: Path) -> None:
    """A message that is odd in itself is refused before the recording is asked for its verdict, which then stays."""
    script = read(*GREETED, *MAIL, "C> DATA", "C< 354 go", "C> |.", "C< 250 ok")
    async with mocked([script], tmp_path) as (served, address), talking(address) as client:
        await client.say(*SAID)
        await client.say("DATA")
        assert (await client.say("a\0b\r\n."))[0][:9] == "554 5.6.0"
        assert not served.cassette.used_up
        assert await client.say(*SAID[2:], "DATA") == ["250 2.1.0 ok", "250 2.1.5 ok", "354 go"]
        assert await client.say(".") == ["250 ok"]
        assert served.cassette.used_up


@pytest.mark.parametrize(
    ("verdict", "sent", "heard"),
    [
        ("554 5.6.0 no", "a\0b\r\n.", "554 5.6.0 The message has a NUL octet"),
        ("250 2.0.0 normalised", "a\nb\r\n.", "250 2.0.0 normalised"),
        ("554 5.6.0 bare LF", "a\nb\r\n.", "554 5.6.0 bare LF"),
    ],
)
async def test_what_the_recorded_server_said_to_odd_mail(tmp_path: Path, verdict: str, sent: str, heard: str) -> None:
    script = read(*GREETED, *MAIL, "C> DATA", "C< 354 go", "C> |.", f"C< {verdict}")
    async with mocked([script], tmp_path) as (served, address), talking(address) as client:
        await client.say(*SAID, "DATA")
        assert await client.say(sent) == [heard]
    assert served.cassette.used_up


@pytest.mark.parametrize(("latency", "least", "most"), [(False, 0.0, 0.1), (True, 0.2, 5.0)])
async def test_replies_take_as_long_as_they_did_where_that_is_asked_for(
    tmp_path: Path, latency: bool, least: float, most: float
) -> None:
    script = read(
        "+0 C open 10.0.0.5:1",
        "+0 C< 220 mx.test",
        "+1 C> EHLO app-1",
        "+1.05 C< 250 mx.test",
        "+2 C> NOOP",
        "+2.15 C< 250 ok",
    )
    async with mocked([script], tmp_path, Manner(latency=latency)) as (_, address), talking(address) as client:
        began = time.monotonic()
        await client.say(*SAID[:2])
        await client.say("NOOP")
        assert least <= time.monotonic() - began <= most


SLOW: Final = ("+0 C< 220 mx.test", "+1 C> EHLO app-1", "+1 C< 250 mx.test", "+2 C> NOOP", "+299 C< 250 ok")


@pytest.mark.parametrize("times", [1, 2])
async def test_no_latency_outlasts_the_end(tmp_path: Path, times: int) -> None:
    async with mocked([read(*SLOW)], tmp_path, Manner(latency=True)) as (served, address), talking(address) as client:
        await client.say(*SAID[:2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.say, "NOOP")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(times):
                served.shut_down()


@pytest.mark.slow
async def test_no_latency_outlasts_its_client(tmp_path: Path) -> None:
    async with mocked([read(*SLOW)], tmp_path, Manner(latency=True)) as (served, address):
        async with talking(address) as client:
            await client.say(*SAID[:2])
            await client.send("NOOP")
            await trio.testing.wait_all_tasks_blocked()
        await served.over()


@pytest.mark.parametrize(
    ("recorded", "offered"),
    [
        (("C< 250 mx.test",), "250 mx.test"),
        (("C< 250-mx.test", "C< 250 PIPELINING"), "250-mx.test|250 PIPELINING"),
        (("C< 250-mx.test", "C< 250-SIZE 100", "C< 250 CHUNKING"), "250-mx.test|250-SIZE 100|250 CHUNKING"),
        (("C< 250-mx.test", "C< 250-XCLIENT NAME", "C< 250 HELP"), "250 mx.test"),
    ],
)
async def test_what_is_offered_is_what_was(tmp_path: Path, recorded: tuple[str, ...], offered: str) -> None:
    script = read("C< 220 mx.test", "C> EHLO app-1", *recorded)
    async with mocked([script], tmp_path) as (_, address), talking(address) as client:
        assert (await client.say(*SAID[:2]))[1] == offered
        refused = await client.say("BDAT 0 LAST") if "CHUNKING" not in offered else ["503 5.5.1"]
        assert refused[0][:3] in ("502", "503")


# Logging in.


def encoded(*parts: str) -> str:
    return b64encode("\0".join(parts).encode()).decode()


async def test_any_login_is_answered_as_it_was(tmp_path: Path) -> None:
    script = read(*GREETED, "C> AUTH PLAIN <redacted 5>", "C< 535 5.7.8 no", "C> AUTH PLAIN <redacted 5>", "C< 235 yes")
    async with mocked([script], tmp_path) as (_, address), talking(address) as client:
        assert (await client.say(*SAID[:2]))[1] == ("250-mx.test|250-DSN|250 AUTH PLAIN LOGIN")
        plain = f"AUTH PLAIN {encoded('', 'app', 'x')}"
        assert [await client.say(line) for line in (plain, "AUTH PLAIN", "AA", "AUTH PLAIN", "*", plain)] == [
            ["535 5.7.8 no"],
            ["334"],
            ["501 5.5.2 Syntax error in the authentication exchange"],
            ["334"],
            ["501 5.5.2 Authentication cancelled"],
            ["235 yes"],
        ]


@pytest.mark.parametrize(("password", "code"), [("Open.Sesame", "235"), ("Open", "535"), ("Open.Sesame2", "535")])
async def test_one_user_s_credentials(tmp_path: Path, password: str, code: str) -> None:
    import hashlib
    import hmac
    from base64 import b64decode

    manner = Manner(credentials=Credentials(b"app", b"Open.Sesame"))
    script = read("C< 220 mx.test", *GREETED[1:3], "C< 250 DSN", *MAIL, "C> DATA", "C< 354 go", "C> |.", "C< 250 ok")
    async with mocked([script], tmp_path, manner) as (_, address):
        async with talking(address) as client:
            assert "250 AUTH PLAIN LOGIN CRAM-MD5" in (await client.say(*SAID[:2]))[1]
            assert (await client.say(SAID[2]))[0] == "530 5.7.0 Authentication required"
            assert (await client.say(f"AUTH PLAIN {encoded('', 'app', password)}"))[0][:3] == code
            assert (await client.say(SAID[2]))[0][:3] == {"235": "250", "535": "530"}[code]
        async with talking(address) as client:
            await client.say(*SAID[:2])
            await client.say("AUTH LOGIN")
            await client.say(encoded("app"))
            assert (await client.say(encoded(password)))[0][:3] == code
        async with talking(address) as client:
            await client.say(*SAID[:2])
            nonce = b64decode((await client.say("AUTH CRAM-MD5"))[0][4:])
            digest = hmac.new(password.encode(), nonce, hashlib.md5).hexdigest()
            assert (await client.say(encoded(f"app {digest}")))[0][:3] == code
        async with talking(address) as client:
            await client.say(*SAID[:2])
            assert (await client.say(f"AUTH PLAIN {encoded('', 'other', password)}"))[0][:3] == "535"
