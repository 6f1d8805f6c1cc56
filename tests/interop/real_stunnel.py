"""stunnel in front of smtp-sink: TLS from the start, and STARTTLS as stunnel speaks it. It can demand a certificate."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from real_cast import took_part
from real_process import folder, free_port, program, started, wait_for_listener
from real_upstreams import Arrived, SinkUpstream, smtp_sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from real_certificates import Files
    from real_upstreams import Scheme

CONF = """\
foreground = yes
pid =
debug = info
cert = {files.certificate}
key = {files.key}
{demand}
[smtps]
accept = 127.0.0.1:{ports[smtps]}
connect = 127.0.0.1:{sink}

[smtp]
accept = 127.0.0.1:{ports[smtp+starttls]}
connect = 127.0.0.1:{sink}
protocol = smtp
"""
DEMAND = "requireCert = yes\nverifyChain = yes\nCAfile = {ca}\n"


class StunnelUpstream:
    """The sink's messages, and stunnel's log, which tells each handshake."""

    name = "stunnel"
    denied = ""
    mechanisms: frozenset[str] = frozenset()

    def __init__(self, sink: SinkUpstream, log: Path) -> None:
        self.port, self.unknown, self.unwanted = sink.port, sink.unknown, sink.unwanted
        self.ports: Mapping[Scheme, int] = {"smtp": sink.port, "smtp+starttls": free_port(), "smtps": free_port()}
        self._sink, self._log = sink, log

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def arrived(self) -> list[Arrived]:
        versions = re.findall(r"(TLSv1\S*) ciphersuite", self.log())
        return [replace(message, tls=versions[-1] if versions else None) for message in self._sink.arrived()]


@contextmanager
def stunnel(files: Files, client_ca: Path | None = None) -> Iterator[StunnelUpstream]:
    """With `client_ca`, whoever shows no certificate of that authority is refused."""
    path = program("stunnel")
    took_part("stunnel", "upstream")
    with smtp_sink() as sink, folder() as work:
        upstream = StunnelUpstream(sink, work / "log")
        demand = DEMAND.format(ca=client_ca) if client_ca else ""
        (work / "conf").write_text(CONF.format(files=files, ports=upstream.ports, sink=sink.port, demand=demand))
        with started([path, work / "conf"], work / "log") as process:
            for port in (upstream.ports["smtp+starttls"], upstream.ports["smtps"]):
                wait_for_listener(process, port, work / "log")
            yield upstream
