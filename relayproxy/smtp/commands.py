"""Commands: what an SMTP client asks (RFC 5321 §4.1, RFC 1870, 3030, 3207, 3461, 4954, 6152, 6531).

`parse_command` makes a typed command of one line; `wire()` makes the one canonical line of it again.

Theory of operation: nearly all MAIL and RCPT lines have one form, which one anchored pattern takes apart; whatever it does not match goes
the careful way, which takes all that it takes and gives the same command (a test holds that). The careful way looks at the first octet, for verbs of
other protocols, then for control characters in the whole line, then at the verb, and only then at arguments, so that nothing is tokenised that could be two lines.

Invariants: what was judged is what is sent (PROTOCOL I4): `wire()` parses its own line before it lets go of it, so neither
a template nor a fault of ours can send a second command, address or parameter (attack 10). Local parts, domains and values leave octet for octet
as they came; verbs, spacing and source routes do not. No input raises anything but RemoteProtocolError, and its text quotes nothing of the line.
Whether a command may come now does not belong here (dialogue.py), nor which extensions were offered (capabilities.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from relayproxy.smtp import grammar, local_replies
from relayproxy.smtp import parameters as esmtp
from relayproxy.smtp.errors import LocalProtocolError, RemoteProtocolError
from relayproxy.smtp.parameters import Parameters, get

if TYPE_CHECKING:
    from collections.abc import Callable

    from relayproxy.smtp.replies import Reply

__all__ = [
    "Auth", "Bdat", "Command", "Data", "Ehlo", "Helo", "Help", "Lhlo", "Mail", "Noop", "Parameters", "Path", "Quit", "Rcpt", "Rset", "SaslCancel",
    "SaslResponse", "StartTls", "Vrfy", "get", "parse_command", "parse_response",
]  # fmt: skip


class Path(msgspec.Struct, frozen=True, gc=False):
    """A reverse-path or forward-path without its source route. `local` is as written, quotes included.

    The null reverse-path `<>` has both empty; `<postmaster>` has an empty domain.
    """

    local: bytes
    domain: bytes

    @classmethod
    def parse(cls, address: bytes) -> Path:
        """The path of an address, as `address` gives it back: no angle brackets, b"" for the null reverse-path.

        Raises ValueError, which says what was expected.
        """
        bracketed = b"<%b>" % address
        local, domain, end = grammar.path(bracketed)
        if end != len(bracketed):
            raise ValueError("expected one address and nothing behind it")
        return cls(local, domain)

    @property
    def address(self) -> bytes:
        """Without angle brackets; b"" for the null reverse-path."""
        return b"%b@%b" % (self.local, self.domain) if self.domain else self.local

    @property
    def is_ascii(self) -> bool:
        """Whether it may travel without SMTPUTF8 (RFC 6531 §3.1)."""
        return self.local.isascii() and self.domain.isascii()


class Command(msgspec.Struct, frozen=True, gc=False):
    """What all commands have: a verb in upper case, and `wire()`, the canonical line with its CRLF."""

    verb: ClassVar[str] = ""

    def wire(self) -> bytes:
        """The line that leaves. Raises LocalProtocolError where it would not be read as this very command."""
        return _ALONE[self.verb]


class Ehlo(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "EHLO"
    name: bytes

    def wire(self) -> bytes:
        return _sealed(self, b"EHLO " + self.name)


class Lhlo(Ehlo, frozen=True, gc=False):
    """LMTP's EHLO (RFC 2033 §4.1), which no client may say to us: to the dialogue it is the same."""

    def wire(self) -> bytes:
        return b"LHLO" + _sealed(Ehlo(self.name), b"EHLO " + self.name)[4:]


class Helo(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "HELO"
    name: bytes

    def wire(self) -> bytes:
        return _sealed(self, b"HELO " + self.name)


class Mail(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "MAIL"
    path: Path
    parameters: Parameters = ()

    def wire(self) -> bytes:
        return _sealed(self, b"MAIL FROM:<%b>%b" % (self.path.address, esmtp.written(self.parameters)))


class Rcpt(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "RCPT"
    path: Path
    parameters: Parameters = ()

    def wire(self) -> bytes:
        return _sealed(self, b"RCPT TO:<%b>%b" % (self.path.address, esmtp.written(self.parameters)))


class Data(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "DATA"


class Bdat(Command, frozen=True, gc=False):
    """RFC 3030. Its octets follow the line at once; they are no part of the command here."""

    verb: ClassVar[str] = "BDAT"
    size: int
    last: bool

    def wire(self) -> bytes:
        return _sealed(self, b"BDAT %d%b" % (self.size, b" LAST" if self.last else b""))


class Rset(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "RSET"


class Noop(Command, frozen=True, gc=False):
    """RFC 5321 §4.1.1.9: what stands behind it is ignored, and does not travel."""

    verb: ClassVar[str] = "NOOP"


class Vrfy(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "VRFY"
    argument: bytes

    def wire(self) -> bytes:
        return _sealed(self, b"VRFY " + self.argument)


class Help(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "HELP"


class Quit(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "QUIT"


class StartTls(Command, frozen=True, gc=False):
    verb: ClassVar[str] = "STARTTLS"


class Auth(Command, frozen=True, gc=False):
    """RFC 4954. `mechanism` in upper case; `initial` is the base64 initial response as it came (b"=" for an empty one), None where there is none."""

    verb: ClassVar[str] = "AUTH"
    mechanism: bytes
    initial: bytes | None = None

    def wire(self) -> bytes:
        return _sealed(self, b"AUTH %b%b" % (self.mechanism, b"" if self.initial is None else b" " + self.initial))

    def __repr__(self) -> str:
        return f"Auth({self.mechanism!r}, {_hidden(self.initial)})"


class SaslResponse(Command, frozen=True, gc=False):
    """RFC 4954 §4: a line of the client's behind 334. It has no verb on the wire; `octets` is base64 as it came, b"" for an empty one."""

    verb: ClassVar[str] = "RESPONSE"
    octets: bytes

    def wire(self) -> bytes:
        if grammar.BASE64.fullmatch(self.octets) is None or self.octets == b"=":
            raise LocalProtocolError("a SASL response cannot be sent: it is not base64")
        return self.octets + b"\r\n"

    def __repr__(self) -> str:
        return f"SaslResponse({_hidden(self.octets)})"


class SaslCancel(Command, frozen=True, gc=False):
    """RFC 4954 §4: the client gives the exchange up."""

    verb: ClassVar[str] = "CANCEL"

    def wire(self) -> bytes:
        return b"*\r\n"


def _hidden(octets: bytes | None) -> str:
    """Exceptions and debuggers show what a command is made of; this they do not (attack 21)."""
    return "None" if octets is None else f"<redacted {len(octets)}>"


def _sealed(command: Command, line: bytes) -> bytes:
    """The line with its CRLF, once it is sure that upstream can read nothing in it but this command (attack 10)."""
    try:
        if parse_command(line) == command:
            return line + b"\r\n"
        reason = "the line would be read as another command"
    except RemoteProtocolError as error:
        reason = error.what
    raise LocalProtocolError(f"{command.verb} cannot be sent: {reason}")


# The common form: a dot-string at a domain of plain labels, and SIZE, BODY or nothing behind it. All of it is in the grammar, and
# the line is shorter than a path may be.
_ADDRESS: Final = rb"<([" + grammar.ATEXT + rb".]++)@([A-Za-z0-9]++(?:[.-][A-Za-z0-9]++)*)>"
_COMMON_MAIL: Final = re.compile(
    rb"[Mm][Aa][Ii][Ll] [Ff][Rr][Oo][Mm]:" + _ADDRESS + rb"(?: ([Ss][Ii][Zz][Ee])=([0-9]{1,20}))?"
    rb"(?: ([Bb][Oo][Dd][Yy])=(8BITMIME|7BIT|8bitmime|7bit))?"
).fullmatch
_COMMON_RCPT: Final = re.compile(rb"[Rr][Cc][Pp][Tt] [Tt][Oo]:" + _ADDRESS).fullmatch


#: What the commands without arguments are on the wire.
_ALONE: Final = {verb: verb.encode("ascii") + b"\r\n" for verb in ("DATA", "HELP", "NOOP", "QUIT", "RSET", "STARTTLS")}
#: Lines that are a command as they stand, and always the same one.
_WHOLE: Final[dict[bytes, Command]] = {
    command.verb.encode("ascii"): command for command in (Data(), Rset(), Noop(), Quit(), Help(), StartTls())
}


def parse_command(line: bytes) -> Command:
    """The command on a line that came without its CRLF.

    Raises RemoteProtocolError with the reply that fits it (PROTOCOL §1.2); fatal where what came is no SMTP, or where nobody can
    know how many octets of it are no commands.
    """
    if (whole := _WHOLE.get(line)) is not None:
        return whole
    if len(line) <= grammar.MAX_PATH:
        if (match := _COMMON_RCPT(line)) is not None:
            local, domain = match.groups()
            return Rcpt(Path(local, domain))
        if (match := _COMMON_MAIL(line)) is not None:
            local, domain, size, octets, body, kind = match.groups()
            path = Path(local, domain)
            if size is None:
                return Mail(path) if body is None else Mail(path, ((body, kind),))
            return Mail(path, ((size, octets),) if body is None else ((size, octets), (body, kind)))
    return _parse_carefully(line)


def parse_response(line: bytes) -> SaslResponse | SaslCancel:
    """What a client answers to 334, on a line that came without its CRLF. Raises RemoteProtocolError."""
    if line == b"*":
        return SaslCancel()
    if line == b"=" or grammar.BASE64.fullmatch(line) is None:
        raise _error('expected base64, or "*" to cancel', local_replies.BAD_RESPONSE)
    return SaslResponse(line)


def _parse_carefully(line: bytes) -> Command:
    if not line:
        raise _error("expected a command, got an empty line", local_replies.UNKNOWN_COMMAND)
    if not line[:1].isalpha():
        raise _error("expected a command, got a line that begins with no letter", local_replies.NOT_SMTP, fatal=True)
    # RFC 5321 §4.1.1: servers should tolerate trailing white space.
    line = line.rstrip(b" \t")
    word, _, argument = line.partition(b" ")
    verb = word.upper()
    if verb in _OTHER_PROTOCOLS:
        raise _error("expected SMTP, got a verb of HTTP", local_replies.NOT_SMTP, fatal=True)
    try:
        if grammar.CONTROL.search(line):
            raise _error("expected no control characters in a command", local_replies.SYNTAX_ERROR)
        if (parse := _VERBS.get(verb)) is not None:
            return parse(argument.lstrip(b" "))
    except RemoteProtocolError as error:
        # RFC 3030 §2, attack 4: the octets of a chunk follow at once. How many is not known, so none may be taken for commands.
        error.fatal = _CHUNK.search(line) is not None
        raise
    if verb in _NEVER:
        raise _error("a command that is never carried out", local_replies.NOT_IMPLEMENTED)
    raise _error("expected a command that is known", local_replies.UNKNOWN_COMMAND)


def _error(what: str, reply: Reply, *, fatal: bool = False) -> RemoteProtocolError:
    return RemoteProtocolError(what, reply, fatal=fatal)


#: RFC 5321 §4.5.3.1.4: a command line has 512 octets, and no extension has made VRFY's longer.
_MAX_ARGUMENT: Final = 512 - len(b"VRFY \r\n")
# BDAT, at the beginning of a line of whoever ends lines with a bare CR or LF too.
_CHUNK: Final = re.compile(rb"(?:\A|[\r\n])[ \t]*BDAT", re.IGNORECASE)
_FROM: Final = re.compile(rb"FROM: *+", re.IGNORECASE)
_TO: Final = re.compile(rb"TO: *+", re.IGNORECASE)


def _mail(argument: bytes) -> Mail:
    """RFC 5321 §4.1.1.2: mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF."""
    start = _FROM.match(argument)
    if start is None:
        raise _error("expected MAIL FROM:<address>", local_replies.SYNTAX_ERROR)
    path, rest = _path(argument, start.end())
    return Mail(path, esmtp.parse(rest, esmtp.MAIL))


def _rcpt(argument: bytes) -> Rcpt:
    """RFC 5321 §4.1.1.3: rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF."""
    start = _TO.match(argument)
    if start is None:
        raise _error("expected RCPT TO:<address>", local_replies.SYNTAX_ERROR)
    path, rest = _path(argument, start.end())
    if not path.local:
        raise _error("expected a recipient, got the null path", local_replies.SYNTAX_ERROR)
    return Rcpt(path, esmtp.parse(rest, esmtp.RCPT))


def _path(argument: bytes, start: int) -> tuple[Path, bytes]:
    try:
        local, domain, end = grammar.path(argument, start)
    except ValueError as error:
        raise _error(str(error), local_replies.SYNTAX_ERROR) from None
    rest = argument[end:]
    if rest and not rest.startswith(b" "):
        raise _error("expected a space behind the path", local_replies.SYNTAX_ERROR)
    return Path(local, domain), rest


def _name(argument: bytes) -> bytes:
    if grammar.HELO_NAME.fullmatch(argument) is None:
        raise _error("expected one name of at most 255 printable ASCII characters", local_replies.SYNTAX_ERROR)
    return argument


def _bdat(argument: bytes) -> Bdat:
    """RFC 3030 §2: bdat-cmd ::= "BDAT" SP chunk-size [ SP end-marker ] CR LF;  end-marker ::= "LAST"."""
    size, separator, marker = argument.partition(b" ")
    marker = marker.lstrip(b" ").upper()
    if separator and marker != b"LAST":
        raise _error("expected LAST or nothing behind the size of the chunk", local_replies.PARAMETER_SYNTAX)
    try:
        return Bdat(grammar.number(size), bool(marker))
    except ValueError as error:
        raise _error(f"size of the chunk: {error}", local_replies.PARAMETER_SYNTAX) from None


def _vrfy(argument: bytes) -> Vrfy:
    """RFC 5321 §4.1.1.6: vrfy = "VRFY" SP String CRLF. Upstream knows what it takes there; any text passes."""
    if not argument:
        raise _error("expected a user or a mailbox", local_replies.SYNTAX_ERROR)
    if len(argument) > _MAX_ARGUMENT:
        raise _error(f"expected a user or a mailbox of at most {_MAX_ARGUMENT} octets", local_replies.LINE_TOO_LONG)
    try:
        grammar.utf8(argument)
    except ValueError as error:
        raise _error(str(error), local_replies.SYNTAX_ERROR) from None
    return Vrfy(argument)


def _auth(argument: bytes) -> Auth:
    """RFC 4954 §4: AUTH mechanism [initial-response]."""
    mechanism, separator, initial = argument.partition(b" ")
    if grammar.MECHANISM.fullmatch(mechanism) is None:
        raise _error("expected the name of a SASL mechanism", local_replies.SYNTAX_ERROR)
    initial = initial.lstrip(b" ")
    if separator and not (initial and grammar.BASE64.fullmatch(initial)):
        raise _error('expected base64 or "=" as the initial response', local_replies.SYNTAX_ERROR)
    return Auth(mechanism.upper(), initial if separator else None)


def _alone(command: Command) -> Callable[[bytes], Command]:
    def parse(argument: bytes) -> Command:
        if argument:
            raise _error(f"expected {command.verb} without an argument", local_replies.PARAMETER_SYNTAX)
        return command

    return parse


_VERBS: Final[dict[bytes, Callable[[bytes], Command]]] = {
    b"EHLO": lambda argument: Ehlo(_name(argument)),
    b"HELO": lambda argument: Helo(_name(argument)),
    b"MAIL": _mail,
    b"RCPT": _rcpt,
    b"DATA": _alone(Data()),
    b"BDAT": _bdat,
    b"RSET": _alone(Rset()),
    b"NOOP": lambda _: Noop(),
    b"VRFY": _vrfy,
    b"HELP": lambda _: Help(),
    b"QUIT": _alone(Quit()),
    b"STARTTLS": _alone(StartTls()),
    b"AUTH": _auth,
}

# Commands that exist and are never carried out nor passed on: they turn roles round (TURN), change who the client is
# (XCLIENT), or have a framing of their own (PROTOCOL §1.2).
_NEVER: Final = frozenset(b"ATRN BURL ETRN EXPN SAML SEND SOML TURN X-LINK2STATE XCLIENT XEXCH50 XFORWARD".split())
# RFC 9110 §9.1, RFC 5789, RFC 9113 §3.4 (PRI): a browser was talked into speaking to us (attack 29).
_OTHER_PROTOCOLS: Final = frozenset(b"CONNECT DELETE GET HEAD OPTIONS PATCH POST PRI PUT TRACE".split())
