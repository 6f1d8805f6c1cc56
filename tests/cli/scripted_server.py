"""An SMTP server in a thread that answers as it is told, for clients that run in the foreground."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import BufferedReader

#: It says nothing, and waits for what the client does.
SILENCE = "silence"

#: What it answers, by the beginning of a line; the longest that fits counts. "" hangs up.
REPLIES: Mapping[str, str] = {
    "GREETING": "220 server.test",
    "EHLO": "250-server.test\r\n250-SIZE 100000\r\n250-8BITMIME\r\n250 SMTPUTF8",
    "HELO": "250 server.test",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    ".": "250 2.0.0 queued as 42",
    "RSET": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}


@dataclass
class Server:
    """Where it listens, and what it heard: command lines, and the mail data as on the wire, the last message's and all of them."""

    url: str
    lines: list[bytes] = field(default_factory=list)
    data: bytes = b""
    messages: list[bytes] = field(default_factory=list)
    #: Set once it is silent.
    silent: threading.Event = field(default_factory=threading.Event)


@contextmanager
def scripted(replies: Mapping[str, str] = {}, *, sessions: int = 1) -> Iterator[Server]:
    """For so many sessions, one behind the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    server = Server(f"smtp://127.0.0.1:{listener.getsockname()[1]}")
    thread = threading.Thread(target=_serve_all, args=(listener, server, {**REPLIES, **replies}, sessions))
    thread.start()
    try:
        yield server
    finally:
        thread.join()
        listener.close()


def _serve_all(listener: socket.socket, server: Server, replies: Mapping[str, str], sessions: int) -> None:
    for _ in range(sessions):
        _serve(listener, server, replies)


def _read_message(lines: BufferedReader, server: Server) -> bool:
    """Whether it came to its end."""
    data = []
    while (line := lines.readline()) not in (b".\r\n", b""):
        data.append(line)
    server.data = b"".join(data)
    return bool(line)


def _serve(listener: socket.socket, server: Server, replies: Mapping[str, str]) -> None:
    try:
        client, _ = listener.accept()
    except TimeoutError:
        return
    client.settimeout(30)

    def answer(line: str) -> str:
        reply = replies[max((key for key in replies if line.startswith(key)), key=len)]
        if reply == SILENCE:
            server.silent.set()
        elif reply:
            client.sendall(reply.encode() + b"\r\n")
        return reply

    with client, client.makefile("rb") as lines:
        reply = answer("GREETING")
        while reply and (line := lines.readline()):
            server.lines.append(line)
            reply = answer(line.decode())
            if reply.startswith("354"):
                if not _read_message(lines, server):
                    return
                server.messages.append(server.data)
                reply = answer(".")
            if line.startswith(b"QUIT"):
                return
