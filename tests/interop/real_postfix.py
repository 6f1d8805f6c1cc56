"""Postfix as an upstream, with its own folders: smtpd in clear, with STARTTLS and with TLS from the start, AUTH by
Cyrus SASL, queue, and delivery into a maildir.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

from real_cast import took_part
from real_process import SEARCH, folder, free_port, missing, program, started, until, wait_for_listener
from real_upstreams import KNOWN, SECRET, UNWANTED, USER, Arrived, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from real_certificates import Files
    from real_upstreams import Scheme


Trust = Literal["xclient", "xforward", "proxy", "proxy-tls"]
#: What each of them has in master.cf.
TRUST: Final[Mapping[Trust, str]] = {
    "xclient": "-o smtpd_authorized_xclient_hosts=127.0.0.1",
    "xforward": "-o smtpd_authorized_xforward_hosts=127.0.0.1",
    "proxy": "-o smtpd_upstream_proxy_protocol=haproxy",
    "proxy-tls": "-o smtpd_upstream_proxy_protocol=haproxy -o smtpd_tls_wrappermode=yes",
}


class PostfixUpstream:
    """Postfix with its own folders: smtpd, queue, and delivery into a maildir."""

    name = "postfix"
    unknown = "550 5.1.1"
    unwanted = "550 5.7.1"
    denied = "535 5.7.8"

    def __init__(self, work: Path, mechanisms: frozenset[str]) -> None:
        self.port = free_port()
        self.ports: Mapping[Scheme, int] = {"smtp": self.port, "smtp+starttls": self.port, "smtps": free_port()}
        #: By what they take: who the client is, from us.
        self.trusting: Mapping[Trust, int] = {trust: free_port() for trust in TRUST}
        #: Where it has a milter look at all mail, and where that is to be.
        self.filtered, self.milter = free_port(), free_port()
        self.mechanisms = mechanisms
        self.work = work
        self.maildir = work / "mail/inbox/new"

    def clear(self) -> None:
        """Before each test."""
        took_part("Postfix", "upstream")
        for path in self.maildir.glob("*"):
            path.unlink()

    def log(self) -> str:
        """All that it has logged so far; the file is made with the first line."""
        path = self.work / "maillog"
        return path.read_text() if path.exists() else ""

    def arrived(self) -> list[Arrived]:
        return [self._read(text) for text in self.stored()]

    def stored(self) -> list[bytes]:
        """Each file as it is, once the queue is empty: what is still in it has arrived too, but is nowhere to be read yet."""
        queues = [self.work / "spool" / name for name in ("incoming", "active", "deferred")]
        until(lambda: not any(path.is_file() for queue in queues for path in queue.rglob("*")), "an empty queue")
        return [path.read_bytes() for path in sorted(self.maildir.glob("*"))]

    @staticmethod
    def _read(text: bytes) -> Arrived:
        """Delivery puts three fields on top, and lines end with LF there; the file is one recipient's."""
        top = re.match(rb"Return-Path: <(.*)>\nX-Original-To: (.*)\n", text)
        assert top, text[:200]
        below = cut(text, b"Return-Path", b"X-Original-To", b"Delivered-To")
        content = cut(below, b"Received")
        received = below[: len(below) - len(content)].decode()
        tls = re.search(r"\(using (\S+) with cipher", received)
        user = re.search(r"\(Authenticated sender: (.*)\)", received)
        return Arrived(
            top[1].decode(), (top[2].decode(),), content.replace(b"\n", b"\r\n"), tls and tls[1], user and user[1]
        )


#: Who gets what a staging system sends; with plus tags too.
QA: Final = "qa@sink.test"
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
recipient_delimiter = +
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = static:all
in_flow_delay = 0
smtpd_tls_security_level = may
smtpd_tls_chain_files = {files.key}, {files.certificate}
smtpd_tls_received_header = yes
cyrus_sasl_config_path = {work}/conf/sasl
smtpd_sasl_authenticated_header = yes
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd -o smtpd_sasl_auth_enable={sasl}
127.0.0.1:{wrapped} inet n - n - - smtpd -o smtpd_sasl_auth_enable={sasl} -o smtpd_tls_wrappermode=yes
virtual   unix - n n - - virtual
"""
#: What every Postfix has.
SERVICES: Final = """\
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
tlsmgr    unix - - n 1000? 1 tlsmgr
proxymap  unix - - n - - proxymap
anvil     unix - - n - 1 anvil
error     unix - - n - - error
retry     unix - - n - - error
postlog   unix-dgram n - n - 1 postlogd
"""


SASL_CONF = """pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {work}/conf/sasldb
mech_list: {mechanisms}
"""
MECHANISMS = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"})


def needed() -> None:
    """Skip, where it is not there or cannot be started."""
    program("postconf")
    if os.geteuid() != 0:
        missing("Postfix's master runs as root only")


def installed(key: str) -> str:
    """What it was built with."""
    argv = [program("postconf"), "-dh", key]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def master(work: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Itself, in the foreground: `postfix start-fg` would check the system's own installation."""
    argv = [f"{installed('daemon_directory')}/master", "-c", str(work / "conf"), "-d"]
    return started(argv, work / "log", {"MAIL_CONFIG": str(work / "conf")})


@contextmanager
def postfix(files: Files) -> Iterator[PostfixUpstream]:
    """One for all tests: it takes most of a second to start, and refuses by recipient and subject.

    AUTH needs Cyrus SASL's saslpasswd2, which makes the file of passwords.
    """
    needed()
    daemons, commands, nobody = installed("daemon_directory"), installed("command_directory"), pwd.getpwnam("nobody")
    saslpasswd = shutil.which("saslpasswd2", path=SEARCH)
    with folder() as work:
        upstream = PostfixUpstream(work, MECHANISMS if saslpasswd else frozenset())
        lay_out(work)
        for name in ("mail", "mail/inbox", *(f"mail/inbox/{part}" for part in ("new", "cur", "tmp"))):
            (work / name).mkdir()
            shutil.chown(work / name, "nobody")
        (work / "conf/main.cf").write_text(
            MAIN_CF.format(
                work=work, daemons=daemons, commands=commands, uid=nobody.pw_uid, gid=nobody.pw_gid, files=files
            )
        )
        (work / "conf/mailboxes").write_text("".join(f"{address} inbox/\n" for address in (*KNOWN, QA)))
        (work / "conf/header_checks").write_text(f"/^{UNWANTED.decode()}/ REJECT not wanted here\n")
        sasl = "yes" if saslpasswd else "no"
        (work / "conf/master.cf").write_text(
            MASTER_CF.format(port=upstream.port, wrapped=upstream.ports["smtps"], sasl=sasl)
            + SERVICES
            + "".join(f"127.0.0.1:{upstream.trusting[trust]} inet n - n - - smtpd {TRUST[trust]}\n" for trust in TRUST)
            + f"127.0.0.1:{upstream.filtered} inet n - n - - smtpd -o smtpd_milters=inet:127.0.0.1:{upstream.milter}\n"
        )
        if saslpasswd:
            _make_passwords(saslpasswd, work)
        with master(work) as process:
            for port in (upstream.port, upstream.ports["smtps"]):
                wait_for_listener(process, port, work / "maillog")
            yield upstream


def _make_passwords(saslpasswd: str, work: Path) -> None:
    """Cyrus SASL's own database, which smtpd reads after it has become another user."""
    (work / "conf/sasl").mkdir()
    (work / "conf/sasl/smtpd.conf").write_text(SASL_CONF.format(work=work, mechanisms=" ".join(sorted(MECHANISMS))))
    user, _, realm = USER.partition("@")
    argv = [saslpasswd, "-p", "-c", "-f", f"{work}/conf/sasldb", "-u", realm, user]
    subprocess.run(argv, check=True, input=SECRET.encode(), stdout=subprocess.DEVNULL)
    shutil.chown(work / "conf/sasldb", "postfix")


def lay_out(work: Path) -> None:
    """The folders that Postfix expects, with the owners that it insists on."""
    for name in ("conf", "state", "spool"):
        (work / name).mkdir()
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
