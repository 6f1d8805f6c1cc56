"""Dovecot as an upstream, with folders of its own: LMTP into maildirs, and submission, which wants AUTH and has aiosmtpd behind it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from real_cast import took_part
from real_process import folder, free_port, missing, program, started, until, wait_for_listener
from real_upstreams import KNOWN, SECRET, USER, Arrived, aiosmtpd, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from real_certificates import Files
    from real_upstreams import AiosmtpdUpstream, Scheme

COMMON = """\
base_dir = {work}/run
state_dir = {work}/run
log_path = /dev/stderr
hostname = mx.test
listen = 127.0.0.1
protocols = {protocol}
default_login_user = nobody
default_internal_user = nobody
default_internal_group = nogroup
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:{work}/mail/%u
passdb {{
  driver = passwd-file
  args = {work}/users
}}
userdb {{
  driver = passwd-file
  args = {work}/users
}}
"""
LMTP = """\
ssl = no
service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
}}
"""
SUBMISSION = """\
ssl = yes
ssl_cert = <{files.certificate}
ssl_key = <{files.key}
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
login_log_format_elements = user=<%u> method=%m tls=<%k>
submission_relay_host = 127.0.0.1
submission_relay_port = {behind}
# who has failed once waits for no next time
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service submission-login {{
  inet_listener submission {{
    port = {ports[smtp]}
  }}
  inet_listener submissions {{
    port = {ports[smtps]}
    ssl = yes
  }}
}}
"""


class LmtpUpstream:
    """A mail store: each recipient has a maildir; a port, and a Unix socket."""

    name = "dovecot-lmtp"
    unknown = "550 5.1.1"

    def __init__(self, work: Path) -> None:
        self.port = free_port()
        self.socket = work / "run/lmtp"
        self._mail = work / "mail"

    def arrived(self) -> list[Arrived]:
        """It answers when the message is stored."""
        return [self._read(path, address) for address in KNOWN for path in sorted(self._mail.glob(f"{address}/new/*"))]

    @staticmethod
    def _read(path: Path, address: str) -> Arrived:
        """Delivery to one recipient puts three fields on top, and lines end with LF there."""
        text = path.read_bytes()
        top = re.match(rb"Return-Path: <(.*)>\nDelivered-To: (.*)\n", text)
        assert top, text[:300]
        assert top[2].decode() == address
        content = cut(text, b"Return-Path", b"Delivered-To", b"Received")
        return Arrived(top[1].decode(), (address,), content.replace(b"\n", b"\r\n"))


class SubmissionUpstream:
    """What it relays is what aiosmtpd behind it has got, whose refusals it passes on, with words of its own in front."""

    name = "dovecot-submission"
    unknown = "550 5.0.0 <nobody@sink.test> 5.1.1 nobody of that name"
    unwanted = "554 5.0.0 5.7.1 not wanted here"
    denied = "535 5.7.8"
    mechanisms = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"})

    def __init__(self, work: Path, behind: AiosmtpdUpstream) -> None:
        self.port = free_port()
        self.ports: Mapping[Scheme, int] = {"smtp": self.port, "smtp+starttls": self.port, "smtps": free_port()}
        self._log, self._behind = work / "log", behind

    def arrived(self) -> list[Arrived]:
        """Who logged in last has sent it: each test has its own."""
        logins = re.findall(r"Login: user=<(.*?)>(?:.* tls=<(TLSv\S*))?", self._log.read_text(errors="replace"))
        return [
            Arrived(
                one.sender, one.recipients, cut(one.content, b"Received"), logins[-1][1] or None, user=logins[-1][0]
            )
            for one in self._behind.arrived()
        ]


@contextmanager
def lmtp() -> Iterator[LmtpUpstream]:
    with _folder("lmtp") as work:
        took_part("Dovecot LMTP", "upstream")
        upstream = LmtpUpstream(work)
        (work / "conf").write_text((COMMON + LMTP).format(work=work, protocol="lmtp", port=upstream.port))
        with started([program("dovecot"), "-F", "-c", work / "conf"], work / "log") as process:
            wait_for_listener(process, upstream.port, work / "log")
            until(upstream.socket.exists, "a socket")
            yield upstream


@contextmanager
def submission(files: Files) -> Iterator[SubmissionUpstream]:
    with aiosmtpd() as behind, _folder("submission") as work:
        took_part("Dovecot submission", "upstream")
        upstream = SubmissionUpstream(work, behind)
        conf = (COMMON + SUBMISSION).format(
            work=work,
            protocol="submission",
            files=files,
            mechanisms=" ".join(sorted(upstream.mechanisms)).lower(),
            behind=behind.port,
            ports=upstream.ports,
        )
        (work / "conf").write_text(conf)
        with started([program("dovecot"), "-F", "-c", work / "conf"], work / "log") as process:
            for port in (upstream.port, upstream.ports["smtps"]):
                wait_for_listener(process, port, work / "log")
            yield upstream


@contextmanager
def _folder(protocol: str) -> Iterator[Path]:
    """The work folder, with who has a mailbox, and who may log in."""
    argv = [program("doveconf"), "-d", "-h", "libexec_dir"]
    programs = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    if not (Path(programs) / protocol).exists():
        missing(f"Dovecot's {protocol} is not installed")
    if os.geteuid() != 0:
        missing("Dovecot becomes other users, which needs root")
    with folder() as work:
        (work / "mail").mkdir()
        shutil.chown(work / "mail", "nobody")
        users = work / "users"
        users.write_text("".join(f"{user}:{{PLAIN}}{SECRET}::::::\n" for user in (*KNOWN, USER)))
        yield work
