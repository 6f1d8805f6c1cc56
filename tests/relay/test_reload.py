"""SIGHUP: rules and guard are read again, and have a say in sessions that are open (DESIGN §6, §9.3)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from relay_on_sockets import relay_process, upstream_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def add(folder: Path, toml: str) -> None:
    path = folder / "relayproxy.toml"
    path.write_text(path.read_text(encoding="utf-8") + toml, encoding="utf-8")


async def test_a_guard_that_comes_holds_for_sessions_that_are_open(tmp_path: Path) -> None:
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml="") as relay:
        client = await relay.connect()
        await client.hello()
        add(tmp_path, '\n[guard]\nallow = ["*@inside.test"]\n')
        relay.process.send_signal(signal.SIGHUP)
        await relay.tells("reload", what="rules and guard")
        assert (await client.say("MAIL FROM:<a@client.test>"))[0] == 250
        assert (await client.say("RCPT TO:<b@outside.test>"))[1][:5] == "5.7.1"
        assert (await client.say("RCPT TO:<b@inside.test>"))[0] == 250


async def test_a_rule_that_comes_holds_for_the_next_transaction(tmp_path: Path) -> None:
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml="") as relay:
        client = await relay.connect()
        await client.hello()
        await client.say("MAIL FROM:<a@client.test>")
        rules = tmp_path / "rules"
        rules.write_text('[[rule]]\nwhen = { recipient = "no@*" }\nthen = [{ reject = true }]\n')
        add(tmp_path, f'\n[rules]\nfiles = ["{rules}"]\n')
        relay.process.send_signal(signal.SIGHUP)
        await relay.tells("reload", what="rules and guard")
        assert (await client.say("RCPT TO:<no@inside.test>"))[0] == 250  # a transaction keeps what it began with
        await client.say("RSET")
        await client.say("MAIL FROM:<a@client.test>")
        assert (await client.say("RCPT TO:<no@inside.test>")) == (550, "5.7.1 Refused")
