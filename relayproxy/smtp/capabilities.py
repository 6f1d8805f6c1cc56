"""Capabilities: what a server says to EHLO, and what relayproxy may say in front of it (RFC 5321 §4.1.1.1, PROTOCOL §1.4).

Invariants: the list that a client hears is made anew from an allow-list, never copied: an extension that changes the framing or the envelope
(XCLIENT, BURL, ...) and that no code of ours understands cannot be offered. Nothing is passed on whose extension was not offered
(`check`). The order is our own, so that equal servers give equal answers.
When EHLO is said again does not belong here, nor the largest message (the relay compares SIZE).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relayproxy.smtp import grammar, local_replies
from relayproxy.smtp.commands import Auth, Mail, Rcpt, Vrfy, get
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.replies import Reply

if TYPE_CHECKING:
    from relayproxy.smtp.commands import Command, Parameters, Path

# RFC 5321 §4.1.1.1
#   ehlo-line      = ehlo-keyword *( SP ehlo-param )
#   ehlo-keyword   = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
#   ehlo-param     = 1*(%d33-126)
# Servers end lines in a space, or write two between parameters; `AUTH=LOGIN` is how Outlook Express once wanted it.
_LINE: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*+)(?:[ =] *+([!-~]++(?: ++[!-~]++)*)?)? *+")

# Which extension brings a parameter: RFC 1870 §3, RFC 6152 §2, RFC 6531 §3.1, RFC 3461 §3, RFC 4954 §3.
_MAIL_EXTENSIONS: Final = {
    b"SIZE": b"SIZE",
    b"BODY": b"8BITMIME",
    b"SMTPUTF8": b"SMTPUTF8",
    b"RET": b"DSN",
    b"ENVID": b"DSN",
    b"AUTH": b"AUTH",
}
_RCPT_EXTENSIONS: Final = {b"NOTIFY": b"DSN", b"ORCPT": b"DSN"}


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """Extensions by keyword in upper case, with what stands behind each (b"" where nothing does). Never changed once made."""

    keywords: dict[bytes, bytes] = {}  # msgspec gives each its own

    @classmethod
    def parse(cls, reply: Reply) -> Capabilities:
        """What a 250 to EHLO lists. Lines that break the grammar are skipped.

        The first line is the server's name. Of a keyword that stands twice the first counts, but mechanisms of AUTH are joined.
        """
        keywords: dict[bytes, bytes] = {}
        for line in reply.lines[1:]:
            match = _LINE.fullmatch(line)
            if match is None:
                continue
            keyword, argument = match[1].upper(), b" ".join((match[2] or b"").split())
            if b"=" in line[: len(keyword) + 1] and keyword != b"AUTH":
                continue
            if keyword == b"AUTH":
                words = keywords.get(keyword, b"").split() + argument.upper().split()
                argument = b" ".join(dict.fromkeys(words))
            elif keyword in keywords:
                continue
            keywords[keyword] = argument
        return cls(keywords)

    def __contains__(self, keyword: bytes) -> bool:
        return keyword in self.keywords

    @property
    def size(self) -> int | None:
        """The largest message in octets; None where the server names no limit of its own (RFC 1870 §4: no number, or 0)."""
        try:
            return grammar.number(self.keywords.get(b"SIZE", b"")) or None
        except ValueError:
            return None

    @property
    def mechanisms(self) -> bytes:
        """Of AUTH, in upper case and divided by spaces; b"" where there is none."""
        return self.keywords.get(b"AUTH", b"")

    def offer(
        self, *, message_bytes: int, margin: int, mechanisms: bytes = b"", starttls: bool = False, adds: bool = True
    ) -> Capabilities:
        """What a client may be offered in front of a server with these (PROTOCOL §1.4).

        `message_bytes` is our own limit, `margin` the octets that a message may grow on its way through us; `mechanisms` are AUTH's: they
        depend on more than the server (relay/auth.py). `starttls` is ours, whatever the server has: TLS ends here. `adds`: so is what we can keep by
        ourselves; else nothing is offered that this server has not.
        """
        # PIPELINING and SIZE are ours to keep, whatever the server has. A SIZE of 0 would mean "no limit".
        size = message_bytes if self.size is None else max(1, min(message_bytes, self.size - margin))
        offered = {b"PIPELINING": b"", b"SIZE": b"%d" % size}
        if b"ENHANCEDSTATUSCODES" in self:
            offered[b"ENHANCEDSTATUSCODES"] = b""
        if b"8BITMIME" in self:
            offered[b"8BITMIME"] = b""
            # RFC 6531 §3.1: a server with SMTPUTF8 must have 8BITMIME; without it the header section could not travel.
            if b"SMTPUTF8" in self:
                offered[b"SMTPUTF8"] = b""
        if b"DSN" in self:
            offered[b"DSN"] = b""
        if mechanisms:
            offered[b"AUTH"] = mechanisms
        offered[b"CHUNKING"] = b""  # chunks become mail data here, so that it needs nothing of the server (RFC 3030)
        if not adds:
            for keyword in (b"PIPELINING", b"SIZE", b"CHUNKING"):
                if keyword not in self:
                    del offered[keyword]
        if starttls:
            offered[b"STARTTLS"] = b""
        return Capabilities(offered)

    def covered_by(self, other: Capabilities) -> bool:
        """Whether `other` has all of these, and takes messages as big, if a size was offered at all (to HELO none is): a client that was offered these may be served by it."""
        return (
            self.keywords.keys() <= other.keywords.keys()
            and (
                other.size is None
                or b"SIZE" not in self.keywords
                or (self.size is not None and self.size <= other.size)
            )
            and (not self.mechanisms or set(self.mechanisms.split()) <= set(other.mechanisms.split()))
        )

    def to_reply(self, hostname: bytes) -> Reply:
        """The 250 that says these to a client: ehlo-ok-rsp = "250-" Domain [ SP ehlo-greet ] CRLF and a line each.

        Raises LocalProtocolError for a name that has no place on a line.
        """
        if grammar.HELO_NAME.fullmatch(hostname) is None:
            raise LocalProtocolError("the answer to EHLO begins with a host's name")
        lines = [keyword + b" " + argument if argument else keyword for keyword, argument in self.keywords.items()]
        return Reply(250, (hostname, *lines), origin="proxy")


#: Verbs of the commands that `check` may refuse.
CHECKED: Final = frozenset({"MAIL", "RCPT", "VRFY", "AUTH"})


def check(command: Command, offered: Capabilities, *, smtputf8: bool = True) -> None:
    """Raise RemoteProtocolError where a command needs what the client was not offered, or did not ask for.

    504 for a mechanism of AUTH, 555 for a parameter, 550 (MAIL) or 553 (RCPT, VRFY) for an address that is not ASCII (RFC 6531 §3.5). `smtputf8` says
    whether the MAIL of this transaction had that parameter; MAIL itself shows it.
    """
    if type(command) is Rcpt:
        path, parameters = command.path, command.parameters
        if parameters or not path.is_ascii:
            utf8 = smtputf8 and b"SMTPUTF8" in offered
            _check(path, parameters, _RCPT_EXTENSIONS, offered, utf8=utf8, refusal=local_replies.UTF8_RECIPIENT_REFUSED)
    elif type(command) is Mail:
        path, parameters = command.path, command.parameters
        if parameters or not path.is_ascii:
            utf8 = b"SMTPUTF8" in offered and get(parameters, b"SMTPUTF8") is not None
            _check(path, parameters, _MAIL_EXTENSIONS, offered, utf8=utf8, refusal=local_replies.UTF8_SENDER_REFUSED)
    elif isinstance(command, Vrfy) and not command.argument.isascii() and b"SMTPUTF8" not in offered:
        # RFC 6531 §3.7.4.2 has a parameter for it too, which only upstream can tell from the text.
        raise RemoteProtocolError(
            "an address that is not ASCII, without SMTPUTF8", local_replies.UTF8_RECIPIENT_REFUSED
        )
    elif isinstance(command, Auth) and command.mechanism not in offered.mechanisms.split():
        raise RemoteProtocolError("a mechanism that was not offered", local_replies.MECHANISM_UNKNOWN)


def _check(
    path: Path,
    parameters: Parameters,
    extensions: dict[bytes, bytes],
    offered: Capabilities,
    *,
    utf8: bool,
    refusal: Reply,
) -> None:
    for name, value in parameters:
        extension = extensions.get(name.upper())
        if extension is None or extension not in offered.keywords:
            raise RemoteProtocolError("a parameter that was not offered", local_replies.UNKNOWN_PARAMETER)
        # RFC 6533 §3: an ORCPT in UTF-8 travels with SMTPUTF8 only.
        if not (utf8 or value is None or value.isascii()):
            raise RemoteProtocolError("a value that is not ASCII, without SMTPUTF8", local_replies.PARAMETER_SYNTAX)
    if not (utf8 or path.is_ascii):
        raise RemoteProtocolError("an address that is not ASCII, without SMTPUTF8", refusal)
