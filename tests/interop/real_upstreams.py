"""Real servers that take mail, and what they took, byte for byte; here the protocol of all, aiosmtpd and smtp-sink.

Each says what it would say without us too: an unknown recipient is refused at RCPT, a message that is not wanted at
the end of data, a wrong password at AUTH. What a server adds on top of a message by itself is cut off before it is
compared.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import shutil
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from real_cast import took_part
from real_process import folder, free_port, missing, program, started, until, wait_for_listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
    from real_certificates import Files

KNOWN = ("jane@sink.test", "joe@sink.test")
UNKNOWN = "nobody@sink.test"
UNWANTED = b"Subject: unwanted"
#: Who may log in, and the password (for OAuth: the token), which must be found nowhere.
USER = "app@sink.test"
SECRET = "Open.Sesame~7-times"  # noqa: S105 - it opens nothing else
Refuses = Literal["nothing", "recipient", "message"]
Scheme = Literal["smtp", "smtp+starttls", "smtps"]


@dataclass(frozen=True)
class Arrived:
    """A message as upstream took it; lines end with CRLF. `tls` is the version it saw, `user` who had logged in."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    tls: str | None = None
    user: str | None = None


class Upstream(Protocol):
    """A server under way; `unknown` and `unwanted` are how its refusals begin, `port` is the one in clear."""

    name: str
    port: int
    unknown: str
    unwanted: str

    def arrived(self) -> list[Arrived]:
        """Everything that was taken since the test began."""
        ...


class SecureUpstream(Upstream, Protocol):
    """One that can do TLS, at a port for each way to begin it, and AUTH; `denied` is how it refuses a wrong password."""

    ports: Mapping[Scheme, int]
    mechanisms: frozenset[str]
    denied: str


def wait_for(upstream: Upstream, count: int) -> list[Arrived]:
    """What has arrived, as soon as it is so much (servers deliver after they have answered); more is shown too."""
    return until(
        lambda: found if len(found := upstream.arrived()) >= count else None, f"{count} messages at {upstream.name}"
    )


def cut(content: bytes, *names: bytes) -> bytes:
    """Without these fields, which must be the first, in this order."""
    for name in names:
        field = re.match(rb"%b:[^\n]*\n(?:[ \t][^\n]*\n)*" % re.escape(name), content)
        assert field, f"expected {name!r} first, found {content[:200]!r}"
        content = content[field.end() :]
    return content


class AiosmtpdUpstream:
    """aiosmtpd's Controller, in a thread of this process; it adds nothing.

    It brings PLAIN and LOGIN; the others are its hooks `auth_NAME`.
    """

    name = "aiosmtpd"
    unknown = "550 5.1.1 nobody of that name"
    unwanted = "554 5.7.1 not wanted here"
    denied = "535 5.7.8"
    mechanisms = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"})

    def __init__(self, port: int | None = None) -> None:
        self.port, wrapped = port or free_port(), free_port()
        self.ports: Mapping[Scheme, int] = {"smtp": self.port, "smtp+starttls": self.port, "smtps": wrapped}
        self.messages: list[Arrived] = []
        #: What is put off when it comes for the first time: each recipient's address, or each message; and what was.
        self.puts_off: Refuses = "nothing"
        self.put_off: list[str] = []

    def arrived(self) -> list[Arrived]:
        return list(self.messages)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name and arguments
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address == UNKNOWN:
            return self.unknown
        if self.puts_off == "recipient" and self._is_new(address):
            return "451 4.3.0 come again"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        if UNWANTED in content:
            return self.unwanted
        if self.puts_off == "message" and self._is_new(
            re.findall(r"(?mi)^Message-ID: (.*)$", content.decode("latin-1"))[0]
        ):
            return "451 4.3.0 come again"
        assert server.transport
        tls = server.transport.get_extra_info("ssl_object")
        user = session.login_data and bytes(session.login_data).decode()
        sender = (envelope.mail_from or "").removeprefix("<>")
        message = Arrived(sender, tuple(envelope.rcpt_tos), content, tls and tls.version(), user)
        self.messages.append(message)
        return "250 2.0.0 taken"

    def _is_new(self, what: str) -> bool:
        if what in self.put_off:
            return False
        self.put_off.append(what)
        return True

    def authenticated(self, user: bytes, *, right: bool) -> AuthResult:
        from aiosmtpd.smtp import AuthResult, LoginPassword

        if right and user == USER.encode():
            return AuthResult(success=True, auth_data=LoginPassword(user, b""))
        return AuthResult(success=False, handled=False)

    def login(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        """What PLAIN and LOGIN ask."""
        return self.authenticated(data.login, right=data.password == SECRET.encode())

    async def auth_CRAM__MD5(self, server: SMTP, _args: list[str]) -> AuthResult:  # noqa: N802
        challenge = f"<{secrets.token_hex(8)}@mx.test>".encode()
        user, _, digest = self._answer(await server.challenge_auth(challenge)).rpartition(b" ")
        expected = hmac.new(SECRET.encode(), challenge, "md5").hexdigest()
        return self.authenticated(user, right=digest == expected.encode())

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        return await self._bearer(server, args, rb"user=([^\x01]*)\x01auth=Bearer (.*)\x01\x01")

    async def auth_OAUTHBEARER(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        return await self._bearer(
            server, args, rb"n,a=([^,]*),\x01(?:host=[^\x01]*\x01|port=[^\x01]*\x01)*auth=Bearer (.*)\x01\x01"
        )

    async def _bearer(self, server: SMTP, args: list[str], form: bytes) -> AuthResult:
        """A refusal is told in JSON first; the client answers that, and only then hears 535 (RFC 7628 §3.2.3)."""
        from base64 import b64decode

        response = b64decode(args[1]) if len(args) > 1 else self._answer(await server.challenge_auth(""))
        found = re.fullmatch(form, response)
        user, token = found.groups() if found else (b"", b"")
        result = self.authenticated(user, right=token == SECRET.encode())
        if not result.success:
            await server.challenge_auth('{"status":"invalid_token","schemes":"bearer"}')
        return result

    @staticmethod
    def _answer(response: object) -> bytes:
        """aiosmtpd has answered by itself where there is none."""
        return response if isinstance(response, bytes) else b""


@contextmanager
def aiosmtpd(files: Files | None = None, port: int | None = None) -> Iterator[AiosmtpdUpstream]:
    """With a certificate it does TLS, and AUTH in clear too; `port` is the one in clear, if it is to be a certain one."""
    try:
        from aiosmtpd.controller import Controller
    except ImportError:
        missing("aiosmtpd is not installed")
    took_part("aiosmtpd", "upstream")
    upstream = AiosmtpdUpstream(port)
    options: dict[str, Any] = {"data_size_limit": 64 << 20, "server_hostname": "mx.test"}
    controllers = []
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.certificate, files.key)
        options |= {"authenticator": upstream.login, "auth_require_tls": False}
        wrapped = upstream.ports["smtps"]
        controllers.append(Controller(upstream, "127.0.0.1", wrapped, ssl_context=context, **options))
        options["tls_context"] = context
    controllers.append(Controller(upstream, "127.0.0.1", upstream.port, **options))
    try:
        for controller in controllers:
            controller.start()
        yield upstream
    finally:
        for controller in controllers:
            controller.stop()


class SinkUpstream:
    """Postfix's smtp-sink, one file a message; it writes the envelope in front and an empty line behind.

    A message that it refuses at the end of data has its file too.
    """

    name = "smtp-sink"
    unknown = "550 5.1.1 nobody of that name"
    unwanted = "554 5.7.1 not wanted here"

    def __init__(self, dumps: Path) -> None:
        self.port = free_port()
        self.dumps = dumps

    def arrived(self) -> list[Arrived]:
        return [message for path in sorted(self.dumps.iterdir()) if (message := self._read(path))]

    def _read(self, path: Path) -> Arrived | None:
        text = path.read_bytes()
        envelope, separator, rest = text.partition(b"\nReceived: ")
        if not separator or not rest.endswith(b"\n\n"):
            return None  # still being written
        content = cut(b"Received: " + rest, b"Received").removesuffix(b"\n")
        lines = envelope.decode().splitlines()
        addresses = {
            key: tuple(re.sub(r".*<(.*)>.*", r"\1", line) for line in lines if line.startswith(f"X-{key}-Args:"))
            for key in ("Mail", "Rcpt")
        }
        return Arrived(addresses["Mail"][0], addresses["Rcpt"], content.replace(b"\n", b"\r\n"))


@contextmanager
def smtp_sink(refuses: Refuses = "nothing", *, slow: bool = False) -> Iterator[SinkUpstream]:
    """A fresh one: what it refuses, and whether it thinks for a second after the final dot, is said when it starts."""
    path = program("smtp-sink")
    took_part("smtp-sink", "upstream")
    with folder() as work:
        dumps = work / "dumps"
        dumps.mkdir()
        user = []
        if os.geteuid() == 0:  # it demands another user then
            shutil.chown(dumps, "nobody")
            user = ["-u", "nobody"]
        upstream = SinkUpstream(dumps)
        refusal = {
            "nothing": [],
            "recipient": ["-f", "RCPT", "-B", upstream.unknown],
            "message": ["-f", ".", "-B", upstream.unwanted],
        }[refuses]
        log = work / "log"
        wait = ["-W", ".:1"] if slow else []
        argv = [
            path,
            "-4",
            *user,
            *refusal,
            *wait,
            "-h",
            "mx.test",
            "-d",
            f"{dumps}/",
            f"127.0.0.1:{upstream.port}",
            "200",
        ]
        with started(argv, log) as process:
            wait_for_listener(process, upstream.port, log)
            yield upstream
