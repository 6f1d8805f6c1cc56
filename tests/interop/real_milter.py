r"""A milter for the tests: it makes the edits that it is told to make at the end of every message, and nothing else.

The wire protocol (libmilter/mfapi.h, mfdef.h) as far as that takes: packets of a length in four octets, a letter and what belongs to it; we ask to hear of
nothing but the end of a message, answer it with the edits, and with `c`, go on.

    with milter(port, [add_header("X-A", "1"), change_sender("a@b.test")]):
        ...                                             # an MTA with smtpd_milters = inet:127.0.0.1:PORT
"""

from __future__ import annotations

import socketserver
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: SMFIF_...: fields added, body replaced, recipients added and deleted, fields changed, sender changed.
_ACTIONS: Final = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x40
#: SMFIP_NO...: we need not hear of connect, helo, mail, rcpt, body, fields, the end of the header section, unknown commands, DATA.
_NOTHING: Final = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200


def _packet(letter: bytes, content: bytes = b"") -> bytes:
    return struct.pack("!I", len(content) + 1) + letter + content


def _strings(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


# What smfi_... of libmilter sends.


def add_header(name: str, value: str) -> bytes:
    return _packet(b"h", _strings(name, value))


def insert_header(index: int, name: str, value: str) -> bytes:
    return _packet(b"i", struct.pack("!I", index) + _strings(name, value))


def change_header(name: str, n: int, value: str) -> bytes:
    """An empty value deletes it."""
    return _packet(b"m", struct.pack("!I", n) + _strings(name, value))


def change_sender(address: str) -> bytes:
    return _packet(b"e", _strings(f"<{address}>"))


def add_recipient(address: str) -> bytes:
    return _packet(b"+", _strings(f"<{address}>"))


def delete_recipient(address: str) -> bytes:
    return _packet(b"-", _strings(f"<{address}>"))


def replace_body(text: bytes) -> bytes:
    return _packet(b"b", text)


class _Filter(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Milter)
        while len(head := self.rfile.read(5)) == 5:
            length, letter = struct.unpack("!Ic", head)
            content = self.rfile.read(length - 1)
            match letter:
                case b"O":  # negotiation
                    version, actions, _ = struct.unpack("!III", content[:12])
                    assert actions & _ACTIONS == _ACTIONS, hex(actions)
                    self.wfile.write(_packet(b"O", struct.pack("!III", min(version, 6), _ACTIONS, _NOTHING)))
                case b"E":  # the end of the message
                    self.wfile.write(b"".join(self.server.edits) + _packet(b"c"))
                    self.server.asked += 1
                case b"Q":
                    return
                case b"A" | b"D" | b"K":  # abort, macros, the end of a session: nobody waits for an answer
                    pass
                case _:
                    self.wfile.write(_packet(b"c"))


class _Milter(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, edits: Sequence[bytes]) -> None:
        super().__init__(("127.0.0.1", port), _Filter)
        self.edits = edits
        #: For how many messages.
        self.asked = 0


@contextmanager
def milter(port: int, edits: Sequence[bytes]) -> Iterator[_Milter]:
    """For as long as that lasts."""
    with _Milter(port, edits) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
