"""Python rules in threads: what takes too long is given up and answered, nothing waits for ever, and no two of one session run at the same time.

Virtual time stands still until a test moves it, so that a function may take as long as the test wants.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from relay_on_sockets import relay_process, upstream_server
from slow_function import SIGNALS, Signals

from relayproxy.relay.credentials import Login
from relayproxy.relay.rulebook import READING_SECONDS, Drawn, Rulebook, Rules
from relayproxy.relay.settings import Credentials
from relayproxy.relay.workers import Workers
from relayproxy.rules.facts import Facts, Stage
from relayproxy.rules.load import load
from relayproxy.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from relayproxy.relay.workers import Turn
    from relayproxy.rules.decision import Decision
    from relayproxy.smtp.commands import Command
    from relayproxy.smtp.replies import Reply

TEXT = """
from slow_function import SIGNALS
HERE = SIGNALS[{path!r}]
ACTIONS = ["tag"]
def data(mail):
    if not HERE.alone.acquire(blocking=False):
        raise RuntimeError("two at the same time")
    try:
        HERE.began.set()
        HERE.go_on.wait()
        mail.tag("x")
    finally:
        HERE.alone.release()
"""


class Functions:
    """A file with a function that goes on when it is told."""

    def __init__(self, path: Path) -> None:
        signals = SIGNALS[str(path)] = Signals()
        path.write_text(TEXT.format(path=str(path)))
        self.rules = load([path]).rules
        self.began, self.go_on = signals.began, signals.go_on

    async def decide(self, workers: Workers, turn: Turn) -> Decision:
        evaluation = self.rules.begin(Stage.DATA, Facts(listener="", client=""), Drawn(1, trio.current_time))
        return await workers.decide(evaluation, turn)


@pytest.fixture
def functions(tmp_path: Path) -> Iterator[Functions]:
    made = Functions(tmp_path / "a.py")
    yield made
    made.go_on.set()


async def begun(event: threading.Event) -> None:
    assert await trio.to_thread.run_sync(event.wait, 20)


async def test_what_is_in_time_is_what_it_decided(mock_clock: MockClock, functions: Functions) -> None:  # noqa: ARG001  time stands still
    workers = Workers(1, 5.0)
    functions.go_on.set()
    assert (await functions.decide(workers, workers.turn())).facts.tags == ("x",)


async def test_what_takes_too_long_is_given_up_and_changes_nothing(mock_clock: MockClock, functions: Functions) -> None:
    workers = Workers(1, 5.0)
    decided: list[Decision] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def one() -> None:
            decided.append(await functions.decide(workers, workers.turn()))

        await begun(functions.began)
        mock_clock.jump(4.9)
        await trio.testing.wait_all_tasks_blocked()
        assert not decided
        mock_clock.jump(0.2)
    (decision,) = decided
    assert decision.answer is not None
    assert decision.answer.code == 451
    assert decision.facts.tags == ()
    assert decision.failure is not None
    assert decision.failure.endswith("a.py: data': expected it to end within 5 s, and gave up")


async def test_where_all_threads_are_stuck_the_next_is_answered_at_its_deadline_and_then_they_are_free_again(
    mock_clock: MockClock, functions: Functions
) -> None:
    workers = Workers(1, 5.0)
    stuck, other = workers.turn(), workers.turn()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functions.decide, workers, stuck)
        await begun(functions.began)
        mock_clock.jump(5.1)
    told: list[str | None] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def one() -> None:
            told.append((await functions.decide(workers, other)).failure)

        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5.1)
    assert told == ["the rules at data: expected a thread for it within 5 s, and gave up"]
    functions.go_on.set()
    assert (await functions.decide(workers, other)).facts.tags == ("x",)


async def test_no_two_of_a_session_run_at_the_same_time(mock_clock: MockClock, functions: Functions) -> None:
    workers = Workers(2, 5.0)
    turn = workers.turn()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functions.decide, workers, turn)
        await begun(functions.began)
        mock_clock.jump(5.1)
    functions.began.clear()
    async with trio.open_nursery() as nursery:
        decided: list[Decision] = []

        @nursery.start_soon
        async def one() -> None:
            decided.append(await functions.decide(workers, turn))

        await trio.testing.wait_all_tasks_blocked()
        assert not functions.began.is_set()
        functions.go_on.set()  # the first, which nobody waits for any more
    assert decided[0].facts.tags == ("x",)
    assert decided[0].failure is None


async def test_files_that_take_too_long_to_read_leave_what_was_in_force(mock_clock: MockClock) -> None:
    began, go_on = threading.Event(), threading.Event()

    def read() -> Rules:
        began.set()
        go_on.wait()
        return Rules(RuleSet())

    book = Rulebook(Rules(RuleSet()), Drawn(1, trio.current_time), Workers(1, 5.0), read)
    before = book.rules
    told: list[tuple[str, str | None]] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reload() -> None:
            await book.reload(lambda what, error=None, **_more: told.append((what, error)))

        await begun(began)
        mock_clock.jump(READING_SECONDS + 0.1)
    assert told == [("rules and guard", "expected rule files that can be read within 60 s, and gave up")]
    assert book.rules is before
    go_on.set()


async def test_secrets_that_cannot_be_read_leave_threads_for_rules(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    login = Login(Credentials.model_validate({"user": "app", "password_file": str(secret)}))

    async def never(_: Command) -> Reply:
        raise AssertionError("there is no secret to say anything with")

    book = Rulebook(Rules(RuleSet()), Drawn(1, trio.current_time), Workers(1, 5.0), lambda: Rules(RuleSet()))
    told: list[str | None] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(partial(login.log_in, never, b"PLAIN", private=True, tell=lambda *_: None))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            await book.reload(lambda _, error=None, **_more: told.append(error))
        nursery.cancel_scope.cancel()
    assert told == [None]


@pytest.mark.slow
async def test_a_relay_answers_and_ends_while_functions_never_do(tmp_path: Path) -> None:
    """`rule_time` and `rule_threads`: 451 for that command, the session and the others go on; SIGTERM is obeyed."""
    rules = tmp_path / "rules.py"
    rules.write_text(
        "import threading\nACTIONS = []\n"
        "def rcpt(mail):\n    if mail.recipient.local == 'stuck':\n        threading.Event().wait()\n"
    )
    toml = f'drain = "1s"\n[rules]\nfiles = ["{rules}"]\n[limits]\nrule_time = "500ms"\nrule_threads = 2\n'
    failed = (451, "4.3.0 A rule of this relay failed; try again later")
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml=toml) as relay:

        async def stuck() -> None:
            client = await relay.connect()
            await client.hello()
            assert (await client.say("MAIL FROM:<a@client.test>"))[0] == 250
            assert await client.say("RCPT TO:<stuck@upstream.test>") == failed

        await stuck()
        other = await relay.connect()
        await other.hello()
        assert (await other.message())[0] == 250
        await stuck()
        assert (await other.say("MAIL FROM:<a@client.test>"))[0] == 250
        assert await other.say("RCPT TO:<b@upstream.test>") == failed
        relay.terminate()
        assert await relay.ended() == 0
    took, no_thread = (
        "expected it to end within 0.5 s, and gave up",
        "expected a thread for it within 0.5 s, and gave up",
    )
    assert [line["what"] for line in relay.lines if line["event"] == "rule-error"] == [
        f"rule '{rules}: rcpt': {took}",
        f"rule '{rules}: rcpt': {took}",
        f"the rules at rcpt: {no_thread}",
    ]
    assert b"stuck" not in b"".join(bytes(one) for one in upstream.conversations)
