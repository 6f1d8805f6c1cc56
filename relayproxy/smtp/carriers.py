"""XCLIENT and XFORWARD, the commands that tell a server who the client is (Postfix's XCLIENT_README and XFORWARD_README, PROTOCOL §1.10).

We say them and never hear them: of a client's both are commands that are never carried out (commands.py). Values are kept decoded and
travel as xtext.

Invariants: `wire()` reads its own line before it lets go of it, as strictly as any server would, so that no value, and a client chooses some,
becomes another attribute, another value or another line (attack 10: `+0A` too); a line has at most 512 octets.
What is said of whom does not belong here, nor when (relay/carriers.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from relayproxy.smtp import grammar
from relayproxy.smtp.commands import Command
from relayproxy.smtp.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Names in upper case, values as they are meant.
Attributes = tuple[tuple[bytes, bytes], ...]

#: What stands for a value that is not known.
UNAVAILABLE: Final = b"[UNAVAILABLE]"
#: With CRLF (RFC 5321 §4.5.3.1.4).
MAX_LINE: Final = 512
#: Octets of a line that are no attribute: the longer verb and CRLF.
_FRAME: Final = len(b"XFORWARD\r\n")

# xclient-command = XCLIENT 1*( SP attribute-name"="attribute-value )
# attribute-value = xtext
_ATTRIBUTE: Final = re.compile(rb"([A-Z]++)=([^= ]++)")


class Xclient(Command, frozen=True, gc=False):
    """From now on this connection is the client's; the server answers 220 and begins anew."""

    verb: ClassVar[str] = "XCLIENT"
    attributes: Attributes

    def wire(self) -> bytes:
        return _sealed(self.verb, self.attributes)


class Xforward(Command, frozen=True, gc=False):
    """The transaction that comes next is the client's."""

    verb: ClassVar[str] = "XFORWARD"
    attributes: Attributes

    def wire(self) -> bytes:
        return _sealed(self.verb, self.attributes)


def xforwards(attributes: Attributes) -> Iterator[Xforward]:
    """As many commands as it takes; a value that fits no line is not available."""
    line: list[tuple[bytes, bytes]] = []
    length = _FRAME
    for name, value in attributes:
        said = value if _FRAME + _length(name, value) <= MAX_LINE else UNAVAILABLE
        if length + _length(name, said) > MAX_LINE:
            yield Xforward(tuple(line))
            line, length = [], _FRAME
        line.append((name, said))
        length += _length(name, said)
    yield Xforward(tuple(line))


def _length(name: bytes, value: bytes) -> int:
    return len(name) + len(grammar.to_xtext(value)) + len(b" =")


def _sealed(verb: str, attributes: Attributes) -> bytes:
    """The line with its CRLF, once it is sure that a server can read nothing in it but these attributes (attack 10)."""
    words = [b"%b=%b" % (name, grammar.to_xtext(value)) for name, value in attributes]
    line = b" ".join([verb.encode("ascii"), *words])
    if len(line) + 2 > MAX_LINE:
        raise LocalProtocolError(f"{verb} cannot be sent: the line would have {len(line) + 2} octets")
    try:
        if _read(line) == attributes:
            return line + b"\r\n"
        reason = "the line would be read as something else"
    except ValueError as error:
        reason = str(error)
    raise LocalProtocolError(f"{verb} cannot be sent: {reason}")


def _read(line: bytes) -> Attributes:
    """The attributes on a line, as a server understands them. Raises ValueError."""
    read: dict[bytes, bytes] = {}
    for word in line.split(b" ")[1:]:
        match = _ATTRIBUTE.fullmatch(word)
        if match is None or match[1] in read:
            raise ValueError("expected attributes of the form NAME=value, each once")
        read[match[1]] = grammar.xtext(match[2])
    if not read:
        raise ValueError("expected an attribute")
    return tuple(read.items())
