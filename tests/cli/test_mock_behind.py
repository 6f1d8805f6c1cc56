"""`relayproxy mock` in front of a real server: what goes on there, of whom, and what of it becomes the recording."""

from __future__ import annotations

import smtplib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from scripted_server import scripted
from test_mock import (
    BYE,
    PATIENCE,
    SENT,
    TAKEN,
    TWICE,
    configured,
    mocked,
    sent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What the server of these recordings had.
RICH: Final = """relayproxy dialog 1
C< 220 mx.test ESMTP
C> EHLO app-1
C< 250-mx.test
& C< 250-8BITMIME
& C< 250-SMTPUTF8
& C< 250-DSN
& C< 250 AUTH PLAIN LOGIN
"""
#: base64 of a login.
LOGIN: Final = "AGFwcABPcGVuLlNlc2FtZQ=="


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "CONFIG", "UPSTREAM", "LISTEN", "LOG"):
        monkeypatch.delenv(f"RELAYPROXY_{name}", raising=False)
    Path("twice.dialog").write_text(TWICE, encoding="utf-8")
    Path("rich.dialog").write_text(RICH + SENT.format(rcpt="250 2.1.5 ok") + TAKEN + BYE, encoding="utf-8")
    Path("secret").write_text("Open.Sesame\n", encoding="ascii")
    configured()


def said(port: int, *lines: str) -> Iterator[str]:
    """What is heard to each."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
        smtp.ehlo("app-1")
        for line in lines:
            code, words = smtp.docmd(line)
            yield f"{code} {words.decode()}"


def recording(*more: str, file: str = "twice.dialog", mode: str = "new_episodes") -> list[str]:
    return [file, "--mode", mode, *more]


# Of whom.


def test_no_login_goes_on_to_a_server_that_the_recording_offered_none_of() -> None:
    heard: list[str] = []
    offers = {"EHLO": "250-server.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 AUTH PLAIN LOGIN"}

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            for line in ("EHLO app-1", "MAIL FROM:<b@x.test>", "RSET", f"AUTH PLAIN {LOGIN}", "EHLO app-1"):
                code, words = smtp.docmd(line)
                heard.append(f"{code} {words.decode()}")

    with scripted({**offers, "AUTH": "235 2.7.0 ok"}) as server:
        mocked(recording("--upstream", server.url, file="rich.dialog"), client)
    assert "AUTH PLAIN LOGIN" in heard[0]
    assert heard[1:4] == ["250 2.1.0 ok", "250 2.0.0 ok", "503 5.5.1 Bad sequence of commands"]
    assert "AUTH" not in heard[4]
    assert not [line for line in server.lines if line.startswith(b"AUTH")]


@pytest.mark.parametrize("mode", ["new_episodes", "once", "all"])
@pytest.mark.parametrize("upstream", ["with credentials", "without"])
def test_nobody_sends_without_the_one_login_whoever_answers(mode: str, upstream: str) -> None:
    offers = {"EHLO": "250-server.test\r\n250 AUTH PLAIN", "AUTH": "235 2.7.0 ok"}
    heard: list[str] = []

    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            mail, wrong = "MAIL FROM:<b@x.test>", "AUTH PLAIN AGFwcAB4"
            heard.extend(str(smtp.docmd(line)[0]) for line in (mail, wrong, mail))
            smtp.login("app", "Open.Sesame")
            heard.append(sent(smtp, "b@x.test"))

    with scripted(offers) as server:
        login = ['credentials = { user = "us", password_file = "ours" }'] if upstream == "with credentials" else []
        Path("ours").write_text("Ours\n", encoding="ascii")
        configured("[upstream.mx]", f'url = "{server.url}"', *login)
        file = "new.dialog" if mode == "once" else "twice.dialog"
        mocked(recording("--user", "app", "--password-file", "secret", file=file, mode=mode), client)
    assert heard == ["530", "535", "530", "250 2.0.0 queued as 42"]
    assert [line.split()[0] for line in server.lines if line.startswith((b"AUTH", b"MAIL"))] == [
        *([b"AUTH"] if login else []),
        b"MAIL",
    ]


@pytest.mark.parametrize(
    ("offers", "lacking"),
    [
        ("250 server.test", "8BITMIME, SMTPUTF8, DSN"),
        ("250-server.test\r\n250-8BITMIME\r\n250 SMTPUTF8", "DSN"),
    ],
)
def test_a_server_that_lacks_what_was_offered_gets_no_mail(
    offers: str, lacking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    mail = "MAIL FROM:<b@x.test> BODY=8BITMIME SMTPUTF8 RET=HDRS"
    with scripted({"EHLO": offers}) as server:
        told = mocked(
            recording("--upstream", server.url, file="rich.dialog"),
            lambda port: heard.extend(said(port, mail, "NOOP")),
        )
    assert told.status == 1
    what = f"the server behind does not offer what the recording does: {lacking}"
    assert [line["what"] for line in told.lines if line["event"] == "error"] == [what]
    assert what in capsys.readouterr().err
    assert heard == 2 * ["451 4.3.5 This relay is not set up correctly; try again later"]
    assert [line.split()[0] for line in server.lines] == [b"EHLO", b"QUIT"]


@pytest.mark.parametrize(("ehlo", "names"), [("own", {b"relay.test"}), ("client", {b"relay.test", b"app-1"})])
@pytest.mark.parametrize("mode", ["once", "new_episodes"])
def test_the_server_hears_who_its_upstream_says(ehlo: str, names: set[bytes], mode: str) -> None:
    def client(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as smtp:
            smtp.ehlo("app-1")
            assert sent(smtp, "b@x.test") == "250 2.0.0 queued as 42"

    with scripted() as server:
        configured("[upstream.mx]", f'url = "{server.url}"', f'ehlo = "{ehlo}"')
        mocked(recording(file="twice.dialog" if mode == "new_episodes" else "new.dialog", mode=mode), client)
    heard = [line.split()[1] for line in server.lines if line.startswith(b"EHLO")]
    assert set(heard) <= names
    assert heard[-1] == (b"relay.test" if ehlo == "own" else b"app-1")
