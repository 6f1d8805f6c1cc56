"""Every reply that relayproxy writes itself, on one page (DESIGN sentence 2, PROTOCOL §1.12).

RFC 5321 §4.2.3 and §4.3.2 give the codes, RFC 3463 and RFC 5248 the enhanced codes. What is not here comes from upstream.

Invariants: the class of the enhanced code is the first digit of the reply code (RFC 2034 §4); a greeting, HELO, EHLO
and 3yz carry none. 5yz only where the command or the message is itself at fault, 4yz for every fault of ours, of the network or of
upstream (PROTOCOL I8): the client tries again, and nothing bounces. Texts are one line of printable ASCII that helps the reader and names no
host (but our own, where the protocol asks for it), no path and nothing that the peer sent (but what a recording has, in `not_recorded`).
When each is given does not belong here.
"""

from __future__ import annotations

from typing import Final

from relayproxy.smtp.replies import Reply


def _reply(code: int, text: bytes) -> Reply:
    return Reply(code, (text,), origin="proxy")


# fmt: off
# 2yz and 3yz (RFC 5321 §4.3.2).

HELP: Final = _reply(214, b"2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT; see RFC 5321")  # §4.1.1.8
TLS_READY: Final = _reply(220, b"2.0.0 Ready to start TLS")  # RFC 3207 §4
QUIT_OK: Final = _reply(221, b"2.0.0 Closing connection")  # §4.1.1.10
AUTHENTICATED: Final = _reply(235, b"2.7.0 Authentication successful")  # RFC 4954 §6, where we take whatever comes
RESET_OK: Final = _reply(250, b"2.0.0 Reset")  # §4.1.1.5, where upstream has no transaction
NOOP_OK: Final = _reply(250, b"2.0.0 OK")  # §4.1.1.9, at capture
SENDER_OK: Final = _reply(250, b"2.1.0 Sender OK")  # §4.1.1.2, at capture and behind a closed gate
RECIPIENT_OK: Final = _reply(250, b"2.1.5 Recipient OK")  # §4.1.1.3, at capture and behind a closed gate
CHUNK_OK: Final = _reply(250, b"2.0.0 Chunk received")  # RFC 3030 §2, to all but the last
UNRECORDED_OK: Final = _reply(250, b"2.0.0 OK, although it is not in the recording")  # RFC 5321 §4.2.3, in place of a recorded server
CANNOT_VERIFY: Final = _reply(252, b"2.5.0 Cannot verify the user, but will take mail for it")  # §3.5.3, at capture and under a guard
START_MAIL: Final = _reply(354, b"Start mail input; end with <CRLF>.<CRLF>")  # §4.1.1.4, at capture and behind a closed gate

# fmt: on


def greeting(hostname: bytes) -> Reply:
    """220: RFC 5321 §4.2, `"220 " (Domain / address-literal) [ SP textstring ]`; "ESMTP" is what old clients look for."""
    return _reply(220, hostname + b" ESMTP relayproxy")


def hello(hostname: bytes) -> Reply:
    """250 to HELO: RFC 5321 §4.1.1.1, `"250" SP Domain [ SP ehlo-greet ]`. EHLO's is `Capabilities.to_reply`."""
    return _reply(250, hostname)


def challenge(octets: bytes) -> Reply:
    """334: RFC 4954 §4, a challenge in base64 (RFC 4954 §8: `continue-req = "334" SP [base64] CRLF`), where we take whatever comes."""
    return _reply(334, octets)


def captured(identity: str) -> Reply:
    """250 to end of data where we ourselves keep the message (DESIGN: `capture:`), with the id under which it is found."""
    return _reply(250, b"2.0.0 Captured as " + identity.encode("ascii"))


def held(identity: str) -> Reply:
    """250 to end of data where a rule said `hold`, with the id under which it is released."""
    return _reply(250, b"2.0.0 Held as " + identity.encode("ascii"))


def discarded(identity: str) -> Reply:
    """250 to end of data where a rule said `discard`: to the client it is like any other."""
    return _reply(250, b"2.0.0 OK, message " + identity.encode("ascii"))


def not_recorded(nearest: str | None) -> Reply:
    """554 where a recording answers (`relayproxy mock`) and this is not in it, with what is there that is most like it."""
    there = "nothing is left of it" if nearest is None else f"nearest to it: {nearest}"
    return _reply(554, b"5.5.0 Not in the recording; " + there.encode("ascii", "backslashreplace"))


# fmt: off
# 421: the service ends here; the connection is closed behind each of these (RFC 5321 §3.8, §4.2.3; PROTOCOL I6).

#: Never written: it stands where the connection ends without a reply, since the recorded server's did (`relayproxy mock`).
HUNG_UP: Final = _reply(421, b"4.4.2 The connection ended without a reply")
SHUTTING_DOWN: Final = _reply(421, b"4.3.2 Service is shutting down; try again later")  # DESIGN §9.8
TOO_MANY_SESSIONS: Final = _reply(421, b"4.3.2 Too many connections; try again later")  # §1.13, attack 18
CANNOT_RECORD: Final = _reply(421, b"4.3.2 Nothing can be recorded now; try again later")  # §4 S0 DF
UPSTREAM_UNREACHABLE: Final = _reply(421, b"4.4.1 The mail server behind this relay cannot be reached; try again later")  # §1.1(2)
UPSTREAM_SLOW: Final = _reply(421, b"4.4.2 The mail server behind this relay does not answer; try again later")  # §1.1(2), §4 S0
UPSTREAM_UNRESOLVED: Final = _reply(421, b"4.4.3 The mail server behind this relay cannot be found; try again later")  # §1.1(2)
UPSTREAM_GONE: Final = _reply(421, b"4.4.2 The mail server behind this relay has closed the connection; try again later")  # §4 S1
UPSTREAM_WITHOUT_TLS: Final = _reply(421, b"4.7.4 The mail server behind this relay offers no TLS; try again later")  # §1.9, attack 8
UPSTREAM_TLS_FAILED: Final = _reply(421, b"4.7.5 TLS with the mail server behind this relay failed; try again later")  # §1.9, attacks 7, 8
CLIENT_IDLE: Final = _reply(421, b"4.4.2 Timeout: nothing was heard for too long")  # RFC 5321 §4.5.3.2.7
DATA_TOO_SLOW: Final = _reply(421, b"4.4.2 Timeout: the message comes too slowly")  # §1.13, attack 17
TOO_MANY_ERRORS: Final = _reply(421, b"4.7.0 Too many errors")  # §1.1(4), RFC 5321 §7.8
TOO_MUCH_JUNK: Final = _reply(421, b"4.7.0 Too many commands without a message")  # attack 16
TOO_MANY_MESSAGES: Final = _reply(421, b"4.7.0 Too many messages on one connection; open another")  # attack 16
CREDENTIALS_REFUSED: Final = _reply(421, b"4.7.0 The mail server behind this relay does not let it in; try again later")  # §1.6, §1.12
IDENTITY_NOT_TAKEN: Final = _reply(421, b"4.3.5 This relay is not set up correctly; try again later")  # §1.10, §1.12, attack 27
NOT_SMTP: Final = _reply(421, b"4.7.0 This is an SMTP server and does not speak that protocol")  # §1.1(5), attack 29
INTERNAL_ERROR: Final = _reply(421, b"4.3.0 Internal error; try again later")  # I8, §4: where we stand is not known
LINE_WITHOUT_END: Final = _reply(421, b"4.7.0 Line without an end")  # §1.2, attack 15

# 451, 452, 454: this command or message failed for now (RFC 5321 §4.2.3, §4.5.3.1.10).

UPSTREAM_LOST: Final = _reply(451, b"4.4.2 The connection to the mail server behind this relay was lost; try again later")  # §4 S4-S7
UPSTREAM_VIOLATION: Final = _reply(451, b"4.5.0 The mail server behind this relay broke the protocol; try again later")  # §1.6, attack 12
MISCONFIGURED: Final = _reply(451, b"4.3.5 This relay is not set up correctly; try again later")  # §1.6, §1.12
MESSAGE_NOT_HELD: Final = _reply(451, b"4.3.0 The message could not be kept while rules look at it; try again later")  # DESIGN §6
HELD_TOO_LONG: Final = _reply(451, b"4.4.2 The message could not be passed on in time; try again later")  # §1.5, "held"
RULE_FAILED: Final = _reply(451, b"4.3.0 A rule of this relay failed; try again later")  # DESIGN §6, PROTOCOL I9
RECORD_FAILED: Final = _reply(451, b"4.3.0 The message could not be recorded; try again later")  # DESIGN §7
DISK_FULL: Final = _reply(452, b"4.3.1 Insufficient storage; try again later")  # attack 33
TOO_MANY_RECIPIENTS: Final = _reply(452, b"4.5.3 Too many recipients; send the rest in another transaction")  # RFC 5321 §4.5.3.1.10

AUTH_UNAVAILABLE: Final = _reply(454, b"4.7.0 Temporary authentication failure; try again later")  # RFC 4954 §6, §4 S3

# 50z: the command was not understood or had no place (RFC 5321 §4.2.4; these count as errors, §1.13).

LINE_TOO_LONG: Final = _reply(500, b"5.5.2 Line too long")  # RFC 5321 §4.5.3.1.9, attack 15
AUTH_LINE_TOO_LONG: Final = _reply(500, b"5.5.6 Authentication exchange line is too long")  # RFC 4954 §6
UNKNOWN_COMMAND: Final = _reply(500, b"5.5.2 Command not recognized")  # §1.1(4)
SYNTAX_ERROR: Final = _reply(501, b"5.5.2 Syntax error in the command or its argument")  # RFC 5321 §4.1.1
BAD_RESPONSE: Final = _reply(501, b"5.5.2 Syntax error in the authentication exchange")  # RFC 4954 §4
AUTH_CANCELLED: Final = _reply(501, b"5.5.2 Authentication cancelled")  # RFC 4954 §4, where we take whatever comes
PARAMETER_SYNTAX: Final = _reply(501, b"5.5.4 Syntax error in a parameter, or a parameter that has no place here")  # RFC 5321 §4.1.1.11
NOT_IMPLEMENTED: Final = _reply(502, b"5.5.1 Command not implemented")  # §1.2
BAD_SEQUENCE: Final = _reply(503, b"5.5.1 Bad sequence of commands")  # RFC 5321 §4.1.4
MECHANISM_UNKNOWN: Final = _reply(504, b"5.5.4 Authentication mechanism not offered")  # RFC 4954 §4
ENCRYPTION_NEEDED: Final = _reply(538, b"5.7.11 Encryption required for authentication; use STARTTLS first")  # RFC 4954 §6
UNKNOWN_PARAMETER: Final = _reply(555, b"5.5.4 Parameter not recognized or not offered")  # RFC 5321 §4.1.1.11

# 530: RFC 3207 §4, where clients must show a certificate; and 53z of RFC 4954 §6.

LOGIN_REQUIRED: Final = _reply(530, b"5.7.0 Authentication required")  # RFC 4954 §6, in place of a recorded server
WRONG_CREDENTIALS: Final = _reply(535, b"5.7.8 Authentication credentials invalid")  # RFC 4954 §6, likewise
TLS_REQUIRED: Final = _reply(530, b"5.7.0 Must issue a STARTTLS command first")

# 55z: the message, or who sends it, is refused.

GUARDED: Final = _reply(550, b"5.7.1 This relay sends no mail to that address")  # DESIGN §6, §9.3: the guard
NOT_WELCOME: Final = _reply(554, b"5.7.1 Connections from your address are not accepted")  # DESIGN §5 clients, RFC 5321 §3.1
NO_RECIPIENTS: Final = _reply(554, b"5.5.1 No valid recipients")  # RFC 5321 §3.3
SYNC_VIOLATION: Final = _reply(554, b"5.5.0 Synchronization error: input before our reply")  # RFC 2920 §3.1, attacks 5, 6, 9
BAD_LINE_ENDINGS: Final = _reply(554, b"5.6.0 The message has a CR or LF that is not part of a CRLF")  # RFC 5321 §2.3.8, attack 1
NUL_IN_MESSAGE: Final = _reply(554, b"5.6.0 The message has a NUL octet")  # RFC 5321 §4.5.2, attack 14
BAD_HEADER_START: Final = _reply(554, b"5.6.0 The message begins with white space")  # §1.11, attack 13
EIGHT_BIT_REFUSED: Final = _reply(554, b"5.6.3 8-bit content cannot be passed on without 8BITMIME")  # RFC 6152 §3, attack 2
LOOP: Final = _reply(554, b"5.4.6 Mail loop: the message has passed this relay before")  # RFC 5321 §6.3, attack 31
TOO_MANY_HOPS: Final = _reply(554, b"5.4.6 Mail loop: the message has passed too many relays")  # RFC 5321 §6.3
MESSAGE_TOO_BIG: Final = _reply(552, b"5.3.4 Message too big")  # RFC 1870 §6.1, §6.3
LINE_OVER_LIMIT: Final = _reply(552, b"5.3.4 A line of the message is too long")  # §1.13
TOO_MANY_CHUNKS: Final = _reply(552, b"5.3.4 Too many chunks")  # §1.13, attack 16
HEADER_OVER_LIMIT: Final = _reply(552, b"5.3.4 The header section is too big")  # §1.13, attack 13
NO_VALID_ADDRESS: Final = Reply(550, (b"5.1.3 A rule made no valid address of it",), origin="rule")  # DESIGN §6
UTF8_SENDER_REFUSED: Final = _reply(550, b"5.6.7 A sender address that is not ASCII needs SMTPUTF8")  # RFC 6531 §3.5: MAIL
UTF8_RECIPIENT_REFUSED: Final = _reply(553, b"5.6.7 A recipient address that is not ASCII needs SMTPUTF8")  # RFC 6531 §3.5: RCPT
# fmt: on
