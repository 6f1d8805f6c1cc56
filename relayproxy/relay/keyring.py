"""The certificates and keys of this relay, as contexts: one a listener that has TLS, one an upstream that is met with it (DESIGN §5).

Built once, before anything listens, and again on SIGHUP: sessions keep what they began with, new ones get the new, and where a file
has become bad, or cannot be read in time, the old stays in use. The authority that signs minted certificates is made at the first start that needs it, never by
reading a configuration.
How a handshake is made does not belong here (tls/), nor which settings fit together (cli/config_tls.py).
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Final, TypeVar

from relayproxy.net.threads import Threads
from relayproxy.record.log import fault_in_words
from relayproxy.tls.authority import Authority
from relayproxy.tls.contexts import ClientTls, ServerTls
from relayproxy.tls.facts import TlsConfigError
from relayproxy.tls.keylog import KeyLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relayproxy.relay.settings import Config, Listener


#: Addresses to listen at that nobody can connect to by them.
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})

#: What reading the files of one listener or upstream again may take.
READING_SECONDS: Final = 60.0

_FILES: Final = Threads("certificates")

Context = TypeVar("Context", ServerTls, ClientTls)


class Keyring:
    """`servers` by the names of listeners, `clients` by those of upstreams; one that is in clear is in neither."""

    def __init__(self, config: Config, tell: Callable[[str], None]) -> None:
        """`tell` hears of keys that could not be logged. Raises TlsConfigError and OSError."""
        self._config = config
        self._keylog = None if config.tls.keylog is None else KeyLog(config.tls.keylog, tell)
        self._listeners = {listener.name: listener for listener in config.listener if listener.tls != "off"}
        self._upstreams = [name for name, upstream in config.upstream.items() if upstream.has_tls]
        mint = self._mint()
        self.servers = {name: self._server(listener, mint) for name, listener in self._listeners.items()}
        self.clients = {name: self._client(name) for name in self._upstreams}

    def warnings(self) -> Iterator[str]:
        """What whoever started this should hear, loudly: it weakens TLS for all."""
        for name in self._upstreams:
            if self._config.upstream[name].verify == "none":
                yield f'upstream {name}: verify = "none": whoever is between us and it can read and change all mail'
        if (keylog := self._config.tls.keylog) is not None:
            yield f"tls: keylog: whoever can read {keylog} can read all that TLS protects"

    async def reload(self, tell: Callable[[str, str | None], None]) -> None:
        """Read all files again; `tell` hears whose certificates these are, and why the old ones are kept, None where the new ones are in use."""
        mint = self._mint()
        for name, listener in self._listeners.items():
            await _renew("listener", self.servers, name, partial(self._server, listener, mint), tell)
        for name in self._upstreams:
            await _renew("upstream", self.clients, name, partial(self._client, name), tell)

    def _mint(self) -> Callable[[], Authority]:
        """The authority as it is now, the same for all listeners, for those who need it."""
        return cache(partial(Authority.open, self._config.state))

    def _server(self, listener: Listener, mint: Callable[[], Authority]) -> ServerTls:
        """A context of its own for each listener, so that a ticket of one is of no use at another (PROTOCOL §1.9)."""
        tls = self._config.tls
        if tls.certificate is not None and tls.key is not None:
            return ServerTls.of_files(
                tls.certificate, tls.key, client_ca=tls.client_ca, minimum=tls.minimum, keylog=self._keylog
            )
        return ServerTls.minted(
            mint(), self._names(listener), client_ca=tls.client_ca, minimum=tls.minimum, keylog=self._keylog
        )

    def _names(self, listener: Listener) -> list[str]:
        """Whom a client that names no host may have meant: us, the server that we stand in front of, or the address that it connected to."""
        upstream = self._config.upstream[self._config.upstream_of(listener)]
        own = self._config.hostname.strip("[]").removeprefix("IPv6:")  # it may be an address literal
        hosts = (url.host.rstrip(".") for url in upstream.url if url.host)
        address = listener.address
        at = address.host.partition("%")[0] if address.kind == "tcp" and address.host not in _EVERYWHERE else own
        return list(dict.fromkeys((own, *hosts, at)))

    def _client(self, name: str) -> ClientTls:
        return client_tls(self._config, name, self._keylog)


async def _renew(
    what: str,
    kept: dict[str, Context],
    name: str,
    make: Callable[[], Context],
    tell: Callable[[str, str | None], None],
) -> None:
    error = None
    try:
        kept[name] = await _FILES.read(make, READING_SECONDS, "files")
    except (TlsConfigError, OSError) as bad:
        error = str(bad)
    except Exception as bad:  # noqa: BLE001  whatever a file makes of us, the old is there
        error = fault_in_words(bad)
    tell(f"certificates of {what} {name}", error)


def client_tls(config: Config, name: str, keylog: KeyLog | None = None) -> ClientTls:
    """How the upstream of that name is met with TLS. Raises TlsConfigError."""
    upstream = config.upstream[name]
    return ClientTls(
        verify=upstream.verify,
        ca=upstream.ca,
        certificate=upstream.certificate,
        key=upstream.key,
        minimum=config.tls.minimum,
        keylog=keylog,
    )
