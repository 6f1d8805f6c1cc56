"""Our own credentials: where secrets come from, logging in with each mechanism, and what becomes of it where that fails."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from dialog_runner import play
from relay_on_sockets import serving, upstream_server

from relayproxy.relay import credentials
from relayproxy.relay.credentials import Login, LoginFailed
from relayproxy.relay.settings import Credentials
from relayproxy.smtp.commands import Auth, Command, SaslCancel, SaslResponse
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "pencil and ink"  # noqa: S105
VARIABLE = {"password_env": "SMTP_PASSWORD"}
CONFIG = """relayproxy dialog 1
@ config upstream.default.url = "smtp://127.0.0.1:25"
@ config upstream.default.credentials = { user = "app", password_env = "SMTP_PASSWORD" }
"""
PLAIN = base64.b64encode(b"\0app\0" + SECRET.encode()).decode()
USER = base64.b64encode(b"app").decode()
PASSWORD = base64.b64encode(SECRET.encode()).decode()
CHALLENGE = base64.b64encode(b"<1@upstream.test>").decode()
DIGEST = hmac.new(SECRET.encode(), b"<1@upstream.test>", "md5").hexdigest()
CRAM = base64.b64encode(f"app {DIGEST}".encode()).decode()


def offers(*mechanisms: str) -> str:
    listed = "".join(f" {one}" for one in mechanisms)
    return f"""U open
U< 220 upstream.test ESMTP
U> EHLO relay.test
U< 250-upstream.test
& U< 250-PIPELINING
& U< 250{f"-AUTH{listed}" if mechanisms else " SIZE"}
{"& U< 250 SIZE" if mechanisms else ""}
"""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", SECRET)


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("mechanisms", "exchange", "chosen"),
    [
        (("LOGIN", "PLAIN"), f"U> AUTH PLAIN {PLAIN}\n", "PLAIN"),
        (
            ("LOGIN", "GSSAPI"),
            f"U> AUTH LOGIN\nU< 334 VXNlcm5hbWU6\nU> {USER}\nU< 334 UGFzc3dvcmQ6\nU> {PASSWORD}\n",
            "LOGIN",
        ),
        (("PLAIN", "CRAM-MD5"), f"U> AUTH CRAM-MD5\nU< 334 {CHALLENGE}\nU> {CRAM}\n", "CRAM-MD5"),
    ],
)
def test_we_log_in_before_the_client_is_greeted_and_it_may_say_whatever_it_likes(
    mechanisms: tuple[str, ...], exchange: str, chosen: str, *, bytewise: bool
) -> None:
    play(
        f"""{CONFIG}{offers(*mechanisms)}{exchange}U< 235 2.7.0 welcome
C< 220 *
@ log auth leg=upstream mechanism={chosen} user=app outcome=accepted reply.code=235
C> EHLO client.test
C< 250-relay.test
C< 250-PIPELINING
C< 250-SIZE *
C< 250-AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2 OAUTHBEARER
C< 250 CHUNKING
C> AUTH PLAIN AGEAYg==
C< 235 2.7.0 *
@ log auth leg=client mechanism=PLAIN user=a outcome=accepted
@ envelope a@example.test b@example.test
C> RSET
U> RSET
U< 250 ok
C< 250 ok
@ record client.auth.user = "a"
@ quit
""",
        bytewise=bytewise,
    )


@pytest.mark.parametrize(
    ("reply", "outcome", "text"),
    [
        ("535 5.7.8 no", "refused", "no"),
        (f"535 5.7.8 {SECRET} is wrong", "refused", "<redacted 23>"),
        (f"535 5.7.8 {PASSWORD}", "refused", "<redacted 20>"),
        ("454 4.7.0 later", "failed", "later"),
        ("421 4.3.2 going down", "failed", "going down"),
    ],
)
def test_credentials_that_are_refused_are_421_and_an_error(reply: str, outcome: str, text: str) -> None:
    play(
        f"""{CONFIG}{offers("PLAIN")}U> AUTH PLAIN {PLAIN}
U< {reply}
U close by us
C< 421 4.7.0 *
C close by us
@ log auth leg=upstream outcome={outcome} reply.text="{text}"
@ log error where=upstream what="smtp://127.0.0.1:25: the server answered {reply[:3]} to our credentials"
@ record none
"""
    )


@pytest.mark.parametrize("mechanisms", [(), ("GSSAPI",), ("XOAUTH2", "SCRAM-SHA-256-PLUS")])
def test_no_mechanism_that_we_know_is_421(mechanisms: tuple[str, ...]) -> None:
    play(
        f"""{CONFIG}{offers(*mechanisms)}U close by us
C< 421 4.7.0 *
C close by us
@ log error what="*: the server does not offer * for our credentials"
"""
    )


def test_a_password_is_not_said_where_others_can_hear_it() -> None:
    """The name was loopback's when the configuration was read; this one is not."""
    config = CONFIG.replace("127.0.0.1", "upstream.test")
    play(f"{config}{offers('PLAIN', 'LOGIN')}U close by us\nC< 421 4.7.0 *\nC close by us\n@ log error what=*hear*\n")
    play(
        f"{config}{offers('PLAIN', 'CRAM-MD5')}U> AUTH CRAM-MD5\nU< 334 {CHALLENGE}\nU> {CRAM}\nU< 235 ok\nC< 220 *\n@ quit\n"
    )


@pytest.mark.parametrize(
    ("trouble", "greeting"),
    [
        ("U close\n", "421 4.4.1 *"),
        ("+240 U close by us\n", "421 4.4.2 *"),
        ("U< 334 not-base64\nU> *\nU< 501 ok\nU close by us\n", "421 4.7.0 *"),
        (f"U< 334 {CHALLENGE}\nU> *\nU< 501 ok\nU close by us\n", "421 4.7.0 *"),
    ],
)
def test_an_upstream_that_is_lost_or_out_of_step(trouble: str, greeting: str) -> None:
    play(f"{CONFIG}{offers('PLAIN')}U> AUTH PLAIN {PLAIN}\n{trouble}C< {greeting}\nC close by us\n")


def test_530_behind_our_login_is_451_and_an_error() -> None:
    play(
        f"""{CONFIG}{offers("PLAIN")}U> AUTH PLAIN {PLAIN}
U< 235 ok
C< 220 *
@ client says EHLO
C> MAIL FROM:<a@example.test>
U> MAIL FROM:<a@example.test>
U< 530 5.7.0 Authentication required
C< 451 4.3.5 *
@ log error where=upstream what="smtp://127.0.0.1:25: the server answered 530*"
@ record reply.code = 451
@ quit
"""
    )


def test_530_to_a_client_that_may_log_in_itself_is_upstream_s() -> None:
    play(
        """relayproxy dialog 1
@ upstream offers PIPELINING AUTH\\x20PLAIN
@ client says EHLO
C> MAIL FROM:<a@example.test>
U> MAIL FROM:<a@example.test>
U< 530 5.7.0 Authentication required
C< 530 5.7.0 Authentication required
@ quit
"""
    )


def test_a_refusal_is_not_tried_elsewhere_but_a_deferral_is() -> None:
    config = CONFIG.replace('"smtp://127.0.0.1:25"', '["smtp://127.0.0.1:25", "smtp://127.0.0.2:25"]')
    refused = f"{config}{offers('PLAIN')}U> AUTH PLAIN {PLAIN}\nU< 535 5.7.8 no\nU close by us\nC< 421 4.7.0 *\nC close by us\n"
    play(refused)
    play(
        f"{config}{offers('PLAIN')}U> AUTH PLAIN {PLAIN}\nU< 454 4.7.0 later\nU close by us\n"
        f"{offers('PLAIN')}U> AUTH PLAIN {PLAIN}\nU< 235 ok\nC< 220 *\n@ quit\n"
    )


def test_another_connection_is_logged_in_too() -> None:
    play(
        f"""{CONFIG}{offers("PLAIN")}U> AUTH PLAIN {PLAIN}
U< 235 ok
C< 220 *
@ client says EHLO
C> AUTH PLAIN AGEAYg==
C< 235 2.7.0 *
@ envelope a@example.test b@example.test
@ data
C> |Subject: hi\\x0d
C> |.
U close by us
C< 554 5.6.0 *
@ record outcome = "rejected"
C> MAIL FROM:<a@example.test>
{offers("PLAIN")}U> AUTH PLAIN {PLAIN}
U< 235 ok
U> MAIL FROM:<a@example.test>
U< 250 ok
C< 250 ok
C> RSET
U> RSET
U< 250 ok
C< 250 ok
@ record outcome = "aborted"
@ quit
"""
    )


# Where secrets come from; the server is a function.


class Server:
    """Takes PLAIN and XOAUTH2; `right` is what it wants to hear."""

    def __init__(self, *right: str) -> None:
        self.right = right
        self.heard: list[str] = []

    async def ask(self, command: Command) -> Reply:
        assert isinstance(command, Auth)
        assert command.initial is not None
        said = base64.b64decode(command.initial).decode()
        secret = said.rpartition("\0")[2] if command.mechanism == b"PLAIN" else said.split("Bearer ")[1].rstrip("\1")
        self.heard.append(secret)
        return Reply(235, (b"ok",)) if secret in self.right else Reply(535, (b"5.7.8 no",))


def login(**settings: Any) -> Login:
    return Login(Credentials.model_validate({"user": "app", **settings}))


async def log_in(login: Login, server: Server) -> None:
    await login.log_in(server.ask, b"PLAIN XOAUTH2", private=True, tell=lambda *_: None)


async def test_a_file_is_read_at_each_login(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("one\n")
    server, ours = Server("one", "zwei, ü"), login(password_file=str(file))
    await log_in(ours, server)
    file.write_bytes("zwei, ü\r\n".encode())
    await log_in(ours, server)
    assert server.heard == ["one", "zwei, ü"]


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff", b"x" * 9000, b"nul\0"])
async def test_what_is_no_secret_is_told_by_its_place(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(LoginFailed) as failed:
        await log_in(login(password_file=str(file)), Server())
    assert str(file) in failed.value.what
    assert "lines" not in failed.value.what


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoginFailed, match=r"password_file /.*/secret: cannot be read: No such file"):
        await log_in(login(password_file=str(tmp_path / "secret")), Server())


async def test_a_variable_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_PASSWORD")
    with pytest.raises(LoginFailed, match="no variable SMTP_PASSWORD"):
        await log_in(login(**VARIABLE), Server())


def printing(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_a_token_is_kept_until_it_is_refused(tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = printing(
        f"import pathlib; p = pathlib.Path({str(count)!r}); n = len(p.read_text()) if p.exists() else 0; "
        "p.write_text('x' * (n + 1)); print(f'token-{n}')"
    )
    server, ours = Server("token-0"), login(token_command=command)
    await log_in(ours, server)
    await log_in(ours, server)
    assert server.heard == ["token-0"] * 2
    server.right = ("token-1",)
    await log_in(ours, server)
    assert server.heard[2:] == ["token-0", "token-1"]
    server.right = ()
    with pytest.raises(LoginFailed):
        await log_in(ours, server)
    assert server.heard[4:] == ["token-1", "token-2"]
    server.right = ("token-3",)
    await log_in(ours, server)
    assert server.heard[6:] == ["token-3"]


async def test_a_token_that_was_asked_for_meanwhile_stays(tmp_path: Path) -> None:
    """Six sessions with one that is stale ask once."""
    count = tmp_path / "count"
    command = printing(f"open({str(count)!r}, 'a').write('x'); print('token-' + str(len(open({str(count)!r}).read())))")
    server, ours = Server("token-1"), login(token_command=command)
    await log_in(ours, server)
    server.right = ("token-2",)
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(log_in, ours, server)
    assert count.read_text() == "xx"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('hush'); sys.exit('secret words')", "has ended with status 1"),
        ("print('x' * 10**6)", "expected a secret of one line"),
        ("pass", "expected a secret of one line"),
        ("import time; time.sleep(60)", "has not ended within 0.2 s"),
    ],
)
async def test_a_command_that_gives_no_token(
    code: str, told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if "sleep" in code:
        monkeypatch.setattr(credentials, "COMMAND_SECONDS", 0.2)
    with pytest.raises(LoginFailed) as failed:
        await log_in(login(token_command=printing(code)), Server())
    assert told in failed.value.what
    assert not {"hush", "words"} & set(failed.value.what.split())
    assert capfd.readouterr() == ("", "")


def test_what_a_command_has_begun_ends_with_us(tmp_path: Path) -> None:
    told, script = tmp_path / "told", tmp_path / "script"
    os.mkfifo(told)
    script.write_text(f"#!/bin/sh\n(echo up; exec sleep 100) > {told} &\nwait\n")
    script.chmod(0o700)
    descriptor = os.open(told, os.O_RDONLY | os.O_NONBLOCK)

    async def hear() -> bytes:
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(descriptor)
        return os.read(descriptor, 99)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log_in, login(token_command=str(script)), Server())
            assert await hear() == b"up\n"
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
        assert trio.run(hear) == b"", "nobody is left who could write"
    finally:
        os.close(descriptor)


def counting(count: Path, go_on: Path) -> list[str]:
    """A command that writes to `count` that it runs, and gives a token as soon as somebody writes to `go_on`."""
    return printing(f"open({str(count)!r}, 'a').write('x'); print(open({str(go_on)!r}).read())")


async def test_a_command_goes_on_for_those_who_wait_when_its_first_asker_leaves(tmp_path: Path) -> None:
    count, go_on = tmp_path / "count", tmp_path / "go_on"
    os.mkfifo(go_on)
    server, ours = Server("token-1"), login(token_command=counting(count, go_on))
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def leaves() -> None:
            with first:
                await log_in(ours, server)

        nursery.start_soon(leaves)
        nursery.start_soon(log_in, ours, server)
        with await trio.to_thread.run_sync(go_on.open, "w") as writer:  # it runs
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            writer.write("token-1")
    await log_in(ours, server)
    assert (server.heard, count.read_text()) == (["token-1"] * 2, "x")


async def test_those_who_wait_for_a_command_share_its_failure(tmp_path: Path) -> None:
    count, go_on = tmp_path / "count", tmp_path / "go_on"
    os.mkfifo(go_on)
    ours, failed = login(token_command=counting(count, go_on)), []

    async def fails() -> None:
        with pytest.raises(LoginFailed, match="expected a secret of one line") as failure:
            await log_in(ours, Server())
        failed.append(failure.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(fails)
        with await trio.to_thread.run_sync(go_on.open, "w"):
            await trio.testing.wait_all_tasks_blocked()
    assert (len(failed), count.read_text()) == (3, "x")


@pytest.mark.slow
async def test_a_login_ends_within_setup_though_its_secret_does_not_come(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    settings: list[dict[str, Any]] = [
        {"password_file": str(secret)},
        {"token_command": printing("import time; time.sleep(100)")},
    ]
    for number, more in enumerate(settings):
        async with upstream_server() as upstream:
            upstream.offers = (b"AUTH PLAIN XOAUTH2",)
            async with serving(
                tmp_path / str(number),
                upstream=upstream,
                upstream_more={"credentials": {"user": "app", **more}},
                timeouts={"upstream": {"setup": "1s"}},
            ) as relay:
                client = await relay.connect()
                assert (await client.reply())[0] == 421
                (line,) = await relay.log.wait_for("error", where="upstream")
                assert line["what"] == f"smtp://127.0.0.1:{upstream.port}: we could not log in in time"


async def test_a_command_that_is_not_there() -> None:
    with pytest.raises(LoginFailed, match="the command /no/such cannot be run: No such file"):
        await log_in(login(token_command="/no/such --option"), Server())  # noqa: S106 - it is none


async def test_scram_and_a_server_that_does_not_prove_itself() -> None:
    """235 without a signature, as from somebody in between who knows no password."""
    told: list[tuple[bytes, bytes, str]] = []
    said: list[Command] = []

    async def ask(command: Command) -> Reply:
        said.append(command)
        match command:
            case Auth():
                nonce = base64.b64decode(command.initial or b"").rpartition(b",r=")[2]
                return Reply(334, (base64.b64encode(b"r=%bxyz,s=QUFB,i=4096" % nonce),))
            case SaslResponse() if len(said) == 2:
                return Reply(235, (b"2.7.0 welcome",))
        raise AssertionError(command)

    ours = login(**VARIABLE)
    with pytest.raises(LoginFailed, match="did not show that it knows the password") as failed:
        await ours.log_in(ask, b"SCRAM-SHA-256 PLAIN", private=False, tell=lambda *what: told.append(what[:3]))
    assert failed.value.for_good
    assert told == [(b"SCRAM-SHA-256", b"app", "failed")]


@pytest.mark.parametrize("knows", [True, False])
async def test_scram_whole(*, knows: bool) -> None:
    salted = hashlib.pbkdf2_hmac("sha256", SECRET.encode() if knows else b"guess", b"AAA", 4096)
    messages: list[bytes] = []
    cancelled = False

    async def ask(command: Command) -> Reply:
        nonlocal cancelled
        match command:
            case Auth():
                bare = base64.b64decode(command.initial or b"").removeprefix(b"n,,")
                messages.extend([bare, b"r=%bxyz,s=QUFB,i=4096" % bare.rpartition(b",r=")[2]])
                return Reply(334, (base64.b64encode(messages[1]),))
            case SaslResponse(octets=b""):
                return Reply(235, (b"2.7.0 welcome",))
            case SaslResponse():
                messages.append(base64.b64decode(command.octets).rpartition(b",p=")[0])
                key = hmac.digest(salted, b"Server Key", "sha256")
                return Reply(
                    334, (base64.b64encode(b"v=" + base64.b64encode(hmac.digest(key, b",".join(messages), "sha256"))),)
                )
            case SaslCancel():
                cancelled = True
                return Reply(501, (b"cancelled",))
        raise AssertionError(command)

    ours = login(**VARIABLE)
    if knows:
        await ours.log_in(ask, b"SCRAM-SHA-256", private=False, tell=lambda *_: None)
    else:
        with pytest.raises(LoginFailed, match="does not know the password"):
            await ours.log_in(ask, b"SCRAM-SHA-256", private=False, tell=lambda *_: None)
    assert cancelled is not knows
