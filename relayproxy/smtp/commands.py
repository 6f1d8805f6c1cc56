"""Commands: what an SMTP client asks (RFC 5321 §4.1 and the extensions relayproxy knows).

`parse_command` makes a typed command of one line; `wire()` makes the one canonical line of it again (PROTOCOL I4:
what was judged is what is sent). Whether a command may come now does not belong here (dialogue.py), nor which
extensions were offered (capabilities.py).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

#: ESMTP parameters as they came: keyword in the peer's own spelling, value as octets, None where there is no "=".
Parameters = tuple[tuple[bytes, bytes | None], ...]


class Path(msgspec.Struct, frozen=True, gc=False):
    """A reverse-path or forward-path without its source route. `local` is as written, quotes included.

    The null reverse-path `<>` has both empty; `<postmaster>` has an empty domain.
    """

    local: bytes
    domain: bytes


class Command(msgspec.Struct, frozen=True, gc=False):
    """What all commands have: a verb in upper case, and `wire()`, the canonical line with its CRLF."""

    verb: ClassVar[str] = ""


class Ehlo(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "EHLO"
    name: bytes


class Helo(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "HELO"
    name: bytes


class Mail(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "MAIL"
    path: Path
    parameters: Parameters = ()


class Rcpt(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "RCPT"
    path: Path
    parameters: Parameters = ()


class Data(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "DATA"


class Bdat(Command, frozen=True, gc=False):
    """RFC 3030. Parsed, so that its octets can be framed; offered from issue 4 on."""

    verb: ClassVar[str] = "BDAT"
    size: int
    last: bool


class Rset(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "RSET"


class Noop(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "NOOP"


class Vrfy(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "VRFY"
    argument: bytes


class Help(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "HELP"


class Quit(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "QUIT"


class StartTls(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "STARTTLS"


class Auth(Command, frozen=True, gc=False):
    """RFC 4954. `initial` is the base64 initial response as it came (b"=" for an empty one), None where there is none."""

    verb: ClassVar[str] = "AUTH"
    mechanism: bytes
    initial: bytes | None = None
