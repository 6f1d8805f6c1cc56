"""The cast: every program that the tests speak with, what it plays, which version it says that it is; and the table of what passed.

Whoever is started or called says so (took_part). With RELAYPROXY_INTEROP_TABLE=1 the run that ends writes the table into README.md, between two marks;
test_table.py holds that nobody is missing there.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from real_process import PEERS, find

if TYPE_CHECKING:
    from collections.abc import Callable

Plays = Literal["client", "client by relayhost", "upstream", "in front, and behind", "scanner", "reader"]
README: Final = Path(__file__).with_name("README.md")
BEGIN: Final = "<!-- made by the run: begin -->\n"
END: Final = "<!-- made by the run: end -->\n"


def _said(pattern: str, *argv: str | Path) -> Callable[[], str]:
    """What a program says of itself; the output that tells its version may be anywhere, with any exit status."""

    def ask() -> str:
        name, *arguments = map(str, argv)
        done = subprocess.run([find(name) or name, *arguments], check=False, capture_output=True, timeout=60)
        text = (done.stdout + done.stderr).decode(errors="replace")
        found = re.search(pattern, text)
        assert found, f"expected {pattern!r} from {argv}, got {text[:500]!r}"
        return found[1]

    return ask


def _aiosmtpd() -> str:
    import aiosmtpd

    return aiosmtpd.__version__


_NODE: Final = PEERS / "node/node_modules"
_OPENSSL: Final = _said(r"OpenSSL (\S+)", "openssl", "version")
_POSTFIX: Final = _said(r"(\S+)", "postconf", "-dh", "mail_version")
_EXIM: Final = _said(r"version (\S+)", PEERS / "exim/usr/sbin/exim4", "--version")
_DOVECOT: Final = _said(r"(\S+)", "dovecot", "--version")
#: In the order of the table.
CAST: Final[dict[tuple[str, Plays], Callable[[], str]]] = {
    ("smtplib", "client"): platform.python_version,
    ("openssl s_client", "client"): _OPENSSL,
    ("swaks", "client"): _said(r"version (\S+)", "swaks", "--version"),
    ("curl", "client"): _said(r"curl (\S+)", "curl", "--disable", "--version"),
    ("msmtp", "client"): _said(r"version (\S+)", "msmtp", "--version"),
    ("nodemailer", "client"): _said(r"(\S+)", "node", "-p", f'require("{_NODE}/nodemailer/package.json").version'),
    ("s-nail", "client"): _said(r"v(\S+[0-9])", "s-nail", "-:/", "-V"),
    ("smtp-source", "client"): _POSTFIX,
    ("Postfix", "client by relayhost"): _POSTFIX,
    ("Exim", "client by relayhost"): _EXIM,
    ("Postfix", "upstream"): _POSTFIX,
    ("Exim", "upstream"): _EXIM,
    ("OpenSMTPD", "upstream"): _said(r"OpenSMTPD (\S+)", PEERS / "opensmtpd/usr/sbin/smtpd", "-h"),
    ("Haraka", "upstream"): _said(r"Version: (\S+)", "node", _NODE / "Haraka/bin/haraka", "-v"),
    ("aiosmtpd", "upstream"): _aiosmtpd,
    ("Dovecot LMTP", "upstream"): _DOVECOT,
    ("Dovecot submission", "upstream"): _DOVECOT,
    ("smtp-sink", "upstream"): _POSTFIX,
    ("stunnel", "upstream"): _said(r"stunnel (\S+)", "stunnel", "-version"),
    ("haproxy", "in front, and behind"): _said(r"version (\S+)", "haproxy", "-v"),
    ("testssl.sh", "scanner"): _said(r"testssl\s+([0-9]\S*)", "testssl", "--version"),
    ("tshark", "reader"): _said(r"TShark \(Wireshark\) ([0-9.]+[0-9])", "tshark", "--version"),
}


class Tried(NamedTuple):
    """A test that ended, in which somebody took part."""

    area: str
    passed: bool


_now: set[tuple[str, Plays]] = set()
_tried: defaultdict[tuple[str, Plays], list[Tried]] = defaultdict(list)


def took_part(program: str, plays: Plays) -> None:
    """In the test that runs now; who is not in the cast gets no part."""
    assert (program, plays) in CAST, f"{program} as {plays} is not in CAST: it would be missing in the table"
    _now.add((program, plays))


def begins() -> None:
    _now.clear()


def ended(area: str, *, passed: bool) -> None:
    for part in _now:
        _tried[part].append(Tried(area, passed))


def table() -> str:
    """Of all that ended so far."""
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    lines = [f"On {system}, with Python {platform.python_version()}:", ""]
    lines += ["| program | version | plays | tests in which it took part | passed |", "|---|---|---|---|---|"]
    lines += [_row(program, plays, _tried[program, plays]) for program, plays in CAST]
    return "\n".join(lines) + "\n"


def _row(program: str, plays: Plays, tried: list[Tried]) -> str:
    if not tried:
        return f"| {program} | | {plays} | none | did not take part |"
    areas = Counter(one.area for one in tried)
    told = ", ".join(f"{area} {count}" for area, count in sorted(areas.items()))
    failed = sum(not one.passed for one in tried)
    version = CAST[program, plays]()
    return f"| {program} | {version} | {plays} | {told} | {f'{failed} FAILED' if failed else 'all'} |"


def split() -> tuple[str, str, str]:
    """README.md: what stands before the table, the table, what stands behind."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    old, end, behind = rest.partition(END)
    assert begin, f"expected {BEGIN!r} in {README}"
    assert end, f"expected {END!r} in {README}"
    return before + begin, old, end + behind


def write() -> None:
    before, _, behind = split()
    README.write_text(before + table() + behind, encoding="utf-8")
