"""Real servers that take mail, and what they took, byte for byte.

Each says what it would say without us too: an unknown recipient is refused at RCPT, a message that is not wanted at
the end of data. What a server adds on top of a message by itself is cut off before it is compared.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from real_process import folder, free_port, missing, program, started, until, wait_for_listener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiosmtpd.smtp import SMTP, Envelope, Session

KNOWN = ("jane@sink.test", "joe@sink.test")
UNKNOWN = "nobody@sink.test"
UNWANTED = b"Subject: unwanted"
Refuses = Literal["nothing", "recipient", "message"]


@dataclass(frozen=True)
class Arrived:
    """A message as upstream took it; lines end with CRLF."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class Upstream(Protocol):
    """A server under way; `unknown` and `unwanted` are how its refusals begin."""

    name: str
    port: int
    unknown: str
    unwanted: str

    def arrived(self) -> list[Arrived]:
        """Everything that was taken since the test began."""
        ...


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
    """aiosmtpd's Controller, in a thread of this process; it adds nothing."""

    name = "aiosmtpd"
    unknown = "550 5.1.1 nobody of that name"
    unwanted = "554 5.7.1 not wanted here"

    def __init__(self) -> None:
        self.port = free_port()
        self.messages: list[Arrived] = []

    def arrived(self) -> list[Arrived]:
        return list(self.messages)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name and arguments
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address == UNKNOWN:
            return self.unknown
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        if UNWANTED in content:
            return self.unwanted
        self.messages.append(Arrived(envelope.mail_from or "", tuple(envelope.rcpt_tos), content))
        return "250 2.0.0 taken"


@contextmanager
def aiosmtpd() -> Iterator[AiosmtpdUpstream]:
    try:
        from aiosmtpd.controller import Controller
    except ImportError:
        missing("aiosmtpd is not installed")
    upstream = AiosmtpdUpstream()
    options: dict[str, Any] = {"data_size_limit": 64 << 20}
    controller = Controller(upstream, hostname="127.0.0.1", port=upstream.port, server_hostname="mx.test", **options)
    controller.start()
    try:
        yield upstream
    finally:
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


class PostfixUpstream:
    """Postfix with its own folders: smtpd, queue, and delivery into a maildir."""

    name = "postfix"
    unknown = "550 5.1.1"
    unwanted = "550 5.7.1"

    def __init__(self, work: Path) -> None:
        self.port = free_port()
        self.work = work
        self.maildir = work / "mail/inbox/new"

    def clear(self) -> None:
        for path in self.maildir.glob("*"):
            path.unlink()

    def arrived(self) -> list[Arrived]:
        """Once the queue is empty: what is still in it has arrived too, but is nowhere to be read yet."""
        queues = (self.work / "spool" / name for name in ("incoming", "active", "deferred"))
        until(lambda: not any(path.is_file() for queue in queues for path in queue.rglob("*")), "an empty queue")
        return [self._read(path) for path in sorted(self.maildir.glob("*"))]

    def _read(self, path: Path) -> Arrived:
        """Delivery puts three fields on top, and lines end with LF there; the file is one recipient's."""
        text = path.read_bytes()
        top = re.match(rb"Return-Path: <(.*)>\nX-Original-To: (.*)\n", text)
        assert top, text[:200]
        content = cut(text, b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received")
        return Arrived(top[1].decode(), (top[2].decode(),), content.replace(b"\n", b"\r\n"))


MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {work}/spool
data_directory = {work}/state
daemon_directory = {daemons}
command_directory = {commands}
maillog_file = {work}/maillog
maillog_file_prefixes = {work}
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = mx.test
mydestination =
mynetworks =
alias_maps =
alias_database =
virtual_mailbox_domains = sink.test
virtual_mailbox_maps = texthash:{work}/conf/mailboxes
virtual_mailbox_base = {work}/mail
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
message_size_limit = 67108864
header_checks = regexp:{work}/conf/header_checks
# the fields of a message are nobody's to rewrite here
local_header_rewrite_clients =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = static:all
in_flow_delay = 0
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
proxymap  unix - - n - - proxymap
anvil     unix - - n - 1 anvil
virtual   unix - n n - - virtual
error     unix - - n - - error
retry     unix - - n - - error
postlog   unix-dgram n - n - 1 postlogd
"""


@contextmanager
def postfix() -> Iterator[PostfixUpstream]:
    """One for all tests: it takes most of a second to start, and refuses by recipient and subject."""
    postconf = program("postconf")
    if os.geteuid() != 0:
        missing("Postfix's master runs as root only")
    import pwd
    import subprocess

    def installed(key: str) -> str:
        return subprocess.run([postconf, "-dh", key], check=True, capture_output=True, text=True).stdout.strip()

    daemons, commands, nobody = installed("daemon_directory"), installed("command_directory"), pwd.getpwnam("nobody")
    with folder() as work:
        upstream = PostfixUpstream(work)
        _lay_out(work)
        (work / "conf/main.cf").write_text(
            MAIN_CF.format(
                work=work,
                daemons=daemons,
                commands=commands,
                uid=nobody.pw_uid,
                gid=nobody.pw_gid,
            )
        )
        (work / "conf/mailboxes").write_text("".join(f"{address} inbox/\n" for address in KNOWN))
        (work / "conf/header_checks").write_text(f"/^{UNWANTED.decode()}/ REJECT not wanted here\n")
        (work / "conf/master.cf").write_text(MASTER_CF.format(port=upstream.port))
        # master itself, in the foreground: `postfix start-fg` would check the system's own installation
        argv = [f"{daemons}/master", "-c", str(work / "conf"), "-d"]
        with started(argv, work / "log", {"MAIL_CONFIG": str(work / "conf")}) as process:
            wait_for_listener(process, upstream.port, work / "maillog")
            yield upstream


def _lay_out(work: Path) -> None:
    """The folders that Postfix expects, with the owners that it insists on."""
    for name in ("conf", "state", "mail/inbox/new", "mail/inbox/cur", "mail/inbox/tmp", "spool"):
        (work / name).mkdir(parents=True)
    for path in (work / "mail", *(work / "mail").rglob("*")):
        shutil.chown(path, "nobody")
    shutil.chown(work / "state", "postfix")
    queues = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace")
    for name in (*queues, "private"):
        (work / "spool" / name).mkdir(mode=0o700)
        shutil.chown(work / "spool" / name, "postfix")
    (work / "spool/pid").mkdir()
    for name, mode in (("public", 0o710), ("maildrop", 0o730)):
        (work / "spool" / name).mkdir()
        (work / "spool" / name).chmod(mode)
        shutil.chown(work / "spool" / name, "postfix", "postdrop")
