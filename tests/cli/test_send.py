"""`relayproxy send`: what goes out, and how each refusal is told."""

from __future__ import annotations

import email
import email.policy
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_server import scripted

from relayproxy.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG = b"Subject: long\r\n\r\n" + b"." * 70 + b"\r\n" + b"x" * 70 + b"\r\n"


def send(url: str, *more: str, sender: str = "a@example.test", to: Sequence[str] = ("b@example.test",)) -> int:
    recipients = [part for one in to for part in ("--to", one)]
    return main(["send", "--server", url, "--from", sender, *recipients, *more])


def test_a_message_is_made_and_sent(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server:
        assert (
            send(server.url, "--subject", "Grüße", "--body", "Hällo\n.dot\n", to=["b@example.test", "c@example.test"])
            == 0
        )
    assert capsys.readouterr().out == "250 2.0.0 queued as 42\n"
    verbs = [line.partition(b" SIZE=")[0].strip() for line in server.lines]
    assert verbs[1:] == [
        b"MAIL FROM:<a@example.test>",
        b"RCPT TO:<b@example.test>",
        b"RCPT TO:<c@example.test>",
        b"DATA",
        b"QUIT",
    ]
    assert server.data.isascii()
    assert f"SIZE={len(server.data) - 1}".encode() in server.lines[1], "the stuffed dot does not count"
    message = email.message_from_bytes(server.data, policy=email.policy.default)
    assert (message["From"], message["To"]) == ("a@example.test", "b@example.test, c@example.test")
    assert (message["Subject"], message.get_content()) == ("Grüße", "Hällo\r\n..dot\r\n")
    assert message["Date"]
    assert message["Message-ID"]


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"Subject: hi\r\n\r\nhello\r\n", b"Subject: hi\r\n\r\nhello\r\n"),
        (b"Subject: hi\n\n.\n..x\nend", b"Subject: hi\r\n\r\n..\r\n...x\r\nend\r\n"),
        (b"X:\xff\r\n\nmixed\r\n", b"X:\xff\r\n\r\nmixed\r\n"),
        (b"", b""),
        (LONG * 1000, LONG.replace(b"\r\n.", b"\r\n..") * 1000),
    ],
    ids=["as it is", "LF, dots, no end", "8 bit", "empty", "many blocks"],
)
def test_a_file_goes_out_as_it_is_but_for_its_line_ends(content: bytes, wire: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.eml").write_bytes(content)
    with scripted({"EHLO": "250-server.test\r\n250 8BITMIME"}) as server:
        assert send(server.url, "--message", str(tmp_path / "m.eml")) == 0
    assert server.data == wire
    assert server.lines[1] == b"MAIL FROM:<a@example.test>" + (b"" if wire.isascii() else b" BODY=8BITMIME") + b"\r\n"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Subject: hi\n\nhello\n")))
    with scripted() as server:
        assert send(server.url, "--message", "-") == 0
    assert server.data == b"Subject: hi\r\n\r\nhello\r\n"


def test_the_null_sender_and_addresses_in_other_scripts() -> None:
    with scripted() as server:
        assert send(server.url, sender="", to=["jürgen@exämple.test"]) == 0
    assert server.lines[1].startswith(b"MAIL FROM:<> ")
    assert b" SMTPUTF8" in server.lines[1]
    assert server.lines[2] == "RCPT TO:<jürgen@exämple.test>\r\n".encode()


def test_a_server_without_extensions() -> None:
    with scripted({"EHLO": "502 5.5.1 what?"}) as server:
        assert send(server.url) == 0
    assert server.lines[1].startswith(b"HELO ")
    assert server.lines[2] == b"MAIL FROM:<a@example.test>\r\n"


# (what the server answers, what is told)
REFUSALS = [
    ({"GREETING": "554 5.7.1 no\x1b[31m"}, ["554 5.7.1 no\\x1b[31m"]),
    ({"GREETING": "421 4.3.2 later"}, ["421 4.3.2 later"]),
    ({"GREETING": ""}, ["closed the connection"]),
    ({"EHLO": "421 4.3.2 later"}, ["421"]),
    ({"MAIL": "550 5.7.1 not you"}, ["MAIL FROM:<a@example.test>: 550 5.7.1 not you"]),
    ({"RCPT": "450 4.2.2 full"}, ["RCPT TO:<b@example.test>: 450 4.2.2 full", "nothing was sent"]),
    ({"RCPT TO:<c": "550 5.1.1 who?"}, ["RCPT TO:<c@example.test>: 550 5.1.1 who?", "sent to the others: 250 2.0.0 queued as 42"]),
    ({"DATA": "451 4.3.0 not now"}, ["DATA: 451 4.3.0 not now"]),
    ({".": "554 5.6.0 no"}, ["end of data: 554 5.6.0 no"]),
    ({".": ""}, ["whether the server has the message is unknown"]),
    ({"MAIL": ""}, ["MAIL FROM:<a@example.test>: smtp://127.0.0.1:", ": the server closed the connection"]),
]  # fmt: skip


@pytest.mark.parametrize(("replies", "told"), REFUSALS, ids=lambda value: "" if isinstance(value, list) else str(value))
def test_each_refusal_is_told_and_is_status_1(
    replies: dict[str, str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(replies) as server:
        assert send(server.url, to=["b@example.test", "c@example.test"]) == 1
    streams = capsys.readouterr()
    assert [text for text in told if text not in streams.err] == []
    assert (streams.out, "\x1b" in streams.err, "Traceback" in streams.err) == ("", False, False)


def test_an_address_that_the_server_cannot_take(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({"EHLO": "250 server.test"}) as server:
        assert send(server.url, to=["jürgen@example.test"]) == 1
    assert "does not offer SMTPUTF8" in capsys.readouterr().err
    assert [line[:4] for line in server.lines] == [b"EHLO", b"QUIT"]


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as server:
        assert send(server.url) == 0
    capsys.readouterr()
    assert send(server.url) == 1
    assert capsys.readouterr().err.endswith("connection refused\n")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--from", "a b@x"], "--from: expected an address such as user@example.com, got 'a b@x'"),
        (["--from", "a@x>\r\nRSET"], "--from: expected an address"),
        (["--to", ""], "--to: expected an address, got nothing"),
        (["--server", "capture:"], "--server: expected smtp://host[:port], got capture:"),
        (["--server", "http://x"], "--server: expected smtp://, smtp+starttls://, smtps:// or lmtp://"),
        (
            ["--verify", "none"],
            "--verify: expected --server smtp+starttls:// or smtps:// beside it, got smtp://127.0.0.1:1",
        ),
        (["--ca", "x"], "--ca: expected --server smtp+starttls:// or smtps:// beside it"),
        (["--server", "smtps://x", "--ca", "missing"], "missing: cannot be read: No such file or directory"),
        (["--server", "smtps://x", "--verify", "some"], "expected full, ca, none"),
        (["--subject", "a\nBcc: x@y"], "no message can be made of that"),
        (["--message", "m", "--body", "b"], "expected --message, or --subject and --body, got both"),
        (["--message", "missing"], "--message: missing: cannot be read: No such file or directory"),
        (["--message", "cr"], "--message: cr:2: expected lines that end with CRLF or LF, found a bare CR"),
        (["--message", "nul"], "--message: nul:1: expected lines that end with CRLF or LF, found NUL"),
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_status_2(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cr").write_bytes(b"a: b\nc: d\re\n")
    Path("nul").write_bytes(b"a: \0\n")
    given = {"--server": "smtp://127.0.0.1:1", "--from": "a@example.test", "--to": "b@example.test"}
    given |= dict(zip(more[::2], more[1::2], strict=True))
    assert main(["send", *(part for pair in given.items() for part in pair)]) == 2
    assert said in capsys.readouterr().err


GUARD = "[guard]\nallow = ['*@example.test']\n"


def test_nobody_outside_the_guard_of_a_configuration_is_told_to_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("guarded.toml").write_text(GUARD)
    nowhere = "smtp://127.0.0.1:1"
    people = ["b@example.test", "jane@customer.example", '"x@example.test"@evil.test']
    assert send(nowhere, "--config", "guarded.toml", to=people) == 1
    assert capsys.readouterr().err.splitlines() == [
        "relayproxy: RCPT TO:<jane@customer.example>: the guard of guarded.toml does not allow it",
        'relayproxy: RCPT TO:<"x@example.test"@evil.test>: the guard of guarded.toml does not allow it',
        "relayproxy: mail may go to *@example.test: nothing was sent; --config FILE takes another configuration, and its guard if it has one",
    ]
    Path("guarded.toml").rename("relayproxy.toml")
    assert send(nowhere, to=people[1:2]) == 1
    assert "the guard of relayproxy.toml does not allow it" in capsys.readouterr().err
    monkeypatch.setenv("RELAYPROXY_ALLOW", "jane@*")
    assert send(nowhere, to=people[:1]) == 1
    assert "mail may go to jane@*: nothing was sent" in capsys.readouterr().err
    with scripted() as server:
        assert send(server.url, to=people[1:2]) == 0
    assert b"RCPT TO:<jane@customer.example>\r\n" in server.lines
    Path("relayproxy.toml").unlink()
    assert send(nowhere, to=people[:1]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "relayproxy: RCPT TO:<b@example.test>: the guard of the environment does not allow it",
        "relayproxy: mail may go to jane@*: nothing was sent",
    ]


def test_another_configuration_has_another_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relayproxy.toml").write_text(GUARD)
    with scripted() as server:
        assert send(server.url, "--config", "/dev/null", to=["jane@customer.example"]) == 0
    assert b"RCPT TO:<jane@customer.example>\r\n" in server.lines


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "[::]", "localhost"])
def test_a_relay_of_the_same_configuration_guards_itself(listen: str, tmp_path: Path) -> None:
    config = tmp_path / "it.toml"
    with scripted() as server:
        port = server.url.rpartition(":")[2]
        config.write_text(GUARD + f"[[listener]]\naddress = '{listen}:{port}'\nclients = ['127.0.0.1']\n")
        assert send(server.url, "--config", str(config), to=["jane@customer.example"]) == 0
    assert b"RCPT TO:<jane@customer.example>\r\n" in server.lines


def test_a_configuration_that_is_wrong_guards_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.toml").write_text("[guard]\nalow = []\n")
    assert send("smtp://127.0.0.1:1", "--config", str(tmp_path / "it.toml")) == 2
    assert "guard.alow: unknown key; the nearest known is allow" in capsys.readouterr().err


def test_what_a_server_says_is_not_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted({".": "250 2.0.0 \u202eok"}) as server:
        assert send(server.url) == 0
    assert capsys.readouterr().out == "250 2.0.0 \\u202eok\n"
