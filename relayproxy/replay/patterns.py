"""Commands of a dialog that was written by hand, where `*` in an address stands for anything: in its domain too, where SMTP has none.

Pure. Nobody says such a command again: it is compared alone (recorded.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.smtp.commands import Mail, Path, Rcpt, parse_command
from relayproxy.smtp.errors import RemoteProtocolError

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Command

#: What stands for `*` where a domain is read: letters alone.
_STAR: Final = b"zstarz"


def parse_pattern(line: bytes) -> Command:
    """As `parse_command`, without CRLF. Raises RemoteProtocolError."""
    try:
        return parse_command(line)
    except RemoteProtocolError:
        if b"*" not in line:
            raise
        command = parse_command(line.replace(b"*", _STAR))
        if not isinstance(command, Mail | Rcpt):
            raise
        local, domain = (part.replace(_STAR, b"*") for part in (command.path.local, command.path.domain))
        return msgspec.structs.replace(command, path=Path(local, domain))
