"""What a recording must not have as its server's answer: what a relay in front of that server said in its place (DESIGN §8).

Known by its words, wherever the client heard it. What a relay says of a client's syntax or of a limit is none of it: the mock of the recording says that by itself again.
Pure. What becomes of such a session does not belong here (cli/cassettes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relayproxy.replay.compare import shown
from relayproxy.smtp import local_replies

if TYPE_CHECKING:
    from relayproxy.replay.script import Script
    from relayproxy.smtp.replies import Reply

_IN_PLACE: Final = frozenset(
    (reply.code, reply.lines)
    for reply in (
        local_replies.AUTH_UNAVAILABLE,
        local_replies.CANNOT_RECORD,
        local_replies.CANNOT_VERIFY,
        local_replies.CREDENTIALS_REFUSED,
        local_replies.DISK_FULL,
        local_replies.GUARDED,
        local_replies.IDENTITY_NOT_TAKEN,
        local_replies.INTERNAL_ERROR,
        local_replies.MISCONFIGURED,
        local_replies.RECORD_FAILED,
        local_replies.SHUTTING_DOWN,
        local_replies.UPSTREAM_GONE,
        local_replies.UPSTREAM_LOST,
        local_replies.UPSTREAM_SLOW,
        local_replies.UPSTREAM_TLS_FAILED,
        local_replies.UPSTREAM_UNREACHABLE,
        local_replies.UPSTREAM_UNRESOLVED,
        local_replies.UPSTREAM_VIOLATION,
        local_replies.UPSTREAM_WITHOUT_TLS,
    )
)


def untrue(script: Script) -> str | None:
    """The first answer that no server gave, in words; None: there is none."""
    heard = [(step.said, step.reply) for step in script.steps if step.reply is not None]
    heard += [("AUTH", login.reply) for login in script.logins]
    return next(
        (f"{shown(reply)} to {said} is the relay's, not the server's" for said, reply in heard if _is_ours(reply)),
        None,
    )


def _is_ours(reply: Reply) -> bool:
    return (reply.code, reply.lines) in _IN_PLACE
