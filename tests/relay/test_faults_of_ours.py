"""A fault of ours ends one session, with an answer, and is told without what the client sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import dialog_relay
from dialog_runner import play

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dialog_relay import Dial, Driven


def test_a_fault_is_answered_421_and_told_without_its_message() -> None:
    async def broken(url: str, seconds: float) -> NoReturn:
        raise RuntimeError(f"{url} {seconds} and what the client sent")

    driven: list[Driven] = []

    def start(config: Mapping[str, Any], dial: Dial) -> Driven:
        del dial
        driven.append(dialog_relay.start(config, broken))
        return driven[0]

    play(
        """relayproxy dialog 1
C< 421 4.3.0 *
C close by us
@ log error where=session
@ log session state=closed why="a fault of ours"
@ record none
""",
        start=start,
    )
