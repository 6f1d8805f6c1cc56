"""A recorded server is what it was: whatever was recorded, replayed against the mock of its own recording, is answered the same."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dialog_relay
import pytest
import trio
from dialog_runner import play as play_dialog
from memory_store import MemoryReader

from relayproxy.record.dialog import parse
from relayproxy.record.log import Reporter
from relayproxy.record.playback import dialog_of
from relayproxy.relay.settings import Config
from relayproxy.replay.cassette import Cassette
from relayproxy.replay.compare import compare
from relayproxy.replay.mocked import Front, Mocked, mocking
from relayproxy.replay.player import play
from relayproxy.replay.recorded import recorded_of
from relayproxy.replay.script import Script, ScriptError, script_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from dialog_relay import Dial, Driven

PATIENCE: Final = 20.0
DIALOGS = sorted((Path(__file__).parent.parent / "dialogs").rglob("*.dialog"))


def read(*lines: str) -> Script:
    return script_of(parse("\n".join(["relayproxy dialog 1", *lines, ""]))[0])


@asynccontextmanager
async def mocked(scripts: Sequence[Script], folder: Path, **more: Any) -> AsyncIterator[tuple[Mocked, str]]:
    """The server that these were recorded of, and where it listens: on a Unix socket."""
    sessions = [recorded_of(script) for script in scripts]
    config = Config.model_validate({"hostname": "mock.test", "state": str(folder / "state")})
    path = str(folder / "s")
    config = mocking(config, sessions, Front(addresses=[f"unix:{path}"], tls=more.pop("tls", "off")))
    served = Mocked(config, Cassette(sessions, **more), Reporter(dialog_relay.MemoryTarget(), format_="json"))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(served.run)
            yield served, path
            served.shut_down()


def recordings(path: Path) -> list[Script]:
    """What a dialog's sessions are, as a relay recorded them; without those that nothing can be replayed of."""
    found: list[Script] = []

    def start(config: Mapping[str, Any], dial: Dial) -> Driven:
        driven = dialog_relay.start(config, dial)
        close = driven.close

        def close_and_read() -> list[dict[str, Any]]:
            reader = MemoryReader(driven.writer)  # type: ignore[attr-defined]
            for id_ in driven.writer.sessions():  # type: ignore[attr-defined]
                session = reader.session(id_)
                assert session is not None
                try:
                    found.append(script_of(dialog_of(session, reader.of_session(id_), reader)))
                except ScriptError:
                    pass
            return close()

        driven.close = close_and_read  # type: ignore[method-assign]
        return driven

    play_dialog(path.read_text(encoding="utf-8"), start=start)
    return found


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_the_mock_of_a_recording_answers_the_same(path: Path, tmp_path: Path) -> None:
    scripts = recordings(path)

    async def against_its_own() -> list[str]:
        told: list[str] = []
        async with mocked(scripts, tmp_path) as (served, address):
            for script in scripts:
                comparison = compare(script, await play(script, await trio.open_unix_socket(address)))
                if not comparison.same:
                    told += comparison.lines()
        return told + [line for one in served.cassette.unexpected for line in one.lines()] + [*served.cassette.unused]

    assert "\n".join(trio.run(against_its_own)) == ""
