"""Every client to every upstream: the message arrives once, byte for byte, under one Received field of ours; what
upstream refuses, the client hears as it was said.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from real_cast import took_part
from real_clients import CLIENTS, Client, Mail, with_smtplib
from real_process import program
from real_upstreams import KNOWN, UNKNOWN, Arrived, Refuses, Upstream, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from conftest import Route, StartUpstream

    Routes = Callable[[int], AbstractContextManager[Route]]

pytestmark = [pytest.mark.interop, pytest.mark.slow]

SENDER = "app@client.test"
FIELDS = (
    b"From: App <app@client.test>\r\n"
    b"To: Jane <jane@sink.test>,\r\n\tJoe <joe@sink.test>\r\n"
    b"Subject: %b\r\n"
    b"Date: Fri, 02 Jan 2026 03:04:05 +0000\r\n"
    b"Message-ID: <1@client.test>\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; b=not\r\n a\r\n  signature \r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"\r\n"
)
# What relays are known to spoil: dots, spaces at the end, tabs, mbox's From, eight bits, long and empty lines.
BODY = (
    b"hello\r\n"
    b".\r\n"
    b"..\r\n"
    b".one dot\r\n"
    b"...three dots\r\n"
    b"spaces at the end   \r\n"
    b"\t\r\n"
    b"From here on\r\n"
    b">From there\r\n"
    b"gr\xc3\xbc\xc3\x9fe\r\n"
    b"latin-1: gr\xfc\xdfe\r\n"
    b"\x0b\x0c\x1b[0m\x7f\r\n" + b"x" * 998 + b"\r\n"
    b"QUIT\r\n"
    b".\r\n"
    b"\r\n"
    b"\r\n"
)
MESSAGE = FIELDS % b"hi" + BODY
RECEIVED = re.compile(
    rb"Received: from client\.test \(\[127\.0\.0\.1\]\)\s+by relay\.test\s+with (?P<protocol>\S+)"
    rb"\s+id (?P<id>\S+)@\S+\s+(?:for <jane@sink\.test>)?;\s+[A-Z][a-z][a-z], .* [+-]\d{4}\r\n"
)


def check_content(content: bytes, message: bytes, route: Route, *protocols: str) -> None:
    """One field of ours on top (folded or not), which tells how it came (RFC 3848), then the message."""
    if route.relay:
        field = re.match(rb"Received: [^\n]*\n(?:[ \t][^\n]*\n)*", content)
        assert field, content[:300]
        unfolded = re.sub(rb"\r\n(?=[ \t])", b"", field[0])
        told = RECEIVED.fullmatch(unfolded)
        assert told, field[0]
        assert told["protocol"].decode() in (protocols or ("ESMTP", "SMTP")), field[0]
        assert all(len(line) <= 78 for line in field[0].split(b"\r\n")), field[0]
        content = content[field.end() :]
    assert content == message


def check_accepted(lines: list[dict[str, Any]], recipients: tuple[str, ...], port: int, size: int) -> None:
    """One transaction line, which says what happened."""
    assert len(lines) == 1, lines
    line = lines[0]
    assert line["outcome"] == "accepted"
    assert line["acknowledged"] is True
    assert (line["reply"]["code"], line["reply"]["origin"]) == (250, "upstream")
    assert line["envelope"]["received"]["sender"] == SENDER
    assert [r["address"] for r in line["envelope"]["sent"]["recipients"]] == list(recipients)
    assert line["upstream"]["port"] == port
    assert line["message"]["size"]["received"] == size
    assert line["message"]["size"]["sent"] > size


def test_a_message_arrives_once_and_unaltered(
    client: Client, upstream: Upstream, route: Routes, tmp_path: Path
) -> None:
    with route(upstream.port) as way:
        said = client(way.port, Mail(SENDER, KNOWN[0], MESSAGE), tmp_path)
        assert said.code == 250
        wait_for(upstream, 1)
        lines = way.transactions()
        arrived = wait_for(upstream, 1)
    assert [(m.sender, m.recipients) for m in arrived] == [(SENDER, (KNOWN[0],))]
    check_content(arrived[0].content, MESSAGE, way)
    if way.relay:
        check_accepted(lines, (KNOWN[0],), upstream.port, len(MESSAGE))


@pytest.mark.parametrize("name", ["postfix", "exim", "opensmtpd", "haraka", "aiosmtpd", "smtp-sink"])
@pytest.mark.parametrize("refuses", ["recipient", "message"])
def test_a_refusal_comes_through(
    client: Client, name: str, refuses: Refuses, start_upstream: StartUpstream, route: Routes, tmp_path: Path
) -> None:
    upstream = start_upstream(name, refuses)
    recipient, subject, expected = (
        (UNKNOWN, b"hi", upstream.unknown) if refuses == "recipient" else (KNOWN[0], b"unwanted", upstream.unwanted)
    )
    with route(upstream.port) as way:
        said = client(way.port, Mail(SENDER, recipient, FIELDS % subject + BODY), tmp_path)
        lines: list[dict[str, Any]] = way.transactions()
    assert f"{said.code} {said.text}".startswith(expected)
    if name != "smtp-sink":  # which writes all that it gets
        assert not upstream.arrived()
    if way.relay:
        assert [line["outcome"] for line in lines] == ["rejected"]
        reply = lines[0]["recipients"][0]["reply"] if refuses == "recipient" else lines[0]["reply"]
        assert reply["code"] == said.code
        enhanced = expected.split()[1]  # if there is one
        assert reply["enhanced"] == (enhanced if enhanced[0] == "5" else None)
        assert reply["origin"] == "upstream"
        assert lines[0]["acknowledged"] is True


@pytest.mark.parametrize("name", ["postfix", "exim", "opensmtpd", "haraka", "aiosmtpd"])
def test_one_of_two_recipients_is_refused(name: str, start_upstream: StartUpstream, route: Routes) -> None:
    import smtplib

    took_part("smtplib", "client")
    upstream = start_upstream(name)
    with route(upstream.port) as way:
        with smtplib.SMTP("127.0.0.1", way.port, local_hostname="client.test", timeout=60) as smtp:
            refused = smtp.sendmail(SENDER, [UNKNOWN, KNOWN[1]], MESSAGE, mail_options=["BODY=8BITMIME"])
        lines: list[dict[str, Any]] = way.transactions()
        arrived = wait_for(upstream, 1)
    assert {address: code for address, (code, _) in refused.items()} == {UNKNOWN: 550}
    assert [m.recipients for m in arrived] == [(KNOWN[1],)]
    assert arrived[0].content.endswith(MESSAGE)
    if way.relay:
        assert lines[0]["outcome"] == "accepted"
        assert [r["reply"]["code"] for r in lines[0]["recipients"]] == [550, 250]


@pytest.mark.parametrize(
    ("client_name", "name"),
    [
        ("smtplib", "aiosmtpd"),
        ("curl", "postfix"),
        ("curl", "smtp-sink"),
        ("swaks", "smtp-sink"),
        ("smtp-source", "smtp-sink"),
    ],
)
def test_thirty_mebibytes(
    client_name: str, name: str, start_upstream: StartUpstream, route: Routes, tmp_path: Path
) -> None:
    line = b".a line of a large body, as a text editor would wrap it for a reader to see: 0\r\n"
    message = FIELDS % b"large" + line * ((30 << 20) // len(line)) + b"the end\r\n\r\n"
    upstream = start_upstream(name)
    with route(upstream.port) as way:
        said = CLIENTS[client_name](way.port, Mail(SENDER, KNOWN[0], message), tmp_path)
        assert said.code == 250
        lines: list[dict[str, Any]] = way.transactions()
        arrived = wait_for(upstream, 1)
    assert len(arrived) == 1
    check_content(arrived[0].content, message, way)
    if way.relay:
        check_accepted(lines, (KNOWN[0],), upstream.port, len(message))


def test_many_sessions_at_once(start_upstream: StartUpstream, route: Routes) -> None:
    upstream = start_upstream("smtp-sink")
    took_part("smtp-source", "client")
    argv = [program("smtp-source"), "-4", "-d", "-s", "20", "-m", "200", "-l", "5000", "-M", "client.test"]
    argv += ["-f", SENDER, "-t", KNOWN[0]]
    with route(upstream.port) as way:
        subprocess.run([*argv, f"127.0.0.1:{way.port}"], check=True, timeout=60)
        lines: list[dict[str, Any]] = way.transactions()
        arrived = wait_for(upstream, 200)
    identities = {re.findall(rb"Message-Id: *(\S+)", m.content, re.IGNORECASE)[0] for m in arrived}
    assert (len(arrived), len(identities)) == (200, 200)
    if way.relay:
        assert [line["outcome"] for line in lines] == ["accepted"] * 200
        assert len({line["transaction"] for line in lines}) == 200
        assert len({line["session"] for line in lines}) == 20


@pytest.mark.parametrize("name", ["postfix", "haraka", "aiosmtpd"])
def test_an_address_beyond_ascii_passes(name: str, start_upstream: StartUpstream, route: Routes) -> None:
    import smtplib

    took_part("smtplib", "client")
    upstream = start_upstream(name)
    with route(upstream.port) as way:
        with smtplib.SMTP("127.0.0.1", way.port, local_hostname="client.test", timeout=60) as smtp:
            smtp.ehlo()
            if not smtp.has_extn("smtputf8"):
                pytest.skip(f"this {name} was built without SMTPUTF8")
            options = ["SMTPUTF8", "BODY=8BITMIME"]
            smtp.sendmail("jürgen@client.test", [KNOWN[0]], MESSAGE, mail_options=options)
        lines: list[dict[str, Any]] = way.transactions()
        arrived: list[Arrived] = wait_for(upstream, 1)
    assert [m.sender for m in arrived] == ["jürgen@client.test"]
    if way.relay:
        assert lines[0]["envelope"]["sent"]["sender"] == "jürgen@client.test"
        assert lines[0]["envelope"]["sent"]["parameters"].keys() >= {"SMTPUTF8", "BODY"}


def test_the_control_sees_damage(start_upstream: StartUpstream, tmp_path: Path) -> None:
    """The comparison itself: without relayproxy in between, there is no field of ours, and a changed octet shows."""
    upstream = start_upstream("aiosmtpd")
    with_smtplib(upstream.port, Mail(SENDER, KNOWN[0], MESSAGE.replace(b"gr\xfc", b"gru")), tmp_path)
    assert wait_for(upstream, 1)[0].content != MESSAGE
