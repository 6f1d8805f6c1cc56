"""What a protocol tells of the octets that pass it: those that came, as what they were read, and those that were said.

Who records needs to know what is mail data, what may be a secret, and what was never read; the protocols know, by their state (attack 21:
redaction by protocol state), and tell it here. A protocol without a tape tells nobody. Keeping anything does not belong here (record/tape.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

#: As what octets were read or said: plain lines; MAIL, which ends what an AUTH began; a command whose argument is free text; AUTH; a line of a SASL
#: exchange, a challenge or a response; the reply that ends one; a line that was refused, whatever it is; octets that were never read.
Kind = Literal["plain", "mail", "free", "auth", "sasl", "sasl-end", "refused", "unread"]


class Tape(Protocol):
    """One leg's."""

    def came(self, octets: bytes) -> None:
        """The peer sent them; as what they are read is told later."""

    def read(self, unread: int, kind: Kind = "plain") -> None:
        """All that came, but for the last `unread` octets and what was told of already, are whole lines of this kind."""

    def read_data(self, unread: int, *, chunk: bool = False, dots: Sequence[int] = ()) -> None:
        """They are mail data: of DATA, with `dots` that stuffing would not have put there (offsets from its beginning), or a piece of a `chunk`."""

    def said(self, octets: bytes, kind: Kind = "plain") -> None:
        """They are about to be sent: lines of this kind."""

    def said_data(self, octets: bytes, *, end: bool = False) -> None:
        """They are mail data; `end`: its last line, the dot."""
