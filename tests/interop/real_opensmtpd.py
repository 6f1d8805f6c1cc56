"""OpenSMTPD as an upstream, from the package as it was unpacked: its paths and users are compiled in, so each has a root of its own, which
holds the programs, the libraries that they need, and a list of users of which the machine knows nothing.

It delivers into one maildir. What is not wanted is refused by a filter, a script of the shell. It is met in clear, and so without AUTH: what Debian 12
has (6.8.0p2) cannot do a handshake with OpenSSL 3 ("missing private key", OpenSMTPD's issue 1171).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from real_cast import took_part
from real_process import PEERS, folder, free_port, missing, program, started, until, wait_for_listener
from real_upstreams import KNOWN, UNWANTED, Arrived, cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CONF = """\
smtp max-message-size 64M
table known {{ {known} }}
table box {{ "@" = "inbox" }}
filter "unwanted" proc-exec "/usr/bin/unwanted"
listen on 127.0.0.1 port {port} hostname "mx.test" filter "unwanted"
action "keep" maildir "/mail/box" virtual <box>
match from any for rcpt-to <known> action "keep"
"""
#: smtpd-filters(7), behind two lines that say what is not wanted, and the answer to it: it sees each line of the mail, gives it on, and has the last word
#: before the message is taken.
FILTER = r"""
unwanted=
while IFS= read -r line; do
  case $line in
  'config|ready') printf 'register|filter|smtp-in|%s\n' data-line commit; echo 'register|ready' ;;
  'filter|'*'|data-line|'*)
    rest=${line#*'|data-line|'} session=${rest%%'|'*}
    rest=${rest#*'|'} token=${rest%%'|'*} text=${rest#*'|'}
    case $text in "$subject"*) unwanted="$unwanted $session" ;; esac
    printf 'filter-dataline|%s|%s|%s\n' "$session" "$token" "$text" ;;
  'filter|'*'|commit|'*)
    rest=${line#*'|commit|'} session=${rest%%'|'*}
    rest=${rest#*'|'} token=${rest%%'|'*}
    case $unwanted in *$session*) verdict="reject|$answer" ;; *) verdict=proceed ;; esac
    printf 'filter-result|%s|%s|%s\n' "$session" "$token" "$verdict" ;;
  esac
done
"""
OWNERS: Final = {"root": 0, "opensmtpd": 901, "opensmtpq": 902, "inbox": 903}


class OpensmtpdUpstream:
    """A daemon in its root, and its one maildir."""

    name = "opensmtpd"
    unknown = "550 Invalid recipient"
    unwanted = "554 5.7.1 not wanted here"

    def __init__(self, root: Path) -> None:
        self.port = free_port()
        self.root = root

    def arrived(self) -> list[Arrived]:
        """Once the queue is empty."""
        spool = self.root / "var/spool/smtpd"
        kept = ("incoming", "queue", "temporary")
        until(lambda: not any(p.is_file() for name in kept for p in (spool / name).rglob("*")), "an empty queue")
        return [self._read(path) for path in sorted((self.root / "mail/box/new").glob("*"))]

    @staticmethod
    def _read(path: Path) -> Arrived:
        """Delivery puts three fields on top, and lines end with LF there; the file is one recipient's."""
        text = path.read_bytes()
        top = re.match(rb"Return-Path: <(.*)>\nDelivered-To: (.*)\n", text)
        assert top, text[:300]
        content = cut(text, b"Return-Path", b"Delivered-To", b"Received")
        return Arrived(top[1].decode(), (top[2].decode(),), content.replace(b"\n", b"\r\n"))


@contextmanager
def opensmtpd() -> Iterator[OpensmtpdUpstream]:
    unpacked = PEERS / "opensmtpd"
    if not (unpacked / "usr/sbin/smtpd").exists():
        missing(f"OpenSMTPD is not unpacked in {unpacked}")
    if os.geteuid() != 0:
        missing("OpenSMTPD gets a root of its own, which needs root")
    took_part("OpenSMTPD", "upstream")
    with folder() as work:
        root = work / "root"
        upstream = OpensmtpdUpstream(root)
        _lay_out(root, unpacked)
        known = ", ".join(f'"{address}"' for address in KNOWN)
        (root / "etc/smtpd.conf").write_text(CONF.format(port=upstream.port, known=known))
        what = f"#!/bin/sh\nsubject='{UNWANTED.decode()}'\nanswer='{upstream.unwanted}'\n"
        (root / "usr/bin/unwanted").write_text(what + FILTER)
        (root / "usr/bin/unwanted").chmod(0o755)
        log = work / "log"
        with started([program("chroot"), root, "/usr/sbin/smtpd", "-d"], log) as process:
            wait_for_listener(process, upstream.port, log)
            yield upstream


def _lay_out(root: Path, unpacked: Path) -> None:
    """The folders that it insists on, and nothing of the machine's but the shell and libraries."""
    root.mkdir()
    for name in ("etc", "mail", "run", "tmp", "usr/lib", "usr/lib64", "var/lib/opensmtpd/empty", "var/spool/smtpd"):
        (root / name).mkdir(parents=True)
    shutil.copytree(unpacked / "usr", root / "usr", dirs_exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "var/run").symlink_to("../run")
    shell = program("sh")
    shutil.copy(shell, root / "usr/bin/sh")
    for library in _libraries([shell, root / "usr/sbin/smtpd", *(root / "usr/libexec/opensmtpd").iterdir()]):
        to = root / library.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, to)
    passwd = "".join(f"{name}:x:{number}:{number}::/mail:/bin/sh\n" for name, number in OWNERS.items())
    (root / "etc/passwd").write_text(passwd)
    (root / "etc/group").write_text("".join(f"{name}:x:{number}:\n" for name, number in OWNERS.items()))
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "var/spool/smtpd").chmod(0o711)
    os.chown(root / "mail", OWNERS["inbox"], OWNERS["inbox"])


def _libraries(programs: Iterable[str | Path]) -> set[str]:
    """What they are linked with, the loader too."""
    told = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"(/lib\S+) \(0x", told))
