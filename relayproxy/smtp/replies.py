"""Replies: what an SMTP server answers (RFC 5321 §4.2, enhanced status codes RFC 2034, 3463).

A `Reply` is the parse; what leaves is made from it (`Reply.wire`), never copied: CR, LF and other control octets
cannot get through, lines over 512 octets are split (PROTOCOL §1.6), each line shows the same code.
Deciding what a reply means for the dialogue does not belong here (dialogue.py).
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from relayproxy.smtp.errors import RemoteProtocolError

Origin = Literal["upstream", "proxy", "rule"]

# RFC 3463 §2: class "." subject "." detail, at the start of the text and followed by a space or the end
_ENHANCED = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?: |$)")


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A whole reply: three digits and one or more lines of text (octets; no CR, LF; enhanced code included).

    `origin` says who made it: the upstream server, relayproxy itself (smtp/local_replies.py), or a rule.
    """

    code: int
    lines: tuple[bytes, ...] = (b"",)
    origin: Origin = "upstream"
