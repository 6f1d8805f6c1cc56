"""Bodies as the tests of MIME share them: odd ones by hand, hostile ones, and any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from relayproxy.mail.header import HeaderSection

if TYPE_CHECKING:
    from collections.abc import Iterator

MULTIPART = b"Content-Type: multipart/mixed; boundary=b\r\n"

#: 1 MiB each, in a multipart with the boundary "b".
HOSTILE = {
    "lines like a boundary": b"\r\n--bx" * 180_000,
    "dashes": b"\r\n--" * 260_000,
    "parts": b"\r\n--b\r\n\r\nhi" * 100_000,
    "parts without an end": b"\r\n--b\r\nContent-Type: a/b; name=x\r\n" * 28_000,
    "multiparts in multiparts": b"--b\r\n" + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 21_000,
    "multiparts in multiparts of their own": b"--b\r\n"
    + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(18_000)),
    "messages in messages": b"--b\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 32_000,
    "a section without an end": b"--b\r\n" + b"a:b\r\n" * 200_000,
    "a delimiter without an end": b"--b\r\n\r\nx\r\n--b" + b" " * 1_000_000,
    "names": (b"--b\r\nContent-Type: a/b; " + b"name=x;" * 140 + b"\r\n\r\n\r\n") * 1000,
    "uuencoded files": b"".join(b"\r\nbegin 644 %d" % n for n in range(60_000)),
    "lines that begin": b"\r\nbegin 644 " * 80_000,
    "escaped parentheses": (b"--b\r\nContent-Type: a/b; name=" + b"(\\" * 32_000 + b"\r\n\r\n\r\n") * 16,
    "escaped quotes": (b"--b\r\nContent-Type: a/b; name=(" + b'\\"' * 32_000 + b"\r\n\r\n\r\n") * 16,
    "words without an end": (b"--b\r\nContent-Type: a/b; name=" + b"=?a?q? " * 9_000 + b"\r\n\r\n\r\n") * 16,
    "sections of names": (b"--b\r\nContent-Type: a/b; " + b'name*0*="();' * 90 + b"\r\n\r\n\r\n") * 950,
}

_PIECES = [
    b"--b", b"--c", b"--b--", b"--c--", b"--", b"-", b"\r", b"\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\r\n\r\n", b"\r\n--b\r\n", b"\r\n--c\r\n",
    b"Content-Type: ", b"Content-Type: multipart/mixed; boundary=c\r\n\r\n", b"Content-Type: multipart/digest; boundary=c\r\n\r\n",
    b"Content-Type: message/rfc822\r\n\r\n", b"Content-Type: message/rfc822; name=a.exe\r\n\r\n", b"Content-Disposition: attachment; filename=a.exe\r\n", b"name=a.exe",
    b"Content-Type: text/plain\r\n\r\n", b"begin 644 ", b"\r\nbegin 644 c.exe\r\n", b" ", b"a", b"\xff", b";", b'"',
]  # fmt: skip
ANY_BODY = st.lists(st.sampled_from(_PIECES), max_size=30).map(b"".join)
ANY_HEADER = st.sampled_from([
    MULTIPART, MULTIPART, b"", b"Content-Type: message/rfc822\r\n", b"Content-Disposition: attachment; filename=a.exe\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\nContent-Type: multipart/mixed; boundary=c\r\n",
]).map(HeaderSection)  # fmt: skip
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=20)


def cut(octets: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Into pieces of these sizes, again and again."""
    at, turn = 0, 0
    while at < len(octets):
        yield octets[at : at + sizes[turn % len(sizes)]]
        at += sizes[turn % len(sizes)]
        turn += 1
