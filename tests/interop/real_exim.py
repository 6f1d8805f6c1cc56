"""Exim as an upstream, from the package as it was unpacked, not installed: Debian lets only one MTA be installed.

It has a configuration of its own, and becomes the user that Debian compiled in.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from real_cast import took_part
from real_process import PEERS, folder, free_port, missing, started, until, wait_for_listener
from real_upstreams import KNOWN, SECRET, UNWANTED, USER, Arrived, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from real_certificates import Files
    from real_upstreams import Scheme

ACCOUNT = "Debian-exim"
CONF = """\
exim_path = {exim}
primary_hostname = mx.test
daemon_smtp_ports = {ports[smtp]} : {ports[smtps]}
tls_on_connect_ports = {ports[smtps]}
local_interfaces = 127.0.0.1
spool_directory = {work}/spool
log_file_path = {work}/spool/%slog
pid_file_path = {work}/spool/pid
keep_environment =
# without root from the beginning to the end: everything is in one mailbox
deliver_drop_privilege
message_size_limit = 64M
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts = *
tls_certificate = {files.certificate}
tls_privatekey = {files.key}
auth_advertise_hosts = *
acl_smtp_rcpt = recipient
acl_smtp_data = message
# what it knows of the connection, for arrived(); nothing is known but from here
received_header_text = Received: by mx.test (tls=$tls_in_ver user=$authenticated_id)

begin acl
recipient:
  accept recipients = {known}
  deny message = 5.1.1 nobody of that name
message:
  deny condition = ${{if match{{$h_Subject:}}{{{unwanted}}}}}
       message = 5.7.1 not wanted here
  accept

begin routers
all:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = {work}/spool/mail
  use_crlf
  message_prefix =
  message_suffix =
  return_path_add
  envelope_to_add
  user = {account}

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{secret}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${{if and{{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{secret}}}}}}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}}{{{secret}}}fail}}
  server_set_id = $auth1
"""


class EximUpstream:
    """A daemon and its one maildir."""

    name = "exim"
    unknown = "550 5.1.1 nobody of that name"
    unwanted = "550 5.7.1 not wanted here"
    denied = "535"
    mechanisms = frozenset({"PLAIN", "LOGIN", "CRAM-MD5"})

    def __init__(self, work: Path) -> None:
        self.port = free_port()
        self.ports: Mapping[Scheme, int] = {
            "smtp": self.port,
            "smtp+starttls": self.port,
            "smtps": free_port(),
        }
        self.spool = work / "spool"

    def arrived(self) -> list[Arrived]:
        """Once the queue is empty."""
        until(lambda: not any((self.spool / "input").rglob("*-[HJ]")), "an empty queue")
        return [self._read(path) for path in sorted((self.spool / "mail/new").glob("*"))]

    @staticmethod
    def _read(path: Path) -> Arrived:
        """Delivery puts three fields on top; of an old message nothing is left, each test has its own Exim."""
        text = path.read_bytes()
        top = re.match(
            rb"Return-path: <(.*)>\r\nEnvelope-to: (.*)\r\nReceived: by mx\.test \(tls=(.*) user=(.*)\)", text
        )
        assert top, text[:300]
        sender, recipients, tls, user = (value.decode() for value in top.groups())
        version = re.sub(r"^TLS(?=1)", "TLSv", tls)  # as the others write it
        content = cut(text, b"Return-path", b"Envelope-to", b"Received")
        return Arrived(sender, tuple(recipients.split(", ")), content, version or None, user or None)


def needed() -> Path:
    """The program, if all is there that it takes."""
    binary = PEERS / "exim/usr/sbin/exim4"
    if not binary.exists():
        missing(f"Exim is not unpacked in {PEERS / 'exim'}")
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        missing(f"Exim runs as {ACCOUNT}, and there is no such user")
    if os.geteuid() != 0:
        missing("Exim becomes another user, which needs root")
    return binary


@contextmanager
def exim(files: Files) -> Iterator[EximUpstream]:
    binary = needed()
    took_part("Exim", "upstream")
    with folder() as work:
        upstream = EximUpstream(work)
        (work / "conf").write_text(
            CONF.format(
                exim=binary,
                work=work,
                ports=upstream.ports,
                files=files,
                known=" : ".join(KNOWN),
                unwanted=UNWANTED.decode().partition(" ")[2],
                account=ACCOUNT,
                user=USER,
                secret=SECRET,
            )
        )
        upstream.spool.mkdir()
        shutil.chown(upstream.spool, ACCOUNT, ACCOUNT)
        with started([binary, "-C", work / "conf", "-bdf", "-q1h"], work / "log") as process:
            wait_for_listener(process, upstream.port, work / "log")
            wait_for_listener(process, upstream.ports["smtps"], work / "log")
            yield upstream
