"""Octets as they are kept: compressed where that is smaller, in a row or in a file beside, and given back whole or not at all.

Invariants: what `pieces` gives was compared with its size and digest at the end: what is cut off or altered is a ValueError, never half of it in silence. `unpack`,
for what has neither, notices only what cannot be unpacked. Where files are and who removes them does not belong here (bodies.py).
"""

from __future__ import annotations

import sys
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor, ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdCompressor, ZstdDecompressor, ZstdError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PIECE", "RAW", "ZSTD", "Packer", "ZstdCompressor", "digest_of", "pieces", "unpack"]

LEVEL: Final = 3
#: Octets that are read, or given, at once.
PIECE: Final = 1 << 16

#: What `form` says.
RAW: Final = 0
ZSTD: Final = 1


class Packer:
    """Compresses one after another, in one thread: a compressor of its own for each would cost as much again."""

    def __init__(self) -> None:
        self._compressor = ZstdCompressor(LEVEL)

    def compress(self, octets: bytes) -> bytes:
        """One whole frame."""
        return self._compressor.compress(octets, ZstdCompressor.FLUSH_FRAME)

    def pack(self, octets: bytes) -> tuple[int, bytes]:
        """Their form, and themselves in it."""
        packed = self.compress(octets)
        return (ZSTD, packed) if len(packed) < len(octets) else (RAW, octets)


def unpack(form: int, octets: bytes) -> bytes:
    """What was packed. Raises ValueError."""
    return b"".join(_expanded(form, iter((octets,))))


def pieces(form: int, source: bytes | Path | Iterator[bytes], *, size: int, digest: bytes) -> Iterator[bytes]:
    """What was packed, in pieces, of octets, of a file, or of octets that come in pieces themselves. Raises ValueError at the end, or before, where it is not what was put in; OSError."""
    if isinstance(source, bytes):
        source = iter((source,))
    if not isinstance(source, Path):
        yield from _checked(form, source, size, digest)
        return
    with source.open("rb") as file:
        yield from _checked(form, iter(partial(file.read, PIECE), b""), size, digest)


def digest_of(form: int, path: Path) -> bytes:
    """SHA-256 of what is packed in a file. Raises ValueError, OSError."""
    hashed = sha256()
    with path.open("rb") as file:
        for piece in _expanded(form, iter(partial(file.read, PIECE), b"")):
            hashed.update(piece)
    return hashed.digest()


def _checked(form: int, blocks: Iterator[bytes], size: int, digest: bytes) -> Iterator[bytes]:
    seen, hashed = 0, sha256()
    for piece in _expanded(form, blocks):
        hashed.update(piece)
        seen += len(piece)
        if seen > size:
            break
        yield piece
    if seen != size or hashed.digest() != digest:
        raise ValueError("it is not what was stored")


def _expanded(form: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if form == RAW:
        yield from blocks
        return
    if form != ZSTD:
        raise ValueError(f"form {form} is unknown")
    decompressor = ZstdDecompressor()
    try:
        for block in blocks:
            piece = decompressor.decompress(block, PIECE)
            yield piece
            while not decompressor.needs_input and not decompressor.eof:
                yield decompressor.decompress(b"", PIECE)
    except (ZstdError, EOFError) as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error
    if not decompressor.eof:
        raise ValueError("its end is missing")
