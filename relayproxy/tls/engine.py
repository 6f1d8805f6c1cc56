"""TLS as an engine: octets of the peer in, octets for the peer out, plaintext on the other side (RFC 8446, RFC 5246). No I/O, no waiting.

It is OpenSSL over memory, with its traps taken out (each is held by a test):
- an end of the stream without close_notify is told apart from one with it, and does no harm to what we may still send;
- errors are mapped here, once: TlsFailure ends a handshake, TlsBroken what comes after it; both say in words what happened.
Invariants: nothing leaves after a failed handshake but the alert; what `take` gives goes out in that order, and all of it.
When to send and to receive does not belong here (stream.py), nor whom to believe (verification.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

from OpenSSL import SSL, crypto

from relayproxy.tls import openssl
from relayproxy.tls.certificates import facts_of
from relayproxy.tls.facts import Reason, TlsFacts, TlsFailure

if TYPE_CHECKING:
    from relayproxy.tls.openssl import Octets
    from relayproxy.tls.verification import Findings

#: The plaintext of one record (RFC 8446 §5.1): OpenSSL decrypts no more at a time.
RECORD_SIZE: Final = 16384

#: How much of what is no TLS is told.
_PLAINTEXT_TOLD: Final = 60

_ALERT = re.compile(r"(?:alert|tlsv1[0-9]? alert|ssl/tls alert|tls alert) (?P<name>.+)")
#: Alerts by which a peer refuses our certificate, or that we showed none (RFC 8446 §6.2).
_OF_CERTIFICATES = re.compile(r"certificate|unknown ca|bad certificate")
_WORDS: Final = {
    "unsupported protocol": "the peer offers no version of TLS that we take",
    "no protocols available": "the peer offers no version of TLS that we take",
    "version too low": "the peer offers no version of TLS that we take",
    "no shared cipher": "there is no cipher that both sides take",
    "no suitable signature algorithm": "the peer takes no signature that our certificate can give",
    "wrong version number": "what the peer sent is no TLS",
    "http request": "what the peer sent is no TLS but HTTP",
}
_NO_CERTIFICATE: Final = "peer did not return a certificate"


#: What clients say that take a port for another: SMTP's, HTTP's.
_CLEAR_WORDS: Final = frozenset({"EHLO", "HELO", "MAIL", "NOOP", "QUIT", "RSET", "GET", "POST", "CONNECT"})


class TlsBroken(Exception):  # noqa: N818  it is a fact, and reads as one
    """The session is over, other than by close_notify; says why."""


class Engine:
    """One end of a TLS session."""

    __slots__ = (
        "_broken",
        "_connection",
        "_eof",
        "_fed",
        "_findings",
        "_plaintext",
        "_resumes",
        "_server",
        "_started",
        "_written",
        "more",
    )

    def __init__(
        self, connection: SSL.Connection, findings: Findings, *, server: bool, session: SSL.Session | None = None
    ) -> None:
        """`session`: to go on with, if the peer will; whom it was made with was judged then."""
        self._connection = connection
        self._resumes = session is not None
        if session is not None:
            connection.set_session(session)
        connection.set_app_data(findings)
        self._server = server
        if server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        self._findings = findings
        self._fed: bytes | memoryview = b""  # and not given to OpenSSL yet
        self._written = b""
        self._eof = False
        self._started = False
        self._plaintext = b""
        self._broken: str | None = None
        #: Whether `read` may give something without being fed; False is certain.
        self.more = False

    # The peer's side.

    def feed(self, octets: bytes) -> None:
        """Take what the peer sent."""
        if not self._started:
            self._started = True
            # A record begins with its type, 20 to 24. Text is text: an SMTP server on a port for TLS, a client without (PROTOCOL §1.1.5).
            if octets[0] in b"\r\n\t" or 0x20 <= octets[0] < 0x7F:
                self._plaintext = octets[:_PLAINTEXT_TOLD]
        self.more = True
        if self._fed:
            octets = bytes(self._fed) + octets
        if len(octets) <= openssl.RECORD_ROOM:
            self._fed = b""
            openssl.give(self._connection, octets)
        else:
            self._fed = memoryview(octets)

    def _give_more(self) -> bool:
        """Give OpenSSL the next piece of what was fed, where there is one. Its buffers keep the size that they once had."""
        if not self._fed:
            return False
        openssl.give(self._connection, self._fed[: openssl.RECORD_ROOM])
        self._fed = self._fed[openssl.RECORD_ROOM :]
        return True

    def feed_eof(self) -> None:
        """The peer sends no more. OpenSSL is not told: it would take the session for broken, and we may have something to say still."""
        self._eof = self.more = True

    @property
    def owes(self) -> int:
        """How many octets `take` would give."""
        return len(self._written) + openssl.octets_to_send(self._connection)

    def take(self) -> bytes:
        """What is to be sent to the peer, all of it; b"" where there is nothing."""
        octets = openssl.take(self._connection)
        if not self._written:
            return octets
        written, self._written = self._written, b""
        return written + octets

    # The handshake.

    def handshake(self) -> bool:
        """Go on with it as far as it goes; True when it is done. What `take` gives is to be sent each time, after a TlsFailure too."""
        if self._plaintext:
            self._fail("protocol", f"expected TLS, got {self._what_came()}")
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            if self._give_more():
                return self.handshake()
            if self._eof:
                self._fail("closed", "the peer closed the connection during the handshake")
            return False
        except TlsFailure as failure:  # out of a callback
            self._fail(failure.reason, failure.what)
        except SSL.Error as error:
            self._fail(*self._why(error))
        if self._findings.required and not (self._findings.judged or self._goes_on()):
            self.take()  # it would say yes to a peer whom nobody has looked at
            self._fail("certificate", "the peer's certificate was not looked at")
        return True

    def _goes_on(self) -> bool:
        return self._resumes and openssl.was_resumed(self._connection)

    def _what_came(self) -> str:
        """Text, where TLS was expected. A server's greeting is quoted; of a client only what is sure to be no secret (attack 21)."""
        if not self._server:
            return _printable(self._plaintext)
        word = self._plaintext.partition(b" ")[0].strip().upper().decode("ascii", "replace")
        return f"{word} in clear" if word in _CLEAR_WORDS else "something else in clear"

    def _fail(self, reason: Reason, what: str) -> NoReturn:
        self._broken = what
        raise TlsFailure(reason, what)

    def _why(self, error: SSL.Error) -> tuple[Reason, str]:
        findings = self._findings
        if findings.problem is not None:
            return "protocol", findings.problem
        what = reason_of(error)
        if what == "certificate verify failed":
            return "certificate", f"the peer's certificate was refused: {findings.words() or what}"
        if what == _NO_CERTIFICATE:
            return "certificate", "the peer showed no certificate, and we ask for one"
        if (alert := _ALERT.fullmatch(what)) is not None:
            name = alert["name"]
            if _OF_CERTIFICATES.search(name):
                return "certificate", f"the peer refused our certificate, or that there was none (alert: {name})"
            return "protocol", f"the peer refused the handshake (alert: {name})"
        return "protocol", _WORDS.get(what, what)

    @property
    def peer_waits(self) -> bool:
        """Whether, with the handshake done, the peer waits for what `take` gives. Tickets can wait for company (RFC 8446 §4.6.1)."""
        return not (self._server and self._connection.get_protocol_version() == SSL.TLS1_3_VERSION)

    def facts(self) -> TlsFacts:
        """What the session is, after the handshake; whether the peer is believed is for others to say."""
        connection = self._connection
        certificate = connection.get_peer_certificate(as_cryptography=True)
        sni = connection.get_servername()
        return TlsFacts(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            sni=None if sni is None else sni.decode("ascii", "backslashreplace"),
            certificate=None if certificate is None else facts_of(certificate),
            resumed=openssl.was_resumed(connection),
        )

    @property
    def session(self) -> SSL.Session | None:
        """For another connection to go on with; None where this one broke."""
        return self._connection.get_session() if self._broken is None else None

    # Plaintext.

    def read(self, most: int) -> bytes | None:
        """At most so many octets of plaintext; b"" after close_notify; None: the peer must send more first. Raises TlsBroken."""
        data = self._decrypt(most)
        if not data or not self.more or len(data) == most:
            return data
        parts, left = [data], most - len(data)
        while left and self.more:
            try:
                data = self._decrypt(left)
            except TlsBroken:
                break  # the next read says so again
            if not data:
                break
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _decrypt(self, most: int) -> bytes | None:
        """The same, of one record."""
        if self._broken is not None:
            raise TlsBroken(self._broken)
        connection = self._connection
        most = min(most, RECORD_SIZE)
        try:
            data = openssl.decrypt(connection, most)
            while data is None and self._give_more():
                data = openssl.decrypt(connection, most)
        except SSL.Error as error:
            self._break(error)
        if data is None:
            if self._eof:
                raise TlsBroken("closed without close_notify")
            self.more = False
        elif data:
            # Where all that was asked for came, the record may have had more.
            self.more = len(data) == most or bool(self._eof or self._fed or openssl.received_octets(connection))
        return data

    def hear(self) -> bool:
        """Whether there is something to read, the end and a failure included; it stays there. What TLS says to itself is dealt with."""
        try:
            heard = openssl.decrypt(self._connection, 1, look=True)
            while heard is None and self._give_more():
                heard = openssl.decrypt(self._connection, 1, look=True)
        except SSL.Error as error:
            self._broken = self._why(error)[1]
            self.more = True
        else:
            self.more = heard is not None or self._eof
        return self.more

    @property
    def at_end(self) -> bool:
        """Whether nothing but an end of whatever kind is left to read, of what was fed; it stays there."""
        if not self.hear():
            return False
        try:
            return not openssl.decrypt(self._connection, 1, look=True)
        except SSL.Error:
            return True

    def write(self, data: Octets) -> None:
        """Encrypt; each RECORD_SIZE octets, and what remains, are a record. Raises TlsBroken."""
        if self._broken is not None:
            raise TlsBroken(self._broken)
        connection = self._connection
        try:
            if len(data) <= RECORD_SIZE:
                openssl.encrypt(connection, data)
                return
            parts = [self.take()]
            for start in range(0, len(data), RECORD_SIZE):
                openssl.encrypt(connection, memoryview(data)[start : start + RECORD_SIZE])
                parts.append(openssl.take(connection))
            self._written = b"".join(parts)
        except SSL.Error as error:
            self._break(error)

    def _break(self, error: SSL.Error) -> NoReturn:
        self._broken = self._why(error)[1]
        raise TlsBroken(self._broken) from error

    def close_notify(self) -> None:
        """Say that we send no more. Nothing may be written after it; what the peer sends can still be read (RFC 8446 §6.1)."""
        if self._broken is None and not self._connection.get_shutdown() & SSL.SENT_SHUTDOWN:
            try:
                self._connection.shutdown()
            except SSL.Error as error:
                self._broken = self._why(error)[1]


def reason_of(error: SSL.Error | crypto.Error) -> str:
    """OpenSSL's own word for what went wrong."""
    if isinstance(error, SSL.SysCallError):
        return str(error.args[-1])
    reasons = [str(reason) for _, _, reason in error.args[0]] if error.args else []
    return next(filter(None, reasons), "TLS failed, and OpenSSL does not say why")


def _printable(octets: bytes) -> str:
    return repr(octets.splitlines()[0].decode("ascii", "backslashreplace")) if octets.strip() else "an empty line"
