"""Postfix and Exim as clients: MTAs that take mail from anybody here, and hand all of it to relayproxy, their relayhost.

They keep in their queues what is put off, and try again when they are told to: of themselves they would wait for an hour.
"""

from __future__ import annotations

import re
import shutil
import smtplib
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import real_exim
import real_postfix
from real_cast import took_part
from real_process import folder, free_port, started, until, wait_for_listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from real_clients import Tls


class Sender(Protocol):
    """An MTA under way: it takes mail on `port`."""

    port: int

    def queued(self) -> bool:
        """Whether anything is left that it has not got rid of."""
        ...

    def put_off(self) -> bool:
        """Whether it has tried all that is queued, and keeps it for later."""
        ...

    def try_again(self) -> None:
        """All that is queued, now."""
        ...

    def pipelined(self) -> bool:
        """Whether it has said MAIL, RCPT and DATA in one go, by its own log."""
        ...


class StartSender(Protocol):
    """Starts one in front of a port of this machine; with `tls`, as its `ca` and localhost's certificate allow."""

    def __call__(self, relay: int, tls: Tls = "off", ca: Path | None = None) -> AbstractContextManager[Sender]: ...


def hand_over(sender: Sender, mail_from: str, recipients: Sequence[str], message: bytes) -> None:
    """It takes the message, for all of them."""
    with smtplib.SMTP("127.0.0.1", sender.port, local_hostname="app.test", timeout=60) as smtp:
        assert not smtp.sendmail(mail_from, recipients, message, mail_options=["BODY=8BITMIME"])


def empty(sender: Sender, *, again: bool = False) -> None:
    """Until it has got rid of all; `again`: whatever is put off meanwhile is tried again."""

    def done() -> bool:
        if again and sender.put_off():
            sender.try_again()
        return not sender.queued()

    until(done, "an empty queue", 60)


POSTFIX_MAIN: Final = """\
compatibility_level = 3.6
queue_directory = {work}/spool
data_directory = {work}/state
daemon_directory = {daemons}
command_directory = {commands}
maillog_file = {work}/maillog
maillog_file_prefixes = {work}
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = mta.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_header_rewrite_clients =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
# one address: where a name has two, what is put off at the first is tried at the second at once
relayhost = [127.0.0.1]:{relay}
smtp_tls_security_level = {level}
smtp_tls_CAfile = {ca}
smtp_tls_servername = localhost
smtp_tls_secure_cert_match = localhost
# not while a test is on
minimal_backoff_time = 1h
queue_run_delay = 1h
"""
# "-v" has the client of SMTP log its dialogue.
POSTFIX_MASTER: Final = """\
127.0.0.1:{port} inet n - n - - smtpd
smtp      unix - - n - - smtp -v
"""


class PostfixSender:
    def __init__(self, work: Path) -> None:
        self.port = free_port()
        self._work = work

    def _files(self, *queues: str) -> bool:
        return any(path.is_file() for queue in queues for path in (self._work / "spool" / queue).rglob("*"))

    def queued(self) -> bool:
        return self._files("maildrop", "incoming", "active", "deferred")

    def put_off(self) -> bool:
        return self._files("deferred") and not self._files("maildrop", "incoming", "active")

    def try_again(self) -> None:
        argv = [f"{real_postfix.installed('command_directory')}/postqueue", "-c", str(self._work / "conf"), "-f"]
        subprocess.run(argv, check=True, timeout=60)

    def pipelined(self) -> bool:
        said = re.findall(r"([<>]) 127\.0\.0\.1\[127\.0\.0\.1\]:\d+: (\S+)", (self._work / "maillog").read_text())
        words = " ".join(word if mark == ">" else mark for mark, word in said)
        return re.search(r"MAIL (RCPT )+DATA <", words) is not None


@contextmanager
def postfix(relay: int, tls: Tls = "off", ca: Path | None = None) -> Iterator[Sender]:
    real_postfix.needed()
    took_part("Postfix", "client by relayhost")
    with folder() as work:
        sender = PostfixSender(work)
        real_postfix.lay_out(work)
        directories = {name: real_postfix.installed(f"{name[:-1]}_directory") for name in ("daemons", "commands")}
        level = "none" if tls == "off" else "secure"
        main = POSTFIX_MAIN.format(work=work, relay=relay, level=level, ca=ca or "", **directories)
        (work / "conf/main.cf").write_text(main)
        (work / "conf/master.cf").write_text(POSTFIX_MASTER.format(port=sender.port) + real_postfix.SERVICES)
        with real_postfix.master(work) as process:
            wait_for_listener(process, sender.port, work / "maillog")
            yield sender


EXIM: Final = """\
exim_path = {exim}
primary_hostname = mta.test
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
disable_ipv6
spool_directory = {work}/spool
log_file_path = {work}/spool/%slog
log_selector = +pipelining
pid_file_path = {work}/spool/pid
keep_environment =
deliver_drop_privilege
message_size_limit = 64M
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
acl_smtp_rcpt = accept

begin routers
all:
  driver = manualroute
  route_list = * localhost byname
  self = send
  transport = relayhost

begin transports
relayhost:
  driver = smtp
  port = {relay}
  allow_localhost
  hosts_require_tls = {tls}
  hosts_avoid_tls = {clear}
  tls_verify_certificates = {ca}
  tls_verify_cert_hostnames = *

begin retry
* * F,2h,1h
"""


class EximSender:
    def __init__(self, work: Path, binary: Path) -> None:
        self.port = free_port()
        self._binary, self._conf, self._spool = binary, work / "conf", work / "spool"

    def _ids(self) -> set[str]:
        return {path.name[:-2] for path in (self._spool / "input").rglob("*-H")}

    def queued(self) -> bool:
        return bool(self._ids())

    def put_off(self) -> bool:
        """Each has its line of deferral, and nobody delivers; a run of the queue waits for what it begins."""
        return self._ids() <= set(re.findall(r"^\S+ \S+ (\S+) == ", self._log(), re.MULTILINE))

    def _log(self) -> str:
        path = self._spool / "mainlog"
        return path.read_text() if path.exists() else ""

    def try_again(self) -> None:
        subprocess.run([self._binary, "-C", self._conf, "-qff"], check=True, timeout=60)

    def pipelined(self) -> bool:
        """`L` in a line of delivery."""
        return re.search(r"^\S+ \S+ \S+ [=-]> .* L( |$)", self._log(), re.MULTILINE) is not None


@contextmanager
def exim(relay: int, tls: Tls = "off", ca: Path | None = None) -> Iterator[Sender]:
    binary = real_exim.needed()
    took_part("Exim", "client by relayhost")
    with folder() as work:
        sender = EximSender(work, binary)
        asked: Mapping[str, str] = {"tls": "", "clear": "*"} if tls == "off" else {"tls": "*", "clear": ""}
        conf = EXIM.format(exim=binary, work=work, port=sender.port, relay=relay, ca=ca or "", **asked)
        (work / "conf").write_text(conf)
        (work / "spool").mkdir()
        shutil.chown(work / "spool", real_exim.ACCOUNT, real_exim.ACCOUNT)
        with started([binary, "-C", work / "conf", "-bdf", "-q1h"], work / "log") as process:
            wait_for_listener(process, sender.port, work / "log")
            yield sender


SENDERS: Final[dict[str, StartSender]] = {"postfix": postfix, "exim": exim}
