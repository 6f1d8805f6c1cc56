"""A script is said as it was, over any stream, and what was recorded of a relay in front of a real server is what is heard again."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_aiosmtpd import aiosmtpd

from relayproxy.cli.recording import recording
from relayproxy.net.dial import UpstreamUrl
from relayproxy.record.dialog import parse
from relayproxy.record.log import Reporter
from relayproxy.record.playback import dialog_of
from relayproxy.record.store.sqlite import SqliteStore
from relayproxy.relay.rulebook import Drawn, Rulebook, Rules
from relayproxy.relay.settings import Config
from relayproxy.relay.workers import Workers
from relayproxy.replay.between import Between, aimed
from relayproxy.replay.compare import Played, compare
from relayproxy.replay.player import play
from relayproxy.replay.script import Message, Script, Step, script_of
from relayproxy.rules.ruleset import RuleSet
from relayproxy.smtp.commands import Command, Data, Ehlo, Mail, Noop, Quit, Rcpt, Rset, Vrfy
from relayproxy.smtp.commands import Path as Mailbox
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from relayproxy.record.dialog import Session

PATIENCE: Final = 20.0


def read(*lines: str) -> Script:
    return script_of(parse("\n".join(["relayproxy dialog 1", *lines, ""]))[0])


async def played(script: Script, *exchanges: tuple[bytes, bytes], speed: float | None = None) -> Played:
    """Play it to a server that says the second of a pair once it has heard the first, whole; then it must hear no more."""
    ours, theirs = trio.testing.memory_stream_pair()
    done: list[Played] = []

    async def player() -> None:
        done.append(await play(script, ours, speed=speed))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player)
            for expected, answer in exchanges:
                heard = b""
                while len(heard) < len(expected):
                    heard += bytes(await theirs.receive_some())
                assert heard == expected
                if answer == b"close":
                    await theirs.aclose()
                    break
                await theirs.send_all(answer)
            else:
                assert await theirs.receive_some() == b""
    return done[0]


def codes(done: Played) -> list[int | None]:
    return [None if reply is None else reply.code for reply in done.heard]


MAIL: Final = (
    "C> MAIL FROM:<a@x.test>",
    "& C> RCPT TO:<b@x.test>",
    "& C> DATA",
    "C< 250 ok",
    "C< 250 ok",
    "C< 354 go",
    "C> |hi",
    "C> |.",
    "C< 250 taken",
)
GROUP: Final = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n"


async def test_groups_are_said_as_they_were() -> None:
    done = await played(
        read("C< 220 relay", *MAIL, "C> QUIT", "C< 221 bye"),
        (b"", b"220 x\r\n"),
        (GROUP, b"250 ok\r\n550 5.1.1 no\r\n354 go\r\n"),
        (b"hi\r\n.\r\n", b"250 ok\r\n"),
        (b"QUIT\r\n", b"221 bye\r\n"),
    )
    assert codes(done) == [220, 250, 550, 354, 250, 221]
    assert done.cut is None


async def test_no_message_leaves_behind_a_refused_data() -> None:
    script = read("C< 220 relay", *MAIL, "C> NOOP", "C< 250 ok")
    done = await played(
        script,
        (b"", b"220 x\r\n"),
        (GROUP, b"250 ok\r\n550 no\r\n503 no\r\n"),
        (b"RSET\r\n", b"250 ok\r\n"),
        (b"NOOP\r\n", b"250 ok\r\n"),
    )
    assert codes(done) == [220, 250, 550, 503, None, 250]
    assert done.unsent == {4}
    assert [one.said for one in compare(script, done).differences] == ["RCPT TO:<b@x.test>"]


async def test_a_data_that_was_refused_then_sends_no_empty_message() -> None:
    script = read("C< 220 relay", "C> DATA", "C< 503 no", "C> NOOP", "C< 250 ok")
    done = await played(script, (b"", b"220 x\r\n"), (b"DATA\r\n", b"354 go\r\n"))
    assert codes(done) == [220, 354, None]
    (difference,) = compare(script, done).differences
    assert (difference.said, difference.got and difference.got.code) == ("DATA", 354)


async def test_a_message_without_its_end_gets_none() -> None:
    script = read("C< 220 relay", "C> DATA", "C< 354 go", "C> |half\\", "C close")
    done = await played(script, (b"", b"220 x\r\n"), (b"DATA\r\n", b"354 go\r\n"), (b"half", b""))
    assert compare(script, done).same


async def test_a_server_that_hangs_up() -> None:
    script = read("C< 220 relay", "C> NOOP", "C< 250 ok", "C> NOOP", "C< 250 ok")
    done = await played(script, (b"", b"220 x\r\n"), (b"NOOP\r\n", b"close"))
    assert codes(done) == [220, None, None]
    (difference,) = compare(script, done).differences
    assert difference.why == "the connection was closed; 1 reply more did not come"


@pytest.mark.parametrize(("speed", "seconds"), [(None, 0.0), (1.0, 12.0), (3.0, 4.0), (1.5, 8.0)])
async def test_pauses_are_made_as_fast_as_is_asked_for(
    autojump_clock: trio.testing.MockClock, speed: float | None, seconds: float
) -> None:
    del autojump_clock
    script = read(
        "+0.0 C open 10.0.0.5:1",
        "+5.0 C< 220 relay",
        "+7.0 C> NOOP",
        "+8.0 C< 250 ok",
        "+18.0 C> NOOP",
        "+18.5 C< 250 ok",
    )
    began = trio.current_time()
    await played(script, (b"", b"220 x\r\n"), (b"NOOP\r\n", b"250 ok\r\n"), (b"NOOP\r\n", b"250 ok\r\n"), speed=speed)
    assert trio.current_time() - began == pytest.approx(seconds)


# A relay, and a real server.


class Server:
    """What aiosmtpd asks; it knows whom it refuses."""

    refuses: frozenset[str] = frozenset({"nobody@x.test"})

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address in self.refuses:
            return "550 5.1.1 nobody"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        return "554 5.7.1 no" if b"unwanted" in envelope.content else "250 2.0.0 taken"


class Nowhere:
    """A log that nobody reads."""

    def write(self, data: bytes, /) -> int:
        return len(data)

    def reopen(self) -> bool:
        return False

    def close(self) -> None:
        pass


@asynccontextmanager
async def relaying(url: str, folder: Path, *, recorded: bool) -> AsyncIterator[Between]:
    store = f"sqlite:{folder / 'relayproxy.db'}"
    config = Config.model_validate({"hostname": "relay.test", "state": str(folder), "record": {"store": store}})
    config = aimed(config, UpstreamUrl.parse(url), 1)
    reporter = Reporter(Nowhere())
    book = Rulebook(Rules(RuleSet()), Drawn(None, time.monotonic), Workers(1, 1.0))

    @asynccontextmanager
    async def running(recorder: Any) -> AsyncIterator[Between]:
        between = Between(config, book, reporter, recorder)
        async with trio.open_nursery() as nursery:
            await nursery.start(between.run)
            yield between
            await between.end()
            nursery.cancel_scope.cancel()

    try:
        if recorded:
            with recording(config, reporter) as recorder:
                async with running(recorder) as between:
                    yield between
        else:
            async with running(None) as between:
                yield between
    finally:
        reporter.close(5.0)


async def record_of(script: Script, url: str, folder: Path) -> Session:
    """What the store has of a session of that relay, in front of that server, in which a client says this."""
    async with relaying(url, folder, recorded=True) as between:
        await play(script, between.connect(("127.0.0.1", 1), None))
    with SqliteStore(folder / "relayproxy.db").reader() as reader:
        (stored,) = [one for id_ in reader.ids("", limit=99) if (one := reader.session(id_)) is not None]
        return dialog_of(stored, reader.of_session(stored.id), reader)


_ANY: Final = Reply(250)  # it is not compared, and waited for
_PATHS: Final = st.sampled_from([b"jane", b"joe", b"nobody"]).map(lambda local: Mailbox(local, b"x.test"))
_MESSAGES: Final = st.sampled_from(
    [b"Subject: hi\r\n\r\nhello\r\n.\r\n", b"Subject: unwanted\r\n\r\n..\r\n.\r\n", b".\r\n"]
)


@st.composite
def transactions(draw: st.DrawFn) -> list[Step]:
    pipelined = draw(st.booleans())
    commands: list[Command] = [Mail(Mailbox(b"a", b"x.test")), *draw(st.lists(_PATHS.map(Rcpt), max_size=3))]
    steps = [Step(command, _ANY, waits=not (pipelined and number)) for number, command in enumerate(commands)]
    if draw(st.booleans()):
        return [*steps, Step(Rset(), _ANY)]
    return [*steps, Step(Data(), _ANY, waits=not pipelined), Step(Message(draw(_MESSAGES), ended=True), _ANY)]


_OTHERS: Final = st.sampled_from(
    [Noop(), Rset(), Data(), Vrfy(b"jane"), Ehlo(b"again.test"), Rcpt(Mailbox(b"b", b"x.test"))]
)
_SESSIONS: Final = st.lists(transactions() | _OTHERS.map(lambda command: [Step(command, _ANY)]), max_size=4)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=_SESSIONS, greets=st.booleans())
def test_what_is_recorded_is_heard_again(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Step]], greets: bool
) -> None:
    greeting = read("C< 220 relay", "C> EHLO client.test", "C< 250 relay").steps[: 2 if greets else 1]
    steps = (*greeting, *[step for part in parts for step in part], Step(Quit(), _ANY))
    script = Script(None, None, ("127.0.0.1", None), steps)
    folder = tmp_path_factory.mktemp("relay")
    server = Server()

    async def check() -> None:
        recorded = await record_of(script, url, folder)
        again = script_of(recorded)
        assert again.left_out == ()
        async with relaying(url, folder, recorded=False) as between:
            same = compare(again, await play(again, between.connect(again.client, again.listener)))
            assert same.same, "\n".join(same.lines())
            # A server that has changed shows once for each recipient that it took, and where it is said.
            server.refuses = frozenset({"nobody@x.test", "jane@x.test"})
            other = compare(again, await play(again, between.connect(again.client, again.listener)))
            taken = sum(
                step.said == "RCPT TO:<jane@x.test>" and step.reply is not None and step.reply.code == 250
                for step in again.steps
            )
            assert [one.said for one in other.differences].count("RCPT TO:<jane@x.test>") == taken
            assert {one.said for one in other.differences} <= {"RCPT TO:<jane@x.test>"}

    with aiosmtpd(server) as url:
        trio.run(check)


async def test_a_killed_server_is_told(tmp_path: Path) -> None:
    script = read("C< 220 relay", "C> EHLO x", "C< 250 relay", *MAIL)
    with aiosmtpd(Server()) as url:
        pass
    async with relaying(url, tmp_path, recorded=False) as between:
        (difference,) = compare(script, await play(script, between.connect(script.client, None))).differences
    assert difference.got is not None
    assert (difference.said, difference.got.code, difference.got.enhanced) == ("the connection", 421, "4.4.1")
