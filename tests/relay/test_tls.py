"""TLS of a relay on real sockets: certificates that are renewed, that both sides show, and what is loud."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from dialog_tls import authority_pem, certificate_pem
from relay_on_sockets import Client, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dialog_tls import Certificate
    from relay_on_sockets import Running


class Files:
    """Certificates in files, all signed by one authority; there are two of those, by the kind."""

    def __init__(self, folder: Path, kind: Certificate = "good") -> None:
        folder.mkdir()
        self._kind: Certificate = kind
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "certificate.pem", folder / "key.pem"
        self.ca.write_text(authority_pem(kind))

    def sign(self, name: str) -> Files:
        certificate, key = certificate_pem(self._kind, name)
        self.certificate.write_text(certificate)
        self.key.write_text(key)
        return self

    def config(self) -> dict[str, str]:
        return {"certificate": str(self.certificate), "key": str(self.key)}

    def trusting(self, own: Files | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context


async def under_tls(client: Client, context: ssl.SSLContext, name: str) -> Client:
    stream = trio.SSLStream(client.stream, context, server_hostname=name)
    await stream.do_handshake()
    return Client(cast("trio.SocketStream", stream))


async def connect(relay: Running, context: ssl.SSLContext, name: str) -> Client:
    return await under_tls(await relay.connect(), context, name)


async def test_certificates_are_read_again_for_sessions_that_come(tmp_path: Path) -> None:
    files = Files(tmp_path / "server").sign("old.test")
    async with serving(tmp_path, listener={"tls": "implicit"}, tls=files.config()) as relay:
        before = await connect(relay, files.trusting(), "old.test")
        await before.hello()
        files.sign("new.test")
        await relay.relay.reload()
        after = await connect(relay, files.trusting(), "new.test")
        await after.hello()
        with pytest.raises(trio.BrokenResourceError):
            await connect(relay, files.trusting(), "old.test")
        assert (await before.message())[0] == 250, "a session in progress keeps its own"
        files.certificate.write_text("torn")
        await relay.relay.reload()
        assert (await after.say("NOOP"))[0] == 250
        await (await connect(relay, files.trusting(), "new.test")).hello()
        first, second = await relay.log.wait_for("reload", 2)
        assert (first["what"], first["error"]) == ("certificates of listener at-0", None)
        assert (second["level"], second["what"]) == ("error", "certificates of listener at-0")
        assert second["error"] == f"{files.certificate}: expected certificates in PEM, got something else"


async def test_a_certificate_that_is_damaged_where_its_key_is_leaves_the_old_in_use(tmp_path: Path) -> None:
    files = Files(tmp_path / "server").sign("relay.test")
    async with serving(tmp_path, listener={"tls": "implicit"}, tls=files.config()) as relay:
        octets = ssl.PEM_cert_to_DER_cert(files.certificate.read_text())
        damaged = octets.replace(b"\x03\x42\x00\x04", b"\x03\x42\x00\x05", 1)
        files.certificate.write_text(ssl.DER_cert_to_PEM_cert(damaged))
        await relay.relay.reload()
        (line,) = await relay.log.wait_for("reload")
        assert line["error"].startswith(f"{files.certificate}: expected a certificate with a key that is supported")
        await (await connect(relay, files.trusting(), "relay.test")).hello()


async def test_clients_show_a_certificate(tmp_path: Path) -> None:
    """`client_ca`: whoever has none gets no further than STARTTLS (RFC 3207 §4)."""
    server, clients = (
        Files(tmp_path / "server").sign("relay.test"),
        Files(tmp_path / "clients", "unknown-issuer").sign("app-1"),
    )
    tls = {**server.config(), "client_ca": str(clients.ca)}
    async with serving(tmp_path, listener={"tls": "starttls"}, tls=tls) as relay:
        client = await relay.connect()
        await client.hello()
        for line in ("MAIL FROM:<a@client.test>", "VRFY <b@upstream.test>"):
            assert (await client.say(line)) == (530, "5.7.0 Must issue a STARTTLS command first")
        assert (await client.say("NOOP"))[0] == 250
        assert (await client.say("STARTTLS"))[0] == 220
        client = await under_tls(client, server.trusting(clients), "relay.test")
        assert (await client.say("EHLO client.test"))[0] == 250
        assert (await client.message())[0] == 250
        (record,) = await relay.log.wait_for("transaction", outcome="accepted")
        told = record["client"]["tls"]
        assert (told["verified"], told["why"], told["certificate"]["names"]) == (True, None, ["app-1"])
        assert (told["certificate"]["subject"], len(told["certificate"]["digest"])) == ("CN=app-1", 64)
        stranger = await relay.connect()
        await stranger.hello()
        assert (await stranger.say("STARTTLS"))[0] == 220
        # In TLS 1.3 the client has finished before we have looked.
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            stranger = await under_tls(stranger, server.trusting(), "relay.test")
            await stranger.say("EHLO client.test")
        assert (await relay.log.wait_for("tls", state="failed"))[0]["leg"] == "client"


@asynccontextmanager
async def tls_upstream(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Greets, and takes EHLO and QUIT."""

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.send_all(b"220 upstream.test\r\n")
        while (line := await stream.receive_some()) and not line.startswith(b"QUIT"):
            await stream.send_all(b"250 upstream.test\r\n")
        await stream.send_all(b"221 bye\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        port = cast("Any", listener).transport_listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield port
        nursery.cancel_scope.cancel()


async def test_we_show_upstream_a_certificate(tmp_path: Path) -> None:
    theirs, ours = (
        Files(tmp_path / "theirs").sign("127.0.0.1"),
        Files(tmp_path / "ours", "unknown-issuer").sign("relay.test"),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)
    context.load_verify_locations(ours.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    async with tls_upstream(context) as port:
        url = f"smtps://127.0.0.1:{port}"
        more = {"ca": str(theirs.ca), **ours.config()}
        async with serving(tmp_path, listener={"tls": "off"}, upstream_url=url, upstream_more=more) as relay:
            client = await relay.connect()
            await client.hello()
            (line,) = await relay.log.wait_for("tls", leg="upstream")
            assert (line["state"], line["upstream"]["verified"]) == ("started", True)


async def test_a_client_in_its_handshake_counts(tmp_path: Path) -> None:
    """Attacks 17, 18: whoever says nothing uses up its place, and who finds none hears nothing: a handshake costs more."""
    async with serving(tmp_path, listener={"tls": "implicit"}, limits={"sessions": 1}) as relay:
        await relay.connect()
        await relay.log.wait_for("session", state="opened")
        late = await relay.connect()
        assert await late.gone()
        (line,) = await relay.log.wait_for("limit")
        assert line["limit"] == "sessions"


async def test_what_weakens_tls_is_loud(tmp_path: Path) -> None:
    keys = tmp_path / "keys.log"
    async with serving(
        tmp_path, upstream_url="smtps://127.0.0.1:1", upstream_more={"verify": "none"}, tls={"keylog": str(keys)}
    ) as relay:
        first, second = await relay.log.wait_for("error", 2, where="tls")
        assert {first["level"], second["level"]} == {"warning"}, "nothing has gone wrong"
        assert first["what"].startswith('upstream default: verify = "none": ')
        assert second["what"].startswith("tls: keylog: ")
        assert str(keys) in second["what"]
        assert keys.stat().st_mode & 0o777 == 0o600


async def test_the_authority_is_made_by_a_listener_that_mints(tmp_path: Path) -> None:
    for name, listener, tls in (
        ("off", {"tls": "off"}, {}),
        ("given", {"tls": "starttls"}, Files(tmp_path / "server").sign("relay.test").config()),
    ):
        async with serving(tmp_path / name, listener=listener, tls=tls):
            assert not (tmp_path / name / "ca").exists()
    async with serving(tmp_path / "minted", listener={"tls": "implicit"}) as relay:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tmp_path / "minted/ca/certificate.pem")
        # The name that is asked for; and without one the relay's, and the address that it was connected to.
        for name in ("smtp.example.com", "127.0.0.1"):
            await (await connect(relay, context, name)).hello()
