"""A fault of ours ends one session, with an answer, and is told without what the client sent."""

from __future__ import annotations

import dialog_relay
from dialog_runner import play


def test_a_fault_is_answered_421_and_told_without_its_message():
    async def broken(url: str, seconds: float):
        raise RuntimeError(f"{url} {seconds} and what the client sent")

    driven = []

    def start(config, dial):
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
