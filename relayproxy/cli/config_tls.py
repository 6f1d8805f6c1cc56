"""What must hold between the settings of TLS (DESIGN §5), and that the files which they name are what they should be.

A setting that would have no effect is an error: who writes it believes that something is protected. Files are read and nothing is made:
reading a configuration leaves no trace. Building what the relay uses does not belong here (relay/keyring.py).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from relayproxy.cli.config_written import listeners, upstreams, urls, value
from relayproxy.relay.settings import Listener, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from relayproxy.cli.config_written import Wrong
    from relayproxy.relay.settings import Config, Tls
    from relayproxy.rules.locate import Place

#: Of an upstream: what means nothing to a url in clear.
UPSTREAM_KEYS: Final = ("verify", "ca", "certificate", "key")
#: Of [tls]: what means nothing without a listener that has TLS.
_LISTENER_KEYS: Final = ("certificate", "key", "client_ca")


def mismatches(settings: Mapping[str, Any]) -> Iterator[Wrong]:
    """What does not fit together in settings as they were written."""
    for name, upstream in upstreams(settings).items():
        if upstream is not None:
            yield from _of_an_upstream(("upstream", name), upstream)
    tls, tables = settings.get("tls"), [listener for _, listener in listeners(settings)]
    if isinstance(tls, dict):
        yield from _pair(("tls",), tls)
        clear = tables and all(value(listener, Listener, "tls") == "off" for listener in tables)
        for key in _LISTENER_KEYS if clear else ():
            if key in tls:
                yield ("tls", key), 'expected a listener with tls = "starttls" or "implicit", as all are "off"'


def _of_an_upstream(place: Place, upstream: Mapping[str, Any]) -> Iterator[Wrong]:
    in_clear = {url.tls == "off" for url in urls(upstream)}
    if in_clear == {True}:
        for key in UPSTREAM_KEYS:
            if key in upstream:
                yield (*place, key), "expected a url beside it that asks for TLS, smtp+starttls:// or smtps://"
        return
    if len(in_clear) > 1:
        yield (*place, "url"), "expected urls that all ask for TLS, or none that does: a failover would go on in clear"
    yield from _pair(place, upstream)
    verify = value(upstream, Upstream, "verify")
    if "ca" in upstream and isinstance(verify, str) and verify not in ("full", "ca"):
        yield (*place, "ca"), f'expected verify = "full" or "ca" beside it, as {verify.partition(":")[0]!r} asks no CA'


def _pair(place: Place, table: Mapping[str, Any]) -> Iterator[Wrong]:
    for key, other in (("certificate", "key"), ("key", "certificate")):
        if key in table and other not in table:
            yield (*place, key), f"expected {other} beside it"


def bad_files(config: Config) -> Iterator[Wrong]:
    """Files that are missing, unreadable, or not what they are said to be; paths are absolute by now."""
    tls = config.tls
    files = {"certificate": tls.certificate, "key": tls.key, "client_ca": tls.client_ca}
    yield from _bad_files(("tls",), files, partial(_build_server, tls))
    for name, upstream in config.upstream.items():
        files = {"ca": upstream.ca, "certificate": upstream.certificate, "key": upstream.key}
        yield from _bad_files(("upstream", name), files, partial(_build_client, upstream, tls))


def _bad_files(place: Place, files: Mapping[str, Path | None], build: Callable[[], None]) -> Iterator[Wrong]:
    """Each file by itself, so that all is told at once; and where they are right, whether they make something together."""
    given = {key: path for key, path in files.items() if path is not None}
    if not given:
        return
    from relayproxy.tls.facts import TlsConfigError
    from relayproxy.tls.files import read_certificates, read_key

    all_read = True
    for key, path in given.items():
        try:
            (read_key if key == "key" else read_certificates)(path)
        except TlsConfigError as error:
            all_read = False
            yield (*place, key), str(error)
    if all_read:
        try:
            build()
        except TlsConfigError as error:
            meant = (key for key, path in given.items() if str(error).startswith(f"{path}:"))
            yield (*place, next(meant, next(iter(given)))), str(error)


def _build_server(tls: Tls) -> None:
    from relayproxy.tls.contexts import ServerTls

    if tls.certificate is not None and tls.key is not None:
        ServerTls.of_files(tls.certificate, tls.key, client_ca=tls.client_ca, minimum=tls.minimum, keylog=None)


def _build_client(upstream: Upstream, tls: Tls) -> None:
    from relayproxy.tls.contexts import ClientTls

    ClientTls(
        verify=upstream.verify,
        ca=upstream.ca,
        certificate=upstream.certificate,
        key=upstream.key,
        minimum=tls.minimum,
        keylog=None,
    )
