"""The two ways to break SMTP: we did (local), or the peer did (remote).

A remote error carries the reply that fits it, so that whoever speaks to the client need not invent one,
and says whether the connection can go on. Mapping from trio and OpenSSL errors does not belong here (net/, tls/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relayproxy.smtp.replies import Reply


class ProtocolError(Exception):
    """Someone broke the protocol."""


class LocalProtocolError(ProtocolError):
    """We were about to break it: a fault of ours, never the peer's. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke it.

    `reply` is what the client hears: for a client's fault the answer to its command, for an upstream's
    fault the answer to whatever was outstanding. With `fatal` the connection to the peer that broke the protocol
    cannot go on (framing is lost, RFC 5321 §7.8), without it only this command failed.
    """

    def __init__(self, what: str, reply: Reply, *, fatal: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.reply = reply
        self.fatal = fatal
