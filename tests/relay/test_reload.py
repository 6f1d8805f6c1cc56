"""SIGHUP: rules and guard are read again, and have a say in sessions that are open (DESIGN §6, §9.3); the relay does all else meanwhile."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from dialog_tls import certificate_pem
from relay_on_sockets import relay_process, upstream_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from relay_on_sockets import Client, Process, Upstream

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
        assert (await client.say("VRFY b@outside.test"))[0] == 252
        assert (await client.say("VRFY b@inside.test"))[0] == 250
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


class Session:
    """An open one; `rules` become others under it."""

    def __init__(self, relay: Process, client: Client, folder: Path) -> None:
        self.relay = relay
        self.client = client
        self._folder = folder
        self._reloads = 0

    async def rules(self, toml: str) -> None:
        (self._folder / "rules").write_text(toml)
        self.relay.process.send_signal(signal.SIGHUP)
        self._reloads += 1
        await self.relay.tells("reload", self._reloads, what="rules and guard", error=None)

    async def mail(self) -> tuple[int, str]:
        return await self.client.say("MAIL FROM:<a@client.test>")


@asynccontextmanager
async def open_session(folder: Path, toml: str, upstream: Upstream | None = None) -> AsyncIterator[Session]:
    """With a client that has said EHLO, under these rules."""
    async with upstream_server() as default:
        rules = folder / "rules"
        rules.write_text(toml)
        urls = {"default": default.port} | ({} if upstream is None else {"other": upstream.port})
        config = "".join(f'[upstream.{name}]\nurl = "smtp://127.0.0.1:{port}"\n' for name, port in urls.items())
        config += f'[[listener]]\naddress = "127.0.0.1:0"\nupstream = "default"\n[rules]\nfiles = ["{rules}"]\n'
        async with relay_process(folder, None, listen=None, toml=config) as relay:
            client = await relay.connect()
            await client.hello()
            yield Session(relay, client, folder)


ALL = '[[rule]]\nname = "all"\nthen = [{}]\n'
REFUSE = ALL.format('{ reject = "550 5.7.1 no mail at all today" }')
REFUSED = (554, "5.7.1 no mail at all today")


@pytest.mark.parametrize("before", ["", '[[rule]]\nwhen = { recipient = "no@*" }\nthen = [{ reject = true }]\n'])
async def test_a_rule_that_runs_before_mail_refuses_the_mail_of_sessions_that_are_open(
    tmp_path: Path, before: str
) -> None:
    async with open_session(tmp_path, before) as session:
        assert (await session.mail())[0] == 250
        await session.rules(REFUSE)
        assert (await session.client.say("RCPT TO:<b@upstream.test>"))[0] == 250  # it keeps what it began with
        await session.client.send(b"RSET\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@upstream.test>\r\n")
        assert [await session.client.reply() for _ in range(2)] == [(250, "2.0.0 ok"), REFUSED]
        assert (await session.client.reply())[0] == 503
        assert await session.mail() == REFUSED
        await session.rules(before)
        assert (await session.client.message())[0] == 250


async def test_a_rule_that_names_the_client_refuses_the_mail_of_sessions_that_are_open(tmp_path: Path) -> None:
    async with open_session(tmp_path, "") as session:
        await session.rules('[[rule]]\nwhen = { helo = "client.test" }\nthen = [{ reject = true }]\n')
        assert (await session.mail()) == (550, "5.7.1 Refused")
        assert (await session.client.say("EHLO client.test"))[0] == 550
        assert (await session.mail()) == (550, "5.7.1 Refused")
        assert (await session.client.say("EHLO another.test"))[0] == 250
        assert (await session.mail())[0] == 250


async def test_a_refusal_that_ends_ends_for_sessions_that_are_open(tmp_path: Path) -> None:
    once = '[[rule]]\nwhen = { helo = "client.test", first = { times = 1, per = ["client"], within = "4h" } }\nthen = [{ tempfail = true }]\n'
    async with open_session(tmp_path, "") as session:
        await session.rules(once)
        assert (await session.mail())[0] == 451
        assert (await session.mail())[0] == 250


async def test_what_has_left_before_a_guard_came_that_captures_is_not_told_as_captured(tmp_path: Path) -> None:
    async with open_session(tmp_path, '[[rule]]\nat = "data"\nthen = [{ tag = "x" }]\n') as session:
        relay, client = session.relay, session.client
        assert (await session.mail())[0] == 250
        recipients = ("a@inside.test", "b@outside.test")
        for one in recipients:
            assert (await client.say(f"RCPT TO:<{one}>"))[0] == 250
        add(tmp_path, '\n[guard]\nallow = ["*@inside.test"]\notherwise = "capture"\n')
        relay.process.send_signal(signal.SIGHUP)
        await relay.tells("reload", guard="mail may go to *@inside.test; what is for others is captured")
        assert (await client.say("DATA"))[0] == 354
        assert (await client.say("Subject: x\r\n\r\nx\r\n."))[0] == 250
        said = {
            "sender": "a@client.test",
            "parameters": {},
            "recipients": [{"address": one, "parameters": {}} for one in recipients],
        }
        await relay.tells("transaction", outcome="accepted", envelope={"received": said, "sent": said})


async def test_what_the_rules_of_before_wanted_of_a_session_does_not_linger(tmp_path: Path) -> None:
    async with open_session(tmp_path, ALL.format('{ tag = "old" }')) as session:
        await session.client.message()
        await session.relay.tells("transaction", tags=["old"])
        await session.rules(ALL.format('{ tag = "new" }'))
        await session.client.message()
        await session.relay.tells("transaction", tags=["new"], rules=[{"name": "all", "actions": ["tag"]}])


async def test_the_mail_of_a_session_that_is_open_goes_where_the_rules_that_came_route_it(tmp_path: Path) -> None:
    async with upstream_server() as other, open_session(tmp_path, "", other) as session:
        await session.rules(ALL.format('{ route = "other" }'))
        assert (await session.client.message())[0] == 250
        assert other.messages == 1
        await session.rules("")
        assert (await session.client.message())[0] == 250
        assert other.messages == 1


async def test_sigterm_is_obeyed_while_a_file_is_read_that_does_not_end(tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text("def mail(mail): pass\n")
    async with (
        upstream_server() as told,
        relay_process(tmp_path, told, toml=f'[rules]\nfiles = ["{rules}"]') as relay,
    ):
        rules.write_text(
            "import socket, threading\n"
            f"connection = socket.create_connection(('127.0.0.1', {told.port}))\n"
            "threading.Event().wait()\n"
        )
        relay.process.send_signal(signal.SIGHUP)
        await told.until(lambda: told.open == 1)  # the file is being read
        relay.terminate()
        assert await relay.ended() == 0


async def test_sigterm_is_obeyed_while_a_certificate_cannot_be_read(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("certificate.pem", "key.pem")]
    for file, text in zip(files, certificate_pem("good", "relay.test"), strict=True):
        file.write_text(text)
    toml = f'[tls]\ncertificate = "{files[0]}"\nkey = "{files[1]}"'
    async with upstream_server() as upstream, relay_process(tmp_path, upstream, toml=toml) as relay:
        files[0].unlink()
        os.mkfifo(files[0])
        relay.process.send_signal(signal.SIGHUP)
        with await trio.to_thread.run_sync(files[0].open, "w"):  # it is being read
            relay.terminate()
            assert await relay.ended() == 0
