"""The fixture `smtp_cassette`: the server that a .dialog file was recorded of, in its four modes."""

from __future__ import annotations

import re
import smtplib
import ssl
import threading
from base64 import b64encode
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_aiosmtpd import aiosmtpd

from relayproxy.record.dialog import Line, parse
from relayproxy.testing.cassette import CassetteFixture, claim, mode_of, path_of, real_server
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
    assert rest[2] == (
        "if the application is right now: --smtp-cassette-mode all (or new_episodes) with the server there, "
        'and with upstream="smtp://..." in the marker, or delete the file'
    )


def test_where_it_is_strict_what_does_not_come_fails_too(path: Path) -> None:
    with playing(path) as server:
        assert send(server) == "452 4.2.2 full"
        assert server.close() is None
    with playing(path, strict=True) as server:
        send(server)
        wrong = server.close()
    assert wrong is not None
    assert wrong.splitlines()[1:-1] == ["unused: one: MAIL FROM:<app@example.test> RCPT TO:<jane@customer.example>"]


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


# What is not recorded, and what is all the same.

NOBODY: Final = "smtp://127.0.0.1:1"


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all"])
def test_a_server_that_is_not_there_fails_a_test_that_takes_no_notice(mode: str, path: Path) -> None:
    if mode == "once":
        path.unlink()
    with playing(path, mode, upstream=NOBODY) as server:
        with suppress(smtplib.SMTPException):
            assert send(server, "joe@customer.example").startswith("421 ")
        assert server.troubles() == [f"{NOBODY}: connection refused"]
        wrong = server.close()
    assert wrong is not None
    assert wrong.splitlines() == [
        f"{path} is not written (mode {mode}), since the server was not to be had:",
        f"{NOBODY}: connection refused",
    ]
    assert (path.read_text(encoding="utf-8") if mode != "once" else path.exists()) == (mode != "once" and DIALOG)


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all"])
def test_what_a_test_recorded_that_did_not_pass_is_not_kept(mode: str, path: Path) -> None:
    if mode == "once":
        path.unlink()
    with aiosmtpd(Server()) as url, playing(path, mode, upstream=url) as server:
        assert send(server, "joe@customer.example") == "taken"
        assert server.close(passed=False) is None
    assert server.note == f"{path} is not written, since the test did not pass"
    assert (path.read_text(encoding="utf-8") if mode != "once" else path.exists()) == (mode != "once" and DIALOG)


@pytest.mark.parametrize(
    ("mode", "there", "kept"),
    [("once", False, ""), ("new_episodes", False, ""), ("new_episodes", True, DIALOG), ("all", True, "")],
)
def test_that_no_mail_is_sent_is_recorded_too(mode: str, there: bool, kept: str, path: Path) -> None:
    if not there:
        path.unlink()
    with playing(path, mode, upstream=NOBODY) as server:
        assert server.close() is None
    assert path.read_text(encoding="utf-8") == (kept or "relayproxy dialog 1\n")
    with playing(path, strict=not kept) as server:
        assert server.close() is None


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
        wrong = server.close()
    assert real.asked == []
    assert wrong is not None
    assert wrong.startswith(f"{tmp_path / 'a.dialog'} is not written (mode once):\n")
    assert wrong.endswith(
        "550 5.7.1 This relay sends no mail to that address to RCPT TO:<jane@customer.example> is the relay's, not the server's"
    )
    assert not (tmp_path / "a.dialog").exists()


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
        (
            "none",
            {},
            r'there is no cassette \S+none\.dialog; to record it of a real server give the marker upstream="smtp',
        ),
        (
            "none",
            {"upstream": NOBODY},
            r"there is no cassette \S+none\.dialog; --smtp-cassette-mode once records it of smtp://127\.0\.0\.1:1$",
        ),
        ("once", {}, r'cassette \S+none\.dialog is to be recorded; to record it .* give the marker upstream="smtp'),
        ("all", {"upstream": "capture:"}, r'give the marker upstream="smtp'),
    ],
)
def test_a_cassette_that_is_not_there(mode: str, asked: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(Trouble, match=why), playing(tmp_path / "none.dialog", mode, **asked):
        pass


@pytest.mark.parametrize("mode", ["none", "once", "all"])
def test_a_name_that_is_too_long(mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 293}.dialog"
    with pytest.raises(Trouble, match="dialog: File name too long"), playing(path, mode, upstream=NOBODY):
        pass
    with pytest.raises(Trouble, match="dialog: File name too long"):
        claim({}, path, "test.py::test_x", {}, "once")


def test_a_cassette_that_is_none(path: Path) -> None:
    path.write_text("relayproxy dialog 1\nnonsense\n", encoding="utf-8")
    with pytest.raises(Trouble, match=r"one\.dialog: line 2: expected"), playing(path):
        pass


# What is asked for.


PROVIDER: Final = {"upstream": {"provider": {"url": "smtps://x", "verify": "none"}, "mine": {"url": "capture:"}}}


@pytest.mark.parametrize(
    ("asked", "option", "environ", "mode"),
    [
        ({}, None, {}, ("none", False)),
        ({"upstream": "smtp://x"}, None, {}, ("once", False)),
        ({"upstream": "capture:"}, None, {}, ("none", False)),
        ({"config": {"upstream": {"provider": {"url": "smtp://x"}}}}, None, {}, ("once", False)),
        ({"upstream": "provider", "config": PROVIDER}, None, {}, ("once", False)),
        ({"upstream": "mine", "config": PROVIDER}, None, {}, ("none", False)),
        ({"upstream": "smtp://x", "mode": "all"}, None, {}, ("all", False)),
        ({"mode": "new_episodes"}, None, {"CI": "false"}, ("new_episodes", False)),
        ({"upstream": "smtp://x"}, None, {"CI": "true"}, ("none", True)),
        ({}, None, {"CI": "true"}, ("none", False)),
        ({"mode": "all"}, None, {"CI": "1"}, ("none", True)),
        ({"mode": "none"}, "all", {"CI": "true"}, ("all", False)),
    ],
)
def test_modes(
    asked: dict[str, Any], option: Any, environ: dict[str, str], mode: tuple[str, bool], tmp_path: Path
) -> None:
    config, _ = loaded(asked, tmp_path, tmp_path, tmp_path, "smtp_cassette")
    assert mode_of(asked, option, environ, real=real_server(config) is not None) == mode


def test_in_ci_a_cassette_that_is_not_there_says_that_ci_is_the_reason(tmp_path: Path) -> None:
    config, _ = loaded({"upstream": NOBODY}, tmp_path, tmp_path / "state", tmp_path, "smtp_cassette")
    with pytest.raises(Trouble) as raised:
        CassetteFixture(tmp_path / "none.dialog", "none", config, {}, in_ci=True)
    assert str(raised.value).endswith(
        "none.dialog; nothing is recorded here, since CI is set: run the test once without it, and commit the file"
    )


@pytest.mark.parametrize(
    ("asked", "node", "path"),
    [
        ({}, "test_it", r"/t/cassettes/test_app/test_it\.dialog"),
        ({}, "TestIt::TestIn::test_it", r"/t/cassettes/test_app/TestIt\.TestIn\.test_it\.dialog"),
        ({}, "TestIt::test_it[a-1]", r"/t/cassettes/test_app/TestIt\.test_it-a-1\.dialog"),
        ({}, "test_it[a/../b 1]", r"/t/cassettes/test_app/test_it-a-\.\.-b-1-[0-9a-f]{8}\.dialog"),
        ({}, f"test_it[{'x' * 300}]", r"/t/cassettes/test_app/test_it-x{142}-[0-9a-f]{8}\.dialog"),
        ({"path": "one.dialog"}, "test_it", r"/t/one\.dialog"),
        ({"path": Path("/a/one.dialog")}, "test_it", r"/a/one\.dialog"),
    ],
)
def test_paths(asked: dict[str, Any], node: str, path: str) -> None:
    assert re.fullmatch(path, str(path_of(asked, Path("/t/test_app.py"), f"t/test_app.py::{node}")))


def test_two_tests_have_two_files(tmp_path: Path) -> None:
    nodes = ["test_x[a b]", "test_x[a+b]", "test_x[a-b]", "test_x[A-B]", "test_x[]", "TestA::TestIn::test_x"]
    nodes += ["TestB::TestIn::test_x", "TestIn::test_x", "test_x[a::b]", "test_x[a.b]"]
    paths = [str(path_of({}, tmp_path / "test_app.py", f"test_app.py::{node}")).lower() for node in nodes]
    assert len(set(paths)) == len(nodes)


@pytest.mark.parametrize(
    ("asked", "there", "modes", "why"),
    [
        ({}, True, ("none", "none"), "and b::y has the same: give one of them a path= of its own"),
        ({"path": "x"}, True, ("none", "once"), None),
        ({"path": "x"}, True, ("none", "all"), "and b::y would be recorded to it: give one of them"),
        ({"path": "x"}, True, ("all", "new_episodes"), "and b::y would be recorded to it: give one of them"),
        ({"path": "x"}, False, ("once", "once"), "and b::y would be recorded to it: give one of them"),
    ],
)
def test_a_file_is_of_one_test_unless_several_play_it(
    asked: dict[str, Any], there: bool, modes: tuple[Any, Any], why: str | None, path: Path
) -> None:
    used: dict[Path, str] = {}
    if not there:
        path.unlink()
    for _ in range(2):  # once more, as where tests run again
        claim(used, path, "a::x", asked, modes[0])
    if why is None:
        claim(used, path, "b::y", asked, modes[1])
    else:
        with pytest.raises(Trouble) as raised:
            claim(used, path.parent / "new" / ".." / path.name, "b::y", asked, modes[1])
        assert f"one.dialog is the cassette of a::x, {why}" in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"mode": "sometimes"}, "mode: expected once, none, new_episodes or all, got 'sometimes'"),
        ({"path": "one.yaml"}, "path: expected a .dialog file, got 'one.yaml'"),
        ({"upstream": "smtp:/x"}, "upstream.default.url[0]: expected smtp://"),
        ({"rules": []}, "rules: unknown keyword; known are allow, config, mode,"),
        (
            {"upstream": "provder", "config": PROVIDER},
            "upstream: expected a URL, or an upstream of config, got 'provder'; the nearest known is provider",
        ),
        (
            {"upstream": NOBODY, "config": {"upstream": {"default": {"verfy": "none"}}}},
            "upstream.default.verfy: unknown key; the nearest known is verify",
        ),
    ],
)
def test_what_a_marker_has_wrong(asked: dict[str, Any], line: str, tmp_path: Path) -> None:
    def take() -> None:
        asked_for("smtp_cassette", [((), asked)])
        path_of(asked, tmp_path, "test_it.py::test_x")
        mode_of(asked, None, {}, real=False)
        loaded(asked, tmp_path, tmp_path, tmp_path, "smtp_cassette")

    with pytest.raises(MarkerError) as raised:
        take()
    assert str(raised.value).startswith(f"@pytest.mark.smtp_cassette: {line}")
