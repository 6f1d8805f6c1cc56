"""Rules tried on what a relay recorded under them: nothing is another. Each dialog with rules or a guard says so of what it stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dialog_relay
import pytest
from dialog_runner import play
from memory_store import MemoryReader

from relayproxy.replay.backtest import Trial
from relayproxy.replay.draws import Redrawn
from relayproxy.replay.effects import Difference, difference, recorded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dialog_relay import Dial, Driven

DIALOGS = sorted(
    path
    for path in (Path(__file__).parent.parent / "dialogs").rglob("*.dialog")
    if any(
        note in path.read_text(encoding="utf-8") for note in ("@ rule", "@ python", "@ config guard", "@ config rules")
    )
)


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_the_rules_that_were_in_force_change_nothing(path: Path) -> None:
    found: list[Difference] = []

    def start(config: Mapping[str, Any], dial: Dial) -> Driven:
        driven = dialog_relay.start(config, dial)
        close = driven.close

        def close_and_try() -> list[dict[str, Any]]:
            found.extend(differences(driven))
            return close()

        driven.close = close_and_try  # type: ignore[method-assign]
        return driven

    play(path.read_text(encoding="utf-8"), start=start)
    assert found == []


def differences(driven: Any) -> list[Difference]:
    reader = MemoryReader(driven.writer)
    book = driven.rulebook
    trial = Trial(book.rules, reader.body, Redrawn(1), guard=book.guard, captures=book.captures)
    stored = [one for session in driven.writer.sessions() for one in reader.of_session(session)]
    found = [difference(recorded(one), trial.effect(one)) for one in stored]
    return [one for one in found if one is not None]
