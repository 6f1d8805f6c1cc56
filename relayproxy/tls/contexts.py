"""TLS on both legs as the configuration wants it: what faces clients (ServerTls), and what faces one upstream (ClientTls).

Made once, complete, and replaced on reload: a context costs milliseconds, and does not change under the sessions that it began.
Invariants: TLS 1.2 at least unless told otherwise; no compression, no renegotiation, no early data; sessions are resumed within one
ServerTls, or ClientTls, only (PROTOCOL §1.9: a ticket of one listener is worth nothing at another); an upstream's certificate is looked at every ten minutes
at least (resumption.py). ALPN: a client offers none, or one of SMTP's (attack 29); we offer none.
Which leg gets which of these does not belong here (relay/), nor how a handshake is driven (stream.py).
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio
from OpenSSL import SSL, crypto

from relayproxy.tls import openssl
from relayproxy.tls.engine import Engine, reason_of
from relayproxy.tls.facts import TlsConfigError, TlsFailure
from relayproxy.tls.files import check_pair, read_certificates, read_key
from relayproxy.tls.resumption import Known, Sessions
from relayproxy.tls.stream import TlsStream, shake_hands
from relayproxy.tls.verification import Findings, Verification

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from relayproxy.net.stream import DeadlineStream
    from relayproxy.tls.authority import Authority
    from relayproxy.tls.keylog import KeyLog

Minimum = Literal["TLSv1.2", "TLSv1.3"]

_VERSIONS: Final[dict[str, int]] = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}
#: RFC 7301's registry has none for SMTP; these are what Exim takes.
_PROTOCOLS: Final = (b"smtp", b"esmtp")
#: A name that a certificate can be made for (RFC 6066 §3: no dot at the end; underscores are met in practice).
_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)


class ServerTls:
    """What faces clients."""

    __slots__ = ("_context",)

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    @classmethod
    def of_files(
        cls, certificate: Path, key: Path, *, client_ca: Path | None, minimum: Minimum, keylog: KeyLog | None
    ) -> ServerTls:
        """Show the certificate (and chain) of a file to everybody. Raises TlsConfigError."""
        context = _server_context(client_ca, minimum, keylog)
        _show(context, certificate, key)
        return cls(context)

    @classmethod
    def minted(
        cls,
        authority: Authority,
        fallback: Sequence[str],
        *,
        client_ca: Path | None,
        minimum: Minimum,
        keylog: KeyLog | None,
    ) -> ServerTls:
        """Show a certificate made for the name that the client asks for, else one for the `fallback` names. Raises TlsConfigError."""
        context = _server_context(client_ca, minimum, keylog)
        names = tuple(fallback)
        certificate, key = authority.leaf(names)
        context.use_certificate(certificate)
        context.use_privatekey(key)
        nothing = SSL.Context(SSL.TLS_SERVER_METHOD)

        def choose(connection: SSL.Connection) -> None:
            # Called for every ClientHello, with a name or without. An exception would end on standard error, and nowhere else.
            try:
                asked = _name_asked_for(connection)
                leaf, _ = authority.leaf(names if asked is None or asked in names else (asked,))
                if leaf is not certificate:
                    connection.use_certificate(leaf)  # the key is the same
            except Exception as error:  # noqa: BLE001  whatever it is: no certificate, no session
                connection.get_app_data().problem = f"no certificate could be made: {error}"
                connection.set_context(nothing)

        context.set_tlsext_servername_callback(choose)
        return cls(context)

    async def accept(self, stream: DeadlineStream, *, seconds: float) -> TlsStream:
        """Make a session with a client. TlsFailure: there is none; the stream is still the caller's to close."""
        engine = Engine(SSL.Connection(self._context, None), Findings(required=False), server=True)
        await shake_hands(stream, engine, seconds)
        facts = engine.facts()
        if facts.certificate is not None:  # shown because we asked, and taken
            facts = msgspec.structs.replace(facts, verified=True)
        return TlsStream(stream, engine, facts)


class ClientTls:
    """What faces one upstream."""

    __slots__ = ("_context", "_sessions", "_verification")

    def __init__(
        self,
        *,
        verify: str,
        ca: Path | None,
        certificate: Path | None,
        key: Path | None,
        minimum: Minimum,
        keylog: KeyLog | None,
    ) -> None:
        """`verify` is full, ca, none or pin:sha256:HEX; `ca` None is the system's store. Raises TlsConfigError."""
        self._verification = Verification(verify)
        self._sessions = Sessions()
        self._context = context = _context(SSL.TLS_CLIENT_METHOD, minimum, keylog)
        openssl.verify_by(context, SSL.VERIFY_PEER, self._verification.judge)
        if ca is not None:
            _trust(context, ca)
        elif self._verification.kind != "pin":
            context.set_default_verify_paths()
        if certificate is not None and key is not None:
            _show(context, certificate, key)
        elif certificate is not None or key is not None:
            raise TlsConfigError(f"{certificate or key}: expected a certificate and its key, got one without the other")

    async def connect(self, stream: DeadlineStream, *, host: str, seconds: float) -> TlsStream:
        """Make a session with an upstream that is known as `host`, a name or an address. TlsFailure, as ServerTls.accept."""
        host = host.rstrip(".")
        connection = SSL.Connection(self._context, None)
        findings = Findings(host, required=True)
        kind = self._verification.kind
        if kind in {"full", "none"}:  # with none, to say what there was to say
            openssl.require_name(connection, host)
        if not _is_address(host):
            connection.set_tlsext_host_name(host.encode("ascii"))
        looked_at = trio.current_time()
        known = self._sessions.of(host, looked_at)
        engine = Engine(connection, findings, server=False, session=None if known is None else known.session)
        try:
            await shake_hands(stream, engine, seconds)
        except TlsFailure as failure:
            if known is not None and failure.reason == "protocol":
                self._sessions.give_up(host)
            elif known is not None:
                self._sessions.forget(host)
            raise
        facts = engine.facts()
        if facts.resumed and known is not None:
            findings, looked_at = known.findings, known.looked_at
        why = None
        if kind == "none":
            what = findings.words()
            why = "verify is none" if what is None else f"verify is none; {what}"
        facts = msgspec.structs.replace(facts, verified=kind != "none", why=why)
        return TlsStream(stream, engine, facts, partial(self._keep, host, engine, findings, looked_at))

    def _keep(self, host: str, engine: Engine, findings: Findings, looked_at: float) -> None:
        """At its end a session has all the tickets that it will have (RFC 8446 §4.6.1)."""
        if (session := engine.session) is not None:
            self._sessions.keep(host, Known(session, findings, looked_at))


def _context(method: int, minimum: Minimum, keylog: KeyLog | None) -> SSL.Context:
    if minimum not in _VERSIONS:
        raise TlsConfigError(f"minimum: expected {', '.join(_VERSIONS)}, got {minimum!r}")
    context = SSL.Context(method)
    context.set_min_proto_version(_VERSIONS[minimum])
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    # Buffers are given back between records: what an idle session costs is mostly these.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | openssl.MODE_NO_AUTO_CHAIN)
    # Sessions are in their tickets; a cache would grow with the clients.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if keylog is not None:
        context.set_keylog_callback(lambda _, line: keylog.write(line))
    return context


def _server_context(client_ca: Path | None, minimum: Minimum, keylog: KeyLog | None) -> SSL.Context:
    context = _context(SSL.TLS_SERVER_METHOD, minimum, keylog)
    context.set_session_id(os.urandom(16))
    context.set_alpn_select_callback(_choose_protocol)
    if client_ca is not None:
        _trust(context, client_ca)
        with _in_words(client_ca):
            for authority in read_certificates(client_ca):
                context.add_client_ca(authority)
        demand = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        openssl.verify_by(context, demand, Verification("ca").judge)
    return context


def _choose_protocol(_: SSL.Connection, offered: list[bytes]) -> bytes:
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    names = ", ".join(name.decode("ascii", "backslashreplace") for name in offered[:5])
    # pyOpenSSL sends the alert no_application_protocol, and raises this out of the handshake.
    raise TlsFailure("protocol", f"the client wants to speak {names}, and not SMTP")


def _trust(context: SSL.Context, path: Path) -> None:
    """Take a file's certificates for authorities, those that another one has signed as well."""
    read_certificates(path)
    store = context.get_cert_store()
    assert store is not None  # noqa: S101  a context has one
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    with _in_words(path):
        context.load_verify_locations(str(path))


def _show(context: SSL.Context, certificate_path: Path, key_path: Path) -> None:
    """Make a file's certificate ours, with the chain behind it."""
    certificates = read_certificates(certificate_path)
    key = read_key(key_path)
    check_pair(certificates[0], certificate_path, key, key_path)
    with _in_words(certificate_path):
        context.use_certificate(certificates[0])
        context.use_privatekey(key)
        for issuer in certificates[1:]:
            context.add_extra_chain_cert(issuer)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What OpenSSL will not take of a file that could be read."""
    try:
        yield
    except (SSL.Error, crypto.Error) as error:
        raise TlsConfigError(f"{path}: {reason_of(error)}") from None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _name_asked_for(connection: SSL.Connection) -> str | None:
    """The name in the ClientHello, where it can be one."""
    asked = (connection.get_servername() or b"").decode("ascii", "replace").lower()
    return asked if _NAME.fullmatch(asked) or _is_address(asked) else None
