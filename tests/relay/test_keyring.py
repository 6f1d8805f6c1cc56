"""Certificates that are read again: what cannot be read in time leaves what was in use, and stops nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio
from dialog_tls import authority_pem, certificate_pem

from relayproxy.relay.keyring import READING_SECONDS, Keyring
from relayproxy.relay.settings import Config

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


async def test_a_file_that_cannot_be_read_in_time_leaves_what_was_in_use(mock_clock: MockClock, tmp_path: Path) -> None:
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "certificate.pem", "key.pem"))
    ca.write_text(authority_pem())
    for file, text in zip((certificate, key), certificate_pem("good", "relay.test"), strict=True):
        file.write_text(text)
    config = Config.model_validate(
        {
            "hostname": "relay.test",
            "state": str(tmp_path),
            "listener": [{"name": "ours", "address": "127.0.0.1:0", "tls": "implicit", "upstream": "theirs"}],
            "upstream": {"theirs": {"url": "smtps://mail.test", "ca": str(ca)}},
            "tls": {"certificate": str(certificate), "key": str(key)},
        }
    )
    keyring = Keyring(config, lambda _: None)
    servers, clients = dict(keyring.servers), dict(keyring.clients)
    told: list[tuple[str, str | None]] = []
    certificate.unlink()
    os.mkfifo(certificate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keyring.reload, lambda what, error: told.append((what, error)))
        with await trio.to_thread.run_sync(certificate.open, "w"):  # it is being read
            mock_clock.jump(READING_SECONDS)
            while not told:
                await trio.lowlevel.checkpoint()
    assert told == [
        ("certificates of listener ours", "expected files that can be read within 60 s, and gave up"),
        ("certificates of upstream theirs", None),
    ]
    assert keyring.servers == servers
    assert keyring.clients != clients
