"""Messages that say who they are, who sends them until the relay is gone, and what must be in the store of them."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import TYPE_CHECKING

import trio
from relay_on_sockets import END_OF_DATA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay_on_sockets import Process, Upstream

    from relayproxy.record.store.interface import Reader


def content(name: str, size: int) -> bytes:
    """A message that says who it is, and is no other's."""
    line = (name.encode() + b" and some more of it\r\n..a dot\r\n") * (1 + size // 40)
    return b"Subject: " + name.encode() + b"\r\nX-Size: %d\r\n\r\n" % len(line) + line


class Sender:
    """Sends until the relay is gone."""

    def __init__(self, name: str, seed: int) -> None:
        self.sent: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self._name = name
        self._random = random.Random(seed)  # noqa: S311 - it has to differ, no more

    async def send(self, relay: Process) -> None:
        try:
            client = await relay.connect()
            await client.hello()
            for number in range(1000):
                name = f"{self._name}-{number}"
                # One in ten is more than stays in memory on its way into the store.
                octets = content(name, 3_000_000 if self._random.random() < 0.1 else self._random.randrange(8000))
                self.sent[name] = octets
                await client.begin_message(octets.removesuffix(b"\r\n"))
                await client.send(END_OF_DATA)
                assert (await client.reply())[0] == 250
                self.acknowledged.add(name)
        except (EOFError, OSError, trio.BrokenResourceError):
            pass


def dots_seen(upstream: Upstream) -> Iterable[str]:
    """The messages whose dot upstream has got."""
    for conversation in upstream.conversations:
        for message in re.split(rb"DATA\r\n", bytes(conversation))[1:]:
            subject = re.search(rb"\r\nSubject: (\S+)\r\n", message)
            if subject is not None and END_OF_DATA in message:
                yield subject[1].decode()


def check(reader: Reader, sent: dict[str, bytes], acknowledged: set[str], committed: set[str]) -> None:
    """Each that a client has seen the 250 of, or upstream the dot, is there once and whole."""
    kept: Counter[str] = Counter()
    for stored in reader.transactions():
        message = stored.record.message
        if message is None or message.subject is None:
            assert stored.record.outcome in ("aborted", "unknown")
            continue
        kept[message.subject] += 1
        octets = b"".join(reader.message(stored) or ())
        whole = sent[message.subject].replace(b"\r\n..", b"\r\n.")
        if stored.message is not None and stored.message.whole:
            assert octets == whole
        else:
            assert whole.startswith(octets)
            assert stored.record.outcome == "aborted"
        if message.subject in acknowledged:
            assert stored.record.outcome in ("accepted", "unknown")
            assert octets == whole
    assert acknowledged - kept.keys() == set(), "a client has seen its 250"
    assert committed - kept.keys() == set(), "upstream has seen its dot"
    assert set(kept.values()) == {1}
