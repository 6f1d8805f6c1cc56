"""The key log: what Wireshark needs, for us alone."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL
from tls_pairs import HOST, handshake

from relayproxy.tls.contexts import ClientTls, ServerTls
from relayproxy.tls.facts import TlsConfigError
from relayproxy.tls.keylog import KeyLog

if TYPE_CHECKING:
    from pathlib import Path

    from tls_pairs import Files

LINE = re.compile(r"[A-Z0-9_]+ [0-9a-f]{64} [0-9a-f]{64,96}")


async def test_both_legs_write_what_decrypts_them(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    told: list[str] = []
    keylog = KeyLog(path, told.append)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    certificate, key = files.pair(HOST)
    server = ServerTls.of_files(certificate, key, client_ca=None, minimum="TLSv1.2", keylog=keylog)
    client = ClientTls(
        verify="full", ca=files.ca, certificate=None, key=None, minimum="TLSv1.2", keylog=KeyLog(path, print)
    )
    _, stream = await handshake(server, client)
    lines = path.read_text().splitlines()
    assert all(map(LINE.fullmatch, lines))
    random = stream._engine._connection.client_random()
    assert random is not None
    labels = [line.split()[0] for line in lines if line.split()[1] == random.hex()]
    assert labels.count("CLIENT_TRAFFIC_SECRET_0") == labels.count("SERVER_TRAFFIC_SECRET_0") == 2
    assert told == []


async def test_the_older_version_is_written_too(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    path.touch(mode=0o600)
    path.write_text("kept\n")
    certificate, key = files.pair(HOST)
    server = ServerTls.of_files(certificate, key, client_ca=None, minimum="TLSv1.2", keylog=KeyLog(path, print))
    server._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client = ClientTls(verify="full", ca=files.ca, certificate=None, key=None, minimum="TLSv1.2", keylog=None)
    await handshake(server, client)
    first, second = path.read_text().splitlines()
    assert first == "kept"
    assert second.startswith("CLIENT_RANDOM ")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_a_file_that_others_can_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.log"
    path.touch()
    path.chmod(mode)
    with pytest.raises(TlsConfigError, match=f"keys.log: expected a file of ours .* got mode 0{mode:o}"):
        KeyLog(path, print)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "link", tmp_path / "missing" / "keys.log"):
        with pytest.raises(TlsConfigError, match="cannot be written"):
            KeyLog(path, print)
    os.mkfifo(tmp_path / "pipe", 0o600)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(TlsConfigError, match="expected a regular file"):
            KeyLog(tmp_path / "pipe", print)
    finally:
        os.close(reader)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")  # noqa: PTH110
async def test_a_disk_that_is_full_harms_no_session(files: Files, tmp_path: Path) -> None:
    told: list[str] = []
    keylog = KeyLog(tmp_path / "keys.log", told.append)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, keylog._descriptor)
    os.close(full)
    certificate, key = files.pair(HOST)
    server = ServerTls.of_files(certificate, key, client_ca=None, minimum="TLSv1.2", keylog=keylog)
    client = ClientTls(verify="full", ca=files.ca, certificate=None, key=None, minimum="TLSv1.2", keylog=None)
    _, stream = await handshake(server, client)
    assert stream.facts.verified
    assert told == [f"{tmp_path / 'keys.log'}: No space left on device"]
