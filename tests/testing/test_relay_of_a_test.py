"""The fixture `relayproxy`, used as a test of an application uses it: plain, under trio and under asyncio."""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
import ssl
import threading
import time
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from real_aiosmtpd import aiosmtpd

from relayproxy.testing.marker import MarkerError, asked_for, loaded
from relayproxy.testing.relay import RelayFixture
from relayproxy.testing.thread import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds of a wait that is to be in vain.
SOON: Final = 0.03
PATIENCE: Final = 20.0


def send(relay: RelayFixture, subject: str = "Welcome", *to: str, text: str = "hello") -> None:
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "app@example.test", subject
    mail.set_content(text)
    with smtplib.SMTP(relay.host, relay.port) as server:
        server.send_message(mail, to_addrs=to or ["jane@customer.example"])


def tells(relay: RelayFixture, what: str) -> None:
    """A wait in vain does, at once."""
    with pytest.raises(AssertionError) as raised:
        relay.wait_for(timeout=0)
    assert what in str(raised.value)


def test_mail_is_found_and_read(relayproxy: RelayFixture) -> None:
    send(relayproxy, "grüße", "jane@customer.example", "joe@customer.example", text=".\nhello Jane\n")
    mail = relayproxy.wait_for("recipient:joe@* & text:jane")
    assert (mail.sender, mail.recipients) == ("app@example.test", ["jane@customer.example", "joe@customer.example"])
    assert mail.outcome == "accepted"
    assert mail.message["Subject"] == "grüße"
    assert mail.content.endswith(b"\r\n\r\n.\r\nhello Jane\r\n")
    assert mail.sent is not None
    assert mail.sent.endswith(mail.content)
    assert mail.sent.startswith(b"Received: ")
    assert mail.record.message is not None
    assert mail.record.message.size.received == len(mail.content)


def test_each_mail_is_given_once_and_listed_always(relayproxy: RelayFixture) -> None:
    for subject in ("one", "two", "one"):
        send(relayproxy, subject)
    assert relayproxy.wait_for("subject:two").message["Subject"] == "two"
    first, second = relayproxy.wait_for("subject:one"), relayproxy.wait_for()
    assert first.record.transaction < second.record.transaction
    assert [mail.message["Subject"] for mail in relayproxy.transactions()] == ["one", "two", "one"]
    with pytest.raises(AssertionError, match="no mail within"):
        relayproxy.wait_for(timeout=0)


def test_what_is_there_before_it_is_waited_for_and_what_comes_later(relayproxy: RelayFixture) -> None:
    sending = threading.Timer(0.05, send, [relayproxy])
    sending.start()
    assert relayproxy.wait_for().outcome == "accepted"
    sending.join()


async def test_it_arrives_under_trio(relayproxy: RelayFixture) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, partial(send, relayproxy)))
        assert (await relayproxy.arrives("outcome:accepted")).message["Subject"] == "Welcome"
    with pytest.raises(AssertionError, match="no mail within"):
        await relayproxy.arrives(timeout=SOON)
    with trio.move_on_after(SOON):  # who gives up leaves nobody behind
        await relayproxy.arrives(timeout=60)


def test_it_arrives_under_asyncio(relayproxy: RelayFixture) -> None:
    async def run() -> None:
        sending = asyncio.create_task(asyncio.to_thread(send, relayproxy))
        assert (await relayproxy.arrives("outcome:accepted")).message["Subject"] == "Welcome"
        await sending
        with pytest.raises(AssertionError, match="no mail within"):
            await relayproxy.arrives(timeout=SOON)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await relayproxy.arrives(timeout=60)

    asyncio.run(run())


def test_it_tells_what_came_instead(relayproxy: RelayFixture) -> None:
    with pytest.raises(AssertionError, match=r"^no mail within 0\.03 s\n  nobody connected$"):
        relayproxy.wait_for(timeout=SOON)
    smtplib.SMTP(relayproxy.host, relayproxy.port).quit()
    send(relayproxy, "evil\x9b5m")
    relayproxy.wait_for()
    with pytest.raises(AssertionError) as raised:
        relayproxy.wait_for("subject:other | outcome:rejected", timeout=SOON)
    first, second = str(raised.value).splitlines()
    assert first == "no mail that is subject:other | outcome:rejected within 0.03 s"
    assert second.startswith("  came (given before): ")
    assert " accepted   app@example.test > jane@customer.example  " in second
    assert second.isprintable()


def test_who_connects_and_sends_nothing_is_told(relayproxy: RelayFixture) -> None:
    smtplib.SMTP(relayproxy.host, relayproxy.port).quit()
    tells(relayproxy, "no mail within 0 s\n  1 connected, and sent none")


@pytest.mark.parametrize("select", ["recipient", "nosuch:field", "latest", "size:big"])
def test_what_is_no_expression_is_told_at_once(relayproxy: RelayFixture, select: str) -> None:
    with pytest.raises(ValueError, match="this is no SELECT") as raised:
        relayproxy.wait_for(select)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ((5,), "select: expected an expression such as 'recipient:jane@customer.example', got 5"),
        (("subject:x", "5"), "timeout: expected seconds, got '5'"),
        (("subject:x", None), "timeout: expected seconds, got None"),
    ],
)
async def test_what_is_of_another_kind_is_told_at_once(relayproxy: RelayFixture, asked: Any, why: str) -> None:
    with pytest.raises(TypeError, match=re.escape(why)):
        relayproxy.wait_for(*asked)
    with pytest.raises(TypeError, match=re.escape(why)):
        await relayproxy.arrives(*asked)


BLOCKS: Final = "  wait_for stops this event loop: await relayproxy.arrives(...)"


async def test_a_wait_that_stops_the_loop_says_so_under_trio(relayproxy: RelayFixture) -> None:
    with pytest.raises(AssertionError) as raised:
        relayproxy.wait_for(timeout=0)
    assert str(raised.value).splitlines()[-1] == BLOCKS


def test_a_wait_that_stops_the_loop_says_so_under_asyncio(relayproxy: RelayFixture) -> None:
    async def run() -> None:
        relayproxy.wait_for(timeout=0)

    with pytest.raises(AssertionError) as raised:
        asyncio.run(run())
    assert str(raised.value).splitlines()[-1] == BLOCKS
    with pytest.raises(AssertionError) as raised:
        relayproxy.wait_for(timeout=0)
    assert BLOCKS not in str(raised.value)


def test_what_was_not_sent_to_its_end(relayproxy: RelayFixture) -> None:
    with smtplib.SMTP(relayproxy.host, relayproxy.port) as server:
        server.ehlo()
        server.mail("app@example.test")
        server.rcpt("jane@customer.example")
        server.rset()
    mail = relayproxy.wait_for("outcome:aborted")
    assert mail.recipients == ["jane@customer.example"]
    with pytest.raises(LookupError, match="no message is kept of <mail "):
        assert mail.content
    assert mail.sent is None


# What the marker says.


@pytest.mark.relayproxy(redirect_all="qa@example.test")
class TestOfAClass:
    def test_rules_apply(self, relayproxy: RelayFixture) -> None:
        send(relayproxy)
        mail = relayproxy.wait_for()
        sent = mail.record.envelope.sent
        assert sent is not None
        assert [one.address for one in sent.recipients] == ["qa@example.test"]

    @pytest.mark.relayproxy(redirect_all="other@example.test")
    def test_the_nearest_marker_counts(self, relayproxy: RelayFixture) -> None:
        send(relayproxy)
        assert relayproxy.wait_for("sent.recipient:other@example.test").outcome == "accepted"


@pytest.mark.relayproxy(allow="*@example.test", config={"guard": {"otherwise": "capture"}})
def test_the_guard_and_what_else_a_configuration_has(relayproxy: RelayFixture) -> None:
    send(relayproxy)
    assert relayproxy.wait_for("captured:true").outcome == "accepted"


@pytest.mark.relayproxy(rules=["relayproxy:subject-tag"])
def test_rules_that_are_shipped(relayproxy: RelayFixture) -> None:
    send(relayproxy)
    mail = relayproxy.wait_for()
    assert mail.message["Subject"] == "Welcome"
    assert b"Subject: [STAGING] Welcome" in (mail.sent or b"")


#: Of the run's authority.
CERTIFICATES: Final[list[bytes]] = []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_under_tls_with_the_authority_of_the_run(tls: str, relayproxy_of: Callable[..., RelayFixture]) -> None:
    relay = relayproxy_of(tls=tls)
    CERTIFICATES.append(relay.ca.read_bytes())
    assert len(set(CERTIFICATES)) == 1
    context = ssl.create_default_context(cafile=relay.ca)
    if tls == "implicit":
        server: smtplib.SMTP = smtplib.SMTP_SSL(relay.host, relay.port, context=context)
    else:
        server = smtplib.SMTP(relay.host, relay.port)
        server.starttls(context=context)
    with server:
        server.login("app", "secret")
        server.sendmail("app@example.test", "jane@customer.example", "Subject: hi\n\nhello")
    mail = relay.wait_for("tls:true & auth:app")
    assert mail.message["Subject"] == "hi"


def test_in_clear_there_is_no_authority(relayproxy: RelayFixture) -> None:
    with pytest.raises(Trouble, match=r"expected @pytest\.mark\.relayproxy"):
        _ = relayproxy.ca


@pytest.fixture(name="relayproxy_of")
def _relay_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _relayproxy_state: Path
) -> Callable[..., RelayFixture]:
    """A relay as a marker would ask for it, where what it says is known when the test runs."""

    def made(**asked: object) -> RelayFixture:
        folder = tmp_path_factory.mktemp("relayproxy")
        relay = RelayFixture(*loaded(asked, folder, _relayproxy_state, request.path.parent))
        request.addfinalizer(relay.close)
        return relay

    return made


def test_in_front_of_a_server(relayproxy_of: Callable[..., RelayFixture]) -> None:
    class Server:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
            got.append(envelope.content)
            return "554 5.7.1 no"

    got: list[bytes] = []
    with aiosmtpd(Server()) as url:
        relay = relayproxy_of(upstream=url)
        with pytest.raises(smtplib.SMTPDataError):
            send(relay)
        mail = relay.wait_for("outcome:rejected")
    assert mail.record.upstream is not None
    assert mail.record.upstream.name == "default"
    assert [mail.sent] == got


def test_trouble_with_a_server_is_told(relayproxy_of: Callable[..., RelayFixture]) -> None:
    relay = relayproxy_of(upstream={"url": "smtp://127.0.0.1:1"})
    with pytest.raises(smtplib.SMTPException):
        send(relay)
    assert relay.troubles() == ["smtp://127.0.0.1:1: connection refused"]
    tells(relay, "  trouble: smtp://127.0.0.1:1: connection refused")


def test_an_upstream_of_the_configuration_and_what_it_has_besides(tmp_path: Path) -> None:
    given = {"default": {"url": "smtp://old:25", "ehlo": "client"}, "other": {"url": "smtps://x:465", "verify": "none"}}
    for asked, name, url in (
        ("other", "other", "smtps://x:465"),
        ("smtp://new:25", "default", "smtp://new:25"),
        ({"url": "smtp://new:25"}, "default", "smtp://new:25"),
        ("capture:", "capture", "capture:"),
    ):
        config, _ = loaded({"upstream": asked, "config": {"upstream": given}}, tmp_path, tmp_path, tmp_path)
        assert config.upstream_of(config.listener[0]) == name
        assert [str(one) for one in config.upstream[name].url] == [url]
        assert config.upstream["default"].ehlo == "client"
        assert config.upstream["other"].verify == "none"


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ({"tls": "maybe"}, ["listener[0].tls: expected 'off', 'starttls' or 'implicit', got 'maybe'"]),
        ({"upstream": "smtp//x"}, ["upstream.default.url[0]: expected smtp://"]),
        ({"redirect_all": 3, "auth": "yes"}, ["listener[0].auth: expected", "rules.redirect_all: expected"]),
        ({"rules": "nope.toml"}, ["nope.toml: "]),
        ({"allow": [""]}, ["guard.allow[0]: expected"]),
        ({"config": {"limitz": {}}}, ["limitz: unknown key; the nearest known is limits"]),
        ({"config": {"record": {"store": "none"}}}, ["config: expected no record.store"]),
        ({"config": {"listener": [{"address": "0.0.0.0:25"}]}}, ["config: expected no listener[0].address"]),
        ({"config": {"listener": [{}, {}]}}, ["config: expected one listener"]),
        ({"config": []}, ["config: expected a dictionary"]),
        ({"upstream": "smtp://x", "config": {"upstream": 3}}, ["upstream: expected"]),
        (
            {"upstream": "smtp://x", "config": {"upstream": {"default": {"caa": "x"}}}},
            ["upstream.default.caa: unknown"],
        ),
        ({"config": {"limits": 3, "rules": 3, "record": 3}, "rules": []}, ["limits: expected", "record: ", "rules: "]),
    ],
)
def test_what_a_marker_has_wrong(asked: dict[str, object], lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(MarkerError) as raised:
        loaded(asked, tmp_path, tmp_path, tmp_path)
    told = sorted(str(raised.value).splitlines())
    assert len(told) == len(lines)
    for line, expected in zip(told, lines, strict=True):
        assert line.startswith("@pytest.mark.relayproxy: ")
        assert expected in line


def test_keywords_alone_and_no_others() -> None:
    with pytest.raises(MarkerError) as raised:
        asked_for("relayproxy", [(("smtp://x",), {}), ((), {"upstrem": "x", "tls": "off"})])
    assert str(raised.value).splitlines() == [
        "@pytest.mark.relayproxy: expected keywords (upstream, rules, redirect_all, allow, tls, auth, config), got 'smtp://x'",
        "@pytest.mark.relayproxy: upstrem: unknown keyword; the nearest known is upstream",
    ]


def test_neither_the_environment_nor_a_file_of_the_project_has_a_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relayproxy.toml").write_text("no toml")
    monkeypatch.setenv("RELAYPROXY_UPSTREAM", "smtp://mail.example.com")
    config, _ = loaded({}, tmp_path, tmp_path, tmp_path)
    assert [str(listener.address) for listener in config.listener] == ["127.0.0.1:0"]
    assert config.upstream[config.upstream_of(config.listener[0])].captures


# Its end.


def relay_in(folder: Path, **asked: object) -> RelayFixture:
    return RelayFixture(*loaded(asked, folder, folder, folder))


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    relay_in(tmp_path).close()  # what is opened once a process, is
    threads, before = threading.enumerate(), descriptors()
    relay = relay_in(tmp_path)
    send(relay)
    relay.wait_for()
    relay.close()
    assert threading.enumerate() == threads
    assert descriptors() == before


def test_a_client_that_stays_is_not_waited_for(tmp_path: Path) -> None:
    relay = relay_in(tmp_path, config={"drain": "50ms"})
    with (
        socket.create_connection((relay.host, relay.port)) as idle,
        socket.create_connection((relay.host, relay.port)) as busy,
        socket.create_connection((relay.host, relay.port)) as sending,
    ):
        busy.sendall(b"HELO app\r\nMAIL FROM:<a@x.test>\r\n")
        assert idle.recv(3) == b"220"
        assert busy.recv(3) == b"220"
        sending.sendall(b"HELO app\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
        heard = b""
        while b"354" not in heard:
            heard += sending.recv(1 << 12)
        sending.sendall(b"x\r\n")
        began = time.monotonic()
        relay.close()
        assert time.monotonic() - began < 1  # who stays would be given two


def test_an_authority_that_is_not_ours_alone_is_told(tmp_path: Path) -> None:
    (tmp_path / "state" / "ca").mkdir(parents=True)
    (tmp_path / "state" / "ca").chmod(0o755)
    with pytest.raises(Trouble, match="expected a folder that nobody else can get at"):
        relay_in(tmp_path, tls="starttls", config={"state": str(tmp_path / "state")})
