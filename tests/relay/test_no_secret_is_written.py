"""DESIGN §9.6, PROTOCOL I10, attack 21: all mechanisms, however they go, and nothing that is written holds a secret, in any form.

The relay is a real one, on memory streams and virtual time. What it writes (the log at level debug, JSON and text; the store: records, wire and dialogs; the state folder; standard
output and error) is searched for each secret: as it is, as JSON has it, in hexadecimal, and in base64 whatever stood before and behind it.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import pytest
import trio
from dialog_relay import MemoryTarget
from dialog_wire import Leg
from memory_store import MemoryReader, MemoryWriter
from trio.testing import MockClock, wait_all_tasks_blocked

from relayproxy.net.stream import TrioStream
from relayproxy.record.dialog import print_dialog
from relayproxy.record.log import Reporter
from relayproxy.record.playback import dialog_of
from relayproxy.record.recorder import Policy, Recorder
from relayproxy.record.report import encode
from relayproxy.record.store.bodies import Bodies
from relayproxy.record.store.spool import Spool
from relayproxy.relay.service import LOOK, Relay
from relayproxy.relay.settings import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from socket import socket

    from relayproxy.net.dial import UpstreamUrl
    from relayproxy.net.stream import DeadlineStream
    from relayproxy.record.store.interface import Reader

USER: Final = b"app@example.test"
PASSWORDS: Final = (b"Wh4tEv3rItTak3s", 'Zürich "42"\\ ö'.encode())
DIGEST: Final = b"b913a602c7eda7a495b4e6e7334d3890"
PROOF: Final = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
NONCE: Final = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
ALL: Final = b"PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-512 XOAUTH2 OAUTHBEARER"


def responses(mechanism: bytes, password: bytes) -> list[bytes]:
    """What a client says, before base64. None of it is an initial response unless the mechanism has one."""
    if mechanism.startswith(b"SCRAM"):
        return [b"n,,n=%b,r=rOprNGfwEbeRWgbNEkqO" % USER, b"c=biws,r=rOprNGfwEbeRWgbNEkqO%b,p=%b" % (NONCE, PROOF), b""]
    return {
        b"PLAIN": [b"\0%b\0%b" % (USER, password)],
        b"LOGIN": [USER, password],
        b"CRAM-MD5": [USER + b" " + DIGEST],
        b"XOAUTH2": [b"user=%b\x01auth=Bearer %b\x01\x01" % (USER, password)],
        b"OAUTHBEARER": [b"n,a=%b,\x01host=mail.test\x01auth=Bearer %b\x01\x01" % (USER, password)],
    }[mechanism]


def forms(secret: bytes) -> Iterator[bytes]:
    """How a secret may look in what is written; base64 without the characters that depend on its neighbours."""
    yield secret
    yield secret.hex().encode()
    text = secret.decode()
    yield json.dumps(text).strip('"').encode()
    yield json.dumps(text, ensure_ascii=False).strip('"').encode()
    yield text.replace("\\", "\\\\").encode()
    for before in range(3):
        octets = b"\0" * before + secret
        first, last = -(-before * 8 // 6), len(octets) * 8 // 6
        yield base64.b64encode(octets)[first:last]
        yield base64.urlsafe_b64encode(octets)[first:last]


def found(written: bytes) -> list[bytes]:
    """The forms of secrets that were written."""
    return [form for secret in (*PASSWORDS, DIGEST, PROOF) for form in forms(secret) if form in written]


Verdict = Literal["accepts", "refuses", "defers", "closes", "says 421", "breaks the protocol", "says nothing"]


class Upstream:
    """Offers everything, asks as often as it takes, and repeats in its verdict what it heard."""

    def __init__(self, mechanism: bytes, verdict: Verdict, rounds: int) -> None:
        self.leg = Leg(lambda _: None)
        self._mechanism = mechanism
        self._verdict = verdict
        self._rounds = rounds
        self._heard: list[bytes] = []
        self._in_exchange = False
        self.leg.far_send(b"220 upstream.test ESMTP\r\n")

    def answer(self) -> bool:
        """Answer a line, if there is one."""
        end = self.leg.unread.find(b"\r\n")
        if end < 0 or self.leg.far_gone:
            return False
        line = bytes(self.leg.unread[:end])
        self.leg.far_take(end + 2)
        if line.startswith(b"EHLO"):
            self.leg.far_send(b"250-upstream.test\r\n250-PIPELINING\r\n250 AUTH %b\r\n" % ALL)
        elif line.startswith(b"AUTH ") and not self._in_exchange:
            self._in_exchange = True
            self._heard = []
            self._hear(line.split()[2:])
        elif self._in_exchange and line == b"*":
            self._in_exchange = False
            self.leg.far_send(b"501 5.7.0 cancelled\r\n")
        elif self._in_exchange:
            self._hear([line])
        else:
            self.leg.far_send(b"221 bye\r\n" if line == b"QUIT" else b"250 2.0.0 ok\r\n")
        return True

    def _hear(self, lines: list[bytes]) -> None:
        self._heard += lines
        if len(self._heard) < self._rounds:
            self.leg.far_send(b"334 %b\r\n" % base64.b64encode(b"r=rOprNGfwEbeRWgbNEkqO%b,s=QUFB,i=4096" % NONCE))
            return
        self._in_exchange = False
        said = b" ".join([*self._heard, *(base64.b64decode(line) for line in self._heard if line != b"=")])
        said = said.replace(b"\0", b" ").replace(b"\r", b" ").replace(b"\n", b" ")
        match self._verdict:
            case "accepts":
                self.leg.far_send(b"235 2.7.0 welcome " + said + b"\r\n")
            case "refuses":
                self.leg.far_send(b"535-5.7.8 no:\r\n535 5.7.8 " + said + b"\r\n")
            case "defers":
                self.leg.far_send(b"454 4.7.0 " + said + b"\r\n")
            case "says 421":
                self.leg.far_send(b"421 4.7.0 " + said + b"\r\n")
            case "breaks the protocol":
                self.leg.far_send(b"2x5 " + said + b"\r\n")
            case "closes":
                self.leg.far_close()
            case "says nothing":
                pass


def scripts(mechanism: bytes, password: bytes) -> dict[str, list[bytes]]:
    """By name: what a client sends, each piece once all before it has been answered."""
    said = responses(mechanism, password)
    lines = [base64.b64encode(one) for one in said]
    begin = b"AUTH " + mechanism
    initial = begin if mechanism in (b"LOGIN", b"CRAM-MD5") else begin + b" " + lines[0]
    rest = lines if initial is begin else lines[1:]
    after = [password, *lines, b"mail " + password, b"NOOP", b"AUHT PLAIN " + lines[0], b"MAIL FROM:<a@b.test>", *lines]
    crlf = b"\r\n"
    return {
        "in order": [line + crlf for line in (initial, *rest, b"MAIL FROM:<a@b.test>", b"RSET")],
        "without an initial response": [line + crlf for line in (begin, *lines, b"MAIL FROM:<a@b.test>")],
        "user first": [begin + b" " + base64.b64encode(USER) + crlf, *(line + crlf for line in (*lines, *after))],
        "cancelled": [begin + crlf, *(line + crlf for line in lines[:-1]), b"*\r\n", *(line + crlf for line in after)],
        "cancelled at the end": [initial + crlf, *(line + crlf for line in rest), b"*\r\n"],
        "pipelined": [crlf.join([initial, *rest, b"MAIL FROM:<a@b.test>", b""])],
        "pipelined behind a continuation": [begin + crlf, crlf.join([*lines, password, b""])],
        "in one piece with EHLO": [crlf.join([b"EHLO client.test", initial, *rest, b""])],
        "over-long": [begin + b" " + lines[0] * 4000 + crlf, begin + crlf, lines[0] * 4000 + crlf, lines[-1] * 9000],
        "over-long and raw": [begin + crlf, password * 2000 + crlf, password + crlf],
        "not base64": [begin + crlf, password + crlf, begin + b" " + password + crlf, begin + crlf, lines[0] + b"=" + crlf],
        "mistyped": [
            line + crlf
            for at in (lines[0], password, said[0])
            for line in (
                b"AUT " + mechanism + b" " + at, b"AUTH" + mechanism + at, b"AUTH:" + mechanism + b":" + at, b"AUTH " + at,
                b"AUTH  " + mechanism.lower() + b"  " + at, b"NOOP AUTH " + mechanism + b" " + at, at, b"\t" + initial, b"AUHT " + at,
            )
        ],
        "as a parameter": [b"MAIL FROM:<a@b.test> AUTH=" + password + crlf, b"MAIL FROM:<a@b.test> AUHT=" + lines[0] + crlf],
        "in a transaction": [b"MAIL FROM:<a@b.test>\r\n", *(line + crlf for line in (initial, *rest, *after))],
        "before EHLO": [b"RSET\r\n", *(line + crlf for line in (initial, *rest))],
        "half, and gone": [begin + crlf, lines[0][:-1]],
        "another mechanism's": [b"AUTH PLAIN " + lines[-1] + crlf, b"AUTH LOGIN " + lines[-1] + crlf, lines[-1] + crlf, lines[-1] + crlf],
    }  # fmt: skip


VERDICTS: Final[tuple[Verdict, ...]] = (
    "accepts", "refuses", "defers", "closes", "says 421", "breaks the protocol", "says nothing",
)  # fmt: skip


class Session:
    """One client that says its pieces; `upstreams` are made when dialled."""

    def __init__(self, mechanism: bytes, verdict: Verdict) -> None:
        self._mechanism = mechanism
        self._verdict = verdict
        self._upstreams: list[Upstream] = []

    async def dial(self, url: UpstreamUrl, seconds: float) -> DeadlineStream:
        del url, seconds
        made = Upstream(self._mechanism, self._verdict, len(responses(self._mechanism, b"x")))
        self._upstreams.append(made)
        return TrioStream(made.leg, made.leg.receive_nowait)

    async def play(self, relay: Relay, listener: Any, pieces: list[bytes], *, hello: bool) -> None:
        client = Leg(lambda _: None)
        async with trio.open_nursery() as watching:
            watching.start_soon(relay.watch)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    relay.session, TrioStream(client, client.receive_nowait), "127.0.0.1", 50000, listener
                )
                await self._settle()
                for piece in (*([b"EHLO client.test\r\n"] if hello else []), *pieces):
                    if client.ended:
                        break
                    client.far_send(piece)
                    await self._settle()
                    await trio.sleep(LOOK + 0.1)  # what was said so far is recorded
                client.far_close()
                await self._settle()
                for upstream in self._upstreams:
                    upstream.leg.far_close()
            watching.cancel_scope.cancel()

    async def _settle(self) -> None:
        await wait_all_tasks_blocked()
        while any(upstream.answer() for upstream in self._upstreams):
            await wait_all_tasks_blocked()


def no_sockets(sock: socket) -> DeadlineStream:
    raise AssertionError(sock)


def everything(folder: Path, target: MemoryTarget, reporter: Reporter, store: MemoryWriter) -> bytes:
    """All that was written, once the log has been written to its end, and how the store's sessions are shown."""
    assert reporter.close(5.0)
    reader = MemoryReader(store)
    shown = b""
    for id_ in store.sessions():
        session = reader.session(id_)
        assert session is not None
        shown += b"".join(store.wire(id_))
        shown += print_dialog([dialog_of(session, reader.of_session(id_), cast("Reader", reader))]).encode()
    for write in store.transactions().values():
        shown += encode(write.record) + (b"" if write.message is None else write.message.header)
    return target.written + shown + b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def recorder(store: MemoryWriter, folder: Path) -> Recorder:
    return Recorder(store, Policy(), lambda: Spool(Bodies(folder / "bodies"), 1 << 30))


def run(folder: Path, mechanism: bytes, format_: Literal["json", "text"]) -> bytes:
    """Play all scripts; all that was written."""
    target, store = MemoryTarget(), MemoryWriter()
    reporter = Reporter(target, format_=format_, level="debug")
    config = Config.model_validate(
        {
            "hostname": "relay.test",
            "state": str(folder),
            "listener": [
                {"name": "pass", "upstream": "server"},
                {"name": "any", "auth": "any", "upstream": "server"},
                {"name": "off", "auth": "off", "upstream": "server"},
            ],
            "upstream": {"server": {"url": ["smtp://127.0.0.1"]}},
        }
    )

    async def main() -> None:
        for verdict in VERDICTS:
            for listener in config.listener:
                if listener.name != "pass" and verdict != "accepts":
                    continue  # upstream hears nothing of it
                for password in PASSWORDS:
                    for name, pieces in scripts(mechanism, password).items():
                        if listener.name == "any" and name == "another mechanism's":
                            continue  # LOGIN takes a password for a user there, and nobody can know
                        session = Session(mechanism, verdict)
                        relay = Relay(
                            config, reporter, dial=session.dial, adopt=no_sockets, recorder=recorder(store, folder)
                        )
                        await session.play(relay, listener, pieces, hello="EHLO" not in name)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return everything(folder, target, reporter, store)


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize("mechanism", ALL.decode().split())
def test_no_secret_is_written(
    tmp_path: Path, mechanism: str, format_: Literal["json", "text"], capfd: pytest.CaptureFixture[str]
) -> None:
    written = run(tmp_path, mechanism.encode(), format_)
    shown = capfd.readouterr()
    assert found(written + shown.out.encode() + shown.err.encode()) == []
    # The exchanges took place, and much was told of them.
    outcomes = {"accepted", "refused", "cancelled", "failed"}
    assert all(outcome.encode() in written for outcome in outcomes)
    assert USER in written
    assert written.count(b"<redacted ") > 100
    assert mechanism.encode() in written


@pytest.mark.parametrize("format_", ["json", "text"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_no_secret_of_ours_is_written(
    tmp_path: Path, mechanism: str, format_: Literal["json", "text"], monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = {"user": USER.decode(), "password_env": "SECRET_OF_OURS", "mechanism": mechanism}
    upstream = {"url": ["smtp://127.0.0.1"], "credentials": credentials}
    config = Config.model_validate({"hostname": "relay.test", "state": str(tmp_path), "upstream": {"server": upstream}})
    target, store = MemoryTarget(), MemoryWriter()
    reporter = Reporter(target, format_=format_, level="debug")

    async def main() -> None:
        for verdict in VERDICTS:
            for password in PASSWORDS:
                monkeypatch.setenv("SECRET_OF_OURS", password.decode())
                session = Session(mechanism.encode(), verdict)
                relay = Relay(config, reporter, dial=session.dial, adopt=no_sockets, recorder=recorder(store, tmp_path))
                await session.play(relay, config.listener[0], [b"MAIL FROM:<a@b.test>\r\n"], hello=True)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    written = everything(tmp_path, target, reporter, store)
    assert found(written) == []
    assert written.count(mechanism.encode()) >= len(VERDICTS)
    assert USER in written


@pytest.mark.parametrize("password", PASSWORDS)
def test_the_search_finds_what_is_planted(password: bytes) -> None:
    around = b'{"v":1,"line":"', b'"}'
    for mechanism in ALL.split():
        for said in responses(mechanism, password):
            if said not in (USER, b"") and not said.startswith(b"n,,n="):
                for planted in (base64.b64encode(said), base64.urlsafe_b64encode(said), said):
                    assert found(planted.join(around)), (mechanism, planted)
    assert found(json.dumps({"line": password.decode()}).encode())
    assert found(json.dumps({"line": password.decode()}, ensure_ascii=False).encode())
    assert found(b'{"what":"' + password.hex().encode())
