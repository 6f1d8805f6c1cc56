"""TLS, or none, on both legs of a relay that stands in chaos: its configuration, and what client and sink do for their part."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, Literal, get_args

import trio
from dialog_tls import authority_pem, certificate_pem

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["clear", "starttls", "implicit"]
MODES: Final = get_args(Mode)
_HOST: Final = "127.0.0.1"
_SCHEMES: Final = {"clear": "smtp", "starttls": "smtp+starttls", "implicit": "smtps"}


class Security:
    """The same mode, certificate and authority for all; Python's own TLS, so that both ends of a connection are not the same code."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.mode = mode
        self._ca, self._certificate, self._key = (folder / name for name in ("ca.pem", "certificate.pem", "key.pem"))
        certificate, key = certificate_pem("good", _HOST)
        self._ca.write_text(authority_pem())
        self._certificate.write_text(certificate)
        self._key.write_text(key)
        self._trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trusting.load_verify_locations(self._ca)
        self._trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._trusted.load_cert_chain(self._certificate, self._key)

    def client(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        return trio.SSLStream(stream, self._trusting, server_hostname=_HOST)

    def server(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        return trio.SSLStream(stream, self._trusted, server_side=True)

    def toml(self, upstream: int) -> str:
        """The relay's listener, on a free port, and its upstream."""
        listener = f'[[listener]]\naddress = "127.0.0.1:0"\ntls = "{"off" if self.mode == "clear" else self.mode}"\n'
        url = f'[upstream.sink]\nurl = "{_SCHEMES[self.mode]}://{_HOST}:{upstream}"\n'
        if self.mode == "clear":
            return listener + url
        return f'{listener}{url}ca = "{self._ca}"\n[tls]\ncertificate = "{self._certificate}"\nkey = "{self._key}"\n'
