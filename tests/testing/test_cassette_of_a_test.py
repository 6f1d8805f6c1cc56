"""The fixture `smtp_cassette`: the server that a .dialog file was recorded of, in its four modes."""

from __future__ import annotations

import smtplib
import ssl
import threading
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_aiosmtpd import aiosmtpd

from relayproxy.record.dialog import Line, parse
from relayproxy.testing.cassette import CassetteFixture, mode_of, path_of
from relayproxy.testing.marker import MarkerError, asked_for, loaded
from relayproxy.testing.thread import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

DIALOG: Final = """relayproxy dialog 1
@ session one
C< 220 mail.example.test ESMTP
C> EHLO app
C< 250-mail.example.test
& C< 250 SIZE 1000000
C> MAIL FROM:<app@example.test>
C< 250 2.1.0 ok
C> RCPT TO:<jane@customer.example>
C< 452 4.2.2 full
C> RSET
C< 250 2.0.0 ok
C> MAIL FROM:<app@example.test>
C< 250 2.1.0 ok
C> RCPT TO:<jane@customer.example>
C< 250 2.1.5 ok
C> DATA
C< 354 go on
C> |Subject: hi
C> |
C> |.
C< 250 2.0.0 queued as 42
C> QUIT
C< 221 2.0.0 bye
"""


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    path = tmp_path / "one.dialog"
    path.write_text(DIALOG, encoding="utf-8")
    return path


@contextmanager
def playing(path: Path, mode: str = "none", **asked: Any) -> Iterator[CassetteFixture]:
    """To be closed by the test, which looks at what that says."""
    folder = path.parent
    config, _ = loaded(asked, folder, folder / "state", folder, "smtp_cassette")
    yield CassetteFixture(path, mode, config, asked)  # type: ignore[arg-type]


def send(server: CassetteFixture, *to: str, text: str = "Subject: hi\r\n\r\nhello\r\n") -> str:
    """What was answered, or the refusal."""
    with smtplib.SMTP(server.host, server.port) as client:
        try:
            client.sendmail("app@example.test", to or "jane@customer.example", text)
        except smtplib.SMTPRecipientsRefused as refused:
            ((code, why), *_) = refused.recipients.values()
            return f"{code} {why.decode()}"
        except smtplib.SMTPResponseException as refused:
            return f"{refused.smtp_code} {refused.smtp_error!r}"
    return "taken"


class Server:
    """A real one: it takes all mail but that for nobody, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        self.asked.append(address)
        if address.startswith("nobody@"):
            return "550 5.1.1 nobody"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"


def told(path: Path) -> list[str]:
    """Whom the clients of a cassette's sessions named."""
    sessions = parse(path.read_text(encoding="utf-8"))
    lines = [entry.octets for one in sessions for entry in one.entries if isinstance(entry, Line) and entry.leg == "C"]
    return [line[9:-3].decode() for line in lines if line.upper().startswith(b"RCPT TO:<")]


def test_what_is_recorded_is_answered(path: Path) -> None:
    with playing(path, strict=True) as server:
        assert send(server) == "452 4.2.2 full"
        assert send(server) == "taken"
        assert server.close() is None
    assert (server.mode, server.path) == ("none", path)


def test_what_is_not_recorded_is_refused_and_told(path: Path) -> None:
    with playing(path) as server:
        assert send(server, "joe@customer.example").startswith("5")
        wrong = server.close()
    assert wrong is not None
    first, *rest = wrong.splitlines()
    assert first == f"not as in the cassette {path} (mode none):"
    assert rest[0].startswith("unexpected: MAIL FROM:<app@example.test> RCPT TO:<joe@customer.example>")
    assert rest[1].startswith("  recorded: MAIL FROM:<app@example.test> RCPT TO:<jane@customer.example>")


def test_where_it_is_strict_what_does_not_come_fails_too(path: Path) -> None:
    with playing(path) as server:
        assert send(server) == "452 4.2.2 full"
        assert server.close() is None
    with playing(path, strict=True) as server:
        send(server)
        wrong = server.close()
    assert wrong is not None
    assert wrong.splitlines()[1:] == ["unused: one: MAIL FROM:<app@example.test> RCPT TO:<jane@customer.example>"]


def test_where_it_repeats_the_last_answers_again(path: Path) -> None:
    with playing(path, repeats=True) as server:
        assert [send(server) for _ in range(4)] == ["452 4.2.2 full", "taken", "taken", "taken"]
        assert server.close() is None


def test_once_it_is_recorded_and_then_played(tmp_path: Path) -> None:
    path, real = tmp_path / "new" / "folder" / "one.dialog", Server()
    with aiosmtpd(real) as url:
        with playing(path, "once", upstream=url) as server:
            assert send(server) == "taken"
            assert send(server, "nobody@customer.example") == "550 5.1.1 nobody"
            assert server.close() is None
        assert told(path) == ["jane@customer.example", "nobody@customer.example"]
    for mode in ("once", "none"):  # the server has gone
        with playing(path, mode, upstream=url, strict=True) as server:
            assert send(server) == "taken"
            assert send(server, "nobody@customer.example") == "550 5.1.1 nobody"
            assert server.close() is None
    assert len(real.asked) == 2


def test_new_episodes_are_recorded_beside_the_old(path: Path) -> None:
    real = Server()
    with aiosmtpd(real) as url, playing(path, "new_episodes", upstream=url) as server:
        assert send(server) == "452 4.2.2 full"
        assert send(server, "nobody@customer.example") == "550 5.1.1 nobody"
        assert server.close() is None
    assert real.asked == ["nobody@customer.example"]
    assert told(path) == ["jane@customer.example", "jane@customer.example", "nobody@customer.example"]


def test_all_is_recorded_anew(path: Path) -> None:
    real = Server()
    with aiosmtpd(real) as url, playing(path, "all", upstream=url) as server:
        assert send(server) == "taken"
        assert server.close() is None
    assert real.asked == told(path) == ["jane@customer.example"]
    assert "452 4.2.2" not in path.read_text(encoding="utf-8")


def test_no_password_is_recorded(tmp_path: Path) -> None:
    path, secret = tmp_path / "one.dialog", b64encode(b"\0app\0Open.Sesame").decode()
    with (
        aiosmtpd(Server()) as url,
        playing(path, "once", upstream=url) as server,
        smtplib.SMTP(server.host, server.port) as client,
    ):
        client.ehlo()
        client.docmd("AUTH", f"PLAIN {secret}")
        client.close()
        server.close()
    kept = path.read_text(encoding="utf-8")
    assert "AUTH PLAIN <redacted " in kept
    assert secret not in kept


def test_what_is_recorded_passes_the_guard(tmp_path: Path) -> None:
    real = Server()
    with aiosmtpd(real) as url, playing(tmp_path / "a.dialog", "once", upstream=url, allow="*@example.test") as server:
        assert send(server).startswith("550 5.7.1")
        server.close()
    assert real.asked == []


def test_a_client_that_stays_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "one.dialog"
    with (
        aiosmtpd(Server()) as url,
        playing(path, "once", upstream=url) as server,
        smtplib.SMTP(server.host, server.port) as client,
    ):
        client.sendmail("app@example.test", "jane@customer.example", "Subject: hi\r\n\r\nhello\r\n")
        assert server.close() is None
        client.close()
    assert told(path) == ["jane@customer.example"]


def test_under_tls(path: Path) -> None:
    with playing(path, tls="starttls") as server:
        with smtplib.SMTP(server.host, server.port) as client:
            client.starttls(context=ssl.create_default_context(cafile=server.ca))
            client.ehlo()
        assert server.close() is None
    with playing(path) as server:
        with pytest.raises(Trouble, match=r"expected @pytest\.mark\.smtp_cassette"):
            _ = server.ca
        server.close()


def test_nothing_is_left_behind(path: Path, tmp_path: Path) -> None:
    def there() -> list[object]:
        return [*threading.enumerate(), *sorted(one.name for one in Path("/proc/self/fd").iterdir())]

    with aiosmtpd(Server()) as url:
        for number in range(2):
            before = there() if number else []
            with playing(path) as server:
                send(server)
                server.close()
            with playing(tmp_path / "new.dialog", "all", upstream=url) as server:
                send(server)
                server.close()
        assert there() == before


@pytest.mark.parametrize(
    ("mode", "asked", "why"),
    [
        ("none", {}, r"there is no cassette \S+none\.dialog; --smtp-cassette-mode once records it"),
        (
            "once",
            {},
            r"expected upstream= in @pytest\.mark\.smtp_cassette, the server that \S+none\.dialog is recorded of",
        ),
        ("all", {"upstream": "capture:"}, r"expected upstream= in"),
    ],
)
def test_a_cassette_that_is_not_there(mode: str, asked: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(Trouble, match=why), playing(tmp_path / "none.dialog", mode, **asked):
        pass


def test_a_cassette_that_is_none(path: Path) -> None:
    path.write_text("relayproxy dialog 1\nnonsense\n", encoding="utf-8")
    with pytest.raises(Trouble, match=r"one\.dialog: line 2: expected"), playing(path):
        pass


# What is asked for.


@pytest.mark.parametrize(
    ("asked", "option", "environ", "mode"),
    [
        ({}, None, {}, "none"),
        ({"upstream": "smtp://x"}, None, {}, "once"),
        ({"upstream": "smtp://x", "mode": "all"}, None, {}, "all"),
        ({"mode": "new_episodes"}, None, {"CI": "false"}, "new_episodes"),
        ({"upstream": "smtp://x"}, None, {"CI": "true"}, "none"),
        ({"mode": "all"}, None, {"CI": "1"}, "none"),
        ({"mode": "none"}, "all", {"CI": "true"}, "all"),
    ],
)
def test_modes(asked: dict[str, Any], option: Any, environ: dict[str, str], mode: str) -> None:
    assert mode_of(asked, option, environ) == mode


@pytest.mark.parametrize(
    ("asked", "name", "path"),
    [
        ({}, "test_it", "/t/cassettes/test_app/test_it.dialog"),
        ({}, "TestIt.test_it[a/../b-ü 1]", "/t/cassettes/test_app/TestIt.test_it-a-..-b--1.dialog"),
        ({"path": "one.dialog"}, "test_it", "/t/one.dialog"),
        ({"path": Path("/a/one.dialog")}, "test_it", "/a/one.dialog"),
    ],
)
def test_paths(asked: dict[str, Any], name: str, path: str) -> None:
    assert path_of(asked, Path("/t/test_app.py"), name) == Path(path)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"mode": "sometimes"}, "mode: expected once, none, new_episodes or all, got 'sometimes'"),
        ({"path": "one.yaml"}, "path: expected a .dialog file, got 'one.yaml'"),
        ({"upstream": "smtp:/x"}, "upstream.default.url[0]: expected smtp://"),
        ({"rules": []}, "rules: unknown keyword; known are allow, config, mode,"),
    ],
)
def test_what_a_marker_has_wrong(asked: dict[str, Any], line: str, tmp_path: Path) -> None:
    def take() -> None:
        asked_for("smtp_cassette", [((), asked)])
        path_of(asked, tmp_path, "x")
        mode_of(asked, None, {})
        loaded(asked, tmp_path, tmp_path, tmp_path, "smtp_cassette")

    with pytest.raises(MarkerError) as raised:
        take()
    assert str(raised.value).startswith(f"@pytest.mark.smtp_cassette: {line}")
