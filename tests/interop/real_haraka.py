"""Haraka as an upstream, with folders of its own; haraka-sink.js is its plugin, which keeps and refuses."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from real_cast import took_part
from real_process import PEERS, folder, free_port, missing, program, started, wait_for_listener
from real_upstreams import SECRET, UNKNOWN, UNWANTED, USER, Arrived, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from real_certificates import Files
    from real_upstreams import Scheme

PROGRAM: Final = PEERS / "node/node_modules/Haraka/haraka.js"
FILES = {
    "me": "mx.test\n",
    "plugins": "tls\nauth/flat_file\nsink\n",
    # one process, which serves itself
    "smtp.ini": "listen=127.0.0.1:{ports[smtp]},127.0.0.1:{ports[smtps]}\nsmtps_port={ports[smtps]}\nnodes=0\n",
    "tls.ini": "cert={files.certificate}\nkey={files.key}\n",
    "auth_flat_file.ini": "[core]\nmethods={mechanisms}\nconstrain_sender=false\n[users]\n{user}={secret}\n",
}


class HarakaUpstream:
    """A server, and the folder that its plugin writes to."""

    name = "haraka"
    unknown = "550 5.1.1 nobody of that name"
    unwanted = "550 5.7.1 not wanted here"
    denied = "535"
    mechanisms = frozenset({"PLAIN", "LOGIN", "CRAM-MD5"})

    def __init__(self, kept: Path) -> None:
        self.port = free_port()
        self.ports: Mapping[Scheme, int] = {"smtp": self.port, "smtp+starttls": self.port, "smtps": free_port()}
        self.kept = kept

    def clear(self) -> None:
        """Before each test."""
        took_part("Haraka", "upstream")
        for path in self.kept.iterdir():
            path.unlink()

    def arrived(self) -> list[Arrived]:
        return [self._read(path) for path in sorted(self.kept.glob("*.json"))]

    @staticmethod
    def _read(path: Path) -> Arrived:
        """It puts its own Received on top, and above that, where somebody has logged in, Authentication-Results."""
        told = json.loads(path.read_text())
        above = [b"Authentication-Results"] if told["user"] else []
        content = cut(path.with_suffix(".eml").read_bytes(), *above, b"Received")
        return Arrived(told["sender"], tuple(told["recipients"]), content, told["tls"], told["user"])


def _limits() -> str:
    """Its own file with larger limits: of a file that there is it takes no defaults."""
    text = (PROGRAM.parent / "config/connection.ini").read_text()
    for key, value in {"bytes": 64 << 20, "data_line_length": 1000}.items():
        text, found = re.subn(rf"^{key}=.*", f"{key}={value}", text, flags=re.MULTILINE)
        assert found == 1, key
    return text


@contextmanager
def haraka(files: Files) -> Iterator[HarakaUpstream]:
    """One for all tests: it takes a second to start."""
    if not PROGRAM.exists():
        missing(f"Haraka is not installed in {PEERS / 'node'}")
    node = program("node")
    with folder() as work:
        kept = work / "kept"
        for path in (kept, work / "config", work / "plugins"):
            path.mkdir()
        upstream = HarakaUpstream(kept)
        values = {"ports": upstream.ports, "files": files, "user": USER, "secret": SECRET}
        values["mechanisms"] = ",".join(sorted(upstream.mechanisms))
        for name, text in FILES.items():
            (work / "config" / name).write_text(text.format(**values))
        (work / "config/connection.ini").write_text(_limits())
        told = {"folder": str(kept), "unknown": UNKNOWN, "unwanted": UNWANTED.decode().partition(" ")[2]}
        (work / "config/sink.json").write_text(json.dumps(told))
        shutil.copy(Path(__file__).with_name("haraka-sink.js"), work / "plugins/sink.js")
        log = work / "log"
        with started([node, PROGRAM], log, {"HARAKA": str(work)}) as process:
            for port in (upstream.port, upstream.ports["smtps"]):
                wait_for_listener(process, port, log)
            yield upstream
