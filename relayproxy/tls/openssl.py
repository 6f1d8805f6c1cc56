"""The names of pyOpenSSL that are private: on this page and on no other.

Each stands here because the public interface lacks it, and the tests of this floor hold each: a new version that changes one of them
fails there and not in a handshake.
"""

# ruff: noqa: SLF001

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

#: SSL_MODE_NO_AUTO_CHAIN: what is not in the file of our certificate is not searched for at each handshake.
MODE_NO_AUTO_CHAIN: Final = 0x8
VERIFIED: Final[int] = lib.X509_V_OK
UNSPECIFIED: Final = 1  # X509_V_ERR_UNSPECIFIED

Octets = bytes | bytearray | memoryview

#: What decides on a chain: for a connection, with what OpenSSL finds (VERIFIED: nothing) at a depth (0 is the peer's own certificate);
#: gives what it takes the finding for: VERIFIED goes on, anything else ends the handshake with the alert for that finding.
Judge: TypeAlias = "Callable[[SSL.Connection, int, int, Chain], int]"

#: What OpenSSL takes, and gives, at most in one go: a record with its header, its type and its tag, and room for padding (RFC 5246 §6.2.3).
RECORD_ROOM: Final = 16384 + 2048

_where = ffi.new("char **")  # never looked at
_room = ffi.new_allocator(should_clear_after_alloc=False)


# Octets. The public methods do the same in three times the time, most of it around the call, and raise an exception for "no more".


def received_octets(connection: SSL.Connection) -> int:
    """How many octets that were given OpenSSL has not looked at."""
    return int(lib.BIO_get_mem_data(connection._into_ssl, _where))


def octets_to_send(connection: SSL.Connection) -> int:
    """How many octets OpenSSL wants to have sent."""
    return int(lib.BIO_get_mem_data(connection._from_ssl, _where))


def give(connection: SSL.Connection, octets: Octets) -> None:
    """Let OpenSSL have what was received; some octets at least."""
    if lib.BIO_write(connection._into_ssl, ffi.from_buffer(octets), len(octets)) != len(octets):
        raise MemoryError


def take(connection: SSL.Connection) -> bytes:
    """All that OpenSSL wants to have sent."""
    size = lib.BIO_get_mem_data(connection._from_ssl, _where)
    if not size:
        return b""
    room = _room("char[]", size)
    return bytes(ffi.buffer(room, lib.BIO_read(connection._from_ssl, room, size)))


def encrypt(connection: SSL.Connection, octets: Octets) -> None:
    """Make records of plaintext. Raises SSL.Error."""
    size = len(octets)
    start = ffi.from_buffer(octets)
    done = 0
    while done < size:
        written = lib.SSL_write(connection._ssl, start + done, size - done)
        if written <= 0:
            connection._raise_ssl_error(connection._ssl, written)
        done += written


def decrypt(connection: SSL.Connection, most: int, *, look: bool = False) -> bytes | None:
    """The plaintext of a record, or some of it; b"" after close_notify; None: more must be received. Raises SSL.Error.

    `look` leaves it there.
    """
    ssl = connection._ssl
    room = _room("char[]", most)
    size = lib.SSL_peek(ssl, room, most) if look else lib.SSL_read(ssl, room, most)
    if size > 0:
        return bytes(ffi.buffer(room, size))
    match lib.SSL_get_error(ssl, size):
        case lib.SSL_ERROR_WANT_READ:
            return None
        case lib.SSL_ERROR_ZERO_RETURN:
            return b""
    connection._raise_ssl_error(ssl, size)
    raise SSL.Error([])  # it has always raised by now


# Who the peer is.


def was_resumed(connection: SSL.Connection) -> bool:
    return bool(lib.SSL_session_reused(connection._ssl))


def require_name(connection: SSL.Connection, host: str) -> None:
    """Demand that the peer's certificate is for a host, a name in ASCII or an address: OpenSSL then looks during the handshake."""
    parameters = lib.SSL_get0_param(connection._ssl)
    lib.X509_VERIFY_PARAM_set_hostflags(parameters, lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
    try:
        address = ip_address(host).packed
    except ValueError:
        name = host.encode("ascii")
        done = lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
    else:
        done = lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
    if done != 1:
        raise ValueError(f"expected a host name or an address, got {host!r}")


class Chain:
    """A chain that is being verified; good while the judge is asked. ValueError: a certificate that cannot be read."""

    __slots__ = ("_store",)

    def __init__(self, store: Any) -> None:
        self._store = store

    def peers_own(self) -> x509.Certificate:
        return _copy(lib.X509_STORE_CTX_get0_cert(self._store))

    def looked_at(self) -> x509.Certificate:
        """The one that the finding is about."""
        return _copy(lib.X509_STORE_CTX_get_current_cert(self._store))


def _copy(certificate: Any) -> x509.Certificate:
    lib.X509_up_ref(certificate)
    return crypto.X509._from_raw_x509_ptr(certificate).to_cryptography()


def verify_by(context: SSL.Context, mode: int, judge: Judge) -> None:
    """Let `judge` decide on the peer's chain. pyOpenSSL's own callback cannot say which alert a refusal sends."""

    @ffi.callback("int(int, X509_STORE_CTX *)")  # type: ignore[untyped-decorator]
    def verify(good: int, store: Any) -> int:
        finding = UNSPECIFIED
        try:
            number = lib.SSL_get_ex_data_X509_STORE_CTX_idx()
            connection = SSL.Connection._reverse_mapping[lib.X509_STORE_CTX_get_ex_data(store, number)]
            found = VERIFIED if good else lib.X509_STORE_CTX_get_error(store)
            finding = judge(connection, found, lib.X509_STORE_CTX_get_error_depth(store), Chain(store))
        finally:
            lib.X509_STORE_CTX_set_error(store, finding)
        return int(finding == VERIFIED)

    lib.SSL_CTX_set_verify(context._context, mode, verify)
    context.set_app_data(verify)  # OpenSSL does not keep it alive


def words_of_finding(finding: int) -> str:
    """OpenSSL's own words for what it finds wrong with a chain."""
    return str(ffi.string(lib.X509_verify_cert_error_string(finding)).decode("ascii", "replace"))
