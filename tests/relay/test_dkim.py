"""Signatures survive: signed samples of many shapes still verify after the relay (PROTOCOL §1.5, no-rule fidelity; RFC 6376)."""

from __future__ import annotations

import base64
from functools import cache

import dkim  # type: ignore[import-untyped]
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dialog_relay import CONFIG, start
from dialog_wire import Leg
from trio.testing import MockClock, wait_all_tasks_blocked

from relayproxy.smtp.data import stuff

HEADER = b"From: a@example.test\r\nTo: b@example.test\r\nSubject: signed\r\nDate: Sat, 28 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@example.test>\r\n"
SHAPES = {
    "plain": HEADER + b"\r\nhello\r\n",
    "folded": HEADER.replace(b"Subject: signed", b"Subject: signed\r\n\tand  folded \r\n  twice") + b"\r\nhello\r\n",
    "odd spacing": HEADER.replace(b"Subject: signed", b"SUBJECT:signed \t") + b"X-Odd:no-space\r\nX-Empty:\r\n\r\nhello  \t \r\n \t\r\n",
    "8-bit": HEADER + "X-Text: äöü\r\n\r\nÄpfel und Öl\r\n".encode(),
    "latin-1": HEADER + "\r\nÄpfel und Öl\r\n".encode("latin-1"),
    "long lines": HEADER + b"\r\n" + b"x" * 998 + b"\r\n" + b"y" * 20000 + b"\r\n",
    "no body": HEADER + b"\r\n",
    "a blank body": HEADER + b"\r\n\r\n",
    "blank lines at the end": HEADER + b"\r\nhello\r\n\r\n\r\n\r\n",
    "dots": HEADER + b"\r\n.\r\n..\r\n...\r\n.hidden\r\na.\r\n.\r\n",
    "controls": HEADER + b"\r\na\x0bb\x0cc\x1cd\x85e\xe2\x80\xa8f\r\n",
    "large": HEADER + b"\r\n" + b"".join(b"%06d. a line of it\r\n" % i for i in range(20000)),
}  # fmt: skip


@cache
def keys() -> tuple[bytes, bytes]:
    """A private key, and the record that stands for it in the DNS."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def verifies(message: bytes) -> bool:
    return bool(dkim.verify(message, dnsfunc=lambda _name, **_: keys()[1]))


def relayed(message: bytes, *, chunked: bool) -> bytes:
    """What upstream has of a message that a client sent through the relay."""
    got = bytearray()

    async def hold() -> None:
        upstream = Leg(got.extend)

        async def dial(_url: str, _seconds: float) -> Leg:
            await trio.lowlevel.checkpoint()
            upstream.far_send(b"220 up.test\r\n")
            return upstream

        async def say(leg: Leg, octets: bytes) -> None:
            leg.far_send(octets)
            await wait_all_tasks_blocked()

        driven = start(CONFIG, dial)
        client = Leg(lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.session, client, "127.0.0.1", 50000, None)
            await wait_all_tasks_blocked()
            await say(upstream, b"250-up.test\r\n250 8BITMIME\r\n")
            for command in (
                b"EHLO x\r\n",
                b"MAIL FROM:<a@example.test> BODY=8BITMIME\r\n",
                b"RCPT TO:<b@example.test>\r\n",
            ):
                await say(client, command)
                if not command.startswith(b"EHLO"):
                    await say(upstream, b"250 ok\r\n")
            if chunked:
                half = len(message) // 2
                client.far_send(
                    b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (half, message[:half], len(message) - half, message[half:])
                )
            else:
                client.far_send(b"DATA\r\n")
            await wait_all_tasks_blocked()
            got.clear()
            await say(upstream, b"354 go\r\n")
            if not chunked:
                await say(client, stuff(message) + b".\r\n")
            await say(upstream, b"250 ok\r\n")
            client.far_close()
            upstream.far_close()
        driven.close()

    trio.run(hold, clock=MockClock(autojump_threshold=0))
    data = bytes(got)
    data = data[: data.index(b"\r\n.\r\n") + 2]
    return data.replace(b"\r\n.", b"\r\n")


@pytest.mark.parametrize("canonical", [b"simple", b"relaxed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_signatures_verify_behind_us(shape: str, canonical: bytes) -> None:
    message = SHAPES[shape]
    signature = dkim.sign(message, b"s", b"example.test", keys()[0], canonicalize=(canonical, canonical))
    signed = signature + message
    assert verifies(signed)
    for chunked in (False, True):
        received = relayed(signed, chunked=chunked)
        assert received.startswith(b"Received: ")
        assert received.endswith(signed)
        assert verifies(received)
    assert not verifies(signed.replace(b"signed", b"sighed"))
