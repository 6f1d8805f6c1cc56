"""What rules can know of a session and its mail, as far as it has come (DESIGN §6 "Conditions").

Whoever evaluates rules makes these: the relay of what passes, a [[test]] case and a backtest of what is written down. Invariants: facts do not change;
what rules did to the mail, and said of it, is in new ones (`Decision.facts`), so that each rule sees the mail as the rules before it left it, and
nothing that was said early is lost on the way to the end of the message.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relayproxy.mail.edits import HeaderEdit
    from relayproxy.mail.header import HeaderSection
    from relayproxy.mail.mime import Scanner
    from relayproxy.mail.pattern import Pattern

#: What `tls` says: those that a listener may take.
TLS_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")

#: Of a message: nothing of it goes upstream.
Fate = Literal["discard", "hold"]


class Stage(IntEnum):
    """When rules run, in order: as in milter, at the command of that name; eoh is the end of the header section, eom the end of the message."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    EOH = 5
    EOM = 6


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """One forward-path as the rules left it.

    `address` is text of what stands between the angle brackets. `origin`: which of the client's RCPTs it comes of, from 0 in the order of those that
    were not refused; -1 where a rule added it. `also`: those of identical recipients that this one stands for. `parameters`: that RCPT's, by keywords
    in upper case.
    """

    address: str
    origin: int = -1
    parameters: Mapping[str, str | None] = {}
    also: tuple[int, ...] = ()


class Noted(msgspec.Struct, frozen=True, gc=False):
    """An edit of the header section for when that is there. `rule` and `place`: who wants it, by name and which of its actions."""

    rule: str
    place: int
    edit: HeaderEdit


class BodyEdit(msgspec.Struct, frozen=True, gc=False):
    """`text`: the whole body is to be this plain text (LF or CRLF line ends); else attachments whose file name `strip` matches are to go."""

    text: str | None = None
    strip: Pattern | None = None


class Content(NamedTuple):
    """The message at its end: its size as received, text and attachments as the rules left them."""

    #: Octets, as RFC 1870 counts them.
    size: int
    #: Decoded text parts (mail/body_text.py).
    text: str = ""
    #: File names, decoded.
    attachments: tuple[str, ...] = ()
    #: Whether nothing in it could hide an attachment.
    complete: bool = True
    #: Those of the attachments that stand in a text, which no strip takes out (mail/body_edit.py).
    uuencoded: frozenset[str] = frozenset()

    @classmethod
    def of(cls, size: int, scanner: Scanner) -> Content:
        """Of a message of so many octets that was looked at to its end."""
        return cls(size, scanner.text, scanner.attachments, scanner.complete, scanner.uuencoded)


class Draws(Protocol):
    """What no rule can know by itself (DESIGN §6: "facts drawn by the caller so that rules stay pure"). `rule` is its name and the place of the condition in it."""

    def chance(self, rule: str) -> float:
        """From 0 to less than 1."""

    def first(self, rule: str, key: tuple[str, ...], *, times: int, within: float) -> bool:
        """Whether this key has come no more than so many times within so many seconds, this time included."""

    def every(self, rule: str, n: int) -> bool:
        """Whether this is the n-th time, and each n-th from there."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known; what is not yet known has its default.

    `client`: IP address, "" on a Unix socket. `tls`: version, None in clear. `user`: None where nobody has logged in, "" where the mechanism showed none.
    `parameters`: MAIL's, by keywords in upper case.
    """

    listener: str
    client: str
    session: str = ""
    helo: str = ""
    tls: str | None = None
    user: str | None = None
    transaction: str = ""
    sender: str = ""
    parameters: Mapping[str, str | None] = {}
    recipients: tuple[Recipient, ...] = ()
    #: From eoh on, as the rules left it.
    header: HeaderSection | None = None
    #: From eom on.
    content: Content | None = None
    # What rules have said so far, of the message or, at connect and helo, of all in the session.
    #: Before eoh: to be made when the header section is there, in order.
    edits: tuple[Noted, ...] = ()
    #: To be made at the end of the message, in order.
    body: tuple[BodyEdit, ...] = ()
    #: A rule said `accept`: no further one runs, but for those that run always.
    accepted: bool = False
    fate: Fate | None = None
    #: Why it is held.
    reason: str = ""
    #: The name of the upstream that it is to go to.
    route: str | None = None
    tags: tuple[str, ...] = ()
