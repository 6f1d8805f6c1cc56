"""Who the client is, told upstream, where a dialog cannot see it: over real sockets, by one relay to another, and with credentials."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
import trio
from dialog_runner import play
from relay_on_sockets import serving
from talk import Server, Talk, codes

if TYPE_CHECKING:
    from pathlib import Path

    from talk import Move


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
async def test_a_header_tells_both_ends_of_the_clients_connection(tmp_path: Path, address: str) -> None:
    """Upstream is an IPv4 socket whatever the client's is."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        url = f"smtp://127.0.0.1:{listener.socket.getsockname()[1]}"
        more = {"identity": "proxy-v1"}
        async with serving(tmp_path, addresses=(f"{address}:0",), upstream_url=url, upstream_more=more) as relay:
            client = await relay.connect()
            far = await listener.accept()
            header = await far.receive_some()
            near, port = client.stream.socket.getsockname()[:2]
            family = "TCP6" if ":" in near else "TCP4"
            to_port = relay.addresses[0].rpartition(":")[2]
            assert header.decode() == f"PROXY {family} {near} {near} {port} {to_port}\r\n"
            await far.aclose()


@pytest.mark.parametrize("identity", ["proxy-v1", "proxy-v2"])
async def test_what_one_relay_tells_another_one_believes(tmp_path: Path, identity: str) -> None:
    behind = {"proxy_protocol": ["127.0.0.1"], "clients": ["::1"]}
    async with serving(tmp_path / "behind", listener=behind) as second:
        url = f"smtp://{second.addresses[0]}"
        more = {"identity": identity}
        async with serving(tmp_path / "first", addresses=("[::1]:0",), upstream_url=url, upstream_more=more) as first:
            client = await first.connect()
            await client.hello()
            assert (await client.message())[0] == 250
            port = client.stream.socket.getsockname()[1]
            (line,) = await second.log.wait_for("transaction")
            assert (line["client"]["address"], line["client"]["port"]) == ("::1", port)


def test_xclient_comes_in_front_of_our_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """PROTOCOL §1.1 (1): behind it the server has forgotten who had logged in."""
    monkeypatch.setenv("SMTP_PASSWORD", "sesame")
    plain = base64.b64encode(b"\0app\0sesame").decode()
    play(f"""relayproxy dialog 1
@ config upstream.default.url = "smtp://127.0.0.1:25"
@ config upstream.default.identity = "xclient"
@ config upstream.default.credentials = {{ user = "app", password_env = "SMTP_PASSWORD" }}
C open 192.0.2.7:56324
U open
U< 220 upstream.test ESMTP
U> EHLO relay.test
U< 250-upstream.test
U< 250-AUTH LOGIN
U< 250 XCLIENT ADDR
U> XCLIENT ADDR=192.0.2.7
U< 220 upstream.test ESMTP
U> EHLO relay.test
U< 250-upstream.test
U< 250 AUTH PLAIN
U> AUTH PLAIN {plain}
U< 235 2.7.0 welcome
C< 220 *
@ log auth leg=upstream mechanism=PLAIN outcome=accepted
@ quit
""")


def test_rset_behind_a_refused_mail_leaves_where_its_group_is_cut() -> None:
    """PROTOCOL §1.1 (9), §1.3: XFORWARD makes more of a group than may leave at once. What the RCPT behind the cut is answered is no answer to RSET."""
    group = [b"MAIL FROM:<a@b>", b"RSET", b"MAIL FROM:<c@d>", *[b"RCPT TO:<e@f>"] * 96, b"RSET"]
    offer = b"250-up.test\r\n250-PIPELINING\r\n250 XFORWARD ADDR\r\n"
    answers = {5: b"550 5.7.1 no\r\n", **dict.fromkeys(range(6, 101), b"503 5.5.1 no\r\n")}
    upstream = {"default": {"url": "smtp://upstream.test:25", "identity": "xforward"}}
    moves: list[Move] = [b"EHLO client.test\r\n", "wait", b"\r\n".join([*group, b""]), "wait", "eof"]
    talk = Talk(moves, (), Server(answers, offer, identity="xforward"), {"upstream": upstream})
    heard = codes(talk.heard)
    assert heard[2:] == [b"250", b"250", b"550", *[b"503"] * 96, b"250"]
    assert talk.server.commands.count(b"RCPT TO:<e@f>") == 95
    assert talk.server.commands.count(b"RSET") == 2
